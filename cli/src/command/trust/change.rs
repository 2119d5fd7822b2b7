//! A change of the root: made here and now, or proposed for others to sign.

use std::{
    io,
    path::{Path, PathBuf},
};

use orchestrator_signing::{
    ENVELOPE_SIZE_MAX, NextRoot, RootFile, TrustError, TrustRoot, TrustStore, installed, verify,
};
use serde_json::{Value, json};

use crate::{
    bounded_file,
    context::Context,
    exit::Exit,
    failure::{Failure, Result, as_json},
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
    pub(super) fn note(&self, context: &Context, store: &TrustStore) {
        if let Some(path) = &self.out {
            let follow = match store.root().version() {
                0 => "init --from",
                _ => "update",
            };
            context.out.note(&format!(
                "proposed in {0}; `orchestrator trust sign {0}` and `orchestrator trust {follow} {0}` make it hold",
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
    bounded_file::write(path, next.to_text()?.as_bytes())?;
    Ok(done)
}

/// Reads a proposal or a signed root.
pub(super) fn read(path: &Path) -> Result<RootFile> {
    Ok(read_signed(path)?.0)
}

/// The same with its bytes.
pub(super) fn read_signed(path: &Path) -> Result<(RootFile, Vec<u8>)> {
    let bytes = bounded_file::read(path, ENVELOPE_SIZE_MAX)?;
    match RootFile::parse(&bytes) {
        Ok(file) => Ok((file, bytes)),
        // Nobody has asked for it on the command line.
        Err(error @ TrustError::BadRootRole(_)) => Err(Failure::new(Exit::Invalid, error)),
        Err(error) => Err(error.into()),
    }
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
