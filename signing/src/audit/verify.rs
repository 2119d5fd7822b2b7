//! Believing a log: every record, every hash and every checkpoint fit.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use super::{
    error::AuditError,
    files::{self, Folder},
    merkle::{self, Frontier, leaf, nodes_of},
    note::{self, Checkpoint, VerifierKey},
    read::AuditReader,
    record::{AuditRecord, Head, Kind},
    tree::Tree,
};

/// A copy of checkpoints is read in pieces of so many bytes.
const COPY_PIECE: usize = 1 << 18;
/// The log's own checkpoints that are looked at in each segment. The newest
/// vouch for what the older ones say.
const OWN_BYTES_MAX: u64 = 1 << 20;
/// The file of hashes is read in pieces of so many.
const PIECE: u64 = 4_096;

/// What was found to be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The name of the key that signed.
    pub key: String,
    /// The first record that is kept.
    pub first: u64,
    /// How many records the log has had.
    pub size: u64,
    /// How many of them the newest checkpoint covers.
    pub covered: u64,
    /// The log's own checkpoints that fit.
    pub checkpoints: u64,
    /// Checkpoints from elsewhere that fit.
    pub compared: u64,
    /// Bytes behind the last record that are no whole line: somebody writes
    /// right now, or a crash left them.
    pub unfinished: u64,
}

/// A checkpoint and where it stands.
type Signed = (Checkpoint, Arc<str>);

/// Checks the log in `dir` against the checkpoints beside it and, where a file
/// with some is named, against those. Takes the log as it is at the beginning;
/// others may go on writing. Reads everything once.
///
/// # Errors
///
/// The first thing that does not fit.
pub fn verify(dir: &Path, key: &VerifierKey, from: Option<&Path>) -> Result<Report, AuditError> {
    let folder = Folder::new(dir);
    // First, because others go on writing: the log has all that it speaks of.
    let open = |path| open_copy(path).map(|copy| (path, copy));
    let copy = from.map(open).transpose()?;
    let segments = folder.segments()?;
    let mut signed = own_checkpoints(&folder, key)?;
    let checkpoints = signed.len() as u64;
    let covered = signed.iter().map(|(it, _)| it.size).max().unwrap_or(0);
    signed.sort_by_key(|(checkpoint, _)| checkpoint.size);

    let mut reader = AuditReader::open(dir, 0)?;
    let first = reader.first_kept();
    let tree = open_tree(&folder)?;
    let mut hashes = Hashes::new(&tree, nodes_of(first), covered)?;
    let mut frontier = Frontier::read(&tree, first).map_err(AuditError::io("read", tree.path()))?;
    // Of records that are gone, only the hashes can be compared; that is done
    // when the root over them and what follows is known to be the signed one.
    let begins = signed.partition_point(|(checkpoint, _)| checkpoint.size <= first);
    let (older, rest) = signed.split_at(begins);
    let mut rest = rest.iter().peekable();
    let mut pruned_to = 0;
    let mut read = BTreeSet::from([reader.segment()]);
    while let Some(line) = reader.next_line()? {
        read.insert(reader.segment());
        pruned_to = pruned_to.max(pruned(&line));
        hashes.follow(&mut frontier, &line)?;
        while let Some(signed) = rest.next_if(|(it, _)| it.size == frontier.size()) {
            same_root(signed, &frontier)?;
        }
    }
    nothing_is_missing_at_the_end(rest.next(), frontier.size())?;
    nothing_is_missing_before(first, pruned_to, dir)?;
    read.insert(reader.segment());
    // Those before the first one went while this began.
    let is_surplus = |it: &u64| *it > first && !read.contains(it);
    let surplus = segments.into_iter().find(is_surplus);
    nobody_began(&folder, surplus, frontier.size())?;
    compare_older(&tree, older.iter(), (covered, first))?;
    let known = Known {
        tree: &tree,
        first,
        covered,
        size: frontier.size(),
        fit_to: hashes.fit_to,
    };
    let compared = match copy {
        Some(copy) => compare_copy(copy, key, &known)?,
        None => 0,
    };
    if checkpoints == 0 {
        return Err(AuditError::Unsigned {
            path: dir.display().to_string(),
        });
    }
    Ok(Report {
        key: key.name().to_owned(),
        first,
        size: known.size,
        covered,
        checkpoints,
        compared,
        unfinished: reader.unfinished(),
    })
}

fn nothing_is_missing_at_the_end(beyond: Option<&Signed>, found: u64) -> Result<(), AuditError> {
    match beyond {
        None => Ok(()),
        Some((checkpoint, place)) => Err(AuditError::Truncated {
            place: place.to_string(),
            signed: checkpoint.size,
            found,
        }),
    }
}

/// Records may be gone only where a later one says that they were removed.
fn nothing_is_missing_before(first: u64, pruned_to: u64, dir: &Path) -> Result<(), AuditError> {
    if first <= pruned_to {
        return Ok(());
    }
    Err(AuditError::Missing {
        path: dir.display().to_string(),
        first: pruned_to,
        last: first - 1,
    })
}

fn open_tree(folder: &Folder) -> Result<Tree, AuditError> {
    let path = folder.tree();
    Tree::open(&path).map_err(|error| match error {
        AuditError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            AuditError::gone(&path)
        }
        error => error,
    })
}

/// No segment is there that no record led to.
fn nobody_began(folder: &Folder, surplus: Option<u64>, size: u64) -> Result<(), AuditError> {
    match surplus {
        None => Ok(()),
        Some(first) if first > size => Err(AuditError::Missing {
            path: folder.path().display().to_string(),
            first: size,
            last: first - 1,
        }),
        Some(first) => Err(AuditError::Damaged {
            path: folder.segment(first).display().to_string(),
            seq: first,
            reason: "it stands in another segment".to_owned(),
        }),
    }
}

/// The record up to which the log says that it was pruned.
fn pruned(line: &[u8]) -> u64 {
    let is_pruned = |head: &Head<'_>| head.kind == Kind::Pruned.as_str();
    if !Head::parse(line).as_ref().is_ok_and(is_pruned) {
        return 0;
    }
    let record = AuditRecord::parse(line).ok();
    let first = record.and_then(|record| record.event.context.get("first_kept")?.parse().ok());
    first.unwrap_or(0)
}

fn same_root((checkpoint, place): &Signed, frontier: &Frontier) -> Result<(), AuditError> {
    match checkpoint.root == frontier.root() {
        true => Ok(()),
        false => Err(AuditError::Rewritten {
            place: place.to_string(),
            size: checkpoint.size,
        }),
    }
}

/// Checkpoints over records that are no longer kept have to be beginnings of
/// the tree whose root was just found to be the signed one.
fn compare_older<'s>(
    tree: &Tree,
    older: impl Iterator<Item = &'s Signed>,
    (covered, first): (u64, u64),
) -> Result<(), AuditError> {
    let size = covered.max(first);
    let io = |error| AuditError::io("read", tree.path())(error);
    let root = merkle::root(tree, size).map_err(io)?;
    for (checkpoint, place) in older.filter(|(it, _)| it.size > 0) {
        let proof = merkle::consistency(tree, checkpoint.size, size).map_err(io)?;
        let (old, new) = ((checkpoint.size, &checkpoint.root), (size, &root));
        if !merkle::verify_consistency(old, new, &proof) {
            return Err(AuditError::Rewritten {
                place: place.to_string(),
                size: checkpoint.size,
            });
        }
    }
    Ok(())
}

/// The checkpoints beside the records. One that a crash cut off is passed
/// over; one with a wrong signature is not.
fn own_checkpoints(folder: &Folder, key: &VerifierKey) -> Result<Vec<Signed>, AuditError> {
    let mut found = Vec::new();
    for first in folder.signed_segments()? {
        let bytes = folder.read_checkpoints(first, OWN_BYTES_MAX)?;
        let place = folder.checkpoints(first).display().to_string();
        found.extend(opened(&bytes, key, &place)?);
    }
    Ok(found)
}

/// A copy as it is now. What is no file with a length is read to its end.
fn open_copy(path: &Path) -> Result<impl Read + use<>, AuditError> {
    let open = || {
        let file = files::open(path, false)?;
        let metadata = file.metadata()?;
        let most = match metadata.is_file() {
            true => metadata.len(),
            false => u64::MAX,
        };
        Ok(file.take(most))
    };
    open().map_err(AuditError::io("read", path))
}

/// How much of a log was found to fit.
struct Known<'t> {
    tree: &'t Tree,
    /// The first record that is kept.
    first: u64,
    /// How many records the log's own checkpoints cover.
    covered: u64,
    /// How many records it has.
    size: u64,
    /// Up to how many of them the hashes fit.
    fit_to: u64,
}

impl Known<'_> {
    /// Compares a checkpoint from elsewhere.
    fn compare(&self, signed: &Signed) -> Result<(), AuditError> {
        let (checkpoint, place) = signed;
        if checkpoint.size > self.size {
            return Err(AuditError::Truncated {
                place: place.to_string(),
                signed: checkpoint.size,
                found: self.size,
            });
        }
        if checkpoint.size <= self.first {
            let one = std::iter::once(signed);
            return compare_older(self.tree, one, (self.covered, self.first));
        }
        let edge = Frontier::read(self.tree, checkpoint.size);
        same_root(
            signed,
            &edge.map_err(AuditError::io("read", self.tree.path()))?,
        )?;
        match checkpoint.size <= self.fit_to {
            true => Ok(()),
            false => Err(tree_differs(self.tree, self.fit_to)),
        }
    }
}

/// Compares every checkpoint of a copy, of which there has to be at least one.
/// However large the copy is, little of it is in memory at once.
fn compare_copy(
    (path, copy): (&Path, impl Read),
    key: &VerifierKey,
    known: &Known<'_>,
) -> Result<u64, AuditError> {
    let place = path.display().to_string();
    let mut compared = 0;
    let compare = |signed: Signed| {
        compared += 1;
        known.compare(&signed)
    };
    let is_signed = each_checkpoint(copy, key, path, compare)?;
    match (compared, is_signed) {
        (1.., _) => Ok(compared),
        (0, true) => Err(AuditError::NotSigned {
            place,
            key: key.name().to_owned(),
        }),
        (0, false) => Err(AuditError::Malformed {
            place,
            what: "file of checkpoints",
            reason: "nothing in it is signed",
        }),
    }
}

/// Calls `act` with every checkpoint of `key` in what is read. Returns whether
/// anything in it was signed by anybody.
fn each_checkpoint(
    mut copy: impl Read,
    key: &VerifierKey,
    path: &Path,
    mut act: impl FnMut(Signed) -> Result<(), AuditError>,
) -> Result<bool, AuditError> {
    let place = path.display().to_string();
    let mut piece = Vec::new();
    let mut is_signed = false;
    loop {
        let known = piece.len();
        let read = (&mut copy).take(COPY_PIECE as u64).read_to_end(&mut piece);
        let is_end = read.map_err(AuditError::io("read", path))? == 0;
        // A line of a signature may begin in what was read before.
        is_signed |= has_dash(&piece[known.saturating_sub(note::DASH.len())..]);
        let whole = match is_end {
            true => piece.len(),
            false => note::whole(&piece, key.name()),
        };
        for signed in opened(&piece[..whole], key, &place)? {
            act(signed)?;
        }
        piece.drain(..whole);
        if is_end {
            return Ok(is_signed);
        }
    }
}

/// Whether there is what signature lines begin with.
fn has_dash(bytes: &[u8]) -> bool {
    let dash = note::DASH.as_bytes();
    bytes.windows(dash.len()).any(|it| it == dash)
}

fn tree_differs(tree: &Tree, seq: u64) -> AuditError {
    AuditError::Tree {
        path: tree.path().display().to_string(),
        seq,
    }
}

fn opened(bytes: &[u8], key: &VerifierKey, place: &str) -> Result<Vec<Signed>, AuditError> {
    let mut found = Vec::new();
    let of_all: Arc<str> = place.into();
    for note in note::notes(bytes, key.name()) {
        match key.open(note, place) {
            Ok(checkpoint) => found.push((checkpoint, Arc::clone(&of_all))),
            Err(AuditError::Malformed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The hashes on disk, one after the other. Up to `covered` records a checkpoint
/// says that they are there; those behind may be left of a crash, and are made
/// again by the next writer.
struct Hashes<'t> {
    tree: &'t Tree,
    piece: Vec<u8>,
    at: usize,
    next: u64,
    end: u64,
    covered: u64,
    /// For how many records they fit.
    fit_to: u64,
}

impl<'t> Hashes<'t> {
    fn new(tree: &'t Tree, start: u64, covered: u64) -> Result<Self, AuditError> {
        let found = tree.len()?;
        if found < nodes_of(covered) {
            return Err(tree_differs(tree, found / 2));
        }
        Ok(Self {
            tree,
            piece: Vec::new(),
            at: 0,
            next: start,
            end: found,
            covered,
            fit_to: u64::MAX,
        })
    }

    /// Adds a record to the tree, and compares what that completes.
    fn follow(&mut self, frontier: &mut Frontier, line: &[u8]) -> Result<(), AuditError> {
        let seq = frontier.size();
        let mut fits = Ok(());
        frontier.push(leaf(line), |hash| {
            if fits.is_ok() {
                fits = self.compare(hash, seq);
            }
        });
        fits
    }

    fn compare(&mut self, hash: &merkle::Hash, seq: u64) -> Result<(), AuditError> {
        if self.fit_to < u64::MAX {
            return Ok(());
        }
        if self.at == self.piece.len() {
            let many = usize::try_from(self.end.saturating_sub(self.next).min(PIECE));
            let many = many.unwrap_or_default();
            if many == 0 {
                self.fit_to = seq;
                return Ok(());
            }
            let piece = self.tree.read(self.next, many);
            self.piece = piece.map_err(AuditError::io("read", self.tree.path()))?;
            (self.at, self.next) = (0, self.next + many as u64);
        }
        let stored = &self.piece[self.at..self.at + hash.len()];
        self.at += hash.len();
        match (stored == hash, seq < self.covered) {
            (true, _) => Ok(()),
            (false, true) => Err(tree_differs(self.tree, seq)),
            (false, false) => {
                self.fit_to = seq;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::note::{NOTE_BYTES_MAX, Signer, separated},
        key::SecretKey,
    };

    /// Gives a few bytes at a time, so that every note is cut somewhere.
    struct Slowly<'b>(&'b [u8]);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let many = self.0.len().min(buffer.len()).min(7_001);
            buffer[..many].copy_from_slice(&self.0[..many]);
            self.0 = &self.0[many..];
            Ok(many)
        }
    }

    /// Every checkpoint of a copy counts, the newest above all, wherever pieces
    /// end and whatever stands in between.
    #[test]
    fn no_checkpoint_of_a_copy_is_passed_over() {
        let signer = Signer::new(SecretKey::from_seed(&[7; 32], "audit").unwrap());
        let mut bytes = vec![b'#'; 3 * COPY_PIECE];
        for size in 0..5_000 {
            bytes.extend(separated(&signer.sign(size, [1; 32])).as_bytes());
            if size % 1_000 == 7 {
                bytes.extend(signer.verifier().name().as_bytes());
                bytes.extend(vec![b'\n'; 2 * NOTE_BYTES_MAX]);
            }
        }
        assert!(bytes.len() > 5 * COPY_PIECE);
        let mut sizes = Vec::new();
        let keep = |(checkpoint, _): Signed| {
            sizes.push(checkpoint.size);
            Ok(())
        };
        let place = Path::new("copy");
        let is_signed = each_checkpoint(Slowly(&bytes), signer.verifier(), place, keep).unwrap();
        assert!(is_signed);
        assert_eq!(sizes, (0..5_000).collect::<Vec<_>>());
    }
}
