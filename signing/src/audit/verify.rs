//! Believing a log: every record, every hash and every checkpoint fit.

use std::{io::Read as _, path::Path, sync::Arc};

use super::{
    error::AuditError,
    files::{self, Folder},
    merkle::{self, Frontier, leaf, nodes_of},
    note::{self, Checkpoint, VerifierKey},
    read::AuditReader,
    record::{AuditRecord, Head, Kind},
    tree::Tree,
};

/// The largest file of checkpoints that are compared with.
const COPY_BYTES_MAX: u64 = 1 << 30;
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
    let mut signed = own_checkpoints(&folder, key)?;
    let checkpoints = signed.len() as u64;
    let covered = signed.iter().map(|(it, _)| it.size).max().unwrap_or(0);
    let copies = match from {
        Some(path) => copied_checkpoints(path, key)?,
        None => Vec::new(),
    };
    let compared = copies.len() as u64;
    signed.extend(copies);
    signed.sort_by_key(|(checkpoint, _)| checkpoint.size);

    let mut reader = AuditReader::open(dir, 0)?;
    let first = reader.first_kept();
    let tree = Tree::open(&folder.tree())?;
    let mut hashes = Hashes::new(&tree, nodes_of(first), nodes_of(covered))?;
    let mut frontier = Frontier::read(&tree, first).map_err(AuditError::io("read", tree.path()))?;
    // Of records that are gone, only the hashes can be compared; that is done
    // when the root over them and what follows is known to be the signed one.
    let begins = signed.partition_point(|(checkpoint, _)| checkpoint.size <= first);
    let (older, rest) = signed.split_at(begins);
    let mut rest = rest.iter().peekable();
    let mut pruned_to = 0;
    while let Some(line) = reader.next_line()? {
        pruned_to = pruned_to.max(pruned(&line));
        let seq = frontier.size();
        let mut fits = Ok(());
        frontier.push(leaf(&line), |hash| {
            if fits.is_ok() {
                fits = hashes.compare(hash, seq);
            }
        });
        fits?;
        while let Some(signed) = rest.next_if(|(it, _)| it.size == frontier.size()) {
            same_root(signed, &frontier)?;
        }
    }
    if let Some((checkpoint, place)) = rest.next() {
        return Err(AuditError::Truncated {
            place: place.to_string(),
            signed: checkpoint.size,
            found: frontier.size(),
        });
    }
    if first > pruned_to {
        return Err(AuditError::Missing {
            path: dir.display().to_string(),
            first: pruned_to,
            last: first - 1,
        });
    }
    compare_older(&tree, older, (covered, first))?;
    Ok(Report {
        key: key.name().to_owned(),
        first,
        size: frontier.size(),
        covered,
        checkpoints,
        compared,
        unfinished: reader.unfinished(),
    })
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
fn compare_older(
    tree: &Tree,
    older: &[Signed],
    (covered, first): (u64, u64),
) -> Result<(), AuditError> {
    let size = covered.max(first);
    let io = |error| AuditError::io("read", tree.path())(error);
    let root = merkle::root(tree, size).map_err(io)?;
    for (checkpoint, place) in older.iter().filter(|(it, _)| it.size > 0) {
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
    for first in folder.segments()? {
        let bytes = folder.read_checkpoints(first, OWN_BYTES_MAX)?;
        let place = folder.checkpoints(first).display().to_string();
        found.extend(opened(&bytes, key, &place)?);
    }
    Ok(found)
}

/// The checkpoints of a copy, of which there has to be at least one.
fn copied_checkpoints(path: &Path, key: &VerifierKey) -> Result<Vec<Signed>, AuditError> {
    let mut bytes = Vec::new();
    let file = files::open(path, false);
    file.and_then(|file| file.take(COPY_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(AuditError::io("read", path))?;
    let place = path.display().to_string();
    let found = opened(&bytes, key, &place)?;
    if found.is_empty() {
        // Any signature line is that of another key.
        let is_signed = bytes
            .windows(note::DASH.len())
            .any(|it| it == note::DASH.as_bytes());
        return Err(match is_signed {
            true => AuditError::NotSigned {
                place,
                key: key.name().to_owned(),
            },
            false => AuditError::Malformed {
                place,
                what: "file of checkpoints",
                reason: "nothing in it is signed",
            },
        });
    }
    Ok(found)
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

/// The hashes on disk, one after the other, up to where a checkpoint says that
/// they are there.
struct Hashes<'t> {
    tree: &'t Tree,
    piece: Vec<u8>,
    at: usize,
    next: u64,
    end: u64,
}

impl<'t> Hashes<'t> {
    fn new(tree: &'t Tree, start: u64, end: u64) -> Result<Self, AuditError> {
        let found = tree.len()?;
        if found < end {
            return Err(AuditError::Tree {
                path: tree.path().display().to_string(),
                seq: found / 2,
            });
        }
        Ok(Self {
            tree,
            piece: Vec::new(),
            at: 0,
            next: start,
            end,
        })
    }

    fn compare(&mut self, hash: &merkle::Hash, seq: u64) -> Result<(), AuditError> {
        if self.at == self.piece.len() {
            let many = usize::try_from(self.end.saturating_sub(self.next).min(PIECE));
            let many = many.unwrap_or_default();
            if many == 0 {
                return Ok(());
            }
            let piece = self.tree.read(self.next, many);
            self.piece = piece.map_err(AuditError::io("read", self.tree.path()))?;
            (self.at, self.next) = (0, self.next + many as u64);
        }
        let stored = &self.piece[self.at..self.at + hash.len()];
        self.at += hash.len();
        match stored == hash {
            true => Ok(()),
            false => Err(AuditError::Tree {
                path: self.tree.path().display().to_string(),
                seq,
            }),
        }
    }
}
