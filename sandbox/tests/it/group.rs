//! Limits on a process together with everything that it starts. Where this host has no
//! control groups that may be used, there is nothing to see.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator_sandbox::{Child, ExitStatus, Grants, GroupLimits, Limits, Spec, groups, spawn};
use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    attacks::{c_program, confined},
    support::{
        Host, ended, eventually, gone, keeper_of, output, pipe, read_until, shell, stranger,
    },
};

/// Takes and touches memory until it gets no more, or has a GiB.
pub(crate) const TAKES_MEMORY: &str = "#include <stdlib.h>\n#include <string.h>\n#include <stdio.h>\n\
    int main() { for (int i = 0; i < 1024; i++) { char *it = malloc(1 << 20);\n\
    if (!it) { printf(\"stopped at %d\\n\", i); return 7; } memset(it, 1, 1 << 20); }\n\
    printf(\"all\\n\"); return 0; }";
const KILLED: ExitStatus = ExitStatus::Signaled {
    signal: 9,
    core: false,
};
const MEMORY: GroupLimits = GroupLimits {
    memory_bytes: Some(32 << 20),
    tasks: None,
    cpu_percent: None,
};

/// The directory of the group that `pid` is in.
fn directory(pid: u32, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let version_one = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_it = controllers.split(',').any(|name| name == controller);
        is_it.then(|| {
            Path::new("/sys/fs/cgroup")
                .join(controllers)
                .join(path.trim_start_matches('/'))
        })
    });
    version_one.unwrap_or_else(|| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
        Path::new("/sys/fs/cgroup").join(path.expect("the second version"))
    })
}

async fn to_its_end(spec: Spec) -> (Child, ExitStatus) {
    let child = spawn(spec).await.expect("it starts");
    let status = ended(&child).await;
    (child, status)
}

fn killed(child: &Child) -> u64 {
    child.group().expect("it has one").killed_for_memory()
}

#[tokio::test]
async fn who_wants_more_memory_than_the_group_has_is_killed_and_counted() {
    if groups().memory.is_none() {
        return;
    }
    let program = c_program(TAKES_MEMORY);
    let bomb = || Spec::new(&program, "it");
    for spec in [
        bomb().group(MEMORY),
        bomb().group(MEMORY).confinement(&confined(&Grants::new())),
    ] {
        let (child, status) = to_its_end(spec).await;
        assert_eq!((status, killed(&child)), (KILLED, 1));
    }
    // An allocation that fails, and somebody else's signal, are something else.
    let limits = Limits {
        data_bytes: Some(32 << 20),
        ..Limits::default()
    };
    let roomy = GroupLimits {
        memory_bytes: Some(4 << 30),
        ..MEMORY
    };
    let (child, status) = to_its_end(bomb().limits(limits).group(roomy)).await;
    assert_eq!((status, killed(&child)), (ExitStatus::Exited(7), 0));
    let (child, status) = to_its_end(shell("kill -9 $$").group(MEMORY)).await;
    assert_eq!((status, killed(&child)), (KILLED, 0));
}

/// What a process starts counts with it, whatever session it goes to.
#[tokio::test]
async fn a_group_counts_the_whole_tree() {
    if groups().memory.is_none() {
        return;
    }
    let text = "for i in 1 2 3 4; do \
        setsid sh -c 'x=$(head -c 12000000 /dev/zero | tr \"\\0\" x); sleep 600' & done; wait";
    let limits = GroupLimits {
        memory_bytes: Some(40 << 20),
        ..MEMORY
    };
    let child = spawn(shell(text).variable("PATH", "/usr/bin:/bin").group(limits)).await;
    let child = child.expect("it starts");
    eventually("one of them was killed", || killed(&child) > 0).await;
}

#[tokio::test]
async fn no_more_tasks_are_made_than_the_group_may_have() {
    if groups().tasks.is_none() {
        return;
    }
    let limits = GroupLimits {
        tasks: Some(20),
        ..GroupLimits::default()
    };
    let program = c_program(crate::attacks::FORKS);
    // Nothing else bounds this one, where it is root's.
    let said = output(Spec::new(&program, "it").group(limits)).await.1;
    assert_eq!(said, "forked 19\n");
}

#[tokio::test]
async fn no_more_processor_time_is_had_than_the_group_may_have() {
    if groups().cpu.is_none() {
        return;
    }
    let limits = GroupLimits {
        cpu_percent: Some(20),
        ..GroupLimits::default()
    };
    let busy = shell("while :; do :; done").group(limits);
    let child = spawn(busy).await.expect("it starts");
    let start = tokio::time::Instant::now();
    let usage = || child.group().expect("it has one").usage();
    eventually("it was kept waiting", || usage().throttled > Some(4)).await;
    child.kill_group().expect("it runs");
    let took = start.elapsed();
    ended(&child).await;
    let had = child.cpu_time().expect("it has ended");
    assert!(had < took.mul_f64(0.4), "{had:?} of {took:?}");
    assert!(child.group().expect("it has one").holds_cpu());
}

#[tokio::test]
async fn limits_change_while_it_runs() {
    if groups().tasks.is_none() {
        return;
    }
    let limits = |tasks| GroupLimits {
        tasks: Some(tasks),
        ..GroupLimits::default()
    };
    let (mut reader, writer) = pipe();
    let (input, open) = crate::support::gate();
    let text = "sleep 0 && echo one; read x; sleep 0 && echo two || echo none; exit 0";
    let spec = shell(text)
        .variable("PATH", "/usr/bin:/bin")
        .group(limits(5));
    let spec = spec.descriptor(0, input).descriptor(1, writer);
    let child = spawn(spec).await.expect("it starts");
    read_until(&mut reader, |text| text.contains("one\n")).await;
    let group = child.group().expect("it has one");
    group.set(&limits(1)).expect("it runs");
    assert!(group.set(&MEMORY).is_err(), "it counts no memory");
    group.set(&limits(1)).expect("it runs");
    drop(open);
    assert_eq!(ended(&child).await, ExitStatus::Exited(2), "dash gives up");
}

#[tokio::test]
async fn a_group_goes_with_its_process() {
    if groups().memory.is_none() {
        return;
    }
    let group = |text: &str| shell(text).variable("PATH", "/usr/bin:/bin").group(MEMORY);
    let child = spawn(group("(setsid sleep 600 &); exec sleep 600")).await;
    let child = child.expect("it starts");
    let path = directory(child.pid(), "memory");
    assert!(path.is_dir(), "{}", path.display());
    let host = path.parent().expect("that of this host").to_owned();
    drop(child);
    for _ in 0..10 {
        drop(spawn(group("exec sleep 600")).await.expect("it starts"));
        drop(spawn(group("exec sleep 600")));
        to_its_end(group("exit 0")).await;
    }
    let garbage = crate::support::sealed("garbage", "no program");
    let failed = spawn(Spec::new(&garbage, "garbage").group(MEMORY)).await;
    failed.expect_err("no program");
    let left = || {
        let entries = fs::read_dir(&host).expect("it is there").flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    };
    eventually("every group is gone", || left() == 0).await;
}

/// Whoever kills host and keeper leaves what the plugin started, until the next host
/// starts.
#[tokio::test]
async fn what_dead_hosts_left_is_swept() {
    if groups().memory.is_none() {
        return;
    }
    let run = tempfile::tempdir().expect("a directory");
    let (mut reader, writer) = pipe();
    let mut host = Host::start("helper::grouped", run.path(), writer);
    let text = read_until(&mut reader, |text| text.contains("ready\n")).await;
    let stray: u32 = text
        .lines()
        .rev()
        .nth(1)
        .and_then(|id| id.parse().ok())
        .expect("an id");
    let path = directory(stray, "memory");
    let keeper = stranger(keeper_of(host.id()));
    let stray = stranger(stray);
    pidfd_send_signal(stranger(host.id()), Signal::STOP).expect("it runs");
    pidfd_send_signal(&keeper, Signal::KILL).expect("it runs");
    gone(keeper).await;
    host.kill();
    assert!(path.is_dir(), "nobody has removed it yet");
    let (mut reader, writer) = pipe();
    let _next = Host::start("helper::sweeps", run.path(), writer);
    read_until(&mut reader, |text| text.contains("swept\n")).await;
    gone(stray).await;
    let of_host = path.parent().expect("that of the host").to_owned();
    // Another host that starts meanwhile may be at it.
    eventually("that of the host is gone", || !of_host.exists()).await;
}

/// A place that was swept while its host lives would be a limit that nothing holds.
#[tokio::test]
async fn a_living_host_keeps_its_place() {
    if groups().memory.is_none() {
        return;
    }
    let child = spawn(shell("exec sleep 600").group(MEMORY))
        .await
        .expect("it starts");
    let run = tempfile::tempdir().expect("a directory");
    let (mut reader, writer) = pipe();
    let next = Host::start("helper::sweeps", run.path(), writer);
    read_until(&mut reader, |text| text.contains("swept\n")).await;
    assert!(next.ended().success());
    let path = directory(child.pid(), "memory");
    assert!(path.is_dir(), "{}", path.display());
    let of_host = path.parent().and_then(Path::file_name).expect("a name");
    assert!(of_host.to_string_lossy().starts_with("orchestrator-"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(child.try_wait().expect("it is ours").is_none());
}
