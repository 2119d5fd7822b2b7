//! `author-stats` by hand; what it counts is checked by a real JSON parser.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::process::{Finished, file, run};

const SCRIPT: &str = "release-notes/plugins/author-stats/author-stats.sh";

pub(crate) fn count(input: &[u8]) -> Finished {
    run(file(SCRIPT), &["execute", "count"], &[], input)
}

/// The busiest first, equals by the bytes of their JSON text between the quotes.
fn expected(names: &[String]) -> Value {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in names {
        let quoted = json!(name).to_string();
        let unquoted = &quoted[1..quoted.len() - 1];
        *counts.entry(unquoted.to_owned()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let authors: Vec<Value> = counts
        .into_iter()
        .map(|(name, commits)| {
            let name: Value = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            json!({ "name": name, "commits": commits })
        })
        .collect();
    json!({ "authors": authors, "total": names.len() })
}

#[test]
fn names_of_every_kind_are_counted_unchanged() {
    let names = [
        "Ada",
        "Grace \"Amazing\" Hopper",
        "back\\slash",
        "ends in \\",
        "quote at the end\"",
        "a,b",
        "[c]",
        "],[",
        "\\\"",
        "\\\\",
        "",
        " ",
        "é",
        "日本",
        "🎉",
        "tab\t",
        "line\n",
        "\u{1}",
        "12",
        "012",
        "1e3",
        "%s%d%n",
        "$HOME",
        "`id`",
        "{\"name\":\"x\"}",
        "Ada",
        "12",
    ];
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let input = serde_json::to_vec(&names).unwrap();
    assert_eq!(count(&input).json(), expected(&names));
}

#[test]
fn blanks_between_names_do_not_matter() {
    for input in ["[]", " [ ] \n", "\t[\n]"] {
        let counted = count(input.as_bytes()).json();
        assert_eq!(counted, json!({ "authors": [], "total": 0 }), "{input:?}");
    }
    let counted = count(b" [ \"a\" ,\n\"b\" , \"a\" ] ").json();
    assert_eq!(counted["total"], 3);
    assert_eq!(counted["authors"][0], json!({ "name": "a", "commits": 2 }));
}

#[test]
fn what_is_no_array_of_texts_is_refused() {
    let inputs = [
        "",
        "[",
        "]",
        "null",
        "[1]",
        "[null]",
        "[\"a\",1]",
        "[\"a\",]",
        "[,\"a\"]",
        "[\"a\" \"b\"]",
        "[\"a\"",
        "[\"a",
        "\"a\"",
        "{\"a\":\"b\"}",
        "[\"a\"]]",
        "[\"a\"][\"b\"]",
        "[\"a\"],\"b\"",
        "[[\"a\"]]",
        "[] []",
        "[\"a\\\"]",
    ];
    for input in inputs {
        let refused = count(input.as_bytes());
        assert_eq!(refused.code, Some(65), "{input}");
        assert!(refused.output.is_empty(), "{input}");
        assert_eq!(refused.stderr, "the input must be a JSON array of texts\n");
    }
}

#[test]
fn five_thousand_names_are_sorted() {
    let names: Vec<String> = (0_u32..5_000)
        .map(|number| format!("Näme {}", number.wrapping_mul(2_654_435_761) % 1_700))
        .collect();
    let input = serde_json::to_vec(&names).unwrap();
    assert_eq!(count(&input).json(), expected(&names));
}

#[test]
fn it_answers_the_hosts_questions() {
    assert_eq!(run(file(SCRIPT), &["validate"], &[], b"").code, Some(0));
    let misused = run(file(SCRIPT), &["execute", "other"], &[], b"");
    assert_eq!(misused.code, Some(2));
    assert!(misused.stderr.starts_with("usage:"), "{}", misused.stderr);
}
