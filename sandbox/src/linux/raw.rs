#![expect(
    unsafe_code,
    reason = "a process that shares the host's memory is made and set up with bare system calls"
)]
//! The system calls that have no safe wrapper. All `unsafe` of this crate is here.
//!
//! Functions marked "child" run between `clone` and `execveat`, in a process that
//! shares the host's memory: they allocate nothing, lock nothing and cannot panic.

use std::{
    ffi::{CStr, c_int, c_long, c_void},
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    time::Duration,
};

use rustix::{
    io::Errno,
    mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap},
    param::page_size,
    process::Pid,
};

use super::{
    plan::{CStrings, Plan},
    steps,
};

/// Signal numbers run from 1 to this.
const LAST_SIGNAL: c_int = 64;
/// Size in bytes of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;
/// Stack of a process before it executes its image; the steps need a fraction.
const STACK_BYTES: usize = 256 * 1024;

/// The memory a new process runs on until it executes its image, with a page
/// below it that faults instead of growing into the host's memory.
pub(super) struct Stack {
    base: *mut c_void,
    bytes: usize,
}

impl Stack {
    /// Also blocks every signal in the calling thread for good: a handler must not
    /// run on this stack. The type cannot leave the thread.
    pub(super) fn new() -> io::Result<Self> {
        block_signals()?;
        let bytes = STACK_BYTES + page_size();
        // SAFETY: a new private mapping at an address of the kernel's choice
        // touches no memory that is in use.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::STACK,
            )
        }?;
        let stack = Self { base, bytes };
        // SAFETY: the page is the first of the mapping made above, which nothing uses yet.
        unsafe { mprotect(base, page_size(), MprotectFlags::empty()) }?;
        Ok(stack)
    }

    fn top(&mut self) -> *mut c_void {
        // SAFETY: one past the end of the mapping, so inside the same object.
        unsafe { self.base.byte_add(self.bytes) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no process runs on it: `make_process`
        // borrows it until the process has left it.
        let unmapped = unsafe { munmap(self.base, self.bytes) };
        debug_assert!(unmapped.is_ok(), "the mapping is whole");
    }
}

/// Makes a process that carries out `plan`; returns when it has executed its image
/// or failed, which it notes in the plan.
///
/// Nothing is copied: the process shares the memory of the host
/// (`CLONE_VM | CLONE_VFORK`), so the cost does not grow with the host's size.
pub(super) fn make_process(stack: &mut Stack, plan: &Plan<'_>) -> io::Result<(Pid, OwnedFd)> {
    extern "C" fn enter(plan: *mut c_void) -> c_int {
        // SAFETY: `clone` passes on the pointer given below, which outlives this
        // call because `CLONE_VFORK` keeps the caller waiting.
        let plan = unsafe { &*plan.cast::<Plan<'_>>() };
        steps::run(plan)
    }

    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack is mapped, aligned and used by nobody else (`&mut`), and
    // signals are blocked in this thread (`Stack::new`); `enter` gets the plan it
    // expects, which this thread does not touch meanwhile; `CLONE_PIDFD` makes the
    // kernel write a descriptor to `pidfd`. The steps only make system calls and
    // write the `Cell`s of the plan, so other threads of the host notice nothing.
    let pid = unsafe {
        libc::clone(
            enter,
            stack.top(),
            flags,
            ptr::from_ref(plan).cast_mut().cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor and nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
    Ok((pid, pidfd))
}

/// Blocks every signal in the calling thread, for good.
fn block_signals() -> Result<(), Errno> {
    set_signal_mask(u64::MAX)
}

/// Child: unblocks every signal.
pub(super) fn unblock_signals() -> Result<(), Errno> {
    set_signal_mask(0)
}

fn set_signal_mask(mask: u64) -> Result<(), Errno> {
    // SAFETY: the kernel reads `SIGNAL_SET_BYTES` bytes from a live `u64` and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        )
    };
    check(result).map(drop)
}

/// Child: gives every signal its default action, also the ignored ones, so that
/// no handler of the host runs and `SIGPIPE` ends a program as it expects.
pub(super) fn reset_signal_actions() -> Result<(), Errno> {
    /// The kernel's `struct sigaction`, which is not the C library's.
    #[repr(C)]
    struct KernelAction {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }
    let default = KernelAction {
        handler: libc::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    for signal in 1..=LAST_SIGNAL {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: the kernel reads one action of its own layout and writes nothing. The
        // table of actions is this process's own, since `CLONE_SIGHAND` was not given.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                ptr::null_mut::<KernelAction>(),
                SIGNAL_SET_BYTES,
            )
        };
        check(result)?;
    }
    Ok(())
}

/// Child: duplicates `descriptor` to a free number of at least `lowest`.
pub(super) fn duplicate_above(descriptor: RawFd, lowest: RawFd) -> Result<RawFd, Errno> {
    // SAFETY: takes numbers only, and makes a descriptor in this process's own table.
    let result =
        unsafe { libc::syscall(libc::SYS_fcntl, descriptor, libc::F_DUPFD_CLOEXEC, lowest) };
    // A descriptor number always fits.
    check(result).map(|number| number as RawFd)
}

/// Child: makes `number` a duplicate of `descriptor`, which is another number.
pub(super) fn duplicate_to(
    descriptor: RawFd,
    number: RawFd,
    close_on_exec: bool,
) -> Result<(), Errno> {
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: takes numbers only, and changes this process's own table.
    check(unsafe { libc::syscall(libc::SYS_dup3, descriptor, number, flags) }).map(drop)
}

/// Child: closes all descriptors from `first` to `last`.
pub(super) fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: takes numbers only. The table is this process's own, since
    // `CLONE_FILES` was not given, so no descriptor of the host closes.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) }).map(drop)
}

/// Child: becomes the program in `image`; returns only on failure.
pub(super) fn execute(image: RawFd, arguments: &CStrings, environment: &CStrings) -> Errno {
    const HERE: &CStr = c"";
    // SAFETY: the path is a C string, and the arrays are null-terminated arrays of
    // C strings that live as long as the two borrows.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image,
            HERE.as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    check(result).err().unwrap_or(Errno::NOEXEC)
}

/// Takes away the zombie of a process that has ended, and tells the processor time
/// it used, with that of the children it waited for. Its peak memory is told by the
/// kernel too, but starts from the host's, whose memory it shared at first.
pub(super) fn reap(pidfd: BorrowedFd<'_>) -> Result<Duration, Errno> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel takes no status from a null pointer and fills in one `rusage`.
    check(unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            ptr::null_mut::<libc::siginfo_t>(),
            libc::WEXITED | libc::WNOHANG,
            usage.as_mut_ptr(),
        )
    })?;
    // SAFETY: a `rusage` is numbers only, so zeros are one even if the kernel wrote nothing.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| {
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
        seconds + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result == -1 {
        // The new process shares this variable with the thread that made it, which
        // is stopped meanwhile.
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    } else {
        Ok(result)
    }
}
