//! What the plugin asks for, from `capabilities` and from `permissions`.
//!
//! `permissions` is the older, nested way to write the same requests: a table
//! of resources and actions, or a list of resource, action and scope. Either
//! asks and grants nothing.

use super::{
    Context, Item,
    scalar::{list_of, raw_text, wrong_type},
    table::{Table, entries},
};
use crate::{
    capability::{Capability, CapabilityError, Token},
    fault::Rule,
    located::NodeKind,
    text::{nearest, quoted},
};

/// Resource and action as `permissions` may name them, besides the tokens' own.
const OLDER_WORDS: [(&str, &str, Token); 6] = [
    ("network", "fetch", Token::NetworkAccess),
    ("network", "connect", Token::NetworkAccess),
    ("network", "execute", Token::NetworkAccess),
    ("fs", "read", Token::FileRead),
    ("fs", "write", Token::FileWrite),
    ("process", "execute", Token::ProcessSpawn),
];

/// All requests, sorted, each once.
pub(super) fn capabilities(cx: &mut Context<'_>, table: &mut Table<'_>) -> Vec<Capability> {
    let mut requests = match table.take(cx, "capabilities") {
        Some(item) => list_of(cx, &item, token),
        None => Vec::new(),
    };
    if let Some(item) = table.take(cx, "permissions") {
        requests.extend(permissions(cx, &item));
    }
    requests.sort_unstable();
    requests.dedup();
    requests
}

fn token(cx: &mut Context<'_>, item: &Item<'_>) -> Option<Capability> {
    let text = raw_text(cx, item)?;
    Capability::parse_request(text)
        .map_err(|error| refuse(cx, item, &error))
        .ok()
}

fn refuse(cx: &mut Context<'_>, item: &Item<'_>, error: &CapabilityError) {
    let help = miette::Diagnostic::help(error).map(|help| help.to_string());
    cx.fault(
        item,
        Rule::BadCapability,
        error.to_string(),
        help.unwrap_or_default(),
    );
}

fn permissions(cx: &mut Context<'_>, item: &Item<'_>) -> Vec<Capability> {
    if matches!(item.node.kind, NodeKind::List(_)) {
        return list_of(cx, item, triple);
    }
    let mut requests = Vec::new();
    for resource in entries(cx, item).unwrap_or_default() {
        let actions = item.child(&resource.key, &resource.node);
        for action in entries(cx, &actions).unwrap_or_default() {
            let value = actions.child(&action.key, &action.node);
            let Some(token) = token_of(cx, &value, &resource.key, &action.key) else {
                continue;
            };
            match &action.node.kind {
                NodeKind::Bool(false) => {}
                NodeKind::Bool(true) => requests.extend(scoped(cx, &value, token, None)),
                NodeKind::String(scope) => requests.extend(scoped(cx, &value, token, Some(scope))),
                NodeKind::List(_) => requests.extend(list_of(cx, &value, |cx, scope_item| {
                    let scope = raw_text(cx, scope_item)?;
                    scoped(cx, scope_item, token, Some(scope))
                })),
                _ => wrong_type(cx, &value, "true, false, a scope or a list of scopes"),
            }
        }
    }
    requests
}

/// `{resource, action, scope}`.
fn triple(cx: &mut Context<'_>, item: &Item<'_>) -> Option<Capability> {
    let mut table = Table::open(cx, item.clone(), &[])?;
    let resource = table
        .require(cx, "resource")
        .and_then(|item| raw_text(cx, &item));
    let action = table
        .require(cx, "action")
        .and_then(|item| raw_text(cx, &item));
    let scope_item = table.take(cx, "scope");
    let scope = match &scope_item {
        Some(item) => Some(raw_text(cx, item)?),
        None => None,
    };
    table.close(cx);
    let token = token_of(cx, item, resource?, action?)?;
    scoped(cx, scope_item.as_ref().unwrap_or(item), token, scope)
}

fn token_of(cx: &mut Context<'_>, item: &Item<'_>, resource: &str, action: &str) -> Option<Token> {
    let older = OLDER_WORDS
        .iter()
        .find(|(r, a, _)| *r == resource && *a == action)
        .map(|(_, _, token)| *token);
    let written = format!("{resource}:{action}");
    let found = older.or_else(|| {
        Token::ALL
            .into_iter()
            .find(|token| token.as_str() == written)
    });
    if found.is_none() {
        let help = match nearest(&written, Token::ALL.map(Token::as_str)) {
            Some(word) => format!("did you mean `{word}`?"),
            None => format!("one of {}", Token::ALL.map(Token::as_str).join(", ")),
        };
        let message = format!("no permission {}", quoted(&written));
        cx.fault(item, Rule::BadCapability, message, help);
    }
    found
}

/// `plugin-only` is what storage is anyway; `user-approved` is what every
/// request needs; `all` leaves the scope to the operator, except for storage,
/// where it is a scope of its own.
fn scoped(
    cx: &mut Context<'_>,
    item: &Item<'_>,
    token: Token,
    scope: Option<&str>,
) -> Option<Capability> {
    let is_storage = matches!(token, Token::StorageRead | Token::StorageWrite);
    let scope = match scope {
        Some("user-approved") => None,
        Some("plugin-only") if is_storage => None,
        Some("all") if !is_storage => None,
        scope => scope,
    };
    Capability::new(token, scope)
        .map_err(|error| refuse(cx, item, &error))
        .ok()
}
