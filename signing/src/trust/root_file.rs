//! `root.json`: the trust root as it is signed and stored.
//!
//! A DSSE envelope. A root is replaced only by the next version, signed by
//! enough keys of the old root *and* of the new one.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Delegation, KeyStatus, NamePattern, RevokedDigests, TrustLevel};
use crate::{
    digest::Digest,
    dsse::Envelope,
    key::{KeyId, PublicKey, SecretKey},
};

/// The payload type of trust roots.
pub(crate) const ROOT_TYPE: &str = "application/vnd.orchestrator.root.v1+json";
/// Most keys in one root.
const KEYS_MAX: usize = 1_000;
/// The last version there can be. Nobody signs as many, and whoever signs one
/// near it shall not be able to end all updates.
const VERSION_MAX: u64 = u32::MAX as u64;
/// Longest reason for a revocation, in bytes.
const REASON_MAX: usize = 500;

/// A trust root, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RootDocument {
    /// 0 only for the root of a host that trusts nobody yet.
    pub(crate) version: u64,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) root_keys: Vec<PublicKey>,
    pub(crate) root_threshold: u32,
    pub(crate) release: Vec<Delegation>,
    pub(crate) revoked_digests: RevokedDigests,
    pub(crate) allowed_digests: BTreeSet<Digest>,
    /// Since which version a digest is revoked; kept because it is signed.
    pub(crate) revoked_since: BTreeMap<Digest, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootText {
    version: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    roles: RolesText,
    revoked_digests: Vec<RevokedText>,
    allowed_digests: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RolesText {
    root: RootRoleText,
    release: Vec<ReleaseText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootRoleText {
    keys: Vec<KeyText>,
    threshold: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseText {
    key: KeyText,
    names: Vec<NamePattern>,
    threshold: u32,
    trust_level: TrustLevel,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<Timestamp>,
    status: KeyStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_serial: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    keyid: KeyId,
    keytype: String,
    name: String,
    public: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokedText {
    sha256: Digest,
    reason: String,
    since_version: u64,
}

/// Why bytes are no root that this host may use.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootFault {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it was signed as `{0}`")]
    NotARoot(String),
    #[error("it names a key that cannot be used: {0}")]
    BadKey(String),
    #[error("it has {0}")]
    BadRole(String),
    #[error("{have} of {need} root keys of version {version} signed it")]
    TooFewSigned {
        have: usize,
        need: usize,
        version: u64,
    },
    #[error("it is version {found}, and version {wanted} is the next")]
    Version { wanted: u64, found: u64 },
}

impl RootDocument {
    /// Reads a root that signed itself: the first one of a host, or one that
    /// this host stored.
    pub(crate) fn parse_self_signed(bytes: &[u8]) -> Result<Self, RootFault> {
        let envelope = parse_envelope(bytes)?;
        let document = Self::parse(envelope.unverified_payload())?;
        document.check_signed(&envelope)?;
        Ok(document)
    }

    /// Reads the root that follows this one.
    pub(crate) fn parse_next(&self, bytes: &[u8]) -> Result<Self, RootFault> {
        let envelope = parse_envelope(bytes)?;
        // The old root's keys vouch for the payload before it is parsed.
        self.check_signed(&envelope)?;
        let next = Self::parse(envelope.unverified_payload())?;
        let wanted = self.version.saturating_add(1);
        if next.version != wanted {
            let found = next.version;
            return Err(RootFault::Version { wanted, found });
        }
        next.check_signed(&envelope)?;
        Ok(next)
    }

    /// Whether enough root keys of this version signed `envelope`.
    fn check_signed(&self, envelope: &Envelope) -> Result<(), RootFault> {
        let signers = envelope.verified_by(ROOT_TYPE, &self.root_keys);
        let have = signers.map_or(0, |(_, signers)| signers.len());
        let need = self.root_threshold as usize;
        match have < need {
            true => Err(RootFault::TooFewSigned {
                have,
                need,
                version: self.version,
            }),
            false => Ok(()),
        }
    }

    /// Reads what is signed, or will be.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, RootFault> {
        let text: RootText = serde_json::from_slice(payload)
            .map_err(|error| RootFault::Damaged(error.to_string()))?;
        text.try_into()
    }

    /// The bytes that are signed. The same root always gives the same ones.
    pub(crate) fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(&RootText::from(self)).expect("texts and numbers always serialise")
    }

    /// What [`Self::payload`] says, to be read by people.
    pub(crate) fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(&RootText::from(self));
        format!("{}\n", text.expect("texts and numbers always serialise"))
    }

    /// Signs the root.
    pub(crate) fn to_signed(&self, keys: &[&SecretKey]) -> String {
        Envelope::sign(ROOT_TYPE, self.payload(), keys).to_json()
    }

    /// What must be true of every root, whoever made it.
    pub(crate) fn check(&self) -> Result<(), RootFault> {
        let (keys, threshold) = (self.root_keys.len(), self.root_threshold);
        if !is_distinct(&self.root_keys) || threshold == 0 || threshold as usize > keys {
            let role = format!("a root threshold of {threshold} with {keys} keys");
            return Err(RootFault::BadRole(role));
        }
        if self.version == 0 || self.version > VERSION_MAX {
            return Err(damaged(format!("version {}", self.version)));
        }
        if !is_distinct(self.release.iter().map(|it| &it.key)) {
            return Err(damaged("a release key stands twice"));
        }
        if self.release.len() > KEYS_MAX || keys > KEYS_MAX {
            return Err(damaged(format!("more than {KEYS_MAX} keys")));
        }
        if let Some(bad) = self.release.iter().find(|it| it.threshold == 0) {
            let name = bad.key.name();
            return Err(damaged(format!("a threshold of 0 for the key `{name}`")));
        }
        let mut reasons = self.revoked_digests.values();
        let mut of_keys = self.release.iter().filter_map(|it| it.reason.as_ref());
        if !reasons.all(|it| is_plain(it)) || !of_keys.all(|it| is_plain(it)) {
            return Err(damaged("a reason that is no line of text"));
        }
        let mut allowed = self.allowed_digests.iter();
        match allowed.find(|it| self.revoked_digests.contains_key(it)) {
            Some(both) => Err(damaged(format!("{both} is both revoked and allowed"))),
            None => Ok(()),
        }
    }
}

pub(crate) fn parse_envelope(bytes: &[u8]) -> Result<Envelope, RootFault> {
    let envelope = Envelope::parse(bytes).map_err(damaged)?;
    match envelope.payload_type() {
        ROOT_TYPE => Ok(envelope),
        other => Err(RootFault::NotARoot(other.escape_debug().to_string())),
    }
}

fn damaged(reason: impl ToString) -> RootFault {
    RootFault::Damaged(reason.to_string())
}

pub(super) fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= REASON_MAX && !text.chars().any(char::is_control)
}

/// A key that stands twice would count twice.
fn is_distinct<'k>(keys: impl IntoIterator<Item = &'k PublicKey>) -> bool {
    let mut seen = BTreeSet::new();
    keys.into_iter().all(|key| seen.insert(key.id()))
}

impl TryFrom<RootText> for RootDocument {
    type Error = RootFault;

    fn try_from(text: RootText) -> Result<Self, RootFault> {
        let root_keys = text.roles.root.keys.into_iter().map(PublicKey::try_from);
        let release = text.roles.release.into_iter().map(Delegation::try_from);
        let mut document = Self {
            version: text.version,
            expires: text.expires,
            root_keys: root_keys.collect::<Result<_, _>>()?,
            root_threshold: text.roles.root.threshold,
            release: release.collect::<Result<_, _>>()?,
            ..Self::default()
        };
        for revoked in text.revoked_digests {
            let (digest, since) = (revoked.sha256, revoked.since_version);
            let is_new = document
                .revoked_digests
                .insert(digest, revoked.reason)
                .is_none();
            if !is_new || since > document.version {
                return Err(damaged(format!(
                    "{digest} is revoked twice, or in the future"
                )));
            }
            document.revoked_since.insert(digest, since);
        }
        for digest in text.allowed_digests {
            if !document.allowed_digests.insert(digest) {
                return Err(damaged(format!("{digest} is allowed twice")));
            }
        }
        document.check()?;
        Ok(document)
    }
}

impl From<&RootDocument> for RootText {
    fn from(document: &RootDocument) -> Self {
        let revoked = document
            .revoked_digests
            .iter()
            .map(|(digest, reason)| RevokedText {
                sha256: *digest,
                reason: reason.clone(),
                since_version: document
                    .revoked_since
                    .get(digest)
                    .copied()
                    .unwrap_or(document.version),
            });
        Self {
            version: document.version,
            expires: document.expires,
            roles: RolesText {
                root: RootRoleText {
                    keys: document.root_keys.iter().map(KeyText::from).collect(),
                    threshold: document.root_threshold,
                },
                release: document.release.iter().map(ReleaseText::from).collect(),
            },
            revoked_digests: revoked.collect(),
            allowed_digests: document.allowed_digests.iter().copied().collect(),
        }
    }
}

impl TryFrom<ReleaseText> for Delegation {
    type Error = RootFault;

    fn try_from(text: ReleaseText) -> Result<Self, RootFault> {
        Ok(Self {
            key: text.key.try_into()?,
            names: text.names,
            threshold: text.threshold,
            trust_level: text.trust_level,
            not_after: text.not_after,
            status: text.status,
            min_serial: text.min_serial,
            reason: text.reason,
        })
    }
}

impl From<&Delegation> for ReleaseText {
    fn from(delegation: &Delegation) -> Self {
        Self {
            key: KeyText::from(&delegation.key),
            names: delegation.names.clone(),
            threshold: delegation.threshold,
            trust_level: delegation.trust_level,
            not_after: delegation.not_after,
            status: delegation.status,
            min_serial: delegation.min_serial,
            reason: delegation.reason.clone(),
        }
    }
}

impl TryFrom<KeyText> for PublicKey {
    type Error = RootFault;

    fn try_from(text: KeyText) -> Result<Self, RootFault> {
        let name = text.name.escape_debug();
        if text.keytype != "ed25519" {
            let kind = text.keytype.escape_debug();
            return Err(RootFault::BadKey(format!(
                "`{name}` is of the kind `{kind}`"
            )));
        }
        let key = Self::from_base64(&text.public, &text.name)
            .map_err(|error| RootFault::BadKey(format!("`{name}`: {error}")))?;
        match key.id() == text.keyid {
            true => Ok(key),
            false => Err(RootFault::BadKey(format!(
                "`{name}` does not have the identity {}",
                text.keyid
            ))),
        }
    }
}

impl From<&PublicKey> for KeyText {
    fn from(key: &PublicKey) -> Self {
        Self {
            keyid: key.id(),
            keytype: "ed25519".to_owned(),
            name: key.name().to_owned(),
            public: key.to_base64(),
        }
    }
}
