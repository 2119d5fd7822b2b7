//! The runs of a home, without the plugins that run them.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use orchestrator_contract::{EventSink, NoEvents, RunId};

use crate::{
    error::EngineError,
    evaluate::{self, heavy},
    home::Home,
    journal::{
        Contents, Journal, JournalError, JournalSettings, RecordView, RunFilter, RunState,
        RunSummary, SqliteJournal,
    },
    pipeline::{Output, Pipeline},
    report::{RunOverview, RunReport},
    request::check_reason,
    run::{ActiveRuns, has_outputs, report, scope, views},
};

/// How often the end of a run in another process is looked for.
const WAIT_POLL: Duration = Duration::from_millis(100);

/// How many records are read at a time.
const PAGE: usize = 1_000;

/// The runs of a home. Needs no plugin, so listing and cancelling work also
/// where a plugin cannot be verified any more. Clones are the same.
#[derive(Clone)]
pub struct RunHistory {
    journal: SqliteJournal,
    /// Those that this process drives.
    active: ActiveRuns,
}

impl std::fmt::Debug for RunHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunHistory").finish_non_exhaustive()
    }
}

impl RunHistory {
    /// Whether `home` has a journal, or something in its place. Whoever only wants
    /// to look need not make one.
    pub fn is_there(home: &Home) -> bool {
        let found = home.journal().symlink_metadata();
        !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Opens the journal of `home`, and makes one where there is none.
    ///
    /// # Errors
    ///
    /// When the journal cannot be used.
    pub async fn open(home: &Home, settings: &JournalSettings) -> Result<Self, EngineError> {
        Self::open_with(home, settings, Arc::new(NoEvents)).await
    }

    pub(crate) async fn open_with(
        home: &Home,
        settings: &JournalSettings,
        events: Arc<dyn EventSink>,
    ) -> Result<Self, EngineError> {
        let journal = SqliteJournal::open(home.journal(), settings.clone(), events).await?;
        Ok(Self {
            journal,
            active: ActiveRuns::default(),
        })
    }

    pub(crate) fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.journal.clone())
    }

    pub(crate) fn active(&self) -> &ActiveRuns {
        &self.active
    }

    pub(crate) fn sqlite(&self) -> &SqliteJournal {
        &self.journal
    }

    /// Lists runs, newest first.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub async fn list(&self, filter: RunFilter) -> Result<Vec<RunSummary>, EngineError> {
        Ok(self.journal.runs(filter).await?)
    }

    /// Tells everything about one run, its outputs included. Costs what all its
    /// steps' results do; see [`Self::overview`].
    ///
    /// # Errors
    ///
    /// When there is no such run or its records are damaged.
    pub async fn report(&self, run: RunId) -> Result<RunReport, EngineError> {
        let state = self.state(run).await?;
        let pipeline = self.pipeline(&state).await?;
        let outputs = match has_outputs(&state) {
            true => evaluate::outputs(&pipeline, &scope(&pipeline, &state)).await,
            false => Ok(Vec::new()),
        };
        Ok(report(&pipeline, &state, outputs.unwrap_or_default()))
    }

    /// Tells everything about one run but the content of its outputs, and reads no
    /// payload that is kept in a file.
    ///
    /// # Errors
    ///
    /// When there is no such run or its records are damaged.
    pub async fn overview(&self, run: RunId) -> Result<RunOverview, EngineError> {
        let state = self.outline(run).await?;
        let pipeline = self.pipeline(&state).await?;
        let outputs = match &state.outputs {
            Some(listed) => views(&pipeline, listed),
            // Nothing but looking tells what they are.
            None if has_outputs(&state) => return Ok(self.report(run).await?.overview()),
            None => Vec::new(),
        };
        Ok(report(&pipeline, &state, outputs))
    }

    /// One output of a run; `None` when it has none of this name. Reads the
    /// results that it is made from, and no others.
    ///
    /// # Errors
    ///
    /// When there is no such run or its records are damaged.
    pub async fn output(&self, run: RunId, name: &str) -> Result<Option<Output>, EngineError> {
        let outline = self.outline(run).await?;
        let pipeline = self.pipeline(&outline).await?;
        let sources = match has_outputs(&outline) {
            true => pipeline.output_sources(name),
            false => None,
        };
        let Some(sources) = sources else {
            return Ok(None);
        };
        let state = self.state_with(run, Contents::Of(sources)).await?;
        let (scope, name) = (scope(&pipeline, &state), name.to_owned());
        let output = heavy(move || pipeline.evaluate_output(&name, &scope)).await;
        Ok(output.unwrap_or_default())
    }

    /// A run's records after `seq`, oldest first, without the content of their
    /// payloads.
    ///
    /// # Errors
    ///
    /// When there is no such run or one of these records is damaged.
    pub async fn records(&self, run: RunId, seq: u64) -> Result<Vec<RecordView>, EngineError> {
        let mut records = Vec::new();
        let mut last = seq;
        loop {
            let page = self.journal.records_after(run, last, PAGE).await?;
            let is_last = page.len() < PAGE;
            last = page.last().map_or(last, |record| record.seq);
            records.extend(page);
            if is_last {
                return Ok(records);
            }
        }
    }

    /// The number of the last record of each of these runs; those that there are
    /// not are left out.
    ///
    /// # Errors
    ///
    /// When the journal cannot be read.
    pub async fn last_records(
        &self,
        runs: Vec<RunId>,
    ) -> Result<BTreeMap<RunId, u64>, EngineError> {
        Ok(self.journal.last_records(runs).await?)
    }

    /// Describes one run.
    ///
    /// # Errors
    ///
    /// When there is no such run.
    pub async fn summary(&self, run: RunId) -> Result<RunSummary, EngineError> {
        Ok(self.journal.summary(run).await?)
    }

    /// Asks whoever drives the run to end it. When nobody does any more, it
    /// ends at once. Dropped midway, it leaves open whether the request is made.
    ///
    /// # Errors
    ///
    /// When there is no such run or it has ended, or the reason is not 1 to
    /// 4,096 bytes without control characters.
    pub async fn request_cancel(&self, run: RunId, reason: &str) -> Result<(), EngineError> {
        check_reason(reason)?;
        let request = self.journal.request_cancel(run, reason.to_owned());
        Ok(request.await.map(drop)?)
    }

    /// Deletes a run that has ended.
    ///
    /// # Errors
    ///
    /// When there is no such run or it has not ended.
    pub async fn delete(&self, run: RunId) -> Result<(), EngineError> {
        Ok(self.journal.delete_run(run).await?)
    }

    /// Waits for the end of a run, wherever it is driven.
    ///
    /// # Errors
    ///
    /// When there is no such run, its records are damaged, or its engine
    /// stopped before it ended.
    pub async fn wait(&self, run: RunId) -> Result<RunReport, EngineError> {
        self.ended(run).await?;
        self.report(run).await
    }

    /// [`Self::wait`] that tells nothing of the run.
    ///
    /// # Errors
    ///
    /// Those of [`Self::wait`].
    pub async fn ended(&self, run: RunId) -> Result<(), EngineError> {
        loop {
            match self.journal.open_run(run).await? {
                None => return Ok(()),
                Some(open) if !open.owner_alive || self.active.is_given_up(run) => {
                    return Err(EngineError::Interrupted { run });
                }
                Some(_) => tokio::time::sleep(WAIT_POLL).await,
            }
        }
    }

    pub(crate) async fn state(&self, run: RunId) -> Result<RunState, EngineError> {
        self.state_with(run, Contents::All).await
    }

    /// The state of a run whose payloads are empty, whatever was stored.
    pub(crate) async fn outline(&self, run: RunId) -> Result<RunState, EngineError> {
        self.state_with(run, Contents::Nothing).await
    }

    async fn state_with(&self, run: RunId, contents: Contents) -> Result<RunState, EngineError> {
        let records = self.journal.load_with(run, contents).await?;
        Ok(RunState::fold(run, records).map_err(JournalError::from)?)
    }

    /// The pipeline as it was when the run began.
    pub(crate) async fn pipeline(&self, state: &RunState) -> Result<Pipeline, EngineError> {
        let definition = state.created.definition;
        let bytes = self.journal.definition(definition).await?;
        let bytes = bytes.ok_or(JournalError::NoSuchDefinition { definition })?;
        Ok(Pipeline::from_definition(&bytes)?)
    }

    pub(crate) async fn open_and_ours(&self) -> Result<usize, EngineError> {
        let open = self.journal.open_runs().await?;
        Ok(open.iter().filter(|run| run.ours).count())
    }
}
