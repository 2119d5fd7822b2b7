//! The phases of a plugin.

use std::{collections::HashSet, time::Duration};

use super::{
    Context, Item,
    scalar::{self, boolean, list_of, number, prose, raw_text, tag},
    table::Table,
};
use crate::{
    duration::parse_duration,
    fault::Rule,
    manifest::{PHASE_TIMEOUT, Phase},
    text::quoted,
    word::Effect,
};

/// Most attempts after the first.
const RETRIES_MAX: u32 = 100;

pub(super) fn phases(cx: &mut Context<'_>, table: &mut Table<'_>) -> Vec<Phase> {
    let Some(item) = table.take(cx, "phases") else {
        return Vec::new();
    };
    let mut seen = HashSet::new();
    list_of(cx, &item, |cx, item| {
        let phase = phase(cx, item)?;
        if !seen.insert(phase.name.clone()) {
            let message = format!("a second phase `{}`", phase.name);
            cx.fault(
                item,
                Rule::Contradiction,
                message,
                "give every phase its own name",
            );
        }
        Some(phase)
    })
}

fn phase(cx: &mut Context<'_>, item: &Item<'_>) -> Option<Phase> {
    let mut table = Table::open(cx, item.clone(), &[])?;
    let name = table.require(cx, "name").and_then(|item| tag(cx, &item));
    let description = table
        .take(cx, "description")
        .and_then(|item| prose(cx, &item));
    let order = table
        .take(cx, "order")
        .and_then(|item| number(cx, &item, 0..=u32::MAX));
    let required = table
        .take(cx, "required")
        .and_then(|item| boolean(cx, &item));
    let timeout = table
        .take(cx, "timeout")
        .and_then(|item| timeout(cx, &item));
    let sensitive = table
        .take(cx, "sensitive")
        .and_then(|item| boolean(cx, &item));
    let (effect, retryable) = effect(cx, &mut table);
    let max_retries = max_retries(cx, &mut table);
    table.close(cx);
    Some(Phase {
        name: name?,
        description,
        order: order.unwrap_or(0),
        required: required.unwrap_or(true),
        timeout: timeout.unwrap_or(PHASE_TIMEOUT),
        effect,
        retryable,
        max_retries,
        sensitive: sensitive.unwrap_or(false),
    })
}

/// `retryable: true` means that the phase is idempotent. An effect that is
/// written out wins; a phase may be repeatable and still ask not to be.
fn effect(cx: &mut Context<'_>, table: &mut Table<'_>) -> (Effect, bool) {
    let retryable = table
        .take(cx, "retryable")
        .and_then(|item| boolean(cx, &item));
    let explicit = table
        .take(cx, "effect")
        .and_then(|item| scalar::word(cx, &item));
    let effect = explicit.unwrap_or(match retryable {
        Some(true) => Effect::Idempotent,
        Some(false) | None => Effect::AtMostOnce,
    });
    (effect, effect.is_retry_safe() && retryable.unwrap_or(true))
}

/// Attempts after the first, from either way of counting.
fn max_retries(cx: &mut Context<'_>, table: &mut Table<'_>) -> Option<u32> {
    let retries = table
        .take(cx, "max_retries")
        .and_then(|item| number(cx, &item, 0..=RETRIES_MAX));
    let attempts_item = table.take(cx, "max_attempts");
    let attempts = attempts_item
        .as_ref()
        .and_then(|item| number(cx, item, 1..=RETRIES_MAX + 1));
    match (retries, attempts, attempts_item) {
        (Some(retries), Some(attempts), Some(item)) if attempts != retries + 1 => {
            let message =
                format!("{attempts} attempts are not the first one and {retries} retries");
            cx.fault(
                &item,
                Rule::Contradiction,
                message,
                "keep `max_retries` alone",
            );
            Some(retries)
        }
        (Some(retries), _, _) => Some(retries),
        (None, attempts, _) => attempts.map(|attempts| attempts - 1),
    }
}

fn timeout(cx: &mut Context<'_>, item: &Item<'_>) -> Option<Duration> {
    let text = raw_text(cx, item)?;
    let message = match parse_duration(text) {
        Ok(Duration::ZERO) => "a phase needs more than no time".to_owned(),
        Ok(duration) => return Some(duration),
        Err(error) => format!("{} is no duration: {error}", quoted(text)),
    };
    cx.fault(
        item,
        Rule::BadDuration,
        message,
        "for example `10m`, `1h30m` or `250ms`",
    );
    None
}
