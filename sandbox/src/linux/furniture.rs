//! What is in a file system that is put together: directories, files and links, and what
//! is mounted onto them.
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
    fs::{CWD, FileType, Mode, fstat, mkdirat, mknodat, symlinkat},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::{granted::Granted, raw};
use crate::confinement::Access;

/// `MOUNT_ATTR_…` of the kernel.
pub(super) const READ_ONLY: u64 = 1;
pub(super) const NO_SETUID: u64 = 2;
pub(super) const NO_DEVICES: u64 = 4;
const NO_EXECUTION: u64 = 8;

/// `/proc` below the root.
pub(super) const PROCESSES: &CStr = c"proc";

/// Everything to put in place, in the words of system calls. Paths are below the root.
#[derive(Default)]
pub(super) struct Furniture {
    directories: Vec<CString>,
    files: Vec<CString>,
    /// Target and path.
    links: Vec<(CString, CString)>,
    binds: Vec<Bind>,
}

struct Bind {
    source: CString,
    target: CString,
    /// Device and number of the file that was granted.
    identity: Option<(u64, u64)>,
    attributes: u64,
    tree: Cell<RawFd>,
}

impl Furniture {
    /// Of what was `granted` that which is at `top` or below it.
    pub(super) fn new(granted: &[Arc<Granted>], top: &Path) -> Self {
        let mut furniture = Self::default();
        let mut sorted: Vec<&Granted> = granted.iter().map(Arc::as_ref).collect();
        // What is mounted first does not hide the rest.
        sorted.sort_by_key(|granted| &granted.path);
        let mut bound: Vec<(&Path, u64)> = Vec::new();
        for one in sorted.iter().filter(|one| one.path.starts_with(top)) {
            let attributes = attributes(one, granted);
            let mut above = bound.iter().rev();
            let nearest = above.find(|(path, _)| one.path.starts_with(path));
            if nearest.is_none_or(|(_, there)| *there != attributes) {
                furniture.bind(one, attributes);
                bound.push((&one.path, attributes));
            }
        }
        sorted.sort_by_key(|granted| &granted.named);
        let named = sorted.iter().filter(|one| one.named.starts_with(top));
        for one in named.filter(|one| one.named != one.path) {
            furniture.link(&one.named, &one.path);
        }
        furniture
    }

    fn bind(&mut self, granted: &Granted, attributes: u64) {
        let (Some(source), Some(target)) = (c_string(&granted.path), relative(&granted.path))
        else {
            return;
        };
        self.directories_of(&granted.path);
        if granted.is_directory {
            self.directory(target.clone());
        } else {
            push_once(&mut self.files, target.clone());
        }
        self.mount(source, target, Some(granted.identity), attributes);
    }

    /// Adds the machine's `/proc`.
    pub(super) fn processes(&mut self) {
        self.directory(PROCESSES.to_owned());
        let attributes = READ_ONLY | NO_SETUID | NO_DEVICES | NO_EXECUTION;
        self.mount(c"/proc".to_owned(), PROCESSES.to_owned(), None, attributes);
    }

    fn mount(
        &mut self,
        source: CString,
        target: CString,
        identity: Option<(u64, u64)>,
        attributes: u64,
    ) {
        let tree = Cell::new(-1);
        self.binds.push(Bind {
            source,
            target,
            identity,
            attributes,
            tree,
        });
    }

    /// Lets the path that was `named` lead to `path`, unless a link above it does.
    pub(super) fn link(&mut self, named: &Path, path: &Path) {
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

    /// Adds a directory, those above which are there.
    pub(super) fn directory(&mut self, path: CString) {
        push_once(&mut self.directories, path);
    }

    fn directories_of(&mut self, path: &Path) {
        let above: Vec<_> = path.ancestors().skip(1).filter_map(relative).collect();
        for directory in above.into_iter().rev() {
            self.directory(directory);
        }
    }

    /// Child: takes hold of what is to be mounted, before anything is mounted over it.
    pub(super) fn take(&self) -> Result<(), Errno> {
        self.binds.iter().try_for_each(Bind::take)
    }

    /// Child: puts everything in place below the working directory. Mounts come last: what
    /// is made after them would be made in what was granted.
    pub(super) fn place(&self) -> Result<(), Errno> {
        for directory in &self.directories {
            let mode = Mode::from_raw_mode(0o755);
            exists_already(mkdirat(CWD, directory.as_c_str(), mode))?;
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
        let found = (found.st_dev, found.st_ino);
        if self.identity.is_some_and(|granted| granted != found) {
            return Err(Errno::STALE);
        }
        raw::set_mount_attributes(tree, c"", true, self.attributes)
    }
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
