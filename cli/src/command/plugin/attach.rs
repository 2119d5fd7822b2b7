//! `orchestrator plugin attach`

use std::path::PathBuf;

use orchestrator_signing::{
    ENVELOPE_SIZE_MAX, Envelope, MinisignSignature, PublicKey, ReleasePayload, SIGNATURE_LEN,
    SignError, TrustStore, VerifyError, attach, attach_minisig,
};
use serde_json::json;

use super::sign::{as_json, export_of};
use crate::{bounded_file, command::key, context::Context, failure::Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The package's directory
    dir: PathBuf,

    /// What `plugin sign --detached` wrote; with `--payload`, also the 64 bytes of a
    /// signature
    signature: PathBuf,

    /// The public key of whoever signed: a file, or the name of a key of this home
    /// [default: every key of this home and of its trust root]
    #[arg(long, value_name = "KEY")]
    public: Vec<String>,

    /// What `plugin digest --out` wrote, where the signature file does not hold it
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,

    /// Drop signatures of another release that are there
    #[arg(long)]
    replace: bool,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let keys = self.keys(context)?;
        let bytes = bounded_file::read(&self.signature, ENVELOPE_SIZE_MAX)?;
        let envelope = match (&self.payload, <[u8; SIGNATURE_LEN]>::try_from(&bytes[..])) {
            (Some(file), Ok(signature)) => {
                let message = bounded_file::read(file, ENVELOPE_SIZE_MAX)?;
                let payload = ReleasePayload::from_message(&message, file)?;
                bare(&payload, &signature, &keys)?
            }
            _ => Envelope::parse(&bytes).map_err(SignError::from)?,
        };
        let release = attach(&self.dir, &envelope, &keys, self.replace)?;
        let export = export_of(&self.signature);
        let has_export = export.is_file();
        if has_export {
            let text = String::from_utf8(bounded_file::read(&export, ENVELOPE_SIZE_MAX)?)
                .unwrap_or_default();
            let signature = MinisignSignature::parse(&text).map_err(SignError::from)?;
            let key = keys
                .iter()
                .find(|key| key.minisign_id() == signature.key_id());
            let key = key.ok_or_else(|| foreign(&keys))?;
            attach_minisig(&self.dir, key, &signature)?;
        }
        let mut value = as_json(&release);
        value["minisign"] = json!(has_export);
        context.out.show(&value, |_| {
            format!(
                "{} {} is signed: {} files, {} bytes, release {}",
                release.name, release.version, release.files, release.bytes, release.serial
            )
        })
    }

    fn keys(&self, context: &Context) -> Result<Vec<PublicKey>> {
        if !self.public.is_empty() {
            let keys = self.public.iter().map(|text| key::public(context, text));
            return keys.collect();
        }
        let mut keys = key::publics(context)?;
        let store = TrustStore::open(&context.home()?.trust())?;
        keys.extend(store.list().iter().map(|trusted| trusted.key.clone()));
        Ok(keys)
    }
}

/// The envelope of a signature that comes without its payload.
fn bare(
    payload: &ReleasePayload,
    signature: &[u8; SIGNATURE_LEN],
    keys: &[PublicKey],
) -> Result<Envelope> {
    let message = payload.message();
    let mut keys_that_signed = keys.iter().filter(|key| key.verifies(&message, signature));
    let key = keys_that_signed.next().ok_or_else(|| foreign(keys))?;
    let envelope = payload.envelope(key, signature);
    Ok(envelope
        .map_err(VerifyError::from)
        .map_err(SignError::from)?)
}

fn foreign(keys: &[PublicKey]) -> SignError {
    let names: Vec<_> = keys.iter().map(|key| format!("`{}`", key.name())).collect();
    let keys = names.join(" or ");
    SignError::ForeignSignature { keys }
}
