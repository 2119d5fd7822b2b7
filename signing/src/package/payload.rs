//! What a release key signs, apart from any folder: a machine that holds the key
//! needs nothing else, and can show what it is about to sign.

use std::path::Path;

use jiff::Timestamp;
use orchestrator_manifest::Channel;

use super::{
    SignError, VerifyError,
    layout::LISTING,
    shown,
    verify::{claims, parse_statement},
};
use crate::{
    digest::Digest,
    dsse::{ENVELOPE_SIZE_MAX, Envelope, EnvelopeError, pae},
    key::{PublicKey, SIGNATURE_LEN},
    statement::{PAYLOAD_TYPE, Statement},
};

/// A release to be signed.
#[derive(Clone, Debug)]
pub struct ReleasePayload {
    bytes: Vec<u8>,
    statement: Statement,
}

/// What a release is, for those who sign it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReleaseSummary {
    /// The plugin's identity.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The serial number of the release.
    pub serial: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it should no longer be installed.
    pub expires: Option<Timestamp>,
    /// Whom it is meant for.
    pub channel: Channel,
    /// What is run.
    pub entry: String,
    /// What the plugin asks for.
    pub capabilities: Vec<String>,
    /// The SHA-256 of the statement; verifying hosts call the release by it.
    pub digest: Digest,
    /// The SHA-256 of the bytes that are signed.
    pub message_digest: Digest,
    /// How many files are covered.
    pub files: usize,
    /// How many bytes they have.
    pub bytes: u64,
}

impl ReleasePayload {
    pub(super) fn new(statement: Statement) -> Self {
        let bytes = serde_json::to_vec(&statement).expect("texts and numbers always serialise");
        Self { bytes, statement }
    }

    /// Reads what was signed.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, VerifyError> {
        let statement = parse_statement(payload)?;
        claims(&statement)?;
        let payload = Self {
            bytes: payload.to_vec(),
            statement,
        };
        let listing = payload.subjects().find(|(path, _)| *path == LISTING);
        let expected = Digest::of(payload.listing().as_bytes());
        match listing.is_some_and(|(_, digest)| digest == expected) {
            true => Ok(payload),
            false => Err(VerifyError::PredicateMismatch {
                field: "META/MANIFEST",
            }),
        }
    }

    /// Reads the file that [`Self::message`] was written to: the very bytes that
    /// are signed. It may come from a machine that is trusted less than this one.
    ///
    /// # Errors
    ///
    /// [`SignError::NoPayload`] for bytes that are meant for another purpose, or
    /// are not whole; what a statement about a package cannot say.
    pub fn from_message(message: &[u8], path: &Path) -> Result<Self, SignError> {
        let fault = |reason: String| SignError::NoPayload {
            path: shown(path),
            reason,
        };
        if message.len() > ENVELOPE_SIZE_MAX {
            return Err(fault("it is too large".to_owned()));
        }
        let head = format!("DSSEv1 {} {PAYLOAD_TYPE} ", PAYLOAD_TYPE.len());
        let rest = message
            .strip_prefix(head.as_bytes())
            .ok_or_else(|| fault("it is for another purpose".to_owned()))?;
        let space = rest.iter().position(|byte| *byte == b' ');
        let payload = space.map_or(&[][..], |space| &rest[space + 1..]);
        if pae(PAYLOAD_TYPE, payload) != message {
            return Err(fault("it is cut off, or something follows it".to_owned()));
        }
        Self::parse(payload).map_err(|error| fault(error.to_string()))
    }

    /// The bytes that are signed.
    pub fn message(&self) -> Vec<u8> {
        pae(PAYLOAD_TYPE, &self.bytes)
    }

    /// The envelope with one signature, which may have been made elsewhere.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] when it is no signature of this payload by this key, or
    /// the release has too many files.
    pub fn envelope(
        &self,
        key: &PublicKey,
        signature: &[u8; SIGNATURE_LEN],
    ) -> Result<Envelope, EnvelopeError> {
        let mut envelope = Envelope::unsigned(PAYLOAD_TYPE, self.bytes.clone());
        envelope.add(key, signature)?;
        match envelope.to_json().len() > ENVELOPE_SIZE_MAX {
            true => Err(EnvelopeError::TooLarge),
            false => Ok(envelope),
        }
    }

    /// The text of `META/MANIFEST`: one line for every file but itself and the
    /// signatures, as `sha256sum --check` reads it.
    pub fn listing(&self) -> String {
        let listed = self.subjects().filter(|(path, _)| *path != LISTING);
        listed
            .map(|(path, digest)| format!("{digest}  {path}\n"))
            .collect()
    }

    /// What a signature of minisign over the listing says beside it.
    pub fn trusted_comment(&self) -> String {
        let release = &self.statement.predicate;
        format!(
            "timestamp:{} file:MANIFEST plugin:{} version:{} release:{}",
            release.created.as_second(),
            release.name,
            release.version,
            release.serial
        )
    }

    /// What it says, in short.
    pub fn summary(&self) -> ReleaseSummary {
        let release = &self.statement.predicate;
        ReleaseSummary {
            name: release.name.to_string(),
            version: release.version.clone(),
            serial: release.serial,
            created: release.created,
            expires: release.expires,
            channel: release.channel,
            entry: release.entry.path.clone(),
            capabilities: release.capabilities_requested.clone(),
            digest: Digest::of(&self.bytes),
            message_digest: Digest::of(&self.message()),
            files: release.files.len(),
            // What nobody has measured may say anything.
            bytes: release
                .files
                .iter()
                .fold(0, |bytes: u64, file| bytes.saturating_add(file.size)),
        }
    }

    pub(super) fn statement(&self) -> &Statement {
        &self.statement
    }

    pub(super) fn is_same(&self, envelope: &Envelope) -> bool {
        envelope.payload_type() == PAYLOAD_TYPE && envelope.unverified_payload() == self.bytes
    }

    fn subjects(&self) -> impl Iterator<Item = (&str, Digest)> {
        let subjects = self.statement.subject.iter();
        subjects.map(|subject| (subject.name.as_str(), subject.digest.sha256))
    }
}
