//! The audit log written by several processes, by one that is killed, and by
//! one that finds the disk full.

#![expect(
    clippy::disallowed_types,
    reason = "starts this very test program; the sandbox is for plugins"
)]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use orchestrator_signing::audit::{AuditEvent, AuditLog, Kind};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::audit::{check, event, eventually, open, records};

const DIR: &str = "ORCHESTRATOR_TEST_AUDIT_DIR";
const MANY: &str = "ORCHESTRATOR_TEST_AUDIT_MANY";

/// This program again, as one of its children below.
fn child(name: &str, dir: &Path, many: u64) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([
            name,
            "--exact",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(DIR, dir)
        .env(MANY, many.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// What a child was told to do; nothing when a person runs the ignored tests.
fn orders() -> Option<(PathBuf, u64)> {
    let many = env::var(MANY).ok()?.parse().ok()?;
    Some((env::var_os(DIR)?.into(), many))
}

/// Says on standard output, in one write, that a record is durable.
fn acknowledge(seq: u64, text: &str) {
    // What the test harness writes has no line end.
    let line = format!("\nack {seq} {text}\n");
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// What a child said was durable: its records, by number.
fn acknowledged(output: &str) -> BTreeMap<u64, String> {
    let lines = output.lines().filter(|line| line.starts_with("ack "));
    // The last line may be cut off.
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    let many = whole
        .lines()
        .filter(|line| line.starts_with("ack "))
        .count();
    lines
        .take(many)
        .map(|line| {
            let mut words = line.splitn(3, ' ').skip(1);
            let seq = words.next().unwrap().parse().unwrap();
            (seq, words.next().unwrap().to_owned())
        })
        .collect()
}

fn note_of(text: &str) -> AuditEvent {
    event(0).detail(text)
}

/// Eight threads, each with the next record as soon as the last is durable.
fn keep_recording(log: &AuditLog, many: u64) {
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for number in 0..many / 8 {
                    let text = format!("{}-{thread}-{number}", std::process::id());
                    let seq = log.record(note_of(&text)).wait().unwrap();
                    acknowledge(seq, &text);
                }
            });
        }
    });
}

#[test]
#[ignore = "a child of the tests below"]
fn records_until_it_ends() {
    if let Some((dir, many)) = orders() {
        keep_recording(&open(&dir), many);
    }
}

fn assert_all_there(dir: &Path, acknowledged: &BTreeMap<u64, String>) {
    let found: BTreeMap<_, _> = records(dir)
        .into_iter()
        .map(|record| (record.seq, record.event.detail))
        .collect();
    for (seq, text) in acknowledged {
        assert_eq!(found[seq].as_ref(), Some(text), "record {seq}");
    }
}

#[test]
fn nothing_acknowledged_is_lost_to_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = BTreeMap::new();
    let mut rounds = 0;
    while rounds < 25 {
        let mut child = child(
            "audit_processes::records_until_it_ends",
            dir.path(),
            1 << 40,
        )
        .spawn()
        .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        // Killed some time after its first record.
        while !text.contains("ack ") {
            assert_ne!(output.read_line(&mut text).unwrap(), 0, "{text}");
        }
        let killer = thread::spawn(move || {
            pause(Duration::from_micros(fastrand::u64(0..40_000)));
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).unwrap();
        killer.join().unwrap();
        text.push_str(&String::from_utf8_lossy(&bytes));
        all.extend(acknowledged(&text));
        rounds += 1;
        // As it was left, and as the next one mends it.
        if rounds % 5 == 0 {
            drop(open(dir.path()));
        }
        check(dir.path()).unwrap();
    }
    drop(open(dir.path()));
    let report = check(dir.path()).unwrap();
    assert_eq!((report.covered, report.unfinished), (report.size, 0));
    assert!(all.len() > 25, "{}", all.len());
    assert_all_there(dir.path(), &all);
}

#[expect(clippy::disallowed_methods, reason = "lets a real process run")]
fn pause(time: Duration) {
    thread::sleep(time);
}

#[test]
fn four_processes_write_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let begin = || child("audit_processes::records_until_it_ends", dir.path(), 400).spawn();
    let children: Vec<Child> = (0..4).map(|_| begin().unwrap()).collect();
    let mut all = BTreeMap::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        all.extend(acknowledged(&String::from_utf8(output.stdout).unwrap()));
    }
    assert_eq!(all.len(), 1_600);
    let report = check(dir.path()).unwrap();
    assert_eq!((report.size, report.covered), (1_600, 1_600));
    assert_all_there(dir.path(), &all);
}

#[test]
#[ignore = "a child of the test below"]
fn records_on_a_full_disk() {
    let Some((dir, _)) = orders() else {
        return;
    };
    let log = open(&dir);
    let mut number = 0;
    let refused = loop {
        let text = format!("{number}");
        match log.record(note_of(&text)).wait() {
            Ok(seq) => acknowledge(seq, &text),
            Err(error) => break error,
        }
        number += 1;
    };
    writeln!(std::io::stdout(), "refused {refused}").unwrap();
    log.note(note_of("kept"));
    pause(Duration::from_millis(50));
    let hard = getrlimit(Resource::Fsize).maximum;
    let room = Rlimit {
        current: hard,
        maximum: hard,
    };
    setrlimit(Resource::Fsize, room).unwrap();
    let seq = log.record(note_of("later")).wait().unwrap();
    acknowledge(seq, "later");
    eventually(|| {
        records(&dir)
            .iter()
            .any(|it| it.event.detail.as_deref() == Some("kept"))
    });
}

/// No file may grow beyond 64 KiB, until there is room again.
#[test]
fn a_full_disk_is_told_and_what_was_noted_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit");
    let direct = child("audit_processes::records_on_a_full_disk", &log, 0);
    let output = Command::new("/bin/sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 128; exec \"$@\"", "sh"])
        .arg(direct.get_program())
        .args(direct.get_args())
        .env(DIR, &log)
        .env(MANY, "0")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("refused nothing could be added"), "{text}");
    assert!(text.contains("File too large"), "{text}");
    let acknowledged = acknowledged(&text);
    assert!(acknowledged.len() > 100, "{text}");
    assert_all_there(&log, &acknowledged);
    let report = check(&log).unwrap();
    assert_eq!((report.covered, report.unfinished), (report.size, 0));
    // Nothing was left half written, so there was nothing to mend.
    assert!(
        records(&log)
            .iter()
            .all(|it| it.event.kind != Kind::Repaired)
    );
    assert!(
        fs::metadata(log.join("00000000000000000000.ndjson"))
            .unwrap()
            .len()
            > 60_000
    );
}
