//! `git-history` on real repositories.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{
    process::{Finished, run},
    repository::{Repository, git},
};

pub(crate) fn collect(input: &Value) -> Finished {
    let grants = format!("file:read=/\nprocess:spawn={}", git().display());
    collect_granted(input, &grants)
}

fn collect_granted(input: &Value, grants: &str) -> Finished {
    run(
        env!("CARGO_BIN_EXE_git-history"),
        &["execute", "collect"],
        &[("ORCHESTRATOR_GRANTS", grants)],
        input.to_string().as_bytes(),
    )
}

fn history(repository: &Repository) -> Value {
    collect(&json!({ "repo": repository.path() })).json()
}

#[test]
fn commits_come_newest_first_with_everything_they_hold() {
    let mut repository = Repository::new();
    let first = repository.commit("Initial commit\n");
    repository.git(&["tag", "v0.1.0"], b"");
    repository.author("Grace \"Amazing\" Höpper");
    let second = repository.commit("feat: two\n\nBody line.\n\nRefs: #1\n");
    repository.git(&["tag", "--annotate", "-m", "x", "v0.2.0"], b"");
    let history = history(&repository);
    assert_eq!(history["repository"], "project");
    assert_eq!(history["head"], second);
    assert_eq!(history["range"], second[..10]);
    assert_eq!(history["truncated"], false);
    let newest = json!({
        "hash": second,
        "parents": [first],
        "author": "Grace \"Amazing\" Höpper",
        "email": "someone@example.com",
        "date": "2023-11-14T23:15:20+01:00",
        "subject": "feat: two",
        "body": "Body line.\n\nRefs: #1",
        "tags": ["v0.2.0"],
    });
    assert_eq!(history["commits"][0], newest);
    assert_eq!(history["commits"][1]["tags"], json!(["v0.1.0"]));
    let tags = json!([
        { "name": "v0.1.0", "commit": first, "date": "2023-11-14T23:14:20+01:00" },
        { "name": "v0.2.0", "commit": second, "date": "2023-11-14T23:15:20+01:00" },
    ]);
    assert_eq!(history["tags"], tags);
    let contributors = json!([
        { "name": "Ada", "email": "ada@example.com", "commits": 1 },
        { "name": "Grace \"Amazing\" Höpper", "email": "someone@example.com", "commits": 1 },
    ]);
    assert_eq!(history["contributors"], contributors);
}

#[test]
fn two_runs_give_the_same_bytes() {
    let mut repository = Repository::new();
    repository.commit("one");
    repository.merge("two", "Merge branch 'side'");
    let input = json!({ "repo": repository.path() });
    assert_eq!(collect(&input).output, collect(&input).output);
}

#[test]
fn a_merge_has_two_parents() {
    let mut repository = Repository::new();
    repository.commit("one");
    repository.merge("two", "Merge branch 'side'");
    let history = history(&repository);
    assert_eq!(history["commits"].as_array().unwrap().len(), 3);
    assert_eq!(
        history["commits"][0]["parents"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn an_empty_repository_is_no_error() {
    let history = history(&Repository::new());
    assert_eq!(history["head"], Value::Null);
    assert_eq!(history["range"], Value::Null);
    assert_eq!(history["commits"], json!([]));
    assert_eq!(history["contributors"], json!([]));
}

#[test]
fn a_range_starts_behind_its_tag() {
    let mut repository = Repository::new();
    repository.commit("one");
    repository.git(&["tag", "v1"], b"");
    let head = repository.commit("two");
    let input = json!({ "repo": repository.path(), "since_tag": "v1" });
    let history = collect(&input).json();
    assert_eq!(history["range"], format!("v1..{}", &head[..10]));
    assert_eq!(history["commits"].as_array().unwrap().len(), 1);
    assert_eq!(history["tags"], json!([]));
    for tag in ["v2", "--all", "v1^{tree}", "../heads/main"] {
        let input = json!({ "repo": repository.path(), "since_tag": tag });
        let refused = collect(&input);
        assert_eq!(refused.code, Some(65), "{tag}");
        assert!(
            refused.stderr.contains("the latest are v1"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn older_commits_are_left_out_and_that_is_said() {
    let mut repository = Repository::new();
    for message in ["one", "two", "three"] {
        repository.commit(message);
    }
    for (max, kept, truncated) in [(2, 2, true), (3, 3, false)] {
        let input = json!({ "repo": repository.path(), "max_commits": max });
        let history = collect(&input).json();
        assert_eq!(history["commits"].as_array().unwrap().len(), kept);
        assert_eq!(history["truncated"], truncated);
    }
    let none = collect(&json!({ "repo": repository.path(), "max_commits": 0 }));
    assert_eq!(none.code, Some(65));
}

#[test]
fn what_is_not_utf8_is_replaced_and_what_looks_like_a_border_is_not_one() {
    let mut repository = Repository::new();
    repository.author("R\u{1f}n\u{e9}");
    repository.commit("subject\u{1f}\u{1e}\n\nbody\n\u{1f}");
    let tree = repository.git(&["write-tree"], b"");
    let raw = [
        format!("tree {tree}\nauthor Ren").as_bytes(),
        b"\xe9 <r@example.com> 1700001000 +0000\n",
        b"committer x <x> 1700001000 +0000\n\nna\xefve\n",
    ]
    .concat();
    let hash = repository.git(&["hash-object", "-t", "commit", "-w", "--stdin"], &raw);
    repository.git(&["tag", "raw", &hash], b"");
    repository.git(&["reset", "--quiet", "--soft", &hash], b"");
    let history = history(&repository);
    assert_eq!(history["commits"][0]["author"], "Ren\u{fffd}");
    assert_eq!(history["commits"][0]["subject"], "na\u{fffd}ve");
    repository.git(&["reset", "--quiet", "--soft", "HEAD@{1}"], b"");
    let history = collect(&json!({ "repo": repository.path() })).json();
    assert_eq!(history["commits"][0]["author"], "R\u{1f}n\u{e9}");
    assert_eq!(history["commits"][0]["subject"], "subject\u{1f}\u{1e}");
    assert_eq!(history["commits"][0]["body"], "body\n\u{1f}");
}

#[test]
fn what_is_no_repository_is_named() {
    let repository = Repository::new();
    let inside = repository.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let absent = repository.path().join("absent");
    // A directory inside a repository is not the repository that was allowed.
    for path in [inside, absent, "/dev/null".into()] {
        let refused = collect(&json!({ "repo": path }));
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        let shown = path.to_string_lossy();
        assert!(refused.stderr.contains(&*shown), "{}", refused.stderr);
    }
}

#[test]
fn no_git_but_the_granted_one_is_run() {
    let repository = Repository::new();
    let input = json!({ "repo": repository.path() });
    let refused = collect_granted(&input, "file:read=/");
    assert_eq!(refused.code, Some(77));
    assert!(
        refused.stderr.contains("process:spawn=/usr/bin/git"),
        "{}",
        refused.stderr
    );
    let missing = collect_granted(&input, "process:spawn=/nonexistent/git");
    assert_eq!(missing.code, Some(77));
    assert!(
        missing.stderr.contains("/nonexistent/git"),
        "{}",
        missing.stderr
    );
}

#[test]
fn the_repositorys_configuration_runs_nothing() {
    let mut repository = Repository::new();
    repository.commit("one");
    let trap = repository.path().join("trap.sh");
    let sprung = repository.path().join("sprung");
    let script = format!("#!/bin/sh\ntouch '{}'\n", sprung.display());
    std::fs::write(&trap, script).unwrap();
    executable(&trap);
    let trap = trap.to_str().unwrap();
    for key in [
        "core.fsmonitor",
        "core.pager",
        "gpg.program",
        "diff.external",
        "core.sshCommand",
    ] {
        repository.git(&["config", key, trap], b"");
    }
    repository.git(&["config", "log.showSignature", "true"], b"");
    let tree = repository.git(&["write-tree"], b"");
    let signed = format!(
        "tree {tree}\nauthor a <a> 1700001000 +0000\ncommitter a <a> 1700001000 +0000\n\
         gpgsig -----BEGIN PGP SIGNATURE-----\n x\n -----END PGP SIGNATURE-----\n\nsigned\n"
    );
    let hash = repository.git(
        &["hash-object", "-t", "commit", "-w", "--stdin"],
        signed.as_bytes(),
    );
    repository.git(&["update-ref", "refs/heads/main", &hash], b"");
    let _ = std::fs::remove_file(&sprung);
    assert_eq!(history(&repository)["commits"][0]["subject"], "signed");
    assert!(!sprung.exists(), "git ran what the repository told it to");
}

#[test]
fn a_git_that_does_not_end_is_killed() {
    let repository = Repository::new();
    let started = repository.path().join("started");
    let git = repository.path().join("git");
    let script = format!(
        "#!/bin/sh\necho $$ >'{}'\nexec sleep 60\n",
        started.display()
    );
    std::fs::write(&git, script).unwrap();
    executable(&git);
    let grant = format!("process:spawn={}", git.display());
    let variables = [
        ("ORCHESTRATOR_GRANTS", grant.as_str()),
        ("ORCHESTRATOR_TIMEOUT_MS", "1500"),
    ];
    let input = json!({ "repo": repository.path() }).to_string();
    let program = env!("CARGO_BIN_EXE_git-history");
    let stopped = run(
        program,
        &["execute", "collect"],
        &variables,
        input.as_bytes(),
    );
    assert_eq!(stopped.code, Some(75), "{}", stopped.stderr);
    let pid = std::fs::read_to_string(&started).expect("git was not started");
    let status = format!("/proc/{}/status", pid.trim());
    let is_gone = || {
        let status = std::fs::read_to_string(&status);
        // A killed process may wait for whoever collects orphans.
        status.map_or(true, |status| status.contains("State:\tZ"))
    };
    // It was killed before the plugin ended, and dies when the kernel lets it run. It
    // would go on by itself for a minute.
    let dies = (0..1_000).any(|_| {
        std::thread::park_timeout(Duration::from_millis(10));
        is_gone()
    });
    assert!(dies, "git is still there");
}

fn executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn five_thousand_commits_are_fine() {
    let repository = Repository::new();
    let mut stream = String::new();
    for number in 1..=5_000 {
        let message = format!(
            "feat(area{}): change {number}\n\n{}",
            number % 7,
            "x".repeat(400)
        );
        let date = 1_700_000_000 + number;
        stream += &format!(
            "commit refs/heads/main\ncommitter Author {} <a@example.com> {date} +0000\ndata {}\n{message}\n",
            number % 50,
            message.len(),
        );
    }
    repository.git(&["fast-import", "--quiet"], stream.as_bytes());
    let history = history(&repository);
    assert_eq!(history["commits"].as_array().unwrap().len(), 5_000);
    assert_eq!(history["commits"][0]["subject"], "feat(area2): change 5000");
    assert_eq!(history["contributors"].as_array().unwrap().len(), 50);
}
