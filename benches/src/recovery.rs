//! A service that comes back from an outage, simulated.
//!
//! The service does its calls one after the other, also those whose callers
//! have left since. After an outage it is slow until it has done some work,
//! because its caches are empty. So it is easily given more than it can do,
//! and then does nothing but work that nobody waits for any more.
//!
//! Time is numbers here: the policies take `now`, so two minutes pass in
//! milliseconds and the same seed gives the same history.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use orchestrator_policies::{
    Breaker, BreakerConfig, ConfigError, Outcome, PolicyEvent, Retry, RetryBudgetConfig,
    RetryConfig, breaker::Permit, clock::Instant,
};

/// How long is simulated.
pub const LENGTH: Duration = Duration::from_secs(120);
/// When the service is down.
pub const OUTAGE: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(30)];
/// Calls a second that callers want.
pub const OFFERED: f64 = 800.0;
/// Over which answers are counted.
pub const BUCKET: Duration = Duration::from_secs(1);

/// Calls a second that the service can do when it is warm, and when not.
const CAPACITY: f64 = 1_000.0;
const CAPACITY_COLD: f64 = 150.0;
/// Calls that make it warm.
const CALLS_TO_WARM: f64 = 5_000.0;
/// Calls that wait for it at most.
const QUEUE: usize = 2_000;
/// How long a caller waits.
const TIMEOUT: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1);

/// How calls are protected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protection {
    /// Whether the breaker takes its time from closing to letting everybody in,
    /// as much as it does by default.
    pub ramp: bool,
    /// Whether retries are bounded to a tenth of the calls, as by default.
    pub budget: bool,
}

impl Protection {
    /// A breaker and retries, but neither ramp nor budget.
    pub const WITHOUT: Self = Self {
        ramp: false,
        budget: false,
    };
    /// Both: every setting is the default.
    pub const WITH: Self = Self {
        ramp: true,
        budget: true,
    };
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Calls a second that were answered in time, for each [`BUCKET`].
    pub answered: Vec<f64>,
    /// How often the service, once up again, was overrun.
    pub collapses: usize,
    /// When it was up again for good: from then on, three of four calls were
    /// answered in every bucket.
    pub recovered: Option<Duration>,
}

/// Simulates the calls of `seed`.
///
/// # Errors
///
/// None, unless the policies take other values than they did.
pub fn simulate(protection: Protection, seed: u64) -> Result<History, ConfigError> {
    let mut simulation = Simulation::new(protection, seed)?;
    let mut answered = Vec::new();
    let ticks_a_bucket = BUCKET.as_millis() / TICK.as_millis();
    for _ in 0..LENGTH.as_millis() / BUCKET.as_millis() {
        let before = simulation.answered;
        for _ in 0..ticks_a_bucket {
            simulation.tick();
        }
        let count = simulation.answered - before;
        answered.push(count as f64 / BUCKET.as_secs_f64());
    }
    Ok(History::of(answered))
}

impl History {
    fn of(answered: Vec<f64>) -> Self {
        let up = (OUTAGE[1].as_millis() / BUCKET.as_millis()) as usize;
        let mut collapses = 0;
        let mut serving = false;
        for rate in answered.iter().skip(up) {
            if serving && *rate < OFFERED / 100.0 {
                collapses += 1;
                serving = false;
            } else if *rate > OFFERED / 10.0 {
                serving = true;
            }
        }
        let failing = |rate: &f64| *rate < 0.75 * OFFERED;
        let last = answered.iter().rposition(failing).unwrap_or_default();
        let recovered = (last + 1 < answered.len()).then(|| BUCKET * (last as u32 + 1));
        Self {
            answered,
            collapses,
            recovered,
        }
    }
}

/// A call that has not ended.
#[derive(Clone, Copy, Debug)]
struct Call {
    attempts: u32,
    /// Before the last one.
    waited: Duration,
}

/// An attempt that somebody waits for.
struct Attempt {
    call: Call,
    permit: Permit,
}

struct Simulation {
    now: Instant,
    begin: Instant,
    rng: Rng,
    breaker: Breaker,
    retry: Retry,
    next_arrival: Instant,
    /// Attempts to be made, by when; the number tells those apart that are
    /// due together.
    retries: BTreeMap<(Instant, u64), Call>,
    /// Attempts that are waited for, by number.
    waiting: HashMap<u64, Attempt>,
    /// When who stops waiting.
    timeouts: VecDeque<(Instant, u64)>,
    /// What the service has before it.
    queue: VecDeque<u64>,
    /// Work that it can do now, in calls.
    credit: f64,
    /// Work that it has done since it came up.
    done: f64,
    numbers: u64,
    answered: u64,
}

impl Simulation {
    fn new(protection: Protection, seed: u64) -> Result<Self, ConfigError> {
        let mut config = BreakerConfig::default();
        if !protection.ramp {
            config.ramp = Duration::ZERO;
        }
        let mut retry = RetryConfig::default();
        if !protection.budget {
            retry.budget = RetryBudgetConfig {
                reserve: u32::MAX,
                ..RetryBudgetConfig::default()
            };
        }
        let begin = Instant::from_nanos(1_000_000_000);
        Ok(Self {
            now: begin,
            begin,
            rng: Rng::with_seed(seed),
            breaker: Breaker::with_seed(config, Arc::new(|_: &PolicyEvent| {}), seed)?,
            retry: Retry::new(retry)?.with_seed(seed),
            next_arrival: begin,
            retries: BTreeMap::new(),
            waiting: HashMap::new(),
            timeouts: VecDeque::new(),
            queue: VecDeque::new(),
            credit: 0.0,
            done: CALLS_TO_WARM,
            numbers: 0,
            answered: 0,
        })
    }

    fn tick(&mut self) {
        self.now = self.now + TICK;
        if self.is_down() {
            self.crash();
        }
        self.give_up();
        self.serve();
        self.arrive();
    }

    fn is_down(&self) -> bool {
        let since = self.now - self.begin;
        (OUTAGE[0]..OUTAGE[1]).contains(&since)
    }

    /// Everything that was begun fails, and everything is forgotten.
    fn crash(&mut self) {
        self.done = 0.0;
        for number in std::mem::take(&mut self.queue) {
            self.fail(number);
        }
    }

    /// Callers that have waited long enough leave; the service does not learn
    /// of it.
    fn give_up(&mut self) {
        while let Some((deadline, number)) = self.timeouts.front().copied() {
            if deadline > self.now {
                break;
            }
            self.timeouts.pop_front();
            self.fail(number);
        }
    }

    fn serve(&mut self) {
        let warm = (self.done / CALLS_TO_WARM).min(1.0);
        let capacity = CAPACITY_COLD + (CAPACITY - CAPACITY_COLD) * warm;
        self.credit += capacity * TICK.as_secs_f64();
        while self.credit >= 1.0 {
            let Some(number) = self.queue.pop_front() else {
                // What is not used now cannot be used later.
                self.credit = 1.0;
                break;
            };
            self.credit -= 1.0;
            self.done += 1.0;
            if let Some(attempt) = self.waiting.remove(&number) {
                attempt.permit.record(Outcome::Success, self.now);
                self.answered += 1;
            }
        }
    }

    fn arrive(&mut self) {
        while self.next_arrival <= self.now {
            let gap = -(1.0 - self.rng.f64()).ln() / OFFERED;
            self.next_arrival = self.next_arrival + Duration::from_secs_f64(gap);
            self.retry.begin_work(self.now);
            self.attempt(Call {
                attempts: 0,
                waited: Duration::ZERO,
            });
        }
        while let Some(first) = self.retries.first_entry() {
            if first.key().0 > self.now {
                break;
            }
            let call = first.remove();
            self.attempt(call);
        }
    }

    fn attempt(&mut self, call: Call) {
        // Who is refused here is told so, and does not try again.
        let Ok(permit) = self.breaker.admit(self.now) else {
            return;
        };
        let attempts = call.attempts + 1;
        self.numbers += 1;
        let (number, call) = (self.numbers, Call { attempts, ..call });
        self.waiting.insert(number, Attempt { call, permit });
        if self.is_down() || self.queue.len() >= QUEUE {
            return self.fail(number);
        }
        self.queue.push_back(number);
        self.timeouts.push_back((self.now + TIMEOUT, number));
    }

    /// Ends an attempt, if it has not ended yet, and perhaps plans another.
    fn fail(&mut self, number: u64) {
        let Some(Attempt { call, permit }) = self.waiting.remove(&number) else {
            return;
        };
        permit.record(Outcome::Failure, self.now);
        let delay = self.retry.repeat_work(call.attempts, call.waited, self.now);
        if let Some(waited) = delay {
            self.numbers += 1;
            let due = (self.now + waited, self.numbers);
            self.retries.insert(due, Call { waited, ..call });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_and_a_budget_keep_a_service_from_collapsing_again() {
        for seed in 1..=10 {
            let with = simulate(Protection::WITH, seed).unwrap();
            let without = simulate(Protection::WITHOUT, seed).unwrap();

            assert_eq!(with.collapses, 0, "{with:?}");
            assert!(with.recovered.is_some(), "{with:?}");
            assert!(without.collapses > 0, "{without:?}");
        }
    }

    #[test]
    fn a_seed_is_a_history() {
        let history = |seed| simulate(Protection::WITH, seed).unwrap();
        assert_eq!(history(7), history(7));
        assert_ne!(history(7).answered, history(8).answered);
    }
}
