//! Requests to the owner of a run from other processes.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::RunId;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Journal, error::JournalError, record::OwnerId, run::InboxItem};

/// The most requests that one look brings.
const ITEMS_MAX: usize = 256;

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
