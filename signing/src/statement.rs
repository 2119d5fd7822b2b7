//! What a package signature says: an in-toto statement that lists every file,
//! with a release predicate.
//!
//! The predicate repeats what matters from the manifest and has to equal it,
//! so a swapped manifest is noticed twice.

use jiff::Timestamp;
use orchestrator_manifest::{Channel, Kind, PackagePath, PluginName};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The payload type of package signatures.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The type of the statement, from in-toto's attestation framework.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of the predicate.
pub const PREDICATE_TYPE: &str = "urn:orchestrator:plugin-release/v1";

/// The oldest and newest plugin API that this host speaks.
pub const API: ApiRange = ApiRange { min: 1, max: 1 };

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Statement {
    #[serde(rename = "_type")]
    pub(crate) statement_type: String,
    pub(crate) subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    pub(crate) predicate_type: String,
    pub(crate) predicate: Predicate,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subject {
    pub(crate) name: PackagePath,
    pub(crate) digest: DigestSet,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DigestSet {
    pub(crate) sha256: Digest,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Predicate {
    pub(crate) name: PluginName,
    pub(crate) version: String,
    pub(crate) serial: u64,
    pub(crate) created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<Timestamp>,
    pub(crate) channel: Channel,
    pub(crate) entry: EntryClaim,
    pub(crate) manifest_sha256: Digest,
    pub(crate) capabilities_requested: Vec<String>,
    pub(crate) api: ApiRange,
    pub(crate) files: Vec<FileClaim>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntryClaim {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) triple: Option<String>,
}

/// A range of plugin API versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiRange {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl ApiRange {
    /// Returns whether both sides speak a version in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileClaim {
    pub(crate) path: PackagePath,
    pub(crate) size: u64,
    pub(crate) mode: FileMode,
}

/// The only part of a file's mode that is signed: whether it can be executed.
/// The other bits change on the way through archives, umasks and stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileMode {
    /// Data; installed as 0444.
    #[serde(rename = "0644")]
    Data,
    /// A program; installed as 0555.
    #[serde(rename = "0755")]
    Executable,
}

impl FileMode {
    /// The mode of an installed file.
    pub const fn installed(self) -> u32 {
        match self {
            Self::Data => 0o444,
            Self::Executable => 0o555,
        }
    }

    pub(crate) fn of(mode: u32) -> Self {
        if mode & 0o100 == 0 {
            Self::Data
        } else {
            Self::Executable
        }
    }
}
