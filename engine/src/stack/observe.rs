//! What is noted of every call, and of every attempt that reaches the plugin.

use std::task::{Context, Poll};

use orchestrator_contract::{CallError, ErrorKind, PhaseReply};
use orchestrator_observability::{InFlight, PhaseMetrics};
use orchestrator_policies::{
    Admission, PolicyEvent, Refusal,
    admission::{Call, End},
    clock::Instant,
};

use super::{
    classify::{StackCall, StackError},
    listener::Teller,
};

/// Counts and times every call, refusals included, and tells what the policies
/// do with it.
#[derive(Clone)]
pub(crate) struct ObserveCalls {
    metrics: PhaseMetrics,
    teller: Teller,
}

impl ObserveCalls {
    pub(crate) fn new(metrics: PhaseMetrics, teller: Teller) -> Self {
        Self { metrics, teller }
    }
}

/// A call that is being observed.
#[derive(Default)]
pub(crate) struct Observed(Option<Observation>);

struct Observation {
    call: StackCall,
    started: Instant,
    _in_flight: InFlight,
}

impl Admission<StackCall, PhaseReply, StackError> for ObserveCalls {
    type Hold = Observed;

    fn poll_admit(
        &self,
        hold: &mut Observed,
        call: &mut Call,
        request: &StackCall,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        hold.0 = Some(Observation {
            call: request.clone(),
            started: call.now(),
            _in_flight: self.metrics.in_flight(),
        });
        Poll::Ready(Ok(()))
    }

    /// Also of a call that is dropped, so that an abandoned one is counted too.
    fn settle(&self, hold: &mut Observed, call: &mut Call, end: &End<'_, PhaseReply, StackError>) {
        if let Some(observation) = hold.0.take() {
            let took = call.now() - observation.started;
            self.metrics.executed(took, error_kind(end));
        }
    }

    fn on_event(&self, hold: &mut Observed, event: &PolicyEvent) {
        if let Some(observation) = &hold.0 {
            self.teller.policy_acted(&observation.call, event);
        }
    }
}

fn error_kind(end: &End<'_, PhaseReply, StackError>) -> Option<ErrorKind> {
    match end {
        End::Answered { result, .. } => result.as_ref().err().map(|error| match error {
            StackError::Plugin(error) => error.kind(),
            StackError::Refused(_) => CallError::from(error.clone()).kind(),
        }),
        End::Dropped => Some(ErrorKind::Cancelled),
        End::Panicked => Some(ErrorKind::Panic),
    }
}

/// Takes note of every attempt that reaches the plugin, and of why it failed.
///
/// The call's own error may be another one: of a call whose circuit opened
/// between two attempts it says just that.
#[derive(Clone)]
pub(crate) struct ObserveAttempts {
    metrics: PhaseMetrics,
    teller: Teller,
}

impl ObserveAttempts {
    pub(crate) fn new(metrics: PhaseMetrics, teller: Teller) -> Self {
        Self { metrics, teller }
    }
}

impl Admission<StackCall, PhaseReply, StackError> for ObserveAttempts {
    /// The attempt that is made.
    type Hold = Option<StackCall>;

    fn poll_admit(
        &self,
        hold: &mut Option<StackCall>,
        _: &mut Call,
        request: &StackCall,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        request.attempted();
        self.metrics.attempted();
        *hold = Some(request.clone());
        Poll::Ready(Ok(()))
    }

    fn settle(
        &self,
        hold: &mut Option<StackCall>,
        _: &mut Call,
        end: &End<'_, PhaseReply, StackError>,
    ) {
        if let (
            Some(request),
            End::Answered {
                result: Err(error), ..
            },
        ) = (hold.take(), end)
        {
            self.teller.attempt_failed(&request, error.clone().into());
        }
    }
}
