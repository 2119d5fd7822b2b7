//! What the plugin answers.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

/// The history of a repository, newest first.
#[derive(Debug, Serialize)]
pub(crate) struct History {
    /// What the repository is called.
    repository: String,
    /// The hash of the newest commit; null when there is none.
    head: Option<String>,
    /// What is listed, as git writes it: `v1.0..1a2b3c4d5e`.
    range: Option<String>,
    /// Whether older commits were left out because there are too many.
    truncated: bool,
    /// Tags of listed commits, oldest first.
    tags: Vec<Tag>,
    commits: Vec<Commit>,
    /// Authors of listed commits, the busiest first.
    contributors: Vec<Contributor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Tag {
    pub(crate) name: String,
    pub(crate) commit: String,
    /// When it was made, ISO 8601 with the maker's offset.
    pub(crate) date: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Commit {
    pub(crate) hash: String,
    pub(crate) parents: Vec<String>,
    pub(crate) author: String,
    pub(crate) email: String,
    /// When it was written, ISO 8601 with the author's offset.
    pub(crate) date: String,
    pub(crate) subject: String,
    pub(crate) body: String,
    /// Names of the tags that point to it.
    pub(crate) tags: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Contributor {
    name: String,
    email: String,
    commits: usize,
}

impl History {
    /// The history of a repository without commits.
    pub(crate) fn empty(repository: String) -> Self {
        Self {
            repository,
            head: None,
            range: None,
            truncated: false,
            tags: Vec::new(),
            commits: Vec::new(),
            contributors: Vec::new(),
        }
    }

    pub(crate) fn new(
        repository: String,
        head: String,
        range: String,
        truncated: bool,
        mut tags: Vec<Tag>,
        mut commits: Vec<Commit>,
    ) -> Self {
        let listed: HashSet<&str> = commits.iter().map(|commit| commit.hash.as_str()).collect();
        tags.retain(|tag| listed.contains(tag.commit.as_str()));
        let mut names: HashMap<&str, Vec<String>> = HashMap::new();
        for tag in &tags {
            names.entry(&tag.commit).or_default().push(tag.name.clone());
        }
        for commit in &mut commits {
            commit.tags = names.remove(commit.hash.as_str()).unwrap_or_default();
        }
        Self {
            repository,
            head: Some(head),
            range: Some(range),
            truncated,
            tags,
            contributors: contributors(&commits),
            commits,
        }
    }
}

fn contributors(commits: &[Commit]) -> Vec<Contributor> {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for commit in commits {
        *counts.entry((&commit.author, &commit.email)).or_default() += 1;
    }
    let mut contributors: Vec<Contributor> = counts
        .into_iter()
        .map(|((name, email), commits)| Contributor {
            name: name.to_owned(),
            email: email.to_owned(),
            commits,
        })
        .collect();
    // The sort is stable, so equals stay in the order of their names.
    contributors.sort_by_key(|contributor| std::cmp::Reverse(contributor.commits));
    contributors
}
