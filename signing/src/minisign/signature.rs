//! Detached signatures of minisign: one over the hash of a file, and one over
//! that signature and a comment.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use blake2::{Blake2b512, Digest as _};

use super::{
    ALGORITHM, ID_LEN, MinisignError, MinisignId, UNTRUSTED, array, lines, parts, untrusted,
};
use crate::key::{PublicKey, SIGNATURE_LEN, SecretKey};

/// The algorithm of signatures over a hash.
const PREHASHED: &[u8; 2] = b"ED";
const TRUSTED: &str = "trusted comment: ";
/// What minisign itself reads.
const COMMENT_MAX: usize = 8_192;

/// A detached signature of minisign, as yet unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MinisignSignature {
    key_id: MinisignId,
    signature: [u8; SIGNATURE_LEN],
    comment: String,
    global: [u8; SIGNATURE_LEN],
}

impl MinisignSignature {
    /// What the first of the two signatures is over.
    pub fn message(file: &[u8]) -> [u8; 64] {
        Blake2b512::digest(file).into()
    }

    /// What the second of them is over.
    pub fn comment_message(signature: &[u8; SIGNATURE_LEN], comment: &str) -> Vec<u8> {
        [&signature[..], comment.as_bytes()].concat()
    }

    /// Signs `file` and `comment`.
    ///
    /// # Errors
    ///
    /// [`MinisignError::Format`] for a comment that is no line of text.
    pub fn sign(key: &SecretKey, file: &[u8], comment: &str) -> Result<Self, MinisignError> {
        let signature = key.sign(&Self::message(file));
        let global = key.sign(&Self::comment_message(&signature, comment));
        Self::assemble(key.public(), file, signature, comment, global)
    }

    /// The signature of `file` that consists of these two signatures, which may
    /// have been made elsewhere.
    ///
    /// # Errors
    ///
    /// As [`Self::verify`], and [`MinisignError::Format`] for a comment that is no
    /// line of text.
    pub fn assemble(
        key: &PublicKey,
        file: &[u8],
        signature: [u8; SIGNATURE_LEN],
        comment: &str,
        global: [u8; SIGNATURE_LEN],
    ) -> Result<Self, MinisignError> {
        check_comment(comment)?;
        let made = Self {
            key_id: key.minisign_id(),
            signature,
            comment: comment.to_owned(),
            global,
        };
        made.verify(key, file)?;
        Ok(made)
    }

    /// Reads a signature file of minisign.
    ///
    /// # Errors
    ///
    /// [`MinisignError::Format`] for anything else, [`MinisignError::Legacy`] for a
    /// signature over the file itself.
    pub fn parse(text: &str) -> Result<Self, MinisignError> {
        let [first, signature, comment, global] = lines(text)?;
        untrusted(first)?;
        let comment = comment.strip_prefix(TRUSTED);
        let comment = comment.ok_or(MinisignError::Format("no trusted comment"))?;
        check_comment(comment)?;
        let [algorithm, id, signature] = parts(signature, [2, ID_LEN, SIGNATURE_LEN])?;
        if *algorithm == ALGORITHM {
            return Err(MinisignError::Legacy);
        }
        if *algorithm != PREHASHED {
            return Err(MinisignError::Format("an unknown algorithm"));
        }
        let [global] = parts(global, [SIGNATURE_LEN])?;
        Ok(Self {
            key_id: MinisignId(array(&id)?),
            signature: array(&signature)?,
            comment: comment.to_owned(),
            global: array(&global)?,
        })
    }

    /// Writes what [`Self::parse`] and minisign read.
    pub fn to_text(&self) -> String {
        let signature = [&PREHASHED[..], &self.key_id.0, &self.signature].concat();
        format!(
            "{UNTRUSTED}signature from the key {}\n{}\n{TRUSTED}{}\n{}\n",
            self.key_id,
            BASE64.encode(signature),
            self.comment,
            BASE64.encode(self.global)
        )
    }

    /// Checks both signatures.
    ///
    /// # Errors
    ///
    /// Which of the two is wrong, or that another key is named.
    pub fn verify(&self, key: &PublicKey, file: &[u8]) -> Result<(), MinisignError> {
        let id = key.minisign_id();
        if self.key_id != id {
            return Err(MinisignError::OtherKey {
                wanted: id,
                found: self.key_id,
            });
        }
        self.verify_any(&[key], file)
    }

    /// Checks both signatures with those of `keys` that made them, whatever number
    /// minisign has for them.
    pub(crate) fn verify_any(&self, keys: &[&PublicKey], file: &[u8]) -> Result<(), MinisignError> {
        let key = self.key_id;
        let message = Self::message(file);
        let signer = keys
            .iter()
            .find(|it| it.verifies(&message, &self.signature));
        let signer = signer.ok_or(MinisignError::BadSignature { key })?;
        let comment = Self::comment_message(&self.signature, &self.comment);
        match signer.verifies(&comment, &self.global) {
            true => Ok(()),
            false => Err(MinisignError::BadComment { key }),
        }
    }

    /// The key it names; proves nothing.
    pub fn key_id(&self) -> MinisignId {
        self.key_id
    }

    /// The comment that is signed too.
    pub fn trusted_comment(&self) -> &str {
        &self.comment
    }
}

/// The comment that minisign makes by itself has tabs in it.
fn check_comment(comment: &str) -> Result<(), MinisignError> {
    let is_no_text = |c: char| c.is_control() && c != '\t';
    match comment.len() > COMMENT_MAX || comment.chars().any(is_no_text) {
        true => Err(MinisignError::Format("a comment that is no line of text")),
        false => Ok(()),
    }
}
