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

impl RootDocument {
    /// Reads a root that signed itself: the first one of a host, or one that
    /// this host stored.
    pub(crate) fn parse_self_signed(bytes: &[u8]) -> Result<Self, String> {
        let envelope = Envelope::parse(bytes).map_err(|error| error.to_string())?;
        let document = Self::parse_unverified(&envelope)?;
        document.check_signed_by(&envelope, &document)?;
        Ok(document)
    }

    /// Reads the root that follows this one.
    pub(crate) fn parse_next(&self, bytes: &[u8]) -> Result<Self, String> {
        let envelope = Envelope::parse(bytes).map_err(|error| error.to_string())?;
        // The old root's keys vouch for the payload before it is parsed.
        let keys = self.root_keys.iter();
        if envelope.verified_by(ROOT_TYPE, keys).is_none() {
            return Err("no key of the present root signed it".to_owned());
        }
        let next = Self::parse_unverified(&envelope)?;
        if next.version != self.version + 1 {
            return Err(format!(
                "version {} follows version {}, not version {}",
                self.version + 1,
                self.version,
                next.version
            ));
        }
        self.check_signed_by(&envelope, self)?;
        self.check_signed_by(&envelope, &next)?;
        Ok(next)
    }

    fn check_signed_by(&self, envelope: &Envelope, authority: &Self) -> Result<(), String> {
        let signers = envelope.verified_by(ROOT_TYPE, &authority.root_keys);
        let have = signers.map_or(0, |(_, signers)| signers.len());
        let need = authority.root_threshold as usize;
        if have < need {
            return Err(format!(
                "{have} of {need} root keys of version {} signed it",
                authority.version
            ));
        }
        Ok(())
    }

    fn parse_unverified(envelope: &Envelope) -> Result<Self, String> {
        let payload = envelope.unverified_payload();
        let text: RootText = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        text.try_into()
    }

    /// Signs the root.
    pub(crate) fn to_signed(&self, keys: &[&SecretKey]) -> String {
        let text = RootText::from(self);
        let payload = serde_json::to_vec(&text).expect("texts and numbers always serialise");
        Envelope::sign(ROOT_TYPE, payload, keys).to_json()
    }
}

impl TryFrom<RootText> for RootDocument {
    type Error = String;

    fn try_from(text: RootText) -> Result<Self, String> {
        let root_keys = distinct(text.roles.root.keys.into_iter().map(PublicKey::try_from))?;
        let threshold = text.roles.root.threshold;
        if threshold == 0 || threshold as usize > root_keys.len() {
            return Err(format!(
                "a root threshold of {threshold} with {} keys",
                root_keys.len()
            ));
        }
        if text.version == 0 {
            return Err("version 0".to_owned());
        }
        let release: Vec<Delegation> = text
            .roles
            .release
            .into_iter()
            .map(Delegation::try_from)
            .collect::<Result<_, _>>()?;
        distinct(release.iter().map(|delegation| Ok(delegation.key.clone())))?;
        let revoked = &text.revoked_digests;
        Ok(Self {
            version: text.version,
            expires: text.expires,
            root_keys,
            root_threshold: threshold,
            release,
            revoked_since: revoked
                .iter()
                .map(|it| (it.sha256, it.since_version))
                .collect(),
            revoked_digests: text
                .revoked_digests
                .into_iter()
                .map(|it| (it.sha256, it.reason))
                .collect(),
            allowed_digests: text.allowed_digests.into_iter().collect(),
        })
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
    type Error = String;

    fn try_from(text: ReleaseText) -> Result<Self, String> {
        if text.threshold == 0 {
            return Err("a release threshold of 0".to_owned());
        }
        Ok(Self {
            key: text.key.try_into()?,
            names: text.names,
            threshold: text.threshold,
            trust_level: text.trust_level,
            not_after: text.not_after,
            status: text.status,
            min_serial: text.min_serial,
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
        }
    }
}

impl TryFrom<KeyText> for PublicKey {
    type Error = String;

    fn try_from(text: KeyText) -> Result<Self, String> {
        if text.keytype != "ed25519" {
            return Err(format!(
                "unknown key type `{}`",
                text.keytype.escape_debug()
            ));
        }
        let key = Self::from_base64(&text.public, &text.name).map_err(|error| error.to_string())?;
        if key.id() != text.keyid {
            return Err(format!(
                "key `{}` does not have the identity {}",
                text.name, text.keyid
            ));
        }
        Ok(key)
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

/// Each key once: a key that stands twice would count twice.
fn distinct(
    keys: impl Iterator<Item = Result<PublicKey, String>>,
) -> Result<Vec<PublicKey>, String> {
    let keys: Vec<PublicKey> = keys.collect::<Result<_, _>>()?;
    let ids: BTreeSet<_> = keys.iter().map(PublicKey::id).collect();
    if ids.len() != keys.len() || keys.len() > KEYS_MAX {
        return Err(format!(
            "a key stands twice, or there are more than {KEYS_MAX}"
        ));
    }
    Ok(keys)
}
