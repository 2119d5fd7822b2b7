//! Runs the git that the operator granted, and nothing else.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use orchestrator_sdk::{Error, Setup};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

/// The most that git may print: some 200,000 commits.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How much of what git complains about is kept.
const COMPLAINT_BYTES_MAX: u64 = 4 * 1024;

/// Switches off everything that a repository's own configuration could make git
/// run or contact.
const HARMLESS: [&str; 8] = [
    "safe.directory=*",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "log.showSignature=false",
    "log.mailmap=false",
    "protocol.allow=never",
    "i18n.logOutputEncoding=UTF-8",
];

/// git's whole environment.
const ENVIRONMENT: [(&str, &str); 8] = [
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_PAGER", "cat"),
    ("LC_ALL", "C"),
];

/// The git that the operator granted.
#[derive(Debug)]
pub(crate) struct Git {
    program: PathBuf,
}

/// How a git ended.
#[derive(Debug)]
pub(crate) struct Finished {
    status: ExitStatus,
    output: Vec<u8>,
    complaint: String,
}

impl Git {
    /// Finds the one granted program that is called `git`.
    ///
    /// # Errors
    ///
    /// When there is none; the message says how to grant one.
    pub(crate) fn granted(setup: &Setup) -> Result<Self, Error> {
        setup
            .granted("process:spawn")
            .map(PathBuf::from)
            .find(|path| path.is_absolute() && path.file_name().is_some_and(|name| name == "git"))
            .map(|program| Self { program })
            .ok_or_else(|| {
                Error::permission(
                    "no git is granted; grant the one to use with its whole path, such as \
                     `process:spawn=/usr/bin/git`",
                )
            })
    }

    /// Runs git in `repo` and waits for its end. Dropping the future kills it.
    ///
    /// # Errors
    ///
    /// When it cannot be started, or prints too much.
    pub(crate) async fn run(&self, repo: &Path, arguments: &[&str]) -> Result<Finished, Error> {
        let mut child = self
            .command(repo)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let program = self.program.display();
                Error::permission(format_args!(
                    "cannot start the granted `{program}`: {error}"
                ))
            })?;
        let failed = |error| Error::transient(format_args!("reading from git: {error}"));
        let (output, complaint) = tokio::try_join!(
            read(child.stdout.take(), OUTPUT_BYTES_MAX + 1),
            read(child.stderr.take(), COMPLAINT_BYTES_MAX),
        )
        .map_err(failed)?;
        if output.len() as u64 > OUTPUT_BYTES_MAX {
            let limit = OUTPUT_BYTES_MAX >> 20;
            return Err(Error::permanent(format_args!(
                "the history is larger than {limit} MiB; set since_tag or lower max_commits"
            )));
        }
        let status = child.wait().await.map_err(failed)?;
        let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
        Ok(Finished {
            status,
            output,
            complaint,
        })
    }

    fn command(&self, repo: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(ENVIRONMENT);
        // Stops git from taking a repository further up for the one asked for,
        // which nobody allowed it to read.
        let above = repo.parent().map(OsString::from).unwrap_or_default();
        command.env("GIT_CEILING_DIRECTORIES", above);
        command.arg("--no-pager").arg("-C").arg(repo);
        for setting in HARMLESS {
            command.args(["-c", setting]);
        }
        command
    }
}

impl Finished {
    /// What git printed.
    ///
    /// # Errors
    ///
    /// When git failed, with what it complained about.
    pub(crate) fn successful(self) -> Result<Vec<u8>, Error> {
        match self.status.success() {
            true => Ok(self.output),
            false if self.complaint.is_empty() => Err(Error::permanent(format_args!(
                "git ended with {}",
                self.status
            ))),
            false => Err(Error::permanent(self.complaint)),
        }
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(max).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(grants: &[&str]) -> Setup {
        let grants = grants.iter().map(|grant| (*grant).to_owned());
        Setup::new(serde_json::Value::Null, grants.collect())
    }

    #[test]
    fn the_granted_git_is_found_among_other_grants() {
        let grants = [
            "file:read=/srv",
            "process:spawn=/bin/sh",
            "process:spawn=/opt/git/bin/git",
        ];
        let git = Git::granted(&setup(&grants)).unwrap();
        assert_eq!(git.program, Path::new("/opt/git/bin/git"));
    }

    #[test]
    fn what_was_not_granted_by_its_whole_path_is_not_run() {
        let cases = [
            &[][..],
            &["process:spawn=git"],
            &["process:spawn=/usr/bin/gitk"],
        ];
        for grants in cases {
            let error = Git::granted(&setup(grants)).unwrap_err();
            assert_eq!(error.exit_code(), 77, "{grants:?}");
        }
    }
}
