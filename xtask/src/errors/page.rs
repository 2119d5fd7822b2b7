//! The Markdown of the page.

use std::{collections::BTreeMap, fmt::Write as _, ops::RangeInclusive};

use super::Definition;

const HEAD: &str = "\
# Errors

<!-- Written by `cargo xtask errors` from the error types of the crates. Change those. -->

Every mistake that an operator or a plugin author can make has a code that never changes its meaning.
On a terminal or in a file it stands before the message, with `--json` it is `error.code`, and over HTTP
it is `code` in the problem document. Errors that list faults, such as `ORC-1000` and `ORC-1100`, have one
code for the whole and one for each fault.

```text
error[ORC-2055]: `run` is not what was signed: integrity check failed
  help: the file was altered, or damaged on its way; get the package again from the publisher
```

Words *like this* or `<like this>` stand for what the message fills in. Below a message: what it means,
then what to do.

";

/// The sections: the anchor, the title, the codes.
const SECTIONS: &[(&str, &str, RangeInclusive<u16>)] = &[
    ("manifests", "Manifests", 1000..=1099),
    ("pipelines", "Pipelines", 1100..=1199),
    ("configuration", "Configuration", 1200..=1299),
    (
        "keys-trust-packages-and-grants",
        "Keys, trust, packages and grants",
        2000..=2199,
    ),
    ("plugins", "Plugins", 3000..=3199),
    (
        "runs-journal-and-sessions",
        "Runs, journal and sessions",
        4000..=4199,
    ),
    (
        "the-command-and-its-http-api",
        "The command and its HTTP API",
        5000..=5099,
    ),
];

/// Writes the page.
pub(super) fn write(definitions: &BTreeMap<u16, Vec<Definition>>) -> Result<String, String> {
    let mut text = HEAD.to_owned();
    for (anchor, title, codes) in SECTIONS {
        let (first, last) = (codes.start(), codes.end());
        push(
            &mut text,
            format_args!("* [{title}](#{anchor}): {first} to {last}\n"),
        )?;
    }
    let mut written = 0;
    for (_, title, codes) in SECTIONS {
        push(&mut text, format_args!("\n## {title}\n"))?;
        for (code, same) in definitions.range(codes.clone()) {
            entry(&mut text, *code, same)?;
            written += 1;
        }
    }
    match written == definitions.len() {
        true => Ok(text),
        false => Err("a code lies in no section of the page".to_owned()),
    }
}

fn entry(text: &mut String, code: u16, definitions: &[Definition]) -> Result<(), String> {
    push(text, format_args!("\n### ORC-{code}\n"))?;
    let mut seen: Vec<&Definition> = Vec::new();
    for definition in definitions {
        if seen.iter().any(|it| it.message == definition.message) {
            continue;
        }
        seen.push(definition);
        let about = definition.about.join("\n\n");
        match definition.message.as_str() {
            "" => (),
            message => push(text, format_args!("\n> {}\n", line(message)))?,
        }
        if !about.is_empty() {
            push(text, format_args!("\n{about}\n"))?;
        }
        let help = sentence(&definition.help);
        push(text, format_args!("\n**What to do:** {help}\n"))?;
    }
    Ok(())
}

fn push(text: &mut String, part: std::fmt::Arguments<'_>) -> Result<(), String> {
    text.write_fmt(part).map_err(|error| error.to_string())
}

/// A message on one line.
fn line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A help line is a fragment; the page has sentences.
fn sentence(help: &str) -> String {
    let help = line(help);
    let mut characters = help.chars();
    let mut sentence: String = characters
        .next()
        .map(char::to_uppercase)
        .into_iter()
        .flatten()
        .collect();
    sentence += characters.as_str();
    if !sentence.ends_with(['.', '?', '!']) {
        sentence.push('.');
    }
    sentence
}
