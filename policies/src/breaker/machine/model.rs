//! The breaker said again in a plainer way, to check that any history of calls
//! leads both to the same place.

use proptest::prelude::*;

use super::{
    Pass,
    tests::{SECOND, machine},
};
use crate::{breaker::BreakerState, classify::Outcome};

/// Keeps every call, and learns the random rests from the real one.
#[derive(Debug, Default)]
struct Model {
    closed: Vec<(u64, bool)>,
    row: u32,
    open_until: Option<u64>,
    half_open: bool,
    /// Probes in flight, with the ends of their leases.
    probes: Vec<(Pass, u64)>,
    good_probes: u32,
}

impl Model {
    fn state(&self) -> BreakerState {
        match (self.open_until, self.half_open) {
            (Some(_), _) => BreakerState::Open,
            (None, true) => BreakerState::HalfOpen,
            (None, false) => BreakerState::Closed,
        }
    }

    /// Whether a call gets in; `max_probes` is 2.
    fn admits(&mut self, now: u64) -> bool {
        if self.open_until.is_some_and(|until| now >= until) {
            *self = Self {
                half_open: true,
                ..Self::default()
            };
        }
        self.probes.retain(|(_, lease)| *lease > now);
        self.open_until.is_none() && (!self.half_open || self.probes.len() < 2)
    }

    /// Takes note of an outcome; tells whether the breaker must open.
    fn records(&mut self, pass: Pass, outcome: Outcome, now: u64) -> bool {
        if self.half_open {
            let Some(index) = self.probes.iter().position(|(probe, _)| *probe == pass) else {
                return false;
            };
            self.probes.remove(index);
            self.good_probes += u32::from(outcome == Outcome::Success);
            if self.good_probes == 3 {
                *self = Self::default();
            }
            return outcome == Outcome::Failure;
        }
        if self.open_until.is_some() || outcome == Outcome::Ignore {
            return false;
        }
        let failed = outcome == Outcome::Failure;
        self.row = if failed { self.row + 1 } else { 0 };
        let slice = 3 * SECOND;
        self.closed.push((now / slice, failed));
        self.closed.retain(|(number, _)| number + 10 > now / slice);
        let failures = self.closed.iter().filter(|(_, failed)| *failed).count();
        let all = self.closed.len();
        failed && (self.row >= 5 || (all >= 10 && failures * 10 >= all * 6))
    }
}

fn step() -> impl Strategy<Value = (u8, usize, u64)> {
    (
        0u8..6,
        any::<usize>(),
        prop_oneof![Just(0), 0..SECOND, 0..15 * SECOND],
    )
}

proptest! {
    /// Any history of calls that start, end in any order, or never end.
    #[test]
    fn does_what_the_model_does(steps in prop::collection::vec(step(), 1..300)) {
        let mut machine = machine(|config| config.max_probes = 2.try_into().unwrap());
        let mut model = Model::default();
        let mut flying = Vec::<Pass>::new();
        let mut now = 0;
        for (step, which, wait) in steps {
            now += wait;
            if step < 2 || flying.is_empty() {
                let expected = model.admits(now);
                let pass = machine.admit(now);
                prop_assert_eq!(pass.is_ok(), expected);
                if let Ok(pass) = pass {
                    if pass.probe.is_some() {
                        model.probes.push((pass, now + 11 * SECOND));
                    }
                    flying.push(pass);
                }
            } else {
                let pass = flying.swap_remove(which % flying.len());
                let outcome = [Outcome::Success, Outcome::Failure, Outcome::Failure, Outcome::Ignore];
                let outcome = outcome[usize::from(step) - 2];
                let current = pass.generation == machine.generation;
                let opens = current && model.records(pass, outcome, now);
                machine.record(pass, outcome, now);
                if opens {
                    let rest = machine.open_until - now;
                    prop_assert!((5 * SECOND / 2..=60 * SECOND).contains(&rest));
                    model = Model { open_until: Some(machine.open_until), ..Model::default() };
                }
            }
            prop_assert_eq!(machine.state, model.state());
            prop_assert_eq!(machine.leases.len(), model.probes.len());
            let word = machine.gate.word();
            prop_assert_eq!((word.state, word.generation), (machine.state, machine.generation));
            prop_assert!(word.probes <= 2);
        }
    }
}
