//! Watches the calls of the kernel that a command makes, and kills it at the very one
//! that is asked for.

#![expect(
    clippy::disallowed_types,
    reason = "runs the command itself; the sandbox is for plugins"
)]

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write as _,
    os::unix::{
        ffi::OsStringExt as _,
        fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
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
    let mut count = 0;
    watched(command, |call| {
        count += usize::from(changes_files(call));
        count < nth
    })
}

/// Runs a command and shows each call right before it is made.
pub(crate) fn traced(command: &Command, mut show: impl FnMut(&Call)) -> End {
    watched(command, |call| {
        show(call);
        true
    })
}

/// Runs a command for as long as `may_go_on` says so of its calls.
fn watched(command: &Command, may_go_on: impl FnMut(&Call) -> bool) -> End {
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
    let end = watch(main, may_go_on);
    // It was waited for; only the handle does not know.
    child.wait().ok();
    end
}

fn watch(main: Pid, mut may_go_on: impl FnMut(&Call) -> bool) -> End {
    let mut is_inside: HashMap<Pid, bool> = HashMap::new();
    // Only what this thread traces: other tests have children of their own.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let (thread, signal) = match waitpid(None, Some(flags)).unwrap() {
            WaitStatus::Exited(pid, status) if pid == main => return End::Exited(status),
            WaitStatus::Signaled(pid, _, _) if pid == main => return End::Killed,
            WaitStatus::PtraceSyscall(thread) => {
                let inside = is_inside.entry(thread).or_default();
                *inside = !*inside;
                if *inside && Call::of(thread).is_some_and(|call| !may_go_on(&call)) {
                    kill(main, Signal::SIGKILL).unwrap();
                    continue;
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

/// A call that a thread is about to make.
pub(crate) struct Call {
    thread: Pid,
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [u64; 6],
}

impl Call {
    fn of(thread: Pid) -> Option<Self> {
        let it = ptrace::getregs(thread).ok()?;
        Some(Self {
            thread,
            number: it.orig_rax.cast_signed(),
            arguments: [it.rdi, it.rsi, it.rdx, it.r10, it.r8, it.r9],
        })
    }

    fn of_process(&self, what: &str) -> PathBuf {
        format!("/proc/{}/{what}", self.thread).into()
    }

    /// Device and inode behind a descriptor, and the name that it was opened by.
    pub(crate) fn file(&self, descriptor: u64) -> Option<((u64, u64), PathBuf)> {
        let link = self.of_process(&format!("fd/{descriptor}"));
        let metadata = link.metadata().ok()?;
        let path = fs::read_link(link).ok()?;
        Some(((metadata.dev(), metadata.ino()), path))
    }

    /// The path that an argument points to, from the folder of the process.
    pub(crate) fn path_here(&self, pointer: u64) -> PathBuf {
        let folder = fs::read_link(self.of_process("cwd")).unwrap();
        folder.join(self.text(pointer))
    }

    /// The same, from a folder that the process has open.
    pub(crate) fn path(&self, folder: u64, pointer: u64) -> PathBuf {
        // Only the lower half of a register is the descriptor.
        let descriptor = u32::try_from(folder & u64::from(u32::MAX)).unwrap();
        match descriptor.cast_signed() {
            libc::AT_FDCWD => self.path_here(pointer),
            open => {
                let folder = fs::read_link(self.of_process(&format!("fd/{open}")));
                folder.unwrap_or_default().join(self.text(pointer))
            }
        }
    }

    fn text(&self, pointer: u64) -> PathBuf {
        let memory = File::open(self.of_process("mem")).unwrap();
        let mut bytes = Vec::new();
        let mut byte = [0];
        while memory
            .read_at(&mut byte, pointer + bytes.len() as u64)
            .is_ok()
            && byte != [0]
        {
            bytes.push(byte[0]);
        }
        let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
        match path.strip_prefix("/proc/self") {
            Ok(inner) => Path::new("/proc").join(self.thread.to_string()).join(inner),
            Err(_) => path,
        }
    }
}

fn changes_files(call: &Call) -> bool {
    match call.number {
        libc::SYS_openat => {
            call.arguments[2] & (libc::O_CREAT as u64 | libc::O_TMPFILE as u64) != 0
        }
        libc::SYS_write => call.arguments[0] > 2,
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
