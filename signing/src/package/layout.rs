//! Where things lie in a package.

use orchestrator_manifest::{FILE_NAMES, Format};

/// The signature: a DSSE envelope.
pub(crate) const SIGNATURES: &str = "META/signatures.json";
/// Every file and its digest as text, for people and for other tools.
pub(super) const LISTING: &str = "META/MANIFEST";
/// An exported minisign signature of [`LISTING`]; never read.
pub(super) const MINISIG: &str = "META/MANIFEST.minisig";
/// The folder of the three above.
pub(crate) const META: &str = "META";

/// Files that no signature can cover, because they are signatures.
pub(super) fn is_signature(path: &str) -> bool {
    path == SIGNATURES || path == MINISIG
}

/// The format of the manifest at `path`, if it is one.
pub(super) fn manifest_format(path: &str) -> Option<Format> {
    FILE_NAMES
        .contains(&path)
        .then(|| Format::from_file_name(path))
        .flatten()
}
