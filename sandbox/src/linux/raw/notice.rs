#![expect(
    unsafe_code,
    reason = "calls that a filter wants told come by requests that have no safe wrapper"
)]
//! Calls of an observed process, which wait until the host has looked at them.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::io::Errno;

/// One call that waits.
#[derive(Clone, Copy, Debug)]
pub(in crate::linux) struct Notice {
    id: u64,
    /// The thread that makes it.
    pub(in crate::linux) thread: u32,
    pub(in crate::linux) number: i64,
    pub(in crate::linux) arguments: [u64; 6],
}

/// The next call, once there is one; `None` when its thread has ended meanwhile.
pub(in crate::linux) fn next_notice(calls: BorrowedFd<'_>) -> Result<Option<Notice>, Errno> {
    // SAFETY: it is numbers only, and the kernel wants it to be zeros.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let received = request(calls, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut notice);
    match received {
        Ok(()) => Ok(Some(Notice {
            id: notice.id,
            thread: notice.pid,
            number: i64::from(notice.data.nr),
            arguments: notice.data.args,
        })),
        Err(Errno::NOENT | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether the thread that makes the call is still there: what was read of it was its own.
pub(in crate::linux) fn is_waiting(calls: BorrowedFd<'_>, notice: &Notice) -> bool {
    request(
        calls,
        libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
        &mut notice.id.clone(),
    )
    .is_ok()
}

/// Lets the kernel carry the call out.
pub(in crate::linux) fn go_on(calls: BorrowedFd<'_>, notice: &Notice) {
    let mut response = libc::seccomp_notif_resp {
        id: notice.id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    // Fails only when the thread has ended meanwhile.
    let _ = request(calls, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response);
}

/// `what` is the request that reads and writes a `T`.
fn request<T>(calls: BorrowedFd<'_>, what: libc::Ioctl, value: &mut T) -> Result<(), Errno> {
    // SAFETY: the kernel reads and writes one live value, of the size that the number of
    // the request names, which the callers above take from its type.
    let done = unsafe { libc::ioctl(calls.as_raw_fd(), what, std::ptr::from_mut(value)) };
    match done {
        -1 => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
        _ => Ok(()),
    }
}
