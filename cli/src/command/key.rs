//! `orchestrator key`

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use orchestrator_signing::{Kdf, KeyFileError, Protection, PublicKey, SecretKey};
use serde_json::json;

use crate::{context::Context, error::CliError, failure::Result, passphrase::Source, table::Table};

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
  orchestrator key list --json")]
    List,
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
            Self::List => list(context),
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
        let (secret, public) = files(&dir, &self.name);
        for path in [&secret, &public] {
            if path.symlink_metadata().is_ok() {
                let taken = std::io::ErrorKind::AlreadyExists.into();
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
            "public_file": public,
            "secret_file": secret,
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

fn list(context: &Context) -> Result {
    let dir = context.home()?.keys();
    let mut keys = Vec::new();
    for path in public_files(&dir)? {
        let key = PublicKey::read_file(&path)?;
        let secret = path.with_extension("key");
        keys.push((key, path, secret.is_file()));
    }
    let value: Vec<_> = keys
        .iter()
        .map(|(key, path, has_secret)| {
            json!({
                "name": key.name(),
                "key_id": key.id(),
                "public": key.to_line(),
                "public_file": path,
                "has_secret": has_secret,
            })
        })
        .collect();
    context.out.show(&value, |_| {
        if keys.is_empty() {
            return "no keys; `orchestrator key generate NAME` makes one\n".to_owned();
        }
        let mut table = Table::new(["NAME", "KEY", "SECRET"]);
        for (key, _, has_secret) in &keys {
            let secret = if *has_secret { "here" } else { "elsewhere" };
            table.row([
                key.name().to_owned(),
                key.id().to_string(),
                secret.to_owned(),
            ]);
        }
        table.to_string()
    })
}

/// The public key files in `dir`, sorted; none where there is no such directory.
fn public_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(CliError::file("read", dir, error).into()),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "pub") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The public key that a command line names: a file, or a key of this home.
pub(crate) fn public(context: &Context, text: &str) -> Result<PublicKey> {
    let path = match is_file(text, "pub") {
        true => PathBuf::from(text),
        false => files(&context.home()?.keys(), text).1,
    };
    Ok(PublicKey::read_file(&path)?)
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
