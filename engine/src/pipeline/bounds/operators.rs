//! What operators and literals become, so that what they make is counted.
//!
//! They are filters with names that nobody can write; `rewrite` puts them in.

use minijinja::{
    Environment, Error, ErrorKind, State, Value,
    value::{StringInput, ValueKind},
};

use super::{
    budget::{Budget, CHARS_WORK, Exhausted, TEXT_MAX},
    growth::{count, text_len},
    weighed::{VALUE_BYTES, list_of, part, weighed, weight},
};

/// Around what makes a value: it is weighed and counted.
pub(super) const MADE: &str = "operator:made";
/// Around what is put into a namespace or into several variables.
pub(super) const PUT: &str = "operator:put";
/// Around an operand of `~`: it becomes a text of bounded length.
pub(super) const TEXT: &str = "operator:text";
/// `a[b:c:d]`, with none for what is left out.
pub(super) const SLICE: &str = "operator:slice";
/// Around what an item is looked up in, when that may be a text.
pub(super) const LOOKED_UP: &str = "operator:looked_up";
/// Around what is compared where nobody sees with what.
pub(super) const COMPARED: &str = "operator:compared";
/// Around what a loop with a condition goes through.
pub(super) const PICKED: &str = "operator:picked";
/// Around what `*` or `**` spreads over arguments.
pub(super) const SPREAD: &str = "operator:spread";
/// `*` itself.
pub(super) const TIMES: &str = "operator*";

/// The most values that one may be taken apart into.
const APART_MAX: usize = 1_000;

pub(super) fn apply(environment: &mut Environment<'_>) {
    environment.add_filter(MADE, made);
    environment.add_filter(PUT, put);
    environment.add_filter(TEXT, text);
    environment.add_filter(SLICE, super::slice::slice);
    environment.add_filter(LOOKED_UP, looked_up);
    environment.add_filter(COMPARED, compared);
    environment.add_filter(PICKED, picked);
    environment.add_filter(SPREAD, spread);
    environment.add_filter(TIMES, times);
}

fn made(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    weighed(Budget::of(state), value)
}

/// Nothing that can change later is put away: neither a value could then lie
/// in itself, nor would its weight stay what it was.
fn put(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    part(Budget::of(state), value)
}

fn text(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    if value.is_undefined() || value.as_str().is_some() {
        return Ok(value);
    }
    let budget = Budget::of(state);
    let len = text_len(budget, &value)?;
    budget.room(len)?;
    Ok(Value::from(value.to_string()))
}

/// A text is gone through character by character, each time.
fn looked_up(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    let len = value.as_str().map_or(0, str::len);
    Budget::of(state).work(len * CHARS_WORK)?;
    Ok(value)
}

fn compared(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    Budget::of(state).work(weight(&value))?;
    Ok(value)
}

fn picked(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    Budget::of(state).room(count(&value).saturating_mul(2 * VALUE_BYTES))?;
    Ok(value)
}

fn spread(value: Value) -> Result<Value, Error> {
    if count(&value) > APART_MAX {
        let message = format!("more than {APART_MAX} values cannot be taken apart");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    Ok(value)
}

/// Multiplies numbers, and repeats texts and lists.
fn times(state: &mut State<'_, '_>, one: Value, other: Value) -> Result<Value, Error> {
    for operand in [&one, &other]
        .into_iter()
        .filter(|value| value.is_undefined())
    {
        // Says which variable it is.
        StringInput::new(state, operand)?;
    }
    let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    match (&one, &other) {
        (text, times) | (times, text) if text.as_str().is_some() => repeat_text(state, text, times),
        (list, times) | (times, list) if is_list(list) => repeat_list(state, list, times),
        _ => {
            let numbers = Value::from_pairs([("one", one), ("other", other)]);
            state.env().compile_expression("one * other")?.eval(numbers)
        }
    }
}

fn repeat_text(state: &mut State<'_, '_>, text: &Value, times: &Value) -> Result<Value, Error> {
    let text = text.as_str().unwrap_or_default();
    let times = whole(times)?;
    let len = text.len().saturating_mul(times);
    if len > TEXT_MAX {
        return Err(Exhausted::Text.into());
    }
    Budget::of(state).room(len)?;
    made(state, Value::from(text.repeat(times)))
}

fn repeat_list(state: &mut State<'_, '_>, list: &Value, times: &Value) -> Result<Value, Error> {
    let times = whole(times)?;
    let bytes = count(list)
        .saturating_mul(times)
        .saturating_mul(VALUE_BYTES);
    Budget::of(state).room(bytes.saturating_add(times))?;
    let mut items = Vec::with_capacity(count(list) * times);
    for _ in 0..times {
        for item in list.try_iter()?.checked() {
            items.push(item?);
        }
    }
    list_of(Budget::of(state), items)
}

fn whole(times: &Value) -> Result<usize, Error> {
    times.as_usize().ok_or_else(|| {
        let message = "texts and lists can only be multiplied with whole numbers";
        Error::new(ErrorKind::InvalidOperation, message)
    })
}
