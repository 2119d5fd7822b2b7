//! Control groups: limits on a process together with everything that it starts.
//!
//! The new process enters its group before it becomes the program, so that nothing of
//! the program ever runs outside. Entering takes the kernel some ten milliseconds, since it
//! keeps every other process of the machine from being made or ending meanwhile; so only
//! what has a limit gets a group. In the second version a process is made in its group,
//! which costs a hundredth of that.

mod control;
mod places;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    process::{Pid, getpid},
};

use self::{
    control::{Directory, Version, wanted},
    places::Places,
};
use crate::{GroupLimits, GroupReport, GroupUsage};

/// The group of a process and of everything that it starts. Cheap to clone. It ends
/// with the process; what is asked of it after that has no effect.
#[derive(Clone, Debug)]
pub struct Group(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directories: Vec<Directory>,
    /// How many were killed for want of memory, as last seen.
    killed: AtomicU64,
}

/// Groups that could not be removed because something in them was still ending.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// Tells groups of this host apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Which limits the control groups of this host hold. The first call makes a place for
/// the groups of this host and removes what dead hosts left behind, which blocks for
/// some milliseconds.
pub fn groups() -> GroupReport {
    Places::of_host().report.clone()
}

/// The descriptors by which a process enters a group.
#[derive(Default)]
pub(super) struct Entries {
    /// Whoever writes to one of them is in the group.
    pub(super) files: Vec<OwnedFd>,
    /// The directory of the one that a process can be made in, whose file is the first.
    pub(super) begin: Option<OwnedFd>,
}

impl Group {
    /// A group with `limits`, and how a process enters it. Limits that no control group of
    /// this host holds are an error.
    pub(super) fn new(limits: &GroupLimits) -> io::Result<(Self, Entries)> {
        let places = Places::of_host();
        let name = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let mut directories = Vec::new();
        let mut entries = Entries::default();
        let made = places.list.iter().try_for_each(|place| {
            let has_limit = |it| wanted(limits, it).is_some();
            if !place.controllers.iter().any(has_limit) {
                return Ok(());
            }
            let directory = place.directory(&name);
            std::fs::create_dir(&directory.path)?;
            directories.push(directory.clone());
            directory.set(limits)?;
            let open =
                |path: &Path, flags| openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
            if entries.files.is_empty() && directory.version == Version::Two {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                entries.begin = Some(open(&directory.path, flags)?);
            }
            let file = directory.path.join("cgroup.procs");
            entries.files.push(open(&file, OFlags::WRONLY)?);
            Ok(())
        });
        let group = Self(Arc::new(Inner {
            directories,
            killed: AtomicU64::new(0),
        }));
        match made.and_then(|()| group.holds_all_of(limits)) {
            Ok(()) => Ok((group, entries)),
            Err(error) => {
                group.remove();
                Err(error)
            }
        }
    }

    /// Puts `limits` in place of those it has. The kernel takes memory back at once and
    /// nothing else: what is there already of the rest stays.
    ///
    /// # Errors
    ///
    /// When the group was made without a limit of that sort, and when the kernel refuses,
    /// as it may while more memory is used than is to be allowed. The other limits are set.
    pub fn set(&self, limits: &GroupLimits) -> io::Result<()> {
        let mut directories = self.0.directories.iter();
        let set = directories.try_for_each(|directory| directory.set(limits));
        set.and_then(|()| self.holds_all_of(limits))
    }

    /// What it uses now; nothing when it has ended.
    pub fn usage(&self) -> GroupUsage {
        let mut usage = GroupUsage::default();
        for directory in &self.0.directories {
            directory.add_usage(&mut usage);
        }
        usage
    }

    /// Whether it holds what is in it to a limit of processor time.
    pub fn holds_cpu(&self) -> bool {
        let mut directories = self.0.directories.iter();
        directories.any(|it| it.controllers.contains(&control::Controller::Cpu))
    }

    /// How many processes in it the kernel has killed because they wanted more memory
    /// than the group may have. Known for good after the end.
    pub fn killed_for_memory(&self) -> u64 {
        let seen = self.0.directories.iter().filter_map(Directory::killed);
        let now = seen.max().unwrap_or(0);
        now.max(self.0.killed.fetch_max(now, Ordering::Relaxed))
    }

    /// Kills what is left in it, and removes it as soon as that is gone.
    pub(super) fn remove(&self) {
        let _ = self.killed_for_memory();
        let mut left = lock_left();
        for directory in &self.0.directories {
            directory.kill();
            if !is_removed(&directory.path) {
                left.push(directory.path.clone());
            }
        }
    }

    fn holds_all_of(&self, limits: &GroupLimits) -> io::Result<()> {
        let held = |controller| {
            let mut directories = self.0.directories.iter();
            directories.any(|it| it.controllers.contains(controller))
        };
        let missing = control::ALL
            .iter()
            .find(|it| wanted(limits, it).is_some() && !held(it));
        match missing {
            None => Ok(()),
            Some(controller) => Err(io::Error::other(format!(
                "no control group holds {}",
                controller.name()
            ))),
        }
    }
}

/// Removes groups whose last process has ended meanwhile. Returns whether some are left.
pub(super) fn remove_left() -> bool {
    let mut left = lock_left();
    left.retain(|path| {
        control::kill_all(path);
        !is_removed(path)
    });
    !left.is_empty()
}

/// This host ends: gives up its place, unless something still runs there, which the next
/// host sees to.
pub(super) fn leave(host: Pid) {
    if host == getpid() {
        remove_left();
        Places::leave();
    }
}

fn is_removed(path: &Path) -> bool {
    match std::fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn lock_left() -> std::sync::MutexGuard<'static, Vec<PathBuf>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}
