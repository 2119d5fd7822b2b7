//! `orchestrator plugin verify`

use std::path::PathBuf;

use miette::Diagnostic as _;
use orchestrator_signing::{Package, Publisher, TrustStore, Verified, verify};
use serde_json::{Value, json};

use super::pack;
use crate::{
    audit::{self, About},
    context::Context,
    failure::Result,
    output::harmless,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The package's directory, or an archive
    package: PathBuf,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let trust = TrustStore::open(&context.home()?.trust())?;
        // The archive's files are there for as long as this is.
        let _unpacked;
        let package = match pack::is_archive(&self.package) {
            true => {
                let (unpacked, package) = pack::open(context, &self.package, &trust)?;
                _unpacked = unpacked;
                package
            }
            false => {
                audit::about(context, About::claimed(&self.package));
                verify(&self.package, &trust.root())?
            }
        };
        say_export(context, &package, &trust);
        show(context, &package, "is what was signed")
    }
}

/// Says of the signature for minisign whether it is good. It decides nothing here,
/// and whoever has only minisign relies on it.
fn say_export(context: &Context, package: &Verified<Package>, trust: &TrustStore) {
    let keys = trust.list().iter().map(|trusted| &trusted.key);
    match package.minisign_export(keys) {
        None => {}
        Some(Ok(signature)) => context.out.note(&format!(
            "META/MANIFEST.minisig is good too: {}",
            harmless(signature.trusted_comment())
        )),
        Some(Err(error)) => {
            let code = error
                .code()
                .map_or_else(String::new, |code| format!(" ({code})"));
            context
                .out
                .warn(&format!("META/MANIFEST.minisig misleads{code}: {error}"));
        }
    }
}

/// Says what a verified package is; `verdict` follows its name.
pub(super) fn show(context: &Context, package: &Verified<Package>, verdict: &str) -> Result {
    for warning in package.warnings() {
        context.out.warn(warning);
    }
    context.out.show(&as_json(package), |_| {
        let manifest = package.manifest();
        let by = match package.publisher() {
            Publisher::Key { .. } => format!("signed by {}", package.signers().join(", ")),
            Publisher::Host => "compiled in".to_owned(),
            Publisher::Nobody => "signed by nobody".to_owned(),
        };
        let mut text = format!(
            "{} {} {verdict}: {by}, trust level {}",
            manifest.id,
            manifest.version,
            package.trust_level()
        );
        if let Some(release) = package.release() {
            let (serial, digest) = (release.serial, release.digest);
            text += &format!("\n  release {serial}, digest sha256:{digest}");
        }
        for attestation in package.attestations() {
            let what = attestation.predicate_type.as_deref();
            let what = harmless(what.unwrap_or("cannot be read"));
            text += &format!("\n  carries {}: {what}", attestation.path);
        }
        text
    })
}

pub(super) fn as_json(package: &Verified<Package>) -> Value {
    let manifest = package.manifest();
    json!({
        "name": manifest.id,
        "version": manifest.version,
        "kind": manifest.kind.as_str(),
        "publisher": package.publisher().to_string(),
        "signed_by": package.signers(),
        "trust_level": package.trust_level(),
        "digest": package.statement_digest(),
        "serial": package.release().map(|release| release.serial),
        "capabilities": manifest.capabilities,
        "attestations": package.attestations().iter().map(|it| json!({
            "path": it.path,
            "predicate_type": it.predicate_type,
        })).collect::<Vec<_>>(),
        "warnings": package.warnings(),
    })
}
