//! `orchestrator key import`

use std::path::{Path, PathBuf};

use orchestrator_signing::{
    Kdf, KeyFacts, KeyFileError, KeyFileKind, Protection, PublicKey, SecretKey,
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    audit::{self, About},
    context::Context,
    failure::Result,
    passphrase::{NewSource, Source},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// A secret or public key file, of this program or of minisign
    file: PathBuf,

    /// What to call the key here [default: the name it has]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    #[command(flatten)]
    passphrase: Source,

    #[command(flatten)]
    new_passphrase: NewSource,
}

impl Import {
    pub(super) async fn execute(self, context: &Context) -> Result {
        let kind = KeyFileKind::of_file(&self.file)?;
        match kind {
            KeyFileKind::Public | KeyFileKind::MinisignPublic => self.public(context),
            KeyFileKind::Secret | KeyFileKind::MinisignSecret => self.secret(context, kind).await,
        }
    }

    fn public(&self, context: &Context) -> Result {
        let key = match &self.name {
            None => PublicKey::read_file(&self.file)?,
            Some(name) => read_as(&self.file, name)?,
        };
        audit::about(context, About::keys([&key]));
        let (_, public) = super::new_files(context, key.name())?;
        super::make_dir(context)?;
        key.write_file(&public)?;
        show(context, &key, &public, None)
    }

    async fn secret(&self, context: &Context, kind: KeyFileKind) -> Result {
        let name = match (&self.name, kind) {
            (Some(name), _) => name.clone(),
            (None, KeyFileKind::Secret) => {
                KeyFacts::read_file(&self.file)?.public.name().to_owned()
            }
            (None, _) => stem(&self.file),
        };
        // A name that cannot be used or is taken is known before anybody types.
        SecretKey::from_seed(&[1; 32], &name).map_err(KeyFileError::from)?;
        let (secret, _) = super::new_files(context, &name)?;
        let read = |passphrase: Option<Zeroizing<String>>| match kind {
            KeyFileKind::Secret => {
                let key = SecretKey::read_file(&self.file, || passphrase)?;
                Ok(key.renamed(&name)?)
            }
            _ => SecretKey::read_minisign_file(&self.file, &name, || passphrase),
        };
        let mut own = None;
        let key = match read(None) {
            Err(KeyFileError::PassphraseNeeded) => {
                let shown = self.file.display().to_string();
                let passphrase = self.passphrase.existing(&shown, context.may_ask()).await?;
                own = Some(passphrase.clone());
                read(Some(passphrase))?
            }
            other => other?,
        };
        audit::about(context, About::keys([key.public()]));
        let protection = match (own, self.new_passphrase.is_given()) {
            (Some(passphrase), false) => Protection::Passphrase(passphrase, Kdf::RECOMMENDED),
            _ => self.new_passphrase.protection(context, &name).await?,
        };
        if matches!(protection, Protection::None) {
            super::warn_plain(context, &secret);
        }
        let (secret, public) = super::write_new(context, &key, &protection)?;
        show(context, key.public(), &public, Some(&secret))
    }
}

/// The key under another name, whatever its file is called.
fn read_as(file: &Path, name: &str) -> Result<PublicKey> {
    let key = PublicKey::read_file(file)?;
    Ok(key.renamed(name).map_err(KeyFileError::from)?)
}

fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn show(context: &Context, key: &PublicKey, public: &Path, secret: Option<&Path>) -> Result {
    let value = json!({
        "name": key.name(),
        "key_id": key.id(),
        "minisign_id": key.minisign_id().to_string(),
        "public": key.to_line(),
        "public_file": public.display().to_string(),
        "secret_file": secret.map(|path| path.display().to_string()),
    });
    context.out.show(&value, |_| {
        let half = match secret {
            Some(_) => "secret",
            None => "public",
        };
        format!("imported the {half} key {} ({})", key.name(), key.id())
    })
}
