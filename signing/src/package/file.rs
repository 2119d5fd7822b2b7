//! One file of a package, and its bytes as they were verified.
//!
//! No file is held in memory. It is hashed piece by piece when the package is
//! verified, and again whenever somebody reads it, so that a reader gets the very
//! bytes that were verified or an error, whatever happened to the file meanwhile.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
};

use orchestrator_manifest::PackagePath;
use rustix::fs::{OFlags, fstat};

use super::{
    VerifyError,
    tree::{beneath, check_plain, io_error, size_of},
};
use crate::{
    digest::{Digest, Hasher},
    statement::FileMode,
};

/// How much is read at once: few calls, and small enough for a core's cache.
const PIECE_BYTES: usize = 64 * 1024;

/// One file of a package.
#[derive(Clone)]
pub struct PackageFile {
    folder: Arc<OwnedFd>,
    path: PackagePath,
    mode: FileMode,
    size: u64,
    digest: Digest,
}

impl PackageFile {
    /// The file at `path` beneath `folder`, which has to have `size` bytes; reads
    /// and hashes them.
    pub(super) fn hash(
        folder: &Arc<OwnedFd>,
        path: &PackagePath,
        mode: FileMode,
        size: u64,
    ) -> Result<Self, VerifyError> {
        let file = open(folder, path, size)?;
        let mut hasher = Hasher::default();
        // One byte more than promised shows a file that grows; a file system
        // that never ends is not read to its end.
        let read = digest_pieces(&mut file.take(size + 1), &mut hasher)
            .map_err(|error| io_error(Path::new(path.as_str()), error))?;
        if read != size {
            return Err(changed(path));
        }
        Ok(Self::known(folder, path, mode, size, hasher.digest()))
    }

    /// A file whose bytes are known already.
    pub(super) fn known(
        folder: &Arc<OwnedFd>,
        path: &PackagePath,
        mode: FileMode,
        size: u64,
        digest: Digest,
    ) -> Self {
        Self {
            folder: Arc::clone(folder),
            path: path.clone(),
            mode,
            size,
            digest,
        }
    }

    /// Its path in the package.
    pub fn path(&self) -> &PackagePath {
        &self.path
    }

    /// Whether it is a program.
    pub fn mode(&self) -> FileMode {
        self.mode
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The SHA-256 of its verified bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// All of it; `None` when it has more than `max` bytes.
    pub(super) fn small(&self, max: u64) -> io::Result<Option<Vec<u8>>> {
        if self.size > max {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.open()
            .map_err(io::Error::other)?
            .read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Another file of its folder, which nobody vouches for; `None` when it is not
    /// there, no plain file or larger than this.
    pub(super) fn beside(&self, path: &str, max: u64) -> Option<Vec<u8>> {
        let file = beneath(&self.folder, Path::new(path), OFlags::NONBLOCK).ok()?;
        let stat = fstat(&file).ok()?;
        check_plain(path, &stat).ok()?;
        let mut bytes = Vec::new();
        let read = File::from(file).take(max + 1).read_to_end(&mut bytes);
        (read.ok()? as u64 <= max).then_some(bytes)
    }

    /// Opens it to read the bytes that were verified.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Changed`] when it no longer can be what was verified,
    /// [`VerifyError::Io`] when it cannot be opened.
    pub fn open(&self) -> Result<FileReader, VerifyError> {
        Ok(FileReader {
            file: open(&self.folder, &self.path, self.size)?,
            path: self.path.clone(),
            expected: self.digest,
            hasher: Hasher::default(),
            left: self.size,
            is_refused: false,
        })
    }
}

impl fmt::Debug for PackageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.path, self.size)
    }
}

/// Reads a file of a package: all bytes that were verified, or an error before
/// the last of them. Whoever keeps what came before the error keeps what nobody
/// vouches for.
///
/// The error is an [`io::Error`] with a [`VerifyError::Changed`] in it.
pub struct FileReader {
    file: File,
    path: PackagePath,
    expected: Digest,
    hasher: Hasher,
    left: u64,
    is_refused: bool,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_refused {
            return Err(io::Error::other(changed(&self.path)));
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.file.read(&mut buffer[..most])?;
        self.hasher.update(&buffer[..count]);
        self.left -= count as u64;
        let is_short = count == 0;
        let is_other = self.left == 0 && std::mem::take(&mut self.hasher).digest() != self.expected;
        if is_short || is_other {
            self.is_refused = true;
            return Err(io::Error::other(changed(&self.path)));
        }
        Ok(count)
    }
}

/// Hashes what `reader` gives, piece by piece. Returns how many bytes it was.
fn digest_pieces(reader: &mut io::Take<File>, hasher: &mut Hasher) -> io::Result<u64> {
    let largest = usize::try_from(reader.limit()).unwrap_or(usize::MAX);
    let mut piece = vec![0; largest.min(PIECE_BYTES)];
    let mut bytes = 0;
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(count) => {
                hasher.update(&piece[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens a plain file of `size` bytes.
fn open(folder: &OwnedFd, path: &PackagePath, size: u64) -> Result<File, VerifyError> {
    let name = Path::new(path.as_str());
    let file = beneath(folder, name, OFlags::NONBLOCK).map_err(|error| io_error(name, error))?;
    let stat = fstat(&file).map_err(|error| io_error(name, error))?;
    check_plain(path.as_str(), &stat)?;
    match size_of(&stat) == size {
        true => Ok(file.into()),
        false => Err(changed(path)),
    }
}

fn changed(path: &PackagePath) -> VerifyError {
    let path = path.to_string();
    VerifyError::Changed { path }
}

/// Why reading a file of a package failed: as a [`FileReader`] says, or as the
/// operating system does.
pub(crate) fn read_error(path: &str, error: io::Error) -> VerifyError {
    match error.downcast::<VerifyError>() {
        Ok(changed) => changed,
        Err(error) => io_error(Path::new(path), error),
    }
}
