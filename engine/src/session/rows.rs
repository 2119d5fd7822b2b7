//! What a transaction does with the rows of sessions, and what it refuses.

use orchestrator_contract::SessionId;
use rusqlite::{OptionalExtension as _, params};

use super::{SessionError, SessionSettings, check};
use crate::journal::Batch;

/// How many sessions one transaction removes.
pub(super) const SESSIONS_A_TIME: u32 = 64;

pub(super) fn set(
    batch: &mut Batch<'_>,
    session: SessionId,
    key: &str,
    json: &str,
    at_ms: i64,
    limits: &SessionSettings,
) -> rusqlite::Result<Result<(), SessionError>> {
    let id = session.to_bytes();
    let tx = batch.tx;
    let sql = "SELECT keys, bytes FROM sessions WHERE session = ?1";
    let held = tx.prepare_cached(sql)?.query_row([id], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    let (keys, bytes) = held.optional()?.unwrap_or_default();
    let sql = "SELECT length(CAST(value AS BLOB)) FROM session_values
        WHERE session = ?1 AND key = ?2";
    let before = tx
        .prepare_cached(sql)?
        .query_row(params![id, key], |row| row.get::<_, i64>(0));
    let (keys, bytes) = match before.optional()? {
        Some(before) => (keys, bytes - before + json.len() as i64),
        None => (keys + 1, bytes + (key.len() + json.len()) as i64),
    };
    let fits = check("its number of keys", keys.cast_unsigned(), limits.keys_max).and_then(|()| {
        check(
            "its size in bytes",
            bytes.cast_unsigned(),
            limits.session_bytes_max,
        )
    });
    if let Err(refusal) = fits {
        return Ok(Err(refusal));
    }
    let sql = "INSERT INTO session_values (session, key, value) VALUES (?1, ?2, ?3)
        ON CONFLICT (session, key) DO UPDATE SET value = excluded.value";
    tx.prepare_cached(sql)?.execute(params![id, key, json])?;
    let sql = "INSERT INTO sessions (session, keys, bytes, created, touched)
        VALUES (?1, ?2, ?3, ?4, ?4) ON CONFLICT (session) DO UPDATE
        SET keys = excluded.keys, bytes = excluded.bytes, touched = max(touched, excluded.touched)";
    tx.prepare_cached(sql)?
        .execute(params![id, keys, bytes, at_ms])?;
    Ok(Ok(()))
}

pub(super) fn delete(
    batch: &mut Batch<'_>,
    session: SessionId,
    key: &str,
    at_ms: i64,
) -> rusqlite::Result<bool> {
    let id = session.to_bytes();
    let sql = "DELETE FROM session_values WHERE session = ?1 AND key = ?2
        RETURNING length(CAST(key AS BLOB)) + length(CAST(value AS BLOB))";
    let mut remove = batch.tx.prepare_cached(sql)?;
    let freed = remove.query_row(params![id, key], |row| row.get::<_, i64>(0));
    let Some(freed) = freed.optional()? else {
        return Ok(false);
    };
    let sql = "UPDATE sessions SET keys = keys - 1, bytes = bytes - ?2,
        touched = max(touched, ?3) WHERE session = ?1";
    batch
        .tx
        .prepare_cached(sql)?
        .execute(params![id, freed, at_ms])?;
    Ok(true)
}

pub(super) fn touch(batch: &mut Batch<'_>, session: SessionId, at_ms: i64) -> rusqlite::Result<()> {
    let sql = "UPDATE sessions SET touched = max(touched, ?2) WHERE session = ?1";
    let row = params![session.to_bytes(), at_ms];
    batch.tx.prepare_cached(sql)?.execute(row).map(drop)
}

pub(super) fn remove(batch: &mut Batch<'_>, session: [u8; 16]) -> rusqlite::Result<bool> {
    let sql = "DELETE FROM session_values WHERE session = ?1";
    batch.tx.prepare_cached(sql)?.execute([session])?;
    let sql = "DELETE FROM sessions WHERE session = ?1";
    Ok(batch.tx.prepare_cached(sql)?.execute([session])? > 0)
}

pub(super) fn sweep(batch: &mut Batch<'_>, before_ms: i64) -> rusqlite::Result<u32> {
    let sql = "SELECT session FROM sessions WHERE touched < ?1 AND NOT EXISTS
            (SELECT 1 FROM runs WHERE runs.session = sessions.session AND finished IS NULL)
        ORDER BY touched LIMIT ?2";
    let mut select = batch.tx.prepare_cached(sql)?;
    let rows = select.query_map(params![before_ms, SESSIONS_A_TIME], |row| row.get(0))?;
    let over: Vec<[u8; 16]> = rows.collect::<Result<_, _>>()?;
    for session in &over {
        remove(batch, *session)?;
    }
    Ok(over.len().try_into().unwrap_or(SESSIONS_A_TIME))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::session::{Sessions, fixture::*};

    #[tokio::test]
    async fn every_limit_holds_and_a_refusal_changes_nothing() {
        let (fixture, _) = sessions().await;
        let limits = SessionSettings {
            keys_max: 3,
            session_bytes_max: 1_000,
            value_bytes_max: 900,
            ..settings()
        };
        let sessions = Sessions::new(&fixture.journal, limits);
        let set = async |key: &str, len: usize| {
            sessions.set(session(1), key, &json!("x".repeat(len))).await
        };
        let too_large = |answer| matches!(answer, Err(SessionError::TooLarge { .. }));
        assert!(matches!(set("", 1).await, Err(SessionError::EmptyKey)));
        assert!(set(&"k".repeat(256), 1).await.is_ok());
        assert!(too_large(set(&"k".repeat(257), 1).await));
        assert!(too_large(set("value", 899).await));
        // 256 + 3 bytes are taken; these are 5 + 2 + 734.
        assert!(too_large(set("value", 735).await));
        assert!(set("value", 734).await.is_ok());
        assert!(too_large(set("more", 0).await));
        // Replacing counts only the difference.
        assert!(set("value", 700).await.is_ok());
        assert!(set("more", 10).await.is_ok());
        assert!(too_large(set("fourth", 0).await));
        let summary = sessions.list(None, 1).await.unwrap().remove(0);
        assert_eq!(
            (summary.keys, summary.bytes),
            (3, 256 + 3 + 5 + 702 + 4 + 12)
        );
        let kept = sessions.get(session(1), "value").await.unwrap().unwrap();
        assert_eq!(kept.as_str().unwrap().len(), 700);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn a_session_is_a_map(
            changes in proptest::collection::vec(("[a-d]", proptest::option::of(any::<i64>())), 0..24),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (expected, bytes, found, summary) = runtime.block_on(async {
                let (_fixture, sessions) = sessions().await;
                let mut map = BTreeMap::new();
                for (key, value) in changes {
                    match value {
                        Some(value) => {
                            sessions.set(session(1), &key, &json!(value)).await.unwrap();
                            map.insert(key, json!(value));
                        }
                        None => {
                            let was = sessions.delete(session(1), &key).await.unwrap();
                            assert_eq!(was, map.remove(&key).is_some());
                        }
                    }
                }
                let sizes = map.iter().map(|(key, value)| key.len() + value.to_string().len());
                let bytes = sizes.sum::<usize>() as u64;
                let found = sessions.entries(session(1)).await.unwrap();
                (map, bytes, found, sessions.list(None, 1).await.unwrap())
            });
            prop_assert_eq!(&found, &expected);
            if let Some(summary) = summary.first() {
                prop_assert_eq!((summary.keys, summary.bytes), (expected.len() as u64, bytes));
            }
        }
    }
}
