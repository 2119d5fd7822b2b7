//! Reads one file after the other, and refuses all that is not as [`Head`] and
//! the writer have it.

use std::io::{self, Read};

use orchestrator_manifest::PackagePath;
use tar::{EntryType, Header};

use super::{
    ArchiveError, Limits,
    head::{BLOCK, Head, field_at, has_good_checksum, path_in, pax_path},
    inflate::fault,
};
use crate::statement::FileMode;

/// Longest pax header: a path, its name and its length.
const PAX_MAX: u64 = 1024;

/// The files of an archive, in order. The bytes of each have to be taken with
/// [`Self::copy_to`] before the next.
pub(super) struct Entries<'i, R> {
    input: &'i mut R,
    limits: Limits,
    /// The path of the last file, for messages.
    after: String,
    bytes: u64,
}

impl<'i, R: Read> Entries<'i, R> {
    pub(super) fn new(input: &'i mut R, limits: Limits) -> Self {
        Self {
            input,
            limits,
            after: "the beginning".to_owned(),
            bytes: 0,
        }
    }

    /// The bytes of all files so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What stands before the next file; `None` at the end.
    pub(super) fn next_head(&mut self) -> Result<Option<Head>, ArchiveError> {
        let mut raw = self.block()?.to_vec();
        if is_zero(&raw) {
            // The second half of the end marker.
            return match is_zero(&self.block()?) {
                true => Ok(None),
                false => Err(ArchiveError::AfterEnd),
            };
        }
        let header = self.header(&raw)?;
        let (header, path) = match header.entry_type() {
            EntryType::XHeader => {
                let path = self.long_path(&header, &mut raw)?;
                let block = self.block()?;
                raw.extend_from_slice(&block);
                (self.header(&block)?, path)
            }
            _ => {
                let path = path_in(&header);
                (header, path)
            }
        };
        refuse_kind(header.entry_type(), &path)?;
        let head = self.head(&header, &path)?;
        let expected = head.to_bytes();
        if let Some(position) = first_difference(&raw, &expected) {
            return Err(ArchiveError::Form {
                path: head.path.to_string(),
                field: field_at(position),
            });
        }
        self.after = format!("`{}`", head.path);
        Ok(Some(head))
    }

    /// Takes the bytes of the file whose head was just read, and its padding.
    /// Only the errors of `out` come back as [`io::Error`].
    pub(super) fn copy_to(
        &mut self,
        head: &Head,
        out: &mut impl io::Write,
    ) -> Result<io::Result<()>, ArchiveError> {
        let mut left = head.size;
        let mut piece = vec![0; 64 * 1024];
        while left > 0 {
            let most = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
            let count = self.input.read(&mut piece[..most]).map_err(fault)?;
            if count == 0 {
                return Err(self.unfinished());
            }
            if let Err(error) = out.write_all(&piece[..count]) {
                return Ok(Err(error));
            }
            left -= count as u64;
        }
        // Less than a block, so it fits any integer.
        let used = (head.size % BLOCK as u64) as usize;
        let padding = &mut piece[..(BLOCK - used) % BLOCK];
        self.fill(padding)?;
        match is_zero(padding) {
            true => Ok(Ok(())),
            false => Err(ArchiveError::Padding {
                path: head.path.to_string(),
            }),
        }
    }

    fn head(&mut self, header: &Header, path: &[u8]) -> Result<Head, ArchiveError> {
        let shown = shown(path);
        let name = |reason: String| ArchiveError::Name {
            path: shown.clone(),
            reason,
        };
        let text = std::str::from_utf8(path).map_err(|_| name("not UTF-8".to_owned()))?;
        let path = PackagePath::parse(text).map_err(|error| name(error.to_string()))?;
        let form = |field| ArchiveError::Form {
            path: path.to_string(),
            field,
        };
        let size = header.size().map_err(|_| form("size"))?;
        let mode = header.mode().map_err(|_| form("mode"))?;
        let too_large = |what, max| ArchiveError::TooLarge {
            path: path.to_string(),
            what,
            max,
        };
        if size > self.limits.file_bytes {
            let what = "the size of a file";
            return Err(too_large(what, self.limits.file_bytes));
        }
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.bytes {
            let what = "the size of all files";
            return Err(too_large(what, self.limits.bytes));
        }
        let mode = FileMode::of(mode);
        Ok(Head { path, mode, size })
    }

    /// The path that a pax header gives to the header after it.
    fn long_path(&mut self, pax: &Header, raw: &mut Vec<u8>) -> Result<Vec<u8>, ArchiveError> {
        let after = self.after.clone();
        let bad = |reason| ArchiveError::LongName {
            after: after.clone(),
            reason,
        };
        let size = pax.size().map_err(|_| bad("it has no size"))?;
        if size > PAX_MAX {
            return Err(bad("it is too long"));
        }
        // At most `PAX_MAX`, so it fits any integer.
        let size = size as usize;
        let mut content = vec![0; size.next_multiple_of(BLOCK)];
        self.fill(&mut content)?;
        raw.extend_from_slice(&content);
        let path = pax_path(&content[..size]).map_err(bad)?;
        Ok(path.to_vec())
    }

    fn header(&self, block: &[u8]) -> Result<Header, ArchiveError> {
        let header = Header::from_byte_slice(block).clone();
        match has_good_checksum(&header) {
            true => Ok(header),
            false => Err(ArchiveError::HeaderChecksum {
                after: self.after.clone(),
            }),
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        Ok(block)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]).map_err(fault)? {
                0 => return Err(self.unfinished()),
                count => filled += count,
            }
        }
        Ok(())
    }

    fn unfinished(&self) -> ArchiveError {
        ArchiveError::Unfinished {
            after: self.after.clone(),
        }
    }
}

/// Only plain files are taken; everything else is refused by its name.
fn refuse_kind(kind: EntryType, path: &[u8]) -> Result<(), ArchiveError> {
    let path = shown(path);
    let extension = match kind {
        EntryType::Regular => return Ok(()),
        EntryType::Symlink => {
            let what = "a symbolic link";
            return Err(ArchiveError::Link { path, what });
        }
        EntryType::Link => {
            let what = "a hard link";
            return Err(ArchiveError::Link { path, what });
        }
        EntryType::Directory => "a folder of its own, and folders follow from files",
        EntryType::GNUSparse => "a sparse file",
        EntryType::GNULongName | EntryType::GNULongLink => "a long name of another form",
        EntryType::XGlobalHeader => "a header for all files",
        EntryType::XHeader => "a second header for one file",
        EntryType::Continuous => "a contiguous file",
        EntryType::Char | EntryType::Block => {
            let what = "a device";
            return Err(ArchiveError::Special { path, what });
        }
        EntryType::Fifo => {
            let what = "a pipe";
            return Err(ArchiveError::Special { path, what });
        }
        _ => {
            let what = "of an unknown kind";
            return Err(ArchiveError::Special { path, what });
        }
    };
    let what = extension;
    Err(ArchiveError::Extension { path, what })
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let differs = a.iter().zip(b).position(|(a, b)| a != b);
    differs.or((a.len() != b.len()).then(|| a.len().min(b.len())))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// A name as it may stand in a message.
fn shown(path: &[u8]) -> String {
    const SHOWN_MAX: usize = 200;
    let most = path.len().min(SHOWN_MAX);
    path[..most].escape_ascii().to_string()
}
