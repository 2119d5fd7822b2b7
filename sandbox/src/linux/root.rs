//! The file system of a confined process: its own, with nothing in it but what was
//! granted.
//!
//! What was granted was opened then, and its path is looked up again here: a descriptor
//! of another mount namespace cannot be mounted. So what is found must be the very file
//! that was opened.

use std::{
    cell::Cell,
    ffi::{CStr, CString},
    os::{
        fd::{IntoRawFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, mknodat, openat, symlinkat},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
        mount_change, move_mount, open_tree, unmount,
    },
    process::{chdir, pivot_root},
};

use super::{granted::Granted, landlock, raw};
use crate::confinement::Access;

/// What programs expect in `/dev` where there is a `/proc`: target and path.
const DESCRIPTORS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Where the new root is put together, in the process's own mount namespace. Any
/// directory will do.
const SITE: &CStr = c"/tmp";
/// [`crate::SCRATCH`] below the new root.
const SCRATCH: &CStr = c"tmp";
/// One file may be made for so many bytes, and a few more. An empty one takes memory too.
const SCRATCH_BYTES_PER_FILE: u64 = 4096;
const SCRATCH_FILES_MIN: u64 = 64;

/// `MOUNT_ATTR_…` of the kernel.
const READ_ONLY: u64 = 1;
const NO_SETUID: u64 = 2;
const NO_DEVICES: u64 = 4;
const NO_EXECUTION: u64 = 8;

/// Everything about a private root, in the words of system calls.
pub(super) struct Root {
    directories: Vec<CString>,
    files: Vec<CString>,
    /// Target and path.
    links: Vec<(CString, CString)>,
    binds: Vec<Bind>,
    processes: Option<&'static CStr>,
    /// Options of the mount.
    scratch: Option<CString>,
}

struct Bind {
    source: CString,
    /// Below the new root.
    target: CString,
    /// Device and number of the file that was granted.
    identity: (u64, u64),
    attributes: u64,
    tree: Cell<RawFd>,
}

impl Root {
    pub(super) fn new(
        granted: &[Arc<Granted>],
        processes: Option<&'static CStr>,
        scratch_bytes: Option<u64>,
    ) -> Self {
        let mut root = Self {
            directories: Vec::new(),
            files: Vec::new(),
            links: Vec::new(),
            binds: Vec::new(),
            processes,
            scratch: scratch_bytes.and_then(scratch_options),
        };
        let mut sorted: Vec<&Granted> = granted.iter().map(Arc::as_ref).collect();
        // What is mounted first does not hide the rest.
        sorted.sort_by_key(|granted| &granted.path);
        let mut bound: Vec<(&Path, u64)> = Vec::new();
        for one in sorted {
            let attributes = attributes(one, granted);
            let mut above = bound.iter().rev();
            let nearest = above.find(|(path, _)| one.path.starts_with(path));
            if nearest.is_none_or(|(_, there)| *there != attributes) {
                root.bind(one, attributes);
                bound.push((&one.path, attributes));
            }
        }
        let mut named: Vec<&Granted> = granted.iter().map(Arc::as_ref).collect();
        named.sort_by_key(|granted| &granted.named);
        for one in named.into_iter().filter(|one| one.named != one.path) {
            root.link(&one.named, &one.path);
        }
        if processes.is_some() {
            for (target, path) in DESCRIPTORS {
                root.link(Path::new(path), Path::new(target));
            }
        }
        root
    }

    fn bind(&mut self, granted: &Granted, attributes: u64) {
        let (Some(source), Some(target)) = (c_string(&granted.path), relative(&granted.path))
        else {
            return;
        };
        self.directories_of(&granted.path);
        if granted.is_directory {
            push_once(&mut self.directories, target.clone());
        } else {
            push_once(&mut self.files, target.clone());
        }
        self.binds.push(Bind {
            source,
            target,
            identity: granted.identity,
            attributes,
            tree: Cell::new(-1),
        });
    }

    /// Lets the path that was `named` lead to what was granted, unless a link above it
    /// does.
    fn link(&mut self, named: &Path, path: &Path) {
        let (Some(target), Some(link)) = (c_string(path), relative(named)) else {
            return;
        };
        let mut above = named.ancestors().filter_map(relative);
        if above.any(|above| self.links.iter().any(|(_, link)| *link == above)) {
            return;
        }
        self.directories_of(named);
        if !self.directories.contains(&link) {
            self.links.push((target, link));
        }
    }

    fn directories_of(&mut self, path: &Path) {
        let above: Vec<_> = path.ancestors().skip(1).filter_map(relative).collect();
        for directory in above.into_iter().rev() {
            push_once(&mut self.directories, directory);
        }
    }

    /// Child: makes this the root of the process, in a mount namespace of its own. Its
    /// `/proc` and its scratch directory are added to `rules`.
    pub(super) fn enter(&self, rules: Option<RawFd>) -> Result<(), Errno> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(c"/", private)?;
        // Before anything is mounted over what was granted.
        for bind in &self.binds {
            bind.take()?;
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount(
            c"tmpfs",
            SITE,
            c"tmpfs",
            flags,
            c"mode=0755,size=1m,nr_inodes=8192",
        )?;
        chdir(SITE)?;
        if let Some(options) = &self.scratch {
            // First: what was granted may lie below it.
            mount_scratch(options, rules)?;
        }
        self.furnish()?;
        if let Some(options) = self.processes {
            mount_processes(options, rules)?;
        }
        pivot_root(c".", c".")?;
        unmount(c".", UnmountFlags::DETACH)?;
        chdir(c"/")?;
        let attributes = READ_ONLY | NO_SETUID | NO_DEVICES;
        raw::set_mount_attributes(libc::AT_FDCWD, c"/", false, attributes)
    }

    /// Child: fills the new root, which is the working directory. Mounts come last: what
    /// is made after them would be made in what was granted.
    fn furnish(&self) -> Result<(), Errno> {
        for directory in &self.directories {
            exists_already(mkdirat(
                CWD,
                directory.as_c_str(),
                Mode::from_raw_mode(0o755),
            ))?;
        }
        for file in &self.files {
            // Opened for writing it would keep the root writable.
            let (kind, mode) = (FileType::RegularFile, Mode::RUSR);
            exists_already(mknodat(CWD, file.as_c_str(), kind, mode, 0))?;
        }
        for (target, path) in &self.links {
            exists_already(symlinkat(target.as_c_str(), CWD, path.as_c_str()))?;
        }
        for bind in &self.binds {
            let tree = raw::descriptor(bind.tree.get());
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(tree, c"", CWD, bind.target.as_c_str(), flags)?;
        }
        Ok(())
    }
}

impl Bind {
    /// Child: takes hold of what is to be mounted.
    fn take(&self) -> Result<(), Errno> {
        const RECURSIVE: u32 = 0x8000;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::from_bits_retain(RECURSIVE);
        let tree = open_tree(CWD, self.source.as_c_str(), flags)?;
        let found = fstat(&tree)?;
        let tree = tree.into_raw_fd();
        self.tree.set(tree);
        if (found.st_dev, found.st_ino) != self.identity {
            return Err(Errno::STALE);
        }
        raw::set_mount_attributes(tree, c"", true, self.attributes)
    }
}

/// Child: mounts the process's own `/proc`.
fn mount_processes(options: &CStr, rules: Option<RawFd>) -> Result<(), Errno> {
    exists_already(mkdirat(CWD, c"proc", Mode::from_raw_mode(0o555)))?;
    // The owner of what is in it may be root, to whom much can be written there.
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"proc", c"proc", c"proc", flags, options)?;
    allow(rules, c"proc", landlock::OWN_PROCESSES)
}

/// Child: mounts a directory of the process's own.
fn mount_scratch(options: &CStr, rules: Option<RawFd>) -> Result<(), Errno> {
    exists_already(mkdirat(CWD, SCRATCH, Mode::from_raw_mode(0o755)))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"tmpfs", SCRATCH, c"tmpfs", flags, options)?;
    allow(rules, SCRATCH, landlock::SCRATCH)
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

fn exists_already(made: Result<(), Errno>) -> Result<(), Errno> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        made => made,
    }
}

/// Those of the mount that `one` needs, with what all `granted` above it allow.
fn attributes(one: &Granted, granted: &[Arc<Granted>]) -> u64 {
    let may = |access: Access| {
        let mut above = granted.iter();
        above.any(|above| above.access == access && one.path.starts_with(&above.path))
    };
    let devices = if one.is_device { 0 } else { NO_DEVICES };
    let access = match (may(Access::Write), may(Access::Execute)) {
        // The device takes what is written all the same; its mode and times are the
        // machine's.
        _ if one.is_device => READ_ONLY,
        (true, true) => 0,
        // What was written is not executed, also not as a library.
        (true, false) => NO_EXECUTION,
        (false, _) => READ_ONLY,
    };
    NO_SETUID | devices | access
}

/// `path` below the new root; the root itself is none.
fn relative(path: &Path) -> Option<CString> {
    let below = path.strip_prefix("/").ok()?;
    if below.as_os_str().is_empty() {
        return None;
    }
    c_string(below)
}

/// What the kernel gave as a path has no NUL.
fn c_string(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

fn push_once(list: &mut Vec<CString>, path: CString) {
    if !list.contains(&path) {
        list.push(path);
    }
}
