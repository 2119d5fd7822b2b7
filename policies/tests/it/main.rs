//! Policies together, as their users put them together.
#![cfg(test)]

mod budget_model;
mod config;
mod dropped;
mod failsafe_traps;
mod outage;
mod race;
mod retry;
mod stack;
mod tower_traps;

use std::time::Duration;

use orchestrator_policies::{Classify, Outcome, Refusal, RefusalKind, RetryAdvice, clock::Instant};

/// A call of the service under test.
#[derive(Clone, Debug, Default)]
struct Call {
    attempt: u32,
    deadline: Option<Instant>,
    tenant: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Failed {
    Refused(Refusal),
    Broken,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Clone, Copy, Debug)]
struct Calls;

impl Classify<Call, u32, Failed> for Calls {
    fn refusal(&self, error: &Failed) -> Option<RefusalKind> {
        match error {
            Failed::Refused(refusal) => Some(refusal.kind()),
            Failed::Broken => None,
        }
    }

    fn outcome(&self, result: &Result<u32, Failed>) -> Outcome {
        if result.is_ok() {
            Outcome::Success
        } else {
            Outcome::Failure
        }
    }

    fn retry(&self, _: &Failed) -> RetryAdvice {
        RetryAdvice::IfIdempotent { after: None }
    }

    fn idempotent(&self, _: &Call) -> bool {
        true
    }

    fn deadline(&self, call: &Call) -> Option<Instant> {
        call.deadline
    }

    fn set_deadline(&self, call: &mut Call, deadline: Instant) {
        call.deadline = Some(deadline);
    }

    fn set_attempt(&self, call: &mut Call, attempt: u32) {
        call.attempt = attempt;
    }

    fn tenant(&self, call: &Call) -> u64 {
        call.tenant
    }
}

const SECOND: Duration = Duration::from_secs(1);
