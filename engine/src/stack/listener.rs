//! Policy events become the engine's events.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::{self as contract, Event, EventSink, PhaseName, PluginId, RefusedBy};
use orchestrator_policies::{BreakerState, Listener, PolicyEvent, RefusalKind};

use super::current::current;
use crate::bus::Bus;

/// Tells the bus what the policies of one phase do, or those that the phases
/// of a plugin share.
#[derive(Clone)]
pub(crate) struct PolicyListener {
    pub(crate) bus: Bus,
    pub(crate) plugin: PluginId,
    /// `None` for what the plugin's phases share.
    pub(crate) phase: Option<PhaseName>,
}

impl PolicyListener {
    pub(crate) fn shared(self) -> Arc<dyn Listener> {
        Arc::new(self)
    }

    fn phase(&self) -> PhaseName {
        self.phase.clone().unwrap_or_else(|| PhaseName::new(""))
    }

    fn translate(&self, event: &PolicyEvent) -> Option<Event> {
        let plugin = self.plugin.clone();
        if let PolicyEvent::BreakerChanged(change) = event {
            return Some(Event::BreakerChanged {
                plugin,
                phase: self.phase.clone(),
                sequence: change.sequence,
                from: state(change.from),
                to: state(change.to),
                reason: change.reason.as_str().into(),
            });
        }
        let call = current()?;
        let (run, step, phase) = (call.call().run, call.call().step.clone(), self.phase());
        Some(match event {
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
            PolicyEvent::Refused { by } => Event::CallRefused {
                run,
                step,
                plugin,
                phase,
                by: refused_by(*by)?,
            },
            _ => return None,
        })
    }
}

impl Listener for PolicyListener {
    fn on_event(&self, event: &PolicyEvent) {
        if let Some(event) = self.translate(event) {
            self.bus.emit(event);
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn state(state: BreakerState) -> contract::BreakerState {
    match state {
        BreakerState::Closed | BreakerState::ForcedClosed => contract::BreakerState::Closed,
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
        RefusalKind::AttemptTimeout | RefusalKind::Panicked => None,
    }
}
