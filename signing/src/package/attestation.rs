//! What travels with a package and decides nothing: attestations, in which others
//! say how it came to be and whose bytes the release signature covers, and the
//! signature for minisign.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use orchestrator_manifest::PackagePath;
use serde::Deserialize;

use super::{
    Package, SignError,
    layout::{LISTING, META, MINISIG},
};
use crate::{
    dsse::ENVELOPE_SIZE_MAX,
    key::PublicKey,
    minisign::{MinisignError, MinisignSignature},
    statement::PAYLOAD_TYPE,
};

const ENDING: &str = ".dsse";
const MINISIG_SIZE_MAX: u64 = 16 * 1024;

/// An attestation in a package.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attestation {
    /// Its path in the package.
    pub path: String,
    /// What it attests, such as `https://slsa.dev/provenance/v1`; `None` when the
    /// file cannot be read as an attestation.
    pub predicate_type: Option<String>,
}

/// Only what is shown; other tools write more.
#[derive(Deserialize)]
struct EnvelopeHead {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct StatementHead {
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

/// What the bytes attest.
fn predicate_type(bytes: &[u8]) -> Result<String, String> {
    if bytes.len() > ENVELOPE_SIZE_MAX {
        return Err(format!("more than {ENVELOPE_SIZE_MAX} bytes"));
    }
    let envelope: EnvelopeHead = serde_json::from_slice(bytes).map_err(|it| it.to_string())?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err("its payload is no in-toto statement".to_owned());
    }
    if envelope.signatures.is_empty() {
        return Err("nobody signed it".to_owned());
    }
    let payload = BASE64
        .decode(envelope.payload)
        .map_err(|it| it.to_string())?;
    let statement: StatementHead = serde_json::from_slice(&payload).map_err(|it| it.to_string())?;
    Ok(statement.predicate_type)
}

/// Where an attestation lies in a package.
pub(super) fn path_for(name: &str, bytes: &[u8]) -> Result<PackagePath, SignError> {
    let fault = |reason: String| SignError::NoAttestation {
        name: name.escape_debug().to_string(),
        reason,
    };
    predicate_type(bytes).map_err(fault)?;
    if name.contains('/') || name == ENDING || !name.ends_with(ENDING) {
        return Err(fault(format!("its name does not end in `{ENDING}`")));
    }
    PackagePath::parse(&format!("{META}/{name}")).map_err(|error| fault(error.to_string()))
}

impl Package {
    /// The attestations that travel with the package. That its publisher put them
    /// there is verified; who made them, and whether what they say is true, is
    /// not.
    pub fn attestations(&self) -> Vec<Attestation> {
        let is_one = |path: &str| {
            let name = path.strip_prefix(META).and_then(|it| it.strip_prefix('/'));
            name.is_some_and(|name| !name.contains('/') && name.ends_with(ENDING))
        };
        let files = self.files().filter(|file| is_one(file.path().as_str()));
        files
            .map(|file| {
                let bytes = file.small(ENVELOPE_SIZE_MAX as u64).ok().flatten();
                Attestation {
                    path: file.path().to_string(),
                    predicate_type: bytes.and_then(|bytes| predicate_type(&bytes).ok()),
                }
            })
            .collect()
    }

    /// The signature of minisign over `META/MANIFEST`, if there is one, checked
    /// with `keys`. It is there for other tools and decides nothing: whoever gets
    /// hold of a package can remove it.
    ///
    /// # Errors
    ///
    /// [`MinisignError`] when it would mislead those who look at it alone.
    pub fn minisign_export<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k PublicKey>,
    ) -> Option<Result<MinisignSignature, MinisignError>> {
        let listing = self.file(LISTING)?;
        let bytes = listing.beside(MINISIG, MINISIG_SIZE_MAX)?;
        let keys: Vec<_> = keys.into_iter().collect();
        let checked = || {
            let gone = MinisignError::Format("the list of files cannot be read");
            let text = str::from_utf8(&bytes).map_err(|_| MinisignError::Format("no text"))?;
            let signature = MinisignSignature::parse(text)?;
            let listing = listing.small(ENVELOPE_SIZE_MAX as u64).ok().flatten();
            signature.verify_any(&keys, &listing.ok_or(gone)?)?;
            Ok(signature)
        };
        Some(checked())
    }
}
