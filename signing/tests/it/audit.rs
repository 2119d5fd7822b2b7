//! The audit log on real files: what it says of changes made behind its back.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_signing::audit::{
    AuditError, AuditEvent, AuditLog, AuditReader, AuditRecord, AuditSettings, CopyTo, Kind,
    Outcome, Proof, QuotaSettings, Report, VerifierKey, copy_to_file, prove, verifier_key, verify,
};
use tempfile::TempDir;

pub(crate) fn settings() -> AuditSettings {
    AuditSettings::new(|name| name.contains("token"))
}

pub(crate) fn open_with(
    dir: &Path,
    settings: AuditSettings,
    copy: Option<CopyTo>,
) -> Result<AuditLog, AuditError> {
    AuditLog::open(dir, settings, copy, Box::new(|_| {}))
}

pub(crate) fn open(dir: &Path) -> AuditLog {
    open_with(dir, settings(), None).unwrap()
}

pub(crate) fn event(number: u64) -> AuditEvent {
    AuditEvent::new(Kind::Denial, Outcome::Denied)
        .plugin("greeter")
        .detail(format!("number {number}"))
}

pub(crate) fn records(dir: &Path) -> Vec<AuditRecord> {
    let mut reader = AuditReader::open(dir, 0).unwrap();
    std::iter::from_fn(|| reader.next_record().unwrap()).collect()
}

pub(crate) fn check(dir: &Path) -> Result<Report, AuditError> {
    verify(dir, &verifier_key(dir)?, None)
}

/// A folder for a log, and one for a copy of its checkpoints.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    pub(crate) fn copy(&self) -> PathBuf {
        self.dir.path().join("copy")
    }

    /// Records `many`, and closes the log.
    pub(crate) fn fill(&self, settings: AuditSettings, many: u64) {
        let log = open_with(&self.log(), settings, Some(copy_to_file(self.copy()))).unwrap();
        let receipts: Vec<_> = (0..many).map(|number| log.record(event(number))).collect();
        for receipt in receipts {
            receipt.wait().unwrap();
        }
    }

    pub(crate) fn key(&self) -> VerifierKey {
        verifier_key(&self.log()).unwrap()
    }

    pub(crate) fn check(&self) -> Result<Report, AuditError> {
        check(&self.log())
    }

    pub(crate) fn check_with_copy(&self) -> Result<Report, AuditError> {
        verify(&self.log(), &self.key(), Some(&self.copy()))
    }

    pub(crate) fn segment(&self) -> PathBuf {
        self.log().join("00000000000000000000.ndjson")
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.log().join("00000000000000000000.checkpoints")
    }

    /// Removes all checkpoints but the first, which covers nothing.
    pub(crate) fn remove_checkpoints(&self) {
        let text = fs::read_to_string(self.checkpoints()).unwrap();
        let second = text[1..].find("\norchestrator.audit/").unwrap();
        fs::write(self.checkpoints(), &text[..=second]).unwrap();
    }
}

#[test]
fn what_is_recorded_is_found_in_order() {
    let place = Place::new();
    let log = open(&place.log());
    for number in 0..10 {
        assert_eq!(log.record(event(number)).wait().unwrap(), number);
    }
    drop(log);
    let log = open(&place.log());
    assert_eq!(log.record(event(10)).wait().unwrap(), 10);
    drop(log);
    let found = records(&place.log());
    for (number, record) in (0..).zip(&found) {
        assert_eq!(record.seq, number);
        assert_eq!(record.event, event(number));
    }
    let report = place.check().unwrap();
    assert_eq!((report.first, report.size, report.covered), (0, 11, 11));
    // The first one covers nothing, and stands for the beginning.
    assert_eq!((report.checkpoints, report.unfinished), (3, 0));
    let mode = |name: &str| {
        place
            .log()
            .join(name)
            .metadata()
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("key"), mode("00000000000000000000.ndjson")),
        (0o600, 0o600)
    );
    assert_eq!(
        place.log().metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn checkpoints_come_by_number_and_by_time() {
    let place = Place::new();
    let mut often = settings();
    often.checkpoint_records = 10;
    often.checkpoint_interval = Duration::from_secs(3_600);
    let log = open_with(&place.log(), often, None).unwrap();
    for number in 0..25 {
        log.record(event(number)).wait().unwrap();
    }
    // The second call comes after the checkpoint, if one was due.
    assert_eq!(place.check().unwrap().covered, 20);
    drop(log);
    assert_eq!(place.check().unwrap().covered, 25);

    let mut soon = settings();
    soon.checkpoint_interval = Duration::from_millis(20);
    let log = open_with(&place.log(), soon, None).unwrap();
    log.record(event(25)).wait().unwrap();
    eventually(|| place.check().unwrap().covered == 26);
    drop(log);
}

#[expect(clippy::disallowed_methods, reason = "waits for a real thread")]
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came true");
}

pub(crate) fn small_segments() -> AuditSettings {
    let mut settings = settings();
    settings.segment_bytes = 2_000;
    settings
}

pub(crate) fn segments(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".ndjson"))
        .collect();
    names.sort();
    names
}

#[test]
fn segments_follow_each_other_and_old_ones_go() {
    let place = Place::new();
    let log = open_with(
        &place.log(),
        small_segments(),
        Some(copy_to_file(place.copy())),
    )
    .unwrap();
    for number in 0..100 {
        assert_eq!(log.record(event(number)).wait().unwrap(), number);
    }
    drop(log);
    let before = segments(&place.log());
    assert!(before.len() > 4, "{before:?}");
    let report = place.check_with_copy().unwrap();
    assert_eq!((report.size, report.covered), (100, 100));
    let (_, old_proof) = prove(&place.log(), &place.key(), 3).unwrap();

    let mut brief = small_segments();
    brief.keep = Some(Duration::ZERO);
    drop(open_with(&place.log(), brief, None).unwrap());
    let after = segments(&place.log());
    assert_eq!(after, before[before.len() - 1..]);
    let report = place.check_with_copy().unwrap();
    assert_eq!(report.size, 101);
    assert!(report.first > 80, "{report:?}");
    assert_eq!(
        records(&place.log()).last().unwrap().event.kind,
        Kind::Pruned
    );
    // What is left is still proved, and so is, by its old proof, what is gone.
    let (line, proof) = prove(&place.log(), &place.key(), 99).unwrap();
    assert_eq!(proof.verify(&line, &place.key()).unwrap().size, 101);
    assert_eq!(old_proof.seq, 3);
    let gone = prove(&place.log(), &place.key(), 3);
    assert!(
        matches!(gone, Err(AuditError::NoSuchRecord { seq: 3, .. })),
        "{gone:?}"
    );
    // A log that lost its beginning goes on.
    let log = open_with(&place.log(), small_segments(), None).unwrap();
    assert_eq!(log.record(event(101)).wait().unwrap(), 101);
    drop(log);
    place.check_with_copy().unwrap();
}

#[test]
fn a_record_is_proved_to_whoever_has_the_key() {
    let place = Place::new();
    place.fill(settings(), 37);
    let key = VerifierKey::parse(&place.key().to_text()).unwrap();
    for seq in 0..37 {
        let (line, proof) = prove(&place.log(), &key, seq).unwrap();
        let proof = Proof::parse(&proof.to_text()).unwrap();
        assert_eq!(proof.verify(&line, &key).unwrap().size, 37);
        assert!(matches!(
            proof.verify(b"{}", &key),
            Err(AuditError::NotProved)
        ));
    }
    let none = prove(&place.log(), &key, 37);
    assert!(
        matches!(none, Err(AuditError::NoSuchRecord { end: 37, .. })),
        "{none:?}"
    );
}

#[test]
fn a_flood_hides_nothing_of_others_and_is_counted() {
    let place = Place::new();
    let mut tight = settings();
    tight.quota = QuotaSettings {
        per_second: 0.001,
        burst: 20,
    };
    let log = open_with(&place.log(), tight, None).unwrap();
    for number in 0..10_000 {
        log.note(event(number).plugin("flood"));
    }
    log.note(event(0).plugin("calm"));
    drop(log);
    let found = records(&place.log());
    let of = |plugin: &str, kind| {
        let by = |record: &&AuditRecord| record.event.plugin.as_deref() == Some(plugin);
        found
            .iter()
            .filter(by)
            .filter(move |it| it.event.kind == kind)
            .count()
    };
    assert_eq!(
        (of("flood", Kind::Denial), of("calm", Kind::Denial)),
        (20, 1)
    );
    let told = found.iter().filter(|it| it.event.kind == Kind::Suppressed);
    let counted: u64 = told
        .map(|it| it.event.context["count"].parse::<u64>().unwrap())
        .sum();
    assert_eq!(counted, 9_980);
    assert_eq!(place.check().unwrap().covered, found.len() as u64);
}

#[test]
fn hostile_text_stays_one_harmless_line() {
    let place = Place::new();
    let log = open(&place.log());
    let nasty = "x\n{\"seq\":1}\u{1b}[2J api_token=pl4nted";
    let mut hostile = event(0)
        .plugin(nasty)
        .detail(nasty)
        .with("token", "pl4nted");
    for word in [
        &mut hostile.actor,
        &mut hostile.action,
        &mut hostile.run,
        &mut hostile.rule,
    ] {
        *word = Some(nasty.to_owned());
    }
    log.record(hostile).wait().unwrap();
    drop(log);
    let text = fs::read_to_string(place.segment()).unwrap();
    assert!(!text.contains("pl4nted"), "{text}");
    assert_eq!(text.lines().count(), 1);
    let record = records(&place.log()).remove(0).event;
    assert!(!record.detail.unwrap().contains("pl4nted"));
    assert_eq!(record.context["token"], "[redacted]");
    assert!(!text.trim_end().contains(char::is_control));
}

#[test]
fn a_copy_that_fails_is_recorded_and_so_is_its_return() {
    let place = Place::new();
    let works = Arc::new(AtomicBool::new(false));
    let of_copy = Arc::clone(&works);
    let copy: CopyTo = Box::new(move |_| match of_copy.load(Ordering::SeqCst) {
        true => Ok(()),
        false => Err(std::io::ErrorKind::StorageFull.into()),
    });
    let mut often = settings();
    often.checkpoint_records = 1;
    let log = open_with(&place.log(), often, Some(copy)).unwrap();
    log.record(event(0)).wait().unwrap();
    log.record(event(1)).wait().unwrap();
    works.store(true, Ordering::SeqCst);
    log.record(event(2)).wait().unwrap();
    drop(log);
    let told: Vec<_> = records(&place.log())
        .into_iter()
        .filter(|it| it.event.kind == Kind::Checkpoint)
        .map(|it| it.event.outcome)
        .collect();
    assert_eq!(told, [Outcome::Failed, Outcome::Ok]);
}

/// What its owner hands in runs on the log's thread, and may end it.
#[test]
fn nobody_waits_for_a_writer_that_is_gone() {
    let place = Place::new();
    let copy: CopyTo = Box::new(|_| panic!("as a copy may"));
    let mut often = settings();
    often.checkpoint_records = 1;
    often.queue_max = 8;
    let log = open_with(&place.log(), often, Some(copy)).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for number in 0..100 {
            tell.send(log.record(event(number)).wait()).unwrap();
            log.note(event(number));
        }
    });
    let mut answers = Vec::new();
    while let Ok(answer) = told.recv_timeout(Duration::from_secs(60)) {
        answers.push(answer);
    }
    assert_eq!(answers.len(), 100);
    let last = answers.pop().unwrap();
    assert!(
        matches!(&last, Err(AuditError::NotRecorded { .. })),
        "{last:?}"
    );
}

#[test]
fn who_is_suppressed_is_told_as_harmlessly_as_all_else() {
    let place = Place::new();
    let mut tight = settings();
    tight.quota.burst = 1;
    let log = open_with(&place.log(), tight, None).unwrap();
    let nasty = format!("x\u{1b}[2J api_token=pl4nted {}", "long".repeat(20_000));
    for number in 0..3 {
        log.note(event(number).plugin(&nasty));
    }
    drop(log);
    let found = records(&place.log());
    assert_eq!(found.len(), 2, "{found:?}");
    for record in found {
        let plugin = record.event.plugin.unwrap();
        assert!(
            plugin.len() < 300 && !plugin.contains("pl4nted"),
            "{plugin}"
        );
        assert!(!plugin.contains(char::is_control), "{plugin}");
    }
}

#[test]
fn two_writers_in_turns_make_one_log() {
    let place = Place::new();
    let (one, two) = (
        open(&place.log()),
        open_with(&place.log(), small_segments(), None).unwrap(),
    );
    for turn in 0..50 {
        assert_eq!(one.record(event(turn)).wait().unwrap(), 2 * turn);
        assert_eq!(two.record(event(turn)).wait().unwrap(), 2 * turn + 1);
    }
    drop((one, two));
    let report = place.check().unwrap();
    assert_eq!((report.size, report.covered), (100, 100));
    assert!(segments(&place.log()).len() > 2);
}

#[test]
fn who_holds_the_log_for_long_is_named() {
    let place = Place::new();
    place.fill(settings(), 1);
    let lock = fs::File::open(place.log().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut hasty = settings();
    hasty.lock_wait = Duration::from_millis(30);
    let refused = open_with(&place.log(), hasty, None);
    assert!(
        matches!(refused, Err(AuditError::Busy { .. })),
        "{refused:?}"
    );
}
