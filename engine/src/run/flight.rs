//! A run in this engine, as those see it who listen to events.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use orchestrator_contract::{Event, EventSink, RunId, RunOutcome};

use crate::{bus::Bus, journal::RunState};

/// Tells that a run is in flight and, once, that it no longer is. Whoever
/// counts runs in flight counts right, however a driver ends.
pub(crate) struct Flight {
    bus: Bus,
    run: RunId,
    pipeline: Arc<str>,
    over: AtomicBool,
}

impl Flight {
    /// Tells of the start.
    pub(crate) fn start(bus: &Bus, state: &RunState, resumed: bool) -> Arc<Self> {
        let pipeline = &state.created.pipeline;
        bus.emit(Event::RunStarted {
            run: state.run,
            pipeline: Arc::clone(pipeline),
            session: state.created.session,
            trace: state.created.trace,
            resumed,
        });
        Arc::new(Self {
            bus: bus.clone(),
            run: state.run,
            pipeline: Arc::clone(pipeline),
            over: AtomicBool::new(false),
        })
    }

    /// Tells of the run's end.
    pub(crate) fn finished(&self, outcome: RunOutcome, duration_ms: u64) {
        self.over(|run, pipeline| Event::RunFinished {
            run,
            pipeline,
            outcome,
            duration_ms,
        });
    }

    /// Tells that the run goes no further here, unless it has ended.
    pub(crate) fn left(&self, reason: &str) {
        self.over(|run, pipeline| Event::RunLeft {
            run,
            pipeline,
            reason: reason.into(),
        });
    }

    fn over(&self, event: impl FnOnce(RunId, Arc<str>) -> Event) {
        if !self.over.swap(true, Ordering::Relaxed) {
            self.bus.emit(event(self.run, Arc::clone(&self.pipeline)));
        }
    }
}
