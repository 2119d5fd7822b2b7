//! What the plugin is given: of what `git-history` answers, the part it needs.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(crate) struct History {
    /// Newest first.
    pub(crate) commits: Vec<Commit>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Commit {
    pub(crate) hash: String,
    #[serde(default)]
    pub(crate) parents: Vec<String>,
    pub(crate) author: String,
    pub(crate) subject: String,
    #[serde(default)]
    pub(crate) body: String,
}
