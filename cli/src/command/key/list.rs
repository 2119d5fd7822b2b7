//! `orchestrator key list`

use std::{
    collections::BTreeMap,
    error::Error as _,
    fs, io,
    path::{Path, PathBuf},
};

use miette::Diagnostic as _;
use orchestrator_signing::{KeyFacts, KeyFileError, PublicKey, Revocation, clear_unfinished_keys};
use serde_json::{Value, json};

use crate::{
    context::Context,
    error::CliError,
    failure::{Result, as_json},
    output::{Output, harmless},
    table::Table,
};

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only this key; a fault of its files is then the command's own
    name: Option<String>,
}

/// A key of the home, or files that should be one.
struct Listed {
    name: String,
    public_file: PathBuf,
    has_secret: bool,
    key: std::result::Result<(PublicKey, Option<Revocation>), KeyFileError>,
}

impl List {
    pub(super) fn execute(self, context: &Context) -> Result {
        let dir = context.home()?.keys();
        clear_unfinished_keys(&dir);
        let mut keys = Vec::new();
        for (name, has_secret) in names(&dir)? {
            if self.name.as_ref().is_none_or(|wanted| *wanted == name) {
                keys.push(Listed::read(context.out, &dir, name, has_secret));
            }
        }
        if let Some(name) = self.name {
            // One that is not there fails as reading it does.
            let only = keys.pop();
            let only = only.unwrap_or_else(|| Listed::read(context.out, &dir, name, false));
            keys.push(Listed {
                key: Ok(only.key?),
                ..only
            });
        }
        let value: Vec<_> = keys.iter().map(Listed::to_json).collect();
        context.out.show(&value, |_| table(&keys))
    }
}

/// What the files of the home are called without their ending, and whether the
/// secret one is among them.
pub(super) fn names(dir: &Path) -> Result<BTreeMap<String, bool>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(CliError::file("read", dir, error).into()),
    };
    let mut names = BTreeMap::new();
    for entry in entries {
        let file = entry?.file_name();
        let Some((name, ending)) = file.to_str().and_then(|file| file.rsplit_once('.')) else {
            continue;
        };
        if matches!(ending, "key" | "pub") && !name.is_empty() {
            *names.entry(name.to_owned()).or_default() |= ending == "key";
        }
    }
    Ok(names)
}

impl Listed {
    fn read(out: Output, dir: &Path, name: String, has_secret: bool) -> Self {
        let (secret_file, public_file) = super::files(dir, &name);
        let key = match has_secret {
            true => with_secret(out, &secret_file, &public_file),
            false => PublicKey::read_file(&public_file).map(|key| (key, None)),
        };
        Self {
            name,
            public_file,
            has_secret,
            key,
        }
    }

    fn to_json(&self) -> Value {
        let mut value = json!({
            "name": self.name,
            "public_file": self.public_file.display().to_string(),
            "has_secret": self.has_secret,
        });
        match &self.key {
            Ok((key, revoked)) => {
                value["key_id"] = json!(key.id());
                value["public"] = key.to_line().into();
                value["revoked"] = json!(revoked);
            }
            Err(error) => value["error"] = as_json(error, None),
        }
        value
    }
}

/// The public half of a secret key. Its own file is written again where it is
/// missing: whoever killed `key generate` in between finds a whole key.
fn with_secret(
    out: Output,
    secret_file: &Path,
    public_file: &Path,
) -> std::result::Result<(PublicKey, Option<Revocation>), KeyFileError> {
    let facts = KeyFacts::read_file(secret_file)?;
    let key = facts.public;
    match PublicKey::read_file(public_file) {
        Ok(public) if public == key => Ok((key, facts.revoked)),
        Ok(_) => Err(KeyFileError::HalvesDiffer {
            path: secret_file.display().to_string(),
        }),
        Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            key.write_file(public_file)?;
            out.warn(&format!(
                "{} was missing and has been written again",
                public_file.display()
            ));
            Ok((key, facts.revoked))
        }
        Err(error) => Err(error),
    }
}

fn table(keys: &[Listed]) -> String {
    if keys.is_empty() {
        return "no keys; `orchestrator key generate NAME` makes one\n".to_owned();
    }
    let mut table = Table::new(["NAME", "KEY", "SECRET", "WHY"]);
    for listed in keys {
        let (id, why) = match &listed.key {
            Ok((key, None)) => (key.id().to_string(), String::new()),
            Ok((key, Some(revoked))) => (
                key.id().to_string(),
                format!("revoked: {}", harmless(&revoked.reason)),
            ),
            Err(error) => ("cannot be used".to_owned(), why(error)),
        };
        let secret = if listed.has_secret {
            "here"
        } else {
            "elsewhere"
        };
        table.row([listed.name.clone(), id, secret.to_owned(), why]);
    }
    table.to_string()
}

/// The code, the message and what caused it on one line.
fn why(error: &KeyFileError) -> String {
    let mut text = match error.code() {
        Some(code) => format!("{code}: {error}"),
        None => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
