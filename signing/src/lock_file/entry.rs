//! One release in a lock file.

use std::{collections::BTreeMap, fmt};

use orchestrator_manifest::{PluginName, Version};
use serde::{Deserialize, Serialize};

use super::{LockFileError, number};
use crate::{
    digest::Digest,
    dsse::Envelope,
    grants::Grant,
    key::{KeyId, PublicKey},
    package::Package,
    statement::PAYLOAD_TYPE,
    store::{Source, tree_digest},
    trust::TrustRoot,
    verified::Verified,
};

const SOURCE_MAX: usize = 4096;
const KEYS_MAX: usize = 16;
/// As many as a trust root has.
const ROOT_KEYS_MAX: usize = 1_000;
const PLATFORMS_MAX: usize = 64;
const PLATFORM_MAX: usize = 64;
/// The platform of a release that names none.
const ANY: &str = "any";

/// One release, as it was installed when the lock file was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Locked {
    /// The plugin.
    pub name: PluginName,
    /// Its version.
    pub version: String,
    /// Where it was fetched from: an absolute path or a URL.
    pub source: String,
    /// The SHA-256 of the archive, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive: Option<Sha256>,
    pub(super) statement: Sha256,
    /// The trusted keys that signed it.
    pub keys: Vec<KeyId>,
    /// The version of the trust root that decided; an older one is refused.
    #[serde(with = "number")]
    pub root_version: u64,
    /// The keys that sign that root. Versions of roots that share none of theirs say
    /// nothing about each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    root_keys: Vec<KeyId>,
    /// Rises with every release of the plugin.
    #[serde(with = "number")]
    pub serial: u64,
    grants: Sha256,
    /// The statements of the releases for further platforms.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) statements: BTreeMap<String, Sha256>,
    pub(super) trees: BTreeMap<String, Sha256>,
}

/// A digest that says which it is: `sha256:` and 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Sha256(Digest);

impl TryFrom<String> for Sha256 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        let digest = Digest::parse(digits).map_err(|_| "not `sha256:` and 64 hex digits")?;
        Ok(Self(digest))
    }
}

impl From<Sha256> for String {
    fn from(digest: Sha256) -> Self {
        format!("sha256:{}", digest.0)
    }
}

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl Locked {
    /// What there is to write down of a package; `None` for one without a release.
    pub(super) fn of(
        package: &Verified<Package>,
        source: &Source,
        root: &TrustRoot,
        grants: &[Grant],
    ) -> Option<Self> {
        let release = package.release()?;
        let platform = release.triple.clone().unwrap_or_else(|| ANY.to_owned());
        let tree = Sha256(tree_digest(package));
        Some(Self {
            name: package.manifest().id.clone(),
            version: package.manifest().version.to_string(),
            source: source.location.clone(),
            archive: source.archive.map(Sha256),
            statement: Sha256(release.digest),
            keys: signers(package, root),
            root_version: root.version(),
            root_keys: root_keys(root),
            serial: release.serial,
            grants: Sha256(granted(package, grants)),
            statements: BTreeMap::new(),
            trees: BTreeMap::from([(platform, tree)]),
        })
    }

    /// The SHA-256 of the signed statement.
    pub fn statement(&self) -> Digest {
        self.statement.0
    }

    /// Adds a release for a further platform. False when another one is there.
    pub(super) fn insert_platform(
        &mut self,
        platform: &str,
        package: &Package,
        statement: Digest,
    ) -> bool {
        let (tree, statement) = (Sha256(tree_digest(package)), Sha256(statement));
        if let Some(there) = self.trees.get(platform) {
            let own = self.statements.get(platform).unwrap_or(&self.statement);
            return (*there, *own) == (tree, statement);
        }
        self.trees.insert(platform.to_owned(), tree);
        self.statements.insert(platform.to_owned(), statement);
        true
    }

    /// The SHA-256 of the archive, where it was one.
    pub fn archive(&self) -> Option<Digest> {
        self.archive.map(|archive| archive.0)
    }

    /// Whether a root belongs to the same line of versions as the one that decided.
    pub fn is_of_line(&self, root: &TrustRoot) -> bool {
        self.shares_root_key(&root_keys(root))
    }

    /// Refuses a root that is older than the one that decided. Needs no package, so
    /// nothing has to be fetched to know.
    ///
    /// # Errors
    ///
    /// [`LockFileError::Changed`].
    pub fn check_root(&self, root: &TrustRoot) -> Result<(), LockFileError> {
        match self.change_of_root(root.version(), &root_keys(root)) {
            Some(change) => Err(LockFileError::Changed {
                changes: vec![change],
            }),
            None => Ok(()),
        }
    }

    fn change_of_root(&self, version: u64, keys: &[KeyId]) -> Option<String> {
        (version < self.root_version && self.shares_root_key(keys)).then(|| {
            format!(
                "this host's trust root is version {version}, older than {} which decided on {self}",
                self.root_version
            )
        })
    }

    /// A file that names none is of a time when all were compared.
    fn shares_root_key(&self, keys: &[KeyId]) -> bool {
        self.root_keys.is_empty() || self.root_keys.iter().any(|key| keys.contains(key))
    }

    pub(super) fn trees(&self) -> impl Iterator<Item = Digest> {
        self.trees.values().map(|tree| tree.0)
    }

    pub(super) fn identity(&self) -> (&PluginName, &str) {
        (&self.name, &self.version)
    }

    /// What the types do not say.
    pub(super) fn check(&self) -> Result<(), String> {
        let bad = |what: &str| Err(format!("{}: {what}", self.name));
        let is_version =
            Version::parse(&self.version).is_ok_and(|version| version.to_string() == self.version);
        if !is_version {
            return bad("`version` is no version");
        }
        if self.source.is_empty() || self.source.len() > SOURCE_MAX {
            return bad("`source` is empty or longer than 4096 bytes");
        }
        if self.source.chars().any(char::is_control) {
            return bad("`source` has control characters");
        }
        if self.keys.is_empty() || self.keys.len() > KEYS_MAX {
            return bad("`keys` is empty or has more than 16");
        }
        if !self.keys.is_sorted_by(|one, other| one < other) {
            return bad("`keys` are not sorted, or one is there twice");
        }
        if self.root_keys.len() > ROOT_KEYS_MAX {
            return bad("`root_keys` has more than 1000");
        }
        if self.trees.is_empty() || self.trees.len() > PLATFORMS_MAX {
            return bad("`trees` is empty or has more than 64 platforms");
        }
        if !self.trees.keys().all(|platform| is_platform(platform)) {
            return bad("`trees` has a key that is no platform");
        }
        let is_there = |platform| self.trees.contains_key(platform);
        if self.statements.len() >= self.trees.len() || !self.statements.keys().all(is_there) {
            return bad("`statements` has other platforms than `trees`, or no fewer");
        }
        Ok(())
    }

    /// How the same version of a home differs.
    pub(super) fn changes(&self, now: &Self) -> Vec<String> {
        let mut changes = self.changes_of_release(now);
        if self.grants != now.grants {
            changes.push(format!("{self} is granted other capabilities"));
        }
        changes
    }

    /// How a package differs; what it was granted and where it came from is not
    /// asked.
    pub(super) fn changes_of_package(
        &self,
        package: &Verified<Package>,
        root: &TrustRoot,
    ) -> Vec<String> {
        let source = Source {
            location: self.source.clone(),
            archive: None,
        };
        match Self::of(package, &source, root, &[]) {
            Some(now) => self.changes_of_release(&now),
            None => vec![format!("{self} is not signed")],
        }
    }

    fn changes_of_release(&self, now: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let of_platform = |platform| self.statements.get(platform) == Some(&now.statement);
        if self.statement != now.statement && !now.trees.keys().any(of_platform) {
            changes.push(match now.serial == self.serial {
                true => format!(
                    "{self} is another release with the serial {}: {}, not {}",
                    self.serial, now.statement.0, self.statement.0
                ),
                false => format!(
                    "{self} is another release: serial {}, not {}",
                    now.serial, self.serial
                ),
            });
        }
        let is_known =
            |(platform, tree): (&String, &Sha256)| self.trees.get(platform) == Some(tree);
        if !now.trees.iter().all(is_known) {
            changes.push(format!("{self} has other files"));
        }
        if let Some(key) = self.keys.iter().find(|key| !now.keys.contains(key)) {
            changes.push(format!("{self} is no longer signed by the key {key}"));
        }
        changes.extend(self.change_of_root(now.root_version, &now.root_keys));
        changes
    }
}

fn root_keys(root: &TrustRoot) -> Vec<KeyId> {
    let mut keys: Vec<_> = root.root_keys().iter().map(PublicKey::id).collect();
    keys.sort_unstable();
    keys
}

fn is_platform(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=PLATFORM_MAX).contains(&text.len()) && text.bytes().all(is_known)
}

pub(super) fn signers(package: &Package, root: &TrustRoot) -> Vec<KeyId> {
    let Ok(envelope) = Envelope::parse(package.envelope()) else {
        return Vec::new();
    };
    let signers = envelope.verified_by(PAYLOAD_TYPE, root.keys());
    let mut ids: Vec<_> = signers
        .map(|(_, keys)| keys.iter().map(|key| key.id()).collect())
        .unwrap_or_default();
    ids.sort_unstable();
    ids.truncate(KEYS_MAX);
    ids
}

/// The digest of what the operator granted: one line for each capability, sorted.
fn granted(package: &Package, grants: &[Grant]) -> Digest {
    let of_package = grants.iter().filter(|grant| grant.is_for(package));
    let mut lines: Vec<_> = of_package
        .flat_map(|grant| &grant.capabilities)
        .map(|capability| format!("{capability}\n"))
        .collect();
    lines.sort_unstable();
    lines.dedup();
    Digest::of(lines.concat().as_bytes())
}
