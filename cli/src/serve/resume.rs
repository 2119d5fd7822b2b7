//! Goes on with the runs that an earlier process left, while requests are
//! already answered.

use std::time::Duration;

use orchestrator_contract::RunId;
use orchestrator_engine::{Engine, EngineError, journal::JournalError};
use tokio::time::sleep;

/// How long runs wait that found no place among those in flight.
const PAUSE: Duration = Duration::from_secs(1);

/// Goes on with every run whose process is gone. Those beyond
/// `run.in_flight_max` follow when others have ended. Dropped midway, it leaves
/// the rest as they are.
pub(super) async fn resume(engine: Engine) {
    let resumed = match engine.resume_all().await {
        Ok(resumed) => resumed,
        Err(error) => {
            tracing::error!(%error, "runs of an earlier process cannot be looked for");
            return;
        }
    };
    if !resumed.handles.is_empty() {
        let runs = resumed.handles.len();
        tracing::info!(runs, "runs of an earlier process go on");
    }
    let mut waiting = Vec::new();
    for (run, error) in resumed.failed {
        note(run, error, &mut waiting);
    }
    while !waiting.is_empty() {
        let runs = waiting.len();
        tracing::debug!(runs, "runs of an earlier process wait for others to end");
        sleep(PAUSE).await;
        for run in std::mem::take(&mut waiting) {
            match engine.resume(run).await {
                Ok(_) => tracing::info!(%run, "a run of an earlier process goes on"),
                Err(error) => note(run, error, &mut waiting),
            }
        }
    }
}

/// Has a run wait that found no place; tells why another does not go on.
fn note(run: RunId, error: EngineError, waiting: &mut Vec<RunId>) {
    match error {
        EngineError::Busy { .. } => waiting.push(run),
        // The next start goes on with it.
        EngineError::Draining => (),
        // Somebody was faster.
        EngineError::AlreadyDriven { .. }
        | EngineError::Journal(JournalError::Ended { .. } | JournalError::Owned { .. }) => (),
        error => tracing::error!(%run, %error, "a run of an earlier process does not go on"),
    }
}
