//! What a failure means for those in a transaction and for others.

use std::sync::Arc;

use super::*;
use crate::journal::{
    Journal, JournalSettings, OwnerId, append::Around, blobs::BlobStore, fixture::*, now_ms,
    owner::Owners, schema::open_writer, writer::Task,
};

fn failure(extended_code: i32) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(extended_code), None)
}

#[test]
fn a_failed_flush_poisons_a_full_disk_does_not() {
    let cases = [
        (ffi::SQLITE_IOERR_FSYNC, Verdict::Poison),
        (ffi::SQLITE_IOERR_DIR_FSYNC, Verdict::Poison),
        (ffi::SQLITE_CORRUPT, Verdict::Poison),
        (ffi::SQLITE_FULL, Verdict::Group),
        (ffi::SQLITE_IOERR_WRITE, Verdict::Group),
        (ffi::SQLITE_BUSY, Verdict::Group),
        (ffi::SQLITE_CONSTRAINT_UNIQUE, Verdict::Request),
    ];
    for (code, verdict) in cases {
        assert_eq!(Verdict::on(&failure(code)), verdict, "{code}");
    }
}

fn thread() -> (tempfile::TempDir, Thread, Arc<Kept>) {
    let dir = tempfile::tempdir().unwrap();
    let settings = JournalSettings::for_tests();
    let events = Arc::new(Kept::default());
    let owners = Owners::open(&dir.path().join("owners")).unwrap();
    let tools = Tools {
        connection: open_writer(&dir.path().join("journal.db"), &settings).unwrap(),
        log: dir.path().join("journal.db-wal"),
        settings,
        around: Around {
            blobs: BlobStore::open(&dir.path().join("blobs")).unwrap(),
            owner: owners.join(OwnerId::random(0)).unwrap(),
            owners,
            condition: Condition::of(dir.path()),
        },
        events: events.clone(),
    };
    (dir, Thread::new(tools), events)
}

type Asked = (Box<dyn Job>, oneshot::Receiver<Result<i64, AppendError>>);

/// Writes a row and then fails with `code`, if there is one.
fn request(name: &'static str, code: Option<i32>) -> Asked {
    let (waiter, answer) = oneshot::channel();
    let work = move |batch: &mut Batch<'_>| {
        let sql = "INSERT INTO definitions (sha256, body, put) VALUES (?1, ?1, 0)";
        batch.tx.execute(sql, [name])?;
        code.map_or(Ok(7), |code| Err(failure(code)))
    };
    let task = Task {
        cost: Cost::default(),
        work,
        answer: None,
        waiter,
    };
    (Box::new(task), answer)
}

/// Settles a group of three, of which the second fails with `code`.
/// Returns who was served, and what is in the file.
fn settle_three(thread: &mut Thread, code: Option<i32>) -> (Vec<bool>, String) {
    let asked = [request("a", None), request("b", code), request("c", None)];
    let (group, answers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    thread.settle(group);
    let served = answers
        .into_iter()
        .map(|mut answer| answer.try_recv().unwrap() == Ok(7));
    let sql = "SELECT coalesce(group_concat(sha256, ''), '') FROM
        (SELECT sha256 FROM definitions ORDER BY sha256)";
    let rows = thread.tools.connection.query_row(sql, [], |row| row.get(0));
    (served.collect(), rows.unwrap())
}

#[test]
fn a_group_succeeds_together() {
    let (_dir, mut thread, _) = thread();
    assert_eq!(
        settle_three(&mut thread, None),
        (vec![true; 3], "abc".to_owned())
    );
}

#[test]
fn a_full_disk_fails_the_group_and_nothing_of_it_stays() {
    let (_dir, mut thread, _) = thread();
    let outcome = settle_three(&mut thread, Some(ffi::SQLITE_FULL));
    assert_eq!(outcome, (vec![false; 3], String::new()));
    assert_eq!(
        settle_three(&mut thread, None),
        (vec![true; 3], "abc".to_owned())
    );
}

#[test]
fn a_request_that_cannot_be_written_does_not_take_the_others_along() {
    let (_dir, mut thread, _) = thread();
    let outcome = settle_three(&mut thread, Some(ffi::SQLITE_CONSTRAINT_CHECK));
    assert_eq!(outcome, (vec![true, false, true], "ac".to_owned()));
}

#[test]
fn after_a_failed_flush_nothing_is_taken_any_more() {
    let (_dir, mut thread, _) = thread();
    let outcome = settle_three(&mut thread, Some(ffi::SQLITE_IOERR_FSYNC));
    assert_eq!(outcome, (vec![false; 3], String::new()));
    let (job, mut answer) = request("d", None);
    thread.settle(vec![job]);
    let refused = answer.try_recv().unwrap();
    assert!(matches!(
        refused,
        Err(AppendError::Unavailable { poisoned: true, .. })
    ));
}

#[tokio::test]
async fn a_journal_tells_when_it_takes_nothing_and_for_how_long() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.journal.health(), Ok(()));
    let broken = |code| {
        let work = move |_: &mut Batch<'_>| Err::<(), _>(failure(code));
        fixture.journal.write(Cost::default(), work)
    };
    broken(ffi::SQLITE_CONSTRAINT_CHECK).await.unwrap_err();
    assert_eq!(
        fixture.journal.health(),
        Ok(()),
        "that was the request's fault"
    );
    let before = now_ms();
    let error = broken(ffi::SQLITE_FULL).await.unwrap_err();
    let trouble = fixture.journal.health().unwrap_err();
    assert_eq!(trouble.error, error);
    assert!((before..=now_ms()).contains(&trouble.since_ms));
    assert!(!trouble.is_for_good());
    assert!(error.to_string().contains(fixture.dir().to_str().unwrap()));
    // Nobody asks for anything, and still it is found out that it is over.
    let recovered = async {
        while fixture.journal.health().is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, recovered).await.unwrap();

    let error = broken(ffi::SQLITE_IOERR_FSYNC).await.unwrap_err();
    let trouble = fixture.journal.health().unwrap_err();
    assert_eq!(trouble.error, error);
    assert!(trouble.is_for_good());

    let closed = Fixture::new().await;
    closed.journal.close().await;
    assert!(closed.journal.health().is_err());
}

/// The thread sleeps when a large payload cannot be stored, and nobody writes
/// anything after that.
#[tokio::test]
async fn what_fails_beside_the_database_is_found_to_be_over_too() {
    let fixture = Fixture::new().await;
    let journal = &fixture.journal;
    let run = create(journal).await;
    let unfinished = fixture.dir().join("blobs/unfinished");
    std::fs::remove_dir(&unfinished).unwrap();
    std::fs::write(&unfinished, "in the way").unwrap();
    let large = vec![completed("a", payload(200_000, 1))];
    let refused = journal.append(run, 1, 1, large.clone()).await;
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("os error"), "{refused}");
    assert_eq!(journal.health().unwrap_err().error, refused);

    std::fs::remove_file(&unfinished).unwrap();
    std::fs::create_dir(&unfinished).unwrap();
    let recovered = async {
        while journal.health().is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, recovered).await.unwrap();
    assert_eq!(journal.append(run, 1, 1, large).await, Ok(2));
}

#[tokio::test]
async fn many_at_once_share_transactions_within_the_limits() {
    let kept = Arc::new(Kept::default());
    let dir = tempfile::tempdir().unwrap();
    let mut settings = JournalSettings::for_tests();
    settings.group_records_max = 8;
    let journal = open_with(dir.path(), settings, kept.clone()).await;
    let run = create(&journal).await;
    let mut tickets = Vec::new();
    for seq in 1..=200 {
        let attempt = u32::try_from(seq).unwrap();
        tickets.push(
            journal
                .submit(run, seq, 1, vec![started("a", attempt)])
                .await
                .unwrap(),
        );
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    journal.close().await;
    let sizes: Vec<u64> = kept
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|event| match event {
            Event::JournalCommitted { events, .. } => *events,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sizes.iter().sum::<u64>(), 201);
    assert!(sizes.iter().all(|size| *size <= 8));
    // The first transaction takes longer than handing the rest over.
    assert!(sizes.len() < 150, "{} transactions", sizes.len());
}
