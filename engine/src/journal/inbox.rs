//! Requests to the owner of a run from other processes.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::RunId;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{
    Journal,
    append::Batch,
    error::{AppendError, JournalError},
    now_ms,
    record::OwnerId,
    run::{InboxItem, InboxRequest, RunStatus},
    sqlite::SqliteJournal,
    submit::check_size,
    writer::Cost,
};

/// The most requests that one look brings.
const ITEMS_MAX: usize = 256;

/// The most bytes of the reason for a cancellation.
const REASON_BYTES_MAX: usize = 4_096;

/// Looks for requests time and again.
pub struct Inbox {
    journal: Arc<dyn Journal>,
    ticks: Interval,
    seen: u64,
}

impl Inbox {
    /// Looks every `poll`, at once to begin with.
    ///
    /// # Panics
    ///
    /// When `poll` is zero.
    pub fn new(journal: Arc<dyn Journal>, poll: Duration) -> Self {
        let mut ticks = interval(poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            journal,
            ticks,
            seen: 0,
        }
    }

    /// Waits for requests that were not returned before; never an empty list.
    /// Dropped midway, it loses none.
    ///
    /// # Errors
    ///
    /// [`JournalError::Unreadable`]; calling again goes on.
    pub async fn next(&mut self) -> Result<Vec<InboxItem>, JournalError> {
        loop {
            self.ticks.tick().await;
            let items = self.journal.inbox(self.seen).await?;
            if let Some(last) = items.last() {
                self.seen = last.id;
                return Ok(items);
            }
        }
    }
}

impl SqliteJournal {
    pub(super) async fn ask_to_cancel(
        &self,
        run: RunId,
        reason: String,
    ) -> Result<(), JournalError> {
        check_size("a reason", reason.len(), REASON_BYTES_MAX)?;
        let request = InboxRequest::Cancel { reason };
        let json = serde_json::to_string(&request).map_err(|_| AppendError::Illegal {
            reason: "it cannot be written as JSON",
        })?;
        let cost = Cost {
            records: 1,
            bytes: json.len(),
        };
        let at_ms = now_ms();
        self.writer()
            .write(cost, move |batch| ask(batch, run, &json, at_ms))
            .await?
    }
}

/// One request a run: that somebody wants it to end does not become truer by
/// being said again.
fn ask(
    batch: &mut Batch<'_>,
    run: RunId,
    request: &str,
    at_ms: i64,
) -> rusqlite::Result<Result<(), JournalError>> {
    let Some(head) = batch.head(run)? else {
        return Ok(Err(JournalError::NoSuchRun { run }));
    };
    if head.status != RunStatus::Running {
        return Ok(Err(JournalError::Ended { run }));
    }
    let key = head.key;
    let sql = "INSERT INTO inbox (run, request, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    let row = params![key, request, at_ms];
    batch.tx.prepare_cached(sql)?.execute(row)?;
    Ok(Ok(()))
}

/// The requests later than `after` for runs of `owner`.
pub(super) fn of_owner(
    connection: &Connection,
    owner: OwnerId,
    after: u64,
) -> rusqlite::Result<Vec<InboxItem>> {
    let sql = "SELECT inbox.id, runs.ulid, inbox.request, inbox.at
        FROM inbox CROSS JOIN runs ON runs.run = inbox.run
        WHERE inbox.id > ?1 AND runs.owner = ?2 ORDER BY inbox.id LIMIT ?3";
    let after = after.cast_signed();
    let mut select = connection.prepare_cached(sql)?;
    let rows = select.query_map(params![after, owner.to_bytes(), ITEMS_MAX as i64], item)?;
    rows.collect()
}

/// The requests for one run.
pub(super) fn of_run(
    connection: &Connection,
    run: RunId,
    key: i64,
) -> rusqlite::Result<Vec<InboxItem>> {
    let sql = "SELECT id, ?1, request, at FROM inbox WHERE run = ?2";
    let mut select = connection.prepare_cached(sql)?;
    let found = select.query_row(params![run.to_bytes(), key], item);
    Ok(found.optional()?.into_iter().collect())
}

fn item(row: &Row<'_>) -> rusqlite::Result<InboxItem> {
    let json: String = row.get(2)?;
    let request = serde_json::from_str(&json).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(InboxItem {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        run: RunId::from_bytes(row.get(1)?),
        request,
        at_ms: row.get(3)?,
    })
}
