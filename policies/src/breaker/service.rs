//! The breaker as a policy of a stack.

use std::task::{Context, Poll};

use super::{Breaker, gate::Closed, machine::Pass};
use crate::{
    admission::{Admission, Call, End},
    classify::Outcome,
    clock::Instant,
    refusal::{Refusal, RefusalKind},
    retry::Once,
    shed::Criticality,
    stack::Policies,
};

/// A [`Breaker`] alone, as a layer.
///
/// The breaker is asked when the call is first polled. A call that is dropped
/// gives its probe back; dropped after the request's deadline, or while it
/// panics, it counts as a failure.
pub type BreakerLayer<C> = Policies<C, (), Once, Breaker>;

impl<C> BreakerLayer<C> {
    /// Makes every service that this layer wraps ask `breaker`.
    pub fn new(breaker: Breaker, classify: C) -> Self {
        Self::assemble(classify, (), Once, breaker)
    }
}

/// A call that the breaker let in, if it did.
#[derive(Debug, Default)]
pub struct Hold(Place);

/// Has a tag of its own, which is quicker to look at than one that is hidden
/// in the fields.
#[derive(Debug, Default)]
#[repr(u8)]
enum Place {
    #[default]
    Outside,
    /// The breaker was closed, and the call is no probe.
    Closed {
        closed: Closed,
        at: Instant,
    },
    Passed {
        pass: Pass,
        at: Instant,
    },
}

/// Refuses with [`Refusal::CircuitOpen`] while the service rests.
impl<Req, Res, Err> Admission<Req, Res, Err> for Breaker {
    type Hold = Hold;

    const WAITS: bool = false;

    // Always: what is not cold in it is short.
    #[inline(always)]
    fn poll_admit(
        &self,
        hold: &mut Hold,
        call: &mut Call,
        _: &Req,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        let at = call.now();
        match self.pass_closed(at) {
            Some(closed) => hold.0 = Place::Closed { closed, at },
            // As it is: a refusal is large, and moved as seldom as can be.
            None => return self.admit_slowly(hold, at, call.criticality()),
        }
        Poll::Ready(Ok(()))
    }

    // Always: what is not cold in it is short.
    #[inline(always)]
    fn settle(&self, hold: &mut Hold, call: &mut Call, end: &End<'_, Res, Err>) {
        let counted = match (&hold.0, end) {
            (Place::Outside, _) => true,
            // Nearly all calls end like this.
            (&Place::Closed { closed, .. }, End::Answered { outcome, .. })
                if *outcome == Outcome::Success =>
            {
                self.count_success(closed, call.place(), call.now())
            }
            _ => false,
        };
        if !counted {
            self.settle_slowly(&hold.0, call, *end);
        }
        hold.0 = Place::Outside;
    }
}

impl Breaker {
    #[cold]
    fn admit_slowly(
        &self,
        hold: &mut Hold,
        at: Instant,
        criticality: Criticality,
    ) -> Poll<Result<(), Refusal>> {
        Poll::Ready(match self.pass(at, criticality) {
            Ok(pass) => {
                hold.0 = Place::Passed { pass, at };
                Ok(())
            }
            Err(retry_after) => Err(Refusal::CircuitOpen { retry_after }),
        })
    }

    #[cold]
    fn settle_slowly<Res, Err>(&self, place: &Place, call: &mut Call, end: End<'_, Res, Err>) {
        let (pass, at) = match *place {
            Place::Outside => return,
            Place::Closed { closed, at } => (Pass::of_closed(closed), at),
            Place::Passed { pass, at } => (pass, at),
        };
        let outcome = self.outcome(at, call, end);
        self.record(pass, outcome, call.now());
    }

    /// What `end` says of the service that was asked `at`.
    fn outcome<Res, Err>(&self, at: Instant, call: &mut Call, end: End<'_, Res, Err>) -> Outcome {
        let until = call.deadline().at();
        let had_time = self.is_time_enough(at, until);
        match end {
            End::Answered {
                refusal: Some(RefusalKind::TotalTimeout),
                ..
            } if !had_time => Outcome::Ignore,
            End::Answered {
                outcome: Outcome::Success,
                ..
            } if self.is_slow(call.now() - at) => Outcome::Slow,
            End::Answered { outcome, .. } => outcome,
            End::Panicked => Outcome::Failure,
            End::Dropped if had_time && call.now() >= until => Outcome::Failure,
            End::Dropped => Outcome::Ignore,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{advance, sleep, timeout};
    use tower::{Layer, Service, ServiceExt, service_fn};

    use super::*;
    use crate::{
        breaker::{BreakerConfig, BreakerSnapshot, BreakerState},
        clock,
        config::Ratio,
        refusal::TimeoutScope,
        testing::{Ask, Fault, Script, Tester, recorder},
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker(change: impl FnOnce(&mut BreakerConfig)) -> Breaker {
        let mut config = BreakerConfig::default();
        change(&mut config);
        Breaker::new(config).unwrap()
    }

    /// What the breaker has counted after one call that ended in `result`.
    async fn counted(result: Result<u32, Fault>, ask: Ask) -> (u64, u64) {
        let breaker = breaker(|_| ());
        let service =
            BreakerLayer::new(breaker.clone(), Tester).layer(Script::answers([result.clone()]));
        assert_eq!(service.oneshot(ask).await, result);
        let BreakerSnapshot {
            requests, failures, ..
        } = breaker.snapshot(clock::now());
        (requests, failures)
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_answers_at_once_and_says_when_to_return() {
        let (listener, events) = recorder();
        let breaker = breaker(|_| ());
        let script = Script::answers(vec![Err(Fault::Broken); 9]);
        let service = BreakerLayer::new(breaker.clone(), Tester)
            .with_listener(listener)
            .layer(script.clone());
        let ask = || service.clone().oneshot(Ask::default());

        for _ in 0..5 {
            assert_eq!(ask().await, Err(Fault::Broken));
        }
        let Err(Fault::Refused(Refusal::CircuitOpen { retry_after })) = ask().await else {
            panic!("it should be open");
        };
        assert_eq!(script.calls(), 5);
        assert_eq!(events.names(), ["refused circuit_open"]);

        advance(retry_after).await;
        assert_eq!(ask().await, Err(Fault::Broken), "the probe");
        assert_eq!(script.calls(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_tells_of_the_service_counts() {
        let ask = Ask::default;
        let timeout = |scope| {
            Fault::Refused(Refusal::Timeout {
                scope,
                limit: SECOND,
            })
        };
        let turned_away = [
            Refusal::Overloaded {
                limit: 1,
                queued: 0,
            },
            Refusal::RateLimited {
                retry_after: SECOND,
            },
            Refusal::CircuitOpen {
                retry_after: SECOND,
            },
        ];

        assert_eq!(counted(Ok(1), ask()).await, (1, 0));
        assert_eq!(counted(Err(Fault::Broken), ask()).await, (1, 1));
        assert_eq!(
            counted(Err(timeout(TimeoutScope::Attempt)), ask()).await,
            (1, 1)
        );
        assert_eq!(counted(Err(Fault::Invalid), ask()).await, (0, 0));
        for refusal in turned_away {
            assert_eq!(counted(Err(Fault::Refused(refusal)), ask()).await, (0, 0));
        }
        let soon = clock::now() + SECOND;
        assert_eq!(
            counted(Err(timeout(TimeoutScope::Total)), ask().until(soon)).await,
            (1, 1)
        );
        let past = clock::now();
        assert_eq!(
            counted(Err(timeout(TimeoutScope::Total)), ask().until(past)).await,
            (0, 0)
        );
    }

    /// As a total deadline around the breaker does.
    #[tokio::test(start_paused = true)]
    async fn a_call_cut_off_by_its_deadline_is_a_failure_and_one_given_up_is_not() {
        let failures = async |short_deadline, deadline: Duration, cut: Duration| {
            let breaker = breaker(|config| config.short_deadline = short_deadline);
            let service = BreakerLayer::new(breaker.clone(), Tester).layer(Script::hang());
            let call = service.oneshot(Ask::default().until(clock::now() + deadline));
            assert!(timeout(cut, call).await.is_err());
            breaker.snapshot(clock::now()).failures
        };

        assert_eq!(failures(Duration::ZERO, SECOND, SECOND / 2).await, 0);
        assert_eq!(failures(Duration::ZERO, SECOND, SECOND).await, 1);
        assert_eq!(
            failures(SECOND, SECOND, SECOND).await,
            0,
            "too little time to blame the service"
        );
        assert_eq!(failures(SECOND, 2 * SECOND, 2 * SECOND).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_never_polled_takes_no_probe() {
        let breaker = breaker(|config| config.consecutive_failures = 1.try_into().unwrap());
        let script = Script::answers([Err(Fault::Broken)]);
        let mut service = BreakerLayer::new(breaker.clone(), Tester).layer(script);
        assert_eq!(service.call(Ask::default()).await, Err(Fault::Broken));
        advance(5 * SECOND).await;

        let _call = service.call(Ask::default());
        assert_eq!(breaker.state(), BreakerState::Open);

        let hung = timeout(SECOND, service.call(Ask::default())).await;
        assert!(hung.is_err(), "the probe was let in, hung, and was dropped");
        assert_eq!(breaker.snapshot(clock::now()).probes, 0);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let breaker = breaker(|_| ());
        let service =
            service_fn(async |_: Ask| -> Result<u32, Fault> { panic!("the service does") });
        let service = BreakerLayer::new(breaker.clone(), Tester).layer(service);

        let call = tokio::spawn(service.oneshot(Ask::default()));

        assert!(call.await.unwrap_err().is_panic());
        assert_eq!(breaker.snapshot(clock::now()).failures, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_is_slow_from_the_limit_on() {
        let slow = async |took: Duration| {
            let breaker = breaker(|config| {
                config.slow_ratio = Some(Ratio::ALL);
                config.slow_after = Some(SECOND);
            });
            let service = service_fn(|_: Ask| async move {
                sleep(took).await;
                Ok::<u32, Fault>(1)
            });
            let service = BreakerLayer::new(breaker.clone(), Tester).layer(service);
            assert_eq!(service.oneshot(Ask::default()).await, Ok(1));
            breaker.snapshot(clock::now()).slow
        };

        assert_eq!(slow(SECOND - Duration::from_millis(1)).await, 0);
        assert_eq!(slow(SECOND).await, 1);
    }
}
