//! The process between a host and all that it starts. Each test is a host of its own,
//! since others would lose their keeper too.

use std::time::Duration;

use orchestrator_sandbox::{ExitStatus, Grants, RunDirectory, spawn};
use rustix::{
    io::Errno,
    process::{
        Signal, WaitId, WaitIdOptions, child_subreaper, getpid, kill_process, pidfd_send_signal,
        set_child_subreaper, waitid,
    },
};
use tokio::{io::AsyncReadExt, time::timeout};

use crate::attacks::confined;
use crate::support::{
    Host, PATIENCE, ended, eventually, gate, gone, keeper, open_descriptors, output, pipe,
    read_until, shell, stranger,
};

/// What a host says in the end.
const WELL: &str = "and all is well";

/// Runs the ignored test `name` of this file as a host.
async fn alone(name: &str) {
    let (mut reader, writer) = pipe();
    let nowhere = std::path::Path::new("/nowhere");
    let _host = Host::start(&format!("keeper::{name}"), nowhere, writer);
    let mut text = String::new();
    timeout(PATIENCE, reader.read_to_string(&mut text))
        .await
        .expect("the host ends")
        .expect("text");
    assert!(text.contains(WELL), "{text}");
}

#[tokio::test]
async fn the_host_stays_as_it_was() {
    alone("host_stays").await;
}

/// The C library asks every thread to change, and waits for each.
#[tokio::test]
async fn the_host_may_change_its_user() {
    alone("host_changes_its_user").await;
}

#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn host_changes_its_user() {
    ended(&spawn(shell("true")).await.expect("it starts")).await;
    let to_itself = rustix::process::getuid().as_raw();
    #[expect(unsafe_code, reason = "there is no safe call that changes all threads")]
    // SAFETY: takes a number.
    let changed = unsafe { libc::setuid(to_itself) };
    assert_eq!(changed, 0);
    println!("{WELL}");
}

/// The embedder's own orphans and children are not the sandbox's business.
#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn host_stays() {
    #[expect(
        clippy::disallowed_types,
        reason = "an embedder may start processes otherwise"
    )]
    let own = |script: &str| {
        let started = std::process::Command::new("/bin/sh")
            .args(["-c", script])
            .output();
        String::from_utf8(started.expect("a shell").stdout).expect("UTF-8")
    };
    ended(&spawn(shell("true")).await.expect("it starts")).await;
    let pid = own("setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!");
    let daemon = stranger(pid.trim().parse().expect("an id"));
    for _ in 0..20 {
        ended(&spawn(shell("true")).await.expect("it starts")).await;
    }
    assert_eq!(child_subreaper().expect("it is told"), None);
    pidfd_send_signal(&daemon, Signal::KILL).expect("it runs still");
    // The keeper is a child of this process, and no ordinary one: no signal tells of
    // its end, and whoever waits for any child does not get it.
    let any = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    assert_eq!(any.map(|_| ()), Err(Errno::CHILD));
    println!("{WELL}");
}

#[tokio::test]
async fn a_killed_keeper_takes_everything_along_and_is_replaced() {
    alone("killed").await;
}

#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn killed() {
    let child = spawn(shell("exec sleep 600")).await.expect("it starts");
    let first = keeper();
    pidfd_send_signal(stranger(first), Signal::KILL).expect("it runs");
    let unseen = timeout(PATIENCE, child.ended()).await.expect("it ends");
    let said = unseen.expect_err("nobody saw how").to_string();
    assert!(
        said.contains("orch-keeper, the parent of all plugins, was killed"),
        "{said}"
    );
    gone(child.pidfd()).await;
    for _ in 0..3 {
        let next = spawn(shell("exit 7")).await.expect("it starts");
        assert_eq!(ended(&next).await, ExitStatus::Exited(7));
    }
    assert_ne!(keeper(), first);
    println!("{WELL}");
}

#[tokio::test]
async fn a_keeper_killed_at_any_moment_does_no_harm() {
    alone("killed_at_any_moment").await;
}

/// Starts while somebody kills the keeper: each fails or goes on, and the next one
/// finds everything as it should be.
#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn killed_at_any_moment() {
    let grants = Grants::new().own_processes().execute_anything();
    let spec = |confinement: &Option<_>| match confinement {
        Some(confinement) => shell("exit 7").confinement(confinement),
        None => shell("exit 7"),
    };
    let mut confinement = None;
    for nth in 0..300 {
        // Unconfined, with a ground that is still to be laid, and with one that is there.
        match nth % 3 {
            0 => confinement = None,
            1 => confinement = Some(confined(&grants)),
            _ => {}
        }
        let first = spawn(shell("exit 7")).await.expect("it starts");
        assert_eq!(ended(&first).await, ExitStatus::Exited(7));
        let keeper = stranger(keeper());
        let dying = keeper.try_clone().expect("a descriptor");
        // At another moment of the next start each time.
        let killed = tokio::task::spawn_blocking(move || {
            let until = tokio::time::Instant::now() + Duration::from_micros(nth * 10);
            while tokio::time::Instant::now() < until {}
            let _ = pidfd_send_signal(keeper, Signal::KILL);
        });
        if let Ok(child) = spawn(spec(&confinement)).await {
            let end = timeout(PATIENCE, child.ended()).await.expect("it ends");
            assert!(end.is_err() || end.is_ok_and(|end| end == ExitStatus::Exited(7)));
        }
        killed.await.expect("it is done");
        gone(dying).await;
        let next = spawn(spec(&confinement)).await.expect("it starts");
        assert_eq!(ended(&next).await, ExitStatus::Exited(7));
    }
    println!("{WELL}");
}

fn children(keeper: u32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
    let list = list.expect("it runs");
    let ids = list.split_whitespace().map(str::parse);
    ids.collect::<Result<_, _>>().expect("ids")
}

#[tokio::test]
async fn a_start_whose_helper_is_killed_does_no_harm() {
    alone("helpers_killed").await;
}

/// Somebody kills the process that makes the one that is wanted, again and again.
#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn helpers_killed() {
    let confinement = confined(&Grants::new().own_processes().execute_anything());
    let spec = || shell("exit 7").confinement(&confinement);
    ended(&spawn(spec()).await.expect("it starts")).await;
    let keeper = keeper();
    let enough = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_enough = enough.clone();
    let killer = tokio::task::spawn_blocking(move || {
        let mut killed = 0;
        while !is_enough.load(std::sync::atomic::Ordering::Relaxed) {
            // The elder one makes the other.
            if let [first, _] = children(keeper)[..] {
                let first = rustix::process::Pid::from_raw(first).expect("an id");
                killed += u32::from(kill_process(first, Signal::KILL).is_ok());
            }
        }
        killed
    });
    let until = tokio::time::Instant::now() + Duration::from_secs(2);
    let mut failed = 0;
    while tokio::time::Instant::now() < until {
        match spawn(spec()).await {
            Ok(child) => {
                let end = timeout(PATIENCE, child.ended()).await.expect("it ends");
                end.expect("the keeper saw how");
            }
            Err(_) => failed += 1,
        }
    }
    enough.store(true, std::sync::atomic::Ordering::Relaxed);
    let killed = killer.await.expect("it is done");
    assert!(killed > 0 && failed > 0, "{killed} killed, {failed} failed");
    eventually("nothing of it is left", || children(keeper).is_empty()).await;
    assert_eq!(
        ended(&spawn(spec()).await.expect("it starts")).await,
        ExitStatus::Exited(7)
    );
    println!("{WELL}");
}

/// As root, in mounts of the test's own.
#[tokio::test]
async fn what_the_host_unmounts_is_gone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let itself = std::env::current_exe().expect("the test binary has a path");
    #[expect(
        clippy::disallowed_types,
        reason = "an operator starts a host like this"
    )]
    let mut host = std::process::Command::new("unshare");
    host.args(["--mount", "--propagation", "private"])
        .arg(itself);
    host.args(["--ignored", "--exact", "--nocapture", "keeper::unmounting"]);
    let run = tokio::task::spawn_blocking(move || host.output().expect("it starts"));
    let said = run.await.expect("it ends").stdout;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains(WELL), "{said}");
}

#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn unmounting() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let granted = tempfile::tempdir().expect("a directory");
    let below = granted.path().join("below");
    std::fs::create_dir(&below).expect("a directory");
    let with = |text: &str| {
        let none = MountFlags::empty();
        mount("tmpfs", &below, "tmpfs", none, c"").expect("root may");
        std::fs::write(below.join("file"), text).expect("there is room");
    };
    let grants = Grants::new().read(granted.path()).execute_anything();
    let confinement = confined(&grants);
    let file = below.join("file");
    let look = || {
        let cat = shell(format!("cat {} 2>&1; true", file.display()));
        output(
            cat.variable("PATH", "/usr/bin:/bin")
                .confinement(&confinement),
        )
    };
    with("first");
    assert_eq!(look().await.1, "first");
    let with_ground = open_descriptors();
    unmount(&below, UnmountFlags::empty()).expect("nobody is in the way");
    // Also while nothing starts: a device is to be free.
    let is_given_up = || open_descriptors() < with_ground;
    eventually("what was prepared is given up", is_given_up).await;
    let said = look().await.1;
    assert!(said.contains("No such file"), "{said}");
    with("second");
    assert_eq!(look().await.1, "second");
    println!("{WELL}");
}

#[tokio::test]
async fn a_stopped_keeper_goes_on() {
    alone("stopped").await;
}

/// Somebody stops it once: nothing comes of that.
#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn stopped() {
    let (waits, go) = gate();
    let child = spawn(shell("read -r go; exit 7").descriptor(0, waits));
    let child = child.await.expect("it starts");
    let first = keeper();
    let keeper_itself = stranger(first);
    pidfd_send_signal(&keeper_itself, Signal::STOP).expect("it runs");
    drop(go);
    assert_eq!(ended(&child).await, ExitStatus::Exited(7));
    pidfd_send_signal(&keeper_itself, Signal::STOP).expect("it runs");
    let next = timeout(PATIENCE, spawn(shell("exit 8"))).await;
    let next = next.expect("in time").expect("it starts");
    assert_eq!(ended(&next).await, ExitStatus::Exited(8));
    assert_eq!(keeper(), first);
    println!("{WELL}");
}

#[tokio::test]
async fn a_keeper_stopped_again_and_again_is_replaced_and_blocks_nobody() {
    alone("stopped_for_good").await;
}

#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn stopped_for_good() {
    let (mut reader, writer) = pipe();
    let stray = "(env -i setsid sh -c 'echo $$; exec sleep 600' </dev/null 2>&1 &); exec sleep 600";
    let other = spawn(shell(stray).descriptor(1, writer)).await;
    let other = other.expect("it starts");
    let text = read_until(&mut reader, |text| text.ends_with('\n')).await;
    let stray = stranger(text.trim().parse().expect("an id"));
    let (waits, go) = gate();
    let child = spawn(shell("read -r go; exit 7").descriptor(0, waits));
    let child = child.await.expect("it starts");

    let first = keeper();
    let keeper_itself = std::sync::Arc::new(stranger(first));
    let hostile = [(); 2].map(|()| {
        let keeper_itself = std::sync::Arc::clone(&keeper_itself);
        // Until its zombie is taken away.
        std::thread::spawn(
            move || {
                while pidfd_send_signal(&*keeper_itself, Signal::STOP).is_ok() {}
            },
        )
    });
    let stat = format!("/proc/{first}/stat");
    eventually("it is stopped", || {
        std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "))
    })
    .await;
    drop(go);
    gone(child.pidfd()).await;
    // What asks at once is answered at once, on this one thread of the runtime.
    let _ = child.try_wait();
    let _ = child.signal_group(Signal::TERM);
    // Now and then it may get something done.
    let busy = async {
        loop {
            if let Ok(next) = spawn(shell("true")).await {
                let _ = next.ended().await;
            }
        }
    };
    let unseen = tokio::select! {
        unseen = timeout(PATIENCE, other.ended()) => unseen.expect("it ends"),
        () = busy => unreachable!("it goes on"),
    };
    let said = unseen.expect_err("nobody saw how").to_string();
    assert!(
        said.contains("orch-keeper") && said.contains("stopped by a signal"),
        "{said}"
    );
    // Orphans of a keeper would be nobody's.
    gone(stray).await;
    for hostile in hostile {
        hostile.join().expect("it is done");
    }
    let next = spawn(shell("exit 7")).await.expect("it starts");
    assert_eq!(ended(&next).await, ExitStatus::Exited(7));
    assert_ne!(keeper(), first);
    println!("{WELL}");
}

#[tokio::test]
async fn a_host_that_ends_leaves_no_zombie() {
    alone("parent_of_a_host").await;
}

#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn parent_of_a_host() {
    set_child_subreaper(Some(getpid())).expect("it may");
    let run = tempfile::tempdir().expect("a directory");
    let (mut reader, writer) = pipe();
    let host = Host::start("keeper::host_that_ends", run.path(), writer);
    let text = read_until(&mut reader, |text| text.contains(WELL)).await;
    assert!(host.ended().success(), "{text}");
    // Whatever it left is a child of this process by now.
    let any = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    assert_eq!(any.map(|_| ()), Err(Errno::CHILD));
    println!("{WELL}");
}

#[tokio::test]
#[ignore = "started by the test of a similar name"]
async fn host_that_ends() {
    let Some(run) = std::env::var_os(crate::helper::RUN_DIRECTORY) else {
        return;
    };
    // With the watcher, which is to outlive a host that is killed.
    let run = RunDirectory::claim(std::path::Path::new(&run)).expect("a run directory");
    let child = spawn(shell("exec sleep 600")).await.expect("it starts");
    drop((child, run));
    println!("{WELL}");
}
