//! Permits: what a breaker hands out to calls that it lets in.

use super::{Breaker, machine::Pass};
use crate::{
    classify::Outcome,
    clock::{self, Instant},
};

/// Permission for one call. Tell it how the call ended.
///
/// Dropped without being told, it gives its place back, and counts as a
/// failure only if the call's [deadline](Self::until) has passed.
#[derive(Debug)]
#[must_use = "a permit that is dropped lets nobody call"]
pub struct Permit {
    breaker: Breaker,
    pass: Pass,
    deadline: Option<Instant>,
    recorded: bool,
}

impl Permit {
    pub(super) fn new(breaker: Breaker, pass: Pass) -> Self {
        Self {
            breaker,
            pass,
            deadline: None,
            recorded: false,
        }
    }

    /// Notes when the call's time is up. Dropped at that time or later, the
    /// permit counts as a failure: somebody gave up on the service. A probe
    /// holds its place until then.
    pub fn until(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        if self.pass.probe.is_some() {
            self.breaker.lend(self.pass, deadline);
        }
        self
    }

    /// Whether the call is a probe.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.pass.probe.is_some()
    }

    /// When the call's time is up, if that was noted.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Tells how the call ended, at `now`. Ignored if the breaker has changed
    /// since the permit was given: what was true of the service then says
    /// nothing about it now.
    pub fn record(mut self, outcome: Outcome, now: Instant) {
        self.recorded = true;
        self.breaker.record(self.pass, outcome, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.recorded {
            return;
        }
        // The clock is only needed where it can make a difference.
        if self.pass.probe.is_none() && self.deadline.is_none() {
            return;
        }
        let now = clock::now();
        let expired = self.deadline.is_some_and(|deadline| now >= deadline);
        let outcome = if expired {
            Outcome::Failure
        } else {
            Outcome::Ignore
        };
        self.breaker.record(self.pass, outcome, now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::breaker::{BreakerConfig, BreakerState};

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_dropped_probe_gives_its_place_back() {
        let breaker = Breaker::new(BreakerConfig::default()).unwrap();
        while breaker.state() == BreakerState::Closed {
            let permit = breaker.admit(clock::now()).unwrap();
            permit.record(Outcome::Failure, clock::now());
        }
        advance(5 * SECOND).await;
        let probe = breaker.admit(clock::now()).unwrap();
        assert!(probe.is_probe());
        assert!(breaker.admit(clock::now()).is_err());

        drop(probe);

        assert_eq!(breaker.snapshot(clock::now()).probes, 0);
        assert!(breaker.admit(clock::now()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_dropped_at_its_deadline_is_a_failure_and_before_it_is_not() {
        let breaker = Breaker::new(BreakerConfig::default()).unwrap();
        let drop_after = async |wait: Duration| {
            let now = clock::now();
            let permit = breaker.admit(now).unwrap().until(now + SECOND);
            advance(wait).await;
            drop(permit);
            breaker.snapshot(clock::now()).requests
        };

        assert_eq!(drop_after(SECOND - Duration::from_nanos(1)).await, 0);
        assert_eq!(drop_after(SECOND).await, 1);
    }
}
