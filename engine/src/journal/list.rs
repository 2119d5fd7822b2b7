//! Questions about many runs.

use std::collections::{BTreeMap, HashMap};

use orchestrator_contract::{RunId, SessionId};
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql};

use super::{
    digest::Digest,
    error::JournalError,
    owner::Owners,
    record::OwnerId,
    run::{JournalStats, OpenRun, RunFilter, RunStatus, RunSummary},
};

/// The most runs in one list.
const RUNS_MAX: usize = 1_000;

const COLUMNS: &str = "ulid, pipeline, definition, status, tenant, session, owner, epoch, last_seq,
    created, updated, finished";

/// Whether somebody asked for the end of a run.
const ASKED: &str = "EXISTS (SELECT 1 FROM inbox WHERE inbox.run = runs.run)";

pub(super) fn runs(
    connection: &Connection,
    filter: &RunFilter,
) -> Result<Vec<RunSummary>, JournalError> {
    let before = filter.before.map(RunId::to_bytes);
    let status = filter.status.map(RunStatus::as_str);
    let pipeline = filter.pipeline.as_deref();
    let conditions: [(&str, Option<&dyn ToSql>); 3] = [
        ("ulid < ?", before.as_ref().map(|value| value as _)),
        ("status = ?", status.as_ref().map(|value| value as _)),
        ("pipeline = ?", pipeline.as_ref().map(|value| value as _)),
    ];
    // Only the conditions there are, so that each finds its index.
    let mut sql = format!("SELECT {COLUMNS} FROM runs WHERE true");
    let mut values = Vec::new();
    for (condition, value) in conditions {
        if let Some(value) = value {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(value);
        }
    }
    sql.push_str(" ORDER BY ulid DESC LIMIT ?");
    let limit = filter.limit.min(RUNS_MAX) as i64;
    values.push(&limit);
    let mut select = connection.prepare_cached(&sql)?;
    let rows = select.query_map(&*values, summary_of)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn summary(connection: &Connection, run: RunId) -> Result<RunSummary, JournalError> {
    let sql = format!("SELECT {COLUMNS} FROM runs WHERE ulid = ?1");
    let mut select = connection.prepare_cached(&sql)?;
    let found = select.query_row([run.to_bytes()], summary_of);
    found.optional()?.ok_or(JournalError::NoSuchRun { run })
}

fn summary_of(row: &Row<'_>) -> rusqlite::Result<RunSummary> {
    let status: Box<str> = row.get(3)?;
    Ok(RunSummary {
        run: RunId::from_bytes(row.get(0)?),
        pipeline: row.get(1)?,
        definition: Digest::from_bytes(row.get(2)?),
        status: RunStatus::from_name(&status).ok_or(rusqlite::Error::InvalidQuery)?,
        tenant: row.get(4)?,
        session: SessionId::from_bytes(row.get(5)?),
        owner: OwnerId::from_bytes(row.get(6)?),
        epoch: row.get::<_, i64>(7)?.cast_unsigned(),
        last_seq: row.get::<_, i64>(8)?.cast_unsigned(),
        created_ms: row.get(9)?,
        updated_ms: row.get(10)?,
        finished_ms: row.get(11)?,
    })
}

/// The last record of each of these runs.
pub(super) fn last_records(
    connection: &Connection,
    runs: &[RunId],
) -> Result<BTreeMap<RunId, u64>, JournalError> {
    let mut select = connection.prepare_cached("SELECT last_seq FROM runs WHERE ulid = ?1")?;
    let mut last = BTreeMap::new();
    for run in runs {
        let found = select.query_row([run.to_bytes()], |row| row.get::<_, i64>(0));
        if let Some(seq) = found.optional()? {
            last.insert(*run, seq.cast_unsigned());
        }
    }
    Ok(last)
}

pub(super) fn open_runs(
    connection: &Connection,
    us: OwnerId,
    owners: &Owners,
) -> Result<Vec<OpenRun>, JournalError> {
    let sql = format!(
        "SELECT ulid, pipeline, owner, restarts, {ASKED} FROM runs
        WHERE status = 'running' ORDER BY ulid"
    );
    let mut select = connection.prepare_cached(&sql)?;
    // A dead engine may leave thousands of runs; asked once an owner.
    let mut alive = HashMap::new();
    let rows = select.query_map([], |row| {
        let owner = OwnerId::from_bytes(row.get(2)?);
        Ok(OpenRun {
            run: RunId::from_bytes(row.get(0)?),
            pipeline: row.get(1)?,
            owner,
            ours: owner == us,
            owner_alive: *alive.entry(owner).or_insert_with(|| owners.is_alive(owner)),
            restarts_without_progress: row.get(3)?,
            cancel_requested: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn open_run(
    connection: &Connection,
    run: RunId,
    us: OwnerId,
    owners: &Owners,
) -> Result<Option<OpenRun>, JournalError> {
    let sql = format!(
        "SELECT pipeline, owner, restarts, status = 'running', {ASKED} FROM runs WHERE ulid = ?1"
    );
    let mut select = connection.prepare_cached(&sql)?;
    let found = select.query_row([run.to_bytes()], |row| {
        let owner = OwnerId::from_bytes(row.get(1)?);
        let open = OpenRun {
            run,
            pipeline: row.get(0)?,
            owner,
            ours: owner == us,
            owner_alive: owners.is_alive(owner),
            restarts_without_progress: row.get(2)?,
            cancel_requested: row.get(4)?,
        };
        Ok(row.get::<_, bool>(3)?.then_some(open))
    });
    found.optional()?.ok_or(JournalError::NoSuchRun { run })
}

pub(super) fn stats(connection: &Connection, queued: u64) -> Result<JournalStats, JournalError> {
    let number = |sql: &str| -> rusqlite::Result<u64> {
        let mut select = connection.prepare_cached(sql)?;
        let value = select.query_row([], |row| row.get::<_, Option<i64>>(0))?;
        Ok(value.unwrap_or_default().cast_unsigned())
    };
    Ok(JournalStats {
        runs_open: number("SELECT count(*) FROM runs WHERE status = 'running'")?,
        runs: number("SELECT count(*) FROM runs")?,
        blobs: number("SELECT count(*) FROM blobs")?,
        blob_bytes: number("SELECT sum(bytes) FROM blobs")?,
        inbox: number("SELECT count(*) FROM inbox")?,
        sessions: number("SELECT count(*) FROM sessions")?,
        database_bytes: number("PRAGMA page_count")? * number("PRAGMA page_size")?,
        queued,
    })
}
