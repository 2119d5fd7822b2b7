//! The folder of a log: segments of records, the checkpoints beside each, and
//! how a record is found in them.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::{
    error::AuditError,
    record::{Head, LINE_BYTES_MAX},
};

const SEGMENT: &str = ".ndjson";
const CHECKPOINTS: &str = ".checkpoints";
/// Digits of the first record's number in the name of a segment, so that names
/// sort as numbers do.
const DIGITS: usize = 20;
/// Below that many bytes, looking at every line is quicker than halving.
const SCAN_BYTES: u64 = 4 * LINE_BYTES_MAX as u64;

/// The newest checkpoints stand in that many last bytes of their file.
pub(super) const NEWEST_BYTES: u64 = 64 * 1024;

/// Where everything of a log lies.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn segment(&self, first: u64) -> PathBuf {
        self.0.join(format!("{first:0DIGITS$}{SEGMENT}"))
    }

    pub(super) fn checkpoints(&self, first: u64) -> PathBuf {
        self.0.join(format!("{first:0DIGITS$}{CHECKPOINTS}"))
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    pub(super) fn vkey(&self) -> PathBuf {
        self.0.join("key.vkey")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// The first record of every segment, in order.
    pub(super) fn segments(&self) -> Result<Vec<u64>, AuditError> {
        self.numbers(SEGMENT)
    }

    /// The first record of every segment that has checkpoints, in order. The segment
    /// itself may be gone.
    pub(super) fn signed_segments(&self) -> Result<Vec<u64>, AuditError> {
        self.numbers(CHECKPOINTS)
    }

    /// What is wrong where there is no segment: somebody removed them, or nothing was
    /// recorded yet.
    pub(super) fn without_segments(&self) -> AuditError {
        let hashes = self.tree().metadata().map_or(0, |tree| tree.len());
        let was_signed = self.signed_segments().is_ok_and(|found| !found.is_empty());
        match hashes > 0 || was_signed {
            true => AuditError::gone(&self.segment(0)),
            false => AuditError::NothingYet {
                path: self.0.display().to_string(),
            },
        }
    }

    fn numbers(&self, ending: &str) -> Result<Vec<u64>, AuditError> {
        let io = |error| AuditError::io("read", &self.0)(error);
        let mut found = Vec::new();
        let entries = match self.0.read_dir() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries.map_err(io)?,
        };
        for entry in entries {
            let name = entry.map_err(io)?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(ending));
            let digits = digits.filter(|digits| digits.len() == DIGITS);
            found.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The last bytes of a segment's checkpoints, at most `most`; none where
    /// there is no file.
    pub(super) fn read_checkpoints(&self, first: u64, most: u64) -> Result<Vec<u8>, AuditError> {
        let path = self.checkpoints(first);
        let read = || {
            let file = open(&path, false)?;
            let end = file.metadata()?.len();
            let at = end.saturating_sub(most);
            let mut bytes = Vec::new();
            At { file, at, end }.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(Vec::new()),
            bytes => bytes.map_err(AuditError::io("read", &path)),
        }
    }

    /// Makes what was created, renamed or removed here survive a power cut.
    pub(super) fn sync(&self) -> Result<(), AuditError> {
        File::open(&self.0)
            .and_then(|dir| dir.sync_all())
            .map_err(AuditError::io("write", &self.0))
    }
}

/// Opens a file that is there, through no link.
pub(super) fn open(path: &Path, writable: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(writable)
        .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
        .open(path)
}

/// Opens a file of the owner's alone, which is made where there is none.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
        .open(path)
}

/// Where record `seq` begins in the first `len` bytes of a segment that begins
/// with record `first`; `len` where it has not that many. Reads a few places.
pub(super) fn offset_of(file: &File, len: u64, first: u64, seq: u64) -> io::Result<u64> {
    if seq <= first {
        return Ok(0);
    }
    // `low` is where a record before `seq` begins, `high` is behind the last one.
    let (mut low, mut high) = (0, len);
    while high - low > SCAN_BYTES {
        let middle = low + (high - low) / 2;
        match record_behind(file, middle, high)? {
            Some((at, Some(found))) if found < seq => low = at,
            // The first line with that number may stand before this one. What is no
            // record is what a crash left behind the last one.
            Some(_) => high = middle,
            None => break,
        }
    }
    let mut lines = Lines::of(file.try_clone()?, low, len);
    let mut before = None;
    while let Some(line) = lines.next_line()? {
        match number(&line) {
            Some(found) if found >= seq => return Ok(lines.begins),
            None if before == Some(seq - 1) => return Ok(lines.begins),
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line is no record",
                ));
            }
            found => before = found,
        }
    }
    Ok(lines.ends)
}

/// The first line that begins behind `at`, and its number if it is a record.
fn record_behind(file: &File, at: u64, end: u64) -> io::Result<Option<(u64, Option<u64>)>> {
    let mut lines = Lines::of(file.try_clone()?, at, end);
    if lines.next_line()?.is_none() {
        return Ok(None);
    }
    let line = lines.next_line()?;
    Ok(line.map(|line| (lines.begins, number(&line))))
}

fn number(line: &[u8]) -> Option<u64> {
    Head::parse(line).ok().map(|head| head.seq)
}

/// Reads at a place of its own, whatever the descriptor's is.
struct At {
    file: File,
    at: u64,
    end: u64,
}

impl io::Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let many = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..many], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The whole lines of a part of a file.
pub(super) struct Lines {
    reader: BufReader<At>,
    /// Where the last line that was given out begins.
    pub(super) begins: u64,
    /// Where it ends, its line end included.
    pub(super) ends: u64,
    /// What stands behind it, where that is no whole line.
    pub(super) unfinished: u64,
    end: u64,
}

impl Lines {
    pub(super) fn of(file: File, at: u64, end: u64) -> Self {
        Self {
            reader: BufReader::with_capacity(1 << 17, At { file, at, end }),
            begins: at,
            ends: at,
            unfinished: 0,
            end,
        }
    }

    /// The next line without its end. A line that is too long to be a record
    /// is cut, and then is none. The last line is not whole without its end, nor
    /// where the disk has zeros for what it never wrote.
    pub(super) fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::with_capacity(512);
        let most = LINE_BYTES_MAX as u64 + 1;
        let read = (&mut self.reader).take(most).read_until(b'\n', &mut line)?;
        let mut whole = read as u64;
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if whole == most {
            whole += self.skip_line()?;
        } else {
            self.unfinished = whole;
            return Ok(None);
        }
        if self.ends + whole == self.end && line.contains(&0) {
            self.unfinished = whole;
            return Ok(None);
        }
        self.begins = self.ends;
        self.ends += whole;
        Ok(Some(line))
    }

    fn skip_line(&mut self) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let many = end.map_or(buffer.len(), |end| end + 1);
            self.reader.consume(many);
            skipped += many as u64;
            if end.is_some() || many == 0 {
                return Ok(skipped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn every_record_is_found_by_halving() {
        let mut file = tempfile::tempfile().unwrap();
        let mut starts = Vec::new();
        let mut len = 0;
        for seq in 40..6_000_u64 {
            starts.push(len);
            let padding = "x".repeat(usize::try_from(seq * 7 % 300).unwrap());
            let line = format!("{{\"seq\":{seq},\"detail\":\"{padding}\"}}\n");
            file.write_all(line.as_bytes()).unwrap();
            len += line.len() as u64;
        }
        file.write_all(b"{\"seq\":torn").unwrap();
        assert!(len > 4 * SCAN_BYTES);
        for seq in (40..6_000).step_by(17).chain([5_999]) {
            let found = offset_of(&file, len, 40, seq).unwrap();
            assert_eq!(found, starts[usize::try_from(seq - 40).unwrap()]);
        }
        assert_eq!(offset_of(&file, len, 40, 6_000).unwrap(), len);
        let mut lines = Lines::of(file, starts[5_958], len + 11);
        assert!(lines.next_line().unwrap().is_some());
        assert!(lines.next_line().unwrap().is_some());
        assert!(lines.next_line().unwrap().is_none());
        assert_eq!((lines.ends, lines.unfinished), (len, 11));
    }
}
