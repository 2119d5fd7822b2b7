//! `orchestrator plugin validate`

use std::path::PathBuf;

use orchestrator_manifest::Manifest;
use orchestrator_signing::check_files;

use crate::{context::Context, failure::Result, output::counted};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A package's directory, or a manifest file alone
    #[arg(required_unless_present = "schema")]
    path: Option<PathBuf>,

    /// Print the manifest's JSON Schema, for editors
    #[arg(long, conflicts_with = "path")]
    schema: bool,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let Some(path) = self.path else {
            let schema = serde_json::to_value(orchestrator_manifest::json_schema());
            let schema = schema.map_err(std::io::Error::from)?;
            let text = serde_json::to_string_pretty(&schema).map_err(std::io::Error::from)?;
            return context.out.text(&text);
        };
        let manifest = match path.is_file() {
            true => Manifest::load_file(&path)?,
            // Looks for the files that the manifest names too, and for those that
            // nobody could sign.
            false => {
                let manifest = Manifest::load(&path)?;
                check_files(&path)?;
                manifest
            }
        };
        context.out.show(&manifest, |manifest| {
            format!(
                "{} {} is valid: kind {}, {}, asks for {}",
                manifest.id,
                manifest.version,
                manifest.kind.as_str(),
                counted(manifest.phases.len(), "phase"),
                counted(manifest.capabilities.len(), "capability")
            )
        })
    }
}
