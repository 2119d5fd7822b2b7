//! One record's proof as a file of its own (`c2sp.org/tlog-proof@v1`): whoever
//! has the log's verifier key checks it without the log.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{
    error::AuditError,
    merkle::{self, Hash},
    note::{Checkpoint, NOTE_BYTES_MAX, VerifierKey, decimal, hash},
};

const MAGIC: &str = "c2sp.org/tlog-proof@v1";
/// A tree of 2⁶⁴ leaves is that high.
const HASHES_MAX: usize = 64;

/// That a record is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The record's number.
    pub seq: u64,
    /// From the hash next to the record's to that next to the root.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint that the hashes lead to.
    pub checkpoint: String,
}

impl Proof {
    /// The file.
    pub fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}\nindex {}\n", self.seq);
        for hash in &self.hashes {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", BASE64.encode(hash));
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Reads the file. Proves nothing yet.
    ///
    /// # Errors
    ///
    /// [`AuditError::Malformed`] for anything else.
    pub fn parse(text: &str) -> Result<Self, AuditError> {
        Self::read(text).map_err(|reason| AuditError::Malformed {
            place: "the proof".to_owned(),
            what: "proof",
            reason,
        })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or("it has no checkpoint")?;
        if checkpoint.len() > NOTE_BYTES_MAX {
            return Err("its checkpoint is too large");
        }
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(MAGIC) {
            return Err("its first line is another");
        }
        // Additional data is of no use here, and allowed.
        lines.next_if(|line| line.starts_with("extra "));
        let seq = lines.next().and_then(|line| line.strip_prefix("index "));
        let seq = seq.and_then(decimal).ok_or("it names no record")?;
        let mut hashes = Vec::new();
        for line in lines {
            if hashes.len() == HASHES_MAX {
                return Err("it has too many hashes");
            }
            hashes.push(hash(line).ok_or("a hash is malformed")?);
        }
        Ok(Self {
            seq,
            hashes,
            checkpoint: checkpoint.to_owned(),
        })
    }

    /// Checks that `line`, a record without its line end, is in the log that
    /// `key` signs. Returns the checkpoint that says so.
    ///
    /// # Errors
    ///
    /// Those of [`VerifierKey::open`], and [`AuditError::NotProved`].
    pub fn verify(&self, line: &[u8], key: &VerifierKey) -> Result<Checkpoint, AuditError> {
        let checkpoint = key.open(self.checkpoint.as_bytes(), "the proof's checkpoint")?;
        let leaf = merkle::leaf(line);
        let (size, root) = (checkpoint.size, &checkpoint.root);
        match merkle::verify_inclusion(&leaf, self.seq, &self.hashes, size, root) {
            true => Ok(checkpoint),
            false => Err(AuditError::NotProved),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{audit::note::Signer, key::SecretKey};

    const LINE: &[u8] = br#"{"seq":2}"#;

    fn proved() -> (Signer, Proof) {
        let signer = Signer::new(SecretKey::from_seed(&[5; 32], "audit").unwrap());
        let mut frontier = merkle::Frontier::default();
        let mut nodes = Vec::new();
        for line in [b"a", b"b", LINE, b"d", b"e"] as [&[u8]; 5] {
            frontier.push(merkle::leaf(line), |hash| nodes.push(*hash));
        }
        let proof = Proof {
            seq: 2,
            hashes: merkle::inclusion(nodes.as_slice(), 2, 5).unwrap(),
            checkpoint: signer.sign(5, frontier.root()),
        };
        (signer, proof)
    }

    #[test]
    fn a_proof_survives_being_written_and_proves_one_line() {
        let (signer, proof) = proved();
        let read = Proof::parse(&proof.to_text()).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.verify(LINE, signer.verifier()).unwrap().size, 5);
        let other = read.verify(br#"{"seq":3}"#, signer.verifier());
        assert!(matches!(other, Err(AuditError::NotProved)));
        let extra = proof
            .to_text()
            .replacen("\nindex", "\nextra AAAA\nindex", 1);
        assert_eq!(Proof::parse(&extra).unwrap(), proof);
    }

    proptest! {
        /// No edit of a proof makes it prove another line or number.
        #[test]
        fn no_edit_proves_anything_else(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0..3_u8), 1..5),
        ) {
            let (signer, proof) = proved();
            let mut text: Vec<char> = proof.to_text().chars().collect();
            for (at, with, how) in edits {
                let at = at.index(text.len() + 1);
                match how {
                    0 => text.insert(at, with),
                    1 if at < text.len() => text[at] = with,
                    _ => text.truncate(at),
                }
            }
            let text: String = text.into_iter().collect();
            if let Ok(read) = Proof::parse(&text) {
                prop_assert!(read.verify(b"other", signer.verifier()).is_err());
                if read.verify(LINE, signer.verifier()).is_ok() {
                    prop_assert_eq!(read.seq, 2);
                }
            }
        }
    }
}
