//! Policy events become the engine's events.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::{
    self as contract, CallError, Event, EventSink, PhaseName, PluginId, RefusedBy,
};
use orchestrator_policies::{BreakerState, Listener, PolicyEvent, RefusalKind};

use super::classify::StackCall;
use crate::bus::Bus;

/// Tells the bus of calls.
#[derive(Clone)]
pub(crate) struct Teller(Bus);

impl Teller {
    pub(crate) fn new(bus: Bus) -> Self {
        Self(bus)
    }

    /// What a policy did with a call.
    pub(super) fn policy_acted(&self, request: &StackCall, event: &PolicyEvent) {
        let call = request.call();
        let (run, step) = (call.run, call.step.clone());
        let (plugin, phase) = (call.plugin.clone(), call.phase.clone());
        let event = match event {
            PolicyEvent::RetryScheduled { attempt, delay } => Event::CallRetried {
                run,
                step,
                plugin,
                phase,
                // Ours counts the attempt that failed.
                attempt: attempt.saturating_sub(1),
                delay_ms: millis(*delay),
            },
            PolicyEvent::RetryStopped { reason, .. } => Event::RetryGivenUp {
                run,
                step,
                plugin,
                phase,
                reason: reason.as_str().into(),
            },
            PolicyEvent::Refused { by, .. } => match refused_by(*by) {
                None => return,
                Some(by) => Event::CallRefused {
                    run,
                    step,
                    plugin,
                    phase,
                    by,
                },
            },
            other => return unexpected(other),
        };
        self.0.emit(event);
    }

    /// What answers, or does not, in place of a call that ended in `error`.
    pub(super) fn fell_back(
        &self,
        request: &StackCall,
        by: contract::FallbackKind,
        answered: bool,
        error: &CallError,
    ) {
        let call = request.call();
        self.0.emit(Event::CallFellBack {
            run: call.run,
            step: call.step.clone(),
            plugin: call.plugin.clone(),
            phase: call.phase.clone(),
            by,
            answered,
            error: error.kind(),
        });
    }

    /// How an attempt failed.
    pub(super) fn attempt_failed(&self, request: &StackCall, error: CallError) {
        let call = request.call();
        self.0.emit(Event::AttemptFailed {
            run: call.run,
            step: call.step.clone(),
            plugin: call.plugin.clone(),
            phase: call.phase.clone(),
            attempt: request.attempt(),
            error,
        });
    }
}

/// Tells the bus of the breaker that all phases of a plugin share, or that one
/// has for itself.
#[derive(Clone)]
pub(crate) struct BreakerListener {
    pub(crate) bus: Bus,
    pub(crate) plugin: PluginId,
    /// `None` for what the plugin's phases share.
    pub(crate) phase: Option<PhaseName>,
}

impl BreakerListener {
    pub(crate) fn shared(self) -> Arc<dyn Listener> {
        Arc::new(self)
    }
}

impl Listener for BreakerListener {
    fn on_event(&self, event: &PolicyEvent) {
        let (plugin, phase) = (self.plugin.clone(), self.phase.clone());
        let event = match event {
            PolicyEvent::BreakerChanged(change) => Event::BreakerChanged {
                plugin,
                phase,
                sequence: change.sequence,
                from: state(change.from),
                to: state(change.to),
                reason: change.reason.as_str().into(),
                enforced: change.enforced,
            },
            PolicyEvent::WouldRefuse { by, .. } => match refused_by(*by) {
                None => return,
                Some(by) => Event::CallWouldBeRefused { plugin, phase, by },
            },
            other => return unexpected(other),
        };
        self.bus.emit(event);
    }
}

/// A policy tells something here that it was not known to. Better a plain line
/// than silence.
#[cold]
pub(super) fn unexpected(event: &PolicyEvent) {
    tracing::warn!(?event, "a policy did something that has no event");
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn state(state: BreakerState) -> contract::BreakerState {
    match state {
        BreakerState::Closed | BreakerState::ForcedClosed | BreakerState::Disabled => {
            contract::BreakerState::Closed
        }
        BreakerState::Open | BreakerState::ForcedOpen => contract::BreakerState::Open,
        BreakerState::HalfOpen => contract::BreakerState::HalfOpen,
    }
}

/// Time-outs of an attempt and panics are failures of the plugin, which the
/// call's error tells; they refuse nothing.
fn refused_by(kind: RefusalKind) -> Option<RefusedBy> {
    match kind {
        RefusalKind::TotalTimeout => Some(RefusedBy::Deadline),
        RefusalKind::RateLimited => Some(RefusedBy::RateLimit),
        RefusalKind::CircuitOpen => Some(RefusedBy::Breaker),
        RefusalKind::Overloaded => Some(RefusedBy::Bulkhead),
        RefusalKind::Shed => Some(RefusedBy::Shed),
        RefusalKind::AttemptTimeout | RefusalKind::Panicked => None,
        // No stack of ours has such a policy.
        _ => None,
    }
}
