//! Which root this host follows, so that one that vanished, went back or was
//! put there by somebody else is noticed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::root_file::{RootDocument, RootFault};
use crate::digest::Digest;

/// What is known of the root beside the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Anchor {
    version: u64,
    /// The stored file. Absent where an earlier release wrote the anchor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<Digest>,
    /// The file that is about to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<Digest>,
    /// What the clock said then. It was not later before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stored_at: Option<Timestamp>,
    /// Whether releases are remembered beside it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) has_serials: bool,
}

/// A root that is what the anchor says.
pub(super) struct Anchored {
    pub(super) document: RootDocument,
    pub(super) digest: Option<Digest>,
}

impl Anchor {
    /// Of a root that is in place.
    pub(super) fn of(
        version: u64,
        sha256: Option<Digest>,
        stored_at: Option<Timestamp>,
        has_serials: bool,
    ) -> Self {
        Self {
            version,
            sha256,
            next: None,
            stored_at,
            has_serials,
        }
    }

    /// The same root, and the one that is about to replace it.
    pub(super) fn before(self, next: Digest) -> Self {
        Self {
            next: Some(next),
            ..self
        }
    }

    /// Reads the root that lies beside this anchor.
    pub(super) fn read(&self, root_json: Option<&[u8]>) -> Result<Anchored, RootFault> {
        let Some(bytes) = root_json else {
            // Killed before the first root was written.
            return match self.version {
                0 => Ok(Anchored {
                    document: RootDocument::default(),
                    digest: None,
                }),
                _ => Err(RootFault::Damaged("root.json is gone".to_owned())),
            };
        };
        let digest = Digest::of(bytes);
        let is_known = match self.sha256 {
            Some(known) => digest == known || self.next == Some(digest),
            // An earlier release kept the version alone.
            None => self.next == Some(digest) || (self.version > 0 && self.next.is_none()),
        };
        let read = RootDocument::parse_self_signed(bytes);
        if let Ok(document) = &read
            && document.version < self.version
        {
            let (from, to) = (self.version, document.version);
            let reason = format!("root.json went back from version {from} to {to}");
            return Err(RootFault::Damaged(reason));
        }
        if !is_known {
            let reason = "root.json was damaged, or not changed by `orchestrator trust`".to_owned();
            return Err(RootFault::Damaged(reason));
        }
        Ok(Anchored {
            document: read?,
            digest: Some(digest),
        })
    }
}
