//! What the phases of a run share: a small map of JSON values that outlives
//! the engine.
//!
//! Sessions are kept in the journal's file and written by its writer, so that
//! a value that was set is there after a crash. Every session has its own
//! keys; none sees another's.

#[cfg(test)]
mod fixture;
mod host;
mod rows;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use miette::Diagnostic;
use orchestrator_contract::SessionId;
use orchestrator_plugin_runtime::byte_size;
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::journal::{AppendError, Batch, Cost, JournalError, SqliteJournal, now_ms};

/// A read postpones the end of a session only when it was last postponed
/// this part of its life ago, so that reading rarely writes.
const TOUCHES_A_LIFE: i64 = 24;

/// What an operator may set about sessions. The defaults are in the
/// configuration's `default.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSettings {
    /// The longest key, in bytes.
    #[serde(with = "byte_size")]
    pub key_bytes_max: usize,
    /// The longest value, in bytes of JSON.
    #[serde(with = "byte_size")]
    pub value_bytes_max: usize,
    /// The most keys of a session.
    pub keys_max: u64,
    /// The most bytes of a session's keys and values together.
    #[serde(with = "byte_size")]
    pub session_bytes_max: u64,
    /// How long a session stays after it was last used. One that a run still
    /// needs stays longer.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// How often sessions that are over are looked for.
    #[serde(with = "humantime_serde")]
    pub sweep_interval: Duration,
}

/// Why a session was not read or changed.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum SessionError {
    /// A size or a count is out of bounds.
    #[error("the session does not take this: {what} would be {size}, the most is {limit}")]
    #[diagnostic(
        code("ORC-4150"),
        help("keep large data in phase outputs, or raise the limits under `session`")
    )]
    TooLarge {
        /// What is out of bounds.
        what: &'static str,
        /// What it would be.
        size: u64,
        /// What it may be.
        limit: u64,
    },
    /// A key is empty.
    #[error("a session's key is not empty")]
    #[diagnostic(code("ORC-4151"), help("give the value a name"))]
    EmptyKey,
    /// The journal failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Journal(#[from] JournalError),
}

impl From<AppendError> for SessionError {
    fn from(error: AppendError) -> Self {
        Self::Journal(error.into())
    }
}

/// A session in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionSummary {
    /// The session.
    pub session: SessionId,
    /// How many keys it has.
    pub keys: u64,
    /// The bytes of its keys and values.
    pub bytes: u64,
    /// When its first value was set, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When it was last used, likewise, give or take a small part of its life.
    pub touched_ms: i64,
}

/// The sessions in a journal. Clones share them. Dropping a future of a
/// changing method leaves open whether the change is made.
#[derive(Clone)]
pub struct Sessions {
    journal: SqliteJournal,
    settings: Arc<SessionSettings>,
}

impl Sessions {
    /// The sessions in `journal`.
    pub fn new(journal: &SqliteJournal, settings: SessionSettings) -> Self {
        Self {
            journal: journal.clone(),
            settings: Arc::new(settings),
        }
    }

    /// The value of a key, if it has one.
    ///
    /// # Errors
    ///
    /// [`SessionError::Journal`].
    pub async fn get(&self, session: SessionId, key: &str) -> Result<Option<Value>, SessionError> {
        let key = key.to_owned();
        let sql = "SELECT value, touched FROM session_values JOIN sessions USING (session)
            WHERE session = ?1 AND key = ?2";
        let found = self
            .journal
            .query(move |connection| {
                let mut select = connection.prepare_cached(sql)?;
                let row = select.query_row(params![session.to_bytes(), key], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
                });
                let row = row.optional()?;
                row.map(|(json, touched_ms)| Ok((decode(&json)?, touched_ms)))
                    .transpose()
            })
            .await?;
        let Some((value, touched_ms)) = found else {
            return Ok(None);
        };
        self.postpone_end(session, touched_ms).await;
        Ok(Some(value))
    }

    /// Sets a key. Durable when it returns. Of two that set the same key at
    /// once, the later one stays.
    ///
    /// # Errors
    ///
    /// [`SessionError::TooLarge`], [`SessionError::EmptyKey`],
    /// [`SessionError::Journal`].
    pub async fn set(
        &self,
        session: SessionId,
        key: &str,
        value: &Value,
    ) -> Result<(), SessionError> {
        let limits = &self.settings;
        let json = value.to_string();
        if key.is_empty() {
            return Err(SessionError::EmptyKey);
        }
        check(
            "the key's length in bytes",
            key.len() as u64,
            limits.key_bytes_max as u64,
        )?;
        check(
            "the value's length in bytes",
            json.len() as u64,
            limits.value_bytes_max as u64,
        )?;
        let cost = Cost {
            records: 1,
            bytes: key.len() + json.len(),
        };
        let (key, at_ms, limits) = (key.to_owned(), now_ms(), Arc::clone(limits));
        self.journal
            .write(cost, move |batch| {
                rows::set(batch, session, &key, &json, at_ms, &limits)
            })
            .await?
    }

    /// Removes a key. Whether it was there.
    ///
    /// # Errors
    ///
    /// [`SessionError::Journal`].
    pub async fn delete(&self, session: SessionId, key: &str) -> Result<bool, SessionError> {
        let (key, at_ms) = (key.to_owned(), now_ms());
        let work = move |batch: &mut Batch<'_>| rows::delete(batch, session, &key, at_ms);
        Ok(self.journal.write(Cost::default(), work).await?)
    }

    /// The keys, sorted.
    ///
    /// # Errors
    ///
    /// [`SessionError::Journal`].
    pub async fn keys(&self, session: SessionId) -> Result<Vec<String>, SessionError> {
        let sql = "SELECT key FROM session_values WHERE session = ?1 ORDER BY key";
        let read = self.journal.query(move |connection| {
            let mut select = connection.prepare_cached(sql)?;
            let rows = select.query_map([session.to_bytes()], |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        });
        Ok(read.await?)
    }

    /// Every key with its value.
    ///
    /// # Errors
    ///
    /// [`SessionError::Journal`].
    pub async fn entries(
        &self,
        session: SessionId,
    ) -> Result<BTreeMap<String, Value>, SessionError> {
        let sql = "SELECT key, value FROM session_values WHERE session = ?1";
        let read = self.journal.query(move |connection| {
            let mut select = connection.prepare_cached(sql)?;
            let rows = select.query_map([session.to_bytes()], |row| {
                Ok((row.get(0)?, row.get::<_, String>(1)?))
            })?;
            rows.map(|row| {
                row.map_err(JournalError::from)
                    .and_then(|(key, json)| Ok((key, decode(&json)?)))
            })
            .collect()
        });
        Ok(read.await?)
    }

    /// Removes a session with everything in it. Whether it was there.
    ///
    /// # Errors
    ///
    /// [`SessionError::Journal`].
    pub async fn remove(&self, session: SessionId) -> Result<bool, SessionError> {
        let work = move |batch: &mut Batch<'_>| rows::remove(batch, session.to_bytes());
        Ok(self.journal.write(Cost::default(), work).await?)
    }

    /// At most `limit` sessions, newest first, those before `before` where it
    /// is given.
    ///
    /// # Errors
    ///
    /// [`SessionError::Journal`].
    pub async fn list(
        &self,
        before: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionSummary>, SessionError> {
        let sql = "SELECT session, keys, bytes, created, touched FROM sessions
            WHERE ?1 IS NULL OR session < ?1 ORDER BY session DESC LIMIT ?2";
        let read = self.journal.query(move |connection| {
            let mut select = connection.prepare_cached(sql)?;
            let page = params![before.map(SessionId::to_bytes), limit];
            let rows = select.query_map(page, |row| {
                Ok(SessionSummary {
                    session: SessionId::from_bytes(row.get(0)?),
                    keys: row.get::<_, i64>(1)?.cast_unsigned(),
                    bytes: row.get::<_, i64>(2)?.cast_unsigned(),
                    created_ms: row.get(3)?,
                    touched_ms: row.get(4)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        });
        Ok(read.await?)
    }

    /// Removes the sessions that are over at `now_ms` (milliseconds since the
    /// Unix epoch), except those of runs that have not ended. Returns how
    /// many. Dropped midway, it leaves the rest to the next sweep.
    ///
    /// # Errors
    ///
    /// [`SessionError::Journal`].
    pub async fn sweep(&self, now_ms: i64) -> Result<u64, SessionError> {
        let before = now_ms.saturating_sub(millis(self.settings.ttl));
        let mut swept = 0;
        loop {
            let work = move |batch: &mut Batch<'_>| rows::sweep(batch, before);
            let some = self.journal.write(Cost::default(), work).await?;
            swept += u64::from(some);
            if some < rows::SESSIONS_A_TIME {
                return Ok(swept);
            }
        }
    }

    /// Sweeps at every interval, for as long as the future is polled; the first
    /// time within a minute, and not at once.
    pub async fn keep_swept(&self) {
        let every = self.settings.sweep_interval;
        let first = Instant::now() + every.min(Duration::from_secs(60));
        let mut ticks = interval_at(first, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.sweep(now_ms()).await {
                Ok(0) => (),
                Ok(swept) => tracing::debug!(swept, "removed sessions that were over"),
                Err(error) => tracing::warn!(%error, "cannot remove sessions that are over"),
            }
        }
    }

    /// A value that is read keeps its session. Nobody waits for that, and a
    /// failure only means that the session ends earlier.
    async fn postpone_end(&self, session: SessionId, touched_ms: i64) {
        let at_ms = now_ms();
        if at_ms.saturating_sub(touched_ms) < millis(self.settings.ttl) / TOUCHES_A_LIFE {
            return;
        }
        let work = move |batch: &mut Batch<'_>| rows::touch(batch, session, at_ms);
        let _ = self.journal.write_unwatched(Cost::default(), work).await;
    }
}

fn millis(duration: Duration) -> i64 {
    duration.as_millis().try_into().unwrap_or(i64::MAX)
}

fn check(what: &'static str, size: u64, limit: u64) -> Result<(), SessionError> {
    if size > limit {
        return Err(SessionError::TooLarge { what, size, limit });
    }
    Ok(())
}

fn decode(json: &str) -> Result<Value, JournalError> {
    serde_json::from_str(json).map_err(|error| JournalError::Unreadable {
        path: PathBuf::new(),
        reason: format!("a session's value is damaged: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::task::JoinSet;

    use super::{fixture::*, *};
    use crate::journal::{Journal, fixture::*};

    const HOUR_MS: i64 = 60 * 60 * 1_000;

    #[tokio::test]
    async fn values_are_there_after_a_restart() {
        let (fixture, sessions) = sessions().await;
        let value = json!({"n": 9_007_199_254_740_993_i64, "list": [1, "two", null]});
        sessions
            .set(session(1), "requirements", &value)
            .await
            .unwrap();
        sessions
            .set(session(1), "language", &json!("go"))
            .await
            .unwrap();
        sessions
            .set(session(1), "language", &json!("rust"))
            .await
            .unwrap();
        fixture.journal.close().await;
        let sessions = Sessions::new(&fixture.another().await, settings());
        assert_eq!(
            sessions.get(session(1), "requirements").await.unwrap(),
            Some(value)
        );
        assert_eq!(
            sessions.get(session(1), "language").await.unwrap(),
            Some(json!("rust"))
        );
        assert_eq!(sessions.get(session(1), "missing").await.unwrap(), None);
        assert_eq!(
            sessions.keys(session(1)).await.unwrap(),
            ["language", "requirements"]
        );
        assert!(sessions.delete(session(1), "language").await.unwrap());
        assert!(!sessions.delete(session(1), "language").await.unwrap());
        assert_eq!(sessions.entries(session(1)).await.unwrap().len(), 1);
        assert!(sessions.remove(session(1)).await.unwrap());
        assert!(!sessions.remove(session(1)).await.unwrap());
        assert_eq!(
            sessions.keys(session(1)).await.unwrap(),
            Vec::<String>::new()
        );
    }

    #[tokio::test]
    async fn a_hundred_sessions_at_once_each_read_their_own() {
        let (_fixture, sessions) = sessions().await;
        let mut all = JoinSet::new();
        for n in 0..100_u128 {
            let sessions = sessions.clone();
            all.spawn(async move {
                let own = json!(n.to_string());
                sessions.set(session(n), "key", &own).await.unwrap();
                assert_eq!(sessions.get(session(n), "key").await.unwrap(), Some(own));
            });
        }
        all.join_all().await;
        let newest = sessions.list(None, 30).await.unwrap();
        assert_eq!(newest.len(), 30);
        assert_eq!(newest[0].session, session(99));
        let next = sessions
            .list(Some(newest[29].session), 1_000)
            .await
            .unwrap();
        assert_eq!(next.len(), 70);
        assert_eq!(sessions.journal.stats().await.unwrap().sessions, 100);
    }

    #[tokio::test]
    async fn a_session_ends_a_day_after_its_last_use_unless_a_run_needs_it() {
        let (fixture, sessions) = sessions().await;
        let mut new = new_run();
        new.created.session = session(2);
        let run = new.run;
        fixture.journal.create(new).await.unwrap();
        for n in 0..200 {
            sessions.set(session(n), "key", &json!(1)).await.unwrap();
        }
        let now = now_ms();
        assert_eq!(sessions.sweep(now + 23 * HOUR_MS).await.unwrap(), 0);
        assert_eq!(sessions.sweep(now + 25 * HOUR_MS).await.unwrap(), 199);
        assert_eq!(sessions.get(session(1), "key").await.unwrap(), None);
        assert_eq!(
            sessions.get(session(2), "key").await.unwrap(),
            Some(json!(1))
        );
        let end = vec![finished(orchestrator_contract::RunOutcome::Success)];
        fixture.journal.append(run, 1, 1, end).await.unwrap();
        assert_eq!(sessions.sweep(now + 25 * HOUR_MS).await.unwrap(), 1);
        assert_eq!(sessions.list(None, 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn reading_keeps_a_session() {
        let (fixture, sessions) = sessions().await;
        sessions.set(session(1), "key", &json!(1)).await.unwrap();
        let touched = async || sessions.list(None, 1).await.unwrap()[0].touched_ms;
        let at_first = touched().await;
        sessions.get(session(1), "key").await.unwrap();
        assert_eq!(
            touched().await,
            at_first,
            "a fresh session is not written for a read"
        );
        fixture.tamper("UPDATE sessions SET touched = touched - 7200000");
        sessions.get(session(1), "key").await.unwrap();
        // Ends after whatever was handed over before it.
        fixture.journal.close().await;
        assert!(touched().await >= at_first);
    }

    #[tokio::test]
    async fn the_sweeper_sweeps_at_every_interval_until_it_is_dropped() {
        let (fixture, _) = sessions().await;
        let moment = Duration::from_millis(5);
        let sessions = Sessions::new(
            &fixture.journal,
            SessionSettings {
                ttl: moment,
                sweep_interval: moment,
                ..settings()
            },
        );
        let swept_twice = async {
            for _ in 0..2 {
                sessions.set(session(1), "key", &json!(1)).await.unwrap();
                while !sessions.list(None, 1).await.unwrap().is_empty() {
                    tokio::time::sleep(moment).await;
                }
            }
        };
        let both = async {
            tokio::select! {
                () = sessions.keep_swept() => panic!("it ended by itself"),
                () = swept_twice => (),
            }
        };
        tokio::time::timeout(Duration::from_secs(20), both)
            .await
            .unwrap();
    }
}
