//! What a process has and is before its first instruction.

use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
};

use orchestrator_sandbox::{ExitStatus, Limits, Spec, spawn};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::support::{keeper, output, program, shell};

#[tokio::test]
async fn the_environment_is_exactly_what_was_given() {
    assert!(
        std::env::vars_os().count() > 0,
        "the host has variables to leak"
    );
    let env = program("/usr/bin/env");
    assert_eq!(
        output(Spec::new(&env, "env")).await,
        (ExitStatus::Exited(0), String::new())
    );

    let spec = Spec::new(&env, "env")
        .variable("B", "two words")
        .variable("A", "replaced")
        .variable("A", "1=1");
    assert_eq!(output(spec).await.1, "A=1=1\nB=two words\n");
}

#[tokio::test]
async fn only_the_given_descriptors_are_open() {
    let null = || OwnedFd::from(File::open("/dev/null").expect("/dev/null"));
    // Without close-on-exec, as a careless library of the host would leave them.
    let _leaks: Vec<OwnedFd> = [0, 5, 60, 300]
        .map(|lowest| {
            let leak = rustix::io::fcntl_dupfd_cloexec(null(), lowest).expect("a descriptor");
            rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).expect("a flag");
            leak
        })
        .into();
    // The shell waits, so that the listing program's own descriptors do not count.
    let spec = shell("ls /proc/$$/fd; true")
        .descriptor(4, null())
        .descriptor(9, null());
    assert_eq!(output(spec).await.1, "0\n1\n2\n4\n9\n");
}

#[tokio::test]
async fn descriptors_may_trade_their_numbers() {
    let directory = tempfile::tempdir().expect("a directory");
    let [low, high] = ["low", "high"].map(|name| {
        let path = directory.path().join(name);
        std::fs::write(&path, name).expect("a file");
        File::open(path).expect("a file")
    });
    let low = rustix::io::fcntl_dupfd_cloexec(&low, 20).expect("a descriptor");
    let high = rustix::io::fcntl_dupfd_cloexec(&high, 21).expect("a descriptor");
    let (at_low, at_high) = (low.as_raw_fd(), high.as_raw_fd());
    let script = format!("cat /proc/$$/fd/{at_low} /proc/$$/fd/{at_high}");
    let spec = shell(script)
        .descriptor(at_low, high)
        .descriptor(at_high, low);
    assert_eq!(output(spec).await.1, "highlow");
}

#[tokio::test]
async fn what_is_not_given_is_the_null_device() {
    let script = "readlink /proc/$$/fd/0; cat; readlink /proc/$$/fd/0 >&2";
    let (status, text) = output(shell(script)).await;
    assert_eq!(
        (status, &*text),
        (ExitStatus::Exited(0), "/dev/null\n/dev/null\n")
    );
}

#[tokio::test]
async fn limits_hold_before_the_first_instruction() {
    let limits = Limits {
        data_bytes: Some(64 << 20),
        open_files: Some(40),
        file_bytes: Some(1 << 20),
        stack_bytes: Some(4 << 20),
        cpu_seconds: Some(7),
        processes: Some(50),
    };
    let spec = Spec::new(&program("/bin/cat"), "cat")
        .argument("/proc/self/limits")
        .limits(limits);
    let (_, text) = output(spec).await;
    let limit = |name: &str| listed(&text, name);
    assert_eq!(limit("Max data size"), (64 << 20, 64 << 20));
    assert_eq!(limit("Max open files"), (40, 40));
    assert_eq!(limit("Max file size"), (1 << 20, 1 << 20));
    assert_eq!(limit("Max stack size"), (4 << 20, 4 << 20));
    assert_eq!(limit("Max cpu time"), (7, 8));
    assert_eq!(limit("Max processes"), (50, 50));
    assert_eq!(limit("Max core file size"), (0, 0));
}

/// The soft and the hard limit of that name in what `/proc/self/limits` said.
fn listed(text: &str, name: &str) -> (u64, u64) {
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .expect("the limit is listed");
    let mut words = line[name.len()..].split_whitespace();
    let mut number = || {
        words
            .next()
            .map(|word| word.parse::<u64>().expect("a number"))
    };
    (number().expect("soft"), number().expect("hard"))
}

/// A host that serves many connections raises its own soft limit.
#[tokio::test]
async fn the_descriptors_that_a_host_needs_are_not_the_program_s() {
    let mut host = getrlimit(Resource::Nofile);
    host.current = host.maximum;
    setrlimit(Resource::Nofile, host).expect("up to the hard limit");
    let spec = Spec::new(&program("/bin/cat"), "cat").argument("/proc/self/limits");
    let (_, text) = output(spec).await;
    let hard = host.maximum.expect("there is one");
    assert_eq!(listed(&text, "Max open files"), (hard.min(1024), hard));
}

#[tokio::test]
async fn a_core_file_is_never_allowed() {
    let spec = Spec::new(&program("/bin/cat"), "cat").argument("/proc/self/limits");
    let (_, text) = output(spec).await;
    let line = text
        .lines()
        .find(|line| line.starts_with("Max core"))
        .expect("a line");
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>()[4..6],
        ["0", "0"]
    );
}

#[tokio::test]
async fn signals_privileges_and_umask_are_fresh() {
    let spec = Spec::new(&program("/bin/cat"), "cat").argument("/proc/self/status");
    let (_, text) = output(spec).await;
    let value = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .expect("the field is listed");
        line[name.len()..].trim().to_owned()
    };
    let none = "0000000000000000";
    // Rust programs ignore SIGPIPE, and the spawner's thread blocks everything.
    assert_eq!(value("SigIgn:"), none);
    assert_eq!(value("SigBlk:"), none);
    assert_eq!(value("SigCgt:"), none);
    assert_eq!(value("NoNewPrivs:"), "1");
    assert_eq!(value("Umask:"), "0077");
}

#[tokio::test]
async fn it_leads_its_own_group_and_session_without_a_terminal() {
    let spec = Spec::new(&program("/bin/cat"), "cat").argument("/proc/self/stat");
    let (_, text) = output(spec).await;
    let (pid, rest) = text.split_once(" (").expect("an id");
    let (_, fields) = rest.rsplit_once(") ").expect("a name");
    let fields: Vec<&str> = fields.split(' ').collect();
    // state, parent, group, session, terminal
    assert_eq!(fields[1], keeper().to_string());
    assert_eq!((fields[2], fields[3], fields[4]), (pid, pid, "0"));
}

#[tokio::test]
async fn it_starts_in_the_root_or_the_given_directory() {
    assert_eq!(output(shell("pwd")).await.1, "/\n");
    assert_eq!(
        output(shell("pwd").working_directory("/proc")).await.1,
        "/proc\n"
    );
}

/// As the same user it could stop or kill the keeper, the host and every other plugin.
#[tokio::test]
async fn a_plugin_cannot_signal_what_it_did_not_start() {
    if !can_confine_signals() {
        return;
    }
    let other = spawn(shell("exec sleep 600")).await.expect("it starts");
    let script = format!(
        "for pid in $PPID {} {}; do kill -CONT $pid && echo may $pid; done 2>/dev/null; \
         sleep 600 & kill -KILL $! && kill -TERM $$",
        other.pid(),
        std::process::id(),
    );
    let (status, text) = output(shell(script)).await;
    assert_eq!(text, "");
    let by_itself = ExitStatus::Signaled {
        signal: 15,
        core: false,
    };
    assert_eq!(status, by_itself, "its own it may");
}

/// Whether the kernel has Landlock with scopes, the sixth version of its interface.
fn can_confine_signals() -> bool {
    const VERSION: u32 = 1;
    let nothing = std::ptr::null::<u8>();
    #[expect(unsafe_code, reason = "there is no safe call that tells the version")]
    // SAFETY: with this flag the kernel reads nothing.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) };
    version >= 6
}
