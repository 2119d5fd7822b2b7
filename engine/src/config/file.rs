//! One configuration file.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use figment::{
    Error, Metadata, Profile, Provider,
    providers::{Format as _, Toml},
    value::{Dict, Map},
};

use super::ConfigError;

/// The largest file that is read, in bytes.
const BYTES_MAX: u64 = 1 << 20;

/// A file that has been read. What it says is parsed when it is merged, so that
/// a fault in it is told with its name.
pub(super) struct ConfigFile {
    path: PathBuf,
    text: String,
}

impl ConfigFile {
    /// Reads a file that need not be there. What is there has to be a file:
    /// settings that are passed over in silence would be missed too late.
    pub(super) fn where_there_is_one(path: &Path) -> Result<Option<Self>, ConfigError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => read(path).map(Some),
            Ok(_) => Err(unreadable(path, "it is no regular file")),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(unreadable(path, error)),
        }
    }

    /// Reads a file that somebody named, which may be a pipe.
    pub(super) fn named(path: &Path) -> Result<Self, ConfigError> {
        read(path)
    }
}

/// Whether nothing of that name can be there.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let mut text = String::new();
    let length = fs::File::open(path)
        .and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ConfigError::Missing {
                path: path.to_owned(),
            },
            _ => unreadable(path, error),
        })?;
    if length as u64 > BYTES_MAX {
        return Err(unreadable(path, "it is larger than 1 MiB"));
    }
    Ok(ConfigFile {
        path: path.to_owned(),
        text,
    })
}

fn unreadable(path: &Path, reason: impl ToString) -> ConfigError {
    ConfigError::Unreadable {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

impl Provider for ConfigFile {
    fn metadata(&self) -> Metadata {
        Metadata::from("TOML file", self.path.as_path())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        Toml::string(&self.text).data()
    }
}
