//! What the policies may ask of a phase call, and what its result means.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{self as contract, CallError, Fault, PhaseCall, PhaseReply};
use orchestrator_policies::{Classify, Outcome, Refusal, RefusalKind, RetryAdvice, TimeoutScope};
use tokio::time::Instant;

/// A call on its way through a stack.
#[derive(Clone, Debug)]
pub(crate) struct StackCall {
    /// The call as the plugin will see it.
    pub(crate) call: PhaseCall,
    /// Whether doing it twice does no more than doing it once.
    pub(crate) idempotent: bool,
    attempts: Arc<Attempts>,
}

/// Counts the attempts of one call, also those before a resume.
#[derive(Debug)]
struct Attempts {
    before: u32,
    now: AtomicU32,
}

impl StackCall {
    /// A call whose next attempt is `call.attempt`.
    pub(crate) fn new(call: PhaseCall, idempotent: bool) -> Self {
        let before = call.attempt.saturating_sub(1);
        let attempts = Arc::new(Attempts {
            before,
            now: AtomicU32::new(before),
        });
        Self {
            call,
            idempotent,
            attempts,
        }
    }

    /// Reads how many attempts were made, while the stack has the call.
    pub(crate) fn attempts(&self) -> impl Fn() -> u32 + Send + use<> {
        let attempts = Arc::clone(&self.attempts);
        move || attempts.now.load(Ordering::Relaxed)
    }

    /// Takes note that an attempt reaches the plugin.
    pub(crate) fn attempted(&self) {
        self.attempts
            .now
            .store(self.call.attempt, Ordering::Relaxed);
    }
}

/// An error within a stack: a policy's or the plugin's.
#[derive(Clone, Debug)]
pub(crate) enum StackError {
    Refused(Refusal),
    Plugin(CallError),
}

impl From<Refusal> for StackError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StackError> for CallError {
    fn from(error: StackError) -> Self {
        match error {
            StackError::Plugin(error) => error,
            StackError::Refused(refusal) => refused(refusal),
        }
    }
}

fn refused(refusal: Refusal) -> CallError {
    match refusal {
        Refusal::Timeout { scope, limit } => CallError::Timeout {
            scope: match scope {
                TimeoutScope::Total => contract::TimeoutScope::Total,
                TimeoutScope::Attempt => contract::TimeoutScope::Attempt,
            },
            limit_ms: millis(limit),
        },
        Refusal::Overloaded { limit, .. } => CallError::Overloaded {
            limit: limit as u64,
        },
        Refusal::RateLimited { retry_after } => CallError::RateLimited {
            retry_after_ms: millis(retry_after),
        },
        Refusal::CircuitOpen { retry_after } => CallError::CircuitOpen {
            retry_after_ms: millis(retry_after),
        },
        Refusal::Panicked { message } => CallError::Panic { message },
    }
}

/// Whole milliseconds, rounded up so that nobody comes back too early.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Tells the policies about phase calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PhaseClassify;

impl Classify<StackCall, PhaseReply, StackError> for PhaseClassify {
    fn refusal(&self, error: &StackError) -> Option<RefusalKind> {
        match error {
            StackError::Refused(refusal) => Some(refusal.kind()),
            StackError::Plugin(_) => None,
        }
    }

    fn outcome(&self, result: &Result<PhaseReply, StackError>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            // Only time-outs and panics are asked about.
            Err(StackError::Refused(_)) => Outcome::Failure,
            Err(StackError::Plugin(error)) => match (error.fault(), error) {
                (Fault::Plugin, _) => Outcome::Failure,
                // It answered as it should, if not what one hoped for.
                (_, CallError::PluginPermanent { .. } | CallError::InvalidInput { .. }) => {
                    Outcome::Success
                }
                (Fault::Caller | Fault::Host, _) => Outcome::Ignore,
            },
        }
    }

    fn retry(&self, error: &StackError) -> RetryAdvice {
        let advice = match error {
            StackError::Plugin(error) => error.retry(),
            StackError::Refused(_) => contract::RetryAdvice::IfIdempotent { after: None },
        };
        match advice {
            contract::RetryAdvice::Never => RetryAdvice::Never,
            contract::RetryAdvice::IfIdempotent { after } => RetryAdvice::IfIdempotent { after },
            contract::RetryAdvice::NotStarted => RetryAdvice::NotStarted { after: None },
        }
    }

    fn idempotent(&self, request: &StackCall) -> bool {
        request.idempotent
    }

    fn deadline(&self, request: &StackCall) -> Option<Instant> {
        request.call.deadline.map(Instant::from_std)
    }

    fn set_deadline(&self, request: &mut StackCall, deadline: Instant) {
        request.call.deadline = Some(deadline.into_std());
    }

    fn set_attempt(&self, request: &mut StackCall, attempt: u32) {
        request.call.attempt = request.attempts.before + attempt;
    }

    fn tenant(&self, request: &StackCall) -> u64 {
        request.call.tenant.as_ref().map_or(0, |tenant| {
            let mut hasher = DefaultHasher::new();
            tenant.hash(&mut hasher);
            hasher.finish()
        })
    }
}
