//! Brings what older releases of this program installed to the present form.

use std::{os::unix::fs::symlink, path::Path};

use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{
    InstallError, PATIENCE, content, error::io_error, lock_store, pointer::link_text, receipt,
    tree_digest,
};
use crate::{package::verify, trust::TrustStore};

/// Puts the folders of every version that verifies into the store, and links in
/// their place. What does not verify is left alone. Returns how many were moved.
///
/// # Errors
///
/// [`InstallError::Busy`] when another process goes on changing the store,
/// [`InstallError::Io`] when something cannot be written. Each version is then
/// in its old form or in its new one.
pub fn migrate(plugins_dir: &Path, trust: &TrustStore) -> Result<usize, InstallError> {
    let is_old = |one: &super::Installed| one.tree.is_none();
    let old = |dir: &Path| Ok::<_, InstallError>(super::installed(dir)?.into_iter().filter(is_old));
    if old(plugins_dir)?.next().is_none() {
        return Ok(0);
    }
    let _lock = lock_store(plugins_dir, PATIENCE)?;
    content::sweep(plugins_dir);
    let root = trust.root();
    let mut moved = 0;
    for version in old(plugins_dir)? {
        let Ok(package) = verify(&version.path, &root) else {
            continue;
        };
        let Some(release) = package.release() else {
            continue;
        };
        let new = content::put(&package, plugins_dir, &root)?;
        let tree = tree_digest(&new);
        let receipt = receipt::Receipt {
            plugin: package.manifest().id.clone(),
            version: version.version.clone(),
            statement: release.digest,
            source: version.path.display().to_string(),
            archive: None,
            installed_at: Timestamp::now(),
        };
        receipt::write(plugins_dir, tree, &receipt)?;
        let staged = content::incoming(plugins_dir)?;
        let link = staged.path().join("package");
        symlink(link_text(tree), &link).map_err(|error| io_error(&link, error))?;
        content::make_movable(&version.path)?;
        renameat_with(CWD, &link, CWD, &version.path, RenameFlags::EXCHANGE)
            .map_err(|error| io_error(&version.path, error))?;
        content::sync_dir(version.path.parent().unwrap_or(plugins_dir))?;
        content::make_writable(staged.path());
        moved += 1;
    }
    Ok(moved)
}
