//! The breaker said again in a plainer way, to check that any history of calls
//! and of what operators do leads both to the same place.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::config::Ratio;

const SECOND: u64 = 1_000_000_000;

/// Keeps every call, and learns the random rests from the real one.
#[derive(Debug)]
struct Model {
    config: BreakerConfig,
    state: BreakerState,
    forced: Option<BreakerState>,
    holders: usize,
    changes: u64,
    /// The calls that count: when, and whether they failed or were slow. The
    /// latter only while there is a rule for it.
    calls: Vec<(u64, bool, Option<bool>)>,
    row: u32,
    open_until: u64,
    /// Probes in flight, when they are overdue, and whether that is a failure.
    probes: Vec<(Pass, u64, bool)>,
    good_probes: u32,
    /// What a probe without a deadline gets because one was late.
    patience: u64,
    /// From when to when, and the calls of each class meanwhile.
    ramp: (u64, u64, [u64; 4]),
}

impl Model {
    fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: BreakerState::Closed,
            forced: None,
            holders: 0,
            changes: 0,
            calls: Vec::new(),
            row: 0,
            open_until: 0,
            probes: Vec::new(),
            good_probes: 0,
            patience: 0,
            ramp: (0, 0, [0; 4]),
        }
    }

    fn enter(&mut self, state: BreakerState) {
        self.changes += u64::from(self.state != state);
        self.state = state;
        self.probes.clear();
        self.good_probes = 0;
    }

    /// Where it is when nobody has failed.
    fn begin(&mut self, ramp: Option<u64>) {
        self.close_at(ramp);
        self.patience = 0;
        self.enter(match (self.forced, self.config.mode) {
            (Some(forced), _) => forced,
            (_, BreakerMode::Disabled) => BreakerState::Disabled,
            _ if self.holders > 0 => BreakerState::ForcedOpen,
            _ => BreakerState::Closed,
        });
    }

    fn close_at(&mut self, ramp: Option<u64>) {
        self.calls.clear();
        self.row = 0;
        let length = self.config.ramp.as_secs() * SECOND;
        let (begin, end) = ramp.map_or((0, 0), |now| (now, now + length));
        // Two at one moment are one.
        let calls = match self.ramp.1 == end {
            true => self.ramp.2,
            false => [0; 4],
        };
        self.ramp = (begin, end, calls);
    }

    /// Whether a call gets in, and whether as a probe.
    fn admits(&mut self, now: u64, class: Criticality) -> Option<bool> {
        let max_probes = self.config.max_probes.get() as usize;
        let full = self.probes.len() >= max_probes;
        if self.state == BreakerState::HalfOpen && !(full && self.probes.iter().all(|p| p.1 > now))
        {
            if self.probes.iter().any(|probe| probe.1 <= now && probe.2) {
                self.enter(BreakerState::Open);
                self.open_until = u64::MAX;
            }
            self.probes.retain(|probe| probe.1 > now);
        }
        if self.state == BreakerState::Open && now >= self.open_until {
            self.enter(BreakerState::HalfOpen);
        }
        match self.state {
            BreakerState::Closed => self.passes_ramp(now, class).then_some(false),
            BreakerState::ForcedClosed | BreakerState::Disabled => Some(false),
            BreakerState::HalfOpen => (self.probes.len() < max_probes).then_some(true),
            BreakerState::Open | BreakerState::ForcedOpen => None,
        }
    }

    fn passes_ramp(&mut self, now: u64, class: Criticality) -> bool {
        let (begin, end, calls) = &mut self.ramp;
        if now >= *end {
            return true;
        }
        let call = calls[class as usize];
        calls[class as usize] += 1;
        let ahead = [-0.5, -0.25, 0.0, 0.5][class as usize];
        let done = 1.0 - (*end - now) as f64 / (*end - *begin) as f64 + ahead;
        let share = (100.0 + 900.0 * done.min(1.0)) as u64;
        let others = |calls: u64| calls * share / 1000;
        done >= 0.0 && (call == 0 || others(call) > others(call - 1))
    }

    fn lends(&mut self, pass: Pass, now: u64, until: Option<u64>) {
        let lease = self.config.probe_lease.as_secs() * SECOND;
        let end = until.map_or(now + lease.max(self.patience), |until| until + SECOND);
        self.probes.push((pass, end, true));
    }

    /// Takes note of an outcome; tells whether the breaker must open.
    fn records(&mut self, pass: Pass, since: u64, outcome: Outcome, now: u64) -> bool {
        let well = matches!(outcome, Outcome::Success | Outcome::Slow);
        if pass.probe.is_some() {
            let Some(index) = self.probes.iter().position(|probe| probe.0 == pass) else {
                if well && self.state != BreakerState::Disabled {
                    self.patience = self.patience.max(2 * (now - since));
                }
                return false;
            };
            self.probes.remove(index);
            let is_slow = outcome == Outcome::Slow && self.config.slow_ratio.is_some();
            self.good_probes += u32::from(well && !is_slow);
            let closes = self.good_probes >= self.config.success_threshold.get();
            if well && !is_slow && closes {
                self.close_at(Some(now));
                self.enter(BreakerState::Closed);
            }
            return outcome == Outcome::Failure || is_slow;
        }
        let flows = matches!(
            self.state,
            BreakerState::Closed | BreakerState::ForcedClosed
        );
        if !flows || outcome == Outcome::Ignore {
            return false;
        }
        let failed = outcome == Outcome::Failure;
        self.row = if failed { self.row + 1 } else { 0 };
        let rule = self.config.slow_ratio;
        let slow = rule.map(|_| outcome == Outcome::Slow);
        self.calls.push((now, failed, slow));
        let asks = failed || slow == Some(true);
        asks && self.state == BreakerState::Closed && self.breaks_a_rule(now)
    }

    /// Those of the last ten slices of three seconds.
    fn recent(&self, now: u64) -> Vec<(u64, bool, Option<bool>)> {
        let slice = 3 * SECOND;
        let calls = self.calls.iter().copied();
        calls.filter(|c| c.0 / slice + 10 > now / slice).collect()
    }

    fn breaks_a_rule(&self, now: u64) -> bool {
        let recent = self.recent(now);
        let failures = recent.iter().filter(|call| call.1).count();
        let timed: Vec<bool> = recent.iter().filter_map(|call| call.2).collect();
        let slow = timed.iter().filter(|slow| **slow).count();
        let slows = self.config.slow_ratio.is_some() && slow * 10 >= timed.len() * 8;
        self.row >= 5
            || (recent.len() >= 10 && (failures * 10 >= recent.len() * 6 || (slow > 0 && slows)))
    }

    fn reconfigure(&mut self, config: BreakerConfig) {
        if self.config.slow_ratio.is_none() {
            self.calls.iter_mut().for_each(|call| call.2 = None);
        }
        let disabled = [&self.config, &config].map(|config| config.mode == BreakerMode::Disabled);
        self.config = config;
        if disabled[0] != disabled[1] && self.forced.is_none() {
            self.begin(None);
        }
    }
}

/// What happens: mostly calls.
#[derive(Clone, Debug)]
enum Step {
    Call(Criticality, Option<u64>),
    End(usize, Outcome),
    Force(BreakerState),
    Reset,
    Recover,
    HoldOpen,
    Release,
    Configure(BreakerConfig),
}

fn config() -> impl Strategy<Value = BreakerConfig> {
    (
        prop::sample::select(vec![0, 0, 0, 1, 2]),
        any::<bool>(),
        1u32..4,
        1u32..4,
        prop::sample::select(vec![0, 10]),
    )
        .prop_map(|(mode, slow, probes, threshold, ramp)| BreakerConfig {
            mode: [
                BreakerMode::Enforce,
                BreakerMode::ObserveOnly,
                BreakerMode::Disabled,
            ][mode],
            slow_ratio: slow.then(|| Ratio::new(0.8)).flatten(),
            slow_after: slow.then_some(Duration::from_secs(1)),
            max_probes: NonZeroU32::new(probes).unwrap(),
            success_threshold: NonZeroU32::new(threshold).unwrap(),
            ramp: Duration::from_secs(ramp),
            ..BreakerConfig::default()
        })
}

fn step() -> impl Strategy<Value = (Step, u64)> {
    let outcome = prop::sample::select(vec![
        Outcome::Success,
        Outcome::Success,
        Outcome::Slow,
        Outcome::Failure,
        Outcome::Failure,
        Outcome::Failure,
        Outcome::Ignore,
    ]);
    let forced = vec![BreakerState::ForcedOpen, BreakerState::ForcedClosed];
    let deadline = prop::option::of(1..60 * SECOND);
    let call = (prop::sample::select(Criticality::ALL.to_vec()), deadline);
    let step = prop_oneof![
        60 => call.prop_map(|(class, deadline)| Step::Call(class, deadline)),
        60 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::End(which, outcome)),
        1 => prop::sample::select(forced).prop_map(Step::Force),
        2 => Just(Step::Reset),
        1 => Just(Step::Recover),
        1 => Just(Step::HoldOpen),
        2 => Just(Step::Release),
        1 => config().prop_map(Step::Configure),
    ];
    (step, prop_oneof![Just(0), 0..SECOND, 0..15 * SECOND])
}

proptest! {
    #[test]
    fn does_what_the_model_does(
        config in config().prop_map(|config| BreakerConfig { mode: BreakerMode::Enforce, ..config }),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let breaker = Breaker::with_seed(config.clone(), Arc::new(|_: &_| ()), 7).unwrap();
        let mut model = Model::new(config);
        // With when they began.
        let mut flying = Vec::<(Pass, u64)>::new();
        let mut now = SECOND;
        for (step, wait) in steps {
            now += wait;
            let at = Instant::from_nanos(now);
            let was_open = model.state == BreakerState::Open && model.open_until != u64::MAX;
            let mut opens = false;
            match step {
                Step::Call(class, left) => {
                    let until = left.map(|left| now + left);
                    let expected = model.admits(now, class);
                    let pass = breaker.pass(at, class, until.map(Instant::from_nanos));
                    let observes = model.config.mode == BreakerMode::ObserveOnly;
                    prop_assert_eq!(pass.is_ok(), expected.is_some() || observes);
                    if let Ok(pass) = pass {
                        prop_assert_eq!(pass.probe.is_some(), expected == Some(true));
                        if pass.probe.is_some() {
                            model.lends(pass, now, until);
                        }
                        flying.push((pass, now));
                    }
                    opens = model.open_until == u64::MAX && !was_open;
                }
                Step::End(..) if flying.is_empty() => {}
                Step::End(which, outcome) => {
                    let (pass, since) = flying.swap_remove(which % flying.len());
                    let current = pass.generation == breaker.0.gate.word().generation;
                    opens = (current || pass.probe.is_some())
                        && model.records(pass, since, outcome, now);
                    breaker.record(pass, outcome, at);
                    if opens {
                        model.enter(BreakerState::Open);
                    }
                }
                Step::Force(state) => {
                    model.forced = Some(state);
                    if model.state != state {
                        model.enter(state);
                    }
                    breaker.decide(|machine| machine.force(state));
                }
                Step::Reset => {
                    model.forced = None;
                    model.begin(None);
                    breaker.reset();
                }
                Step::Recover => {
                    model.forced = None;
                    model.begin(Some(now));
                    breaker.decide(|machine| machine.recover(now));
                }
                Step::HoldOpen => {
                    model.holders += 1;
                    let is_free = model.forced.is_none() && model.config.mode != BreakerMode::Disabled;
                    if is_free && model.state != BreakerState::ForcedOpen {
                        model.enter(BreakerState::ForcedOpen);
                    }
                    breaker.hold_open();
                }
                Step::Release if model.holders == 0 => {}
                Step::Release => {
                    model.holders -= 1;
                    let held = model.forced.is_none() && model.state == BreakerState::ForcedOpen;
                    if held && model.holders == 0 {
                        model.begin(Some(now));
                    }
                    breaker.decide(|machine| machine.release(now));
                }
                Step::Configure(config) => {
                    model.reconfigure(config.clone());
                    breaker.decide(|machine| breaker.apply(machine, config, now));
                }
            }
            if opens {
                let rest = breaker.0.gate.shut_for(now).unwrap();
                prop_assert!((5 * SECOND / 2..=60 * SECOND).contains(&rest));
                model.open_until = now + rest;
            }
            let snapshot = breaker.snapshot(at);
            prop_assert_eq!((snapshot.state, snapshot.changes), (model.state, model.changes));
            prop_assert_eq!(snapshot.probes as usize, model.probes.len());
            prop_assert_eq!(snapshot.probe_successes, model.good_probes);
            let recent = model.recent(now);
            let failures = recent.iter().filter(|call| call.1).count();
            prop_assert_eq!((snapshot.requests, snapshot.failures), (recent.len() as u64, failures as u64));
            prop_assert_eq!(snapshot.consecutive_failures, model.row);
        }
    }
}
