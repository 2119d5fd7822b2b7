//! Kills a command at the very call of the kernel that is asked for.

#![expect(
    clippy::disallowed_types,
    reason = "runs the command itself; the sandbox is for plugins"
)]

use std::{
    collections::HashMap,
    io::Write as _,
    process::{Command, Stdio},
};

use nix::{
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// How a traced command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this status.
    Exited(i32),
    Killed,
}

/// Says that commands are killed before every call. Otherwise it is before some of
/// them, others each time.
const EVERYWHERE: &str = "ORCHESTRATOR_CRASH_EVERYWHERE";
/// Of so many calls, one.
const SAMPLE: usize = 4;

/// Before which calls to kill a command: numbers from 1 on, without an end.
pub(crate) fn moments() -> impl Iterator<Item = usize> {
    let step = match std::env::var_os(EVERYWHERE) {
        Some(_) => 1,
        None => SAMPLE,
    };
    let first = fastrand::usize(1..=step);
    (first..).step_by(step)
}

/// Runs a command and kills it right before its `nth` call (from 1) that changes
/// files. One that makes fewer ends by itself.
pub(crate) fn killed_before(command: &Command, nth: usize) -> End {
    // The shell waits until it is watched, and becomes the command then.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read go; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .current_dir(command.get_current_dir().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let main = Pid::from_raw(child.id().cast_signed());
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(main, options).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let end = watch(main, nth);
    // It was waited for; only the handle does not know.
    child.wait().ok();
    end
}

fn watch(main: Pid, nth: usize) -> End {
    let mut is_inside: HashMap<Pid, bool> = HashMap::new();
    let mut count = 0;
    // Only what this thread traces: other tests have children of their own.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let (thread, signal) = match waitpid(None, Some(flags)).unwrap() {
            WaitStatus::Exited(pid, status) if pid == main => return End::Exited(status),
            WaitStatus::Signaled(pid, _, _) if pid == main => return End::Killed,
            WaitStatus::PtraceSyscall(thread) => {
                let inside = is_inside.entry(thread).or_default();
                *inside = !*inside;
                if *inside && changes_files(thread) {
                    count += 1;
                    if count == nth {
                        kill(main, Signal::SIGKILL).unwrap();
                        continue;
                    }
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, event) => {
                if event == libc::PTRACE_EVENT_EXEC {
                    is_inside.insert(thread, true);
                }
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            _ => continue,
        };
        // It may have been killed meanwhile.
        ptrace::syscall(thread, signal).ok();
    }
}

fn changes_files(thread: Pid) -> bool {
    let Ok(registers) = ptrace::getregs(thread) else {
        return false;
    };
    match registers.orig_rax.cast_signed() {
        libc::SYS_openat => registers.rdx & (libc::O_CREAT as u64 | libc::O_TMPFILE as u64) != 0,
        libc::SYS_write => registers.rdi > 2,
        libc::SYS_pwrite64
        | libc::SYS_copy_file_range
        | libc::SYS_sendfile
        | libc::SYS_splice
        | libc::SYS_ftruncate
        | libc::SYS_mkdir
        | libc::SYS_mkdirat
        | libc::SYS_rmdir
        | libc::SYS_unlink
        | libc::SYS_unlinkat
        | libc::SYS_rename
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_link
        | libc::SYS_linkat
        | libc::SYS_symlink
        | libc::SYS_symlinkat
        | libc::SYS_chmod
        | libc::SYS_fchmod
        | libc::SYS_fchmodat
        | libc::SYS_fsync
        | libc::SYS_fdatasync => true,
        _ => false,
    }
}
