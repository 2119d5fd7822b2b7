#![expect(
    unsafe_code,
    reason = "a process that shares the host's memory is made and set up with bare system calls"
)]
//! The system calls that have no safe wrapper. All `unsafe` of this crate is here and
//! below.
//!
//! Functions marked "child" run between `clone` and `execveat`, in a process that
//! shares the host's memory: they allocate nothing, lock nothing and cannot panic.
//! Those marked "keeper" run in the keeper, which shares it as well; the same holds
//! for them.

mod beside;
mod layers;
mod notice;

use std::{
    cell::Cell,
    ffi::{CStr, c_int, c_long, c_void},
    io::{self, IoSlice, IoSliceMut},
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap},
    net::{
        RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
        recvmsg, sendmsg,
    },
    param::page_size,
    process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

pub(super) use beside::{beside, beside_in};
pub(super) use layers::{
    confine_signals, filter_calls, filters_are_taken, landlock_allow, landlock_allow_port,
    landlock_restrict, landlock_ruleset, landlock_version, loopback_up, observe_calls, own_ruleset,
    set_mount_attributes,
};
pub(super) use notice::{Notice, go_on, is_waiting, next_notice};

use super::{
    keeper::Order,
    keeping::{self, Room},
    plan::{CStrings, DESCRIPTORS_MAX},
};

/// Signal numbers run from 1 to this.
const LAST_SIGNAL: c_int = 64;
/// Size in bytes of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;
/// Stack of the keeper and of a process before it executes its image, which need a
/// fraction of it.
const STACK_BYTES: usize = 256 * 1024;

/// How long the end of a process that was killed is waited for.
const END_TIMEOUT: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// To wait for the keeper too, whose end sends no signal.
pub(super) const ANY_KIND: WaitIdOptions =
    WaitIdOptions::from_bits_retain(libc::__WALL.cast_unsigned());

/// The memory that the keeper runs on, or a new process until it executes its image,
/// with a page below it that faults instead of growing into the host's memory.
pub(super) struct Stack {
    base: *mut c_void,
    bytes: usize,
}

impl Stack {
    /// Also blocks signals in the calling thread for good: a handler must not run on
    /// this stack. The type cannot leave the thread.
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
        // SAFETY: the mapping is ours and no process runs on it: `beside` borrows it until
        // the process has left it.
        let unmapped = unsafe { munmap(self.base, self.bytes) };
        debug_assert!(unmapped.is_ok(), "the mapping is whole");
    }
}

/// Room for the descriptors of one message.
pub(super) const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));

/// A process that lives in the host's memory, beside it. Dropping it kills it and
/// waits until it is gone, but no longer than a second.
pub(super) struct Beside {
    pid: Pid,
    pidfd: OwnedFd,
    /// What the process works with; nobody else's while it lives.
    room: *mut Room,
    stack: mem::ManuallyDrop<Stack>,
    /// Whether something may use the memory for ever.
    cut_off: Cell<bool>,
}

impl Beside {
    /// Starts the keeper in `room`. Its memory is the host's, everything else is its
    /// own: descriptors, signal actions, children. Its end sends no signal, and
    /// whoever in the host waits for any child does not get it.
    pub(super) fn start(room: Room) -> io::Result<Self> {
        extern "C" fn enter(room: *mut c_void) -> c_int {
            // SAFETY: `clone` passes on the pointer given below, which nobody else
            // uses before the process is gone.
            keeping::keep(unsafe { &mut *room.cast::<Room>() })
        }

        let mut stack = Stack::new()?;
        let room = Box::into_raw(Box::new(room));
        let mut pidfd: RawFd = -1;
        // SAFETY: the stack is mapped, aligned and lives until the process is gone, as
        // does the room that `enter` expects. Signals are blocked in this thread
        // (`Stack::new`), and so in the process. It has this thread's thread-local
        // memory, of which it uses no more than `errno`, and that only while it gets
        // ready or is asked for something, when this thread makes no other than bare system calls;
        // otherwise it makes bare system calls itself. The kernel writes the number of a
        // descriptor to the variable.
        let pid = unsafe {
            libc::clone(
                enter,
                stack.top(),
                libc::CLONE_VM | libc::CLONE_PIDFD,
                room.cast::<c_void>(),
                &raw mut pidfd,
            )
        };
        let Some(pid) = Pid::from_raw(pid.max(0)) else {
            let error = io::Error::last_os_error();
            // SAFETY: made by `Box::into_raw` above, and no process was made to use it.
            drop(unsafe { Box::from_raw(room) });
            return Err(error);
        };
        // SAFETY: the kernel has just opened it for this process.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self {
            pid,
            pidfd,
            room,
            stack: mem::ManuallyDrop::new(stack),
            cut_off: Cell::new(false),
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// The descriptor that becomes readable when the process is gone.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The process was killed while it made another one, which may be in its memory
    /// still. That memory is never used again.
    pub(super) fn cut_off(&self) {
        self.cut_off.set(true);
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Fails only when it is gone.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let mut end = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let _ = poll(&mut end, Some(&END_TIMEOUT));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | ANY_KIND;
        let gone = waitid(WaitId::Pid(self.pid), options).is_ok_and(|end| end.is_some());
        if self.cut_off.get() || !gone {
            return;
        }
        // SAFETY: the process is gone, so nobody uses room or stack any more; both are
        // dropped here and nowhere else.
        unsafe {
            drop(Box::from_raw(self.room));
            mem::ManuallyDrop::drop(&mut self.stack);
        }
    }
}

/// Has the keeper at the other end of `socket` carry out `order`, with a duplicate of
/// each of `descriptors`, and gives the order back when it has. `answered` blocks until
/// there is an answer or no hope of one, and makes bare system calls alone.
///
/// Without an answer, which is `Errno::PIPE`, the order is never dropped: the keeper, or
/// a process that it was making, may still be at it.
pub(super) fn ask<'order>(
    socket: BorrowedFd<'_>,
    order: Box<Order<'order>>,
    descriptors: &[BorrowedFd<'_>],
    answered: impl FnOnce(),
) -> Result<Box<Order<'order>>, Errno> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    let order = Box::into_raw(order);
    let address = order.expose_provenance().to_ne_bytes();
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = sendmsg(socket, &[IoSlice::new(&address)], &mut control, flags);
    let done = sent.and_then(|_| {
        answered();
        match recv(socket, &mut [0_u8; 1], RecvFlags::DONTWAIT) {
            Ok((_, 1..)) => Ok(()),
            Ok((_, 0)) | Err(_) => Err(Errno::PIPE),
        }
    });
    match done {
        Err(Errno::PIPE | Errno::CONNRESET) => Err(Errno::PIPE),
        done => {
            // SAFETY: from the box above, and nobody else has it: it was never sent, or
            // an answer is the last that the keeper does with it.
            let order = unsafe { Box::from_raw(order) };
            done.map(|()| order)
        }
    }
}

/// Keeper: the next order of the host, with its descriptors in `control`, or `None`
/// when there will be no more.
pub(super) fn next_order<'order>(
    socket: BorrowedFd<'_>,
    control: &mut RecvAncillaryBuffer<'_>,
) -> Option<&'order Order<'order>> {
    let mut address = [0; size_of::<usize>()];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(socket, &mut [IoSliceMut::new(&mut address)], control, flags).ok()?;
    if message.bytes != address.len() {
        return None;
    }
    let order = ptr::with_exposed_provenance::<Order<'order>>(usize::from_ne_bytes(address));
    // SAFETY: nobody but `ask` writes to the other end, and it keeps the order where it
    // is until it has been answered, which is after the last use of it here, or for ever.
    Some(unsafe { &*order })
}

/// Keeper: the same, or an error where there is none.
pub(super) fn open_descriptor(number: RawFd) -> Result<BorrowedFd<'static>, Errno> {
    if number < 0 {
        return Err(Errno::NOENT);
    }
    Ok(descriptor(number))
}

/// Keeper: the descriptor `number`, which is open as long as the process lives.
pub(super) fn descriptor(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the caller closes everything else and never this one.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Blocks every signal in the calling thread, for good, but those by which the C
/// library has all threads of a process change their user or end: without an answer
/// it waits for ever.
fn block_signals() -> Result<(), Errno> {
    const OF_THE_C_LIBRARY: u64 = 1 << (32 - 1) | 1 << (33 - 1);
    set_signal_mask(!OF_THE_C_LIBRARY)
}

/// Keeper: blocks every signal.
pub(super) fn block_every_signal() -> Result<(), Errno> {
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

/// Keeper: gives every signal its default action, also the ignored ones, so that in what it
/// makes no handler of the host runs and `SIGPIPE` ends a program as it expects.
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

/// Has the C library run `leave` when the host ends by itself.
pub(super) fn at_exit(leave: extern "C" fn()) {
    // SAFETY: registers a function of this program, which is there until it ends. Without
    // memory for it, it is not run.
    let _ = unsafe { libc::atexit(leave) };
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

/// Child: becomes the program in `image`; returns only on failure. The kernel ignores
/// `token`, but a filter of system calls may want it.
pub(super) fn execute(
    image: RawFd,
    arguments: &CStrings,
    environment: &CStrings,
    token: u64,
) -> Errno {
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
            token,
        )
    };
    check(result).err().unwrap_or(Errno::NOEXEC)
}

/// Keeper: takes away the zombie of a child that has ended, and tells the processor
/// time it used, with that of the children it waited for. Its peak memory is told by
/// the kernel too, but starts from the host's, whose memory it shared at first.
pub(super) fn reap(pid: Pid) -> Result<Duration, Errno> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel takes no status from a null pointer and fills in one `rusage`.
    check(unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PID,
            pid.as_raw_nonzero().get(),
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

/// Has nobody send a descriptor to `socket`, a Unix socket. Whoever received one and did
/// not want it would have to close it, which may take as long as its sender likes.
///
/// # Errors
///
/// Before Linux 6.16, which has no such socket.
pub fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<()> {
    const SO_PASSRIGHTS: c_int = 83;
    let none: c_int = 0;
    // SAFETY: the kernel reads one number.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const none).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    check(c_long::from(result))
        .map(drop)
        .map_err(io::Error::from)
}

fn check(result: c_long) -> Result<c_long, Errno> {
    if result == -1 {
        // Child and keeper share this variable with the spawner's thread, which makes
        // bare system calls alone meanwhile.
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    } else {
        Ok(result)
    }
}
