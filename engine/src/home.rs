//! Where everything lies that outlives a process.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use miette::Diagnostic;
use thiserror::Error;

use crate::engine::private_dir;

/// One directory that holds plugins, keys, trust, grants and the journal.
///
/// ```text
/// plugins/        installed packages, <name>/<version>/
/// keys/           release keys, 0600
/// trust/          root.json: who may sign what
/// grants.toml     what the operator gave to whom
/// disabled/       plugins that an operator disabled, a file each
/// pipelines/      pipelines that the service runs by name
/// journal/        runs, sessions, blobs
/// run/            private trees of running plugins; empty when nothing runs
/// config.toml     the operator's settings
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    explicit: bool,
    config_file: PathBuf,
}

/// No directory could be settled on.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum HomeError {
    /// Neither `--home` nor the environment names a directory. A service
    /// without a user account often runs so.
    #[error("there is no home directory to keep plugins and runs in")]
    #[diagnostic(
        code("ORC-1201"),
        help("set HOME or XDG_DATA_HOME, or name a directory with `--home DIR`")
    )]
    Unknown,
    /// A relative path would mean another directory after every `cd`.
    #[error("`{}` is not an absolute path", .path.display())]
    #[diagnostic(code("ORC-1202"), help("write the whole path, from `/`"))]
    Relative {
        /// The path as it was given.
        path: PathBuf,
    },
}

impl Home {
    /// Settles on a directory: the one given, else `ORCHESTRATOR_HOME`, else
    /// `$XDG_DATA_HOME/orchestrator`, else `~/.local/share/orchestrator`
    /// ([XDG base directories](https://specifications.freedesktop.org/basedir-spec/latest/)).
    /// Creates nothing.
    ///
    /// # Errors
    ///
    /// When nothing names a directory, or what does is not absolute. An empty
    /// variable counts as unset.
    pub fn resolve(
        given: Option<PathBuf>,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, HomeError> {
        let variable = |name| {
            env(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        if let Some(root) = given.or_else(|| variable("ORCHESTRATOR_HOME")) {
            return Self::at(root);
        }
        let user = variable("HOME");
        let below_user = |path: &str| user.as_ref().map(|home| home.join(path));
        // The XDG specification says that relative values are to be ignored.
        let absolute = |name| variable(name).filter(|path| path.is_absolute());
        let data = absolute("XDG_DATA_HOME")
            .or_else(|| below_user(".local/share"))
            .ok_or(HomeError::Unknown)?;
        let config = absolute("XDG_CONFIG_HOME")
            .or_else(|| below_user(".config"))
            .unwrap_or_else(|| data.clone());
        let home = Self {
            root: data.join("orchestrator"),
            explicit: false,
            config_file: config.join("orchestrator/config.toml"),
        };
        match home.root.is_absolute() {
            true => Ok(home),
            false => Err(HomeError::Relative { path: home.root }),
        }
    }

    /// Everything below `root`, the configuration file included.
    ///
    /// # Errors
    ///
    /// When `root` is not absolute.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self, HomeError> {
        let root = root.into();
        if !root.is_absolute() {
            return Err(HomeError::Relative { path: root });
        }
        Ok(Self {
            config_file: root.join("config.toml"),
            explicit: true,
            root,
        })
    }

    /// Makes the directory, for this user alone, unless it is there. What lies below
    /// it decides what runs; trust and grants are refused where others can write.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn make(&self) -> io::Result<()> {
        private_dir(&self.root)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether somebody named the directory, so that nothing of the user's own
    /// should be mixed in.
    pub fn is_explicit(&self) -> bool {
        self.explicit
    }

    /// Installed packages.
    pub fn plugins(&self) -> PathBuf {
        self.root.join("plugins")
    }

    /// Release keys.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The trust root.
    pub fn trust(&self) -> PathBuf {
        self.root.join("trust")
    }

    /// What the operator granted.
    pub fn grants_file(&self) -> PathBuf {
        self.root.join("grants.toml")
    }

    /// What an operator disabled.
    pub fn disabled(&self) -> PathBuf {
        self.root.join("disabled")
    }

    /// Pipelines that are run by name.
    pub fn pipelines(&self) -> PathBuf {
        self.root.join("pipelines")
    }

    /// The journal with its blobs.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Private trees of running plugins.
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The operator's settings.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_home_is_made_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("a/home")).unwrap();
        let mode = || home.root().metadata().unwrap().permissions().mode() & 0o777;
        home.make().unwrap();
        assert_eq!(mode(), 0o700);
        let others = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(home.root(), others).unwrap();
        home.make().unwrap();
        assert_eq!(mode(), 0o755, "one that is there is the operator's");
    }

    fn resolve(given: Option<&str>, env: &[(&str, &str)]) -> Result<Home, HomeError> {
        Home::resolve(given.map(PathBuf::from), &|name| {
            let found = env.iter().find(|(key, _)| *key == name)?;
            Some(found.1.into())
        })
    }

    #[test]
    fn the_first_of_flag_variable_and_user_directories_wins() {
        let env = [("ORCHESTRATOR_HOME", "/env"), ("HOME", "/home/ada")];
        assert_eq!(
            resolve(Some("/flag"), &env).unwrap().root(),
            Path::new("/flag")
        );
        assert_eq!(resolve(None, &env).unwrap().root(), Path::new("/env"));
        let user = resolve(None, &env[1..]).unwrap();
        assert_eq!(
            user.plugins(),
            Path::new("/home/ada/.local/share/orchestrator/plugins")
        );
        assert_eq!(
            user.config_file(),
            Path::new("/home/ada/.config/orchestrator/config.toml")
        );
    }

    /// An unset or relative XDG variable must never make the current directory
    /// a place to load plugins from.
    #[test]
    fn no_relative_directory_is_ever_used() {
        assert!(matches!(resolve(None, &[]), Err(HomeError::Unknown)));
        assert!(matches!(
            resolve(None, &[("XDG_DATA_HOME", "")]),
            Err(HomeError::Unknown)
        ));
        let ignored = resolve(None, &[("XDG_DATA_HOME", "data"), ("HOME", "/h")]).unwrap();
        assert_eq!(ignored.root(), Path::new("/h/.local/share/orchestrator"));
        assert!(matches!(
            resolve(Some("data"), &[]),
            Err(HomeError::Relative { .. })
        ));
        assert!(matches!(
            resolve(None, &[("HOME", "h")]),
            Err(HomeError::Relative { .. })
        ));
    }
}
