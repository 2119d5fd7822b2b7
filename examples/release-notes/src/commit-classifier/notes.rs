//! Puts commits into sections.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::{
    history::{Commit, History},
    message::Message,
    section::Section,
};

/// Of a hash, enough for a person.
const SHORT: usize = 10;

/// Collects what goes into release notes. Entries keep the order of history.
pub(crate) struct Notes<'a> {
    reverted: HashSet<&'a str>,
    sections: BTreeMap<Section, Vec<Entry<'a>>>,
    breaking: Vec<Breaking<'a>>,
    merges: Vec<Merge<'a>>,
    counts: Counts,
}

/// What the plugin answers.
#[derive(Debug, Serialize)]
pub(crate) struct Finished<'a> {
    sections: Vec<Titled<'a>>,
    breaking: Vec<Breaking<'a>>,
    merges: Vec<Merge<'a>>,
    counts: Counts,
}

#[derive(Debug, Serialize)]
struct Titled<'a> {
    title: &'static str,
    entries: Vec<Entry<'a>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    subject: &'a str,
    r#type: Option<&'a str>,
    scope: Option<&'a str>,
    breaking: bool,
    /// Whether a later commit of this history takes it back.
    reverted: bool,
    hash: &'a str,
    short: &'a str,
    author: &'a str,
}

#[derive(Debug, Serialize)]
struct Breaking<'a> {
    subject: &'a str,
    scope: Option<&'a str>,
    /// What users must know, where the commit says.
    note: Option<String>,
    hash: &'a str,
    short: &'a str,
    author: &'a str,
}

#[derive(Debug, Serialize)]
struct Merge<'a> {
    subject: &'a str,
    hash: &'a str,
    short: &'a str,
    author: &'a str,
}

#[derive(Debug, Default, Serialize)]
struct Counts {
    commits: usize,
    /// In sections, which is all but merges.
    entries: usize,
    merges: usize,
    breaking: usize,
    reverts: usize,
    /// Of the entries, those that follow the convention.
    conventional: usize,
}

impl<'a> Notes<'a> {
    pub(crate) fn new(history: &'a History) -> Self {
        // A revert may shorten the hash, so the whole one is looked for.
        let mut sorted: Vec<&str> = history
            .commits
            .iter()
            .map(|commit| commit.hash.as_str())
            .collect();
        sorted.sort_unstable();
        let whole = |start: &str| {
            let at = sorted.partition_point(|hash| *hash < start);
            sorted
                .get(at)
                .copied()
                .filter(|hash| hash.starts_with(start))
        };
        let reverted = history
            .commits
            .iter()
            .flat_map(|commit| Message::parse(&commit.subject, &commit.body).reverts)
            .filter_map(whole)
            .collect();
        Self {
            reverted,
            sections: BTreeMap::new(),
            breaking: Vec::new(),
            merges: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Adds a commit. A merge repeats what its parents say, so it is listed
    /// apart and its message is not read.
    pub(crate) fn add(&mut self, commit: &'a Commit) {
        let hash = commit.hash.as_str();
        let short = hash.get(..SHORT).unwrap_or(hash);
        let author = commit.author.as_str();
        self.counts.commits += 1;
        if commit.parents.len() > 1 {
            self.merges.push(Merge {
                subject: &commit.subject,
                hash,
                short,
                author,
            });
            return;
        }
        let message = Message::parse(&commit.subject, &commit.body);
        self.counts.conventional += usize::from(message.kind.is_some());
        if message.breaking {
            self.breaking.push(Breaking {
                subject: message.description,
                scope: message.scope,
                note: message.note,
                hash,
                short,
                author,
            });
        }
        self.sections
            .entry(message.section)
            .or_default()
            .push(Entry {
                subject: message.description,
                r#type: message.kind,
                scope: message.scope,
                breaking: message.breaking,
                reverted: self.reverted.contains(hash),
                hash,
                short,
                author,
            });
    }

    pub(crate) fn finish(self) -> Finished<'a> {
        let reverts = self.sections.get(&Section::Reverts).map_or(0, Vec::len);
        let counts = Counts {
            entries: self.counts.commits - self.merges.len(),
            merges: self.merges.len(),
            breaking: self.breaking.len(),
            reverts,
            ..self.counts
        };
        let sections = self.sections.into_iter().map(|(section, entries)| Titled {
            title: section.title(),
            entries,
        });
        Finished {
            sections: sections.collect(),
            breaking: self.breaking,
            merges: self.merges,
            counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn classified(commits: Value) -> Value {
        let history: History = serde_json::from_value(json!({ "commits": commits })).unwrap();
        let mut notes = Notes::new(&history);
        for commit in &history.commits {
            notes.add(commit);
        }
        serde_json::to_value(notes.finish()).unwrap()
    }

    fn commit(hash: &str, parents: &[&str], subject: &str, body: &str) -> Value {
        json!({
            "hash": hash.repeat(20),
            "parents": parents,
            "author": "Ada",
            "subject": subject,
            "body": body,
        })
    }

    #[test]
    fn sections_come_in_their_order_and_entries_in_that_of_history() {
        let notes = classified(json!([
            commit("aa", &["bb"], "chore: tidy", ""),
            commit("bb", &["cc"], "fix: two", ""),
            commit("cc", &["dd"], "Fix one", ""),
            commit("dd", &[], "feat(cli)!: begin", ""),
        ]));
        let titles: Vec<_> = notes["sections"].as_array().unwrap().iter().collect();
        let titles: Vec<_> = titles.iter().map(|section| &section["title"]).collect();
        assert_eq!(titles, ["Features", "Fixes", "Chores"]);
        let fixes = &notes["sections"][1]["entries"];
        assert_eq!(fixes[0]["subject"], "two");
        assert_eq!(fixes[1]["subject"], "Fix one");
        assert_eq!(fixes[0]["short"], "bbbbbbbbbb");
        let breaking = &notes["breaking"];
        assert_eq!(breaking[0]["subject"], "begin");
        assert_eq!(breaking[0]["scope"], "cli");
        let counts = json!({
            "commits": 4, "entries": 4, "merges": 0, "breaking": 1, "reverts": 0,
            "conventional": 3,
        });
        assert_eq!(notes["counts"], counts);
    }

    #[test]
    fn a_merge_is_listed_once_and_apart() {
        let notes = classified(json!([
            commit(
                "aa",
                &["bb", "cc"],
                "feat!: merge of a feature",
                "BREAKING CHANGE: x"
            ),
            commit("bb", &[], "feat: a feature", ""),
        ]));
        assert_eq!(notes["merges"].as_array().unwrap().len(), 1);
        assert_eq!(notes["sections"][0]["entries"].as_array().unwrap().len(), 1);
        assert_eq!(notes["breaking"], json!([]));
        assert_eq!(notes["counts"]["merges"], 1);
    }

    #[test]
    fn what_was_taken_back_is_marked() {
        let short = format!("This reverts commit {}.", &"bb".repeat(20)[..8]);
        let notes = classified(json!([
            commit("aa", &["bb"], "Revert \"feat: x\"", &short),
            commit("bb", &["cc"], "feat: x", ""),
            commit("cc", &[], "feat: y", ""),
        ]));
        let features = &notes["sections"][0]["entries"];
        assert_eq!(features[0]["reverted"], true);
        assert_eq!(features[1]["reverted"], false);
        assert_eq!(notes["sections"][1]["title"], "Reverts");
        assert_eq!(notes["counts"]["reverts"], 1);
    }

    #[test]
    fn no_commits_are_no_sections() {
        let notes = classified(json!([]));
        assert_eq!(notes["sections"], json!([]));
        assert_eq!(notes["counts"]["commits"], 0);
    }
}
