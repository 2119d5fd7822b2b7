//! How much a filter is going to make, known before it does.
//!
//! Each estimate is no less than what the filter makes, and for ordinary
//! arguments not much more. They say what there must be room for; what is
//! taken is counted when it is there.

use std::fmt::{self, Write};

use minijinja::{AutoEscape, Error, ErrorKind, State, Value};

use super::{
    budget::{Budget, CHARS_WORK, Exhausted, TEXT_MAX},
    weighed::{CONTAINER_BYTES, VALUE_BYTES, depth, weight},
};

/// An estimate in bytes, from the state and the arguments of a filter.
pub(super) type Growth = fn(&mut State<'_, '_>, &[Value]) -> Result<usize, Error>;

/// Widest indentation and longest padding, in characters.
const WIDTH_MAX: usize = 1_000;
/// The most parts that a list may be cut into.
const PARTS_MAX: usize = 100_000;
/// How much longer a text gets when all of it is escaped.
pub(super) const ESCAPED: usize = 6;
/// How much longer a text gets when all of it changes case.
const CASED: usize = 3;
/// What a part takes that a text is cut into, beside its bytes.
const PIECE_BYTES: usize = 3 * VALUE_BYTES;
/// The longest a number, or another value that is no text, is written.
const SCALAR_LEN: usize = 400;
/// How many items something lazy may have: as many as the longest `range`.
const LAZY_MAX: usize = 100_000;

/// Counts what is written, up to a limit.
struct Gauge(usize);

impl Write for Gauge {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.checked_add(text.len()).ok_or(fmt::Error)?;
        match self.0 > TEXT_MAX {
            true => Err(fmt::Error),
            false => Ok(()),
        }
    }
}

/// How long a value is as text. What is none is written out to see.
pub(super) fn text_len(budget: &mut Budget, value: &Value) -> Result<usize, Exhausted> {
    if let Some(text) = value.as_str() {
        return Ok(text.len());
    }
    if value.as_object().is_none() {
        return Ok(SCALAR_LEN);
    }
    let mut gauge = Gauge(0);
    let written = write!(gauge, "{value}");
    budget.work(gauge.0 * CHARS_WORK)?;
    match written {
        Ok(()) => Ok(gauge.0),
        Err(fmt::Error) => Err(Exhausted::Text),
    }
}

/// How many items a value has; the bytes of a text.
pub(super) fn count(value: &Value) -> usize {
    match (value.as_str(), value.as_object()) {
        (Some(text), _) => text.len(),
        (None, Some(object)) => object.enumerator_len().unwrap_or(LAZY_MAX),
        (None, None) => 0,
    }
}

fn argument(args: &[Value], position: usize) -> &Value {
    args.get(position).unwrap_or(&Value::UNDEFINED)
}

/// An argument by its place or its name.
fn named(args: &[Value], position: usize, name: &str) -> Value {
    let by_name = args.last().filter(|last| last.is_kwargs());
    match args.get(position) {
        Some(value) if !value.is_kwargs() => value.clone(),
        _ => by_name
            .and_then(|kwargs| kwargs.get_attr(name).ok())
            .unwrap_or_default(),
    }
}

fn within(given: usize, limit: usize) -> Result<usize, Error> {
    if given <= limit {
        return Ok(given);
    }
    let message = format!("{given} is too much; at most {limit} is allowed");
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Copies texts, or writes other values as text.
pub(super) fn text(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    Ok(text_len(Budget::of(state), argument(args, 0))?)
}

pub(super) fn cased(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    Ok(text(state, args)? * CASED)
}

pub(super) fn escaped(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    Ok(text(state, args)? * ESCAPED)
}

/// How much longer texts get that are put into one that is escaped.
fn escaping(state: &State<'_, '_>) -> usize {
    match state.auto_escape() {
        AutoEscape::None => 1,
        _ => ESCAPED,
    }
}

pub(super) fn replace(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let (value, from, to) = (argument(args, 0), argument(args, 1), argument(args, 2));
    let budget = Budget::of(state);
    let (len, to) = (text_len(budget, value)?, text_len(budget, to)?);
    text_len(budget, from)?;
    let found = match (value.as_str(), from.as_str()) {
        // Between any two characters and at both ends.
        (_, Some("")) => len + 1,
        (Some(value), Some(from)) => value.matches(from).count(),
        _ => len + 1,
    };
    Ok((len + found.saturating_mul(to)).saturating_mul(escaping(state)))
}

pub(super) fn join(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let value = argument(args, 0);
    let escaping = escaping(state);
    let budget = Budget::of(state);
    let joiner = text_len(budget, &named(args, 1, "d"))?;
    let mut bytes = 0_usize;
    for item in value.try_iter().into_iter().flatten() {
        let more = text_len(budget, &item)? + joiner;
        bytes = bytes.saturating_add(more.saturating_mul(escaping));
    }
    Ok(bytes.saturating_add(count(value).saturating_mul(VALUE_BYTES)))
}

pub(super) fn split(_: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let value = argument(args, 0).as_str().unwrap_or_default();
    let pieces = match argument(args, 1).as_str() {
        Some("") => value.len() + 1,
        Some(separator) => value.matches(separator).count(),
        None => value.split_whitespace().count(),
    };
    Ok(value.len() + (pieces + 1).saturating_mul(PIECE_BYTES))
}

pub(super) fn lines(_: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let value = argument(args, 0).as_str().unwrap_or_default();
    let breaks = value.bytes().filter(|byte| *byte == b'\n').count();
    Ok(value.len() + (breaks + 1).saturating_mul(PIECE_BYTES))
}

pub(super) fn indent(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let len = text_len(Budget::of(state), argument(args, 0))?;
    let width = named(args, 1, "width").as_usize().unwrap_or(4);
    let breaks = argument(args, 0).as_str().map_or(len, |text| {
        text.bytes().filter(|byte| *byte == b'\n').count()
    });
    Ok(len + (breaks + 2).saturating_mul(within(width, WIDTH_MAX)? + 1))
}

pub(super) fn tojson(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let indent = named(args, 1, "indent");
    let width = match indent.as_usize() {
        Some(width) => within(width, WIDTH_MAX)?,
        None if indent.is_true() => 2,
        None => 0,
    };
    pretty(state, argument(args, 0), width)
}

pub(super) fn pprint(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    pretty(state, argument(args, 0), 4)
}

/// Every bracket and every item on a line of its own, as deep as it lies.
fn pretty(state: &mut State<'_, '_>, value: &Value, width: usize) -> Result<usize, Error> {
    let len = text_len(Budget::of(state), value)?;
    let lines = if value.as_object().is_some() { len } else { 0 };
    let before = depth(value) * width;
    Ok((len * ESCAPED).saturating_add(lines.saturating_mul(before)))
}

pub(super) fn format(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    /// What reading a conversion takes.
    const CONVERSION_BYTES: usize = 256;
    let format = argument(args, 0).as_str().unwrap_or_default();
    let mut conversions = 0;
    for conversion in format.split('%').skip(1) {
        let end = conversion.find(|c: char| c.is_ascii_alphabetic());
        let flags = &conversion[..end.unwrap_or(conversion.len())];
        if flags.contains('*') {
            let message = "a width of `*` is not supported; write the number";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        for digits in flags.split(|c: char| !c.is_ascii_digit()) {
            // Digits that are no number are too many.
            let width = match digits {
                "" => 0,
                digits => digits.parse().unwrap_or(usize::MAX),
            };
            within(width, WIDTH_MAX)?;
        }
        conversions += 1;
    }
    let mut longest = WIDTH_MAX;
    for value in args.iter().skip(1) {
        longest = longest.max(text_len(Budget::of(state), value)? * ESCAPED);
    }
    let each = CONVERSION_BYTES + longest;
    Ok(format.len() + each.saturating_mul(conversions))
}

pub(super) fn parts(_: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let parts = argument(args, 1).as_usize().unwrap_or(0);
    let items = count(argument(args, 0)) + within(parts, PARTS_MAX)?;
    Ok(items.saturating_mul(VALUE_BYTES + CONTAINER_BYTES))
}

/// Lists of what is in the arguments, and of the characters of the first.
pub(super) fn items(_: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let (first, more) = (argument(args, 0), args.iter().skip(1));
    let lists = more.filter(|value| value.as_object().is_some());
    let items = lists.map(count).fold(count(first), usize::saturating_add);
    Ok(items.saturating_mul(2 * VALUE_BYTES))
}

/// The same backwards.
pub(super) fn reverse(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    match argument(args, 0).as_str() {
        Some(text) => Ok(text.len()),
        None => items(state, args),
    }
}

/// Lists of small lists, and tables.
pub(super) fn pairs(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    Ok(items(state, args)?.saturating_mul(4))
}

/// A list in an order. Several attributes are copied to be compared.
pub(super) fn sort(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let several = named(args, 1, "attribute");
    let several = several.as_str().is_some_and(|names| names.contains(','));
    let copied = if several {
        weight(argument(args, 0))
    } else {
        0
    };
    Ok(pairs(state, args)?.saturating_add(copied))
}

/// A list without duplicates, which are found by copies in lower case.
pub(super) fn unique(state: &mut State<'_, '_>, args: &[Value]) -> Result<usize, Error> {
    let value = argument(args, 0);
    let copied = match named(args, 1, "attribute").is_undefined() {
        false => weight(value),
        true => {
            let items = value.try_iter().into_iter().flatten();
            items.map(|item| item.as_str().map_or(0, str::len)).sum()
        }
    };
    Ok(pairs(state, args)?.saturating_add(copied * CASED))
}
