//! The breaker as a policy of a stack.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use super::{Breaker, gate::Closed, machine::Pass};
use crate::{
    admission::{Admission, Call, End},
    classify::Outcome,
    clock::Instant,
    deadline::Deadline,
    refusal::{Refusal, RefusalKind},
    retry::Once,
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
pub struct Hold(Entry);

/// Has a tag of its own, which is quicker to look at than one that is hidden
/// in the fields.
#[derive(Debug, Default)]
#[repr(u8)]
enum Entry {
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

    const PER_CALL: bool = false;

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
            Some(closed) => hold.0 = Entry::Closed { closed, at },
            None => {
                if let Err(wait) = self.admit_slowly(hold, call) {
                    let retry_after = Duration::from_nanos(wait);
                    return Poll::Ready(Err(Refusal::CircuitOpen { retry_after }));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    // Always: what is not cold in it is short.
    #[inline(always)]
    fn settle(&self, hold: &mut Hold, call: &mut Call, end: &End<'_, Res, Err>) {
        let counted = match (&hold.0, end) {
            (Entry::Outside, _) => true,
            // Nearly all calls end like this.
            (&Entry::Closed { closed, .. }, End::Answered { outcome, .. })
                if *outcome == Outcome::Success =>
            {
                self.count_success(closed, call.place(), call.now())
            }
            _ => false,
        };
        if !counted {
            self.settle_slowly(&hold.0, call, *end);
        }
        hold.0 = Entry::Outside;
    }
}

impl Breaker {
    /// Or says how long the call should stay away, in nanoseconds: that fits
    /// into a register, and a refusal does not.
    #[cold]
    fn admit_slowly(&self, hold: &mut Hold, call: &Call) -> Result<(), u64> {
        let (at, deadline) = (call.now(), call.deadline().at());
        let until = (deadline != Deadline::NEVER.at()).then_some(deadline);
        let pass = self.pass(at, call.criticality(), until)?;
        hold.0 = Entry::Passed { pass, at };
        Ok(())
    }

    #[cold]
    fn settle_slowly<Res, Err>(&self, entry: &Entry, call: &mut Call, end: End<'_, Res, Err>) {
        let (pass, at) = match *entry {
            Entry::Outside => return,
            Entry::Closed { closed, at } => (Pass::of_closed(closed), at),
            Entry::Passed { pass, at } => (pass, at),
        };
        let outcome = self.outcome(at, call, end);
        self.record(pass, outcome, call.now());
    }

    /// What `end` says of the service, which is judged from the moment it was
    /// asked: a queue on the way is ours. `at` is when the call got here.
    fn outcome<Res, Err>(&self, at: Instant, call: &Call, end: End<'_, Res, Err>) -> Outcome {
        let Some(asked) = call.asked() else {
            return match end {
                // Within the first poll of the call, which leaves no trace.
                End::Panicked => Outcome::Failure,
                End::Answered { .. } | End::Dropped => Outcome::Ignore,
            };
        };
        let until = call.deadline().at();
        let had_time = self.is_time_enough(at, asked, until);
        match end {
            End::Answered {
                refusal: Some(RefusalKind::TotalTimeout),
                ..
            } if !had_time => Outcome::Ignore,
            End::Answered {
                outcome: Outcome::Success,
                ..
            } if self.is_slow(call.now() - asked) => Outcome::Slow,
            End::Answered { outcome, .. } => outcome,
            End::Panicked => Outcome::Failure,
            End::Dropped if had_time && call.now() >= until => Outcome::Failure,
            End::Dropped => Outcome::Ignore,
        }
    }
}

#[cfg(test)]
mod tests;
