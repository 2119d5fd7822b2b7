//! Bounds how many values each label of each metric may have.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use crate::names::OVERFLOW;

/// Remembers the values that each label of each metric has had.
///
/// The first `limit` values pass; a later one becomes [`OVERFLOW`], always, so
/// that a series once opened keeps its meaning.
#[derive(Debug)]
pub(crate) struct LabelGuard {
    limit: usize,
    seen: Mutex<HashMap<(&'static str, &'static str), HashSet<String>>>,
}

impl LabelGuard {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            seen: Mutex::default(),
        }
    }

    /// Whether `label` of `metric` may have `value`.
    pub(crate) fn admits(&self, metric: &'static str, label: &'static str, value: &str) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let values = seen.entry((metric, label)).or_default();
        if !values.contains(value) {
            if values.len() >= self.limit || value == OVERFLOW {
                return false;
            }
            values.insert(value.to_owned());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_values_pass_for_ever_and_later_ones_never() {
        let guard = LabelGuard::new(2);
        let admit = |label, value| guard.admits("m", label, value);
        assert!(admit("plugin", "a") && admit("plugin", "b"));
        assert!(!admit("plugin", "c"));
        assert!(admit("plugin", "a"));
        assert!(!admit("plugin", "c"));
        assert!(admit("phase", "c"), "another label has its own count");
    }

    #[test]
    fn nobody_can_pose_as_the_overflow() {
        assert!(!LabelGuard::new(2).admits("m", "plugin", OVERFLOW));
    }
}
