//! Where plugins are looked for, in which order.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

/// Below each of the standard places.
const PLUGINS: &str = "orchestrator/plugins";
/// `$XDG_DATA_DIRS` when it is not set, after the XDG base directory specification.
const SYSTEM_DATA: &str = "/usr/local/share:/usr/share";

/// The directories in which plugins are looked for, first come first served.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SearchPath {
    /// The directories, in order; each is absolute and listed once.
    pub entries: Vec<SearchEntry>,
    /// Why entries that one might expect are not there.
    pub warnings: Vec<String>,
}

/// One directory of a search path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SearchEntry {
    /// The directory; it need not exist.
    pub path: PathBuf,
    /// What it is, for people: `user data`, `development`, …
    pub label: Arc<str>,
    /// Anybody who can write a working directory or an environment may have put
    /// plugins there; they never take the place of installed ones.
    pub development: bool,
}

/// Where in the search path something was found. The smaller one is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) development: bool,
    /// The position in the search path, from 1; 0 is what is compiled in.
    pub(crate) position: usize,
}

/// What the search path depends on besides the environment.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The running program, links resolved.
    pub program: Option<&'a Path>,
    /// The directory that `./plugins` is relative to.
    pub working_directory: Option<&'a Path>,
}

impl SearchPath {
    /// The documented order:
    ///
    /// 1. `extra_first`, from `--plugin-dir`
    /// 2. `<directory of the program>/../share/orchestrator/plugins`
    /// 3. `home_plugins`, where `plugin install` puts plugins, and
    ///    `$XDG_DATA_HOME/orchestrator/plugins`, or `~/.local/share/…` without it
    /// 4. `orchestrator/plugins` below each of `$XDG_DATA_DIRS`, which stands for
    ///    `/usr/local/share` and `/usr/share` without it
    /// 5. `$XDG_CONFIG_HOME/orchestrator/plugins`, or `~/.config/…` without it
    /// 6. `./plugins`, marked as development, and only when this is no service
    /// 7. `$ORCHESTRATOR_PLUGIN_PATH`, separated by colons, empty parts ignored
    ///
    /// Relative paths are left out with a warning, because what they mean would
    /// depend on where the program was started. Environment variables are asked of
    /// `env`; program and working directory are the process's own.
    pub fn documented(
        home_plugins: &Path,
        service_mode: bool,
        extra_first: Vec<PathBuf>,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let (program, working_directory) = (env::current_exe().ok(), env::current_dir().ok());
        let surroundings = Surroundings {
            program: program.as_deref(),
            working_directory: working_directory.as_deref(),
        };
        Self::documented_at(surroundings, home_plugins, service_mode, extra_first, env)
    }

    /// [`Self::documented`] with everything passed in.
    pub fn documented_at(
        surroundings: Surroundings<'_>,
        home_plugins: &Path,
        service_mode: bool,
        extra_first: Vec<PathBuf>,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let mut path = Self::default();
        for extra in extra_first {
            path.add(extra, "--plugin-dir");
        }
        let installation = surroundings
            .program
            .and_then(Path::parent)
            .and_then(Path::parent);
        if let Some(installation) = installation {
            path.add(installation.join("share").join(PLUGINS), "built-in");
        }
        path.add(home_plugins.to_owned(), "installed");
        path.add_base(&set, "XDG_DATA_HOME", ".local/share", "user data");
        let system = set("XDG_DATA_DIRS").unwrap_or_else(|| SYSTEM_DATA.into());
        for base in split(&system) {
            path.add(base.join(PLUGINS), "system");
        }
        path.add_base(&set, "XDG_CONFIG_HOME", ".config", "user configuration");
        if let Some(directory) = surroundings.working_directory.filter(|_| !service_mode) {
            path.add_development(directory.join("plugins"), "development");
        }
        for extra in split(&set("ORCHESTRATOR_PLUGIN_PATH").unwrap_or_default()) {
            path.add_development(extra, "ORCHESTRATOR_PLUGIN_PATH");
        }
        path
    }

    /// Adds a directory behind the others, unless it is there already or relative.
    pub fn add(&mut self, path: PathBuf, label: &str) {
        self.insert(path, label, false);
    }

    /// [`Self::add`] for a directory whose plugins never take the place of installed
    /// ones.
    pub fn add_development(&mut self, path: PathBuf, label: &str) {
        self.insert(path, label, true);
    }

    fn insert(&mut self, path: PathBuf, label: &str, development: bool) {
        if path.is_relative() {
            let shown = path.display();
            self.warnings.push(format!(
                "{label}: `{shown}` is left out, it is not absolute"
            ));
        } else if !self.entries.iter().any(|entry| entry.path == path) {
            let label = label.into();
            self.entries.push(SearchEntry {
                path,
                label,
                development,
            });
        }
    }

    fn add_base(
        &mut self,
        set: &impl Fn(&str) -> Option<OsString>,
        variable: &str,
        below_home: &str,
        label: &str,
    ) {
        let home = || set("HOME").map(|home| PathBuf::from(home).join(below_home));
        match set(variable).map(PathBuf::from).or_else(home) {
            Some(base) => self.add(base.join(PLUGINS), label),
            None => self.warnings.push(format!(
                "{label}: left out, neither {variable} nor HOME is set"
            )),
        }
    }
}

fn split(list: &OsStr) -> Vec<PathBuf> {
    env::split_paths(list)
        .filter(|path| !path.as_os_str().is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Surroundings<'_> = Surroundings {
        program: None,
        working_directory: None,
    };

    fn at(surroundings: Surroundings<'_>, service: bool, env: &[(&str, &str)]) -> SearchPath {
        let env = |name: &str| {
            let found = env.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let extra = vec![PathBuf::from("/extra")];
        SearchPath::documented_at(
            surroundings,
            Path::new("/home/me/o/plugins"),
            service,
            extra,
            &env,
        )
    }

    fn shown(path: &SearchPath) -> Vec<String> {
        path.entries
            .iter()
            .map(|entry| format!("{} {}", entry.label, entry.path.display()))
            .collect()
    }

    #[test]
    fn the_documented_order() {
        let surroundings = Surroundings {
            program: Some(Path::new("/opt/o/bin/orchestrator")),
            working_directory: Some(Path::new("/project")),
        };
        let env = [("HOME", "/home/me"), ("ORCHESTRATOR_PLUGIN_PATH", "/a::/b")];
        let expected = [
            "--plugin-dir /extra",
            "built-in /opt/o/share/orchestrator/plugins",
            "installed /home/me/o/plugins",
            "user data /home/me/.local/share/orchestrator/plugins",
            "system /usr/local/share/orchestrator/plugins",
            "system /usr/share/orchestrator/plugins",
            "user configuration /home/me/.config/orchestrator/plugins",
            "development /project/plugins",
            "ORCHESTRATOR_PLUGIN_PATH /a",
            "ORCHESTRATOR_PLUGIN_PATH /b",
        ];
        let path = at(surroundings, false, &env);
        assert_eq!(shown(&path), expected);
        assert!(path.warnings.is_empty());
        let development = path.entries.iter().filter(|entry| entry.development);
        let development: Vec<_> = development.map(|entry| entry.path.as_path()).collect();
        assert_eq!(development, ["/project/plugins", "/a", "/b"].map(Path::new));

        let service = shown(&at(surroundings, true, &env));
        assert!(!service.iter().any(|entry| entry.starts_with("development")));
        assert_eq!(service.len(), expected.len() - 1);
    }

    #[test]
    fn xdg_variables_replace_the_defaults() {
        let env = [
            ("HOME", "/home/me"),
            ("XDG_DATA_HOME", "/data"),
            ("XDG_CONFIG_HOME", "/config"),
            ("XDG_DATA_DIRS", "/s1:/s2"),
        ];
        let expected = [
            "--plugin-dir /extra",
            "installed /home/me/o/plugins",
            "user data /data/orchestrator/plugins",
            "system /s1/orchestrator/plugins",
            "system /s2/orchestrator/plugins",
            "user configuration /config/orchestrator/plugins",
        ];
        assert_eq!(shown(&at(HERE, false, &env)), expected);
    }

    #[test]
    fn without_home_nothing_is_looked_up_elsewhere() {
        let path = at(HERE, false, &[]);
        assert_eq!(path.warnings.len(), 2);
        assert!(path.warnings[0].contains("HOME"));
        assert!(!shown(&path).iter().any(|entry| entry.starts_with("user")));
    }

    #[test]
    fn relative_entries_are_refused_with_a_warning_and_doubles_are_dropped() {
        let env = [
            ("HOME", "/h"),
            ("XDG_DATA_HOME", "data"),
            ("ORCHESTRATOR_PLUGIN_PATH", "rel:/extra:/x:/x"),
        ];
        let path = at(HERE, false, &env);
        assert_eq!(path.warnings.len(), 2);
        let from_variable: Vec<_> = shown(&path)
            .into_iter()
            .filter(|entry| entry.starts_with("ORCHESTRATOR"))
            .collect();
        assert_eq!(from_variable, ["ORCHESTRATOR_PLUGIN_PATH /x"]);
    }
}
