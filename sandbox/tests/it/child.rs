//! How processes end, and that nothing of them stays.

use std::time::Duration;

use orchestrator_sandbox::{ExitStatus, Signal, spawn};

use crate::{
    helper,
    support::{self, ended, gate, gone, output, pipe, read_until, shell, stranger},
};

#[tokio::test]
async fn the_end_is_told_as_it_was() {
    assert_eq!(output(shell("exit 7")).await.0, ExitStatus::Exited(7));
    let killed = ExitStatus::Signaled {
        signal: 15,
        core: false,
    };
    assert_eq!(output(shell("kill -TERM $$")).await.0, killed);
}

#[tokio::test]
async fn nothing_is_told_while_it_runs() {
    let child = spawn(shell("exec sleep 600")).await.expect("it starts");
    assert_eq!(child.try_wait().expect("our child"), None);
    assert_eq!(child.cpu_time(), None);
    child.signal_group(Signal::TERM).expect("it runs");
    let expected = ExitStatus::Signaled {
        signal: 15,
        core: false,
    };
    assert_eq!(ended(&child).await, expected);
    // Told again, and signals go nowhere.
    assert_eq!(child.try_wait().expect("our child"), Some(expected));
    child.kill_group().expect("nothing to do");
}

#[tokio::test]
async fn a_start_can_be_waited_for_without_a_runtime() {
    let child = spawn(shell("exit 0")).wait().expect("it starts");
    assert_eq!(ended(&child).await, ExitStatus::Exited(0));
}

#[tokio::test]
async fn processor_time_is_told_at_the_end() {
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    let child = spawn(shell(script)).await.expect("it starts");
    ended(&child).await;
    let used = child.cpu_time().expect("it has ended");
    assert!(
        used > Duration::from_millis(1) && used < Duration::from_secs(10),
        "{used:?}"
    );
}

#[tokio::test]
async fn dropping_it_kills_the_whole_group() {
    let (mut reader, writer) = pipe();
    let spec = shell("sleep 600 & echo $!; wait").descriptor(1, writer);
    let child = spawn(spec).await.expect("it starts");
    let text = read_until(&mut reader, |text| text.ends_with('\n')).await;
    let grandchild = stranger(text.trim().parse().expect("an id"));
    let leader = stranger(child.pid());
    drop(child);
    gone(leader).await;
    gone(grandchild).await;
}

#[tokio::test]
async fn what_the_leader_leaves_behind_is_killed() {
    let (mut reader, writer) = pipe();
    let (gate, go) = gate();
    let spec = shell("sleep 600 & echo $!; read -r go; true");
    let spec = spec.descriptor(0, gate).descriptor(1, writer);
    let child = spawn(spec).await.expect("it starts");
    let text = read_until(&mut reader, |text| text.ends_with('\n')).await;
    let straggler = stranger(text.trim().parse().expect("an id"));
    drop(go);
    assert_eq!(ended(&child).await, ExitStatus::Exited(0));
    gone(straggler).await;
}

#[tokio::test]
async fn a_start_that_nobody_wants_any_more_leaves_no_process() {
    let (mut reader, writer) = pipe();
    drop(spawn(
        shell("echo started; exec sleep 600").descriptor(1, writer),
    ));
    // Not started, or killed: either way the pipe closes before the sleep ends.
    let mut text = String::new();
    let closed = tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut text);
    tokio::time::timeout(support::PATIENCE, closed)
        .await
        .expect("it is gone")
        .expect("a pipe");
}

#[tokio::test]
async fn it_outlives_the_thread_that_asked_for_it() {
    let (mut reader, writer) = pipe();
    let spec = shell("sleep 0.5; echo alive").descriptor(1, writer);
    let asking = std::thread::spawn(|| spawn(spec).wait().expect("it starts"));
    let child = asking.join().expect("the thread has ended");
    read_until(&mut reader, |text| text == "alive\n").await;
    assert_eq!(ended(&child).await, ExitStatus::Exited(0));
}

#[tokio::test]
async fn too_many_starts_are_refused_at_once() {
    let (status, text) = output(support::helper("helper::flood")).await;
    assert_eq!(status, ExitStatus::Exited(0), "{text}");
    assert!(text.contains(helper::REFUSED), "{text}");
}

#[tokio::test]
async fn two_hundred_cycles_leave_nothing() {
    let (status, text) = output(support::helper("helper::cycles")).await;
    assert_eq!(status, ExitStatus::Exited(0), "{text}");
    assert!(text.contains(helper::NOTHING_LEFT), "{text}");
}

#[tokio::test]
async fn a_kept_descriptor_of_an_ended_process_costs_nothing() {
    let (status, text) = output(support::helper("helper::idle")).await;
    assert_eq!(status, ExitStatus::Exited(0), "{text}");
    assert!(text.contains(helper::IDLE), "{text}");
}
