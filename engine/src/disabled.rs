//! Which plugins an operator has disabled, for as long as nobody enables them.
//!
//! A file each, whose name is the plugin's, so that it is there or not whatever
//! else happens at the same time, and no two processes can spoil each other's work.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::{EngineError, Home, engine::private_dir, journal::now_ms};

/// Which plugins of a home an operator has disabled. Any number of processes may
/// look at it and change it.
#[derive(Clone, Debug)]
pub struct Disabled {
    dir: PathBuf,
}

impl Disabled {
    /// Those of `home`.
    pub fn of(home: &Home) -> Self {
        Self {
            dir: home.disabled(),
        }
    }

    /// Every one of them, sorted.
    ///
    /// # Errors
    ///
    /// When that cannot be read.
    pub fn list(&self) -> Result<Vec<String>, EngineError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| self.unusable(error))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| self.unusable(error))?.file_name();
            names.extend(name.into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    /// Whether `plugin` is one of them.
    pub fn has(&self, plugin: &str) -> bool {
        self.file(plugin).is_ok_and(|file| file.exists())
    }

    /// Adds `plugin`, durably, and says whether it is new. `by` is kept for people.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn add(&self, plugin: &str, by: &str) -> Result<bool, EngineError> {
        let file = self.file(plugin)?;
        private_dir(&self.dir).map_err(|error| self.unusable(error))?;
        let note = serde_json::json!({ "by": by, "at_ms": now_ms() }).to_string();
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file);
        let is_new = match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            made => {
                let written = made.and_then(|mut file| {
                    file.write_all(note.as_bytes())?;
                    file.sync_all()
                });
                written.map_err(|error| self.unusable(error))?;
                true
            }
        };
        // Also where another process has just made it and not come so far.
        sync(&self.dir).map_err(|error| self.unusable(error))?;
        Ok(is_new)
    }

    /// Takes `plugin` out, durably, and says whether it was one of them.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn remove(&self, plugin: &str) -> Result<bool, EngineError> {
        let removed = fs::remove_file(self.file(plugin)?).and_then(|()| sync(&self.dir));
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.unusable(error)),
        }
    }

    /// No name may lead out of the directory.
    fn file(&self, plugin: &str) -> Result<PathBuf, EngineError> {
        let mut parts = Path::new(plugin).components();
        let is_name = matches!(
            (parts.next(), parts.next()),
            (Some(std::path::Component::Normal(name)), None) if name == plugin
        );
        match is_name && !plugin.contains('\0') {
            true => Ok(self.dir.join(plugin)),
            false => Err(self.unusable(io::Error::new(
                ErrorKind::InvalidInput,
                format!("{plugin:?} cannot be the name of a plugin"),
            ))),
        }
    }

    fn unusable(&self, error: io::Error) -> EngineError {
        let path = self.dir.clone();
        EngineError::HomeUnusable { path, error }
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_plugin_stays_disabled_until_it_is_enabled_and_others_can_read_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        let disabled = Disabled::of(&home);
        assert_eq!(disabled.list().unwrap(), Vec::<String>::new());
        assert!(!disabled.remove("greeter").unwrap());
        assert!(disabled.add("greeter", "ada").unwrap());
        assert!(!disabled.add("greeter", "bob").unwrap());
        assert!(disabled.add("acme.mailer", "ada").unwrap());
        assert_eq!(
            Disabled::of(&home).list().unwrap(),
            ["acme.mailer", "greeter"]
        );
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&home.disabled()), 0o700);
        assert_eq!(mode(&home.disabled().join("greeter")), 0o600);
        assert!(disabled.remove("greeter").unwrap());
        assert!(!disabled.has("greeter") && disabled.has("acme.mailer"));
    }

    #[test]
    fn no_name_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let disabled = Disabled::of(&Home::at(dir.path().join("home")).unwrap());
        for name in ["", ".", "..", "../x", "/etc/x", "a/b", "a/", "a\0b"] {
            assert!(disabled.add(name, "ada").is_err(), "{name:?}");
            assert!(disabled.remove(name).is_err(), "{name:?}");
        }
        assert!(!dir.path().join("x").exists());
    }
}
