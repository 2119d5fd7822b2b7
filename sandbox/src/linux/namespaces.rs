//! What a process does in the namespaces that it was made in.

use std::{
    ffi::CStr,
    os::fd::{BorrowedFd, IntoRawFd},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::{Errno, write},
    process::geteuid,
    system::uname,
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, set_capabilities,
        set_capabilities_secure_bits,
    },
};

use super::{confinement::Maps, raw};

/// Child: is nobody in its user namespace, whoever the host is outside. Nobody else
/// is there.
pub(super) fn become_nobody(proc: BorrowedFd<'_>, maps: &Maps) -> Result<(), Errno> {
    // Without it an ordinary user may map no group.
    put(proc, c"self/setgroups", b"deny")?;
    put(proc, c"self/gid_map", maps.group.as_bytes())?;
    put(proc, c"self/uid_map", maps.user.as_bytes())
}

/// From this version on each namespace of processes has a highest process id of its own
/// (`kernel.pid_max`). Before, a write would go to the whole machine's.
const OWN_IDS_SINCE: (u32, u32) = (6, 14);
/// Ids below this one are given once and not again.
const RESERVED_IDS: u64 = 300;
/// The highest that the kernel takes.
const IDS_MAX: u64 = 4_194_304;

/// The highest process id that leaves room for `processes` at once, as it is written to
/// the kernel; `None` where a namespace cannot have its own.
pub(super) fn highest_id(processes: u64) -> Option<String> {
    let highest = RESERVED_IDS.saturating_add(processes.max(1)).min(IDS_MAX);
    has_own_ids(uname().release()).then(|| highest.to_string())
}

fn has_own_ids(release: &CStr) -> bool {
    let mut numbers = release.to_str().unwrap_or_default().split(['.', '-']);
    let mut number = || numbers.next()?.parse::<u32>().ok();
    number().zip(number()) >= Some(OWN_IDS_SINCE)
}

/// Whether the kernel holds processes in namespaces of their own to
/// [`Limits::processes`](crate::Limits::processes). Of root's it counts none, and before
/// Linux 6.14 nothing but that count would hold them.
pub fn counts_processes() -> bool {
    counts(uname().release(), geteuid().is_root())
}

fn counts(release: &CStr, is_root: bool) -> bool {
    !is_root || has_own_ids(release)
}

/// Child: there will be no process ids above this one in its namespace, so no more
/// processes either.
pub(super) fn bound_ids(proc: BorrowedFd<'_>, highest: &str) -> Result<(), Errno> {
    put(proc, c"sys/kernel/pid_max", highest.as_bytes())
}

/// To be root, or to become somebody, gives no capability, and none can be kept or made
/// ambient; all of it for good. That files give none is `no_new_privs`.
const NOTHING_BY_USER: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED)
    .union(CapabilitiesSecureBits::KEEP_CAPS_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// Child: has no capability any more, and gets none by executing a file.
pub(super) fn drop_capabilities() -> Result<(), Errno> {
    // To empty the bounding set would say the same in forty calls.
    match set_capabilities_secure_bits(NOTHING_BY_USER) {
        // The process has none, and cannot get any.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none)
}

/// Writes to a file of `proc`, the machine's `/proc`.
fn put(proc: BorrowedFd<'_>, path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    // Left open: the program does not get it.
    let file = raw::descriptor(file.into_raw_fd());
    write(file, text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_counts_no_processes_of_root() {
        for old in [c"6.13.7-arch1", c"5.15.0", c"6.1", c"odd", c""] {
            assert!(!counts(old, true), "{old:?}");
            assert!(counts(old, false), "{old:?}");
        }
        for new in [c"6.14.0", c"6.14-rc1", c"6.18.44-v6", c"7.0.0"] {
            assert!(counts(new, true), "{new:?}");
        }
    }
}
