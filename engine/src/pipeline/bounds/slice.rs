//! Slices: `a[start:stop:step]`, as Jinja has them from Python.
//!
//! The engine's own slices of lists are lazy, each a layer around what it is
//! a slice of, and panic when they go backwards through nothing.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{StringInput, ValueKind},
};

use super::{
    budget::{Budget, CHARS_WORK},
    growth::count,
    weighed::{VALUE_BYTES, list_of, weighed},
};

/// Which items a slice has: the first, how far to the next, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Picked {
    first: usize,
    step: isize,
    count: usize,
}

impl Picked {
    fn new(len: usize, start: Option<isize>, stop: Option<isize>, step: isize) -> Self {
        let len = isize::try_from(len).unwrap_or(isize::MAX);
        // Where an index lies, from one before the first to one behind the last.
        let (lowest, highest) = if step > 0 { (0, len) } else { (-1, len - 1) };
        let place = |index: isize| {
            let index = if index < 0 {
                index.saturating_add(len)
            } else {
                index
            };
            index.clamp(lowest, highest)
        };
        let (from, to) = if step > 0 {
            (lowest, highest)
        } else {
            (highest, lowest)
        };
        let start = start.map_or(from, place);
        let stop = stop.map_or(to, place);
        let distance = if step > 0 { stop - start } else { start - stop };
        let count = usize::try_from(distance)
            .unwrap_or(0)
            .div_ceil(step.unsigned_abs());
        Self {
            first: usize::try_from(start).unwrap_or(0),
            step,
            count,
        }
    }

    fn indices(self) -> impl Iterator<Item = usize> {
        (0..self.count).map_while(move |position| {
            let offset = self.step.checked_mul(isize::try_from(position).ok()?)?;
            self.first.checked_add_signed(offset)
        })
    }
}

pub(super) fn slice(
    state: &mut State<'_, '_>,
    value: Value,
    start: Value,
    stop: Value,
    step: Value,
) -> Result<Value, Error> {
    if value.is_undefined() {
        // Says which variable it is.
        StringInput::new(state, &value)?;
    }
    let (start, stop) = (bound(start)?, bound(stop)?);
    let step = bound(step)?.unwrap_or(1);
    if step == 0 {
        return Err(mistake("a slice cannot go on by 0".to_owned()));
    }
    let budget = Budget::of(state);
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            // The first characters are found without counting them all.
            let near = |bound: Option<isize>| bound.is_none_or(|bound| bound >= 0);
            let len = match stop {
                Some(stop) if near(Some(stop)) && near(start) && step > 0 => stop.unsigned_abs(),
                _ => text.chars().count(),
            };
            budget.work(len.min(text.len()).saturating_mul(CHARS_WORK))?;
            let picked = Picked::new(len, start, stop, step);
            budget.room(
                text.len()
                    .min(picked.count.saturating_mul(size_of::<char>())),
            )?;
            weighed(budget, Value::from(characters(text, len, picked)))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let picked = Picked::new(count(&value), start, stop, step);
            budget.room(picked.count.saturating_mul(VALUE_BYTES))?;
            let items = picked.indices().map(|at| value.get_item_by_index(at));
            let items = items.collect::<Result<_, _>>()?;
            list_of(budget, items)
        }
        ValueKind::Undefined | ValueKind::None => list_of(budget, Vec::new()),
        kind => Err(mistake(format!("value of type {kind} cannot be sliced"))),
    }
}

fn characters(text: &str, len: usize, picked: Picked) -> String {
    let step = picked.step.unsigned_abs();
    if picked.step > 0 {
        let chars = text.chars().skip(picked.first).step_by(step);
        return chars.take(picked.count).collect();
    }
    let skipped = len.saturating_sub(picked.first + 1);
    let chars = text.chars().rev().skip(skipped).step_by(step);
    chars.take(picked.count).collect()
}

fn bound(value: Value) -> Result<Option<isize>, Error> {
    if value.is_none() {
        return Ok(None);
    }
    let index = value.as_i64().and_then(|index| isize::try_from(index).ok());
    let not_whole = || mistake(format!("{} is no whole number to slice at", value.kind()));
    index.map(Some).ok_or_else(not_whole)
}

fn mistake(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(len: usize, start: Option<isize>, stop: Option<isize>, step: isize) -> Vec<usize> {
        Picked::new(len, start, stop, step).indices().collect()
    }

    #[test]
    fn slices_are_those_of_python() {
        for (start, stop, step, expected) in [
            (None, None, 1, vec![0, 1, 2, 3, 4]),
            (Some(1), Some(3), 1, vec![1, 2]),
            (Some(-2), None, 1, vec![3, 4]),
            (None, Some(-3), 1, vec![0, 1]),
            (Some(3), Some(1), 1, vec![]),
            (Some(-99), Some(99), 2, vec![0, 2, 4]),
            (None, None, -1, vec![4, 3, 2, 1, 0]),
            (Some(3), Some(0), -1, vec![3, 2, 1]),
            (Some(0), Some(3), -1, vec![]),
            (Some(99), None, -3, vec![4, 1]),
            (None, None, isize::MIN, vec![4]),
            (Some(isize::MIN), Some(isize::MAX), isize::MAX, vec![0]),
        ] {
            assert_eq!(
                picked(5, start, stop, step),
                expected,
                "{start:?}:{stop:?}:{step}"
            );
        }
        assert!(picked(0, None, None, -1).is_empty());
        assert!(picked(0, None, None, 1).is_empty());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        for (start, stop, step, expected) in [
            (Some(1), Some(3), 1, "éc"),
            (Some(1), None, 2, "éd"),
            (Some(-2), None, 1, "de"),
            (None, None, -1, "edcéa"),
            (Some(3), Some(0), -2, "dé"),
            (Some(2), Some(99), 1, "cde"),
        ] {
            let picked = Picked::new(5, start, stop, step);
            assert_eq!(characters("aécde", 5, picked), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_slice_leaves_what_it_is_of(
            len in 0_usize..9,
            start in proptest::option::of(-12_isize..12),
            stop in proptest::option::of(-12_isize..12),
            step in -4_isize..4,
        ) {
            proptest::prop_assume!(step != 0);
            for index in picked(len, start, stop, step) {
                proptest::prop_assert!(index < len);
            }
        }
    }
}
