//! Takes the gzip layer off. Deflate needs 32 KiB to look back at, whatever the
//! archive says.

use std::io::{self, BufRead as _, Read};

use flate2::{CrcReader, bufread::DeflateDecoder};

use super::{
    ArchiveError, Limits,
    seal::{Sealed, Verdict},
};

/// The only header: no name, no time, no comment, and no hint of the system.
pub(super) const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// What comes out of an archive, bounded in size and in proportion to what went
/// in. Its errors have an [`ArchiveError`] in them.
pub(super) struct Inflate<R>(CrcReader<Bounded<R>>);

struct Bounded<R> {
    decoder: DeflateDecoder<Sealed<R>>,
    limits: Limits,
}

impl<R: Read> Inflate<R> {
    /// Reads the header.
    pub(super) fn open(mut input: Sealed<R>, limits: Limits) -> (Self, Result<(), ArchiveError>) {
        let mut header = [0; HEADER.len()];
        let opened = match input.read_exact(&mut header) {
            Ok(()) if header == HEADER => Ok(()),
            Ok(()) => Err(ArchiveError::NotAnArchive),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ArchiveError::NotAnArchive)
            }
            Err(error) => Err(fault(error)),
        };
        let decoder = DeflateDecoder::new(input);
        (Self(CrcReader::new(Bounded { decoder, limits })), opened)
    }

    /// Reads the trailer. Nothing may be left but it.
    pub(super) fn close(&mut self) -> Result<(), ArchiveError> {
        if self.read(&mut [0]).map_err(fault)? != 0 {
            return Err(ArchiveError::AfterEnd);
        }
        // The length is kept modulo 2³², and the bytes themselves are bounded.
        let expected = [self.0.crc().sum(), self.0.crc().amount()];
        let input = self.0.get_mut().decoder.get_mut();
        let mut trailer = [0; 8];
        input.read_exact(&mut trailer).map_err(fault)?;
        if trailer != *expected.map(u32::to_le_bytes).as_flattened() {
            return Err(ArchiveError::Damaged("its inner checksum is wrong"));
        }
        match input.fill_buf().map_err(fault)? {
            [] => Ok(()),
            _ => Err(ArchiveError::AfterEnd),
        }
    }

    /// Reads what is left and says whether the archive is as it was sealed.
    pub(super) fn verdict(&mut self) -> Result<Verdict, ArchiveError> {
        let input = self.0.get_mut().decoder.get_mut();
        input.verdict().map_err(fault)
    }
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        let packed = self.decoder.get_ref().consumed();
        if !self.limits.allows_ratio(packed, self.decoder.total_out()) {
            let max = self.limits.ratio;
            return Err(io::Error::other(ArchiveError::Ratio { max }));
        }
        Ok(count)
    }
}

/// Why reading failed. What is not ours comes from the decoder.
pub(super) fn fault(error: io::Error) -> ArchiveError {
    match error.downcast::<ArchiveError>() {
        Ok(ours) => ours,
        Err(_) => ArchiveError::Damaged("it cannot be decompressed"),
    }
}
