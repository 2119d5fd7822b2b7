//! What a request may be asked and what a result means.
//!
//! Policies know nothing of the services they guard. A [`Classify`] tells
//! them, and is a type parameter of its own, so that neither the request nor
//! the error has to implement a trait of this crate.

use std::{error::Error, time::Duration};

use crate::{
    clock::Instant,
    refusal::{Refusal, RefusalKind},
    retry::AttemptBudget,
    shed::Criticality,
};

/// Tells the policies what requests and results mean. Usually a type without
/// fields.
///
/// Every method has a cautious default. Two are worth an implementation in
/// nearly every case: [`refusal`](Self::refusal), without which the breaker
/// blames the service for what another policy refused, and
/// [`idempotent`](Self::idempotent), without which nothing is tried again.
///
/// Methods are called on the path of every call: keep them short, and never
/// let them block. A stack clones it once for every stripe of threads: what
/// its copies are to share is behind a pointer.
pub trait Classify<Req, Res, Err> {
    /// Which policy produced `error`, if one did.
    fn refusal(&self, error: &Err) -> Option<RefusalKind> {
        let _ = error;
        None
    }

    /// What `result` says about the health of the service. The breaker asks;
    /// calls that a policy turned away are ignored without asking.
    fn outcome(&self, result: &Result<Res, Err>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(_) => Outcome::Failure,
        }
    }

    /// Whether the call that ended in `error` may be tried again. Not asked
    /// about calls that a policy turned away, nor when the whole call's time
    /// is up: those are never tried again.
    fn retry(&self, error: &Err) -> RetryAdvice {
        let _ = error;
        RetryAdvice::IfIdempotent { after: None }
    }

    /// Whether the call that was answered with `response` may be tried again.
    /// Only asked where [`outcome`](Self::outcome) calls that answer a failure,
    /// such as a response with status 503; costs other answers nothing. When
    /// there is no further attempt, the answer is the caller's.
    fn retry_answer(&self, response: &Res) -> RetryAdvice {
        let _ = response;
        RetryAdvice::IfIdempotent { after: None }
    }

    /// Whether handling `request` twice does no more than handling it once.
    fn idempotent(&self, request: &Req) -> bool {
        let _ = request;
        false
    }

    /// When the caller stops waiting for `request`.
    fn deadline(&self, request: &Req) -> Option<Instant> {
        let _ = request;
        None
    }

    /// Writes into `request` when its caller stops waiting, so that layers
    /// below and the service itself know.
    fn set_deadline(&self, request: &mut Req, deadline: Instant) {
        let _ = (request, deadline);
    }

    /// How many attempts at `request` were made before this call, for a
    /// request that is taken up again. They count against the attempts that
    /// are allowed, but one more is made in any case.
    fn attempts_made(&self, request: &Req) -> u32 {
        let _ = request;
        0
    }

    /// Writes into `request` which attempt it is, counted from 1, those made
    /// before this call included.
    fn set_attempt(&self, request: &mut Req, attempt: u32) {
        let _ = (request, attempt);
    }

    /// The attempts that are left to `request`, if it carries a count of them
    /// that all who try it again on its way share. Asked after failures only.
    fn attempt_budget(&self, request: &Req) -> Option<AttemptBudget> {
        let _ = request;
        None
    }

    /// On whose behalf `request` is made. Tenants have a rate limit each.
    fn tenant(&self, request: &Req) -> u64 {
        let _ = request;
        0
    }

    /// Whether a fallback may answer in place of `result`. By default it may
    /// for refusals and for failures of the service, and not for mistakes of
    /// the caller's own.
    fn falls_back(&self, result: &Result<Res, Err>) -> bool {
        let refusal = result.as_ref().err().and_then(|error| self.refusal(error));
        refusal.is_some() || self.outcome(result) == Outcome::Failure
    }

    /// Writes into `response` that it is a fallback.
    fn mark_fallback(&self, response: &mut Res) {
        let _ = response;
    }

    /// How important `request` is. The less important are turned away first
    /// when there is too much to do.
    fn criticality(&self, request: &Req) -> Criticality {
        let _ = request;
        Criticality::default()
    }
}

/// What one result says about the health of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It is well.
    Success,
    /// It is not.
    Failure,
    /// It answered, but took too long.
    Slow,
    /// Nothing: the caller's mistake, or the caller left.
    Ignore,
}

/// Whether and when a failed call may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAdvice {
    /// It would fail again.
    Never,
    /// If handling the request twice does no harm.
    IfIdempotent {
        /// How long the service asked to be left alone.
        after: Option<Duration>,
    },
    /// In any case: the service is known not to have started on it.
    NotStarted {
        /// How long the service asked to be left alone.
        after: Option<Duration>,
    },
}

/// Keeps every default of [`Classify`] and finds a [`Refusal`] in the error
/// or its sources.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl<Req, Res, Err> Classify<Req, Res, Err> for Plain
where
    Err: Error + 'static,
{
    fn refusal(&self, error: &Err) -> Option<RefusalKind> {
        refusal_in(error)
    }
}

/// The kind of the first [`Refusal`] among `error` and its sources.
#[must_use]
pub fn refusal_in(error: &(dyn Error + 'static)) -> Option<RefusalKind> {
    // Bounded: a source may lead back to where it came from.
    std::iter::successors(Some(error), |&error| error.source())
        .take(16)
        .find_map(|error| error.downcast_ref::<Refusal>())
        .map(Refusal::kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed")]
    struct Outer(#[source] Refusal);

    #[test]
    fn plain_finds_a_refusal_among_the_sources() {
        let refusal = Refusal::Overloaded {
            limit: 1,
            queued: 0,
        };

        assert_eq!(refusal_in(&Outer(refusal)), Some(RefusalKind::Overloaded));
        assert_eq!(refusal_in(&std::io::Error::other("disk")), None);
    }
}
