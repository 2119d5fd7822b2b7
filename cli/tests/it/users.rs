//! The command as somebody else starts it.

#![expect(
    clippy::disallowed_types,
    reason = "runs the command itself; the sandbox is for plugins"
)]

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::harness::Home;

const PROGRAM: &str = env!("CARGO_BIN_EXE_orchestrator");
/// The ordinary user's number, and the group's.
pub(crate) const ORDINARY: u32 = 1500;

/// Has a shell go on where nobody can make a user namespace.
pub(crate) const WITHOUT_NAMESPACES: &str = "exec unshare --user --map-root-user /bin/sh -c \
    'echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"' sh \"$@\"";

/// Whoever runs the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    OfTheTests,
    Ordinary,
}

/// Those that the tests can be.
pub(crate) fn users() -> Vec<User> {
    match fs::metadata("/proc/self").unwrap().uid() {
        0 => vec![User::OfTheTests, User::Ordinary],
        _ => vec![User::OfTheTests],
    }
}

/// Runs the command as one of them.
pub(crate) struct Runner {
    pub(crate) user: User,
    /// Where the ordinary user reaches the command.
    reach: Option<TempDir>,
}

impl Runner {
    pub(crate) fn new(user: User) -> Self {
        let reach = (user == User::Ordinary).then(|| {
            let dir = tempfile::tempdir().unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let program = dir.path().join("orchestrator");
            if fs::hard_link(PROGRAM, &program).is_err() {
                fs::copy(PROGRAM, &program).unwrap();
            }
            dir
        });
        Self { user, reach }
    }

    fn program(&self) -> PathBuf {
        match &self.reach {
            Some(dir) => dir.path().join("orchestrator"),
            None => PROGRAM.into(),
        }
    }

    /// The command, started from a shell that has run `before`. What is in `home` is the
    /// user's then.
    pub(crate) fn command(&self, home: &Home, before: &str, args: &[&str]) -> Command {
        let direct = home.command_after(before, args);
        if self.user == User::OfTheTests {
            return direct;
        }
        give(home.work().parent().unwrap());
        let program = self.program();
        let reached = |arg: &OsStr| match arg == OsStr::new(PROGRAM) {
            true => program.as_os_str().to_owned(),
            false => arg.to_owned(),
        };
        let mut command = Command::new(direct.get_program());
        command
            .args(direct.get_args().map(reached))
            .env_clear()
            .envs(direct.get_envs().filter_map(|(name, it)| Some((name, it?))))
            .current_dir(home.work())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .uid(ORDINARY)
            .gid(ORDINARY);
        command
    }
}

/// Makes the ordinary user the owner of what is at `path` and below.
fn give(path: &Path) {
    lchown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}
