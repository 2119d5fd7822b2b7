//! Signed checkpoints: how large the tree was, and its root, under the log's
//! key (`c2sp.org/signed-note`, `c2sp.org/tlog-checkpoint`).

use std::str;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use sha2::{Digest as _, Sha256};

use super::{error::AuditError, merkle::Hash};
use crate::key::{PublicKey, SIGNATURE_LEN, SecretKey};

/// What signature lines begin with.
pub(super) const DASH: &str = "\u{2014} ";
/// Larger notes are not looked at.
pub(super) const NOTE_BYTES_MAX: usize = 16 * 1024;
/// Signatures a note may have, those of witnesses included.
const SIGNATURES_MAX: usize = 32;
/// Marks Ed25519 in a verifier key and in what its number is made of.
const ED25519: u8 = 1;
/// What the key is called in its file.
pub(super) const KEY_NAME: &str = "audit";

/// How large the log was, and the root over its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Names the log.
    pub origin: String,
    /// How many records it covers.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    fn to_text(&self) -> String {
        let root = BASE64.encode(self.root);
        format!("{}\n{}\n{root}\n", self.origin, self.size)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let mut lines = text.split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty());
        let origin = line().ok_or("it has no origin")?.to_owned();
        let size = line()
            .and_then(decimal)
            .ok_or("its second line is no size")?;
        let root = line().and_then(hash).ok_or("its third line is no root")?;
        // Further lines are allowed and mean nothing here.
        Ok(Self { origin, size, root })
    }
}

/// A number as it is written in one way only.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

pub(super) fn hash(text: &str) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok()
}

/// The key with which a log's checkpoints are checked. Written as text (a
/// "vkey"), it is `<name>+<number>+<base64>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: PublicKey,
}

impl VerifierKey {
    pub(super) fn of(key: PublicKey) -> Self {
        let id = key.id().to_string();
        let name = format!("orchestrator.audit/{}", &id[..16]);
        Self { name, key }
    }

    /// Reads a vkey.
    ///
    /// # Errors
    ///
    /// [`AuditError::Malformed`] for anything else, a key of small order
    /// included.
    pub fn parse(text: &str) -> Result<Self, AuditError> {
        let wrong = |reason| AuditError::Malformed {
            place: "the key".to_owned(),
            what: "verifier key",
            reason,
        };
        let text = text.strip_suffix('\n').unwrap_or(text);
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(number), Some(key)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong("it is not written NAME+NUMBER+KEY"));
        };
        if !is_name(name) {
            return Err(wrong("its name is empty or has spaces"));
        }
        let bytes = BASE64.decode(key).map_err(|_| wrong("it is no base64"))?;
        let Some((&ED25519, bytes)) = bytes.split_first() else {
            return Err(wrong("it is no Ed25519 key"));
        };
        let bytes: &[u8; 32] = bytes
            .try_into()
            .map_err(|_| wrong("it is not 32 bytes long"))?;
        let key = PublicKey::from_bytes(bytes, KEY_NAME).map_err(|_| wrong("it is no safe key"))?;
        let this = Self {
            name: name.to_owned(),
            key,
        };
        match hex(&this.number()) == number {
            true => Ok(this),
            false => Err(wrong("its number belongs to another name or key")),
        }
    }

    /// The name that stands in front of its signatures, which is the log's
    /// origin too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes what [`Self::parse`] reads, without a line break.
    pub fn to_text(&self) -> String {
        let number = hex(&self.number());
        format!("{}+{number}+{}", self.name, BASE64.encode(self.marked()))
    }

    /// Checks a signed checkpoint. Signatures of others are passed over.
    ///
    /// # Errors
    ///
    /// [`AuditError::Malformed`] when it is none, [`AuditError::NotSigned`]
    /// when this key has not signed it, or it speaks of another log. `place`
    /// is named in them.
    pub fn open(&self, note: &[u8], place: &str) -> Result<Checkpoint, AuditError> {
        let wrong = |reason| AuditError::Malformed {
            place: place.to_owned(),
            what: "checkpoint",
            reason,
        };
        let note = Note::parse(note).map_err(wrong)?;
        let checkpoint = Checkpoint::parse(note.text).map_err(wrong)?;
        let number = self.number();
        let mut own = note
            .signatures
            .iter()
            .filter(|it| it.name == self.name && it.bytes[..4] == number)
            .peekable();
        // One bad signature under the right name is a forgery, whatever else is there.
        let all_hold = own.peek().is_some()
            && own.all(|it| {
                <&[u8; SIGNATURE_LEN]>::try_from(&it.bytes[4..])
                    .is_ok_and(|signature| self.key.verifies(note.text.as_bytes(), signature))
            });
        match all_hold && checkpoint.origin == self.name {
            true => Ok(checkpoint),
            false => Err(AuditError::NotSigned {
                place: place.to_owned(),
                key: self.name.clone(),
            }),
        }
    }

    fn marked(&self) -> Vec<u8> {
        let mut bytes = vec![ED25519];
        bytes.extend(BASE64.decode(self.key.to_base64()).unwrap_or_default());
        bytes
    }

    fn number(&self) -> [u8; 4] {
        let digest = Sha256::new()
            .chain_update(&self.name)
            .chain_update(b"\n")
            .chain_update(self.marked())
            .finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(|it: char| it.is_whitespace() || it.is_control() || it == '+')
}

/// Signs checkpoints.
pub(super) struct Signer {
    key: SecretKey,
    verifier: VerifierKey,
}

impl Signer {
    pub(super) fn new(key: SecretKey) -> Self {
        let verifier = VerifierKey::of(key.public().clone());
        Self { key, verifier }
    }

    pub(super) fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// The signed checkpoint as text.
    pub(super) fn sign(&self, size: u64, root: Hash) -> String {
        let origin = self.verifier.name.clone();
        let text = Checkpoint { origin, size, root }.to_text();
        let mut bytes = self.verifier.number().to_vec();
        bytes.extend(self.key.sign(text.as_bytes()));
        let name = &self.verifier.name;
        format!("{text}\n{DASH}{name} {}\n", BASE64.encode(bytes))
    }
}

/// A text and who signed it; nothing of it is checked.
struct Note<'n> {
    text: &'n str,
    signatures: Vec<Line<'n>>,
}

struct Line<'n> {
    name: &'n str,
    /// The key's number and the signature.
    bytes: Vec<u8>,
}

impl<'n> Note<'n> {
    fn parse(bytes: &'n [u8]) -> Result<Self, &'static str> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err("it is too large");
        }
        let note = str::from_utf8(bytes).map_err(|_| "it is no UTF-8")?;
        if note.contains(|it: char| it.is_control() && it != '\n') {
            return Err("it has control characters");
        }
        let end = note.rfind("\n\n").ok_or("it has no signatures")?;
        let (text, signed) = (&note[..=end], &note[end + 2..]);
        let signed = signed.strip_suffix('\n').ok_or("it is cut off")?;
        let mut signatures = Vec::new();
        for line in signed.split('\n') {
            let line = line.strip_prefix(DASH).ok_or("it has no signatures")?;
            let (name, signature) = line.split_once(' ').ok_or("a signature has no name")?;
            let bytes = BASE64.decode(signature).unwrap_or_default();
            if !is_name(name) || bytes.len() < 5 || signatures.len() == SIGNATURES_MAX {
                return Err("a signature is malformed");
            }
            signatures.push(Line { name, bytes });
        }
        Ok(Self { text, signatures })
    }
}

/// A note as it is appended to others: behind one that was cut off, it begins
/// on a line of its own all the same.
pub(super) fn separated(note: &str) -> String {
    format!("\n{note}")
}

/// The notes in a file that were written one after the other, each with where
/// it begins. Where one was cut off by a crash the next is found all the same.
pub(super) fn notes<'b>(bytes: &'b [u8], origin: &str) -> Vec<&'b [u8]> {
    let head = format!("{origin}\n");
    let head = head.as_bytes();
    let mut starts = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(head) {
            starts.push(at);
        }
        match bytes[at..].iter().position(|byte| *byte == b'\n') {
            Some(end) => at += end + 1,
            None => break,
        }
    }
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let pieces = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &bytes[*start..end]);
    pieces.map(trimmed).collect()
}

/// How much of the beginning of such a file holds whole notes only, where more
/// follows: up to the beginning of the last one, which may be cut off. What is
/// too long to be a note is not waited for.
pub(super) fn whole(bytes: &[u8], origin: &str) -> usize {
    let last = notes(bytes, origin).pop();
    let start = last.map(|last| last.as_ptr().addr() - bytes.as_ptr().addr());
    let line = bytes.iter().rposition(|byte| *byte == b'\n');
    let start = start.unwrap_or(line.map_or(0, |end| end + 1));
    match bytes.len() - start > NOTE_BYTES_MAX {
        true => bytes.len(),
        false => start,
    }
}

/// Without the empty lines that stand between notes.
fn trimmed(mut note: &[u8]) -> &[u8] {
    while let Some(rest) = note.strip_suffix(b"\n\n") {
        note = &note[..rest.len() + 1];
    }
    note
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer::new(SecretKey::from_seed(&[seed; 32], KEY_NAME).unwrap())
    }

    /// The example of the specification of the Go checksum database, which
    /// every implementation of signed notes reads.
    const KNOWN: (&str, &str, &str) = (
        "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "If you think cryptography is the answer to your problem,\n\
         then you don't know what your problem is.\n",
        "PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=",
    );

    #[test]
    fn a_note_of_another_implementation_is_read() {
        let (vkey, text, signature) = KNOWN;
        let key = VerifierKey::parse(vkey).unwrap();
        assert_eq!(key.to_text(), vkey);
        let note = format!("{text}\n{DASH}{signature}\n");
        let note = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(note.text, text);
        let [line] = note.signatures.as_slice() else {
            panic!("one signature");
        };
        assert_eq!(
            (line.name, &line.bytes[..4]),
            (key.name(), &key.number()[..])
        );
        let signature = line.bytes[4..].try_into().unwrap();
        assert!(key.key.verifies(text.as_bytes(), signature));
    }

    #[test]
    fn a_checkpoint_is_believed_from_its_own_key_alone() {
        let (own, other) = (signer(1), signer(2));
        let note = own.sign(7, [3; 32]);
        let read = own.verifier().open(note.as_bytes(), "here").unwrap();
        assert_eq!((read.size, read.root), (7, [3; 32]));
        let by = |key: &Signer, note: &str| key.verifier().open(note.as_bytes(), "here");
        assert!(matches!(
            by(&other, &note),
            Err(AuditError::NotSigned { .. })
        ));
        let changed = note.replacen("\n7\n", "\n8\n", 1);
        assert!(matches!(
            by(&own, &changed),
            Err(AuditError::NotSigned { .. })
        ));
        // A witness adds a line; it changes nothing.
        let witnessed = format!("{note}{DASH}witness.example AAAAAAAA\n");
        assert_eq!(by(&own, &witnessed).unwrap(), read);
        let vkey = own.verifier().to_text();
        assert_eq!(VerifierKey::parse(&vkey).unwrap(), *own.verifier());
        let stolen = vkey.replacen("orchestrator.audit/", "orchestrator.audit/x", 1);
        assert!(VerifierKey::parse(&stolen).is_err());
    }

    #[test]
    fn notes_are_found_behind_one_that_is_cut_off() {
        let own = signer(1);
        let (first, second) = (own.sign(1, [1; 32]), own.sign(2, [2; 32]));
        let torn = separated(&first[..60]);
        let file = format!("{}{torn}{}", separated(&first), separated(&second));
        let found = notes(file.as_bytes(), own.verifier().name());
        let sizes: Vec<_> = found
            .iter()
            .map(|note| own.verifier().open(note, "file").map(|it| it.size).ok())
            .collect();
        assert_eq!(sizes, [Some(1), None, Some(2)]);
    }

    /// What a fuzzer would begin with.
    fn corpus() -> Vec<Vec<u8>> {
        let note = signer(1).sign(1_000, [9; 32]).into_bytes();
        let texts = [
            "",
            "\n",
            "\n\n",
            "a\n\n\u{2014} a",
            "a\n1\n\n\u{2014} a AAAA\n",
        ];
        let mut corpus: Vec<_> = texts.map(|it| it.as_bytes().to_vec()).into();
        corpus.push(KNOWN.0.as_bytes().to_vec());
        corpus.push(note);
        corpus
    }

    proptest! {
        /// A changed checkpoint is refused or says the same; nothing panics.
        #[test]
        fn no_change_goes_unseen(
            pick in 0..7_usize,
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..6),
        ) {
            let mut bytes = corpus().swap_remove(pick);
            for (at, byte, how) in edits {
                let at = at.index(bytes.len() + 1);
                match how {
                    0 => bytes.insert(at, byte),
                    1 if at < bytes.len() => bytes[at] = byte,
                    _ => bytes.truncate(at),
                }
            }
            let own = signer(1);
            if let Ok(read) = own.verifier().open(&bytes, "fuzz") {
                prop_assert_eq!((read.size, read.root), (1_000, [9; 32]));
            }
            let found = notes(&bytes, own.verifier().name());
            prop_assert!(found.iter().map(|note| note.len()).sum::<usize>() <= bytes.len());
            if let Ok(key) = VerifierKey::parse(&String::from_utf8_lossy(&bytes)) {
                let text = key.to_text();
                prop_assert_eq!(text.as_bytes(), bytes.strip_suffix(b"\n").unwrap_or(&bytes));
            }
        }
    }
}
