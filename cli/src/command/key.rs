//! `orchestrator key`

mod list;

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use orchestrator_signing::{
    Kdf, KeyFileError, Protection, PublicKey, SecretKey, clear_unfinished_keys,
};
use serde_json::json;

use self::list::List;
use crate::{context::Context, error::CliError, failure::Result, passphrase::Source};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a release key: a secret file for its owner, a public one for everybody
    #[command(after_help = "Examples:
  orchestrator key generate release
  orchestrator key generate ci --passphrase-fd 3 3< passphrase.txt
  orchestrator key generate throw-away --no-passphrase")]
    Generate(Generate),

    /// List the keys of this home
    #[command(after_help = "Examples:
  orchestrator key list
  orchestrator key list release
  orchestrator key list --json

Files that cannot be used are listed with what is wrong with them, which does not make the
command fail unless you name the key. A public file that is missing is written again.")]
    List(List),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// What to call the key
    name: String,

    #[command(flatten)]
    passphrase: Source,

    /// Do not encrypt the secret key: whoever reads its file can sign
    #[arg(long, conflicts_with_all = ["passphrase_fd", "passphrase_command"])]
    no_passphrase: bool,
}

impl Command {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        match self {
            Self::Generate(args) => args.execute(context).await,
            Self::List(args) => args.execute(context),
        }
    }
}

/// The files of the key `name`: secret, public.
fn files(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (
        dir.join(format!("{name}.key")),
        dir.join(format!("{name}.pub")),
    )
}

impl Generate {
    async fn execute(self, context: &Context) -> Result {
        // Refuses a bad name before it becomes a path, and before anybody types.
        let key = SecretKey::generate(&self.name).map_err(KeyFileError::from)?;
        let dir = context.home()?.keys();
        clear_unfinished_keys(&dir);
        let (secret, public) = files(&dir, &self.name);
        for path in [&secret, &public] {
            if path.symlink_metadata().is_ok() {
                let taken = io::ErrorKind::AlreadyExists.into();
                return Err(CliError::file("make", path, taken).into());
            }
        }
        let protection = if self.no_passphrase {
            context.out.warn(&format!(
                "the key is not encrypted: whoever reads {} can sign",
                secret.display()
            ));
            Protection::None
        } else {
            let passphrase = self
                .passphrase
                .new_one(&self.name, context.may_ask())
                .await?;
            Protection::Passphrase(passphrase, Kdf::RECOMMENDED)
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| CliError::file("make", &dir, error))?;
        key.write_file(&secret, &protection)?;
        key.public().write_file(&public)?;
        let value = json!({
            "name": self.name,
            "key_id": key.public().id(),
            "public": key.public().to_line(),
            "public_file": public.display().to_string(),
            "secret_file": secret.display().to_string(),
            "encrypted": !self.no_passphrase,
        });
        context.out.show(&value, |_| {
            format!(
                "made the key {} ({})\n  secret  {}\n  public  {}\n",
                self.name,
                key.public().id(),
                secret.display(),
                public.display()
            )
        })
    }
}

/// The public key that a command line names: a file, or a key of this home.
pub(crate) fn public(context: &Context, text: &str) -> Result<PublicKey> {
    if is_file(text, "pub") {
        return Ok(PublicKey::read_file(Path::new(text))?);
    }
    let (secret, public) = files(&context.home()?.keys(), text);
    // `key generate` may have been killed between the two.
    match public.symlink_metadata().is_err() && secret.is_file() {
        true => Ok(PublicKey::read_secret_file(&secret)?),
        false => Ok(PublicKey::read_file(&public)?),
    }
}

/// The secret key that a command line names, likewise. Asks for its passphrase
/// when it has one.
pub(crate) async fn secret(
    context: &Context,
    text: &str,
    passphrase: &Source,
) -> Result<SecretKey> {
    let path = match is_file(text, "key") {
        true => PathBuf::from(text),
        false => files(&context.home()?.keys(), text).0,
    };
    match SecretKey::read_file(&path, || None) {
        Err(KeyFileError::PassphraseNeeded) => {}
        other => return Ok(other?),
    }
    let name = path.display().to_string();
    let passphrase = passphrase.existing(&name, context.may_ask()).await?;
    Ok(SecretKey::read_file(&path, || Some(passphrase))?)
}

/// Names of keys have no separator in them, and no such ending in practice.
fn is_file(text: &str, ending: &str) -> bool {
    text.contains('/')
        || Path::new(text)
            .extension()
            .is_some_and(|found| found == ending)
}
