//! Why a package was not signed.

use std::io;

use miette::Diagnostic;

use crate::{dsse::EnvelopeError, minisign::MinisignError, package::VerifyError};

/// Why a package was not signed.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum SignError {
    /// The package could not be verified once signed, so it is not signed. What
    /// is wrong with it follows, and the help names its code.
    #[error("the package cannot be signed")]
    #[diagnostic(code("ORC-2070"), help("nothing was written; {}", advice(.0)))]
    Unfit(#[from] VerifyError),
    /// The signature could not be written.
    #[error("`{path}` cannot be written")]
    #[diagnostic(code("ORC-2071"), help("check that the folder can be written to"))]
    Write {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The package is not what the signature to be added to says.
    #[error("the package changed since it was signed: {what}")]
    #[diagnostic(
        code("ORC-2072"),
        help("sign it anew with every key; nothing was written")
    )]
    ChangedSince {
        /// What differs first.
        what: String,
    },
    /// The signature is not one of this payload by a key that was given.
    #[error("the signature is not that of {keys} over this payload")]
    #[diagnostic(
        code("ORC-2073"),
        help("give the public key of whoever signed, with `--public`; nothing was written")
    )]
    ForeignSignature {
        /// The keys that were tried.
        keys: String,
    },
    /// The package carries signatures of another release. Its files are the same,
    /// or were signed before they changed.
    #[error("the package is signed as another release already, number {serial}")]
    #[diagnostic(
        code("ORC-2074"),
        help("sign that one, or drop its signatures with `--replace`; nothing was written")
    )]
    OtherRelease {
        /// The serial number it is signed as.
        serial: u64,
    },
    /// The file is not what `plugin digest` writes. It was altered or cut off, or
    /// is for another purpose, which a release key does not sign.
    #[error("`{path}` is no release to be signed: {reason}")]
    #[diagnostic(
        code("ORC-2075"),
        help("make it with `orchestrator plugin digest DIR --out FILE`; nothing was signed")
    )]
    NoPayload {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What is to be carried along is no attestation.
    #[error("`{name}` is no attestation: {reason}")]
    #[diagnostic(
        code("ORC-2076"),
        help(
            "an attestation is a DSSE envelope with an in-toto statement, as SLSA generators write it, in a file named *.dsse"
        )
    )]
    NoAttestation {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The envelope does not take the signature.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The export for minisign is no signature of this package.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Minisign(#[from] MinisignError),
}

/// The code and the help of what is wrong.
fn advice(fault: &VerifyError) -> String {
    let parts = [fault.code(), fault.help()];
    let parts = parts.iter().flatten().map(ToString::to_string);
    parts.collect::<Vec<_>>().join(": ")
}
