//! Folders that outlast a power cut.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::sync_parent;

/// Makes a folder and those above it that are missing, with this mode before the
/// umask. Those that it made are on disk when it returns. Does nothing where the
/// folder is there.
///
/// # Errors
///
/// When one of them cannot be made, or something else is there.
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    let missing = path.ancestors().take_while(|it| !it.as_os_str().is_empty());
    let missing = missing.take_while(|it| !it.is_dir());
    let missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
    for folder in missing.iter().rev() {
        match DirBuilder::new().mode(mode).create(folder) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            made => made?,
        }
        sync_parent(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn what_is_missing_is_made_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b/c");
        create_dir(&inner, 0o700).unwrap();
        for folder in [&inner, &dir.path().join("a")] {
            let mode = folder.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700);
        }
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        create_dir(&inner, 0o700).unwrap();
        let mode = inner.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "not ours to change");
        fs::write(dir.path().join("file"), "").unwrap();
        for taken in ["file", "file/inner"] {
            create_dir(&dir.path().join(taken), 0o700).unwrap_err();
        }
    }
}
