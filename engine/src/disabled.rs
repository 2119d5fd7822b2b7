//! Which plugins an operator has disabled, for as long as nobody enables them.
//!
//! A file each, whose name is the plugin's, so that it is there or not whatever
//! else happens at the same time, and no two processes can spoil each other's work.
//! What lies there is never opened. Something else than a file has the same effect, since
//! whoever put it there meant something, and is neither taken for a record nor removed.

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
        let file = self.file(plugin);
        file.is_ok_and(|file| file.symlink_metadata().is_ok())
    }

    /// Those that something else than a file disables, each with what that is.
    pub(crate) fn strange(&self) -> Result<Vec<EngineError>, EngineError> {
        let names = self.list()?.into_iter();
        Ok(names.filter_map(|name| self.record(&name).err()).collect())
    }

    /// Adds `plugin`, durably, and says whether it is new. `by` is kept for people.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or something else than a file lies there.
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
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.record(plugin)?;
                false
            }
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
    /// When it cannot be removed, or something else than a file lies there.
    pub fn remove(&self, plugin: &str) -> Result<bool, EngineError> {
        let file = self.record(plugin)?;
        let removed = fs::remove_file(file).and_then(|()| sync(&self.dir));
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.unusable(error)),
        }
    }

    /// Where `plugin` is written down, or would be; an error where something else lies.
    fn record(&self, plugin: &str) -> Result<PathBuf, EngineError> {
        let path = self.file(plugin)?;
        let what = match path.symlink_metadata().map(|it| it.file_type()) {
            Ok(it) if it.is_dir() => "a directory",
            Ok(it) if it.is_symlink() => "a link",
            Ok(it) if !it.is_file() => "no file",
            _ => return Ok(path),
        };
        Err(EngineError::StrangeRecord {
            id: plugin.to_owned(),
            path,
            what,
        })
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
    fn what_is_no_file_disables_and_is_neither_opened_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let disabled = Disabled::of(&Home::at(dir.path()).unwrap());
        disabled.add("plain", "ada").unwrap();
        let at = |name: &str| dir.path().join("disabled").join(name);
        fs::create_dir(at("dir")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(
            disabled.list().unwrap(),
            ["dir", "link", "pipe", "plain"],
            "all of them"
        );
        for name in ["dir", "link", "pipe"] {
            assert!(disabled.has(name), "{name}");
            let path = at(name).display().to_string();
            for refused in [disabled.add(name, "ada"), disabled.remove(name)] {
                let text = refused.unwrap_err().to_string();
                assert!(text.contains(&path), "{text}");
            }
            assert!(at(name).symlink_metadata().is_ok(), "{name}");
        }
        let strange = disabled.strange().unwrap();
        assert_eq!(strange.len(), 3, "{strange:?}");
        assert!(disabled.remove("plain").unwrap());
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
