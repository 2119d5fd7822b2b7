//! A run's records as its driver writes them.

use std::sync::Arc;

use orchestrator_contract::RunId;

use crate::{
    error::EngineError,
    journal::{Journal, JournalError, NewRecord, Record, RunState, Ticket, now_ms},
};

/// Writes a run's records and keeps their fold, so that what a driver knows is
/// never more than what it handed to the journal.
pub(crate) struct Ledger {
    journal: Arc<dyn Journal>,
    state: RunState,
    /// What was handed over and not waited for.
    unconfirmed: Option<Ticket>,
}

impl Ledger {
    /// Goes on from `state`, which `journal` has and nobody else writes to.
    pub(crate) fn new(journal: Arc<dyn Journal>, state: RunState) -> Self {
        Self {
            journal,
            state,
            unconfirmed: None,
        }
    }

    pub(crate) fn run(&self) -> RunId {
        self.state.run
    }

    pub(crate) fn state(&self) -> &RunState {
        &self.state
    }

    /// Hands records over and returns once they are durable. Dropped before
    /// that, they may be written or not, as with a crash.
    pub(crate) async fn write(&mut self, records: Vec<NewRecord>) -> Result<(), EngineError> {
        self.note(records).await?;
        self.confirm().await
    }

    /// Hands records over. They become durable with a later commit.
    pub(crate) async fn note(&mut self, records: Vec<NewRecord>) -> Result<(), EngineError> {
        let kept = records.clone();
        let (run, seq, epoch) = (self.state.run, self.state.last_seq, self.state.epoch);
        let ticket = self
            .journal
            .submit(run, seq, epoch, records)
            .await
            .map_err(JournalError::from)?;
        let earlier = self.unconfirmed.replace(ticket);
        if let Some(earlier) = earlier {
            earlier.await.map_err(JournalError::from)?;
        }
        for (seq, record) in (seq + 1..).zip(kept) {
            let record = Record {
                seq,
                epoch,
                at_ms: now_ms(),
                body: record.body,
                payload: record.payload,
            };
            self.state.apply(record).map_err(JournalError::from)?;
        }
        Ok(())
    }

    async fn confirm(&mut self) -> Result<(), EngineError> {
        if let Some(ticket) = self.unconfirmed.take() {
            ticket.await.map_err(JournalError::from)?;
        }
        Ok(())
    }
}
