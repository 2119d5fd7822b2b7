//! Reads a folder that an attacker may be changing.
//!
//! The folder is opened once and everything else beneath that descriptor,
//! without following links and without leaving the file system. What is not a
//! plain file or folder is refused by name.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::Arc,
};

use orchestrator_manifest::{PATH_DEPTH_MAX, PackagePath};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, open, statat};

use super::{PackageFile, error::VerifyError, hashing::hash_each, layout::is_signature, shown};
use crate::{
    statement::FileMode,
    store::{mark_in_use, stored},
};

/// Most files and folders in a package.
pub const ENTRIES_MAX: usize = 10_000;
/// Most bytes in a package: a model of 2 GiB, and what belongs to it. They are
/// read piece by piece.
pub const BYTES_MAX: u64 = 3 << 30;
/// Most bytes in the entry of a package, which is held in memory while it runs.
pub const ENTRY_BYTES_MAX: u64 = 256 << 20;

/// A folder, opened.
pub(super) struct Tree {
    pub(super) root: Arc<OwnedFd>,
    pub(super) files: BTreeMap<PackagePath, FileFacts>,
    /// Why others could change the folder, if they could.
    pub(super) exposures: Vec<String>,
}

/// What the file system says about a file before it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileFacts {
    pub(super) size: u64,
    pub(super) mode: FileMode,
}

impl Tree {
    /// Opens `dir`, which may be a link of the store but no other link. Nothing
    /// in it is looked at yet.
    pub(super) fn open(dir: &Path) -> Result<Self, VerifyError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let stored = stored(dir);
        let real = stored.as_deref().unwrap_or(dir);
        let root = open(real, flags, Mode::empty()).map_err(|error| io_error(dir, error))?;
        if stored.is_some() {
            mark_in_use(&root);
        }
        Ok(Self {
            root: Arc::new(root),
            files: BTreeMap::new(),
            exposures: Vec::new(),
        })
    }

    /// Opens `dir` and lists what is beneath it.
    pub(super) fn open_listed(dir: &Path) -> Result<Self, VerifyError> {
        let mut tree = Self::open(dir)?;
        tree.list(dir)?;
        Ok(tree)
    }

    /// Reads a file of at most `max` bytes; `None` when it is not there.
    pub(super) fn read_small(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, VerifyError> {
        let name = Path::new(path);
        let fd = match beneath(&self.root, name, OFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(rustix::io::Errno::LOOP) => {
                let what = "a symbolic link, or beneath one";
                return Err(VerifyError::Special {
                    path: path.to_owned(),
                    what,
                });
            }
            Err(error) => return Err(io_error(name, error)),
        };
        check_plain(path, &fstat(&fd).map_err(|error| io_error(name, error))?)?;
        let mut bytes = Vec::new();
        std::fs::File::from(fd)
            .take(max + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| io_error(name, error))?;
        if bytes.len() as u64 > max {
            return Err(too_large("a file"));
        }
        Ok(Some(bytes))
    }

    /// Reads and hashes a file that was listed. What was listed may have become
    /// another file since; what is read is what counts.
    pub(super) fn hash(
        &self,
        path: &PackagePath,
        size: u64,
        mode: FileMode,
    ) -> Result<PackageFile, VerifyError> {
        PackageFile::hash(&self.root, path, mode, size)
    }

    /// Reads and hashes every listed file but the signatures, sorted by path.
    pub(super) fn hash_all(&self) -> Result<Vec<PackageFile>, VerifyError> {
        let covered = self
            .files
            .iter()
            .filter(|(path, _)| !is_signature(path.as_str()));
        let covered: Vec<_> = covered.collect();
        let bytes = covered.iter().map(|(_, facts)| facts.size).sum();
        hash_each(covered.len(), bytes, |number| {
            let (path, facts) = covered[number];
            self.hash(path, facts.size, facts.mode)
        })
    }

    /// Lists every file, and refuses what is neither file nor folder.
    pub(super) fn list(&mut self, dir: &Path) -> Result<(), VerifyError> {
        self.check_parent(dir)?;
        let mut folders = vec![(String::new(), 0)];
        let mut entries = 0;
        let mut bytes: u64 = 0;
        while let Some((folder, depth)) = folders.pop() {
            let shown_folder = dir.join(&folder);
            let fd = if folder.is_empty() {
                beneath(&self.root, Path::new("."), OFlags::DIRECTORY)
            } else {
                beneath(&self.root, Path::new(&folder), OFlags::DIRECTORY)
            };
            let fd = fd.map_err(|error| io_error(&shown_folder, error))?;
            let stat = fstat(&fd).map_err(|error| io_error(&shown_folder, error))?;
            self.note_exposure(
                if folder.is_empty() {
                    "the folder"
                } else {
                    &folder
                },
                &stat,
            );
            for entry in Dir::read_from(&fd).map_err(|error| io_error(&shown_folder, error))? {
                let entry = entry.map_err(|error| io_error(&shown_folder, error))?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                entries += 1;
                if entries > ENTRIES_MAX {
                    return Err(too_large("the number of files"));
                }
                let path = package_path(&folder, name)?;
                let stat = statat(&fd, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| io_error(Path::new(path.as_str()), error))?;
                self.note_exposure(path.as_str(), &stat);
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    if depth >= PATH_DEPTH_MAX {
                        return Err(too_large("the depth of folders"));
                    }
                    folders.push((path.to_string(), depth + 1));
                    continue;
                }
                check_plain(path.as_str(), &stat)?;
                bytes = bytes.saturating_add(size_of(&stat));
                if bytes > BYTES_MAX {
                    return Err(too_large("the size of all files"));
                }
                let mode = FileMode::of(stat.st_mode);
                self.files.insert(
                    path,
                    FileFacts {
                        size: size_of(&stat),
                        mode,
                    },
                );
            }
        }
        self.refuse_case_twins()
    }

    /// Two names that differ in case alone are one file on some platforms.
    fn refuse_case_twins(&self) -> Result<(), VerifyError> {
        let mut folded = BTreeMap::new();
        for path in self.files.keys() {
            if let Some(twin) = folded.insert(path.as_str().to_ascii_lowercase(), path) {
                let (path, twin) = (path.to_string(), twin.to_string());
                return Err(VerifyError::CaseTwins { path, twin });
            }
        }
        Ok(())
    }

    fn check_parent(&mut self, dir: &Path) -> Result<(), VerifyError> {
        let parent =
            statat(&*self.root, "..", AtFlags::empty()).map_err(|error| io_error(dir, error))?;
        // In a sticky folder such as /tmp nobody can rename what is not theirs.
        let is_sticky = parent.st_mode & 0o1000 != 0;
        if parent.st_mode & 0o022 != 0 && !is_sticky {
            self.exposures
                .push("others can replace the whole folder".to_owned());
        }
        // Its owner can, sticky or not.
        if !is_ours(&parent) {
            let owner = parent.st_uid;
            self.exposures
                .push(format!("user {owner} can replace the whole folder"));
        }
        Ok(())
    }

    fn note_exposure(&mut self, what: &str, stat: &Stat) {
        const EXAMPLES_MAX: usize = 5;
        if self.exposures.len() >= EXAMPLES_MAX {
            return;
        }
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if stat.st_mode & 0o022 != 0 && !is_link {
            self.exposures.push(format!("others can change {what}"));
        } else if !is_ours(stat) {
            self.exposures
                .push(format!("{what} belongs to user {}", stat.st_uid));
        }
    }
}

fn is_ours(stat: &Stat) -> bool {
    stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw()
}

/// Opens something beneath `root`, or fails: never through a link, never on
/// another file system.
#[cfg(target_os = "linux")]
pub(super) fn beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{ResolveFlags, openat2};
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat2(root, path, flags, Mode::empty(), resolve)
}

/// The same one part at a time, for kernels without `openat2`.
#[cfg(not(target_os = "linux"))]
pub(super) fn beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::openat;
    let common = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut folder = root.try_clone().map_err(|_| rustix::io::Errno::MFILE)?;
    let parts: Vec<_> = path.iter().collect();
    for (position, part) in parts.iter().enumerate() {
        let is_last = position + 1 == parts.len();
        let flags = common | if is_last { flags } else { OFlags::DIRECTORY };
        folder = openat(&folder, *part, flags, Mode::empty())?;
    }
    Ok(folder)
}

fn package_path(folder: &str, name: &[u8]) -> Result<PackagePath, VerifyError> {
    let bad = |reason: String| VerifyError::BadFileName {
        path: format!("{folder}/{}", name.escape_ascii()),
        reason,
    };
    let name = std::str::from_utf8(name).map_err(|_| bad("not UTF-8".to_owned()))?;
    let path = if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    };
    PackagePath::parse(&path).map_err(|error| bad(error.to_string()))
}

pub(super) fn check_plain(path: &str, stat: &Stat) -> Result<(), VerifyError> {
    let special = |what: &'static str| {
        Err(VerifyError::Special {
            path: path.to_owned(),
            what,
        })
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => return special("a symbolic link"),
        FileType::Directory => return special("a folder"),
        FileType::Fifo => return special("a pipe"),
        FileType::Socket => return special("a socket"),
        _ => return special("a device"),
    }
    if stat.st_nlink != 1 {
        return special("a file with several names (hard links)");
    }
    if stat.st_mode & 0o7000 != 0 {
        return special("a set-user-id, set-group-id or sticky file");
    }
    Ok(())
}

pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(u64::MAX)
}

pub(super) fn too_large(what: &'static str) -> VerifyError {
    VerifyError::TooLarge { what }
}

pub(super) fn io_error(path: &Path, error: impl Into<io::Error>) -> VerifyError {
    VerifyError::Io {
        path: shown(path),
        source: error.into(),
    }
}
