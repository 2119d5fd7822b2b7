//! Reads the history of a git repository.
//!
//! git itself does the reading: the operator grants one (`process:spawn=<path>`)
//! and no other is ever run. The output depends on the repository alone.
//!
//! Start with [`GitHistory::collect`](GitHistory), then `git.rs`.

mod git;
mod history;
mod parse;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use orchestrator_sdk::{Context, Error, Info, Input, Plugin, Reply, Setup, serve};
use serde::Deserialize;

use git::Git;
use history::History;

/// The most commits a caller may ask for.
const COMMITS_MAX: u32 = 1_000_000;
/// Of a hash, enough for a person.
const SHORT: usize = 10;
/// How many tags a message lists.
const TAGS_SHOWN: usize = 10;

struct GitHistory;

/// The input of `collect`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The repository's directory, or a bare repository.
    repo: PathBuf,
    /// Leaves out what this tag contains.
    #[serde(default)]
    since_tag: Option<String>,
    /// Leaves out older commits beyond this number.
    #[serde(default = "commits")]
    max_commits: u32,
}

fn commits() -> u32 {
    100_000
}

impl Plugin for GitHistory {
    fn info(&self) -> Info {
        Info::new("git-history", env!("CARGO_PKG_VERSION"), ["collect"])
    }

    fn validate(&self, setup: &Setup) -> Result<(), Error> {
        Git::granted(setup).map(|_| ())
    }

    async fn call(&self, _: &str, input: Input, context: &Context) -> Result<Reply, Error> {
        let request: Request = input.json()?;
        let git = Git::granted(context.setup())?;
        let history = tokio::select! {
            history = collect(&git, &request) => history?,
            // Dropping the work above kills the git that runs.
            () = context.cancelled() => return Err(Error::transient("cancelled")),
        };
        Reply::json(&history)
    }
}

async fn collect(git: &Git, request: &Request) -> Result<History, Error> {
    if !(1..=COMMITS_MAX).contains(&request.max_commits) {
        return Err(Error::invalid_input(format_args!(
            "max_commits must be from 1 to {COMMITS_MAX}"
        )));
    }
    let path = open(git, &request.repo).await?;
    let repository = name(&path);
    let Some(head) = commit(git, &path, "HEAD").await? else {
        return Ok(History::empty(repository));
    };
    let refs = git
        .run(&path, &["for-each-ref", parse::TAG_FORMAT, "refs/tags"])
        .await?
        .successful()?;
    let tags = parse::tags(&refs);
    let short = &head[..head.len().min(SHORT)];
    let (range, revisions) = match &request.since_tag {
        None => (short.to_owned(), head.clone()),
        Some(tag) => {
            let name = format!("refs/tags/{tag}");
            let since = commit(git, &path, &name).await?;
            let since = since.ok_or_else(|| unknown_tag(tag, &tags))?;
            (format!("{tag}..{short}"), format!("{since}..{head}"))
        }
    };
    // One more than wanted tells whether there are more.
    let count = format!("--max-count={}", request.max_commits + 1);
    let log = git
        .run(
            &path,
            &[
                "log",
                "-z",
                "--topo-order",
                &count,
                parse::LOG_FORMAT,
                &revisions,
                "--",
            ],
        )
        .await?
        .successful()?;
    let mut commits = parse::commits(&log)?;
    let max = usize::try_from(request.max_commits).unwrap_or(usize::MAX);
    let truncated = commits.len() > max;
    commits.truncate(max);
    Ok(History::new(
        repository, head, range, truncated, tags, commits,
    ))
}

/// The repository's absolute path, once git agrees that there is one.
async fn open(git: &Git, repo: &Path) -> Result<PathBuf, Error> {
    let shown = repo.display();
    let path = tokio::fs::canonicalize(repo)
        .await
        .map_err(|error| Error::permanent(format_args!("repository `{shown}`: {error}")))?;
    let found = git.run(&path, &["rev-parse", "--git-dir"]).await?;
    match found.successful() {
        Ok(_) => Ok(path),
        Err(error) => {
            let path = path.display();
            Err(Error::permanent(format_args!(
                "`{path}` is not a git repository: {error}"
            )))
        }
    }
}

/// The hash of the commit that `name` stands for.
async fn commit(git: &Git, path: &Path, name: &str) -> Result<Option<String>, Error> {
    let name = format!("{name}^{{commit}}");
    let arguments = [
        "rev-parse",
        "--verify",
        "--quiet",
        "--end-of-options",
        &name,
    ];
    let found = git.run(path, &arguments).await?.successful();
    let hash = found.map(|hash| String::from_utf8_lossy(&hash).trim().to_owned());
    Ok(hash.ok().filter(|hash| !hash.is_empty()))
}

/// What people call a repository: its directory's name.
fn name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy());
    let name = name.as_deref().unwrap_or("repository");
    match name.strip_suffix(".git") {
        Some(bare) if !bare.is_empty() => bare.to_owned(),
        _ => name.to_owned(),
    }
}

fn unknown_tag(tag: &str, tags: &[history::Tag]) -> Error {
    let known: Vec<&str> = tags
        .iter()
        .rev()
        .take(TAGS_SHOWN)
        .map(|tag| tag.name.as_str())
        .collect();
    let known = match known.is_empty() {
        true => "it has none".to_owned(),
        false => format!("the latest are {}", known.join(", ")),
    };
    Error::invalid_input(format_args!("the repository has no tag `{tag}`; {known}"))
}

fn main() -> ExitCode {
    serve(GitHistory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_called_after_its_directory() {
        let cases = [
            ("/srv/site", "site"),
            ("/srv/site.git", "site"),
            ("/srv/site/.git", ".git"),
            ("/", "repository"),
        ];
        for (path, expected) in cases {
            assert_eq!(name(Path::new(path)), expected);
        }
    }
}
