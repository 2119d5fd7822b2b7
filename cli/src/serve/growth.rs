//! Tells event streams that their run has more records, where nobody else does:
//! the run may be in another process. One look a second serves all of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use orchestrator_contract::RunId;
use orchestrator_engine::RunHistory;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// How often the journal is looked at.
const POLL: Duration = Duration::from_secs(1);

/// The runs that somebody follows, and the last record that was seen of each.
#[derive(Debug, Default)]
pub(super) struct Growth(Mutex<HashMap<RunId, watch::Sender<u64>>>);

impl Growth {
    /// Changes when the run has more records than before; closed when the run is
    /// gone.
    pub(super) fn of(&self, run: RunId) -> watch::Receiver<u64> {
        let mut runs = self.lock();
        let sender = runs.entry(run).or_insert_with(|| watch::Sender::new(0));
        sender.subscribe()
    }

    /// Looks for as long as it is polled, and only while somebody follows a run.
    pub(super) async fn keep_looking(&self, history: &RunHistory) {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let followed = self.followed();
            if followed.is_empty() {
                continue;
            }
            match history.last_records(followed.clone()).await {
                Ok(last) => self.tell(&followed, &last),
                Err(error) => tracing::warn!(%error, "runs that are followed cannot be looked at"),
            }
        }
    }

    /// Forgets the runs that nobody follows any more.
    fn followed(&self) -> Vec<RunId> {
        let mut runs = self.lock();
        runs.retain(|_, sender| sender.receiver_count() > 0);
        runs.keys().copied().collect()
    }

    fn tell(&self, followed: &[RunId], last: &BTreeMap<RunId, u64>) {
        let mut runs = self.lock();
        for run in followed {
            let Some(last) = last.get(run) else {
                runs.remove(run);
                continue;
            };
            if let Some(sender) = runs.get(run) {
                sender.send_if_modified(|seen| std::mem::replace(seen, *last) != *last);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, watch::Sender<u64>>> {
        // A map is never left half changed, so a panic elsewhere does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_hear_of_growth_and_of_the_end_and_are_forgotten() {
        let (growth, run) = (Growth::default(), RunId::from_parts(1, 1));
        let (mut one, two) = (growth.of(run), growth.of(run));
        assert_eq!(growth.followed(), [run]);
        growth.tell(&[run], &[(run, 3)].into());
        assert!(one.has_changed().unwrap() && two.has_changed().unwrap());
        one.mark_unchanged();
        growth.tell(&[run], &[(run, 3)].into());
        assert!(!one.has_changed().unwrap());
        drop(one);
        assert_eq!(growth.followed(), [run]);
        growth.tell(&[run], &BTreeMap::new());
        assert!(two.has_changed().is_err(), "the run is gone");
        drop(growth.of(run));
        assert!(growth.followed().is_empty());
    }
}
