//! The pipeline in the engine, from a repository to the notes. The plugins are
//! real processes; only their way into the engine is short, without packages
//! and signatures.

use std::time::Duration;

use orchestrator_engine::{
    Builtin, Engine, RunRequest,
    contract::{CallError, Payload, PhaseCall},
    pipeline::Pipeline,
};
use serde_json::json;

use crate::{
    author_stats::count,
    commit_classifier::classify,
    git_history::collect,
    process::{Finished, file},
    repository::Repository,
};

/// A plugin whose phase runs a process.
fn plugin(id: &str, phase: &str, process: fn(&Payload) -> Finished) -> Builtin {
    let answer = move |call: PhaseCall, _| answer(process, call.input);
    Builtin::phase(id, "0.1.0", phase, answer).unwrap()
}

async fn answer(process: fn(&Payload) -> Finished, input: Payload) -> Result<Payload, CallError> {
    let finished = tokio::task::spawn_blocking(move || process(&input)).await;
    let finished = finished.map_err(|error| CallError::permanent(error.to_string()))?;
    match finished.code {
        Some(0) => Ok(Payload::from_json_bytes(finished.output)),
        _ => Err(CallError::permanent(finished.stderr)),
    }
}

fn collect_step(input: &Payload) -> Finished {
    collect(&input.decode().unwrap())
}

fn classify_step(input: &Payload) -> Finished {
    classify(&input.decode().unwrap())
}

fn count_step(input: &Payload) -> Finished {
    count(&input.bytes)
}

fn broken_step(_: &Payload) -> Finished {
    count(b"not a list")
}

async fn notes(repository: &Repository, stats: fn(&Payload) -> Finished) -> String {
    let home = tempfile::TempDir::new().unwrap();
    let engine = Engine::builder()
        .home(home.path())
        .unwrap()
        .builtin(plugin("git-history", "collect", collect_step))
        .builtin(plugin("commit-classifier", "classify", classify_step))
        .builtin(plugin("author-stats", "count", stats))
        .start()
        .await
        .unwrap();
    let pipeline = Pipeline::load(&file("release-notes/pipeline.yaml")).unwrap();
    let request = RunRequest::new(pipeline).input(json!({ "repo": repository.path() }));
    let run = tokio::time::timeout(Duration::from_secs(60), engine.run(request)).await;
    let report = run.expect("the run takes too long").unwrap();
    let output = report
        .primary_output()
        .unwrap_or_else(|| panic!("{report:?}"));
    assert_eq!(output.name, "RELEASE_NOTES.md");
    let payload = &output.payload;
    assert_eq!(
        payload.content_type.as_str(),
        "text/markdown; charset=utf-8"
    );
    let notes = String::from_utf8(payload.bytes.to_vec()).unwrap();
    engine.drain(Duration::from_secs(5)).await.unwrap();
    notes
}

fn example() -> Repository {
    let mut repository = Repository::new();
    repository.commit("Initial commit\n");
    repository.commit("feat(cli): add `run` & <b>bold</b>\n");
    repository.git(&["tag", "v0.1.0"], b"");
    repository.author("Grace Hopper");
    repository.merge("fix: stop the leak\n", "Merge branch 'side'");
    let taken_back =
        repository.commit("perf!: go faster\n\nBREAKING CHANGE: slower disks\nneed care\n");
    repository.commit(&format!(
        "Revert \"perf!: go faster\"\n\nThis reverts commit {taken_back}.\n"
    ));
    repository
}

#[tokio::test]
async fn the_notes_of_a_small_history() {
    let repository = example();
    let hashes = repository.git(
        &[
            "log",
            "--topo-order",
            "--no-merges",
            "--format=%h",
            "--abbrev=10",
        ],
        b"",
    );
    let hashes: Vec<&str> = hashes.lines().collect();
    let [revert, perf, fix, feat, initial] = hashes[..] else {
        panic!("{hashes:?}");
    };
    let expected = format!(
        "\
# Release notes of project

6 commits up to `{revert}`.
Tags: v0.1.0 (2023-11-14).

## Breaking changes

- go faster (`{perf}`): slower disks need care

## Features

- **cli:** add `run` & \\<b>bold\\</b> (`{feat}`)

## Fixes

- stop the leak (`{fix}`)

## Performance

- go faster (`{perf}`) **breaking** *(taken back later)*

## Reverts

- Revert \"perf!: go faster\" (`{revert}`)

## Other changes

- Initial commit (`{initial}`)

1 merge commit is not listed.

## Contributors

- Grace Hopper (4)
- Ada (2)
"
    );
    assert_eq!(notes(&repository, count_step).await, expected);
    assert_eq!(
        notes(&repository, count_step).await,
        expected,
        "a second run differs"
    );
}

#[tokio::test]
async fn the_notes_do_without_contributors() {
    let notes = notes(&example(), broken_step).await;
    assert!(
        notes.ends_with("1 merge commit is not listed.\n"),
        "{notes}"
    );
}

#[tokio::test]
async fn a_history_without_commits_has_notes_too() {
    let expected = "# Release notes of project\n\nNo commits yet.\n";
    assert_eq!(notes(&Repository::new(), count_step).await, expected);
}
