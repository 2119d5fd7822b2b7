//! Texts, numbers, words and other values without parts.

use std::{collections::BTreeMap, ops::RangeInclusive};

use semver::Version;

use super::{
    Context, Item,
    table::{entries, list},
};
use crate::{
    fault::Rule,
    located::NodeKind,
    name::PluginName,
    package_path::PackagePath,
    text::{is_printable, nearest, quoted},
    word::Word,
};

/// Longest one-line text, in bytes.
pub(super) const LINE_MAX: usize = 1_024;
/// Longest text of several lines, in bytes.
pub(super) const PROSE_MAX: usize = 16 * 1_024;
/// Longest name of a phase, feature, domain or ability, in bytes.
const TAG_MAX: usize = 64;

pub(super) fn wrong_type(cx: &mut Context<'_>, item: &Item<'_>, wanted: &str) {
    let found = match item.node.kind {
        NodeKind::Bool(_) => "a boolean",
        _ => item.node.type_name(),
    };
    let message = format!("{wanted} is wanted here, not {found}");
    let help = match item.node.kind {
        NodeKind::Number(_) | NodeKind::Bool(_) if wanted == "text" => {
            "put it in quotes".to_owned()
        }
        _ => format!("write {wanted}"),
    };
    cx.fault(item, Rule::WrongType, message, help);
}

/// Text as it stands.
pub(super) fn raw_text<'a>(cx: &mut Context<'_>, item: &Item<'a>) -> Option<&'a str> {
    match &item.node.kind {
        NodeKind::String(text) => Some(text),
        _ => {
            wrong_type(cx, item, "text");
            None
        }
    }
}

/// Text that people read: not blank, printable, at most `max` bytes.
fn bounded_text(cx: &mut Context<'_>, item: &Item<'_>, max: usize) -> Option<String> {
    let text = raw_text(cx, item)?;
    if text.trim().is_empty() {
        cx.fault(
            item,
            Rule::OutOfBounds,
            "the text is empty",
            "write something or leave the key out",
        );
    } else if text.len() > max {
        let message = format!("the text has {} bytes, at most {max} are kept", text.len());
        cx.fault(item, Rule::OutOfBounds, message, "shorten it");
    } else if !is_printable(text) {
        let message = "the text has control characters, or characters that hide or reorder text";
        cx.fault(item, Rule::OutOfBounds, message, "remove them");
    } else {
        return Some(text.to_owned());
    }
    None
}

/// Text of several lines.
pub(super) fn prose(cx: &mut Context<'_>, item: &Item<'_>) -> Option<String> {
    bounded_text(cx, item, PROSE_MAX)
}

/// Text of one line.
pub(super) fn line(cx: &mut Context<'_>, item: &Item<'_>) -> Option<String> {
    let text = bounded_text(cx, item, LINE_MAX)?;
    if text.contains('\n') {
        cx.fault(
            item,
            Rule::OutOfBounds,
            "the text has several lines",
            "write it on one line",
        );
        return None;
    }
    Some(text)
}

/// A name made of letters, digits and `_ . -`, starting with one of the first
/// two: safe as an argument of a program and as a label.
pub(super) fn tag(cx: &mut Context<'_>, item: &Item<'_>) -> Option<String> {
    let text = raw_text(cx, item)?;
    let is_tag = text.len() <= TAG_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if !is_tag {
        let message = format!("{} is no name", quoted(text));
        let help = format!("A-Z a-z 0-9 _ . - starting with a letter or digit, at most {TAG_MAX}");
        cx.fault(item, Rule::BadName, message, help);
        return None;
    }
    Some(text.to_owned())
}

pub(super) fn boolean(cx: &mut Context<'_>, item: &Item<'_>) -> Option<bool> {
    match item.node.kind {
        NodeKind::Bool(value) => Some(value),
        _ => {
            wrong_type(cx, item, "true or false");
            None
        }
    }
}

/// A whole number within bounds.
pub(super) fn number(
    cx: &mut Context<'_>,
    item: &Item<'_>,
    bounds: RangeInclusive<u32>,
) -> Option<u32> {
    let NodeKind::Number(number) = &item.node.kind else {
        wrong_type(cx, item, "a number");
        return None;
    };
    let within = number
        .as_u64()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| bounds.contains(number));
    if within.is_none() {
        let message = format!(
            "{number} is not a whole number from {} to {}",
            bounds.start(),
            bounds.end()
        );
        cx.fault(item, Rule::OutOfBounds, message, "stay within the bounds");
    }
    within
}

/// One of a closed set of words.
pub(super) fn word<W: Word>(cx: &mut Context<'_>, item: &Item<'_>) -> Option<W> {
    let text = raw_text(cx, item)?;
    let found = W::from_word(text);
    if found.is_none() {
        let words = W::WORDS.iter().map(|(word, _)| *word);
        let help = match nearest(text, words.clone()) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("one of {}", words.collect::<Vec<_>>().join(", ")),
        };
        cx.fault(
            item,
            Rule::UnknownWord,
            format!("{} is not known here", quoted(text)),
            help,
        );
    }
    found
}

pub(super) fn plugin_name(cx: &mut Context<'_>, item: &Item<'_>) -> Option<PluginName> {
    let text = raw_text(cx, item)?;
    name_from(cx, item, text)
}

pub(super) fn name_from(cx: &mut Context<'_>, item: &Item<'_>, text: &str) -> Option<PluginName> {
    match PluginName::parse(text) {
        Ok(name) => Some(name),
        Err(error) => {
            let message = format!("{} is no plugin name: {error}", quoted(text));
            let likely = text.trim().to_lowercase().replace(['_', ' '], "-");
            let help = match PluginName::parse(&likely) {
                Ok(name) => format!("for example `{name}`; free text goes to `display_name`"),
                Err(_) => "for example `com.example.my-plugin`".to_owned(),
            };
            cx.fault(item, Rule::BadName, message, help);
            None
        }
    }
}

pub(super) fn version(cx: &mut Context<'_>, item: &Item<'_>) -> Option<Version> {
    let text = raw_text(cx, item)?;
    match Version::parse(text) {
        Ok(version) => Some(version),
        Err(error) => {
            let message = format!("{} is no semantic version: {error}", quoted(text));
            cx.fault(
                item,
                Rule::BadVersion,
                message,
                "three numbers, such as `1.0.0` or `1.0.0-rc.1`",
            );
            None
        }
    }
}

/// A path inside the package; a leading `./` is dropped.
pub(super) fn path(cx: &mut Context<'_>, item: &Item<'_>) -> Option<PackagePath> {
    let text = raw_text(cx, item)?;
    path_from(cx, item, text)
}

/// A path inside the package where a file has to be.
pub(super) fn file(cx: &mut Context<'_>, item: &Item<'_>) -> Option<PackagePath> {
    let path = path(cx, item)?;
    let span = item.node.span.clone();
    cx.files.push((item.pointer.clone(), span, path.clone()));
    Some(path)
}

pub(super) fn path_from(cx: &mut Context<'_>, item: &Item<'_>, text: &str) -> Option<PackagePath> {
    match PackagePath::parse(text.strip_prefix("./").unwrap_or(text)) {
        Ok(path) => Some(path),
        Err(error) => {
            let message = format!("{}: {error}", quoted(text));
            let help = "name a file beneath the manifest's own folder, with `/` between the parts";
            cx.fault(item, Rule::BadPath, message, help);
            None
        }
    }
}

/// A list whose items are decoded one by one; broken ones are left out.
pub(super) fn list_of<T>(
    cx: &mut Context<'_>,
    item: &Item<'_>,
    mut decode: impl FnMut(&mut Context<'_>, &Item<'_>) -> Option<T>,
) -> Vec<T> {
    let items = list(cx, item).unwrap_or_default();
    items.iter().filter_map(|item| decode(cx, item)).collect()
}

/// A table of the author's own keys; broken entries are left out.
pub(super) fn map_of<K: Ord, V>(
    cx: &mut Context<'_>,
    item: &Item<'_>,
    mut key: impl FnMut(&mut Context<'_>, &Item<'_>, &str) -> Option<K>,
    mut value: impl FnMut(&mut Context<'_>, &Item<'_>) -> Option<V>,
) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    for entry in entries(cx, item).unwrap_or_default() {
        let child = item.child(&entry.key, &entry.node);
        let key = key(cx, &child, &entry.key);
        let value = value(cx, &child);
        if let (Some(key), Some(value)) = (key, value) {
            map.insert(key, value);
        }
    }
    map
}
