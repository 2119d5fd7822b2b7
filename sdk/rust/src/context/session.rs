//! The values that the phases of a run share.

use orchestrator_contract::HostOperation;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Error, node::Link};

/// The values that the phases of a run share, kept by the host.
///
/// Every method asks the host and waits for its answer. Dropping the future
/// abandons the question; a change that the host already made stays. Kind
/// `exec` has no way to ask, so there every method is a permanent error.
#[derive(Clone, Copy, Debug)]
pub struct Session<'a> {
    link: Option<&'a Link>,
    call: u64,
}

impl<'a> Session<'a> {
    pub(crate) fn new(link: Option<&'a Link>, call: u64) -> Self {
        Self { link, call }
    }

    /// Reads a key; `None` when it is not there or null.
    ///
    /// # Errors
    ///
    /// When the host does not answer, or the value is not a `T`.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let key = key.to_owned();
        decode(self.ask(HostOperation::SessionGet { key }).await?)
    }

    /// Sets a key.
    ///
    /// # Errors
    ///
    /// When the value cannot be JSON, or the host refuses it (too large, too
    /// many keys) or does not answer.
    pub async fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), Error> {
        let key = key.to_owned();
        let value = serde_json::to_value(value).map_err(Error::permanent)?;
        self.ask(HostOperation::SessionSet { key, value }).await?;
        Ok(())
    }

    /// Removes a key; answers whether it was there.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub async fn remove(&self, key: &str) -> Result<bool, Error> {
        let key = key.to_owned();
        decode(self.ask(HostOperation::SessionDelete { key }).await?)
    }

    /// Lists the keys, sorted.
    ///
    /// # Errors
    ///
    /// When the host does not answer.
    pub async fn keys(&self) -> Result<Vec<String>, Error> {
        decode(self.ask(HostOperation::SessionKeys).await?)
    }

    async fn ask(&self, request: HostOperation) -> Result<Value, Error> {
        let Some(link) = self.link else {
            return Err(Error::permanent(
                "the session is out of reach for kind `exec`: a process per call has no way to \
                 ask its host; run the plugin as kind `node`",
            ));
        };
        link.ask(self.call, request).await
    }
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value)
        .map_err(|error| Error::permanent(format_args!("session value: {error}")))
}
