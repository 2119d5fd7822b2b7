//! What a transaction does with the records of a run.

use std::collections::HashMap;

use bytes::Bytes;
use orchestrator_contract::{RunId, StepId};
use rusqlite::{OptionalExtension as _, Transaction, named_params, params};

use super::{
    blobs::BlobStore,
    condition::Condition,
    digest::{Chain, Digest, Link},
    error::{AppendError, JournalError},
    owner::{Owner, Owners},
    record::{OwnerId, RunCreated},
    run::{Creation, RunStatus},
};

/// A record ready to be written: checked, encoded and, where it is large,
/// already on disk.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) kind: &'static str,
    pub(super) step: Option<StepId>,
    pub(super) attempt: Option<u32>,
    pub(super) at_ms: i64,
    pub(super) body: String,
    pub(super) payload: Option<PreparedPayload>,
    pub(super) effect: Effect,
}

#[derive(Debug)]
pub(super) struct PreparedPayload {
    pub(super) content_type: String,
    pub(super) bytes: Bytes,
    pub(super) digest: Digest,
    /// Whether it is in a file.
    pub(super) is_blob: bool,
}

/// What a record changes besides the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Progress,
    /// The owner knows of a request to cancel.
    CancelSeen,
    Finished(RunStatus),
}

/// Where a run stands, kept between transactions for as long as nobody else
/// writes the file.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) key: i64,
    pub(super) owner: OwnerId,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) chain: Chain,
    pub(super) restarts: u32,
    pub(super) status: RunStatus,
    pub(super) updated_ms: i64,
    changed: bool,
}

/// The heads of the runs written lately.
#[derive(Debug, Default)]
pub(super) struct Heads(HashMap<RunId, Head>);

/// How many heads are kept. Rebuilding one is a single look-up.
const HEADS_MAX: usize = 16_384;

impl Heads {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Keeps the number of heads bounded, after a commit.
    pub(super) fn trim(&mut self) {
        if self.0.len() > HEADS_MAX {
            self.0.clear();
        }
    }
}

/// What a transaction works with besides the database.
#[derive(Debug)]
pub(super) struct Around {
    pub(super) blobs: BlobStore,
    pub(super) owner: Owner,
    pub(super) owners: Owners,
    pub(super) condition: Condition,
}

/// One transaction, as the requests in it see it.
pub(crate) struct Batch<'a> {
    pub(crate) tx: &'a Transaction<'a>,
    pub(super) blobs: &'a BlobStore,
    pub(super) owner: OwnerId,
    pub(super) owners: &'a Owners,
    condition: &'a Condition,
    heads: &'a mut Heads,
    changed: Vec<RunId>,
    records: u64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(tx: &'a Transaction<'a>, heads: &'a mut Heads, tools: &'a Around) -> Self {
        let Around {
            blobs,
            owner,
            owners,
            condition,
        } = tools;
        Self {
            tx,
            blobs,
            owner: owner.id(),
            owners,
            condition,
            heads,
            changed: Vec::new(),
            records: 0,
        }
    }

    /// Appends to a run, if it stands where the caller believes.
    pub(super) fn append(
        &mut self,
        run: RunId,
        expect_seq: u64,
        epoch: u64,
        records: &[Prepared],
    ) -> rusqlite::Result<Result<u64, AppendError>> {
        let Some(head) = self.head(run)? else {
            return Ok(Err(AppendError::Fenced {
                run,
                seq: 0,
                epoch: 0,
                finished: false,
            }));
        };
        let finished = head.status != RunStatus::Running;
        if head.seq != expect_seq || head.epoch != epoch || finished {
            return Ok(Err(AppendError::Fenced {
                run,
                seq: head.seq,
                epoch: head.epoch,
                finished,
            }));
        }
        if let Err(error) = self.keep_blobs(records) {
            return Ok(Err(error));
        }
        self.write(run, records).map(Ok)
    }

    /// Creates a run with its first records.
    pub(super) fn create(
        &mut self,
        run: RunId,
        created: &RunCreated,
        records: &[Prepared],
    ) -> rusqlite::Result<Result<Creation, JournalError>> {
        if let Some(key) = created.idempotency_key.as_deref() {
            let tenant = created.tenant.as_deref().unwrap_or_default();
            if let Some((run, is_same)) = self.earlier(tenant, key, created, records)? {
                return Ok(match is_same {
                    true => Ok(Creation::Existing(run)),
                    false => Err(JournalError::KeyReused { run }),
                });
            }
        }
        if self.head(run)?.is_some() {
            return Ok(Err(JournalError::RunExists { run }));
        }
        let sql = "SELECT 1 FROM definitions WHERE sha256 = ?1";
        let definition = created.definition;
        let mut select = self.tx.prepare_cached(sql)?;
        if !select.exists([definition.as_bytes()])? {
            return Ok(Err(JournalError::NoSuchDefinition { definition }));
        }
        if let Err(error) = self.keep_blobs(records) {
            return Ok(Err(error.into()));
        }
        self.insert_run(run, created, records.first().map_or(0, |first| first.at_ms))?;
        let seq = self.write(run, records)?;
        Ok(Ok(Creation::Created { epoch: 1, seq }))
    }

    /// The run of an earlier request with the same key, and whether that asked
    /// for the same: the same pipeline with the same input.
    fn earlier(
        &self,
        tenant: &str,
        key: &str,
        created: &RunCreated,
        records: &[Prepared],
    ) -> rusqlite::Result<Option<(RunId, bool)>> {
        let sql =
            "SELECT runs.ulid, runs.definition, events.content_type, events.payload, events.blob
            FROM runs JOIN events ON events.run = runs.run AND events.seq = 1
            WHERE ifnull(tenant, '') = ?1 AND idempotency = ?2";
        let mut select = self.tx.prepare_cached(sql)?;
        let found = select.query_row(params![tenant, key], |row| {
            let inline = row.get_ref(3)?.as_blob_or_null()?;
            let input = match row.get::<_, Option<[u8; 32]>>(4)? {
                Some(blob) => Digest::from_bytes(blob),
                None => Digest::of(inline.unwrap_or_default()),
            };
            let content_type: Option<String> = row.get(2)?;
            let asked = records.first().and_then(|first| first.payload.as_ref());
            let is_same = Digest::from_bytes(row.get(1)?) == created.definition
                && asked.is_some_and(|asked| {
                    asked.digest == input && Some(&asked.content_type) == content_type.as_ref()
                });
            Ok((RunId::from_bytes(row.get(0)?), is_same))
        });
        found.optional()
    }

    fn insert_run(&mut self, run: RunId, created: &RunCreated, at_ms: i64) -> rusqlite::Result<()> {
        let sql = "INSERT INTO runs (ulid, pipeline, definition, status, tenant, session,
                idempotency, owner, epoch, last_seq, chain, restarts, created, updated)
            VALUES (:ulid, :pipeline, :definition, 'running', :tenant, :session,
                :idempotency, :owner, 1, 0, :chain, 0, :at, :at)";
        let chain = Chain::default();
        let key = self.tx.prepare_cached(sql)?.insert(named_params! {
            ":ulid": run.to_bytes(),
            ":pipeline": &*created.pipeline,
            ":definition": created.definition.as_bytes(),
            ":tenant": created.tenant.as_deref(),
            ":session": created.session.to_bytes(),
            ":idempotency": created.idempotency_key.as_deref(),
            ":owner": self.owner.to_bytes(),
            ":chain": chain.0,
            ":at": at_ms,
        })?;
        let head = Head {
            key,
            owner: self.owner,
            epoch: 1,
            seq: 0,
            chain,
            restarts: 0,
            status: RunStatus::Running,
            updated_ms: at_ms,
            changed: false,
        };
        self.heads.0.insert(run, head);
        Ok(())
    }

    /// Where a run stands, if there is one.
    pub(super) fn head(&mut self, run: RunId) -> rusqlite::Result<Option<&mut Head>> {
        if !self.heads.0.contains_key(&run) {
            let Some(head) = read_head(self.tx, run)? else {
                return Ok(None);
            };
            self.heads.0.insert(run, head);
        }
        Ok(self.heads.0.get_mut(&run))
    }

    /// Forgets a run that is being deleted.
    pub(super) fn forget(&mut self, run: RunId) {
        self.heads.0.remove(&run);
        self.changed.retain(|changed| *changed != run);
    }

    /// Writes records after a run's last one, which must exist.
    pub(super) fn write(&mut self, run: RunId, records: &[Prepared]) -> rusqlite::Result<u64> {
        let tx = self.tx;
        let Some(head) = self.heads.0.get_mut(&run) else {
            return Err(rusqlite::Error::QueryReturnedNoRows);
        };
        for record in records {
            insert_event(tx, run, head, record)?;
            match record.effect {
                Effect::None => (),
                Effect::Progress => head.restarts = 0,
                Effect::CancelSeen => clear_inbox(tx, head.key)?,
                Effect::Finished(status) => {
                    head.status = status;
                    head.restarts = 0;
                    clear_inbox(tx, head.key)?;
                }
            }
        }
        if !head.changed {
            head.changed = true;
            self.changed.push(run);
        }
        self.records += records.len() as u64;
        Ok(head.seq)
    }

    /// Makes sure that every file is there that a row will refer to. It is,
    /// unless a sweep came between its writing and now.
    fn keep_blobs(&self, records: &[Prepared]) -> Result<(), AppendError> {
        let payloads = records.iter().filter_map(|record| record.payload.as_ref());
        for payload in payloads.filter(|payload| payload.is_blob) {
            if !self.blobs.has(&payload.digest, payload.bytes.len()) {
                let put = self.blobs.put(&payload.digest, &payload.bytes);
                put.map_err(|error| {
                    let reason = format!("cannot write a blob: {error}");
                    self.condition.unavailable(reason, false)
                })?;
            }
        }
        Ok(())
    }

    /// Brings the table of runs up to date, and counts the records written.
    pub(super) fn finish(self) -> rusqlite::Result<u64> {
        let sql = "UPDATE runs SET status = ?2, owner = ?3, epoch = ?4, last_seq = ?5, chain = ?6,
                restarts = ?7, updated = ?8, finished = ?9 WHERE run = ?1";
        let mut update = self.tx.prepare_cached(sql)?;
        for run in self.changed {
            let Some(head) = self.heads.0.get_mut(&run) else {
                continue;
            };
            let finished = head.status != RunStatus::Running;
            update.execute(params![
                head.key,
                head.status.as_str(),
                head.owner.to_bytes(),
                head.epoch.cast_signed(),
                head.seq.cast_signed(),
                head.chain.0,
                head.restarts,
                head.updated_ms,
                finished.then_some(head.updated_ms),
            ])?;
            head.changed = false;
            if finished {
                self.heads.0.remove(&run);
            }
        }
        Ok(self.records)
    }
}

fn read_head(tx: &Transaction<'_>, run: RunId) -> rusqlite::Result<Option<Head>> {
    let sql = "SELECT run, owner, epoch, last_seq, chain, restarts, status, updated
        FROM runs WHERE ulid = ?1";
    let mut select = tx.prepare_cached(sql)?;
    let head = select.query_row([run.to_bytes()], |row| {
        let status: Box<str> = row.get(6)?;
        Ok(Head {
            key: row.get(0)?,
            owner: OwnerId::from_bytes(row.get(1)?),
            epoch: row.get::<_, i64>(2)?.cast_unsigned(),
            seq: row.get::<_, i64>(3)?.cast_unsigned(),
            chain: Chain(row.get(4)?),
            restarts: row.get(5)?,
            status: RunStatus::from_name(&status).ok_or(rusqlite::Error::InvalidQuery)?,
            updated_ms: row.get(7)?,
            changed: false,
        })
    });
    head.optional()
}

fn insert_event(
    tx: &Transaction<'_>,
    run: RunId,
    head: &mut Head,
    record: &Prepared,
) -> rusqlite::Result<()> {
    let payload = record.payload.as_ref();
    head.seq += 1;
    head.updated_ms = record.at_ms;
    head.chain = head.chain.then(&Link {
        run,
        seq: head.seq,
        epoch: head.epoch,
        at_ms: record.at_ms,
        body: record.body.as_bytes(),
        payload: payload.map(|payload| (payload.content_type.as_str(), &payload.digest)),
    });
    let inline = payload.filter(|payload| !payload.is_blob);
    let blob = payload.filter(|payload| payload.is_blob);
    let sql = "INSERT INTO events (run, seq, epoch, kind, step, attempt, at, body, content_type,
            payload, blob, chain) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    tx.prepare_cached(sql)?.execute(params![
        head.key,
        head.seq.cast_signed(),
        head.epoch.cast_signed(),
        record.kind,
        record.step.as_ref().map(StepId::as_str),
        record.attempt,
        record.at_ms,
        record.body,
        payload.map(|payload| payload.content_type.as_str()),
        inline.map(|payload| &payload.bytes[..]),
        blob.map(|payload| payload.digest.as_bytes()),
        head.chain.0,
    ])?;
    if let Some(blob) = blob {
        let sql = "INSERT INTO blobs (sha256, bytes, refs) VALUES (?1, ?2, 1)
            ON CONFLICT (sha256) DO UPDATE SET refs = refs + 1";
        let len = blob.bytes.len() as i64;
        tx.prepare_cached(sql)?
            .execute(params![blob.digest.as_bytes(), len])?;
    }
    Ok(())
}

fn clear_inbox(tx: &Transaction<'_>, key: i64) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM inbox WHERE run = ?1")?
        .execute([key])
        .map(drop)
}
