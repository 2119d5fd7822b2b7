//! Where a plugin stands in its life, and where it may go from there.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use orchestrator_contract::{DenialRule, Event, EventSink, PluginId, PluginState};
use serde::Serialize;
use tokio::sync::Notify;

use crate::{
    PluginProblem,
    moment::{Moment, now_ms},
};

/// How many changes are remembered.
const HISTORY_MAX: usize = 64;

/// One change of a plugin's state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StateChange {
    /// The state from then on.
    pub state: PluginState,
    /// When it changed, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
    /// Why, for people.
    pub reason: Arc<str>,
}

/// The last thing that went wrong, also when the plugin has recovered since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastProblem {
    /// When, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
    /// What, for people.
    pub message: Arc<str>,
}

/// The change is not one that a plugin's life has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Illegal {
    pub(crate) from: PluginState,
    pub(crate) to: PluginState,
}

/// Whether a plugin in state `from` may come to be in state `to`.
pub(crate) fn is_legal(from: PluginState, to: PluginState) -> bool {
    use PluginState::{
        CrashLoop, Disabled, Discovered, Error, Initialized, Loaded, Running, Starting, Stopped,
        Stopping, Unloaded, Verified,
    };
    match from {
        Discovered => matches!(to, Verified | Error | Unloaded),
        Verified => matches!(to, Loaded | Error | Unloaded),
        Loaded => matches!(to, Initialized | Disabled | Stopping | Error),
        Initialized => matches!(to, Starting | Disabled | Stopping | Error),
        // Back to Initialized when a start was given up and may be tried again.
        Starting => matches!(
            to,
            Running | Initialized | Disabled | Stopping | Error | CrashLoop
        ),
        Running => matches!(to, Starting | Disabled | Stopping | Error | CrashLoop),
        // Back to where it was disabled.
        Disabled => matches!(
            to,
            Loaded | Initialized | Starting | Running | Stopping | Error | CrashLoop
        ),
        Stopping => matches!(to, Stopped | Error),
        Stopped => matches!(to, Loaded | Unloaded),
        Error => matches!(to, Loaded | Disabled | Stopping | Unloaded),
        CrashLoop => matches!(to, Loaded | Disabled | Stopping),
        Unloaded => false,
    }
}

/// One plugin's state, its history, and the events that go with it.
pub(crate) struct Lifecycle {
    plugin: PluginId,
    version: Arc<str>,
    events: Arc<dyn EventSink>,
    /// Whether it has never served yet and another one does.
    on_trial: AtomicBool,
    /// Whether nobody is told, because another one of its version serves.
    quiet: AtomicBool,
    /// Whether the state is `Running`, for the hot path.
    running: AtomicBool,
    record: Mutex<Record>,
    /// Told of every change of the state.
    changed: Notify,
}

struct Record {
    state: PluginState,
    /// Since when that is so.
    since: Moment,
    /// What becomes of the plugin when it is enabled again.
    resume: Option<PluginState>,
    /// Why the plugin does not run, until it does.
    problem: Option<PluginProblem>,
    /// What went wrong last, whatever came of it.
    last_problem: Option<LastProblem>,
    history: VecDeque<StateChange>,
}

impl Lifecycle {
    /// A plugin whose manifest was read. One that is on trial keeps to itself what
    /// becomes of it until it [serves](Self::serves).
    pub(crate) fn new(
        plugin: PluginId,
        version: Arc<str>,
        events: Arc<dyn EventSink>,
        on_trial: bool,
    ) -> Self {
        let this = Self {
            plugin,
            version,
            events,
            on_trial: AtomicBool::new(on_trial),
            quiet: AtomicBool::new(on_trial),
            running: AtomicBool::new(false),
            record: Mutex::new(Record {
                state: PluginState::Discovered,
                since: Moment::now(),
                resume: None,
                problem: None,
                last_problem: None,
                history: VecDeque::new(),
            }),
            changed: Notify::new(),
        };
        let reason: Arc<str> = "its manifest was read".into();
        this.note(&mut this.lock(), PluginState::Discovered, &reason);
        this.tell(PluginState::Discovered, reason);
        this
    }

    /// Whether it has never served yet and another one does.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.on_trial.load(Ordering::Acquire)
    }

    /// Tells everybody from now on, beginning with the present state.
    pub(crate) fn serves(&self) {
        self.on_trial.store(false, Ordering::Release);
        self.quiet.store(false, Ordering::Release);
        let last = self.lock().history.back().cloned();
        if let Some(last) = last {
            self.tell(last.state, last.reason);
        }
    }

    /// Tells nobody any more.
    pub(crate) fn falls_silent(&self) {
        self.quiet.store(true, Ordering::Release);
    }

    pub(crate) fn state(&self) -> PluginState {
        self.lock().state
    }

    /// Whether the plugin has come to an end that no call can change.
    pub(crate) fn is_out_of_service(&self) -> bool {
        use PluginState::{Error, Stopped, Stopping, Unloaded};
        matches!(self.state(), Error | Stopping | Stopped | Unloaded)
    }

    /// Waits until that is so.
    pub(crate) async fn out_of_service(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_out_of_service() {
                return;
            }
            changed.await;
        }
    }

    /// Whether calls can be made without asking further.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Why the plugin does not run.
    pub(crate) fn problem(&self) -> Option<PluginProblem> {
        self.lock().problem.clone()
    }

    /// Changes the state to `to`, which is `Error` or `CrashLoop`, and keeps why.
    pub(crate) fn fail(&self, to: PluginState, problem: PluginProblem) {
        let reason = problem.message.clone();
        self.note_problem(&reason);
        self.lock().problem = Some(problem);
        // A plugin that is being stopped meanwhile has no further use for the change.
        let _ = self.go(to, &reason);
    }

    /// Keeps what went wrong, which changes nothing.
    pub(crate) fn note_problem(&self, message: &str) {
        self.lock().last_problem = Some(LastProblem {
            at_ms: now_ms(),
            message: message.into(),
        });
    }

    /// What went wrong last, also when the plugin runs again.
    pub(crate) fn last_problem(&self) -> Option<LastProblem> {
        self.lock().last_problem.clone()
    }

    /// Since when the plugin runs.
    pub(crate) fn running_since(&self) -> Option<Moment> {
        let record = self.lock();
        (record.state == PluginState::Running).then_some(record.since)
    }

    pub(crate) fn history(&self) -> Vec<StateChange> {
        self.lock().history.iter().cloned().collect()
    }

    /// Changes the state and tells everybody. While the plugin is disabled, changes
    /// between its working states are remembered and take effect when it is enabled.
    ///
    /// # Errors
    ///
    /// When a plugin's life has no such change; nothing is changed then.
    pub(crate) fn go(&self, to: PluginState, reason: &str) -> Result<(), Illegal> {
        let reason: Arc<str> = reason.into();
        {
            let mut record = self.lock();
            let from = record.state;
            if from == to {
                return Ok(());
            }
            if from == PluginState::Disabled && is_working(to) {
                record.resume = Some(to);
                return Ok(());
            }
            if !is_legal(from, to) {
                return Err(Illegal { from, to });
            }
            if to == PluginState::Disabled {
                record.resume = Some(from);
            }
            self.note(&mut record, to, &reason);
        }
        self.tell(to, reason);
        Ok(())
    }

    /// Keeps the plugin from taking calls until it is enabled.
    ///
    /// # Errors
    ///
    /// When it has come to an end.
    pub(crate) fn disable(&self) -> Result<(), Illegal> {
        self.go(PluginState::Disabled, "disabled by an operator")
    }

    /// Ends [`PluginState::Disabled`] and returns the state that it goes on with.
    ///
    /// # Errors
    ///
    /// When the plugin is not disabled.
    pub(crate) fn enable(&self) -> Result<PluginState, Illegal> {
        let reason: Arc<str> = "enabled by an operator".into();
        let to = {
            let mut record = self.lock();
            if record.state != PluginState::Disabled {
                let (from, to) = (record.state, PluginState::Running);
                return Err(Illegal { from, to });
            }
            let to = record.resume.take().unwrap_or(PluginState::Loaded);
            self.note(&mut record, to, &reason);
            to
        };
        self.tell(to, reason);
        Ok(to)
    }

    fn note(&self, record: &mut Record, state: PluginState, reason: &Arc<str>) {
        record.state = state;
        record.since = Moment::now();
        if matches!(state, PluginState::Loaded | PluginState::Running) {
            record.problem = None;
        }
        self.running
            .store(state == PluginState::Running, Ordering::Release);
        if record.history.len() == HISTORY_MAX {
            record.history.pop_front();
        }
        record.history.push_back(StateChange {
            state,
            at_ms: record.since.shown(),
            reason: Arc::clone(reason),
        });
        self.changed.notify_waiters();
    }

    /// The embedding program did not let it do what `resource` says.
    pub(crate) fn denied(&self, resource: &str) {
        self.events.emit(Event::CapabilityDenied {
            plugin: self.plugin.clone(),
            capability: Arc::default(),
            resource: resource.into(),
            rule: DenialRule::Vetoed,
            suppressed: 0,
        });
    }

    fn tell(&self, state: PluginState, reason: Arc<str>) {
        if self.quiet.load(Ordering::Acquire) {
            return;
        }
        self.events.emit(Event::PluginStateChanged {
            plugin: self.plugin.clone(),
            version: Arc::clone(&self.version),
            state,
            reason,
        });
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// States that a process moves through by itself, also while it is disabled.
fn is_working(state: PluginState) -> bool {
    use PluginState::{CrashLoop, Error, Initialized, Loaded, Running, Starting};
    matches!(
        state,
        Loaded | Initialized | Starting | Running | Error | CrashLoop
    )
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::NoEvents;

    use super::*;

    fn lifecycle() -> Lifecycle {
        Lifecycle::new("p".into(), "1.0.0".into(), Arc::new(NoEvents), false)
    }

    /// The whole table: every pair that is not listed is refused.
    #[test]
    fn only_the_documented_changes_are_legal() {
        use PluginState::*;
        let legal = [
            (Discovered, Verified),
            (Discovered, Error),
            (Discovered, Unloaded),
            (Verified, Loaded),
            (Verified, Error),
            (Verified, Unloaded),
            (Loaded, Initialized),
            (Loaded, Disabled),
            (Loaded, Stopping),
            (Loaded, Error),
            (Initialized, Starting),
            (Initialized, Disabled),
            (Initialized, Stopping),
            (Initialized, Error),
            (Starting, Running),
            (Starting, Initialized),
            (Starting, Disabled),
            (Starting, Stopping),
            (Starting, Error),
            (Starting, CrashLoop),
            (Running, Starting),
            (Running, Disabled),
            (Running, Stopping),
            (Running, Error),
            (Running, CrashLoop),
            (Disabled, Loaded),
            (Disabled, Initialized),
            (Disabled, Starting),
            (Disabled, Running),
            (Disabled, Stopping),
            (Disabled, Error),
            (Disabled, CrashLoop),
            (Stopping, Stopped),
            (Stopping, Error),
            (Stopped, Loaded),
            (Stopped, Unloaded),
            (Error, Loaded),
            (Error, Disabled),
            (Error, Stopping),
            (Error, Unloaded),
            (CrashLoop, Loaded),
            (CrashLoop, Disabled),
            (CrashLoop, Stopping),
        ];
        for from in PluginState::ALL {
            for to in PluginState::ALL {
                let listed = legal.contains(&(*from, *to));
                assert_eq!(is_legal(*from, *to), listed, "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn an_illegal_change_changes_nothing() {
        let life = lifecycle();
        let refused = life.go(PluginState::Running, "too early");
        let (from, to) = (PluginState::Discovered, PluginState::Running);
        assert_eq!(refused, Err(Illegal { from, to }));
        assert_eq!(life.state(), PluginState::Discovered);
        assert_eq!(life.history().len(), 1);
    }

    #[test]
    fn a_disabled_plugin_comes_back_where_its_process_is_by_then() {
        use PluginState::{CrashLoop, Disabled, Initialized, Loaded, Running, Starting, Verified};
        let life = lifecycle();
        for state in [Verified, Loaded, Initialized, Starting, Running, Disabled] {
            life.go(state, "").unwrap();
        }
        assert_eq!(life.enable(), Ok(Running));
        life.go(Disabled, "").unwrap();
        life.go(CrashLoop, "it ended").unwrap();
        assert_eq!(life.state(), Disabled);
        assert_eq!(life.enable(), Ok(CrashLoop));
        assert!(life.enable().is_err());
    }

    #[test]
    fn the_history_is_bounded() {
        let life = lifecycle();
        use PluginState::{Disabled, Loaded, Verified};
        life.go(Verified, "").unwrap();
        life.go(Loaded, "").unwrap();
        for _ in 0..100 {
            life.go(Disabled, "").unwrap();
            life.enable().unwrap();
        }
        assert_eq!(life.history().len(), HISTORY_MAX);
    }
}
