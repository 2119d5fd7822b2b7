//! `orchestrator key rotate`

use std::path::{Path, PathBuf};

use orchestrator_signing::{
    ENVELOPE_SIZE_MAX, KeyFacts, KeyFileError, PublicKey, Rotation, RotationError, SecretKey,
};
use serde_json::json;

use crate::{
    audit::{self, About},
    bounded_file,
    context::Context,
    exit::Exit,
    failure::{Failure, Result},
    passphrase::{NewSource, Source},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// The key that retires: of this home, or with `--check` also a public key file
    key: String,

    /// What to call the new key [default: the old name with the next number]
    #[arg(long, value_name = "NAME", conflicts_with = "check")]
    to: Option<String>,

    /// Make nothing; say which key this statement puts in the place of the old one
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,

    #[command(flatten)]
    passphrase: Source,

    #[command(flatten)]
    new_passphrase: NewSource,
}

impl Rotate {
    pub(super) async fn execute(self, context: &Context) -> Result {
        if let Some(file) = &self.check {
            let old = super::public(context, &self.key)?;
            return check(context, file, &old);
        }
        let facts = KeyFacts::read_file(&super::secret_file(context, &self.key)?)?;
        let name = match &self.to {
            Some(name) => name.clone(),
            None => next(context, facts.public.name())?,
        };
        let new = SecretKey::generate(&name).map_err(KeyFileError::from)?;
        super::new_files(context, &name)?;
        let old = super::secret(context, &self.key, &self.passphrase).await?;
        audit::about(context, About::keys([old.public(), new.public()]));
        let protection = self.new_passphrase.protection(context, &name).await?;
        let (secret, public) = super::write_new(context, &new, &protection)?;
        let statement = public.with_extension("rotation.json");
        let text = Rotation::sign(&old, &new).to_json();
        bounded_file::write(&statement, text.as_bytes())?;
        // There, keys are the files that were handed over. The new key gets the terms of
        // the old one, which then ends by itself.
        let file = |name: &str, ending: &str| super::quoted(&format!("./{name}.{ending}"));
        let (was, new_file) = (old.public().name(), file(&name, "pub"));
        let commands = [
            format!(
                "orchestrator key rotate {} --check {}",
                file(was, "pub"),
                file(&name, "rotation.json")
            ),
            format!(
                "orchestrator trust rotate {} {new_file} --overlap 14",
                old.public().id()
            ),
        ];
        let value = json!({
            "from": old.public().id(),
            "name": name,
            "key_id": new.public().id(),
            "public": new.public().to_line(),
            "public_file": public.display().to_string(),
            "secret_file": secret.display().to_string(),
            "statement": statement.display().to_string(),
            "at_verifiers": commands,
        });
        let id = new.public().id();
        let commands = commands.join("\n  ");
        context.out.show(&value, |_| {
            format!(
                "made the key {name} ({id}) to take the place of {was}\n\
                 \x20 secret     {}\n  public     {}\n  statement  {}\n\
                 hand both public files and the statement to whoever trusts {was}; there, run\n\
                 \x20 {commands}\n\
                 and sign new releases with {name} from then on\n",
                secret.display(),
                public.display(),
                statement.display(),
            )
        })
    }
}

/// `release` is followed by `release-2`, and that by `release-3`.
fn next(context: &Context, name: &str) -> Result<String> {
    let numbered = name.rsplit_once('-').and_then(|(stem, number)| {
        let number: u32 = number.parse().ok().filter(|number| *number < 1_000)?;
        Some((stem, number))
    });
    let (stem, number) = numbered.unwrap_or((name, 1));
    let keys = context.home()?.keys();
    let is_free = |name: &String| {
        let (secret, public) = super::files(&keys, name);
        secret.symlink_metadata().is_err() && public.symlink_metadata().is_err()
    };
    let names = (number + 1..=number + 1_000).map(|number| format!("{stem}-{number}"));
    let mut free = names.filter(is_free);
    Ok(free.next().unwrap_or_else(|| name.to_owned()))
}

fn check(context: &Context, file: &Path, old: &PublicKey) -> Result {
    let bytes = bounded_file::read(file, ENVELOPE_SIZE_MAX)?;
    let rotation = Rotation::read(&bytes, old).map_err(|error| {
        let exit = match &error {
            RotationError::NotSigned { .. } => Exit::Trust,
            _ => Exit::Invalid,
        };
        Failure::new(exit, error)
    })?;
    let value = json!({
        "from": rotation.from,
        "key_id": rotation.to.id(),
        "name": rotation.to.name(),
        "public": rotation.to.to_line(),
        "created": rotation.created.to_string(),
    });
    context.out.show(&value, |_| {
        format!(
            "{} says that {} ({}) takes its place:\n  {}\n",
            old.name(),
            rotation.to.name(),
            rotation.to.id(),
            rotation.to.to_line()
        )
    })
}
