//! Which plugins a plugin needs, and which need it.

use std::sync::{Arc, PoisonError, Weak, atomic::Ordering};

use super::Entry;

impl Entry {
    /// Says which plugins must run before this one.
    pub(crate) fn depend_on(&self, plugins: Vec<Arc<Entry>>) {
        let needed = self.dependencies.write();
        *needed.unwrap_or_else(PoisonError::into_inner) = plugins;
    }

    /// The plugins that must run before this one.
    pub(crate) fn dependencies(&self) -> Vec<Arc<Entry>> {
        let needed = self.dependencies.read();
        needed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which plugins need this one.
    pub(crate) fn be_needed_by(&self, plugins: Vec<Weak<Entry>>) {
        let dependants = self.dependants.write();
        *dependants.unwrap_or_else(PoisonError::into_inner) = plugins;
    }

    pub(super) fn dependants(&self) -> Vec<Arc<Self>> {
        let all = self.dependants.read();
        let all = all.unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// From now on it is to run for itself.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }
}
