//! `orchestrator plugin verify`

use std::path::PathBuf;

use orchestrator_signing::{Package, Publisher, TrustStore, Verified, verify};
use serde_json::{Value, json};

use crate::{context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The package's directory
    dir: PathBuf,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let trust = TrustStore::open(&context.home()?.trust())?;
        let package = verify(&self.dir, &trust.root())?;
        show(context, &package, "is what was signed")
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
            Publisher::Key { name, .. } => format!("signed by {name}"),
            Publisher::Host => "compiled in".to_owned(),
            Publisher::Nobody => "signed by nobody".to_owned(),
        };
        format!(
            "{} {} {verdict}: {by}, trust level {}",
            manifest.id,
            manifest.version,
            package.trust_level()
        )
    })
}

fn as_json(package: &Verified<Package>) -> Value {
    let manifest = package.manifest();
    json!({
        "name": manifest.id,
        "version": manifest.version,
        "kind": manifest.kind.as_str(),
        "publisher": package.publisher().to_string(),
        "trust_level": package.trust_level(),
        "digest": package.statement_digest(),
        "serial": package.release().map(|release| release.serial),
        "capabilities": manifest.capabilities,
        "warnings": package.warnings(),
    })
}
