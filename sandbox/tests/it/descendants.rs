//! Nothing that a process started outlives it, however it hides.

use orchestrator_sandbox::{ExitStatus, spawn};

use crate::support::{ended, gate, gone, helper, pipe, read_until, shell, stranger};

/// Leaves group, session, environment and parent behind, says who it is and goes on.
const STRAY: &str = "(env -i setsid sh -c 'echo stray $$; exec sleep 600' </dev/null 2>&1 &)";

/// The number behind `name` in what a process wrote.
fn number(text: &str, name: &str) -> u32 {
    let (_, rest) = text.split_once(name).expect("it is said");
    let word = rest.split_whitespace().next().expect("a number");
    word.parse().expect("a number")
}

#[tokio::test]
async fn a_stray_goes_when_its_process_is_dropped() {
    let (mut reader, writer) = pipe();
    let spec = shell(format!("{STRAY}; exec sleep 600")).descriptor(1, writer);
    let child = spawn(spec).await.expect("it starts");
    let text = read_until(&mut reader, |text| text.ends_with('\n')).await;
    let stray = stranger(number(&text, "stray"));
    drop(child);
    gone(stray).await;
}

#[tokio::test]
async fn a_stray_goes_when_its_process_ends_by_itself() {
    for _ in 0..10 {
        let (mut reader, writer) = pipe();
        let spec = shell(format!("{STRAY}; read -r go")).descriptor(1, writer);
        let (gate, go) = gate();
        let child = spawn(spec.descriptor(0, gate)).await.expect("it starts");
        let text = read_until(&mut reader, |text| text.ends_with('\n')).await;
        let stray = stranger(number(&text, "stray"));
        drop(go);
        ended(&child).await;
        gone(stray).await;
    }
}

/// Strays of strays, while others of them still come.
#[tokio::test]
async fn a_whole_family_of_strays_goes() {
    let family = "one() { env -i setsid sh -c 'echo stray $$; exec sleep 600' & }; \
         two() { one; one; env -i setsid sh -c 'echo stray $$; sleep 600 & exec sleep 600' & }; \
         (two; (two; (two &) &) &) 2>&1; read -r go; true";
    let (mut reader, writer) = pipe();
    let (gate, go) = gate();
    let spec = shell(family).descriptor(1, writer).descriptor(0, gate);
    let child = spawn(spec).await.expect("it starts");
    let nine = |text: &str| text.lines().count() == 9;
    let text = read_until(&mut reader, nine).await;
    let strays: Vec<_> = text
        .lines()
        .map(|line| stranger(number(line, "stray")))
        .collect();
    drop(go);
    assert_eq!(ended(&child).await, ExitStatus::Exited(0));
    for stray in strays {
        gone(stray).await;
    }
}

/// A process that gives up the hold on its descendants loses them sooner.
#[tokio::test]
async fn a_stray_cannot_be_let_go_of() {
    let (mut reader, writer) = pipe();
    let spec = helper("helper::let_go")
        .variable(crate::helper::STRAY, STRAY)
        .variable("PATH", "/usr/bin:/bin")
        .descriptor(1, writer);
    let child = spawn(spec).await.expect("it starts");
    let text = read_until(&mut reader, |text| {
        text.contains("has let go") && text.contains("stray")
    })
    .await;
    let stray = stranger(number(&text, "stray"));
    drop(child);
    gone(stray).await;
}

/// What belongs to a process that runs is not touched when another one ends.
#[tokio::test]
async fn the_strays_of_others_stay() {
    let (mut reader, writer) = pipe();
    let spec = shell(format!("{STRAY}; exec sleep 600")).descriptor(1, writer);
    let child = spawn(spec).await.expect("it starts");
    let text = read_until(&mut reader, |text| text.ends_with('\n')).await;
    let pid = number(&text, "stray");
    for _ in 0..20 {
        ended(&spawn(shell("sleep 0 & true")).await.expect("it starts")).await;
    }
    let usage = orchestrator_sandbox::sample(child.pid()).expect("/proc");
    assert_eq!(usage.expect("it runs").processes, 2, "both are counted");
    let stray = stranger(pid);
    drop(child);
    gone(stray).await;
}
