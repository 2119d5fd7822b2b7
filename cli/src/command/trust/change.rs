//! A change of the root: made here and now, or proposed for others to sign.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use orchestrator_signing::{
    ENVELOPE_SIZE_MAX, NextRoot, RootFile, TrustError, TrustRoot, TrustStore, installed, verify,
};
use serde_json::{Value, json};

use crate::{
    context::Context,
    error::CliError,
    failure::{Result, as_json},
};

/// Where a change goes.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// Change nothing here: write the next root to this file for others to
    /// sign, or add to the proposal that it holds
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Target {
    /// Makes the change here, or in the file.
    pub(super) fn edit<T>(
        &self,
        store: &mut TrustStore,
        edit: impl FnOnce(&mut NextRoot) -> std::result::Result<T, TrustError>,
    ) -> Result<T> {
        match &self.out {
            None => Ok(store.edit(edit)?),
            Some(path) => propose(path, &store.root(), edit),
        }
    }

    pub(super) fn is_here(&self) -> bool {
        self.out.is_none()
    }

    /// What to do next, where nothing has changed here.
    pub(super) fn note(&self, context: &Context) {
        if let Some(path) = &self.out {
            context.out.note(&format!(
                "proposed in {0}; `orchestrator trust sign {0}` and `orchestrator trust update {0}` make it hold",
                path.display()
            ));
        }
    }
}

/// Edits the proposal in a file, which is made if it is missing.
pub(super) fn propose<T>(
    path: &Path,
    root: &TrustRoot,
    edit: impl FnOnce(&mut NextRoot) -> std::result::Result<T, TrustError>,
) -> Result<T> {
    let mut next = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => NextRoot::after(root),
        _ => read(path)?.into_next(root)?,
    };
    let done = edit(&mut next)?;
    write(path, &next.to_text()?)?;
    Ok(done)
}

/// Reads a proposal or a signed root.
pub(super) fn read(path: &Path) -> Result<RootFile> {
    Ok(RootFile::parse(&read_bytes(path)?)?)
}

pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| {
            // One byte more than there may be: the parser says that it is too much.
            let limit = ENVELOPE_SIZE_MAX as u64 + 1;
            file.take(limit).read_to_end(&mut bytes)
        })
        .map_err(|error| CliError::file("read", path, error))?;
    Ok(bytes)
}

/// Puts a root file in place of the one that is there, whole or not at all.
pub(super) fn write(path: &Path, text: &str) -> Result {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".orchestrator-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map_err(|error| CliError::file("write", path, error))?;
    Ok(())
}

/// An installed package that does not load by a root.
pub(super) struct Refused {
    pub(super) plugin: String,
    pub(super) error: Value,
}

/// The publisher of every installed package that loads by `root`, and those
/// that do not. Reads every file of every package.
pub(super) fn installed_by(
    context: &Context,
    root: &TrustRoot,
) -> Result<(Vec<String>, Vec<Refused>)> {
    let (mut publishers, mut refused) = (Vec::new(), Vec::new());
    for package in installed(&context.home()?.plugins())? {
        match verify(&package.path, root) {
            Ok(package) => publishers.push(package.publisher().to_string()),
            Err(error) => refused.push(Refused {
                plugin: format!("{} {}", package.name, package.version),
                error: as_json(&error, None),
            }),
        }
    }
    Ok((publishers, refused))
}

/// Says which installed packages do not load by the root as it is now.
pub(super) fn tell_refused(context: &Context, root: &TrustRoot) -> Result<Value> {
    let (_, refused) = installed_by(context, root)?;
    for it in &refused {
        let (code, message) = (&it.error["code"], &it.error["message"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (code, message) = (text(code), text(message));
        context
            .out
            .warn(&format!("{} does not load: {code}: {message}", it.plugin));
    }
    let refused = refused.into_iter();
    Ok(refused
        .map(|it| json!({ "plugin": it.plugin, "error": it.error }))
        .collect())
}
