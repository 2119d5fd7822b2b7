//! Queries, on a few connections of their own, so that reading and writing do
//! not wait for each other.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{error::JournalError, schema, settings::JournalSettings};

/// A bounded number of connections. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    path: PathBuf,
    busy_timeout: std::time::Duration,
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, settings: &JournalSettings) -> Self {
        Self {
            path,
            busy_timeout: settings.busy_timeout,
            permits: Arc::new(Semaphore::new(settings.readers_max.max(1))),
            idle: Arc::default(),
        }
    }

    /// Runs a query on a thread that may block. All of it sees one state of
    /// the file. Dropped midway, the query ends by itself and its answer is
    /// thrown away.
    pub(super) async fn query<T, Q>(&self, query: Q) -> Result<T, JournalError>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> Result<T, JournalError> + Send + 'static,
    {
        let path = self.path.clone();
        let unreadable = |reason| JournalError::Unreadable { path, reason };
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let Ok(permit) = permit else {
            return Err(unreadable("nobody reads it any more".to_owned()));
        };
        let readers = self.clone();
        let ran = tokio::task::spawn_blocking(move || {
            let answer = readers.run(query).map_err(|error| error.at(&readers.path));
            drop(permit);
            answer
        });
        ran.await
            .unwrap_or_else(|ended| Err(unreadable(ended.to_string())))
    }

    fn run<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.path, self.busy_timeout)?,
        };
        let snapshot = connection.unchecked_transaction()?;
        let answer = query(&snapshot);
        snapshot.finish()?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(connection);
        answer
    }
}
