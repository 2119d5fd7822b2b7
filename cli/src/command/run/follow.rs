//! Follows a run that this process drives to its end, and reports it.

use std::{path::PathBuf, time::Duration};

use orchestrator_contract::RunOutcome;
use orchestrator_engine::{Engine, EventItem, EventStream, RunHandle, RunReport};
use tokio_stream::StreamExt as _;

use crate::{
    context::Context,
    exit::Exit,
    failure::{Failure, Result},
    progress::Progress,
    run_view, saved_outputs,
    signals::Signals,
};

/// How long plugins may take to stop once the work is done.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What is listened to while a run goes on. Made before the run, so that it
/// misses nothing.
pub(crate) struct Watch {
    events: EventStream,
    signals: Signals,
}

impl Watch {
    pub(crate) fn new(engine: &Engine) -> Result<Self> {
        Ok(Self {
            events: engine.events(),
            signals: Signals::new()?,
        })
    }
}

/// What to do with a run's outputs.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Follow {
    /// Write the run's outputs to files in this directory
    #[arg(long, value_name = "DIR")]
    pub(super) output_dir: Option<PathBuf>,

    /// Whether other reports follow, so that each is one line of JSON.
    #[arg(skip)]
    pub(super) is_one_of_many: bool,
}

impl Follow {
    /// Waits for the run, shows its progress meanwhile and its report after.
    /// Ctrl-C cancels the run, a second one gives up waiting.
    pub(crate) async fn to_the_end(
        &self,
        context: &Context,
        engine: &Engine,
        handle: RunHandle,
        watch: &mut Watch,
    ) -> Result {
        let (report, interrupted) = wait(context, engine, handle, watch).await?;
        context.flush_log();
        let saved = match &self.output_dir {
            Some(dir) => saved_outputs::save(&report, dir)?,
            None => Vec::new(),
        };
        let document = run_view::json(&report, &saved)?;
        match self.is_one_of_many && context.out.is_json() {
            true => context.out.json_line(&document)?,
            false => context
                .out
                .show(&document, |_| run_view::text(context.out, &report, &saved))?,
        }
        match interrupted {
            true => Err(Failure::silent(Exit::Interrupted)),
            false => verdict(&report),
        }
    }
}

async fn wait(
    context: &Context,
    engine: &Engine,
    handle: RunHandle,
    watch: &mut Watch,
) -> Result<(RunReport, bool)> {
    let run = handle.id();
    let mut interrupted = false;
    let mut progress = Progress::new(context.out);
    let mut ended = std::pin::pin!(handle.wait());
    let mut listening = true;
    let report = loop {
        tokio::select! {
            biased;
            () = watch.signals.next() => {
                if interrupted {
                    context.out.warn(&format!("left run {run} before its end was written down"));
                    return Err(Failure::silent(Exit::Interrupted));
                }
                interrupted = true;
                context.out.note("cancelling the run; once more leaves at once");
                engine.cancel(run, "interrupted").await?;
            }
            item = watch.events.next(), if listening => match item {
                Some(EventItem::Event(event)) => progress.show(run, &event),
                Some(EventItem::Lagged(lost)) => engine.telemetry().events_dropped(lost),
                None => listening = false,
            },
            report = &mut ended => break report?,
        }
    };
    // It may have ended by itself just before.
    let cancelled = report.outcome == Some(RunOutcome::Cancelled);
    Ok((report, interrupted && cancelled))
}

/// The exit status that a run's report means.
pub(crate) fn verdict(report: &RunReport) -> Result {
    match report.outcome {
        Some(RunOutcome::Success | RunOutcome::Degraded) => Ok(()),
        Some(RunOutcome::Failed) => {
            let of_step = report.failed_step().and_then(|step| step.error.as_ref());
            let error = report.error.as_ref().or(of_step);
            Err(Failure::silent(Exit::of_call(error)))
        }
        Some(RunOutcome::Cancelled) | None => Err(Failure::silent(Exit::Failed)),
    }
}

/// Stops an engine whose work ended with `result`, which counts more than how
/// the plugins stopped.
pub(crate) async fn stop(context: &Context, engine: &Engine, result: Result) -> Result {
    let drained = match engine.drain(STOP_GRACE).await {
        Ok(drained) => drained,
        Err(error) => return result.and(Err(error.into())),
    };
    if drained.left_open > 0 {
        let open = drained.left_open;
        context.out.note(&format!(
            "{open} runs are still open; `orchestrator run resume` goes on with them"
        ));
    }
    result
}
