//! `orchestrator plugin sign`

use std::path::{Path, PathBuf};

use orchestrator_signing::{
    Draft, ENVELOPE_SIZE_MAX, PublicKey, ReleasePayload, ReleaseSummary, SignOptions, attach,
    attach_minisig, remove_leftovers, signed_payload,
};
use serde_json::{Value, json};

use crate::{
    audit::{self, About},
    bounded_file,
    context::Context,
    failure::Result,
    output::harmless,
    signer::KeyArgs,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The package's directory
    #[arg(required_unless_present = "detached", conflicts_with = "detached")]
    dir: Option<PathBuf>,

    #[command(flatten)]
    key: KeyArgs,

    /// The number of this release, which only rises [default: milliseconds since 1970]
    #[arg(long, value_name = "N", conflicts_with_all = ["add", "detached"])]
    serial: Option<u64>,

    /// The only platform that it runs on, such as x86_64-unknown-linux-gnu [default: any]
    #[arg(long, value_name = "TRIPLE", conflicts_with_all = ["add", "detached"])]
    platform: Option<String>,

    /// Add a signature to those that are there
    #[arg(long, conflicts_with = "detached")]
    add: bool,

    /// Sign what `plugin digest --out` wrote, without the package
    #[arg(long, value_name = "FILE", requires = "out")]
    detached: Option<PathBuf>,

    /// Where to write the signature, for `plugin attach`
    #[arg(long, value_name = "FILE", requires = "detached")]
    out: Option<PathBuf>,

    /// Also sign META/MANIFEST as minisign does, for people without this program;
    /// with `--out FILE`, the signature is FILE.minisig
    #[arg(long)]
    minisign: bool,

    /// Carry this attestation along: a DSSE envelope in a file named *.dsse
    #[arg(long, value_name = "FILE", conflicts_with_all = ["add", "detached"])]
    attest: Vec<PathBuf>,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        match (&self.detached, &self.out, &self.dir) {
            (Some(file), Some(out), _) => self.detached(context, file, out).await,
            (_, _, Some(dir)) if self.add => self.again(context, dir).await,
            (_, _, dir) => {
                let dir = dir.clone().unwrap_or_default();
                self.package(context, &dir).await
            }
        }
    }

    async fn package(&self, context: &Context, dir: &Path) -> Result {
        let mut options = options(self.serial);
        options.triple.clone_from(&self.platform);
        for file in &self.attest {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let bytes = bounded_file::read(file, ENVELOPE_SIZE_MAX)?;
            options.attestations.push((name.into_owned(), bytes));
        }
        let signer = self.key.signer(context).await?;
        remove_leftovers(dir)?;
        let draft = Draft::new(dir, &options)?;
        let payload = draft.payload().clone();
        let signature = signer.sign(&payload.message()).await?;
        // Both signatures are there before either is written.
        let export = match self.minisign {
            true => Some(signer.minisign(&payload).await?),
            false => None,
        };
        let summary = draft.seal(signer.public(), &signature)?;
        if let Some(export) = &export {
            attach_minisig(dir, signer.public(), export)?;
        }
        show(context, &summary, signer.public(), None)
    }

    async fn again(&self, context: &Context, dir: &Path) -> Result {
        let signer = self.key.signer(context).await?;
        let payload = signed_payload(dir)?;
        let signature = signer.sign(&payload.message()).await?;
        let envelope = payload.envelope(signer.public(), &signature);
        let envelope = envelope.map_err(orchestrator_signing::SignError::from)?;
        let summary = attach(dir, &envelope, &[signer.public().clone()], false)?;
        if self.minisign {
            attach_minisig(dir, signer.public(), &signer.minisign(&payload).await?)?;
        }
        show(context, &summary, signer.public(), None)
    }

    async fn detached(&self, context: &Context, file: &Path, out: &Path) -> Result {
        let message = bounded_file::read(file, ENVELOPE_SIZE_MAX)?;
        let payload = ReleasePayload::from_message(&message, file)?;
        // Said before the passphrase is asked for: who signs has seen it.
        for line in lines(&payload.summary()) {
            context.out.note(&line);
        }
        let signer = self.key.signer(context).await?;
        let signature = signer.sign(&message).await?;
        let envelope = payload.envelope(signer.public(), &signature);
        let envelope = envelope.map_err(orchestrator_signing::SignError::from)?;
        if self.minisign {
            let export = signer.minisign(&payload).await?;
            bounded_file::write(&export_of(out), export.to_text().as_bytes())?;
        }
        bounded_file::write(out, envelope.to_json().as_bytes())?;
        show(context, &payload.summary(), signer.public(), Some(out))
    }
}

/// Where the signature for minisign lies beside a detached one.
pub(super) fn export_of(signature: &Path) -> PathBuf {
    let mut name = signature.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// A release that is made now, with this number or that of the moment.
pub(super) fn options(serial: Option<u64>) -> SignOptions {
    let now = jiff::Timestamp::now().as_millisecond();
    let serial = serial.unwrap_or_else(|| u64::try_from(now).unwrap_or(1));
    SignOptions::new(serial)
}

/// What a release is, a line for each thing there is to say.
pub(super) fn lines(release: &ReleaseSummary) -> Vec<String> {
    let capabilities = match release.capabilities.is_empty() {
        true => "none".to_owned(),
        false => release.capabilities.join(", "),
    };
    let lines = [
        ("plugin", format!("{} {}", release.name, release.version)),
        ("release", release.serial.to_string()),
        ("created", release.created.to_string()),
        ("runs", release.entry.clone()),
        ("asks for", capabilities),
        (
            "files",
            format!("{}, {} bytes", release.files, release.bytes),
        ),
        ("statement", format!("sha256:{}", release.digest)),
        ("signed bytes", format!("sha256:{}", release.message_digest)),
    ];
    let lines = lines.iter();
    lines
        .map(|(name, value)| format!("{name:<13} {}", harmless(value)))
        .collect()
}

pub(super) fn as_json(release: &ReleaseSummary) -> Value {
    json!({
        "name": release.name,
        "version": release.version,
        "serial": release.serial,
        "created": release.created.to_string(),
        "expires": release.expires.map(|at| at.to_string()),
        "entry": release.entry,
        "capabilities": release.capabilities,
        "digest": release.digest,
        "message_sha256": release.message_digest,
        "files": release.files,
        "bytes": release.bytes,
    })
}

fn show(
    context: &Context,
    release: &ReleaseSummary,
    key: &PublicKey,
    out: Option<&Path>,
) -> Result {
    audit::about(context, About::signed(release, key));
    let mut value = as_json(release);
    value["key_id"] = json!(key.id());
    value["signature_file"] = json!(out.map(|out| out.display().to_string()));
    context.out.show(&value, |_| {
        format!(
            "signed {} {} with {}: {} files, {} bytes, release {}",
            release.name,
            release.version,
            key.name(),
            release.files,
            release.bytes,
            release.serial
        )
    })
}
