//! `orchestrator plugin sign`

use std::path::PathBuf;

use orchestrator_signing::{SignOptions, cosign, sign};
use serde_json::json;

use crate::{command::key, context::Context, failure::Result, passphrase::Source};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The package's directory
    dir: PathBuf,

    /// A secret key file, or the name of a key of this home
    #[arg(long, value_name = "KEY")]
    key: String,

    /// The number of this release, which only rises [default: seconds since 1970]
    #[arg(long, value_name = "N", conflicts_with = "add")]
    serial: Option<u64>,

    /// Add a signature to those that are there
    #[arg(long)]
    add: bool,

    #[command(flatten)]
    passphrase: Source,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let key = key::secret(context, &self.key, &self.passphrase).await?;
        let report = match self.add {
            true => cosign(&self.dir, &key)?,
            false => {
                let now = jiff::Timestamp::now().as_second();
                let serial = self
                    .serial
                    .unwrap_or_else(|| u64::try_from(now).unwrap_or(1));
                sign(&self.dir, &key, &SignOptions::new(serial))?
            }
        };
        let value = json!({
            "name": report.name,
            "version": report.version,
            "serial": report.serial,
            "digest": report.digest,
            "key_id": report.key_id,
            "files": report.files,
            "bytes": report.bytes,
        });
        context.out.show(&value, |_| {
            format!(
                "signed {} {} with {}: {} files, {} bytes, release {}",
                report.name,
                report.version,
                key.public().name(),
                report.files,
                report.bytes,
                report.serial
            )
        })
    }
}
