//! Runs whose engine is gone: going on with them, or ending them.

use std::sync::Arc;

use orchestrator_contract::{RunId, RunOutcome};

use super::{
    RunHandle, Shared,
    intake::{Work, drive, enter, place},
};
use crate::{
    error::EngineError,
    journal::{Cancel, InboxRequest, JournalError, RESTARTS_MAX, RunState, RunStatus},
    plan::Plan,
    request::check_reason,
    run::{Flight, duration_ms},
};

/// What became of the runs that an earlier engine left.
#[derive(Debug, Default)]
pub struct Resumed {
    /// Those that go on, or were ended because somebody had asked for that.
    pub handles: Vec<RunHandle>,
    /// Those that do not, and why. They stay as they are.
    pub failed: Vec<(RunId, EngineError)>,
}

/// Goes on with every run whose engine is gone.
pub(super) async fn resume_all(shared: &Arc<Shared>) -> Result<Resumed, EngineError> {
    let mut resumed = Resumed::default();
    for open in shared.journal.open_runs().await? {
        if open.ours || open.owner_alive {
            continue;
        }
        match resume(shared, open.run).await {
            Ok(handle) => resumed.handles.push(handle),
            // Somebody was faster.
            Err(
                EngineError::AlreadyDriven { .. }
                | EngineError::Journal(JournalError::Ended { .. } | JournalError::Owned { .. }),
            ) => (),
            Err(error) => resumed.failed.push((open.run, error)),
        }
    }
    Ok(resumed)
}

/// Goes on with one run whose engine is gone.
pub(super) async fn resume(shared: &Arc<Shared>, run: RunId) -> Result<RunHandle, EngineError> {
    let place = place(shared)?;
    // The plugins are looked at before the run is taken over: a run that we
    // cannot go on with should stay with whoever can.
    let before = shared.history.outline(run).await?;
    if before.status != RunStatus::Running {
        return Err(JournalError::Ended { run }.into());
    }
    let pipeline = Arc::new(shared.history.pipeline(&before).await?);
    let plan = match Plan::rebind(shared, pipeline, &before) {
        Ok(plan) => plan,
        Err(error) => return end_unwanted(shared, before, error).await,
    };
    // Before the run gets a new epoch, which would end a driver it has.
    let entry = enter(shared, run)?;
    let taken = shared.journal.take_over(run).await?;
    let state = shared.history.state(run).await?;
    let hopeless = taken.restarts_without_progress > RESTARTS_MAX;
    let work = if hopeless {
        Work::GiveUp
    } else {
        Work::Drive { resumed: true }
    };
    // Its engine may have died between the request and the end.
    let written_down = state.cancel_requested.clone();
    let handle = drive(shared, plan, state, (entry, place), work);
    let asked = taken.requests.into_iter().map(|item| item.request);
    let asked = asked.map(|InboxRequest::Cancel { reason }| reason);
    for reason in written_down.into_iter().chain(asked) {
        shared.active.cancel(run, &reason);
    }
    Ok(handle)
}

/// Ends a run that cannot go on, if somebody wants its end; else it stays as
/// it is, and `error` says why.
async fn end_unwanted(
    shared: &Arc<Shared>,
    state: RunState,
    error: EngineError,
) -> Result<RunHandle, EngineError> {
    let run = state.run;
    let asked = match shared.journal.open_run(run).await? {
        Some(open) => open.cancel_requested || state.cancel_requested.is_some(),
        None => return Err(JournalError::Ended { run }.into()),
    };
    if !asked {
        return Err(error);
    }
    let reason = state.cancel_requested.unwrap_or_default();
    match end(shared, run, &reason).await? {
        Cancel::Ended => Ok(RunHandle::elsewhere(shared, run)),
        Cancel::Asked => Err(error),
    }
}

/// Ends a run, whoever drives it.
pub(super) async fn cancel(shared: &Shared, run: RunId, reason: &str) -> Result<(), EngineError> {
    check_reason(reason)?;
    let is_ours = shared.active.cancel(run, reason);
    // Written down also where the driver knows already, which may not live to
    // write the run's end.
    match end(shared, run, reason).await {
        Err(EngineError::Journal(JournalError::Ended { .. })) if is_ours => Ok(()),
        ended => ended.map(drop),
    }
}

/// Asks for a run's end, and tells of it where it comes at once.
async fn end(shared: &Shared, run: RunId, reason: &str) -> Result<Cancel, EngineError> {
    let request = shared.journal.request_cancel(run, reason.to_owned());
    let answer = request.await?;
    if answer == Cancel::Ended {
        match shared.history.outline(run).await {
            Ok(state) => Flight::start(&shared.bus, &state, true)
                .finished(RunOutcome::Cancelled, duration_ms(&state)),
            Err(error) => tracing::warn!(%run, %error, "the run has ended and cannot be read"),
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use orchestrator_contract::{CallError, Payload, PhaseCall};
    use orchestrator_plugin_runtime::{Builtin, CallContext};

    use super::*;
    use crate::{Engine, RunRequest, config::Config, pipeline::Pipeline};

    /// The driver cannot take the request up here, and a crash may keep it from
    /// ever doing so.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cancelled_run_is_known_to_be_so_by_whoever_resumes_it() {
        let home = tempfile::tempdir().unwrap();
        let (called, calls) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(released));
        let stubborn = move |_: PhaseCall, _: CallContext| {
            let (called, released) = (called.clone(), Arc::clone(&released));
            async move {
                called.send(()).unwrap();
                released.lock().unwrap().recv().ok();
                Ok::<_, CallError>(Payload::null())
            }
        };
        let stubborn = Builtin::phase("stubborn", "1.0.0", "now", stubborn).unwrap();
        let builder = Engine::builder().home(home.path()).unwrap();
        let builder = builder.config(Config::defaults().unwrap());
        let engine = builder.builtin(stubborn).start().await.unwrap();
        let body = "version: 1\nname: p\nsteps:\n  - { id: a, plugin: stubborn, phase: now }\n";
        let request = RunRequest::new(Pipeline::parse(body, "p.yaml").unwrap());
        let handle = engine.submit(request).await.unwrap();
        let run = handle.id();
        tokio::task::spawn_blocking(move || calls.recv().unwrap())
            .await
            .unwrap();

        engine.cancel(run, "enough").await.unwrap();

        let open = engine.shared().journal.open_run(run).await.unwrap();
        assert!(open.unwrap().cancel_requested);
        release.send(()).unwrap();
        let report = handle.wait().await.unwrap();
        assert_eq!(report.outcome, Some(RunOutcome::Cancelled));
    }
}
