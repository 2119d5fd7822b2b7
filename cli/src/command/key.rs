//! `orchestrator key`

mod export;
mod generate;
mod import;
mod list;
mod passphrase;
mod revoke;
mod rotate;
mod show;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use orchestrator_signing::{
    KeyFacts, KeyFileError, Protection, PublicKey, SecretKey, clear_unfinished_keys, create_dir,
};

use crate::{context::Context, error::CliError, failure::Result, passphrase::Source};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a release key: a secret file for its owner, a public one for everybody
    #[command(after_help = "Examples:
  orchestrator key generate release
  orchestrator key generate ci --passphrase-fd 3 3< passphrase.txt
  orchestrator key generate throw-away --no-passphrase")]
    Generate(generate::Generate),

    /// List the keys of this home
    #[command(after_help = "Examples:
  orchestrator key list
  orchestrator key list release
  orchestrator key list --json

Files that cannot be used are listed with what is wrong with them, which does not make the
command fail unless you name the key. A public file that is missing is written again.")]
    List(list::List),

    /// Show everything about one key, and who trusts it here
    #[command(after_help = "Examples:
  orchestrator key show release
  orchestrator key show ./partner.pub --json")]
    Show(show::Show),

    /// Write the public half of a key as other programs read it
    #[command(after_help = "Examples:
  orchestrator key export release > release.pub
  orchestrator key export release --format minisign > minisign.pub
  orchestrator key export release --format note")]
    Export(export::Export),

    /// Take a key from a file of ours or of minisign into this home
    #[command(after_help = "Examples:
  orchestrator key import ~/.minisign/minisign.key --name release
  orchestrator key import partner.pub
  orchestrator key import backup/release.key --passphrase-fd 3 3< passphrase.txt

A secret key is written anew under its own passphrase, unless another is given. The file it comes
from stays where it is.")]
    Import(import::Import),

    /// Make the key that takes the place of another, and a statement that says so
    #[command(after_help = "Examples:
  orchestrator key rotate release
  orchestrator key rotate release --to release-2027
  orchestrator key rotate release --check release-2027.rotation.json

The old key stays, and goes on signing until you stop using it. What has to be done at the hosts
that trust it is printed.")]
    Rotate(rotate::Rotate),

    /// Mark a secret key as one that is no longer used
    #[command(after_help = "Examples:
  orchestrator key revoke release --reason 'stolen laptop'

Signing with it fails from then on, in this home. Other copies of it still sign: what has to be done
at the hosts that trust it is printed.")]
    Revoke(revoke::Revoke),

    /// Change the passphrase of a secret key
    #[command(after_help = "Examples:
  orchestrator key passphrase release
  orchestrator key passphrase ci --passphrase-fd 3 --new-passphrase-fd 4 3< old.txt 4< new.txt")]
    Passphrase(passphrase::Change),
}

impl Command {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        match self {
            Self::Generate(args) => args.execute(context).await,
            Self::List(args) => args.execute(context),
            Self::Show(args) => args.execute(context),
            Self::Export(args) => args.execute(context),
            Self::Import(args) => args.execute(context).await,
            Self::Rotate(args) => args.execute(context).await,
            Self::Revoke(args) => args.execute(context),
            Self::Passphrase(args) => args.execute(context).await,
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

/// Where a new key of this home goes, its secret file and its public one. Nothing
/// is there yet.
fn new_files(context: &Context, name: &str) -> Result<(PathBuf, PathBuf)> {
    let dir = context.home()?.keys();
    clear_unfinished_keys(&dir);
    let (secret, public) = files(&dir, name);
    for path in [&secret, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(CliError::KeyThere { path: path.clone() }.into());
        }
    }
    Ok((secret, public))
}

fn make_dir(context: &Context) -> Result {
    let dir = context.home()?.keys();
    let made = create_dir(&dir, 0o700);
    made.map_err(|error| CliError::file("make", &dir, error).into())
}

/// Writes a new key of this home.
fn write_new(
    context: &Context,
    key: &SecretKey,
    protection: &Protection,
) -> Result<(PathBuf, PathBuf)> {
    let (secret, public) = new_files(context, key.public().name())?;
    make_dir(context)?;
    write_both(key, protection, &secret, &public)?;
    Ok((secret, public))
}

/// Both halves of a key, or neither: a half would keep the next attempt from its name.
fn write_both(
    key: &SecretKey,
    protection: &Protection,
    secret: &Path,
    public: &Path,
) -> std::result::Result<(), KeyFileError> {
    key.write_file(secret, protection)?;
    let written = key.public().write_file(public);
    if written.is_err() {
        // What cannot be removed now, `key list` completes.
        fs::remove_file(secret).ok();
    }
    written
}

fn warn_plain(context: &Context, secret: &Path) {
    context.out.warn(&format!(
        "the key is not encrypted: whoever reads {} can sign",
        secret.display()
    ));
}

/// The public key that a command line names: a file, or a key of this home.
pub(crate) fn public(context: &Context, text: &str) -> Result<PublicKey> {
    if is_file(text, "pub") {
        return Ok(PublicKey::read_file(Path::new(text))?);
    }
    let (secret, public) = files(&context.home()?.keys(), text);
    // `key generate` may have been killed between the two.
    match public.symlink_metadata().is_err() && secret.is_file() {
        true => Ok(KeyFacts::read_file(&secret)?.public),
        false => Ok(PublicKey::read_file(&public)?),
    }
}

/// The public keys of this home that can be used.
pub(crate) fn publics(context: &Context) -> Result<Vec<PublicKey>> {
    let names = list::names(&context.home()?.keys())?;
    let keys = names.into_keys().map(|name| public(context, &name));
    Ok(keys.filter_map(Result::ok).collect())
}

/// The secret file that a command line names, likewise.
fn secret_file(context: &Context, text: &str) -> Result<PathBuf> {
    Ok(match is_file(text, "key") {
        true => PathBuf::from(text),
        false => files(&context.home()?.keys(), text).0,
    })
}

/// The secret key that a command line names, likewise. Asks for its passphrase
/// when it has one.
pub(crate) async fn secret(
    context: &Context,
    text: &str,
    passphrase: &Source,
) -> Result<SecretKey> {
    let path = secret_file(context, text)?;
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

/// A word as a shell takes it back.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._@/-:,=+".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_half_that_cannot_be_written_leaves_no_secret_one() {
        let dir = tempfile::tempdir().unwrap();
        let key = SecretKey::generate("release").unwrap();
        let secret = dir.path().join("release.key");
        let write = |public: &Path| write_both(&key, &Protection::None, &secret, public);
        write(&dir.path().join("nowhere/release.pub")).unwrap_err();
        assert!(!secret.exists());
        write(&dir.path().join("release.pub")).unwrap();
        assert!(secret.exists());
    }
}
