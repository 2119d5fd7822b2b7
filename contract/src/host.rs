//! What a plugin may ask of its host while it answers a call.

use std::{future::Future, pin::Pin};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{PluginId, SessionId};

/// A question from a plugin to its host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
#[non_exhaustive]
pub enum HostOperation {
    /// Reads one key of the call's session; the answer is the value or null.
    SessionGet {
        /// The key.
        key: String,
    },
    /// Sets one key of the call's session; the answer is null.
    SessionSet {
        /// The key.
        key: String,
        /// The new value.
        value: serde_json::Value,
    },
    /// Removes one key of the call's session; the answer is whether it was there.
    SessionDelete {
        /// The key.
        key: String,
    },
    /// Lists the keys of the call's session, sorted; the answer is a list of strings.
    SessionKeys,
}

/// Why the host did not do what a plugin asked.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "error", rename_all = "snake_case")]
#[non_exhaustive]
pub enum HostCallError {
    /// The host knows no such operation.
    #[error("the host offers no such operation")]
    Unsupported,
    /// A size, a count or a name is out of bounds.
    #[error("{message}")]
    Refused {
        /// What is out of bounds.
        message: String,
    },
    /// The host could not do it now.
    #[error("{message}")]
    Failed {
        /// What went wrong.
        message: String,
    },
}

/// The answer to a host call, some time later.
pub type HostFuture<'a> =
    Pin<Box<dyn Future<Output = Result<serde_json::Value, HostCallError>> + Send + 'a>>;

/// The host as plugins see it. The engine implements it; plugin kinds carry
/// questions to it.
pub trait HostService: Send + Sync + 'static {
    /// Answers `operation`, asked by `plugin` during a call of `session`.
    /// Dropping the future abandons the question; a change that was already
    /// made stays.
    fn answer<'a>(
        &'a self,
        plugin: &'a PluginId,
        session: SessionId,
        operation: HostOperation,
    ) -> HostFuture<'a>;
}

/// A host that offers nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoHost;

impl HostService for NoHost {
    fn answer<'a>(&'a self, _: &'a PluginId, _: SessionId, _: HostOperation) -> HostFuture<'a> {
        Box::pin(std::future::ready(Err(HostCallError::Unsupported)))
    }
}
