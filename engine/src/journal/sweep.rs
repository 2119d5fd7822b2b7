//! Removing what nobody needs any more.

use std::time::Duration;

use orchestrator_contract::RunId;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    append::Batch,
    digest::Digest,
    error::{AppendError, JournalError},
    run::Swept,
    settings::Retention,
    sqlite::SqliteJournal,
    writer::Cost,
};

/// How many runs one transaction deletes, so that others are not held up.
const RUNS_A_TIME: u32 = 32;
/// How many files one transaction removes.
const FILES_A_TIME: usize = 256;
/// How long a definition or a file may wait for the run that will use it.
const GRACE: Duration = Duration::from_secs(60 * 60);

impl SqliteJournal {
    pub(super) async fn delete_ended_run(&self, run: RunId) -> Result<(), JournalError> {
        let freed = self
            .writer()
            .write(Cost::default(), move |batch| delete_if_ended(batch, run))
            .await??;
        self.remove_files(freed).await?;
        Ok(())
    }

    pub(super) async fn sweep_all(&self, now_ms: i64) -> Result<Swept, JournalError> {
        let mut swept = Swept::default();
        if let Retention::Keep(keep) = self.settings().retention {
            let before = earlier(now_ms, keep);
            loop {
                let work = move |batch: &mut Batch<'_>| delete_ended_before(batch, before);
                let (runs, freed) = self.writer().write(Cost::default(), work).await?;
                swept.runs += u64::from(runs);
                swept.blobs += self.remove_files(freed).await?;
                if runs < RUNS_A_TIME {
                    break;
                }
            }
        }
        let before = earlier(now_ms, GRACE);
        let unused = "DELETE FROM definitions WHERE put < ?1 AND NOT EXISTS
            (SELECT 1 FROM runs WHERE runs.definition = definitions.sha256)";
        let work = move |batch: &mut Batch<'_>| batch.tx.execute(unused, [before]);
        swept.definitions = self.writer().write(Cost::default(), work).await? as u64;
        swept.blobs += self.remove_strays().await?;
        Ok(swept)
    }

    /// Removes files that no row refers to: their writer was stopped midway.
    async fn remove_strays(&self) -> Result<u64, JournalError> {
        let mut removed = 0;
        loop {
            let blobs = self.blobs().clone();
            let query = move |connection: &Connection| {
                blobs.remove_unfinished(GRACE);
                blobs.strays(GRACE, FILES_A_TIME, |digest| {
                    Ok(is_referred_to(connection, digest)?)
                })
            };
            let strays = self.readers().query(query).await?;
            let found = strays.len();
            let gone = self.remove_files(strays).await?;
            removed += gone;
            // A file that cannot be removed would be found for ever.
            if found < FILES_A_TIME || gone == 0 {
                return Ok(removed);
            }
        }
    }

    /// Removes files after the transaction that removed their rows: the other
    /// way round, a crash in between would leave a row without its file.
    async fn remove_files(&self, mut freed: Vec<Digest>) -> Result<u64, AppendError> {
        let mut removed = 0;
        while !freed.is_empty() {
            let some = freed.split_off(freed.len().saturating_sub(FILES_A_TIME));
            removed += self
                .writer()
                .write(Cost::default(), move |batch| remove(batch, &some))
                .await?;
        }
        Ok(removed)
    }
}

fn earlier(now_ms: i64, by: Duration) -> i64 {
    now_ms.saturating_sub(by.as_millis().try_into().unwrap_or(i64::MAX))
}

fn delete_if_ended(
    batch: &mut Batch<'_>,
    run: RunId,
) -> rusqlite::Result<Result<Vec<Digest>, JournalError>> {
    let sql = "SELECT run, finished IS NOT NULL FROM runs WHERE ulid = ?1";
    let found = batch
        .tx
        .prepare_cached(sql)?
        .query_row([run.to_bytes()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?))
        });
    // A run that ended in this very transaction is not marked yet; it can be
    // deleted with the next.
    match found.optional()? {
        None => Ok(Err(JournalError::NoSuchRun { run })),
        Some((_, false)) => Ok(Err(JournalError::NotEnded { run })),
        Some((key, true)) => {
            batch.forget(run);
            delete(batch.tx, key).map(Ok)
        }
    }
}

fn delete_ended_before(
    batch: &mut Batch<'_>,
    before_ms: i64,
) -> rusqlite::Result<(u32, Vec<Digest>)> {
    let sql = "SELECT run, ulid FROM runs WHERE finished < ?1 ORDER BY finished LIMIT ?2";
    let mut select = batch.tx.prepare_cached(sql)?;
    let rows = select.query_map(params![before_ms, RUNS_A_TIME], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?))
    })?;
    let ended: Vec<_> = rows.collect::<Result<_, _>>()?;
    let mut freed = Vec::new();
    for (key, ulid) in &ended {
        batch.forget(RunId::from_bytes(*ulid));
        freed.extend(delete(batch.tx, *key)?);
    }
    Ok((ended.len().try_into().unwrap_or(RUNS_A_TIME), freed))
}

/// Deletes a run. Returns the blobs that nothing refers to any more.
fn delete(tx: &Transaction<'_>, key: i64) -> rusqlite::Result<Vec<Digest>> {
    let sql = "SELECT blob FROM events WHERE run = ?1 AND blob IS NOT NULL";
    let mut select = tx.prepare_cached(sql)?;
    let rows = select.query_map([key], |row| row.get::<_, [u8; 32]>(0))?;
    let blobs: Vec<_> = rows.collect::<Result<_, _>>()?;
    let mut freed = Vec::new();
    for blob in blobs {
        tx.prepare_cached("UPDATE blobs SET refs = refs - 1 WHERE sha256 = ?1")?
            .execute([blob])?;
        let sql = "DELETE FROM blobs WHERE sha256 = ?1 AND refs <= 0";
        if tx.prepare_cached(sql)?.execute([blob])? > 0 {
            freed.push(Digest::from_bytes(blob));
        }
    }
    for table in ["events", "inbox", "runs"] {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?1"))?
            .execute([key])?;
    }
    Ok(freed)
}

/// Removes those of the files that nothing refers to. While this transaction
/// lasts nobody can begin to, in this process or another.
fn remove(batch: &mut Batch<'_>, files: &[Digest]) -> rusqlite::Result<u64> {
    let mut removed = 0;
    for digest in files {
        if is_referred_to(batch.tx, digest)? {
            continue;
        }
        match batch.blobs.remove(digest) {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(%digest, %error, "cannot remove a blob"),
        }
    }
    Ok(removed)
}

fn is_referred_to(connection: &Connection, digest: &Digest) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM blobs WHERE sha256 = ?1")?
        .exists([digest.as_bytes()])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use orchestrator_contract::RunOutcome;

    use super::*;
    use crate::journal::{Journal, JournalSettings, blobs::list, fixture::*, now_ms};

    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

    async fn ended_run(journal: &SqliteJournal, fill: u8) -> RunId {
        let run = create(journal).await;
        let records = vec![
            completed("shared", payload(200_000, 0)),
            completed("own", payload(200_000, fill)),
            finished(RunOutcome::Success),
        ];
        journal.append(run, 1, 1, records).await.unwrap();
        run
    }

    fn files(fixture: &Fixture) -> usize {
        let folders = list(&fixture.dir().join("blobs"));
        folders.flat_map(|folder| list(&folder)).count()
    }

    #[tokio::test]
    async fn a_deleted_run_takes_along_the_blobs_that_were_its_alone() {
        let fixture = Fixture::new().await;
        let journal = &fixture.journal;
        let (first, second) = (ended_run(journal, 1).await, ended_run(journal, 2).await);
        assert_eq!(files(&fixture), 3);
        journal.delete_run(first).await.unwrap();
        assert_eq!(files(&fixture), 2);
        assert!(matches!(
            journal.load(first).await,
            Err(JournalError::NoSuchRun { .. })
        ));
        assert!(matches!(
            journal.delete_run(first).await,
            Err(JournalError::NoSuchRun { .. })
        ));
        assert_eq!(journal.load(second).await.unwrap().len(), 4);
        journal.delete_run(second).await.unwrap();
        assert_eq!(files(&fixture), 0);
        assert_eq!(journal.stats().await.unwrap().blobs, 0);

        let open = create(journal).await;
        assert!(matches!(
            journal.delete_run(open).await,
            Err(JournalError::NotEnded { .. })
        ));
    }

    #[tokio::test]
    async fn runs_go_when_their_retention_is_over_and_open_ones_never() {
        let fixture = Fixture::new().await;
        let journal = &fixture.journal;
        // More than one transaction deletes.
        for fill in 0..40 {
            ended_run(journal, fill).await;
        }
        let open = create(journal).await;
        let early = journal.sweep(now_ms() + 29 * DAY_MS).await.unwrap();
        assert_eq!((early.runs, early.blobs), (0, 0));
        let late = journal.sweep(now_ms() + 31 * DAY_MS).await.unwrap();
        assert_eq!((late.runs, late.blobs), (40, 40));
        assert_eq!(journal.stats().await.unwrap().runs, 1);
        assert_eq!(journal.load(open).await.unwrap().len(), 1);
        assert_eq!(files(&fixture), 0);
    }

    #[tokio::test]
    async fn without_retention_runs_stay() {
        let mut settings = JournalSettings::for_tests();
        settings.retention = Retention::Off;
        let fixture = Fixture::with(settings).await;
        let run = ended_run(&fixture.journal, 1).await;
        let swept = fixture
            .journal
            .sweep(now_ms() + 10_000 * DAY_MS)
            .await
            .unwrap();
        assert_eq!(swept, Swept::default());
        assert!(fixture.journal.load(run).await.is_ok());
    }

    #[tokio::test]
    async fn a_definition_stays_for_as_long_as_a_run_uses_it() {
        let fixture = Fixture::new().await;
        let journal = &fixture.journal;
        let unused = journal
            .put_definition(Bytes::from_static(b"unused"))
            .await
            .unwrap();
        create(journal).await;
        let now = now_ms();
        assert_eq!(journal.sweep(now).await.unwrap().definitions, 0);
        assert_eq!(journal.sweep(now + DAY_MS).await.unwrap().definitions, 1);
        assert_eq!(journal.definition(unused).await.unwrap(), None);
        let used = Digest::of(DEFINITION);
        assert!(journal.definition(used).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_file_that_a_stopped_writer_left_is_removed_and_one_in_use_is_not() {
        let fixture = Fixture::new().await;
        let journal = &fixture.journal;
        ended_run(journal, 1).await;
        let stray = Digest::of(b"stray");
        journal.blobs().put(&stray, b"stray").unwrap();
        assert_eq!(journal.sweep(now_ms()).await.unwrap().blobs, 0);
        let two_hours_ago = std::time::SystemTime::now() - 2 * GRACE;
        for folder in list(&fixture.dir().join("blobs")) {
            for file in list(&folder) {
                let file = std::fs::File::open(file).unwrap();
                file.set_modified(two_hours_ago).unwrap();
            }
        }
        assert_eq!(journal.sweep(now_ms()).await.unwrap().blobs, 1);
        assert!(!journal.blobs().has(&stray, 5));
        assert_eq!(files(&fixture), 2);
    }

    #[tokio::test]
    async fn a_file_swept_between_its_writing_and_its_row_is_written_again() {
        let fixture = Fixture::new().await;
        let journal = &fixture.journal;
        let run = create(journal).await;
        let output = payload(200_000, 7);
        let digest = Digest::of(&output.bytes);
        let record = crate::journal::submit::prepare(
            vec![completed("a", output.clone())],
            now_ms(),
            journal.settings(),
            journal.blobs(),
            journal.writer(),
        );
        let (records, cost) = record.await.unwrap();
        journal.remove_files(vec![digest]).await.unwrap();
        assert!(!journal.blobs().has(&digest, output.len()));
        let work = move |batch: &mut Batch<'_>| batch.append(run, 1, 1, &records);
        assert_eq!(journal.writer().write(cost, work).await.unwrap(), Ok(2));
        assert_eq!(journal.load(run).await.unwrap()[1].payload, Some(output));
    }
}
