//! What is left after the process dies, and what several processes do to one
//! file. The processes are real: this test binary starts itself again.
#![expect(
    clippy::disallowed_types,
    reason = "the process that is killed is this test itself, and it owns no plugin"
)]

use std::{
    collections::HashMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use orchestrator_contract::{Payload, RunId, RunOutcome};
use tokio::time::timeout;

use super::{
    AppendError, Journal, JournalSettings, RunFilter, RunState, SqliteJournal, fixture::*,
};

const DIR: &str = "ORCHESTRATOR_TEST_JOURNAL";
const RUNS: &str = "ORCHESTRATOR_TEST_RUNS";
const WRITERS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test by itself: the process that the others start and kill. Appends
/// until it is killed, or has finished as many runs as it is told, and says
/// what is durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the tests below"]
async fn appender() {
    let Ok(dir) = env::var(DIR) else { return };
    let runs: usize = env::var(RUNS).map_or(usize::MAX, |runs| runs.parse().unwrap());
    let journal = open(Path::new(&dir), JournalSettings::for_tests()).await;
    let writers = (0..WRITERS).map(|_| tokio::spawn(write_runs(journal.clone(), runs, say)));
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

async fn write_runs(journal: SqliteJournal, runs: usize, acknowledge: fn(RunId, u64)) {
    for _ in 0..runs {
        let run = create(&journal).await;
        acknowledge(run, 1);
        for step in 1..=10 {
            let name = format!("step-{step}");
            // Some outputs are files.
            let len = if step == 5 { 140_000 } else { 240 };
            let start = vec![started(&name, 1)];
            let seq = 2 * step;
            drop(journal.submit(run, seq - 1, 1, start).await.unwrap());
            let fill = fastrand::u8(..);
            let result = vec![completed(&name, payload(len, fill))];
            match journal.append(run, seq, 1, result).await {
                Ok(seq) => acknowledge(run, seq),
                Err(error) => panic!("{error}"),
            }
        }
        let end = vec![finished(RunOutcome::Success)];
        let seq = journal.append(run, 21, 1, end).await.unwrap();
        acknowledge(run, seq);
    }
}

fn say(run: RunId, seq: u64) {
    // One write a line, so that none is torn but the last.
    let line = format!("\ndurable {run} {seq}\n");
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn start_appender(dir: &Path, runs: Option<usize>) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    let name = format!("{}::appender", module_path!().split_once("::").unwrap().1);
    command
        .args([name.as_str(), "--exact", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(runs) = runs {
        command.env(RUNS, runs.to_string());
    }
    command.spawn().unwrap()
}

/// The last record of every run that the process said is durable.
fn read_acknowledged(child: &mut Child) -> std::thread::JoinHandle<HashMap<RunId, u64>> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        let mut durable = HashMap::new();
        for line in lines.map_while(Result::ok) {
            let mut words = line.split(' ');
            if words.next() != Some("durable") {
                continue;
            }
            let run = words.next().and_then(|run| run.parse().ok());
            let seq = words.next().and_then(|seq| seq.parse().ok());
            if let (Some(run), Some(seq)) = (run, seq) {
                durable.insert(run, seq);
            }
        }
        durable
    })
}

#[tokio::test]
async fn a_killed_engine_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut durable = HashMap::new();
    for _ in 0..10 {
        let mut child = start_appender(dir.path(), None);
        let reader = read_acknowledged(&mut child);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(150..400))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        durable.extend(reader.join().unwrap());
    }
    assert!(durable.len() > WRITERS, "only {} runs", durable.len());

    let journal = open(dir.path(), JournalSettings::for_tests()).await;
    let mut records = 0;
    for (run, seq) in &durable {
        let history = journal.load(*run).await.unwrap();
        assert!(history.len() as u64 >= *seq, "run {run} lost records");
        records += history.len();
        RunState::fold(*run, history).unwrap();
    }
    assert!(records > durable.len());
    // All of them are left by the dead, and can be gone on with.
    for open in journal.open_runs().await.unwrap() {
        assert!(!open.owner_alive);
        let taken = journal.take_over(open.run).await.unwrap();
        let step = vec![completed("last", Payload::null())];
        journal
            .append(open.run, taken.seq, taken.epoch, step)
            .await
            .unwrap();
    }
    assert_eq!(journal.stats().await.unwrap().inbox, 0);
}

#[tokio::test]
async fn two_processes_write_one_file_and_each_keeps_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), JournalSettings::for_tests()).await;
    let mut child = start_appender(dir.path(), Some(4));
    let reader = read_acknowledged(&mut child);
    let ours = async {
        let writers = (0..4).map(|_| tokio::spawn(write_runs(journal.clone(), 4, |_, _| ())));
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    };
    timeout(PATIENCE, ours).await.unwrap();
    let theirs = tokio::task::spawn_blocking(move || (child.wait().unwrap(), reader.join()));
    let (status, theirs) = timeout(PATIENCE, theirs).await.unwrap().unwrap();
    assert!(status.success());
    let theirs = theirs.unwrap();
    assert_eq!(theirs.len(), WRITERS * 4);
    let all = journal
        .runs(RunFilter {
            limit: 1_000,
            ..RunFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(all.len(), WRITERS * 4 + 16);
    for summary in all {
        assert_eq!(
            summary.owner == journal.owner(),
            !theirs.contains_key(&summary.run)
        );
        let history = journal.load(summary.run).await.unwrap();
        assert_eq!(history.len(), 22);
        RunState::fold(summary.run, history).unwrap();
    }
}

#[tokio::test]
async fn a_run_of_a_killed_engine_is_taken_over_while_a_live_ones_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start_appender(dir.path(), None);
    let reader = read_acknowledged(&mut child);
    let journal = open(dir.path(), JournalSettings::for_tests()).await;
    let theirs = async {
        loop {
            if let Some(open) = journal.open_runs().await.unwrap().first() {
                break open.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let theirs = timeout(PATIENCE, theirs).await.unwrap();
    assert!(theirs.owner_alive);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    let left = journal.open_runs().await.unwrap();
    assert!(!left.is_empty());
    let run = left[0].run;
    let taken = journal.take_over(run).await.unwrap();
    assert_eq!(taken.epoch, 2);
    let zombie = journal
        .append(run, taken.seq, 1, vec![failed("late")])
        .await;
    assert!(matches!(zombie, Err(AppendError::Fenced { epoch: 2, .. })));
}
