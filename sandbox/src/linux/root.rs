//! The file system of a confined process: its own, with nothing in it but what was
//! granted.
//!
//! What is the same for every process is put together once, in a mount namespace that each
//! begins with a copy of ([`super::ground`]); its `/proc` and its scratch directory are the
//! process's own.

use std::{
    ffi::{CStr, CString},
    os::fd::{IntoRawFd, RawFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{chdir, pivot_root},
};

use super::{
    furniture::{Furniture, NO_DEVICES, NO_SETUID, PROCESSES, READ_ONLY},
    granted::Granted,
    landlock, raw,
};
use crate::SCRATCH;

/// What programs expect in `/dev` where there is a `/proc`: target and path.
const DESCRIPTORS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Where the new root is put together, in a mount namespace of its own. Any directory will
/// do.
const SITE: &CStr = c"/tmp";
/// [`SCRATCH`] below the root.
const SCRATCH_BELOW: &CStr = c"tmp";
/// One file may be made for so many bytes, and a few more. An empty one takes memory too.
const SCRATCH_BYTES_PER_FILE: u64 = 4096;
const SCRATCH_FILES_MIN: u64 = 64;

/// The part of a private root that all processes begin with.
pub(super) struct Root(Furniture);

impl Root {
    pub(super) fn new(granted: &[Arc<Granted>], has_processes: bool, has_scratch: bool) -> Self {
        let mut furniture = Furniture::new(granted, Path::new("/"));
        if has_scratch {
            furniture.directory(SCRATCH_BELOW.to_owned());
        }
        if has_processes {
            // A process may only mount its own where it sees this one, which that covers.
            furniture.processes();
            for (target, path) in DESCRIPTORS {
                furniture.link(Path::new(path), Path::new(target));
            }
        }
        Self(furniture)
    }

    /// Child: makes this the root, in a mount namespace of its own.
    pub(super) fn build(&self) -> Result<(), Errno> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(c"/", private)?;
        self.0.take()?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        let options = c"mode=0755,size=1m,nr_inodes=8192";
        mount(c"tmpfs", SITE, c"tmpfs", flags, options)?;
        chdir(SITE)?;
        self.0.place()?;
        pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        chdir(c"/")?;
        let attributes = READ_ONLY | NO_SETUID | NO_DEVICES;
        raw::set_mount_attributes(libc::AT_FDCWD, c"/", false, attributes)
    }
}

/// The part of a private root that is the process's own.
pub(super) struct OwnMounts {
    /// Options of the mount.
    processes: Option<&'static CStr>,
    scratch: Option<Scratch>,
}

struct Scratch {
    /// Of the mount.
    options: CString,
    /// What was granted that lies below it.
    furniture: Furniture,
}

impl OwnMounts {
    pub(super) fn new(
        granted: &[Arc<Granted>],
        processes: Option<&'static CStr>,
        scratch_bytes: Option<u64>,
    ) -> Self {
        let scratch = scratch_bytes.and_then(|bytes| {
            Some(Scratch {
                options: scratch_options(bytes)?,
                furniture: Furniture::new(granted, Path::new(SCRATCH)),
            })
        });
        Self { processes, scratch }
    }

    /// Child: mounts them in its copy of the root, and adds them to `rules`.
    pub(super) fn mount(&self, rules: Option<RawFd>) -> Result<(), Errno> {
        chdir(c"/")?;
        if let Some(scratch) = &self.scratch {
            scratch.furniture.take()?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let options = scratch.options.as_c_str();
            mount(c"tmpfs", SCRATCH_BELOW, c"tmpfs", flags, options)?;
            allow(rules, SCRATCH_BELOW, landlock::SCRATCH)?;
            scratch.furniture.place()?;
        }
        let Some(options) = self.processes else {
            return Ok(());
        };
        // The owner of what is in it may be root, to whom much can be written there.
        let flags =
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount(c"proc", PROCESSES, c"proc", flags, options)?;
        allow(rules, PROCESSES, landlock::OWN_PROCESSES)
    }
}

/// Child: adds what was mounted at `path` to `rules`.
fn allow(rules: Option<RawFd>, path: &CStr, access: u64) -> Result<(), Errno> {
    if let Some(rules) = rules {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let mounted = openat(CWD, path, flags, Mode::empty())?.into_raw_fd();
        raw::landlock_allow(rules, access, mounted)?;
    }
    Ok(())
}

/// A small file takes a page, so there is no room for more of them.
fn scratch_options(bytes: u64) -> Option<CString> {
    let files = bytes / SCRATCH_BYTES_PER_FILE + SCRATCH_FILES_MIN;
    CString::new(format!("mode=0700,size={bytes},nr_inodes={files}")).ok()
}
