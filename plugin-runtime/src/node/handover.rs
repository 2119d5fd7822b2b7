//! What one process of a plugin hands on to the next.

use std::sync::Arc;

use bytes::Bytes;
use orchestrator_contract::CallError;

use super::{Link, Node, connection::Connection};

/// A process that hands on what it has, and takes what another had. It is this very
/// process: when that has ended, every question fails.
pub(crate) struct StateHolder(Arc<Connection>);

impl Node {
    /// The process, when there is one and it says that it has something to keep.
    pub(crate) fn state_holder(&self) -> Option<StateHolder> {
        match &*self.link.borrow() {
            Link::Ready(connection) if connection.keeps_state => {
                Some(StateHolder(Arc::clone(connection)))
            }
            _ => None,
        }
    }
}

impl StateHolder {
    /// What the process has. Dropping the future gives the question up.
    ///
    /// # Errors
    ///
    /// What the plugin says, that its process has ended, or that it has more than
    /// `max` bytes.
    pub(crate) async fn state(&self, max: u64) -> Result<Bytes, CallError> {
        let state = Arc::clone(&self.0).get_state().await?;
        match state.len() as u64 > max {
            false => Ok(state),
            true => Err(CallError::ResourceLimit {
                resource: "state".to_owned(),
                message: format!("a state of {} bytes, {max} allowed", state.len()),
            }),
        }
    }

    /// Gives the process what one of `version` had. Dropping the future gives the
    /// question up.
    ///
    /// # Errors
    ///
    /// What the plugin says, and that its process has ended.
    pub(crate) async fn restore(&self, state: Bytes, version: String) -> Result<(), CallError> {
        Arc::clone(&self.0).restore_state(state, version).await
    }
}
