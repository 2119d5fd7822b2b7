//! The next version of a root while it is being made.

use jiff::Timestamp;

use super::{
    Delegation, KeyStatus, RootDocument, TrustError, TrustRoot,
    root_file::{RootFault, is_plain},
};
use crate::{
    digest::Digest,
    key::{KeyId, PublicKey},
};

/// The next version of a root. Nothing of it holds before enough root keys
/// have signed it.
#[derive(Clone, Debug)]
pub struct NextRoot {
    document: RootDocument,
}

impl NextRoot {
    /// The version after `root`, the same as it in everything else.
    pub fn after(root: &TrustRoot) -> Self {
        Self::from_document(&root.document)
    }

    pub(super) fn from_document(document: &RootDocument) -> Self {
        let mut document = document.clone();
        document.version = document.version.saturating_add(1);
        Self { document }
    }

    pub(super) fn document(&self) -> &RootDocument {
        &self.document
    }

    pub(super) fn into_document(self) -> RootDocument {
        self.document
    }

    /// Every key and what it may sign.
    pub fn delegations(&self) -> &[Delegation] {
        &self.document.release
    }

    /// The keys that sign roots.
    pub fn root_keys(&self) -> &[PublicKey] {
        &self.document.root_keys
    }

    /// Trusts a key; does nothing when it is trusted on these very terms.
    ///
    /// # Errors
    ///
    /// [`TrustError::OtherTerms`] when the key is trusted on other terms, which
    /// only [`Self::replace`] changes.
    pub fn add(&mut self, delegation: Delegation) -> Result<(), TrustError> {
        let known = self.known(&delegation).map(|known| &*known);
        if let Some(known) = known
            && *known != delegation
        {
            return Err(TrustError::OtherTerms {
                key: known.key.name().to_owned(),
                changes: known.changes(&delegation),
            });
        }
        self.replace(delegation)
    }

    /// Trusts a key on these terms, whatever they were before.
    ///
    /// # Errors
    ///
    /// [`TrustError::BadDelegation`] for terms under which it signs nothing.
    pub fn replace(&mut self, delegation: Delegation) -> Result<(), TrustError> {
        if delegation.names.is_empty() || delegation.threshold == 0 {
            let message = "a key without names, or with a threshold of 0, signs nothing";
            return Err(TrustError::BadDelegation(message.to_owned()));
        }
        match self.known(&delegation) {
            Some(known) => *known = delegation,
            None => self.document.release.push(delegation),
        }
        Ok(())
    }

    fn known(&mut self, delegation: &Delegation) -> Option<&mut Delegation> {
        let id = delegation.key.id();
        self.document
            .release
            .iter_mut()
            .find(|known| known.key.id() == id)
    }

    /// Forgets a key, given by its identity or name.
    ///
    /// # Errors
    ///
    /// [`TrustError::NoSuchKey`] or [`TrustError::Ambiguous`].
    pub fn remove(&mut self, key: &str) -> Result<Delegation, TrustError> {
        let position = position(self.document.release.iter().map(|it| &it.key), key)?;
        Ok(self.document.release.remove(position))
    }

    /// Retires, revokes or reinstates a key, given by its identity or name.
    ///
    /// # Errors
    ///
    /// [`TrustError::NoSuchKey`], [`TrustError::Ambiguous`],
    /// [`TrustError::BadReason`], or [`TrustError::StaysRevoked`] for a revoked key that
    /// is to retire: what it signed would load again.
    pub fn set_status(
        &mut self,
        key: &str,
        status: KeyStatus,
        reason: Option<&str>,
    ) -> Result<(), TrustError> {
        let known = self.find(key)?;
        if let Some(reason) = reason {
            check_reason(reason)?;
        }
        if (known.status, status) == (KeyStatus::Revoked, KeyStatus::Retired) {
            let what = format!("the key `{}`", known.key.name());
            let reason = known.reason.clone();
            return Err(TrustError::stays_revoked(what, reason));
        }
        known.status = status;
        known.reason = reason.map(str::to_owned);
        Ok(())
    }

    /// Has a new key sign what an old one signs. The old one goes on until
    /// `until` and then retires by itself, so there is a time in which both
    /// count; without a time it retires now.
    ///
    /// # Errors
    ///
    /// [`TrustError::NoSuchKey`] or [`TrustError::Ambiguous`] for `old`;
    /// [`TrustError::OtherTerms`] when the new key is trusted on other terms.
    pub fn rotate(
        &mut self,
        old: &str,
        new: PublicKey,
        until: Option<Timestamp>,
    ) -> Result<(), TrustError> {
        let known = self.find(old)?;
        if known.key.id() == new.id() {
            let message = "a key cannot take its own place";
            return Err(TrustError::BadDelegation(message.to_owned()));
        }
        let mut successor = known.clone();
        successor.key = new;
        successor.status = KeyStatus::Active;
        successor.not_after = None;
        successor.reason = None;
        match until {
            // An end that was settled before is not put off.
            Some(until) => {
                let sooner = known.not_after.map_or(until, |end| end.min(until));
                known.not_after = Some(sooner);
            }
            None if known.status == KeyStatus::Active => known.status = KeyStatus::Retired,
            None => {}
        }
        self.add(successor)
    }

    fn find(&mut self, key: &str) -> Result<&mut Delegation, TrustError> {
        let position = position(self.document.release.iter().map(|it| &it.key), key)?;
        Ok(&mut self.document.release[position])
    }

    /// Refuses one release from now on, whoever signed it.
    ///
    /// # Errors
    ///
    /// [`TrustError::BadReason`].
    pub fn revoke_digest(&mut self, statement: Digest, reason: &str) -> Result<(), TrustError> {
        check_reason(reason)?;
        let document = &mut self.document;
        document.allowed_digests.remove(&statement);
        let version = document.version;
        document.revoked_since.entry(statement).or_insert(version);
        document
            .revoked_digests
            .insert(statement, reason.to_owned());
        Ok(())
    }

    /// Accepts one release although its key is retired or revoked.
    ///
    /// # Errors
    ///
    /// [`TrustError::StaysRevoked`] when the release itself is revoked.
    pub fn allow_digest(&mut self, statement: Digest) -> Result<(), TrustError> {
        if let Some(reason) = self.document.revoked_digests.get(&statement) {
            let what = format!("the release sha256:{statement}");
            return Err(TrustError::stays_revoked(what, Some(reason.clone())));
        }
        self.document.allowed_digests.insert(statement);
        Ok(())
    }

    /// Until when the root may be relied upon for new installations; without a
    /// time, for ever.
    pub fn set_expires(&mut self, end: Option<Timestamp>) {
        self.document.expires = end;
    }

    /// Adds a key that signs roots; one that does so already stays.
    pub fn add_root_key(&mut self, key: PublicKey) {
        let keys = &mut self.document.root_keys;
        if keys.iter().all(|known| known.id() != key.id()) {
            keys.push(key);
        }
        self.document.root_threshold = self.document.root_threshold.max(1);
    }

    /// Takes a key out of those that sign roots, given by its identity or name.
    ///
    /// # Errors
    ///
    /// [`TrustError::NoSuchKey`] or [`TrustError::Ambiguous`].
    pub fn remove_root_key(&mut self, key: &str) -> Result<(), TrustError> {
        let position = position(self.document.root_keys.iter(), key)?;
        self.document.root_keys.remove(position);
        Ok(())
    }

    /// How many root keys have to sign a root.
    pub fn set_root_threshold(&mut self, threshold: u32) {
        self.document.root_threshold = threshold;
    }

    /// The root as a text that people can read and that
    /// [`RootFile`](super::RootFile) reads, for others to sign.
    ///
    /// # Errors
    ///
    /// [`TrustError::BadRootRole`] and whatever else no root can have.
    pub fn to_text(&self) -> Result<String, TrustError> {
        self.document.check()?;
        Ok(self.document.to_text())
    }
}

fn check_reason(reason: &str) -> Result<(), TrustError> {
    match is_plain(reason) {
        true => Ok(()),
        false => Err(TrustError::BadReason),
    }
}

/// Where the key with that identity or name stands.
fn position<'k>(
    keys: impl Iterator<Item = &'k PublicKey>,
    text: &str,
) -> Result<usize, TrustError> {
    let id = KeyId::parse(text).ok();
    let is_meant = |key: &PublicKey| Some(key.id()) == id || key.name() == text;
    let found: Vec<_> = keys
        .enumerate()
        .filter(|(_, key)| is_meant(key))
        .map(|(position, _)| position)
        .collect();
    match found.as_slice() {
        [position] => Ok(*position),
        [] => Err(TrustError::NoSuchKey(text.escape_debug().to_string())),
        _ => Err(TrustError::Ambiguous(text.to_owned())),
    }
}

impl From<RootFault> for TrustError {
    fn from(fault: RootFault) -> Self {
        match fault {
            RootFault::Damaged(reason) => Self::BadFile(reason),
            RootFault::NotARoot(purpose) => Self::NotARoot(purpose),
            RootFault::BadKey(key) => Self::BadKey(key),
            RootFault::BadRole(role) => Self::BadRootRole(role),
            RootFault::TooFewSigned {
                have,
                need,
                version,
            } => Self::TooFewSigned {
                have,
                need,
                version,
            },
            RootFault::Version { .. } => Self::BadUpdate(fault.to_string()),
        }
    }
}
