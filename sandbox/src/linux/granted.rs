//! Paths that were granted, opened once.

use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat, stat},
    io::Errno,
};

use crate::{
    ConfinementError, Network,
    confinement::{Access, Execution},
};

/// What nearly every program needs before its first instruction. What is not there is
/// left out.
const LIBRARIES: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
];
const LOADERS: &[&str] = &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1"];
const PROGRAMS: &[&str] = &["/bin", "/sbin", "/usr"];
const DEVICES: &[&str] = &[
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];
/// Whom the machine trusts, and how the usual library for TLS is set up.
const CERTIFICATES: &[&str] = &[
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates/extracted",
];
/// What the C library looks names up by. Who has a gateway leaves that to it.
const NAMES: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
];
/// Bounds the work of one start, and the descriptors held for it.
const PATHS_MAX: usize = 128;
/// A path, and device and number of what it is to lead to.
pub(super) type Expected = (CString, (u64, u64));

/// A path that was granted.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) descriptor: OwnedFd,
    /// As it was given.
    pub(super) named: PathBuf,
    /// Without links.
    pub(super) path: PathBuf,
    pub(super) access: Access,
    /// Device and number.
    pub(super) identity: (u64, u64),
    pub(super) is_directory: bool,
    pub(super) is_device: bool,
}

impl Granted {
    /// The same in the words of system calls. What the kernel gave as a path has no NUL.
    pub(super) fn expected(&self) -> Option<Expected> {
        let path = CString::new(self.path.as_os_str().as_bytes()).ok()?;
        Some((path, self.identity))
    }

    /// Whether its path still leads to it.
    fn is_there(&self) -> bool {
        stat(&self.path).is_ok_and(|file| (file.st_dev, file.st_ino) == self.identity)
    }
}

/// What is granted to every program. It belongs to nobody who grants, so what an update
/// of the system puts in place of it is granted too.
#[derive(Debug)]
pub(super) struct System {
    kind: Kind,
    opened: Mutex<Vec<Arc<Granted>>>,
}

/// What it depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    has_programs: bool,
    network: Network,
}

impl System {
    /// That of everybody who was granted as much: they share its descriptors.
    pub(super) fn of(
        execution: Execution,
        network: Network,
    ) -> Result<Arc<Self>, ConfinementError> {
        static USED: Mutex<Vec<Weak<System>>> = Mutex::new(Vec::new());

        let kind = Kind {
            has_programs: execution == Execution::Anything,
            network,
        };
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|system| system.strong_count() > 0);
        let mut others = used.iter().filter_map(Weak::upgrade);
        if let Some(same) = others.find(|system| system.kind == kind) {
            return Ok(same);
        }
        let system = Arc::new(Self {
            kind,
            opened: Mutex::new(open_system(kind)?),
        });
        used.push(Arc::downgrade(&system));
        Ok(system)
    }

    /// What is there now.
    pub(super) fn now(&self) -> Result<Vec<Arc<Granted>>, ConfinementError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if !opened.iter().all(|granted| granted.is_there()) {
            *opened = open_system(self.kind)?;
        }
        Ok(opened.clone())
    }
}

fn open_system(kind: Kind) -> Result<Vec<Arc<Granted>>, ConfinementError> {
    let only = |condition: bool, paths| if condition { paths } else { &[][..] };
    let is_online = kind.network != Network::None;
    let looks_up_names = kind.network == Network::Unrestricted;
    let of_the_system = [
        (LIBRARIES, Access::Read),
        (LOADERS, Access::Execute),
        (only(kind.has_programs, PROGRAMS), Access::Read),
        (only(is_online, CERTIFICATES), Access::Read),
        (only(looks_up_names, NAMES), Access::Read),
        (DEVICES, Access::Write),
    ];
    let mut granted = Vec::new();
    for (paths, access) in of_the_system {
        for path in paths {
            match open(Path::new(path), access) {
                Err(ConfinementError::Open { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                opened => granted.push(opened?),
            }
        }
    }
    Ok(granted)
}

/// Opens what somebody granted.
pub(super) fn open_all(paths: &[(PathBuf, Access)]) -> Result<Vec<Arc<Granted>>, ConfinementError> {
    if paths.len() > PATHS_MAX {
        return Err(ConfinementError::TooManyPaths { limit: PATHS_MAX });
    }
    let opened = paths.iter().map(|(path, access)| open(path, *access));
    opened.collect()
}

fn open(path: &Path, access: Access) -> Result<Arc<Granted>, ConfinementError> {
    let unfit = |reason| ConfinementError::Path {
        path: path.to_owned(),
        reason,
    };
    let failed = |errno: Errno| ConfinementError::Open {
        path: path.to_owned(),
        source: errno.into(),
    };
    if !path.is_absolute() {
        return Err(unfit("is not absolute"));
    }
    if path.components().any(|part| part.as_os_str() == "..") {
        return Err(unfit("has `..` in it"));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let descriptor = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
    let file = fstat(&descriptor).map_err(failed)?;
    let number = descriptor.as_raw_fd();
    let link = readlinkat(CWD, format!("/proc/self/fd/{number}"), Vec::new()).map_err(failed)?;
    let without_links = PathBuf::from(OsString::from_vec(link.into_bytes()));
    let identity = (file.st_dev, file.st_ino);
    let there = stat(&without_links).map_err(failed)?;
    if (there.st_dev, there.st_ino) != identity {
        return Err(unfit("changed while it was looked at"));
    }
    if without_links == Path::new("/") {
        return Err(unfit("is the whole file system"));
    }
    if without_links.starts_with("/proc") {
        return Err(unfit("is in `/proc`, which is granted as `own_processes`"));
    }
    let kind = FileType::from_raw_mode(file.st_mode);
    Ok(Arc::new(Granted {
        named: path.components().collect(),
        path: without_links,
        access,
        identity,
        is_directory: kind == FileType::Directory,
        is_device: matches!(kind, FileType::CharacterDevice | FileType::BlockDevice),
        descriptor,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_granted_as_much_shares_what_was_opened() {
        let of = |execution, network| System::of(execution, network).expect("it is there");
        // A network that no other test of this process has.
        let one = of(Execution::Nothing, Network::Gateway);
        let same = of(Execution::Files, Network::Gateway);
        assert!(Arc::ptr_eq(&one, &same));
        let more = of(Execution::Anything, Network::Gateway);
        let elsewhere = of(Execution::Nothing, Network::None);
        assert!(!Arc::ptr_eq(&one, &more) && !Arc::ptr_eq(&one, &elsewhere));
        let used = Arc::downgrade(&one);
        drop((one, same));
        assert!(used.upgrade().is_none(), "nobody needs it any more");
    }

    #[test]
    fn an_update_of_the_system_is_granted_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let [old, new] = ["old", "new"].map(|name| directory.path().join(name));
        std::fs::write(&old, "old").expect("a file");
        std::fs::write(&new, "new").expect("a file");
        let system = System {
            kind: Kind {
                has_programs: false,
                network: Network::None,
            },
            opened: Mutex::new(vec![open(&old, Access::Read).expect("it is there")]),
        };
        assert_eq!(system.now().expect("the same").len(), 1);
        std::fs::rename(&new, &old).expect("they are ours");
        let now = system.now().expect("opened again");
        assert!(
            now.iter()
                .all(|granted| granted.named != old && granted.is_there())
        );
    }
}
