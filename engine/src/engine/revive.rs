//! Goes on with runs that their driver left.
//!
//! A driver fails when the journal refuses a record, or by a mistake of ours.
//! Its run stays open and belongs to this engine for as long as that lives, so
//! nobody else may go on with it.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Shared, resume};
use crate::{
    error::EngineError,
    journal::{JournalError, OpenRun},
};

/// The wait before runs are looked for. Doubles with each time that follows
/// soon, for what failed a moment ago is likely to fail again.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What became of the runs that were left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Revived {
    /// All that can be is driven again.
    All,
    /// Some may be later.
    Some,
    /// None will be as long as this engine lives.
    NeverMore,
}

impl Shared {
    /// Goes on with runs of ours that nobody drives, until the engine stops or
    /// its journal takes nothing any more.
    pub(super) async fn revive_runs(self: Arc<Self>, alive: CancellationToken) {
        alive.run_until_cancelled(self.revive_forever()).await;
    }

    async fn revive_forever(self: &Arc<Self>) {
        let mut pause = PAUSE_MIN;
        let mut revived = Revived::All;
        loop {
            let since = Instant::now();
            if revived == Revived::All {
                self.active.left().await;
            }
            if since.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            revived = self.revive().await;
            if revived == Revived::NeverMore {
                self.active.give_up_all();
                return;
            }
        }
    }

    async fn revive(self: &Arc<Self>) -> Revived {
        let open = match self.journal.open_runs().await {
            Ok(open) => open,
            Err(error) => {
                tracing::warn!(%error, "runs that were left cannot be looked for");
                return Revived::Some;
            }
        };
        let is_left = |open: &OpenRun| open.ours && !self.active.contains(open.run);
        let mut revived = Revived::All;
        for open in open.into_iter().filter(is_left) {
            let run = open.run;
            let Err(error) = resume::resume(self, run).await else {
                tracing::info!(%run, "the run goes on");
                continue;
            };
            if let Err(trouble) = self.journal.health()
                && trouble.is_for_good()
            {
                tracing::error!(%trouble, "runs stay open until the engine is started again");
                return Revived::NeverMore;
            }
            match error {
                EngineError::Draining => return Revived::NeverMore,
                // Somebody was faster.
                EngineError::AlreadyDriven { .. }
                | EngineError::Journal(JournalError::Ended { .. } | JournalError::Owned { .. }) => {
                }
                error if may_pass(&error) => {
                    tracing::warn!(%run, %error, "the run cannot go on yet");
                    revived = Revived::Some;
                }
                error => {
                    tracing::error!(%run, %error, "the run stays open until it is resumed");
                    self.active.give_up(run);
                }
            }
        }
        revived
    }
}

/// Whether time alone may mend it.
fn may_pass(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Busy { .. }
            | EngineError::Journal(JournalError::Append(_) | JournalError::Unreadable { .. })
    )
}
