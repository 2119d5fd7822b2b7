//! A root on its way to the hosts: a proposal, or one that some have signed.

use jiff::Timestamp;

use super::{
    Delegation, NextRoot, RootDocument, TrustError, TrustRoot,
    root_file::{ROOT_TYPE, parse_envelope},
};
use crate::{
    digest::Digest,
    dsse::{ENVELOPE_SIZE_MAX, Envelope, SIGNATURES_MAX},
    key::{KeyId, PublicKey, SecretKey},
};

/// A root that this host does not follow, or not yet: a proposal as
/// [`NextRoot::to_text`] writes it, or an envelope with some signatures.
#[derive(Clone, Debug)]
pub struct RootFile {
    document: RootDocument,
    envelope: Option<Envelope>,
}

impl RootFile {
    /// Reads a proposal or a signed root. Reading trusts nobody: signatures
    /// are only counted, by [`Self::signed_by`].
    ///
    /// # Errors
    ///
    /// [`TrustError::BadFile`], [`TrustError::NotARoot`],
    /// [`TrustError::BadKey`] or [`TrustError::BadRootRole`].
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        if bytes.len() > ENVELOPE_SIZE_MAX {
            let reason = format!("more than {ENVELOPE_SIZE_MAX} bytes");
            return Err(TrustError::BadFile(reason));
        }
        let envelope = match RootDocument::parse(bytes) {
            Ok(document) => {
                let envelope = None;
                return Ok(Self { document, envelope });
            }
            // What is not an envelope either is told of as what it is most like.
            Err(fault) => match serde_json::from_slice::<serde_json::Value>(bytes) {
                Ok(value) if value.get("roles").is_some() => return Err(fault.into()),
                _ => parse_envelope(bytes)?,
            },
        };
        Ok(Self {
            document: RootDocument::parse(envelope.unverified_payload())?,
            envelope: Some(envelope),
        })
    }

    /// The version it will be.
    pub fn version(&self) -> u64 {
        self.document.version
    }

    /// Until when it may be relied upon for new installations.
    pub fn expires(&self) -> Option<Timestamp> {
        self.document.expires
    }

    /// The keys that sign roots from this version on.
    pub fn root_keys(&self) -> &[PublicKey] {
        &self.document.root_keys
    }

    /// How many of them have to sign.
    pub fn root_threshold(&self) -> u32 {
        self.document.root_threshold
    }

    /// Every release key and what it may sign.
    pub fn delegations(&self) -> &[Delegation] {
        &self.document.release
    }

    /// Identifies the content, whoever signed it.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload())
    }

    /// Those of `keys` whose signatures hold, each once.
    pub fn signed_by<'k>(&self, keys: &'k [PublicKey]) -> Vec<&'k PublicKey> {
        let signed = self
            .envelope
            .as_ref()
            .and_then(|envelope| envelope.verified_by(ROOT_TYPE, keys));
        signed.map_or_else(Vec::new, |(_, signers)| signers)
    }

    /// What it changes of `root`, one line each.
    pub fn changes_from(&self, root: &TrustRoot) -> Vec<String> {
        root.document.changes(&self.document)
    }

    /// Goes on editing a proposal that nobody has signed.
    ///
    /// # Errors
    ///
    /// [`TrustError::BadUpdate`] when somebody has, or when it does not follow
    /// `root`.
    pub fn into_next(self, root: &TrustRoot) -> Result<NextRoot, TrustError> {
        if self.envelope.is_some() {
            let reason = "it is signed, and a change would make the signatures void";
            return Err(TrustError::BadUpdate(reason.to_owned()));
        }
        let wanted = root.version().saturating_add(1);
        if self.version() != wanted {
            let found = self.version();
            let reason = format!("it is version {found}, and version {wanted} is the next");
            return Err(TrustError::BadUpdate(reason));
        }
        let mut document = self.document;
        document.version = root.version();
        Ok(NextRoot::from_document(&document))
    }

    /// Adds a signature; one that is there already is not added again.
    ///
    /// # Errors
    ///
    /// [`TrustError::NotARootKey`] for a key that is among the root keys
    /// neither of this version nor of `before`, [`TrustError::BadFile`] when no
    /// more signatures fit in.
    pub fn sign(&mut self, key: &SecretKey, before: Option<&TrustRoot>) -> Result<(), TrustError> {
        let public = key.public();
        let is_it = |known: &PublicKey| known.id() == public.id();
        let of_old = before.is_some_and(|root| root.root_keys().iter().any(is_it));
        if !of_old && !self.document.root_keys.iter().any(is_it) {
            return Err(TrustError::NotARootKey {
                key: public.name().to_owned(),
                version: self.version(),
            });
        }
        if !self.signed_by(std::slice::from_ref(public)).is_empty() {
            return Ok(());
        }
        match &mut self.envelope {
            Some(envelope) => envelope.countersign(key).map_err(|_| {
                let reason = format!("it has {SIGNATURES_MAX} signatures, and more do not fit in");
                TrustError::BadFile(reason)
            })?,
            None => {
                let payload = self.document.payload();
                self.envelope = Some(Envelope::sign(ROOT_TYPE, payload, &[key]));
            }
        }
        Ok(())
    }

    /// The identities that signatures name; they prove nothing.
    pub fn claimed_signers(&self) -> Vec<KeyId> {
        let envelope = self.envelope.iter();
        envelope.flat_map(Envelope::claimed_keys).collect()
    }

    /// What [`Self::parse`] reads.
    pub fn to_json(&self) -> String {
        match &self.envelope {
            Some(envelope) => envelope.to_json(),
            None => self.document.to_text(),
        }
    }

    fn payload(&self) -> Vec<u8> {
        match &self.envelope {
            Some(envelope) => envelope.unverified_payload().to_vec(),
            None => self.document.payload(),
        }
    }
}

impl RootDocument {
    /// What would change with another root, one line each.
    pub(super) fn changes(&self, to: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let or_never = |end: Option<Timestamp>| end.map_or("never".to_owned(), |it| it.to_string());
        if self.expires != to.expires {
            let (before, after) = (or_never(self.expires), or_never(to.expires));
            lines.push(format!("expires {before} → {after}"));
        }
        let is_in = |keys: &[PublicKey], key: &PublicKey| keys.iter().any(|it| it.id() == key.id());
        for key in to.root_keys.iter().filter(|it| !is_in(&self.root_keys, it)) {
            lines.push(format!("+ root key {} {}", key.name(), key.id()));
        }
        for key in self.root_keys.iter().filter(|it| !is_in(&to.root_keys, it)) {
            lines.push(format!("- root key {} {}", key.name(), key.id()));
        }
        if self.root_threshold != to.root_threshold {
            let (before, after) = (self.root_threshold, to.root_threshold);
            lines.push(format!("root threshold {before} → {after}"));
        }
        self.release_changes(to, &mut lines);
        for (digest, reason) in &to.revoked_digests {
            if !self.revoked_digests.contains_key(digest) {
                lines.push(format!("+ revoked sha256:{digest}: {reason}"));
            }
        }
        for digest in self.revoked_digests.keys() {
            if !to.revoked_digests.contains_key(digest) {
                lines.push(format!("- revoked sha256:{digest}"));
            }
        }
        for digest in to.allowed_digests.difference(&self.allowed_digests) {
            lines.push(format!("+ allowed sha256:{digest}"));
        }
        for digest in self.allowed_digests.difference(&to.allowed_digests) {
            lines.push(format!("- allowed sha256:{digest}"));
        }
        lines
    }

    fn release_changes(&self, to: &Self, lines: &mut Vec<String>) {
        let of = |document: &Self, key: &PublicKey| {
            let mut release = document.release.iter();
            release.find(|it| it.key.id() == key.id()).cloned()
        };
        for after in &to.release {
            let (name, id) = (after.key.name(), after.key.id());
            match of(self, &after.key) {
                None => {
                    let names: Vec<_> = after.names.iter().map(ToString::to_string).collect();
                    let (names, level) = (names.join(", "), after.trust_level);
                    let threshold = after.threshold;
                    lines.push(format!(
                        "+ key {name} {id}: level {level}, threshold {threshold}, {names}"
                    ));
                }
                Some(before) => {
                    let changes = before.changes(after);
                    lines.extend(changes.iter().map(|it| format!("  key {name}: {it}")));
                }
            }
        }
        for before in &self.release {
            if of(to, &before.key).is_none() {
                lines.push(format!("- key {} {}", before.key.name(), before.key.id()));
            }
        }
    }
}
