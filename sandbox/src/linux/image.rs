//! The bytes that will run.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{
        CWD, FileType, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fstat, memfd_create,
        open, openat,
    },
    io::Errno,
};

use crate::ImageError;

/// Bytes are copied in pieces of this size.
const PIECE: usize = 256 * 1024;

/// A program, held by descriptor: what runs is what was opened, whatever happens
/// to paths later. Cheap to clone, and good for any number of processes.
#[derive(Clone, Debug)]
pub struct Image(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    descriptor: OwnedFd,
}

impl Image {
    /// Copies exactly `bytes` bytes from `source` into a memory file and seals it:
    /// from then on nobody, the host included, can change them. Who hashes the
    /// bytes does so inside `source`, while they are copied.
    ///
    /// `name` appears in errors and, cut to 200 bytes, in `/proc/<pid>/exe`.
    /// Blocks while `source` is read.
    ///
    /// # Errors
    ///
    /// When `source` fails or holds more or fewer bytes, and when the kernel
    /// forbids executable memory files (`vm.memfd_noexec=2`).
    pub fn seal(name: &str, mut source: impl Read, bytes: u64) -> Result<Self, ImageError> {
        let failed = |source: io::Error| ImageError::Io {
            name: name.to_owned(),
            source,
        };
        let wrong_length = |actual| ImageError::Length {
            name: name.to_owned(),
            expected: bytes,
            actual,
        };
        let mut memory = File::from(memory_file(name).map_err(failed)?);
        let copied = copy(&mut (&mut source).take(bytes), &mut memory).map_err(failed)?;
        if copied < bytes {
            return Err(wrong_length("shorter"));
        }
        if (&mut source)
            .take(1)
            .read_to_end(&mut Vec::new())
            .map_err(failed)?
            > 0
        {
            return Err(wrong_length("longer"));
        }
        let descriptor = seal(&memory).map_err(failed)?;
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            descriptor,
        })))
    }

    /// Opens the interpreter at the absolute `path`, following links now and never
    /// again. Its content is not sealed: who may write to that file is the
    /// operator's choice. An interpreter that is itself a script does not run.
    ///
    /// # Errors
    ///
    /// When `path` is relative, missing, or no regular file.
    pub fn interpreter(path: &Path) -> Result<Self, ImageError> {
        let expected = |expected| ImageError::Interpreter {
            path: path.to_owned(),
            expected,
        };
        if !path.is_absolute() {
            return Err(expected("an absolute path"));
        }
        let name = path.display().to_string();
        let failed = |errno: Errno| ImageError::Io {
            name: name.clone(),
            source: errno.into(),
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let descriptor = open(path, flags, Mode::empty()).map_err(failed)?;
        let file = fstat(&descriptor).map_err(failed)?;
        if FileType::from_raw_mode(file.st_mode) != FileType::RegularFile {
            return Err(expected("a regular file"));
        }
        Ok(Self(Arc::new(Inner { name, descriptor })))
    }

    /// The name that errors show.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A new read-only descriptor of the bytes with an offset of its own, for an
    /// interpreter that reads a sealed script as `/proc/self/fd/N`.
    ///
    /// # Errors
    ///
    /// When the host has no descriptor left, no `/proc`, or may not read the file.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        Ok(reopen(self.0.descriptor.as_fd())?)
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}

fn memory_file(name: &str) -> io::Result<OwnedFd> {
    // The kernel's bound on the name of a memory file is 249 bytes, without NUL.
    let name: String = name
        .chars()
        .filter(|letter| *letter != '\0')
        .take(50)
        .collect();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(&*name, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 the flag is unknown and every memory file is executable.
        Err(Errno::INVAL) => Ok(memfd_create(&*name, flags)?),
        made => Ok(made?),
    }
}

fn copy(source: &mut impl Read, target: &mut File) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut copied = 0;
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(copied),
            Ok(count) => {
                target.write_all(&piece[..count])?;
                copied += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Forbids every later change, and gives back a descriptor that could not write anyway.
fn seal(memory: &File) -> io::Result<OwnedFd> {
    let content = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    // Before Linux 6.3 the mode cannot be sealed; the content always can.
    match fcntl_add_seals(memory, content | SealFlags::EXEC) {
        Err(Errno::INVAL) => fcntl_add_seals(memory, content)?,
        sealed => sealed?,
    }
    fcntl_add_seals(memory, SealFlags::SEAL)?;
    Ok(reopen(memory.as_fd())?)
}

fn reopen(descriptor: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}
