//! What a plugin's proxy has done, and whom it tells about what it denied.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use orchestrator_contract::{DenialRule, PluginId};
use orchestrator_manifest::Target;
use tokio::time::Instant;

use super::refusal::Refusal;
use crate::{logs::TokenBucket, settings::LogSettings};

/// Something that a plugin was not let through to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressDenial {
    /// Who wanted to.
    pub plugin: PluginId,
    /// The capability that would be needed: `network:access`.
    pub capability: &'static str,
    /// Host and port as they were asked for, in one spelling where there is one; escaped and
    /// shortened.
    pub resource: String,
    /// Why not.
    pub rule: DenialRule,
    /// Where the name leads to, when that is why.
    pub address: Option<IpAddr>,
    /// How many denials before this one were not told, because there were too many.
    pub suppressed: u64,
}

/// Who is asked before a connection, and told what was denied.
pub trait EgressObserver: Send + Sync + 'static {
    /// Whether `plugin` may connect to what it was granted. Must not block.
    fn allows(&self, plugin: &PluginId, target: &Target) -> bool {
        let _ = (plugin, target);
        true
    }

    /// Called for each denial, as many as the settings say. Must not block.
    fn denied(&self, denial: EgressDenial);

    /// Called for everything that would have to be named, where nothing is denied
    /// ([`Egress::observing`](super::Egress::observing)). Must not block.
    fn reached(&self, target: &Target) {
        let _ = target;
    }
}

/// What a plugin's proxy has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressUsage {
    /// Connections that stand now.
    pub open: u64,
    /// Connections that stood, those of now too.
    pub connections: u64,
    /// Connections that were denied by a rule.
    pub denied: u64,
    /// Bytes from the plugin to those it was connected to.
    pub sent_bytes: u64,
    /// Bytes from those to the plugin.
    pub received_bytes: u64,
}

pub(super) struct Account {
    plugin: PluginId,
    observer: Arc<dyn EgressObserver>,
    bucket: Mutex<TokenBucket>,
    open: AtomicU64,
    connections: AtomicU64,
    denied: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

impl Account {
    pub(super) fn new(
        plugin: PluginId,
        observer: Arc<dyn EgressObserver>,
        denials_per_second: u32,
    ) -> Self {
        let rate = LogSettings {
            lines_per_second: denials_per_second,
            burst: denials_per_second,
            ..LogSettings::default()
        };
        Self {
            plugin,
            observer,
            bucket: Mutex::new(TokenBucket::new(&rate)),
            open: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// Whether the host lets the plugin connect to what it was granted.
    pub(super) fn allows(&self, target: &Target) -> bool {
        self.observer.allows(&self.plugin, target)
    }

    /// Counts a refusal when it is by a rule, and tells of it. Returns whether there were
    /// too many to tell.
    pub(super) fn refused(&self, refusal: &Refusal) -> bool {
        let Refusal::Denied {
            rule,
            resource,
            address,
        } = refusal
        else {
            return false;
        };
        self.denied.fetch_add(1, Ordering::Relaxed);
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = bucket.admit(Instant::now());
        drop(bucket);
        let Some(suppressed) = admitted else {
            return true;
        };
        self.observer.denied(EgressDenial {
            plugin: self.plugin.clone(),
            capability: "network:access",
            resource: resource.clone(),
            rule: *rule,
            address: *address,
            suppressed,
        });
        false
    }

    /// Tells that `target` would have to be named.
    pub(super) fn reached(&self, target: &Target) {
        self.observer.reached(target);
    }

    /// Counts a connection that stands until the guard is dropped.
    pub(super) fn opened(&self) -> Open<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self)
    }

    pub(super) fn usage(&self) -> EgressUsage {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EgressUsage {
            open: count(&self.open),
            connections: count(&self.connections),
            denied: count(&self.denied),
            sent_bytes: count(&self.sent),
            received_bytes: count(&self.received),
        }
    }
}

pub(super) struct Open<'a>(&'a Account);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
