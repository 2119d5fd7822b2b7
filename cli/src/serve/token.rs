//! The token that the API asks for.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use orchestrator_engine::Home;
use rustix::fs::{Mode, OFlags};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{error::CliError, failure::Result};

/// What the file begins with, so that a token found elsewhere is recognised.
const PREFIX: &str = "orc_";
/// Prefix and 32 random bytes in hexadecimal.
const LENGTH: usize = PREFIX.len() + 64;

/// The token of one home, kept in a file that only its owner can read.
pub(crate) struct Token {
    path: PathBuf,
    value: Zeroizing<String>,
}

impl Token {
    /// Reads the token of `home`, or makes one.
    pub(crate) fn of(home: &Home) -> Result<Self> {
        let path = home.root().join("api-token");
        let value = match read(&path)? {
            Some(value) => value,
            None => {
                make(&path)?;
                // Another process may have been faster: its token counts.
                read(&path)?.ok_or_else(|| CliError::TokenMalformed { path: path.clone() })?
            }
        };
        Ok(Self { path, value })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The token itself, for who asks this home's services.
    pub(crate) fn value(&self) -> &str {
        &self.value
    }

    /// Whether `given` is the token; takes as long for every wrong one.
    pub(super) fn is(&self, given: &str) -> bool {
        self.value.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

fn read(path: &Path) -> Result<Option<Zeroizing<String>>> {
    // A link would let somebody else choose the token, and a pipe would keep us waiting.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(CliError::file("read", path, error.into()).into()),
    };
    let failed = |error| CliError::file("read", path, error);
    let metadata = file.metadata().map_err(failed)?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_file() || !ours || metadata.permissions().mode() & 0o077 != 0 {
        return Err(CliError::TokenExposed {
            path: path.to_owned(),
        }
        .into());
    }
    let mut text = Zeroizing::new(String::with_capacity(LENGTH + 2));
    file.take(LENGTH as u64 + 2)
        .read_to_string(&mut text)
        .map_err(failed)?;
    let value = text.trim_end_matches('\n');
    let hex = value.strip_prefix(PREFIX);
    let is_hex = hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let whole = value.len() == LENGTH && is_hex;
    match whole {
        true => Ok(Some(Zeroizing::new(value.to_owned()))),
        false => Err(CliError::TokenMalformed {
            path: path.to_owned(),
        }
        .into()),
    }
}

/// Puts a new token at `path`, whole or not at all, unless there is one.
fn make(path: &Path) -> Result {
    let failed = |error: io::Error| CliError::file("write", path, error);
    let mut random = Zeroizing::new([0_u8; 32]);
    getrandom::fill(&mut *random).map_err(|error| failed(io::Error::other(error)))?;
    let mut text = Zeroizing::new(String::from(PREFIX));
    for byte in random.iter() {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    let dir = path.parent().unwrap_or(path);
    std::fs::create_dir_all(dir).map_err(failed)?;
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error.error).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home")).unwrap();
        (dir, home)
    }

    #[test]
    fn it_is_made_once_and_for_its_owner_alone() {
        let (_dir, home) = home();
        let first = Token::of(&home).unwrap();
        let mode = std::fs::metadata(first.path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let second = Token::of(&home).unwrap();
        assert!(second.is(&first.value));
        assert!(!second.is("orc_"));
        assert!(!second.is(&format!("{}x", *first.value)));
    }

    #[test]
    fn a_file_that_others_can_read_or_that_holds_no_token_is_refused() {
        let (_dir, home) = home();
        let path = Token::of(&home).unwrap().path().to_owned();
        set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(Token::of(&home).is_err());
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for wrong in [
            "",
            "orc_",
            "orc_zz",
            &"a".repeat(LENGTH),
            &"a".repeat(9_000),
        ] {
            write(&path, wrong).unwrap();
            assert!(Token::of(&home).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nobody_waits_for_the_other_end_of_a_pipe() {
        let (_dir, home) = home();
        std::fs::create_dir_all(home.root()).unwrap();
        let path = home.root().join("api-token");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from(0o600)).unwrap();
        assert!(Token::of(&home).is_err());
    }

    #[test]
    fn a_link_is_not_followed() {
        let (dir, home) = home();
        let real = Token::of(&home).unwrap().path().to_owned();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(&real, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &real).unwrap();
        assert!(Token::of(&home).is_err());
    }
}
