//! The plugins that are there, which a reload changes while they are used.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        self, Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use orchestrator_manifest::Channel;
use semver::VersionReq;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    dependencies::{Identity, select},
    entry::Entry,
};

/// The plugins that can be found by their names.
#[derive(Clone, Default)]
pub(crate) struct Plugins {
    pub(crate) entries: BTreeMap<Identity, Arc<Entry>>,
    /// Those that can start, dependencies first.
    pub(crate) order: Vec<Identity>,
}

impl Plugins {
    /// Every version of a plugin, ascending.
    pub(crate) fn versions(&self, id: &str) -> impl DoubleEndedIterator<Item = &Arc<Entry>> {
        let entries = self.entries.iter();
        let versions = entries.filter(move |(identity, _)| identity.id == id);
        versions.map(|(_, entry)| entry)
    }

    /// The versions of a plugin that an operator's word is about.
    pub(crate) fn operated(&self, id: &str) -> Vec<Arc<Entry>> {
        let mut versions: Vec<_> = self.versions(id).cloned().collect();
        // What only claims to be a version has no say in what becomes of the others.
        if versions.iter().any(|entry| entry.facts.verified) {
            versions.retain(|entry| entry.facts.verified);
        }
        versions
    }

    /// Whether there is any version of it.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.versions(id).next().is_some()
    }

    /// The one that is meant by an id, a range and a channel, whatever its state.
    pub(crate) fn meant(
        &self,
        id: &str,
        range: &VersionReq,
        channel: Option<Channel>,
    ) -> Option<&Arc<Entry>> {
        let standing = |entry: &Arc<Entry>| entry.facts.standing();
        let (_, entry) = select(&self.entries, id, range, channel, standing)?;
        Some(entry)
    }
}

/// The plugins that are there.
pub(crate) struct Registry {
    state: RwLock<State>,
    /// The ids that an operator keeps from running, also where nothing has them yet.
    /// Locked before `state`, so that no version comes past it.
    disabled: sync::Mutex<BTreeSet<String>>,
    /// Whether there are plugins that were not here when trust and grants were looked
    /// at last.
    changed: AtomicBool,
    /// One reload at a time.
    turn: Mutex<()>,
}

struct State {
    plugins: Arc<Plugins>,
    /// Those that live and cannot be found: on trial, or on their way out.
    aside: Vec<Arc<Entry>>,
    /// Whether everything is being stopped.
    closed: bool,
}

/// Everything is being stopped, so nothing new may come.
#[derive(Debug)]
pub(crate) struct Closed;

impl Registry {
    pub(crate) fn new(plugins: Plugins) -> Self {
        Self {
            state: RwLock::new(State {
                plugins: Arc::new(plugins),
                aside: Vec::new(),
                closed: false,
            }),
            disabled: sync::Mutex::default(),
            changed: AtomicBool::new(false),
            turn: Mutex::const_new(()),
        }
    }

    /// The plugins as they are now.
    pub(crate) fn plugins(&self) -> Arc<Plugins> {
        Arc::clone(&self.read().plugins)
    }

    /// Looks at the plugins while nothing else can take their place.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Plugins) -> T) -> T {
        look(&self.read().plugins)
    }

    /// Every plugin that lives, whether it can be found or not.
    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let state = self.read();
        let found = state.plugins.entries.values();
        found.chain(&state.aside).cloned().collect()
    }

    /// Those that live and cannot be found.
    pub(crate) fn aside(&self) -> Vec<Arc<Entry>> {
        self.read().aside.clone()
    }

    /// Earlier versions of a plugin that are still in use.
    pub(crate) fn left(&self, id: &str) -> Vec<Arc<Entry>> {
        let mut left = self.aside();
        left.retain(|entry| entry.id.as_str() == id && !entry.life.is_on_trial());
        left
    }

    /// The ids that an operator keeps from running. While this is held, no version can
    /// be found that could not before, and none is put aside.
    pub(crate) fn disabled(&self) -> sync::MutexGuard<'_, BTreeSet<String>> {
        self.disabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to change something.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Keeps a plugin that cannot be found, so that it is stopped with the others.
    pub(crate) fn put_aside(&self, entry: &Arc<Entry>) -> Result<(), Closed> {
        let mut state = self.write();
        if state.closed {
            return Err(Closed);
        }
        state.aside.push(Arc::clone(entry));
        self.changed.store(true, Ordering::Release);
        Ok(())
    }

    /// Lets go of a plugin that was put aside.
    pub(crate) fn forget(&self, entry: &Arc<Entry>) {
        self.write().aside.retain(|it| !Arc::ptr_eq(it, entry));
    }

    /// Puts these plugins in the place of those that were there, and `replaced` aside.
    /// What an operator keeps from running is disabled before it can be found.
    pub(crate) fn replace(
        &self,
        plugins: Arc<Plugins>,
        replaced: &[Arc<Entry>],
    ) -> Result<(), Closed> {
        let disabled = self.disabled();
        for entry in disabled.iter().flat_map(|id| plugins.operated(id)) {
            // One that cannot be disabled does not run.
            let _ = entry.life.disable();
        }
        let mut state = self.write();
        if state.closed {
            return Err(Closed);
        }
        state.plugins = plugins;
        state.aside.extend_from_slice(replaced);
        self.changed.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes [`replace`](Self::replace) back, also while everything is being stopped:
    /// who asks for those aside first and for the plugins then meets every one.
    pub(crate) fn put_back(&self, plugins: Arc<Plugins>, replaced: &[Arc<Entry>]) {
        let _disabled = self.disabled();
        let mut state = self.write();
        state.plugins = plugins;
        let is_replaced = |entry: &Arc<Entry>| replaced.iter().any(|it| Arc::ptr_eq(it, entry));
        state.aside.retain(|entry| !is_replaced(entry));
    }

    /// Lets nothing new in from now on.
    pub(crate) fn close(&self) {
        self.write().closed = true;
    }

    /// Whether plugins came since this was asked last.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    // No change can be cut off midway, so a panic elsewhere does no harm.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
