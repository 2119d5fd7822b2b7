//! Ends a run from outside of its driver.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use orchestrator_contract::RunId;
use tokio::sync::watch;

/// The driver's end: tells when the run is to be cancelled, and why.
#[derive(Clone, Debug)]
pub(crate) struct Control(watch::Receiver<Option<String>>);

impl Control {
    /// Waits until somebody cancels the run. Nobody may ever.
    pub(crate) async fn cancelled(&mut self) -> String {
        // The guard of the value must be gone before the next await.
        let reason = self
            .0
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|value| value.clone());
        match reason {
            Some(reason) => reason,
            // Nobody is left who could cancel.
            None => std::future::pending().await,
        }
    }
}

/// The runs that this engine drives.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveRuns(Arc<Mutex<HashMap<RunId, watch::Sender<Option<String>>>>>);

/// Takes the run off the list when it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveGuard {
    runs: ActiveRuns,
    run: RunId,
}

impl ActiveRuns {
    /// Puts a run on the list. `None` when it is there already.
    pub(crate) fn enter(&self, run: RunId) -> Option<(ActiveGuard, Control)> {
        let (sender, receiver) = watch::channel(None);
        let mut runs = self.lock();
        if runs.contains_key(&run) {
            return None;
        }
        runs.insert(run, sender);
        drop(runs);
        let guard = ActiveGuard {
            runs: self.clone(),
            run,
        };
        Some((guard, Control(receiver)))
    }

    /// Cancels a run. Returns whether it is on the list. The first reason stays.
    pub(crate) fn cancel(&self, run: RunId, reason: &str) -> bool {
        let runs = self.lock();
        let Some(sender) = runs.get(&run) else {
            return false;
        };
        sender.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason.to_owned());
            }
            first
        });
        true
    }

    /// How many runs are on the list.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, watch::Sender<Option<String>>>> {
        // A map is never left half changed, so a panic elsewhere does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.runs.lock().remove(&self.run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cancel_reaches_its_run_and_no_other() {
        let runs = ActiveRuns::default();
        let (one, two) = (RunId::from_parts(0, 1), RunId::from_parts(0, 2));
        let (guard, mut control) = runs.enter(one).unwrap();
        let (_other, mut other) = runs.enter(two).unwrap();
        assert!(runs.enter(one).is_none(), "a run is driven once");

        assert!(runs.cancel(one, "enough"));
        assert!(runs.cancel(one, "again"));

        assert_eq!(control.cancelled().await, "enough");
        let wait = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, other.cancelled()).await.is_err());
        drop(guard);
        assert!(!runs.cancel(one, "late"));
        assert_eq!(runs.len(), 1);
    }
}
