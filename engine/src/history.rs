//! The runs of a home, without the plugins that run them.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::{EventSink, NoEvents, RunId};

use crate::{
    error::EngineError,
    home::Home,
    journal::{
        Journal, JournalError, JournalSettings, RecordView, RunFilter, RunState, RunSummary,
        SqliteJournal,
    },
    pipeline::Pipeline,
    report::RunReport,
    request::check_reason,
    run::report,
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
}

impl std::fmt::Debug for RunHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunHistory").finish_non_exhaustive()
    }
}

impl RunHistory {
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
        Ok(Self { journal })
    }

    pub(crate) fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(self.journal.clone())
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

    /// Tells everything about one run, its outputs included.
    ///
    /// # Errors
    ///
    /// When there is no such run or its records are damaged.
    pub async fn report(&self, run: RunId) -> Result<RunReport, EngineError> {
        let state = self.state(run).await?;
        let pipeline = self.pipeline(&state).await?;
        Ok(report(&pipeline, &state))
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
        loop {
            match self.journal.open_run(run).await? {
                None => return self.report(run).await,
                Some(open) if !open.owner_alive && !open.ours => {
                    return Err(EngineError::Interrupted { run });
                }
                Some(_) => tokio::time::sleep(WAIT_POLL).await,
            }
        }
    }

    pub(crate) async fn state(&self, run: RunId) -> Result<RunState, EngineError> {
        let records = self.journal.load(run).await?;
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
