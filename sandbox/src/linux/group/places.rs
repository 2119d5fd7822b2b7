//! Where the groups of this host are: a directory of its own in each hierarchy of control
//! groups, below the group that the host itself is in.
//!
//! The directory is locked as long as the host lives. One that is not locked belonged to a
//! host that was killed: what still runs in it is killed, and it is removed.

use std::{
    collections::hash_map::RandomState,
    fs,
    hash::{BuildHasher, Hasher},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use procfs::{
    ProcessCGroup,
    process::{MountInfo, Process},
};
use rustix::{
    event::{Timespec, poll},
    fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, getxattr, openat, stat},
    io::Errno,
    process::{Pid, getpid},
};

use super::{
    super::raw,
    control::{self, Controller, Directory, Version},
    leave,
};
use crate::GroupReport;

/// Hosts' directories are told apart from whatever else lies in a hierarchy by this.
const PREFIX: &str = "orchestrator-";
/// How often a name is tried when another host sweeps or claims the same one.
const CLAIM_TRIES: usize = 16;
/// How many directories of dead hosts, and groups in one, are looked at.
const SWEPT_MAX: usize = 8192;
/// How often a dead host's group is emptied, and how long that waits in between.
const EMPTY_TRIES: u32 = 100;
const EMPTY_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 2_000_000,
};

/// The places of this host, one for each hierarchy that it may use.
pub(super) struct Places {
    pub(super) list: Vec<Place>,
    pub(super) report: GroupReport,
    host: Pid,
}

/// This host's directory in one hierarchy.
pub(super) struct Place {
    version: Version,
    pub(super) controllers: Vec<Controller>,
    path: PathBuf,
    /// Its lock tells other hosts that this one lives.
    _lock: OwnedFd,
}

/// A hierarchy, and the host's own group there.
struct Hierarchy {
    version: Version,
    controllers: Vec<Controller>,
    own: PathBuf,
}

static PLACES: OnceLock<Places> = OnceLock::new();

impl Places {
    pub(super) fn of_host() -> &'static Self {
        PLACES.get_or_init(|| {
            raw::at_exit(leave_at_exit);
            Self::claim()
        })
    }

    /// Removes the directories, as far as nothing is in them.
    pub(super) fn leave() {
        for place in PLACES.get().iter().flat_map(|places| &places.list) {
            let _ = fs::remove_dir(&place.path);
        }
    }

    fn claim() -> Self {
        let mut report = GroupReport::default();
        let mut list: Vec<Place> = Vec::new();
        let mut reasons: Vec<String> = Vec::new();
        for mut hierarchy in hierarchies(&mut reasons) {
            let is_free =
                |it: &Controller| !list.iter().any(|place| place.controllers.contains(it));
            hierarchy.controllers.retain(is_free);
            if hierarchy.controllers.is_empty() {
                continue;
            }
            match Place::claim(&hierarchy) {
                Ok(place) => list.push(place),
                Err(error) => reasons.push(format!("{}: {error}", hierarchy.own.display())),
            }
        }
        for place in &list {
            let version = Some(place.version.number());
            for controller in &place.controllers {
                match controller {
                    Controller::Memory => report.memory = version,
                    Controller::Tasks => report.tasks = version,
                    Controller::Cpu => report.cpu = version,
                }
            }
        }
        if [report.memory, report.tasks, report.cpu].contains(&None) {
            report.reason = match reasons.is_empty() {
                true => "the host is in no control group that holds it".to_owned(),
                false => reasons.join("; "),
            };
        }
        Self {
            list,
            report,
            host: getpid(),
        }
    }
}

extern "C" fn leave_at_exit() {
    if let Some(places) = PLACES.get() {
        leave(places.host);
    }
}

impl Place {
    pub(super) fn directory(&self, name: &str) -> Directory {
        Directory {
            version: self.version,
            controllers: self.controllers.clone(),
            path: self.path.join(name),
        }
    }

    fn claim(hierarchy: &Hierarchy) -> io::Result<Self> {
        let (base, controllers) = match hierarchy.version {
            Version::One => (hierarchy.own.clone(), hierarchy.controllers.clone()),
            Version::Two => delegated(&hierarchy.own, &hierarchy.controllers)?,
        };
        sweep(&base);
        for _ in 0..CLAIM_TRIES {
            let random = RandomState::new().build_hasher().finish();
            let path = base.join(format!("{PREFIX}{:08x}", random as u32));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let Some(lock) = lock(&path)? else { continue };
            if hierarchy.version == Version::Two {
                enable(&path, &controllers);
            }
            return Ok(Self {
                version: hierarchy.version,
                controllers,
                path,
                _lock: lock,
            });
        }
        Err(Errno::AGAIN.into())
    }
}

/// The hierarchies that bound what is to be bounded, the second version first.
fn hierarchies(reasons: &mut Vec<String>) -> Vec<Hierarchy> {
    let own = Process::myself();
    let read = own.and_then(|own| Ok((own.mountinfo()?, own.cgroups()?)));
    let (mounts, groups) = match read {
        Ok(read) => read,
        Err(error) => {
            reasons.push(error.to_string());
            return Vec::new();
        }
    };
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in &mounts {
        let version = match &*mount.fs_type {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => continue,
        };
        let of_mount = |group: &&ProcessCGroup| match version {
            Version::One => group
                .controllers
                .iter()
                .any(|name| !name.is_empty() && mount.super_options.contains_key(name)),
            Version::Two => group.hierarchy == 0,
        };
        let Some(group) = groups.0.iter().find(of_mount) else {
            continue;
        };
        let own = place_in(mount, &group.pathname);
        let has: Box<dyn Fn(&str) -> bool> = match version {
            Version::One => Box::new(|name| mount.super_options.contains_key(name)),
            Version::Two => {
                let listed = fs::read_to_string(own.join("cgroup.controllers"));
                let listed = listed.unwrap_or_default();
                Box::new(move |name| listed.split_whitespace().any(|it| it == name))
            }
        };
        let controllers = control::ALL.into_iter().filter(|it| has(it.name()));
        found.push(Hierarchy {
            version,
            controllers: controllers.collect(),
            own,
        });
    }
    found.sort_by_key(|hierarchy| std::cmp::Reverse(hierarchy.version.number()));
    found
}

/// Where the group that the kernel calls `name` is seen. In a container the path may be
/// one that is not seen there; then the mount shows the container's own.
fn place_in(mount: &MountInfo, name: &str) -> PathBuf {
    let below = Path::new(name).strip_prefix(&mount.root);
    let seen = below.map(|below| mount.mount_point.join(below));
    match seen {
        Ok(seen) if !name.starts_with("/..") && seen.is_dir() => seen,
        _ => mount.mount_point.clone(),
    }
}

/// The group below which this host may make others in the second version: its own, or, when
/// the processes of the host keep that from being divided, the one above where that was
/// delegated too. With the controllers that it passes on.
fn delegated(own: &Path, wanted: &[Controller]) -> io::Result<(PathBuf, Vec<Controller>)> {
    let above = own.parent().filter(|above| is_delegated(above));
    for base in [Some(own), above].into_iter().flatten() {
        let on = enable(base, wanted);
        if !on.is_empty() {
            return Ok((base.to_owned(), on));
        }
    }
    Err(io::Error::other(
        "the group is not delegated, or the host's own processes are in it",
    ))
}

/// Whether systemd gave the group to whoever is in it.
fn is_delegated(group: &Path) -> bool {
    let mut value = [0_u8; 8];
    getxattr(group, "user.delegate", &mut value).is_ok_and(|count| value.get(..count) == Some(b"1"))
}

/// Has the group at `path` pass on what it can of `wanted`, and tells what it passes on.
fn enable(path: &Path, wanted: &[Controller]) -> Vec<Controller> {
    let file = path.join("cgroup.subtree_control");
    for controller in wanted {
        let _ = fs::write(&file, format!("+{}", controller.name()));
    }
    let on = fs::read_to_string(&file).unwrap_or_default();
    let is_on = |it: &&Controller| on.split_whitespace().any(|name| name == it.name());
    wanted.iter().filter(is_on).copied().collect()
}

/// Removes what dead hosts left in `base`, and kills what still runs there.
fn sweep(base: &Path) {
    for path in directories(base) {
        let name = path.file_name().and_then(|name| name.to_str());
        if !name.is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        // Held while removing, so that no host takes the directory for its own.
        if let Ok(Some(_locked)) = lock(&path) {
            for group in directories(&path) {
                empty(&group);
            }
            empty(&path);
        }
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
    directories.map(|it| it.path()).take(SWEPT_MAX).collect()
}

/// Kills what is in the group at `path` and removes it, within a fifth of a second.
fn empty(path: &Path) {
    for _ in 0..EMPTY_TRIES {
        control::kill_all(path);
        if super::is_removed(path) {
            return;
        }
        let _ = poll(&mut [], Some(&EMPTY_PAUSE));
    }
}

/// Locks the directory at `path`. `None` when another host holds the lock, or removed the
/// directory before it was locked.
fn lock(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    let ours = fstat(&directory)?;
    match stat(path) {
        Err(Errno::NOENT) => Ok(None),
        Ok(named) if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino) => Ok(None),
        named => named.map(|_| Some(directory)),
    }
}
