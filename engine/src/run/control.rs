//! Ends a run from outside of its driver.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use orchestrator_contract::RunId;
use tokio::sync::{Notify, watch};

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

/// The runs that this engine drives. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveRuns(Arc<List>);

#[derive(Debug, Default)]
struct List {
    runs: Mutex<HashMap<RunId, watch::Sender<Option<String>>>>,
    left: Notify,
    given_up: Mutex<GivenUp>,
}

/// The runs that were left and that this engine does not go on with by itself.
#[derive(Debug, Default)]
struct GivenUp {
    runs: HashSet<RunId>,
    all: bool,
}

/// Takes the run off the list when it is dropped. Unless it was told that the
/// run is [over](Self::over), somebody should look what became of it.
#[derive(Debug)]
pub(crate) struct ActiveGuard {
    runs: ActiveRuns,
    run: RunId,
    over: bool,
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
        self.given_up().runs.remove(&run);
        let guard = ActiveGuard {
            runs: self.clone(),
            run,
            over: false,
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

    /// Whether a run is on the list.
    pub(crate) fn contains(&self, run: RunId) -> bool {
        self.lock().contains_key(&run)
    }

    /// Takes note that a run that was left stays so.
    pub(crate) fn give_up(&self, run: RunId) {
        self.given_up().runs.insert(run);
    }

    /// Takes note that no run that was left is gone on with any more.
    pub(crate) fn give_up_all(&self) {
        self.given_up().all = true;
    }

    /// Whether a run is not on the list and will not come back by itself.
    pub(crate) fn is_given_up(&self, run: RunId) -> bool {
        let given_up = self.given_up();
        let is_given_up = given_up.all || given_up.runs.contains(&run);
        drop(given_up);
        is_given_up && !self.contains(run)
    }

    fn given_up(&self) -> MutexGuard<'_, GivenUp> {
        let given_up = self.0.given_up.lock();
        given_up.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a run was taken off the list that may not be over. One
    /// wait answers for all runs before it.
    pub(crate) async fn left(&self) {
        self.0.left.notified().await;
    }

    /// How many runs are on the list.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, watch::Sender<Option<String>>>> {
        // A map is never left half changed, so a panic elsewhere does no harm.
        let runs = self.0.runs.lock();
        runs.unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActiveGuard {
    /// Takes the run off the list; nothing is left to do about it.
    pub(crate) fn over(mut self) {
        self.over = true;
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.runs.lock().remove(&self.run);
        if !self.over {
            self.runs.0.left.notify_one();
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_run_that_is_not_over_is_told_of() {
        let runs = ActiveRuns::default();
        let run = RunId::from_parts(0, 1);
        let told = async || {
            let wait = std::time::Duration::from_secs(1);
            tokio::time::timeout(wait, runs.left()).await.is_ok()
        };
        runs.enter(run).unwrap().0.over();
        assert!(!runs.contains(run));
        assert!(!told().await);

        let (guard, _control) = runs.enter(run).unwrap();
        assert!(runs.contains(run));
        drop(guard);
        assert!(told().await);
    }
}
