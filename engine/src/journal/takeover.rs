//! Going on with a run whose owner is gone.

use orchestrator_contract::RunId;

use super::{
    append::{Batch, Prepared},
    error::{AppendError, JournalError},
    inbox, now_ms,
    record::{NewRecord, OwnerId, RecordBody},
    run::{RunStatus, TakenOver},
    settings::JournalSettings,
    sqlite::SqliteJournal,
    submit,
    writer::Cost,
};

impl SqliteJournal {
    pub(super) async fn take_over_run(&self, run: RunId) -> Result<TakenOver, JournalError> {
        let record = changed_hands(self.owner_id(), self.settings())?;
        let cost = Cost {
            records: 1,
            bytes: record.body.len(),
        };
        let record = [record];
        self.writer()
            .write(cost, move |batch| take_over(batch, run, &record))
            .await?
    }
}

/// The record that says who goes on with a run.
pub(super) fn changed_hands(
    owner: OwnerId,
    settings: &JournalSettings,
) -> Result<Prepared, AppendError> {
    let body = RecordBody::OwnerChanged { owner };
    submit::encode(NewRecord::from(body), now_ms(), settings)
}

/// Whether the owner is dead is asked while nobody else can write, so that of
/// several who ask the first wins and the others find it alive.
fn take_over(
    batch: &mut Batch<'_>,
    run: RunId,
    record: &[Prepared],
) -> rusqlite::Result<Result<TakenOver, JournalError>> {
    let (us, owners) = (batch.owner, batch.owners);
    let Some(head) = batch.head(run)? else {
        return Ok(Err(JournalError::NoSuchRun { run }));
    };
    if head.status != RunStatus::Running {
        return Ok(Err(JournalError::Ended { run }));
    }
    let (key, owner) = (head.key, head.owner);
    if owner != us && owners.is_alive(owner) {
        return Ok(Err(JournalError::Owned { run, owner }));
    }
    let (epoch, restarts) = take_hands(batch, run)?;
    let seq = batch.write(run, record)?;
    Ok(Ok(TakenOver {
        epoch,
        seq,
        restarts_without_progress: restarts,
        requests: inbox::of_run(batch.tx, run, key)?,
    }))
}

/// Makes a run ours, which must exist. Whoever calls it writes the record that
/// says so. Returns the epoch, and how often the run changed hands without
/// progress.
pub(super) fn take_hands(batch: &mut Batch<'_>, run: RunId) -> rusqlite::Result<(u64, u32)> {
    let us = batch.owner;
    let head = batch.head(run)?;
    let head = head.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    head.owner = us;
    head.epoch += 1;
    head.restarts = head.restarts.saturating_add(1);
    Ok((head.epoch, head.restarts))
}
