//! Programs that tests start: this binary, with the name of one of these. They are
//! ignored when the tests run.

use std::{
    fs,
    path::Path,
    task::{Context, Poll, Waker},
    time::Duration,
};

use orchestrator_sandbox::{
    Grants, GroupLimits, RunDirectory, SpawnError, Spec, groups, sample, spawn,
};

use crate::{
    attacks::confined,
    support::{ended, eventually, keeper, open_descriptors, pipe, read_until, sealed, shell},
};

/// Names the run directory of [`host`].
pub(crate) const RUN_DIRECTORY: &str = "ORCHESTRATOR_TEST_RUN_DIRECTORY";
/// The script with which [`let_go`] starts a process.
pub(crate) const STRAY: &str = "ORCHESTRATOR_TEST_STRAY";
/// What [`cycles`] says when it has found nothing.
pub(crate) const NOTHING_LEFT: &str = "nothing is left of two hundred processes";
/// What [`flood`] says when it was refused.
pub(crate) const REFUSED: &str = "one start too many";
/// What [`idle`] says when nothing was busy.
pub(crate) const IDLE: &str = "nothing was busy";

/// A host with a plugin and a tree, which it names before it waits to be killed.
#[tokio::test]
#[ignore = "started by the tests of host death"]
async fn host() {
    let Some(run) = std::env::var_os(RUN_DIRECTORY) else {
        return;
    };
    let run = RunDirectory::claim(Path::new(&run)).expect("a run directory");
    let mut tree = run.tree().expect("a tree");
    tree.add(Path::new("a/b/file"), 0o644, &b"text"[..], 4)
        .expect("a file");
    let tree = tree.finish().expect("a tree");
    let plugin = spawn(shell("exec sleep 600")).await.expect("it starts");
    let (mut reader, writer) = pipe();
    let other = shell("(env -i setsid sh -c 'echo $$; exec sleep 600' &); exec sleep 600");
    let other = spawn(other.descriptor(1, writer)).await.expect("it starts");
    let confinement = confined(&Grants::new().execute_anything());
    let alone = shell("/bin/sleep 600 & exec /bin/sleep 600").confinement(&confinement);
    let alone = spawn(alone).await.expect("it starts");
    let stray = read_until(&mut reader, |text| text.ends_with('\n')).await;
    println!(
        "plugin {}\nother {}\nstray {stray}alone {}\ntree {}\nready",
        plugin.pid(),
        other.pid(),
        alone.pid(),
        tree.path().display()
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// A plugin that wants its descendants to be nobody's, and starts one.
#[test]
#[ignore = "started by the tests of descendants"]
fn let_go() {
    let Some(script) = std::env::var_os(STRAY) else {
        return;
    };
    rustix::process::set_child_subreaper(None).expect("it may");
    #[expect(clippy::disallowed_types, reason = "the sandbox would keep hold of it")]
    let shell = std::process::Command::new("/bin/sh")
        .arg("-c")
        .arg(script)
        .status();
    assert!(shell.expect("a shell").success());
    println!("has let go");
    // Until it is killed.
    std::thread::park_timeout(Duration::from_secs(60));
}

/// Starts and drops processes, in every way, in a process of its own, so that what
/// stays can be counted.
#[tokio::test]
#[ignore = "started by the test of cycles"]
async fn cycles() {
    let garbage = sealed("garbage", "no program");
    let confinement = confined(&Grants::new().execute_anything());
    let alone = |script: &str| shell(script).confinement(&confinement);
    let cycle = async |round: usize| match round % 6 {
        0 => drop(ended(&spawn(shell("exit 0")).await.expect("it starts")).await),
        1 => drop(spawn(shell("exec sleep 600")).await.expect("it starts")),
        2 => drop(spawn(shell("exec sleep 600"))),
        3 => drop(
            ended(
                &spawn(alone("(setsid /bin/sleep 600 &) ; exit 0"))
                    .await
                    .expect("it starts"),
            )
            .await,
        ),
        4 => drop(
            spawn(alone("/bin/sleep 600 & exec /bin/sleep 600"))
                .await
                .expect("it starts"),
        ),
        _ => drop(
            spawn(Spec::new(&garbage, "garbage"))
                .await
                .expect_err("no program"),
        ),
    };
    for round in 0..6 {
        cycle(round).await;
    }
    eventually("the first processes are gone", nothing_runs).await;
    let before = open_descriptors();
    for round in 0..200 {
        cycle(round).await;
    }
    eventually("all processes are gone", nothing_runs).await;
    // Not exactly: one of the first processes may still have had its own before.
    eventually("all descriptors are closed", || {
        open_descriptors() <= before
    })
    .await;
    println!("{NOTHING_LEFT}");
}

/// Asks for more starts than may wait, in a process of its own, since others would
/// be refused too.
#[tokio::test]
#[ignore = "started by the test of too many starts"]
async fn flood() {
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting = Vec::new();
    for _ in 0..10_000 {
        let mut pending = Box::pin(spawn(shell("true")));
        match pending.as_mut().poll(&mut context) {
            Poll::Ready(Err(SpawnError::Busy { limit, .. })) => {
                assert_eq!(limit, 256);
                println!("{REFUSED}");
                return;
            }
            Poll::Ready(Err(error)) => panic!("{error}"),
            _ => waiting.push(pending),
        }
    }
    panic!("ten thousand starts were taken on");
}

/// Does nothing while somebody keeps the descriptor of a process that has ended, in a
/// process of its own, so that only the spawner's thread could be busy.
#[tokio::test]
#[ignore = "started by the test of idleness"]
async fn idle() {
    let child = spawn(shell("exit 0")).await.expect("it starts");
    let _kept = child.pidfd().try_clone_to_owned().expect("a descriptor");
    ended(&child).await;
    drop(child);
    let used = || {
        let usage = sample(std::process::id()).expect("/proc");
        usage.expect("this process").cpu_time
    };
    let before = used();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let busy = used() - before;
    assert!(busy < Duration::from_millis(200), "{busy:?}");
    println!("{IDLE}");
}

/// Whether nothing that was started is left, not even a zombie.
fn nothing_runs() -> bool {
    let keeper = keeper();
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
    children.expect("the keeper runs").is_empty()
}

/// A host whose plugin is in a group and has started something that it lets go of.
#[tokio::test]
#[ignore = "started by the tests of groups"]
async fn grouped() {
    if std::env::var_os(RUN_DIRECTORY).is_none() {
        return;
    }
    let (mut reader, writer) = pipe();
    let text = "(setsid sh -c 'echo $$; exec sleep 600' &); exec sleep 600";
    let limits = GroupLimits {
        memory_bytes: Some(32 << 20),
        ..GroupLimits::default()
    };
    let plugin = shell(text).descriptor(1, writer).group(limits);
    let _plugin = spawn(plugin).await.expect("it starts");
    let stray = read_until(&mut reader, |text| text.ends_with('\n')).await;
    println!("\n{stray}ready");
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// A host that has control groups and no plugins.
#[test]
#[ignore = "started by the tests of groups"]
fn sweeps() {
    if std::env::var_os(RUN_DIRECTORY).is_some() {
        assert!(groups().memory.is_some());
        println!("swept");
    }
}
