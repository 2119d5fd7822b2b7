//! Follows a run that this process drives to its end, and reports it.

use std::{path::PathBuf, time::Duration};

use orchestrator_contract::{RunId, RunOutcome};
use orchestrator_engine::{Engine, EventItem, EventStream, RunHandle, RunReport};
use tokio_stream::StreamExt as _;

use crate::{
    context::Context,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    progress::Progress,
    run_view, saved_outputs,
    signals::{Asked, Signals},
};

/// How long plugins may take to stop once the work is done.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What is listened to while a run goes on. Made before the run, so that it
/// misses nothing.
pub(crate) struct Watch {
    events: EventStream,
    signals: Signals,
    /// How often somebody asked for the end.
    interrupts: u32,
    progress: Progress,
}

impl Watch {
    pub(crate) fn new(engine: &Engine, out: Output) -> Result<Self> {
        Ok(Self {
            events: engine.events(),
            signals: Signals::new()?,
            interrupts: 0,
            progress: Progress::new(out),
        })
    }

    /// Shows how these runs go, whichever of them is waited for.
    pub(crate) fn follow<'h>(&mut self, handles: impl IntoIterator<Item = &'h RunHandle>) {
        let runs = handles.into_iter().map(RunHandle::id);
        self.progress.follow(runs.collect());
    }

    /// Whether somebody did not want to wait for the end.
    pub(crate) fn was_left(&self) -> bool {
        self.interrupts > 1
    }

    /// The first time, cancels `run`, which is waited for, and the others that
    /// are followed.
    async fn asked(
        &mut self,
        asked: Asked,
        context: &Context,
        engine: &Engine,
        run: RunId,
    ) -> Result {
        // A terminal that goes may say so through the shell once more.
        if asked == Asked::Hangup && self.interrupts > 0 {
            return Ok(());
        }
        self.interrupts += 1;
        if self.was_left() {
            let text = format!("left run {run} before its end was written down");
            context.out.warn(&text);
            return Err(Failure::silent(Exit::Interrupted));
        }
        let note = match self.progress.runs().len() {
            0 | 1 => "cancelling the run; once more leaves at once",
            _ => "cancelling the runs; once more leaves at once",
        };
        context.out.note(note);
        for other in self.progress.runs().iter().filter(|other| **other != run) {
            // It may have ended.
            engine.cancel(*other, "interrupted").await.ok();
        }
        Ok(engine.cancel(run, "interrupted").await?)
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
    /// Finds out before anything runs whether its outputs can be kept.
    pub(crate) fn prepare(&self) -> Result {
        match &self.output_dir {
            Some(dir) => saved_outputs::prepare(dir),
            None => Ok(()),
        }
    }

    /// Waits for the run, shows its progress meanwhile and its report after.
    /// Ctrl-C cancels the run, a second one gives up waiting.
    pub(crate) async fn to_the_end(
        &self,
        context: &Context,
        engine: &Engine,
        handle: RunHandle,
        watch: &mut Watch,
    ) -> Result {
        let run = handle.id();
        let waited = wait(context, engine, handle, watch).await;
        watch.progress.ended(run);
        let (report, interrupted) = waited?;
        context.flush_log();
        let saved = match &self.output_dir {
            Some(dir) => saved_outputs::save(&report, dir)?,
            None => Vec::new(),
        };
        let shown = report.overview();
        let mut document = run_view::json(&shown, &saved)?;
        document["warnings"] = engine.warnings().into();
        match self.is_one_of_many && context.out.is_json() {
            true => context.out.json_line(&document)?,
            false => context
                .out
                .show(&document, |_| run_view::text(context.out, &shown, &saved))?,
        }
        match interrupted {
            true => Err(Failure::silent(Exit::Interrupted)),
            false => verdict(&report),
        }
    }
}

/// Waits for the run and shows its progress meanwhile; also tells whether somebody
/// interrupted it.
pub(crate) async fn wait(
    context: &Context,
    engine: &Engine,
    handle: RunHandle,
    watch: &mut Watch,
) -> Result<(RunReport, bool)> {
    let run = handle.id();
    let mut ended = std::pin::pin!(handle.wait());
    let mut listening = true;
    let report = loop {
        tokio::select! {
            biased;
            asked = watch.signals.next() => watch.asked(asked, context, engine, run).await?,
            item = watch.events.next(), if listening => match item {
                Some(EventItem::Event(event)) => watch.progress.show(&event),
                Some(EventItem::Lagged(lost)) => engine.telemetry().events_dropped(lost),
                None => listening = false,
            },
            report = &mut ended => break report?,
        }
    };
    // It may have ended by itself just before.
    let cancelled = report.outcome == Some(RunOutcome::Cancelled);
    Ok((report, watch.interrupts > 0 && cancelled))
}

/// The exit status that a run's report means.
pub(crate) fn verdict<O>(report: &RunReport<O>) -> Result {
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
