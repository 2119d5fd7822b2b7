#![expect(
    unsafe_code,
    reason = "landlock, filters and attributes of mounts have no safe wrapper"
)]
//! The system calls of the layers of confinement.
//!
//! Functions marked "child" are called as described in [`super`].

use std::{
    ffi::CStr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use libc::sock_filter;
use rustix::io::Errno;

use super::check;

/// The version of landlock's interface that the kernel offers; an error without any.
pub(in crate::linux) fn landlock_version() -> Result<u32, Errno> {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel reads nothing.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<u8>(),
            0_usize,
            VERSION,
        )
    };
    check(version).map(|version| u32::try_from(version).unwrap_or_default())
}

/// Child too: a ruleset that forbids what it handles until rules allow it.
pub(in crate::linux) fn landlock_ruleset(
    files: u64,
    network: u64,
    scoped: u64,
) -> Result<RawFd, Errno> {
    /// The kernel's `struct landlock_ruleset_attr`.
    #[repr(C)]
    struct Ruleset {
        handled_access_fs: u64,
        handled_access_net: u64,
        scoped: u64,
    }
    let ruleset = Ruleset {
        handled_access_fs: files,
        handled_access_net: network,
        scoped,
    };
    // SAFETY: the kernel reads as many bytes as the live structure has.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<Ruleset>(),
            0_u32,
        )
    };
    // A descriptor number always fits.
    check(made).map(|number| number as RawFd)
}

/// The owner of the descriptor that [`landlock_ruleset`] made.
pub(in crate::linux) fn own_ruleset(ruleset: RawFd) -> OwnedFd {
    // SAFETY: the caller has it from the kernel and hands it on once.
    unsafe { OwnedFd::from_raw_fd(ruleset) }
}

/// Child too: adds to `ruleset` that `access` is allowed on what `descriptor` is, and
/// below it.
pub(in crate::linux) fn landlock_allow(
    ruleset: RawFd,
    access: u64,
    descriptor: RawFd,
) -> Result<(), Errno> {
    /// The kernel's `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct Beneath {
        allowed_access: u64,
        parent_fd: i32,
    }
    const PATH_BENEATH: u32 = 1;
    let rule = Beneath {
        allowed_access: access,
        parent_fd: descriptor,
    };
    // SAFETY: the kernel reads one live structure of the kind that is named.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset,
            PATH_BENEATH,
            &raw const rule,
            0_u32,
        )
    };
    check(added).map(drop)
}

/// Adds to `ruleset` that `access` is allowed on the TCP port `port`.
pub(in crate::linux) fn landlock_allow_port(
    ruleset: RawFd,
    access: u64,
    port: u16,
) -> Result<(), Errno> {
    /// The kernel's `struct landlock_net_port_attr`.
    #[repr(C)]
    struct Port {
        allowed_access: u64,
        port: u64,
    }
    const NET_PORT: u32 = 2;
    let rule = Port {
        allowed_access: access,
        port: u64::from(port),
    };
    // SAFETY: the kernel reads one live structure of the kind that is named.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset,
            NET_PORT,
            &raw const rule,
            0_u32,
        )
    };
    check(added).map(drop)
}

/// Child: brings up the loopback device of the network that `socket` was made in.
pub(in crate::linux) fn loopback_up(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    /// The kernel's `struct ifreq`, as it is read for flags.
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: i16,
        unused: [u8; 22],
    }
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        flags: libc::IFF_UP as i16,
        unused: [0; 22],
    };
    request.name[..2].copy_from_slice(b"lo");
    // SAFETY: the kernel reads as many bytes as the live structure has, and writes nothing.
    let up = unsafe {
        libc::syscall(
            libc::SYS_ioctl,
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )
    };
    check(up).map(drop)
}

/// Child: keeps the process to `ruleset` from now on.
pub(in crate::linux) fn landlock_restrict(ruleset: RawFd) -> Result<(), Errno> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0_u32) }).map(drop)
}

/// Child: signals that it sends, and what it starts, reach no process but those, where
/// the kernel can see to that: Linux 6.12 with Landlock. Elsewhere nothing happens.
pub(in crate::linux) fn confine_signals() {
    /// `LANDLOCK_SCOPE_SIGNAL`.
    const SIGNALS: u64 = 1 << 1;
    let Ok(ruleset) = landlock_ruleset(0, 0, SIGNALS) else {
        return;
    };
    let _ = landlock_restrict(ruleset);
    let _ = super::close_range(ruleset.unsigned_abs(), ruleset.unsigned_abs());
}

/// Whether the kernel takes filters that end a process.
pub(in crate::linux) fn filters_are_taken() -> Result<(), Errno> {
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads one live number.
    let known = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0_u32,
            &raw const action,
        )
    };
    check(known).map(drop)
}

/// Child: has every later system call of the process go through `filter`.
pub(in crate::linux) fn filter_calls(filter: &[sock_filter]) -> Result<(), Errno> {
    set_filter(filter, 0).map(drop)
}

/// Child: the same, and returns where the host is told of the calls that the filter wants
/// told, which wait for its answer. The program does not get that descriptor.
pub(in crate::linux) fn observe_calls(filter: &[sock_filter]) -> Result<RawFd, Errno> {
    // A call that the host looks at is not interrupted: not every program repeats it.
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let calls = set_filter(filter, flags)?;
    // A descriptor number always fits.
    Ok(calls as RawFd)
}

fn set_filter(filter: &[sock_filter], flags: libc::c_ulong) -> Result<libc::c_long, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads the live program, as many instructions as it has, and
    // writes nothing.
    let taken = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    check(taken)
}

/// Child: sets `attributes` (`MOUNT_ATTR_…`) on the mount at `path` below `descriptor`,
/// or that `descriptor` itself is when `path` is empty, and on those below it when
/// `all`.
pub(in crate::linux) fn set_mount_attributes(
    descriptor: RawFd,
    path: &CStr,
    all: bool,
    attributes: u64,
) -> Result<(), Errno> {
    /// The kernel's `struct mount_attr`.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const RECURSIVE: i32 = 0x8000;
    let attributes = Attributes {
        set: attributes,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if all { RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, and the kernel reads as many bytes as the live
    // structure has.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            descriptor,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    check(set).map(drop)
}
