//! Ending a run from outside of its engine.

use orchestrator_contract::{RunId, RunOutcome};
use rusqlite::params;

use super::{
    append::{Batch, Prepared},
    error::{AppendError, JournalError},
    inbox, now_ms,
    record::{NewRecord, RecordBody},
    run::{Cancel, InboxRequest, RunStatus},
    settings::JournalSettings,
    sqlite::SqliteJournal,
    submit::{self, check_size},
    takeover::{changed_hands, take_hands},
    writer::Cost,
};

/// The most bytes of the reason for a cancellation.
const REASON_BYTES_MAX: usize = 4_096;

impl SqliteJournal {
    pub(super) async fn cancel_run(
        &self,
        run: RunId,
        reason: String,
    ) -> Result<Cancel, JournalError> {
        check_size("a reason", reason.len(), REASON_BYTES_MAX)?;
        let settings = self.settings().clone();
        let cost = Cost {
            records: 3,
            bytes: reason.len(),
        };
        self.writer()
            .write(cost, move |batch| cancel(batch, run, &reason, &settings))
            .await?
    }
}

/// Whether anybody could be asked is found out while nobody else can write, so
/// that a run is either asked for or ended, and never both.
fn cancel(
    batch: &mut Batch<'_>,
    run: RunId,
    reason: &str,
    settings: &JournalSettings,
) -> rusqlite::Result<Result<Cancel, JournalError>> {
    let (us, owners) = (batch.owner, batch.owners);
    let Some(head) = batch.head(run)? else {
        return Ok(Err(JournalError::NoSuchRun { run }));
    };
    if head.status != RunStatus::Running {
        return Ok(Err(JournalError::Ended { run }));
    }
    let (key, owner) = (head.key, head.owner);
    if owner == us || owners.is_alive(owner) {
        ask(batch, key, reason)?;
        return Ok(Ok(Cancel::Asked));
    }
    // Who asked while somebody was there asked first.
    let earlier = inbox::of_run(batch.tx, run, key)?.into_iter().next();
    let reason = match earlier.map(|item| item.request) {
        Some(InboxRequest::Cancel { reason }) => reason,
        None => reason.to_owned(),
    };
    let records = match end(batch, reason, settings) {
        Ok(records) => records,
        Err(error) => return Ok(Err(error.into())),
    };
    take_hands(batch, run)?;
    batch.write(run, &records)?;
    Ok(Ok(Cancel::Ended))
}

/// One request a run: that somebody wants it to end does not become truer by
/// being said again.
fn ask(batch: &Batch<'_>, key: i64, reason: &str) -> rusqlite::Result<()> {
    let request = InboxRequest::Cancel {
        reason: reason.to_owned(),
    };
    let json = serde_json::to_string(&request)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let sql = "INSERT INTO inbox (run, request, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    let mut insert = batch.tx.prepare_cached(sql)?;
    insert.execute(params![key, json, now_ms()]).map(drop)
}

/// The last records of a run that nobody drives any more.
fn end(
    batch: &Batch<'_>,
    reason: String,
    settings: &JournalSettings,
) -> Result<Vec<Prepared>, AppendError> {
    let request = RecordBody::CancelRequested { reason };
    let ended = RecordBody::RunFinished {
        outcome: RunOutcome::Cancelled,
        failed_step: None,
        error: None,
        outputs: None,
    };
    let mut records = vec![changed_hands(batch.owner, settings)?];
    for body in [request, ended] {
        records.push(submit::encode(NewRecord::from(body), now_ms(), settings)?);
    }
    Ok(records)
}
