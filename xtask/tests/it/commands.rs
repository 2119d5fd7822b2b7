//! Texts name only commands and settings that exist.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};

use crate::{read, root, sources};

/// Every command of `orchestrator`, one a line; a test in `cli` keeps it so.
const COMMANDS: &str = include_str!("../../../cli/commands.txt");

/// The texts of a file, those in documentation and macros included.
fn texts(tokens: TokenStream, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => texts(group.stream(), found),
            TokenTree::Literal(literal) => {
                if let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                    found.push(text.value());
                }
            }
            _ => (),
        }
    }
}

fn word(text: &str) -> &str {
    let end = text.find(|it: char| !it.is_ascii_lowercase() && it != '-');
    let word = &text[..end.unwrap_or(text.len())];
    match word.starts_with('-') {
        true => "",
        false => word,
    }
}

/// What a text calls a command and is none. A command line stands in code, at
/// the beginning of a line of examples, or behind a prompt.
fn unknown_commands(text: &str) -> Vec<String> {
    const NAME: &str = "orchestrator ";
    text.match_indices(NAME)
        .filter(|(at, _)| {
            let before = text[..*at].trim_end_matches(' ');
            before.is_empty() || before.ends_with(['`', '\n', '$', '('])
        })
        .filter_map(|(at, _)| {
            let rest = text[at + NAME.len()..].trim_start();
            let first = word(rest);
            let second = word(rest[first.len()..].strip_prefix(' ').unwrap_or_default());
            let known = COMMANDS.lines().any(|command| {
                let mut words = command.split(' ');
                // A command with its subcommand left out is one too.
                words.next() == Some(first)
                    && (second.is_empty() || words.next().is_none_or(|it| it == second))
            });
            (!first.is_empty() && !known).then(|| format!("orchestrator {first} {second}"))
        })
        .collect()
}

/// Files that name wrong commands on purpose.
const EXEMPT: &[&str] = &["xtask/tests/it/commands.rs"];

#[test]
fn every_command_that_a_text_names_exists() {
    let mut wrong = Vec::new();
    let mut named = 0;
    for path in sources() {
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        if EXEMPT.contains(&shown.as_str()) {
            continue;
        }
        let mut found = Vec::new();
        texts(read(&path).parse().unwrap(), &mut found);
        for text in found {
            named += text.matches("orchestrator ").count();
            let unknown = unknown_commands(&text);
            wrong.extend(
                unknown
                    .into_iter()
                    .map(|command| format!("{shown}: `{command}`")),
            );
        }
    }
    assert!(named > 100, "only {named} commands were found");
    assert!(
        wrong.is_empty(),
        "there is no such command:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_command_that_a_document_names_exists() {
    for page in crate::map::documents() {
        let text = read(&page);
        let wrong = unknown_commands(&text);
        assert!(wrong.is_empty(), "{}: {wrong:?}", page.display());
    }
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    for (text, expected) in [
        ("see `orchestrator plugin list`", None),
        ("see `orchestrator run`", None),
        ("`orchestrator completion bash`", None),
        ("`orchestrator --home x run list`", None),
        ("the orchestrator signs nothing", None),
        (
            "see `orchestrator grant add x`",
            Some("orchestrator grant add"),
        ),
        (
            "see `orchestrator plugin upgrade`",
            Some("orchestrator plugin upgrade"),
        ),
        ("\n  orchestrator sign --add", Some("orchestrator sign ")),
    ] {
        let expected = Vec::from_iter(expected.map(str::to_owned));
        assert_eq!(unknown_commands(text), expected, "{text}");
    }
}

/// Settings are named `section.key` in code.
#[test]
fn every_setting_that_a_text_names_exists() {
    let text = read(&root().join("engine/src/config/default.toml"));
    let defaults: toml::Table = text.parse().unwrap();
    let mut named = BTreeSet::new();
    for member in [
        "manifest",
        "signing",
        "sandbox",
        "plugin-runtime",
        "engine",
        "cli",
    ] {
        for path in sources() {
            if !path.starts_with(root().join(member).join("src")) {
                continue;
            }
            let mut found = Vec::new();
            texts(read(&path).parse().unwrap(), &mut found);
            named.extend(found.iter().flat_map(|text| settings(text, &defaults)));
        }
    }
    for page in crate::map::documents() {
        named.extend(settings(&read(&page), &defaults));
    }
    assert!(named.len() > 5, "only {named:?} were found");
    for setting in named {
        let mut value = Some(&toml::Value::Table(defaults.clone())).cloned();
        for key in setting.split('.') {
            value = value.and_then(|table| table.get(key).cloned());
        }
        assert!(value.is_some(), "there is no setting `{setting}`");
    }
}

/// Settings of these sections are free, or not tables of settings at all.
fn settings(text: &str, defaults: &toml::Table) -> Vec<String> {
    let in_code = text.split('`').skip(1).step_by(2);
    in_code
        .filter_map(|code| {
            let (section, key) = code.split_once('.')?;
            let plain = |it: char| it.is_ascii_lowercase() || it == '_' || it == '.';
            let is_file = [".rs", ".toml", ".yaml", ".json", ".md", ".sh", ".db"]
                .iter()
                .any(|end| code.ends_with(end));
            // `run.id` and `session.id` are variables of expressions.
            let is_variable = ["id", "pipeline"].contains(&key);
            (defaults.contains_key(section)
                && section != "plugins"
                && !is_file
                && !is_variable
                && key.chars().all(plain))
            .then(|| code.to_owned())
        })
        .collect()
}
