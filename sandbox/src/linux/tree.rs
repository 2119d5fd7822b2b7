//! Package files that must have paths.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat2},
    io::Errno,
};

use super::run_directory::{PrivateDirectory, RunDirectory};
use crate::TreeError;

/// How many files a tree may have.
const MAX_FILES: usize = 65_536;
/// Name of the tree inside its private directory.
const ROOT: &str = "root";
/// No link is followed and nothing outside is reached, whatever a path says.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Files written from bytes that were verified, for programs that open their assets
/// by path: directories 0500, files 0444, executable ones 0555, under a parent with
/// mode 0700. Removed on drop (which blocks on the file system) and when the host dies.
#[derive(Debug)]
pub struct ReadOnlyTree {
    path: PathBuf,
    root: OwnedFd,
    /// Removes the files.
    _place: PrivateDirectory,
}

impl ReadOnlyTree {
    /// The absolute path of the directory that the relative paths start from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for ReadOnlyTree {
    /// The directory that the relative paths start from.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// A [`ReadOnlyTree`] in the making. Dropping it removes what it wrote.
#[derive(Debug)]
pub struct TreeBuilder {
    tree: ReadOnlyTree,
    directories: BTreeSet<PathBuf>,
    files: usize,
}

impl RunDirectory {
    /// Begins an empty tree. Blocks like
    /// [`private_directory`](Self::private_directory).
    ///
    /// # Errors
    ///
    /// See [`private_directory`](Self::private_directory).
    pub fn tree(&self) -> Result<TreeBuilder, TreeError> {
        let place = self.private_directory()?;
        let path = place.path().join(ROOT);
        let failed = |errno: Errno| io_error("make", &path, errno);
        mkdirat(CWD, &path, Mode::RWXU).map_err(failed)?;
        let root = open_directory(CWD, &path, ResolveFlags::NO_SYMLINKS).map_err(failed)?;
        Ok(TreeBuilder {
            tree: ReadOnlyTree {
                path,
                root,
                _place: place,
            },
            directories: BTreeSet::new(),
            files: 0,
        })
    }
}

impl TreeBuilder {
    /// Writes the `bytes` bytes of `source` to `path`, executable when `mode` has
    /// an execute bit. Blocks on both.
    ///
    /// # Errors
    ///
    /// When the path is not relative and plain, exists already, or the source holds
    /// more or fewer bytes. The tree is to be dropped then.
    pub fn add(
        &mut self,
        path: &Path,
        mode: u32,
        source: impl Read,
        bytes: u64,
    ) -> Result<(), TreeError> {
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(TreeError::TooManyFiles { limit: MAX_FILES });
        }
        let refused = |reason| TreeError::Path {
            path: path.to_owned(),
            reason,
        };
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let (Some(name), Some(parent), true) = (path.file_name(), path.parent(), plain) else {
            return Err(refused("is not a relative path without `..`"));
        };
        let conflict = |action, errno| match errno {
            Errno::EXIST => refused("is listed twice"),
            Errno::NOTDIR => refused("lies below another file"),
            errno => io_error(action, path, errno),
        };
        let parent = self
            .directory(parent)
            .map_err(|errno| conflict("make a place for", errno))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = if mode & 0o111 == 0 { 0o444 } else { 0o555 };
        let file = openat2(&parent, name, flags, Mode::RUSR | Mode::WUSR, BENEATH)
            .map_err(|errno| conflict("make", errno))?;
        let mut file = File::from(file);
        let copied = copy(source, &mut file, bytes).map_err(|source| TreeError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })?;
        if copied != bytes {
            return Err(refused("has not the size that was verified"));
        }
        fchmod(&file, Mode::from_raw_mode(mode)).map_err(|errno| conflict("protect", errno))
    }

    /// Protects the directories and hands out the tree.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn finish(self) -> Result<ReadOnlyTree, TreeError> {
        let Self {
            tree, directories, ..
        } = self;
        let read_only = Mode::RUSR | Mode::XUSR;
        for path in &directories {
            let protect = open_directory(&tree.root, path, BENEATH)
                .and_then(|directory| fchmod(directory, read_only));
            protect.map_err(|errno| io_error("protect", path, errno))?;
        }
        fchmod(&tree.root, read_only).map_err(|errno| io_error("protect", &tree.path, errno))?;
        Ok(tree)
    }

    /// Opens the directory `path`, making what is missing of it.
    fn directory(&mut self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut directory = rustix::io::fcntl_dupfd_cloexec(&self.tree.root, 0)?;
        let mut so_far = PathBuf::new();
        for part in path.components() {
            so_far.push(part);
            if self.directories.insert(so_far.clone()) {
                match mkdirat(&directory, part.as_os_str(), Mode::RWXU) {
                    // A file is there, which opening it as a directory reports.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
            }
            directory = open_directory(&directory, part.as_os_str(), BENEATH)?;
        }
        Ok(directory)
    }
}

fn open_directory(
    parent: impl AsFd,
    path: impl rustix::path::Arg,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(parent, path, flags, Mode::empty(), resolve)
}

/// Copies at most one byte more than `bytes`, so that too long a source shows.
fn copy(source: impl Read, file: &mut File, bytes: u64) -> io::Result<u64> {
    io::copy(&mut source.take(bytes.saturating_add(1)), file)
}

fn io_error(action: &'static str, path: &Path, errno: Errno) -> TreeError {
    TreeError::Io {
        action,
        path: path.to_owned(),
        source: errno.into(),
    }
}
