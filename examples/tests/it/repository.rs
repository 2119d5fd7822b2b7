//! A git repository that is made for one test.
#![expect(
    clippy::disallowed_types,
    reason = "making a repository runs git, which ends by itself"
)]

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A git repository with dates and names that never change, so that its hashes
/// do not either.
pub(crate) struct Repository {
    directory: TempDir,
    author: (String, String),
    clock: u64,
}

impl Repository {
    pub(crate) fn new() -> Self {
        let repository = Self {
            directory: TempDir::new().unwrap(),
            author: ("Ada".into(), "ada@example.com".into()),
            clock: 1_700_000_000,
        };
        std::fs::create_dir(repository.path()).unwrap();
        repository.git(&["init", "--quiet", "--initial-branch=main"], b"");
        repository
    }

    /// Always called `project`.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("project")
    }

    pub(crate) fn author(&mut self, name: &str) {
        self.author = (name.to_owned(), "someone@example.com".to_owned());
    }

    /// Commits nothing but `message`; its hash.
    pub(crate) fn commit(&mut self, message: &str) -> String {
        self.clock += 60;
        let arguments = [
            "commit",
            "--quiet",
            "--allow-empty",
            "--cleanup=verbatim",
            "--file=-",
        ];
        self.git(&arguments, message.as_bytes());
        self.git(&["rev-parse", "HEAD"], b"")
    }

    /// A branch with one commit, merged back.
    pub(crate) fn merge(&mut self, message: &str, merge: &str) {
        self.git(&["checkout", "--quiet", "-b", "side"], b"");
        self.commit(message);
        self.git(&["checkout", "--quiet", "main"], b"");
        self.clock += 60;
        self.git(&["merge", "--quiet", "--no-ff", "-m", merge, "side"], b"");
        self.git(&["branch", "--quiet", "-D", "side"], b"");
    }

    /// Runs git here; what it printed.
    pub(crate) fn git(&self, arguments: &[&str], input: &[u8]) -> String {
        let date = format!("{} +0100", self.clock);
        let mut child = Command::new(git())
            .arg("-C")
            .arg(self.path())
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_AUTHOR_NAME", &self.author.0),
                ("GIT_AUTHOR_EMAIL", &self.author.1),
                ("GIT_AUTHOR_DATE", &date),
                ("GIT_COMMITTER_NAME", "Committer"),
                ("GIT_COMMITTER_EMAIL", "committer@example.com"),
                ("GIT_COMMITTER_DATE", &date),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let finished = child.wait_with_output().unwrap();
        assert!(finished.status.success(), "git {arguments:?}");
        String::from_utf8_lossy(&finished.stdout).trim().to_owned()
    }
}

/// The git of this machine, by its whole path.
pub(crate) fn git() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join("git"))
        .find(|program| Path::is_file(program))
        .expect("these tests need git")
}
