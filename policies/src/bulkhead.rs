//! Bounds how many calls are in flight together.
//!
//! For: a service that gets slow under load, which would otherwise collect
//! more and more callers until it, or this process, falls over.
//!
//! Not for: bounding how *often* a service is called, which is the rate
//! limit's. And a queue does not help against lasting overload, it only makes
//! every caller wait as well: leave it at none unless load comes in short
//! bursts.
//!
//! A call is refused only if every slot is taken at that moment. Yet threads
//! do not meet at one count: while many slots are free, each thread takes them
//! from a supply of its own (`permits.rs`).

#[cfg(test)]
mod model_tests;
mod slots;

use std::{
    num::NonZeroUsize,
    task::{Context, Poll, ready},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::slots::Wait;
pub use self::slots::{Bulkhead, BulkheadSnapshot, Slot};
use crate::{
    admission::{Admission, Call, End},
    config::{ConfigError, check_time},
    permits::PERMITS_MAX,
    refusal::Refusal,
    retry::Once,
    stack::Policies,
};

/// How many calls may be in flight, and how many may wait.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BulkheadConfig {
    /// Calls that may be in flight together.
    pub max_concurrent: NonZeroUsize,
    /// Calls that may wait for a slot, first come, first served. None by
    /// default: a call that finds every slot taken is refused at once.
    pub max_queue: usize,
    /// How long a call may wait for a slot.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
}

impl Default for BulkheadConfig {
    fn default() -> Self {
        Self {
            max_concurrent: NonZeroUsize::MIN.saturating_add(63),
            max_queue: 0,
            max_wait: Duration::ZERO,
        }
    }
}

impl BulkheadConfig {
    /// Checks that these bounds can work.
    ///
    /// # Errors
    ///
    /// Names the bound that is out of range, or that has no effect because
    /// another is zero.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.max_concurrent.get() > PERMITS_MAX {
            let problem = format!("is more than {PERMITS_MAX}");
            return Err(ConfigError::new(
                "max_concurrent",
                problem,
                "leave the bulkhead out to allow any number",
            ));
        }
        match (self.max_queue, self.max_wait) {
            (0, Duration::ZERO) => Ok(()),
            (0, _) => Err(ConfigError::new(
                "max_wait",
                "has no effect while `max_queue` is 0",
                "set `max_queue` to the number of calls that may wait",
            )),
            (_, wait) => check_time("max_wait", wait, Duration::from_millis(1)),
        }
    }
}

/// A [`Bulkhead`] alone, as a layer.
///
/// A call takes its slot when it is first polled, and frees it when its
/// future ends or is dropped, wherever it is.
pub type BulkheadLayer<C> = Policies<C, (), Once, Bulkhead>;

impl<C> BulkheadLayer<C> {
    /// Sends every service that this layer wraps through `bulkhead`.
    pub fn new(bulkhead: Bulkhead, classify: C) -> Self {
        Self::assemble(classify, (), Once, bulkhead)
    }
}

/// What a call holds.
#[derive(Debug, Default)]
pub struct Hold {
    slot: bool,
    wait: Waiting,
}

/// Nearly always nothing, and then dropping it is one comparison.
#[derive(Debug, Default)]
struct Waiting(Option<Box<Wait>>);

impl Drop for Waiting {
    #[inline]
    fn drop(&mut self) {
        if let Some(wait) = self.0.take() {
            discard(wait);
        }
    }
}

#[cold]
#[inline(never)]
fn discard(wait: Box<Wait>) {
    drop(wait);
}

/// Refuses with [`Refusal::Overloaded`] when there is no slot for a call.
impl<Req, Res, Err> Admission<Req, Res, Err> for Bulkhead {
    type Hold = Hold;

    // Only a call that has to wait asks, and reads the clock itself.
    const TIMES_ENTRY: bool = false;

    const TIMES_END: bool = false;

    #[inline]
    fn poll_admit(
        &self,
        hold: &mut Hold,
        call: &mut Call,
        _: &Req,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        if hold.wait.0.is_none() {
            hold.slot = self.enter(call.place().number());
            if hold.slot {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_slot(hold, call, cx)
    }

    #[inline]
    fn settle(&self, hold: &mut Hold, call: &mut Call, _: &End<'_, Res, Err>) {
        if std::mem::take(&mut hold.slot) {
            self.leave(call.place().number());
        } else if let Some(wait) = hold.wait.0.take() {
            self.give_up(wait);
        }
    }
}

impl Bulkhead {
    /// Ready when a call that found no slot has one, or has waited for it long
    /// enough.
    #[cold]
    fn poll_slot(
        &self,
        hold: &mut Hold,
        call: &mut Call,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        if hold.wait.0.is_none() {
            hold.wait.0 = self.wait(call, cx)?.map(Box::new);
        }
        if let Some(wait) = &mut hold.wait.0 {
            let served = ready!(self.poll_wait(wait, cx));
            hold.wait.0 = None;
            served?;
        }
        hold.slot = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        sync::mpsc,
        time::{advance, sleep, timeout},
    };
    use tower::{Layer, Service, ServiceExt, service_fn};

    use super::*;
    use crate::{
        clock,
        testing::{Ask, Fault, Script, Tester, recorder},
    };

    const SECOND: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_millis(1);

    fn bulkhead(max_concurrent: usize, max_queue: usize, max_wait: Duration) -> Bulkhead {
        let max_concurrent = NonZeroUsize::new(max_concurrent).unwrap();
        Bulkhead::new(BulkheadConfig {
            max_concurrent,
            max_queue,
            max_wait,
        })
        .unwrap()
    }

    fn holds(in_flight: usize, queued: usize) -> BulkheadSnapshot {
        BulkheadSnapshot { in_flight, queued }
    }

    fn overloaded(limit: usize, queued: usize) -> Result<u32, Fault> {
        Err(Fault::Refused(Refusal::Overloaded { limit, queued }))
    }

    #[tokio::test(start_paused = true)]
    async fn the_call_after_the_last_slot_is_refused_and_a_dropped_one_frees_its_slot() {
        let (listener, events) = recorder();
        let bulkhead = bulkhead(2, 0, Duration::ZERO);
        let script = Script::hang();
        let service = BulkheadLayer::new(bulkhead.clone(), Tester)
            .with_listener(listener)
            .layer(script.clone());
        let ask = || timeout(SECOND, service.clone().oneshot(Ask::default()));

        let (first, second, third) = tokio::join!(ask(), ask(), ask());

        assert!(
            first.is_err() && second.is_err(),
            "both hang until they are dropped"
        );
        assert_eq!(third, Ok(overloaded(2, 0)));
        assert_eq!(script.calls(), 2);
        assert_eq!(bulkhead.snapshot(), holds(0, 0));
        assert_eq!(events.names(), ["refused overloaded"]);
    }

    #[tokio::test]
    async fn an_answer_frees_the_slot_even_while_its_future_lives() {
        for answer in [Ok(1), Err(Fault::Broken)] {
            let bulkhead = bulkhead(1, 0, Duration::ZERO);
            let script = Script::answers([answer.clone()]);
            let mut service = BulkheadLayer::new(bulkhead.clone(), Tester).layer(script);

            let mut future = std::pin::pin!(service.call(Ask::default()));

            assert_eq!(future.as_mut().await, answer);
            assert_eq!(bulkhead.snapshot(), holds(0, 0));
        }
    }

    #[tokio::test]
    async fn a_call_that_is_never_polled_takes_no_slot() {
        let bulkhead = bulkhead(1, 0, Duration::ZERO);
        let mut service = BulkheadLayer::new(bulkhead.clone(), Tester).layer(Script::hang());

        let _call = service.call(Ask::default());

        assert_eq!(bulkhead.snapshot(), holds(0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_long_as_allowed_and_no_longer() {
        let ask = |held: Duration| async move {
            let bulkhead = bulkhead(1, 1, SECOND);
            let slot = bulkhead.try_enter();
            let service = BulkheadLayer::new(bulkhead, Tester).layer(Script::answers([Ok(1)]));
            let waiting = tokio::spawn(service.oneshot(Ask::default()));
            sleep(held).await;
            drop(slot);
            waiting.await.unwrap()
        };

        assert_eq!(ask(SECOND - TICK).await, Ok(1));
        assert_eq!(ask(SECOND + TICK).await, overloaded(1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_ends_with_the_callers_deadline() {
        let bulkhead = bulkhead(1, 1, 10 * SECOND);
        let _slot = bulkhead.try_enter().unwrap();
        let service = BulkheadLayer::new(bulkhead.clone(), Tester).layer(Script::hang());
        let start = clock::now();
        let ask = |left| service.clone().oneshot(Ask::default().until(start + left));

        assert_eq!(ask(SECOND).await, overloaded(1, 1));
        assert_eq!(clock::now() - start, SECOND);
        assert_eq!(
            ask(SECOND).await,
            overloaded(1, 0),
            "there is no time left to wait"
        );
        assert_eq!(bulkhead.snapshot(), holds(1, 0));
    }

    /// One in flight, two waiting, one too many; the waiting are served in
    /// the order they came, and one that leaves loses nobody else's place.
    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_fair_and_survives_leavers() {
        let bulkhead = bulkhead(1, 3, SECOND);
        let (sender, mut order) = mpsc::unbounded_channel();
        let service =
            BulkheadLayer::new(bulkhead.clone(), Tester).layer(service_fn(move |ask: Ask| {
                sender.send(ask.tenant).unwrap();
                async { Ok::<u32, Fault>(0) }
            }));
        let slot = bulkhead.try_enter().unwrap();
        let mut tasks = Vec::new();
        for tenant in 1..=3 {
            tasks.push(tokio::spawn(
                service.clone().oneshot(Ask::of_tenant(tenant)),
            ));
            tokio::task::yield_now().await;
        }
        assert_eq!(bulkhead.snapshot(), holds(1, 3));
        assert_eq!(
            service.clone().oneshot(Ask::default()).await,
            overloaded(1, 3)
        );

        tasks.remove(1).abort();
        advance(TICK).await;
        assert_eq!(bulkhead.snapshot(), holds(1, 2));
        drop(slot);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(0));
        }

        assert_eq!((order.recv().await, order.recv().await), (Some(1), Some(3)));
        assert_eq!(bulkhead.snapshot(), holds(0, 0));
    }

    /// A waiting call that was given the slot and is dropped before it knows.
    #[tokio::test(start_paused = true)]
    async fn a_slot_given_to_a_call_that_left_goes_to_the_next() {
        let bulkhead = bulkhead(1, 2, SECOND);
        let slot = bulkhead.try_enter().unwrap();
        let service = BulkheadLayer::new(bulkhead.clone(), Tester).layer(Script::answers([Ok(1)]));
        let ask = || service.clone().oneshot(Ask::default());
        let mut first = Box::pin(ask());
        assert!(timeout(TICK, &mut first).await.is_err());
        let second = tokio::spawn(ask());
        tokio::task::yield_now().await;

        drop(slot);
        assert_eq!(bulkhead.snapshot(), holds(1, 1));
        drop(first);

        assert_eq!(second.await.unwrap(), Ok(1));
        assert_eq!(bulkhead.snapshot(), holds(0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_does_not_take_the_slot_of_one_who_waits() {
        let bulkhead = bulkhead(1, 1, SECOND);
        let slot = bulkhead.try_enter();
        let service = BulkheadLayer::new(bulkhead.clone(), Tester).layer(Script::answers([Ok(1)]));
        let waiting = tokio::spawn(service.oneshot(Ask::default()));
        tokio::task::yield_now().await;

        drop(slot);

        assert!(bulkhead.try_enter().is_none(), "it is due to the other");
        assert_eq!(waiting.await.unwrap(), Ok(1));
        assert!(bulkhead.try_enter().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lower_limit_holds_once_enough_calls_have_left() {
        let bulkhead = bulkhead(3, 0, Duration::ZERO);
        let mut slots: Vec<_> = std::iter::from_fn(|| bulkhead.try_enter()).collect();
        assert_eq!(slots.len(), 3);
        let lower = BulkheadConfig {
            max_concurrent: NonZeroUsize::MIN,
            ..BulkheadConfig::default()
        };

        bulkhead.reconfigure(lower).unwrap();

        for left in [2, 1, 0] {
            assert!(bulkhead.try_enter().is_none());
            drop(slots.pop());
            assert_eq!(bulkhead.snapshot(), holds(left, 0));
        }
        let slot = bulkhead.try_enter();
        assert!(slot.is_some() && bulkhead.try_enter().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_higher_limit_lets_in_those_who_wait() {
        let bulkhead = bulkhead(1, 3, SECOND);
        let _slot = bulkhead.try_enter().unwrap();
        let service = BulkheadLayer::new(bulkhead.clone(), Tester).layer(Script::hang());
        let ask = || tokio::spawn(service.clone().oneshot(Ask::default()));
        let _waiting = [ask(), ask(), ask()];
        advance(TICK).await;
        assert_eq!(bulkhead.snapshot(), holds(1, 3));
        let config = |max_concurrent, max_wait| BulkheadConfig {
            max_concurrent: NonZeroUsize::new(max_concurrent).unwrap(),
            max_queue: 3,
            max_wait,
        };

        let refused = bulkhead.reconfigure(config(9, Duration::ZERO));
        assert_eq!(refused.unwrap_err().key, "max_wait");
        assert_eq!(bulkhead.snapshot(), holds(1, 3), "all is as it was");
        bulkhead.reconfigure(config(3, SECOND)).unwrap();

        assert_eq!(bulkhead.snapshot(), holds(3, 1));
    }

    #[test]
    fn settings_without_effect_are_refused() {
        let config = |max_queue, max_wait| BulkheadConfig {
            max_queue,
            max_wait,
            ..BulkheadConfig::default()
        };

        assert_eq!(config(0, Duration::ZERO).validate(), Ok(()));
        assert_eq!(config(1, TICK).validate(), Ok(()));
        assert_eq!(config(0, TICK).validate().unwrap_err().key, "max_wait");
        assert_eq!(
            config(1, Duration::ZERO).validate().unwrap_err().key,
            "max_wait"
        );
        let max_concurrent = NonZeroUsize::MAX;
        let endless = BulkheadConfig {
            max_concurrent,
            ..BulkheadConfig::default()
        };
        assert_eq!(endless.validate().unwrap_err().key, "max_concurrent");
    }
}
