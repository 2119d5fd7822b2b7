//! Writes a run's outputs into a directory.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use orchestrator_engine::RunReport;

use crate::{
    error::CliError,
    exit::Exit,
    failure::{Failure, Result},
};

/// Of files that are not finished.
const PREFIX: &str = ".orchestrator-";

/// One output that was written.
#[derive(Clone, Debug)]
pub(crate) struct SavedOutput {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// Makes `dir` if it is missing and tries whether files can be made in it, so
/// that nothing runs whose outputs could not be kept.
pub(crate) fn prepare(dir: &Path) -> Result {
    let probe = || {
        fs::create_dir_all(dir)?;
        tempfile::Builder::new().prefix(PREFIX).tempfile_in(dir)
    };
    probe().map(drop).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Invalid,
        };
        Failure::new(exit, CliError::file("write into", dir, error))
    })
}

/// Writes every output of `report` to a file of its name in `dir`, which is
/// made if it is missing. A file is replaced whole or not at all.
pub(crate) fn save(report: &RunReport, dir: &Path) -> Result<Vec<SavedOutput>> {
    fs::create_dir_all(dir).map_err(|error| CliError::file("make", dir, error))?;
    let mut saved = Vec::new();
    for output in &report.outputs {
        let path = dir.join(&output.name);
        // The pipeline's parser lets no separator into a name; this looks again
        // because a wrong one would write anywhere.
        if path.file_name() != Some(output.name.as_ref()) || path.parent() != Some(dir) {
            let reason = std::io::Error::other("it is not the name of a file");
            return Err(CliError::file("write", &output.name, reason).into());
        }
        replace(dir, &path, &output.payload.bytes)
            .map_err(|error| CliError::file("write", &path, error))?;
        saved.push(SavedOutput {
            name: output.name.clone(),
            path,
        });
    }
    Ok(saved)
}

fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut file = tempfile::Builder::new()
        .prefix(PREFIX)
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_and_left_empty() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b");
        prepare(&dir).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::write(dir.join("file"), "").unwrap();
        let wrong = prepare(&dir.join("file/c")).unwrap_err();
        assert_eq!(wrong.exit, Exit::Invalid);
    }
}
