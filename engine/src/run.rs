//! Drives one run from its first step to its last.
//!
//! A driver is one task. It starts every step whose inputs are there, waits for
//! the next one to end, makes its result durable, and only then looks which
//! steps that result lets start. All it knows of the run is the fold of the
//! journal's records, so a run that is resumed goes through the same code.
//!
//! When a required step fails, no further step is started, and the steps that
//! are running are waited for: their results are kept for a retry.

mod control;
mod flight;
mod ledger;
mod recover;
mod report;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use orchestrator_contract::{CallError, EventSink, RunId, RunOutcome, StepId};
use orchestrator_policies::AttemptBudget;
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
};

pub(crate) use self::{
    control::{ActiveGuard, ActiveRuns, Control},
    flight::Flight,
    ledger::Ledger,
    report::{duration_ms, has_outputs, report, scope, views},
    step::key,
};
use self::{
    report::{ended_badly, handed_out, outcome},
    step::{StepDone, StepInput, StepTask, ended_event, too_large},
};
use crate::{
    engine::Shared,
    error::{EngineError, is_too_large},
    evaluate::{self, heavy},
    journal::{NewRecord, RecordBody, StepState},
    pipeline::{Output, Pipeline, Scope, bounds::light},
    plan::Plan,
    report::RunReport,
    stack::{Attempts, Teller},
};

/// One run in flight.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    ledger: Ledger,
    control: Control,
    scope: Scope,
    /// Steps that were started by an earlier engine and are to run again.
    repeat: BTreeSet<StepId>,
    running: JoinSet<StepDone>,
    /// Counts the attempts of the steps that are running.
    attempts: BTreeMap<StepId, Attempts>,
    /// Tells that a running step is tried again.
    again: Arc<Notify>,
    flight: Arc<Flight>,
    /// What the step has left whose call began the run, if one did.
    within: Option<AttemptBudget>,
    /// What the results of its steps take.
    kept_bytes: u64,
}

impl Driver {
    /// Takes over a run whose records are folded in `ledger`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        plan: Arc<Plan>,
        ledger: Ledger,
        control: Control,
        flight: Arc<Flight>,
        within: Option<AttemptBudget>,
    ) -> Self {
        let scope = scope(&plan.pipeline, ledger.state());
        let outputs = ledger.state().steps.values().filter_map(report::output);
        let kept_bytes = outputs.map(|output| output.len() as u64).sum();
        Self {
            kept_bytes,
            shared,
            plan,
            ledger,
            control,
            scope,
            repeat: BTreeSet::new(),
            running: JoinSet::new(),
            attempts: BTreeMap::new(),
            again: Arc::default(),
            flight,
            within,
        }
    }

    /// Drives the run to its end. Dropping the future leaves the run open in
    /// the journal and ends its calls, as a crash would.
    pub(crate) async fn drive(mut self) -> Result<RunReport, EngineError> {
        if let Some(reason) = self.recover().await? {
            return self.cancel(reason).await;
        }
        loop {
            self.start_ready_steps().await?;
            if self.running.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                reason = self.control.cancelled() => return self.cancel(reason).await,
                Some(joined) = self.running.join_next() => self.settle(joined).await?,
                () = self.again.notified() => self.note_attempts().await?,
            }
        }
        let (outcome, failed) = self.verdict();
        self.finish(outcome, failed).await
    }

    fn run(&self) -> RunId {
        self.ledger.run()
    }

    fn pipeline(&self) -> &Pipeline {
        &self.plan.pipeline
    }

    fn state_of(&self, index: usize) -> &StepState {
        self.ledger.state().step(&self.pipeline().steps()[index].id)
    }

    /// Starts what can be started. A step that ends without being run may let
    /// others start, so it looks again until nothing changes.
    async fn start_ready_steps(&mut self) -> Result<(), EngineError> {
        loop {
            let mut ended = Vec::new();
            let mut tasks = Vec::new();
            for index in self.ready_steps() {
                let spec = &self.pipeline().steps()[index];
                let at_once = light(|| step::input(spec, &self.scope));
                let input = match at_once {
                    Some(input) => input,
                    None => self.input_later(index).await,
                };
                match input {
                    Ok(input) => {
                        let state = self.ledger.state();
                        let within = self.within.as_ref();
                        let (plan, again) = (&self.plan, &self.again);
                        tasks.push(StepTask::new(plan, state, index, input, again, within));
                    }
                    Err(record) => ended.push(NewRecord::from(record)),
                }
            }
            self.start(tasks).await?;
            if ended.is_empty() {
                return Ok(());
            }
            self.end_steps(ended).await?;
        }
    }

    async fn start(&mut self, tasks: Vec<StepTask>) -> Result<(), EngineError> {
        if tasks.is_empty() {
            return Ok(());
        }
        let records = tasks.iter().map(StepTask::started).collect();
        // What may happen only once must be known to have begun before it
        // begins; everything else rides along with a later commit.
        match tasks.iter().any(StepTask::must_not_repeat) {
            true => self.ledger.write(records).await?,
            false => self.ledger.note(records).await?,
        }
        for task in tasks {
            self.repeat.remove(task.step());
            self.attempts.insert(task.step().clone(), task.attempts());
            self.shared.bus.emit(task.started_event());
            let teller = Teller::new(self.shared.bus.clone());
            self.running.spawn(task.run(teller));
        }
        Ok(())
    }

    /// The steps that wait for nothing but a free place.
    fn ready_steps(&self) -> Vec<usize> {
        if self.required_failure().is_some() {
            return Vec::new();
        }
        let settled = |index: &usize| outcome(self.state_of(*index)).is_some();
        let waits = |index: &usize| match self.state_of(*index) {
            StepState::Pending => true,
            StepState::Started { .. } => self.repeat.contains(&self.pipeline().steps()[*index].id),
            _ => false,
        };
        let places = self.plan.concurrency.saturating_sub(self.running.len());
        (0..self.pipeline().steps().len())
            .filter(waits)
            .filter(|index| self.pipeline().dependencies(*index).iter().all(settled))
            .take(places)
            .collect()
    }

    /// What a step works on, where that takes too long to find out here.
    fn input_later(
        &self,
        index: usize,
    ) -> impl Future<Output = Result<StepInput, RecordBody>> + Send + use<> {
        let (plan, scope) = (Arc::clone(&self.plan), self.scope.clone());
        heavy(move || step::input(&plan.pipeline.steps()[index], &scope))
    }

    /// Notes the attempts after the first, so that whoever resumes the run
    /// goes on counting. Nothing waits for these records: a crash right after
    /// an attempt began allows one more than was agreed.
    async fn note_attempts(&mut self) -> Result<(), EngineError> {
        let further = |(step, attempts): (&StepId, &Attempts)| {
            let StepState::Started {
                attempt,
                idempotency_key,
                ..
            } = self.ledger.state().step(step)
            else {
                return None;
            };
            let made = attempts.made();
            (made > *attempt).then(|| {
                NewRecord::from(RecordBody::StepStarted {
                    step: step.clone(),
                    attempt: made,
                    idempotency_key: idempotency_key.clone(),
                })
            })
        };
        let records: Vec<_> = self.attempts.iter().filter_map(further).collect();
        match records.is_empty() {
            true => Ok(()),
            false => self.ledger.note(records).await,
        }
    }

    /// Makes the result of a step durable, together with those of the steps
    /// that ended meanwhile.
    async fn settle(&mut self, first: Result<StepDone, JoinError>) -> Result<(), EngineError> {
        let mut records = Vec::new();
        let mut next = Some(first);
        while let Some(joined) = next {
            match joined {
                Ok(done) => records.push(done.record()),
                // The stack catches the panics of plugins; this one is ours.
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => (),
            }
            next = self.running.try_join_next();
        }
        self.end_steps(records).await
    }

    /// Makes the ends of steps durable, then lets expressions and listeners
    /// know.
    async fn end_steps(&mut self, records: Vec<NewRecord>) -> Result<(), EngineError> {
        let records = records.into_iter().map(|record| self.bounded(record));
        let records = records.collect();
        let ended = self.write_ends(records).await?;
        for NewRecord { body, .. } in &ended {
            let Some(step) = body.step() else { continue };
            self.attempts.remove(step);
            let state = self.ledger.state().step(step);
            if let Some(outcome) = outcome(state) {
                self.scope.settle(step, outcome, report::output(state));
            }
            if let Some(event) = ended_event(self.run(), &self.plan, body) {
                self.shared.bus.emit(event);
            }
        }
        Ok(())
    }

    /// The same record, or a failure where its payload is more than the run may
    /// hold.
    fn bounded(&mut self, record: NewRecord) -> NewRecord {
        let Some(payload) = &record.payload else {
            return record;
        };
        let limit = self.shared.config.run.outputs_bytes_max;
        let kept = self.kept_bytes.saturating_add(payload.len() as u64);
        if kept > limit {
            let why = format!(
                "the results of the run's steps take {kept} bytes, more than the {limit} of `run.outputs_bytes_max`"
            );
            return too_large(&record, why);
        }
        self.kept_bytes = kept;
        record
    }

    /// Writes the ends of steps, and returns them as they were written: one that
    /// the journal cannot hold is a failure, or the run would never end.
    async fn write_ends(
        &mut self,
        mut records: Vec<NewRecord>,
    ) -> Result<Vec<NewRecord>, EngineError> {
        match self.ledger.write(records.clone()).await {
            Err(error) if is_too_large(&error) => (),
            written => return written.map(|()| records),
        }
        // Perhaps only together, so each for itself.
        for record in &mut records {
            match self.ledger.write(vec![record.clone()]).await {
                Err(error) if is_too_large(&error) => {
                    *record = too_large(record, error.to_string());
                    self.ledger.write(vec![record.clone()]).await?;
                }
                written => written?,
            }
        }
        Ok(records)
    }

    /// The required step whose failure fails the run, if there is one.
    fn required_failure(&self) -> Option<usize> {
        let steps = self.pipeline().steps();
        (0..steps.len()).find(|index| steps[*index].required && ended_badly(self.state_of(*index)))
    }

    fn verdict(&self) -> (RunOutcome, Option<usize>) {
        let count = self.pipeline().steps().len();
        match self.required_failure() {
            Some(index) => (RunOutcome::Failed, Some(index)),
            None if (0..count).any(|index| ended_badly(self.state_of(index))) => {
                (RunOutcome::Degraded, None)
            }
            None => (RunOutcome::Success, None),
        }
    }

    async fn finish(
        self,
        mut outcome: RunOutcome,
        failed: Option<usize>,
    ) -> Result<RunReport, EngineError> {
        let mut error = failed.and_then(|index| match self.state_of(index) {
            StepState::Failed { error, .. } => Some(error.clone()),
            _ => None,
        });
        // Computed before the end is written, so that a run whose outputs
        // cannot be computed is not called a success.
        let mut outputs = Vec::new();
        if outcome.has_outputs() {
            let (pipeline, scope) = (self.pipeline().clone(), self.scope.clone());
            match evaluate::outputs(&pipeline, &scope).await {
                Ok(evaluated) => outputs = evaluated,
                Err(fault) => {
                    outcome = RunOutcome::Failed;
                    error = Some(CallError::InvalidOutput {
                        message: fault.to_string(),
                    });
                }
            }
        }
        let failed_step = failed.map(|index| self.pipeline().steps()[index].id.clone());
        let end = RecordBody::RunFinished {
            outcome,
            failed_step,
            error,
            outputs: handed_out(&outputs),
        };
        self.end_run(vec![end], outcome, outputs).await
    }

    /// Writes the run's last records and tells of its end.
    async fn end_run(
        mut self,
        records: Vec<RecordBody>,
        outcome: RunOutcome,
        outputs: Vec<Output>,
    ) -> Result<RunReport, EngineError> {
        let records = records.into_iter().map(NewRecord::from).collect();
        self.ledger.write(records).await?;
        let duration_ms = duration_ms(self.ledger.state());
        self.flight.finished(outcome, duration_ms);
        Ok(report(self.pipeline(), self.ledger.state(), outputs))
    }

    /// Ends the calls in flight, then says so in the journal.
    async fn cancel(mut self, reason: String) -> Result<RunReport, EngineError> {
        // Dropping a call is what cancels it: a plugin is told, a process ended.
        self.running.shutdown().await;
        let outcome = RunOutcome::Cancelled;
        // Together: whoever finds the one finds the other.
        let records = vec![
            RecordBody::CancelRequested { reason },
            RecordBody::RunFinished {
                outcome,
                failed_step: None,
                error: None,
                outputs: None,
            },
        ];
        self.end_run(records, outcome, Vec::new()).await
    }

    /// Ends a run that has changed hands time and again without progress, so
    /// that it does not bring down one engine after the other.
    pub(crate) async fn give_up(self) -> Result<RunReport, EngineError> {
        let error = CallError::Unknown {
            message: "given up: time and again it was left before any of its steps ended"
                .to_owned(),
        };
        let outcome = RunOutcome::Failed;
        let end = RecordBody::RunFinished {
            outcome,
            failed_step: None,
            error: Some(error),
            outputs: None,
        };
        self.end_run(vec![end], outcome, Vec::new()).await
    }
}
