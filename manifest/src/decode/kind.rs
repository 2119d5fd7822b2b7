//! How the plugin runs, from whichever of the keys say so.

use super::{
    Context, Item,
    scalar::{self, LINE_MAX, boolean, file, list_of, raw_text},
    table::Table,
};
use crate::{
    capability::{Capability, Token},
    fault::Rule,
    name::PluginName,
    text::{is_printable, nearest, quoted},
    word::Kind,
};

pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) entry_point: String,
    pub(super) interpreter: Option<String>,
    pub(super) args: Vec<String>,
}

pub(super) fn entry(
    cx: &mut Context<'_>,
    table: &mut Table<'_>,
    name: Option<&PluginName>,
) -> Option<Entry> {
    let point_item = table.take(cx, "entry_point");
    let point = point_item.as_ref().and_then(|item| raw_text(cx, item));
    let kind = kind(cx, table, point);
    let interpreter_item = table.take(cx, "interpreter");
    let args_item = table.take(cx, "args");
    let interpreter = interpreter_item
        .as_ref()
        .and_then(|item| interpreter(cx, item));
    let args = args_item.as_ref().map(|item| list_of(cx, item, argument));
    let kind = kind?;
    for (key, item) in [("interpreter", &interpreter_item), ("args", &args_item)] {
        if let Some(item) = item.as_ref().filter(|_| !kind.is_process()) {
            let message = format!("`{key}` has no meaning for the kind `{kind}`");
            cx.fault(item, Rule::Misplaced, message, format!("remove `{key}`"));
        }
    }
    let entry_point = match (kind, point_item) {
        (Kind::Builtin, None) => name?.to_string(),
        (Kind::Builtin, Some(item)) => scalar::tag(cx, &item)?,
        (_, Some(item)) => file(cx, &item)?.to_string(),
        (_, None) => {
            table.require(cx, "entry_point");
            return None;
        }
    };
    Some(Entry {
        kind,
        entry_point,
        interpreter,
        args: args.unwrap_or_default(),
    })
}

/// `kind` says it; `type` and `binary` say it in older words; otherwise the
/// entry point's extension does. What is said twice must agree.
fn kind(cx: &mut Context<'_>, table: &mut Table<'_>, entry_point: Option<&str>) -> Option<Kind> {
    let explicit_item = table.take(cx, "kind");
    let explicit = explicit_item.as_ref().map(|item| scalar::word(cx, item));
    let type_item = table.take(cx, "type");
    let is_builtin = type_item.as_ref().and_then(|item| is_builtin(cx, item));
    let binary_item = table.take(cx, "binary");
    let binary = binary_item.as_ref().and_then(|item| boolean(cx, item));
    let assumed = match (is_builtin, binary) {
        (Some(true), _) => Kind::Builtin,
        (_, Some(true)) => Kind::Exec,
        (_, Some(false)) => Kind::Dylib,
        _ => kind_of_file(entry_point.unwrap_or_default()),
    };
    let kind = match explicit {
        Some(word) => word?,
        None => assumed,
    };
    let type_agrees = is_builtin.is_none_or(|builtin| builtin == (kind == Kind::Builtin));
    if let Some(item) = type_item.filter(|_| !type_agrees) {
        let message = format!("`type` says otherwise than the kind `{kind}`");
        cx.fault(&item, Rule::Contradiction, message, "remove `type`");
    }
    let binary_agrees = match binary {
        Some(true) => kind.is_process(),
        Some(false) => kind == Kind::Dylib,
        None => true,
    };
    if let Some(item) = binary_item.filter(|_| !binary_agrees) {
        let message = format!("`binary` says otherwise than the kind `{kind}`");
        cx.fault(&item, Rule::Contradiction, message, "remove `binary`");
    }
    Some(kind)
}

fn is_builtin(cx: &mut Context<'_>, item: &Item<'_>) -> Option<bool> {
    let text = raw_text(cx, item)?;
    match text {
        "builtin" => Some(true),
        "external" => Some(false),
        _ => {
            let help = match nearest(text, ["builtin", "external"]) {
                Some(word) => format!("did you mean `{word}`?"),
                None => "`builtin` or `external`; better, use `kind`".to_owned(),
            };
            cx.fault(
                item,
                Rule::UnknownWord,
                format!("{} is not known here", quoted(text)),
                help,
            );
            None
        }
    }
}

fn kind_of_file(entry_point: &str) -> Kind {
    match entry_point.rsplit_once('.').map(|(_, extension)| extension) {
        Some("wasm") => Kind::Wasm,
        Some("so" | "dylib" | "dll") => Kind::Dylib,
        _ => Kind::Exec,
    }
}

/// The same rule as for a program that may be started: it is one.
fn interpreter(cx: &mut Context<'_>, item: &Item<'_>) -> Option<String> {
    let text = raw_text(cx, item)?;
    match Capability::new(Token::ProcessSpawn, Some(text)) {
        Ok(program) => program.scope().map(ToString::to_string),
        Err(_) => {
            let message = format!("{} is no absolute path of a program", quoted(text));
            cx.fault(
                item,
                Rule::BadPath,
                message,
                "for example `/usr/bin/python3`",
            );
            None
        }
    }
}

/// Arguments are passed as they are, so only what no program can receive is
/// refused.
fn argument(cx: &mut Context<'_>, item: &Item<'_>) -> Option<String> {
    let text = raw_text(cx, item)?;
    if text.len() > LINE_MAX * 4 || !is_printable(text) {
        let message = "an argument has control characters or more than 4096 bytes";
        cx.fault(item, Rule::OutOfBounds, message, "pass it as configuration");
        return None;
    }
    Some(text.to_owned())
}
