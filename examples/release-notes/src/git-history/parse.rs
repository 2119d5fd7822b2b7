//! What git prints.

use orchestrator_sdk::Error;

use crate::history::{Commit, Tag};

/// Fields of a commit. They end with NUL, which no commit can hold, so nothing
/// in a message can look like the end of a field.
pub(crate) const LOG_FORMAT: &str = "--format=%H%x00%P%x00%an%x00%ae%x00%aI%x00%s%x00%b";
const LOG_FIELDS: usize = 7;

/// Fields of a tag: name, object, the commit behind an annotated one, date.
pub(crate) const TAG_FORMAT: &str =
    "--format=%(refname:strip=2)%00%(objectname)%00%(*objectname)%00%(creatordate:iso-strict)";

/// Reads `git log -z` in [`LOG_FORMAT`].
pub(crate) fn commits(log: &[u8]) -> Result<Vec<Commit>, Error> {
    let Some(log) = log.strip_suffix(b"\0") else {
        return match log.is_empty() {
            true => Ok(Vec::new()),
            false => Err(Error::permanent("the output of git log ends in a field")),
        };
    };
    let fields: Vec<&[u8]> = log.split(|byte| *byte == 0).collect();
    if !fields.len().is_multiple_of(LOG_FIELDS) {
        return Err(Error::permanent(format_args!(
            "git log printed {} fields, which are no whole commits",
            fields.len()
        )));
    }
    Ok(fields.chunks_exact(LOG_FIELDS).map(commit).collect())
}

fn commit(fields: &[&[u8]]) -> Commit {
    let field = |number: usize| text(fields[number]);
    Commit {
        hash: field(0),
        parents: field(1).split_whitespace().map(str::to_owned).collect(),
        author: field(2),
        email: field(3),
        date: field(4),
        subject: field(5),
        body: field(6).trim_end().to_owned(),
        tags: Vec::new(),
    }
}

/// Reads `git for-each-ref` in [`TAG_FORMAT`], oldest first and by name among
/// equals. Tags of anything but commits are left in: nobody will look them up.
pub(crate) fn tags(refs: &[u8]) -> Vec<Tag> {
    let mut tags: Vec<Tag> = refs
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let [name, object, behind, date] = fields[..] else {
                return None;
            };
            let commit = match behind.is_empty() {
                true => object,
                false => behind,
            };
            Some(Tag {
                name: text(name),
                commit: text(commit),
                date: text(date),
            })
        })
        .collect();
    tags.sort_by(|a, b| (&a.date, &a.name).cmp(&(&b.date, &b.name)));
    tags
}

/// Names and messages may be in any encoding; what is not UTF-8 is replaced.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_hold_anything_but_nul() {
        let log =
            b"h1\0p1 p2\0A\x1fB\0a@b\x002024-01-01T00:00:00+01:00\0subject\0line\n\nline\n\n\0\
                    h2\0\0Ren\xe9\0r@b\0d\0\0\0";
        let commits = commits(log).unwrap();
        assert_eq!(commits.len(), 2);
        assert_eq!(commits[0].parents, ["p1", "p2"]);
        assert_eq!(commits[0].author, "A\u{1f}B");
        assert_eq!(commits[0].body, "line\n\nline");
        assert_eq!(commits[1].author, "Ren\u{fffd}");
        assert_eq!(
            (commits[1].parents.len(), commits[1].subject.as_str()),
            (0, "")
        );
    }

    #[test]
    fn output_that_was_cut_off_is_refused() {
        assert!(commits(b"h\0p\0a\0e\0d\0s\0body").is_err());
        assert!(commits(b"h\0p\0a\0").is_err());
        assert_eq!(commits(b"").unwrap().len(), 0);
    }

    #[test]
    fn tags_are_sorted_by_age() {
        let refs = b"v2\0b\0\x002024-02-01T00:00:00Z\nv1\0object\0a\x002024-01-01T00:00:00Z\n";
        let tags = tags(refs);
        let found: Vec<_> = tags.iter().map(|tag| (&*tag.name, &*tag.commit)).collect();
        assert_eq!(found, [("v1", "a"), ("v2", "b")]);
    }
}
