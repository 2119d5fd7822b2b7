//! Going on with a run whose owner is gone.

use orchestrator_contract::RunId;

use super::{
    append::{Batch, Prepared},
    error::{AppendError, JournalError},
    inbox,
    record::{NewRecord, RecordBody},
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

fn changed_hands(
    owner: super::record::OwnerId,
    settings: &JournalSettings,
) -> Result<Prepared, AppendError> {
    let body = RecordBody::OwnerChanged { owner };
    submit::encode(NewRecord::from(body), settings)
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
    let owner = head.owner;
    if owner != us && owners.is_alive(owner) {
        return Ok(Err(JournalError::Owned { run, owner }));
    }
    head.owner = us;
    head.epoch += 1;
    head.restarts = head.restarts.saturating_add(1);
    let (key, epoch, restarts) = (head.key, head.epoch, head.restarts);
    let seq = batch.write(run, record)?;
    Ok(Ok(TakenOver {
        epoch,
        seq,
        restarts_without_progress: restarts,
        requests: inbox::of_run(batch.tx, run, key)?,
    }))
}
