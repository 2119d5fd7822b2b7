//! The end of an archive: an empty gzip member that carries the SHA-256 of
//! everything before it in an extra field. Every gzip reader skips it; ours tells
//! by it a damaged archive from one that was made to deceive.

use std::io::{self, BufRead, Read, Write};

use super::ArchiveError;
use crate::digest::{Digest, Hasher};

/// gzip, deflate, with an extra field, no time, no system; the extra field has
/// 36 bytes: `OP`, 32, and the digest.
const BEFORE: [u8; 16] = [
    0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 36, 0, b'O', b'P', 32, 0,
];
/// An empty deflate stream, the checksum of nothing and its length.
const AFTER: [u8; 10] = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const DIGEST: usize = 32;
/// How many bytes a seal has.
pub(super) const SEAL_LEN: usize = BEFORE.len() + DIGEST + AFTER.len();
const PIECE: usize = 64 * 1024;

/// Hashes what passes through; the seal is written last.
pub(super) struct Sealing<W> {
    out: W,
    hasher: Hasher,
    /// The seal included: what names the archive.
    whole: Hasher,
    written: u64,
}

impl<W: Write> Sealing<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            hasher: Hasher::default(),
            whole: Hasher::default(),
            written: 0,
        }
    }

    /// How many bytes were written so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes the seal. Returns the size and the digest of the whole archive.
    pub(super) fn finish(mut self) -> io::Result<(u64, Digest)> {
        let digest = self.hasher.digest();
        for part in [&BEFORE[..], digest.as_bytes(), &AFTER] {
            self.out.write_all(part)?;
            self.whole.update(part);
        }
        self.out.flush()?;
        Ok((self.written + SEAL_LEN as u64, self.whole.digest()))
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let count = self.out.write(piece)?;
        self.hasher.update(&piece[..count]);
        self.whole.update(&piece[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What the seal says once everything was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing changed since it was sealed.
    Intact,
    /// It is not what was sealed.
    Damaged,
    /// There is no seal: cut short, or another kind of file.
    Unsealed,
    /// More than an archive may have; the rest was not read.
    Endless,
}

/// Reads everything but the seal, of which it holds back as many bytes as a
/// seal has, and hashes it.
pub(super) struct Sealed<R> {
    input: R,
    hasher: Hasher,
    buffer: Box<[u8]>,
    /// What was not consumed yet is `buffer[start..end]`.
    start: usize,
    end: usize,
    is_at_end: bool,
    consumed: u64,
    /// Most bytes that are consumed.
    max: u64,
}

impl<R: Read> Sealed<R> {
    pub(super) fn new(input: R, max: u64) -> Self {
        Self {
            input,
            hasher: Hasher::default(),
            buffer: vec![0; PIECE + SEAL_LEN].into_boxed_slice(),
            start: 0,
            end: 0,
            is_at_end: false,
            consumed: 0,
            max,
        }
    }

    /// How many bytes were taken from it so far.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Reads what is left and says whether all of it is what was sealed.
    ///
    /// # Errors
    ///
    /// An [`ArchiveError::Read`] with what the reader beneath says.
    pub(super) fn verdict(&mut self) -> io::Result<Verdict> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        if !self.is_at_end {
            return Ok(Verdict::Endless);
        }
        let tail = &self.buffer[self.start..self.end];
        let digest = tail
            .strip_prefix(&BEFORE)
            .and_then(|tail| tail.strip_suffix(&AFTER));
        let hasher = std::mem::take(&mut self.hasher);
        Ok(match digest {
            None => Verdict::Unsealed,
            Some(digest) if digest == hasher.digest().as_bytes() => Verdict::Intact,
            Some(_) => Verdict::Damaged,
        })
    }

    fn available(&self) -> usize {
        (self.end - self.start).saturating_sub(SEAL_LEN)
    }
}

impl<R: Read> BufRead for Sealed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.available() == 0 && self.consumed < self.max {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            while self.available() == 0 && !self.is_at_end {
                match self.input.read(&mut self.buffer[self.end..]) {
                    Ok(0) => self.is_at_end = true,
                    Ok(count) => self.end += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(io::Error::other(ArchiveError::Read(error))),
                }
            }
        }
        let left = usize::try_from(self.max - self.consumed).unwrap_or(usize::MAX);
        let count = self.available().min(left);
        Ok(&self.buffer[self.start..self.start + count])
    }

    fn consume(&mut self, count: usize) {
        self.hasher
            .update(&self.buffer[self.start..self.start + count]);
        self.start += count;
        self.consumed += count as u64;
    }
}

impl<R: Read> Read for Sealed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sealing = Sealing::new(&mut bytes);
        sealing.write_all(content).unwrap();
        let (length, digest) = sealing.finish().unwrap();
        assert_eq!(length, (content.len() + SEAL_LEN) as u64);
        assert_eq!(digest, Digest::of(&bytes));
        bytes
    }

    /// Gives one byte at a time, and is interrupted before each.
    struct Slow<'b>(&'b [u8], bool);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let most = buffer.len().min(1);
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn what_was_sealed_comes_back_however_it_arrives() {
        for length in [0, 1, SEAL_LEN, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let content: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
            let bytes = sealed(&content);
            let mut reader = Sealed::new(&bytes[..], u64::MAX);
            let mut back = Vec::new();
            reader.read_to_end(&mut back).unwrap();
            assert!(back == content, "{length}");
            assert_eq!(reader.verdict().unwrap(), Verdict::Intact, "{length}");
            let mut unread = Sealed::new(Slow(&bytes, false), u64::MAX);
            assert_eq!(unread.verdict().unwrap(), Verdict::Intact, "{length}");
        }
    }

    #[test]
    fn every_change_and_every_cut_shows() {
        let bytes = sealed(b"some content");
        for position in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[position / 8] ^= 1 << (position % 8);
            let verdict = Sealed::new(&bytes[..], u64::MAX).verdict().unwrap();
            assert_ne!(verdict, Verdict::Intact, "bit {position}");
        }
        for length in 0..bytes.len() {
            let verdict = Sealed::new(&bytes[..length], u64::MAX).verdict().unwrap();
            assert_eq!(verdict, Verdict::Unsealed, "cut to {length}");
        }
    }

    #[test]
    fn no_more_is_read_than_allowed() {
        let mut reader = Sealed::new(io::repeat(7), 1_000);
        assert_eq!(reader.verdict().unwrap(), Verdict::Endless);
        assert_eq!(reader.consumed(), 1_000);
    }
}
