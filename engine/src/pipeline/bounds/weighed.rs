//! Lists and tables that know what they weigh.
//!
//! A list of lists of lists shares its parts, so a few words can stand for
//! more than any memory holds: written out, compared or sorted it takes as
//! long as its parts do each time they occur. So every list and table is told
//! its weight, with everything in it, when it is made, and one that weighs too
//! much is not made. The same goes for depth, which costs stack.

use std::{
    cmp::Ordering,
    fmt::{self, Write as _},
    sync::Arc,
};

use minijinja::{
    Error, ErrorKind, Value,
    value::{DynObject, Enumerator, Object, ObjectExt, ObjectRepr, ValueKind},
};

use super::budget::{Budget, Exhausted, Held, ITEM_WORK};
use crate::pipeline::RESULT_BYTES_MAX;

/// What a list may weigh with everything in it.
const WEIGHT_MAX: usize = 16 * RESULT_BYTES_MAX;
/// How deep lists and tables may be nested. serde_json reads no deeper.
pub(super) const DEPTH_MAX: usize = 128;
/// What a list or table takes beside its items, in bytes.
pub(super) const CONTAINER_BYTES: usize = 128;
/// What a value takes in a list, and an entry in a table.
pub(super) const VALUE_BYTES: usize = size_of::<Value>();
pub(super) const ENTRY_BYTES: usize = size_of::<(Value, Value)>();
/// What is not text weighs as much as this many bytes of text.
const SCALAR_WEIGHT: usize = 16;

/// A list or a table. Its items are neither lazy nor unknown: they are texts,
/// numbers and the like, or weighed themselves.
pub(super) struct Weighed {
    items: Items,
    weight: usize,
    depth: usize,
    _held: Option<Held>,
}

/// What is in a list or table, and how it looks.
pub(super) enum Items {
    List(Vec<Value>),
    Tuple(Vec<Value>),
    /// What `groupby` gives: a tuple whose parts have names.
    Group(Vec<Value>),
    /// Sorted by key, each once.
    Table(Vec<(Value, Value)>),
}

/// The weight of a value with everything in it.
pub(super) fn weight(value: &Value) -> usize {
    match value.downcast_object_ref::<Weighed>() {
        Some(weighed) => weighed.weight,
        None => SCALAR_WEIGHT + value.as_str().map_or(0, str::len),
    }
}

/// How deep lists and tables are nested in a value; 0 when it is none.
pub(super) fn depth(value: &Value) -> usize {
    let weighed = value.downcast_object_ref::<Weighed>();
    weighed.map_or(0, |weighed| weighed.depth)
}

impl Items {
    /// A table of these entries; of those with the same key, the last.
    pub(super) fn table(mut entries: Vec<(Value, Value)>) -> Self {
        entries.reverse();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|(one, _), (other, _)| one == other);
        entries.shrink_to_fit();
        Self::Table(entries)
    }

    fn is_tuple(&self) -> bool {
        matches!(self, Self::Tuple(_))
    }

    fn len(&self) -> usize {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Group(items) => items.len(),
            Self::Table(entries) => entries.len(),
        }
    }

    /// What these take, without what is in them.
    fn bytes(&self) -> usize {
        let each = match self {
            Self::Table(_) => ENTRY_BYTES,
            _ => VALUE_BYTES,
        };
        CONTAINER_BYTES + self.len() * each
    }

    fn fold(&self, mut visit: impl FnMut(&Value)) {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Group(items) => {
                items.iter().for_each(visit);
            }
            Self::Table(entries) => entries.iter().for_each(|(key, value)| {
                visit(key);
                visit(value);
            }),
        }
    }
}

impl Weighed {
    /// Weighs what was read from outside, which no budget pays for.
    pub(super) fn outside(items: Items) -> Result<Value, Error> {
        Self::weigh(items, None)
    }

    fn weigh(items: Items, held: Option<Held>) -> Result<Value, Error> {
        let mut heaviness = SCALAR_WEIGHT;
        let mut deepest = 0;
        items.fold(|value| {
            heaviness = heaviness.saturating_add(weight(value));
            deepest = deepest.max(depth(value));
        });
        if heaviness > WEIGHT_MAX {
            return Err(Exhausted::Memory.into());
        }
        if deepest >= DEPTH_MAX {
            return Err(too_deep());
        }
        Ok(Value::from_object(Self {
            items,
            weight: heaviness,
            depth: deepest + 1,
            _held: held,
        }))
    }
}

fn too_deep() -> Error {
    let message = format!("lists and tables are nested more than {DEPTH_MAX} levels deep");
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Weighs a value that was just made, and pays for it. Lists and tables of the
/// template engine become ours, with everything in them.
pub(super) fn weighed(budget: &mut Budget, value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => {
            budget.keep(&value)?;
            Ok(value)
        }
        _ => convert(budget, value, 0),
    }
}

/// As [`weighed`], for what is put into something else.
pub(super) fn part(budget: &mut Budget, value: Value) -> Result<Value, Error> {
    convert(budget, value, 1)
}

/// A list of these.
pub(super) fn list_of(budget: &mut Budget, mut items: Vec<Value>) -> Result<Value, Error> {
    for item in &mut items {
        *item = convert(budget, std::mem::take(item), 1)?;
    }
    finish(budget, Items::List(items))
}

fn convert(budget: &mut Budget, value: Value, level: usize) -> Result<Value, Error> {
    if level > DEPTH_MAX {
        return Err(too_deep());
    }
    match value.kind() {
        _ if value.downcast_object_ref::<Weighed>().is_some() => Ok(value),
        ValueKind::Seq | ValueKind::Iterable => list(budget, &value, level),
        ValueKind::Map => table(budget, &value, level),
        ValueKind::Plain if level > 0 => {
            let message = "a function cannot be put into a list, table or namespace";
            Err(Error::new(ErrorKind::InvalidOperation, message))
        }
        _ => Ok(value),
    }
}

fn list(budget: &mut Budget, value: &Value, level: usize) -> Result<Value, Error> {
    let mut items = Vec::new();
    // Once, for what is lazy goes through everything to know.
    let len = value.len();
    for item in value.try_iter()?.checked() {
        grow(budget, &mut items, len, VALUE_BYTES)?;
        items.push(convert(budget, item?, level + 1)?);
    }
    items.shrink_to_fit();
    let is_group = value.kind() == ValueKind::Seq && !value.get_attr("grouper")?.is_undefined();
    let items = match value.is_tuple() {
        true => Items::Tuple(items),
        false if is_group => Items::Group(items),
        false => Items::List(items),
    };
    finish(budget, items)
}

fn table(budget: &mut Budget, value: &Value, level: usize) -> Result<Value, Error> {
    let mut entries = Vec::new();
    let len = value.len();
    let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
    for (key, item) in pairs.into_iter().flatten() {
        if key.as_object().is_some() {
            let message = format!("{} is no key of a table", key.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        grow(budget, &mut entries, len, ENTRY_BYTES)?;
        entries.push((key, convert(budget, item, level + 1)?));
    }
    finish(budget, Items::table(entries))
}

fn finish(budget: &mut Budget, items: Items) -> Result<Value, Error> {
    budget.work(items.len() * ITEM_WORK)?;
    let held = budget.hold(items.bytes())?;
    Weighed::weigh(items, Some(held))
}

/// Makes room for one more, when there is none.
fn grow<T>(
    budget: &mut Budget,
    items: &mut Vec<T>,
    expected: Option<usize>,
    each: usize,
) -> Result<(), Exhausted> {
    if items.len() == items.capacity() {
        let capacity = expected.unwrap_or(0).max(items.len() * 2).max(4);
        budget.room(capacity.saturating_mul(each))?;
        items.reserve_exact(capacity - items.len());
    }
    Ok(())
}

impl Object for Weighed {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.items {
            Items::Table(_) => ObjectRepr::Map,
            _ => ObjectRepr::Seq,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match &self.items {
            Items::List(items) | Items::Tuple(items) => items.get(key.as_usize()?).cloned(),
            Items::Group(items) => match key.as_str() {
                Some("grouper") => items.first().cloned(),
                Some("list") => items.get(1).cloned(),
                _ => items.get(key.as_usize()?).cloned(),
            },
            Items::Table(entries) => {
                let at = entries.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
                entries.get(at).map(|(_, value)| value.clone())
            }
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &self.items {
            Items::Table(_) => self.mapped_key_value_enumerator(|this| match &this.items {
                Items::Table(entries) => Box::new(entries.iter().cloned()),
                _ => Box::new(std::iter::empty()),
            }),
            items => Enumerator::Seq(items.len()),
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }

    /// A tuple is no list, whatever is in them.
    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        match self.items.is_tuple().cmp(&other.items.is_tuple()) {
            Ordering::Equal => None,
            different => Some(different),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// As the template engine writes lists and tables.
impl fmt::Debug for Weighed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.items {
            Items::List(items) => f.debug_list().entries(items).finish(),
            Items::Table(entries) => {
                let entries = entries.iter().map(|(key, value)| (key, value));
                f.debug_map().entries(entries).finish()
            }
            Items::Tuple(items) | Items::Group(items) => {
                f.write_char('(')?;
                for (position, item) in items.iter().enumerate() {
                    f.write_str(if position > 0 { ", " } else { "" })?;
                    fmt::Debug::fmt(item, f)?;
                }
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
        }
    }
}
