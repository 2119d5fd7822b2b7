//! One check, again and again.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{Health, HealthChange, HealthConfig, HealthSnapshot};
use crate::{
    breaker::Breaker,
    event::{Emitter, PolicyEvent},
};

/// A longer problem is cut to this many bytes.
const PROBLEM_MAX: usize = 1024;

/// What is known of one service.
#[derive(Debug, Default)]
pub(super) struct Record(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    health: Health,
    checks: u64,
    in_a_row: u32,
    problem: Option<String>,
}

impl State {
    /// Takes note of what a check found; tells the health before and after.
    fn note(&mut self, problem: Option<String>, config: &HealthConfig) -> (Health, Health) {
        let before = self.health;
        let as_before = self.problem.is_some() == problem.is_some();
        self.in_a_row = match self.in_a_row {
            count if as_before => count.saturating_add(1),
            _ => 1,
        };
        self.checks = self.checks.saturating_add(1);
        let (to, after) = match problem {
            Some(_) => (Health::Unhealthy, config.unhealthy_after),
            None => (Health::Healthy, config.healthy_after),
        };
        self.problem = problem;
        if self.in_a_row >= after.get() {
            self.health = to;
        }
        (before, self.health)
    }
}

impl Record {
    pub(super) fn health(&self) -> Health {
        self.state().health
    }

    pub(super) fn snapshot(&self, name: &Arc<str>) -> HealthSnapshot {
        let state = self.state();
        HealthSnapshot {
            name: Arc::clone(name),
            health: state.health,
            checks: state.checks,
            in_a_row: state.in_a_row,
            problem: state.problem.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A breaker that is held open while the service is unhealthy.
pub(super) struct HeldOpen {
    breaker: Breaker,
    held: bool,
}

impl HeldOpen {
    pub(super) fn new(breaker: Breaker) -> Self {
        Self {
            breaker,
            held: false,
        }
    }

    fn follow(&mut self, health: Health) {
        let held = std::mem::replace(&mut self.held, health == Health::Unhealthy);
        match (held, self.held) {
            (false, true) => self.breaker.hold_open(),
            (true, false) => self.breaker.release(),
            (false, false) | (true, true) => {}
        }
    }
}

/// Nobody would release it later.
impl Drop for HeldOpen {
    fn drop(&mut self) {
        self.follow(Health::Unknown);
    }
}

/// Runs one check.
pub(super) struct Runner {
    pub(super) name: Arc<str>,
    pub(super) record: Arc<Record>,
    pub(super) config: watch::Receiver<HealthConfig>,
    pub(super) emitter: Emitter,
    pub(super) rng: Rng,
    pub(super) held: Option<HeldOpen>,
    /// How often the health changed.
    pub(super) changes: u64,
}

impl Runner {
    /// Until the monitor is gone, or this is dropped.
    pub(super) async fn run<F, T, E>(mut self, mut check: F)
    where
        F: FnMut() -> T,
        T: Future<Output = Result<(), E>>,
        E: fmt::Display,
    {
        // The first round is soon, but not the same moment for all.
        let mut rounds = 0.0;
        while self.wait(rounds).await {
            let limit = self.config.borrow().timeout;
            let problem = match timeout(limit, caught(&mut check)).await {
                Ok(problem) => problem,
                Err(_) => Some(format!("no answer within {limit:?}")),
            };
            self.note(problem);
            rounds = 1.0;
        }
    }

    /// Waits for so many intervals, more or less; whether the monitor is there.
    async fn wait(&mut self, rounds: f64) -> bool {
        let start = Instant::now();
        let draw = self.rng.f64();
        loop {
            let due = {
                let config = self.config.borrow_and_update();
                let jitter = config.jitter.get();
                let spread = if rounds > 0.0 { 2.0 * draw - 1.0 } else { draw };
                let share = (rounds + jitter * spread).max(0.0);
                start + config.interval.mul_f64(share).max(Duration::from_millis(1))
            };
            match timeout_at(due, self.config.changed()).await {
                Err(_) => return true,
                Ok(Ok(())) => {}
                Ok(Err(_)) => return false,
            }
        }
    }

    fn note(&mut self, problem: Option<String>) {
        let reason = problem.clone();
        let (from, to) = {
            let config = self.config.borrow();
            self.record.state().note(problem, &config)
        };
        if from == to {
            return;
        }
        if let Some(held) = &mut self.held {
            held.follow(to);
        }
        let name = Arc::clone(&self.name);
        self.changes += 1;
        let change = HealthChange {
            sequence: self.changes,
            name,
            reason,
            from,
            to,
        };
        self.emitter.emit(&PolicyEvent::HealthChanged(change));
    }
}

/// What the check found wrong, a panic of its own included.
async fn caught<F, T, E>(check: &mut F) -> Option<String>
where
    F: FnMut() -> T,
    T: Future<Output = Result<(), E>>,
    E: fmt::Display,
{
    // So that calling it is under the catch, too.
    let mut running = pin!(async { check().await });
    let result = std::future::poll_fn(|cx| {
        // Unwind safe: after a panic it is not polled again.
        match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
            Ok(poll) => poll.map(|result| result.err().map(|error| error.to_string())),
            Err(_) => Poll::Ready(Some("the check panicked".to_owned())),
        }
    });
    let mut problem = result.await?;
    problem.truncate(problem.floor_char_boundary(PROBLEM_MAX));
    Some(problem)
}
