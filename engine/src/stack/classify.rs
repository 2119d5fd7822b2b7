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
use orchestrator_policies::{
    AttemptBudget, Classify, Criticality, Outcome, Refusal, RefusalKind, RetryAdvice, TimeoutScope,
    clock::Instant,
};
use tokio::sync::Notify;

/// A call on its way through a stack. What the policies change lies beside the
/// call, so that a copy, of which a retry keeps one, is a pointer and not the
/// call.
#[derive(Clone, Debug)]
pub(crate) struct StackCall {
    sheet: Arc<Sheet>,
    /// Which try this is, those before a resume included.
    attempt: u32,
    deadline: Option<Instant>,
}

/// What stays the same for all attempts.
#[derive(Debug)]
struct Sheet {
    /// The call as its first attempt was asked.
    call: PhaseCall,
    idempotent: bool,
    /// The last attempt that reached the plugin.
    made: AtomicU32,
    /// Who is told that there is another attempt than the first.
    again: Option<Arc<Notify>>,
    /// The further attempts that are left to the step, and to what it calls.
    cap: Option<AttemptBudget>,
}

impl StackCall {
    /// A call whose next attempt is `call.attempt`. `idempotent` says whether
    /// doing it twice does no more than doing it once.
    pub(crate) fn new(call: PhaseCall, idempotent: bool) -> Self {
        Self::make(call, idempotent, None, None)
    }

    /// The same for a step, whose further attempts are paid for out of `cap`,
    /// and of each of which `again` is told.
    pub(crate) fn of_step(
        call: PhaseCall,
        idempotent: bool,
        again: Arc<Notify>,
        cap: AttemptBudget,
    ) -> Self {
        Self::make(call, idempotent, Some(again), Some(cap))
    }

    /// A call in place of another one that failed, and under the same cap.
    pub(crate) fn in_place(call: PhaseCall, idempotent: bool, cap: AttemptBudget) -> Self {
        Self::make(call, idempotent, None, Some(cap))
    }

    fn make(
        call: PhaseCall,
        idempotent: bool,
        again: Option<Arc<Notify>>,
        cap: Option<AttemptBudget>,
    ) -> Self {
        Self {
            attempt: call.attempt,
            deadline: call
                .deadline
                .map(|at| Instant::from_tokio(tokio::time::Instant::from_std(at))),
            sheet: Arc::new(Sheet {
                made: AtomicU32::new(call.attempt.saturating_sub(1)),
                idempotent,
                again,
                cap,
                call,
            }),
        }
    }

    /// The call as it was asked; attempt and deadline may have moved on.
    pub(crate) fn call(&self) -> &PhaseCall {
        &self.sheet.call
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The call as the plugin is asked now.
    pub(crate) fn into_call(self) -> PhaseCall {
        PhaseCall {
            attempt: self.attempt,
            deadline: self.deadline.map(|at| at.into_tokio().into_std()),
            ..self.sheet.call.clone()
        }
    }

    /// What is left of the cap that its step is under.
    pub(crate) fn cap(&self) -> Option<AttemptBudget> {
        self.sheet.cap.clone()
    }

    /// Reads how many attempts were made, while the stack has the call.
    pub(crate) fn attempts(&self) -> Attempts {
        Attempts(Arc::clone(&self.sheet))
    }

    /// Takes note that an attempt reaches the plugin.
    pub(crate) fn attempted(&self) {
        self.sheet.made.store(self.attempt, Ordering::Relaxed);
        if self.attempt > self.sheet.call.attempt
            && let Some(again) = &self.sheet.again
        {
            again.notify_one();
        }
    }
}

/// Counts the attempts at a call, those before a resume included.
#[derive(Clone, Debug)]
pub(crate) struct Attempts(Arc<Sheet>);

impl Attempts {
    /// How many reached the plugin by now.
    pub(crate) fn made(&self) -> u32 {
        self.0.made.load(Ordering::Relaxed)
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
        Refusal::Overloaded { limit, .. } | Refusal::Shed { limit, .. } => CallError::Overloaded {
            limit: limit as u64,
        },
        Refusal::RateLimited { retry_after } => CallError::RateLimited {
            retry_after_ms: millis(retry_after),
        },
        Refusal::CircuitOpen { retry_after } => CallError::CircuitOpen {
            retry_after_ms: millis(retry_after),
        },
        Refusal::Panicked { message } => CallError::Panic { message },
        // No stack of ours has such a policy. It was not started, like one for
        // which there is no room.
        _ => CallError::Overloaded { limit: 0 },
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
        request.sheet.idempotent
    }

    fn deadline(&self, request: &StackCall) -> Option<Instant> {
        request.deadline
    }

    fn set_deadline(&self, request: &mut StackCall, deadline: Instant) {
        request.deadline = Some(deadline);
    }

    fn attempts_made(&self, request: &StackCall) -> u32 {
        request.sheet.call.attempt.saturating_sub(1)
    }

    fn set_attempt(&self, request: &mut StackCall, attempt: u32) {
        request.attempt = attempt;
    }

    fn attempt_budget(&self, request: &StackCall) -> Option<AttemptBudget> {
        request.cap()
    }

    fn criticality(&self, request: &StackCall) -> Criticality {
        match request.call().criticality {
            contract::Criticality::Sheddable => Criticality::Sheddable,
            contract::Criticality::SheddablePlus => Criticality::SheddablePlus,
            contract::Criticality::Critical => Criticality::Critical,
            contract::Criticality::CriticalPlus => Criticality::CriticalPlus,
        }
    }

    fn tenant(&self, request: &StackCall) -> u64 {
        request.call().tenant.as_ref().map_or(0, |tenant| {
            let mut hasher = DefaultHasher::new();
            tenant.hash(&mut hasher);
            hasher.finish()
        })
    }
}
