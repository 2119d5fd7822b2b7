//! Reading histories back, and finding out whether they are what was written.

use bytes::Bytes;
use orchestrator_contract::{ContentType, Payload, RunId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    blobs::BlobStore,
    digest::{Chain, Digest, Link},
    error::{JournalDamaged, JournalError},
    record::{Contents, PayloadView, Record, RecordView},
};

/// A run's records, checked against each other and against the table of runs.
pub(super) fn history(
    connection: &Connection,
    blobs: &BlobStore,
    run: RunId,
    contents: &Contents,
) -> Result<Vec<Record>, JournalError> {
    let sql = "SELECT run, last_seq, chain FROM runs WHERE ulid = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let head = select.query_row([run.to_bytes()], |row| {
        let seq = row.get::<_, i64>(1)?.cast_unsigned();
        Ok((row.get::<_, i64>(0)?, seq, Chain(row.get(2)?)))
    });
    let Some((key, last_seq, last)) = head.optional()? else {
        return Err(JournalError::NoSuchRun { run });
    };
    let sql = "SELECT seq, epoch, at, body, content_type, payload, events.blob, blobs.bytes, chain
        FROM events LEFT JOIN blobs ON blobs.sha256 = events.blob
        WHERE run = ?1 ORDER BY seq";
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query([key])?;
    let mut history = Vec::new();
    let mut chain = Chain::default();
    while let Some(row) = rows.next()? {
        let expected = history.len() as u64 + 1;
        let place = Place {
            run,
            expected,
            before: chain,
        };
        let (record, link) = record(row, blobs, contents, &place)?;
        history.push(record);
        chain = link;
    }
    if history.len() as u64 != last_seq || chain != last {
        let damage = JournalDamaged {
            run,
            seq: history.len() as u64 + 1,
            reason: format!("the history should end with record {last_seq}"),
        };
        return Err(damage.into());
    }
    Ok(history)
}

/// Where a record should stand.
struct Place {
    run: RunId,
    expected: u64,
    before: Chain,
}

fn record(
    row: &Row<'_>,
    blobs: &BlobStore,
    contents: &Contents,
    place: &Place,
) -> Result<(Record, Chain), JournalError> {
    let Place {
        run,
        expected,
        before,
    } = *place;
    let damaged = |reason: &str| JournalDamaged {
        run,
        seq: expected,
        reason: reason.to_owned(),
    };
    let seq = row.get::<_, i64>(0)?.cast_unsigned();
    if seq != expected {
        return Err(damaged(&format!("record {seq} is in its place")).into());
    }
    let epoch = row.get::<_, i64>(1)?.cast_unsigned();
    let at_ms: i64 = row.get(2)?;
    let json: Box<str> = row.get(3)?;
    let body = serde_json::from_str(&json)
        .map_err(|error| damaged(&format!("it cannot be read: {error}")))?;
    let is_wanted = contents.has(&body);
    let content_type: Option<String> = row.get(4)?;
    let (bytes, digest) = match row.get::<_, Option<[u8; 32]>>(6)? {
        Some(blob) => {
            let digest = Digest::from_bytes(blob);
            let len: Option<i64> = row.get(7)?;
            let len = len.ok_or_else(|| damaged("its blob is not accounted for"))?;
            let bytes = match is_wanted {
                true => blobs.read(&digest, len.cast_unsigned())?,
                false => Bytes::new(),
            };
            (Some(bytes), digest)
        }
        None => {
            let inline = row.get_ref(5)?.as_blob_or_null();
            let inline = inline.map_err(|_| damaged("its payload is not what was written"))?;
            let digest = Digest::of(inline.unwrap_or_default());
            let wanted = inline.map(|bytes| if is_wanted { bytes } else { &[] });
            (wanted.map(Bytes::copy_from_slice), digest)
        }
    };
    let link = before.then(&Link {
        run,
        seq,
        epoch,
        at_ms,
        body: json.as_bytes(),
        payload: content_type.as_deref().map(|name| (name, &digest)),
    });
    if link.0 != row.get::<_, [u8; 8]>(8)? {
        return Err(damaged("it is not what was written").into());
    }
    let payload = match (content_type, bytes) {
        (Some(name), Some(bytes)) => Some(Payload::new(ContentType::new(name), bytes)),
        (None, None) => None,
        _ => return Err(damaged("half of its payload is missing").into()),
    };
    let record = Record {
        seq,
        epoch,
        at_ms,
        body,
        payload,
    };
    Ok((record, link))
}

/// At most `limit` of a run's records, those after `seq`, without what their
/// payloads hold.
pub(super) fn after(
    connection: &Connection,
    run: RunId,
    seq: u64,
    limit: usize,
) -> Result<Vec<RecordView>, JournalError> {
    let mut select = connection.prepare_cached("SELECT run FROM runs WHERE ulid = ?1")?;
    let key = select.query_row([run.to_bytes()], |row| row.get::<_, i64>(0));
    let key = key.optional()?.ok_or(JournalError::NoSuchRun { run })?;
    // The length of a value is found in its row's header; the value is not read.
    let sql = "SELECT seq, epoch, at, body, content_type, ifnull(blobs.bytes, length(payload))
        FROM events LEFT JOIN blobs ON blobs.sha256 = events.blob
        WHERE run = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
    let mut select = connection.prepare_cached(sql)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = select.query(params![key, seq.cast_signed(), limit])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(view(row, run)?);
    }
    Ok(records)
}

fn view(row: &Row<'_>, run: RunId) -> Result<RecordView, JournalError> {
    let seq = row.get::<_, i64>(0)?.cast_unsigned();
    let damaged = |reason: String| JournalDamaged { run, seq, reason };
    let body: Box<str> = row.get(3)?;
    let body = serde_json::from_str(&body)
        .map_err(|error| damaged(format!("it cannot be read: {error}")))?;
    let payload = match (
        row.get::<_, Option<String>>(4)?,
        row.get::<_, Option<i64>>(5)?,
    ) {
        (Some(name), Some(length)) => Some(PayloadView {
            content_type: ContentType::new(name),
            length: length.cast_unsigned(),
        }),
        (None, None) => None,
        _ => return Err(damaged("half of its payload is missing".to_owned()).into()),
    };
    Ok(RecordView {
        seq,
        epoch: row.get::<_, i64>(1)?.cast_unsigned(),
        at_ms: row.get(2)?,
        body,
        payload,
    })
}

/// A pipeline's definition, if it is kept.
pub(super) fn definition(
    connection: &Connection,
    name: &Digest,
) -> Result<Option<Bytes>, JournalError> {
    let sql = "SELECT body FROM definitions WHERE sha256 = ?1";
    let mut select = connection.prepare_cached(sql)?;
    let found = select.query_row([name.as_bytes()], |row| row.get::<_, Vec<u8>>(0));
    let Some(body) = found.optional()? else {
        return Ok(None);
    };
    if Digest::of(&body) != *name {
        return Err(JournalError::BlobDamaged {
            digest: *name,
            reason: "the definition does not fit its name".to_owned(),
        });
    }
    Ok(Some(body.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::journal::{Journal, blobs::list, fixture::*};

    /// A run of five records, of which the fourth has a large payload.
    async fn history_of_five() -> (Fixture, RunId) {
        let fixture = Fixture::new().await;
        let run = create(&fixture.journal).await;
        let records = vec![
            started("a", 1),
            completed("a", payload(10, 1)),
            completed("b", payload(200_000, 2)),
            failed("c"),
        ];
        assert_eq!(fixture.journal.append(run, 1, 1, records).await, Ok(5));
        (fixture, run)
    }

    #[tokio::test]
    async fn a_changed_row_is_found_and_named() {
        let cases = [
            (
                "UPDATE events SET body = replace(body, '\"attempt\":1', '\"attempt\":2')",
                2,
            ),
            ("UPDATE events SET payload = x'00' WHERE seq = 3", 3),
            (
                "UPDATE events SET content_type = 'text/html' WHERE seq = 3",
                3,
            ),
            ("UPDATE events SET content_type = NULL WHERE seq = 3", 3),
            ("UPDATE events SET payload = NULL WHERE seq = 3", 3),
            ("UPDATE events SET epoch = 2 WHERE seq = 4", 4),
            ("UPDATE events SET at = at + 1 WHERE seq = 5", 5),
            ("DELETE FROM events WHERE seq = 2", 2),
            ("DELETE FROM events WHERE seq = 5", 5),
            ("DELETE FROM events", 1),
            ("DELETE FROM blobs", 4),
            ("UPDATE runs SET last_seq = 6", 6),
            ("UPDATE events SET seq = 6 WHERE seq = 5", 5),
        ];
        for (sql, seq) in cases {
            let (fixture, run) = history_of_five().await;
            fixture.tamper(sql);
            match fixture.journal.load(run).await {
                Err(JournalError::Damaged(damage)) => {
                    assert_eq!((damage.run, damage.seq), (run, seq), "{sql}");
                }
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_damaged_blob_is_found() {
        let (fixture, run) = history_of_five().await;
        let history = fixture.journal.load(run).await.unwrap();
        assert_eq!(history[3].payload, Some(payload(200_000, 2)));
        let digest = Digest::of(&payload(200_000, 2).bytes).to_string();
        let path = fixture
            .dir()
            .join("blobs")
            .join(&digest[..2])
            .join(&digest[2..]);
        let mut bytes = fs::read(&path).unwrap();
        bytes[77_777] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let damaged = fixture.journal.load(run).await;
        assert!(
            matches!(damaged, Err(JournalError::BlobDamaged { .. })),
            "{damaged:?}"
        );
        fs::remove_file(&path).unwrap();
        let gone = fixture.journal.load(run).await;
        assert!(matches!(gone, Err(JournalError::BlobDamaged { .. })));
    }

    /// Also with the blobs gone, so that nobody reads them for a progress line.
    #[tokio::test]
    async fn records_are_told_without_reading_their_payloads() {
        let (fixture, run) = history_of_five().await;
        let history = fixture.journal.load(run).await.unwrap();
        fs::remove_dir_all(fixture.dir().join("blobs")).unwrap();
        let views = async |seq, limit| fixture.journal.records_after(run, seq, limit).await;

        let all = views(0, 100).await.unwrap();
        assert_eq!(all.len(), history.len());
        for (view, record) in all.iter().zip(&history) {
            let head = (view.seq, view.epoch, view.at_ms, &view.body);
            assert_eq!(head, (record.seq, record.epoch, record.at_ms, &record.body));
            let payload = record.payload.as_ref();
            let described = payload.map(|it| (it.content_type.clone(), it.len() as u64));
            let view = view.payload.clone();
            assert_eq!(view.map(|it| (it.content_type, it.length)), described);
        }
        assert_eq!(views(2, 2).await.unwrap(), all[2..4]);
        assert_eq!(views(5, 2).await.unwrap(), []);
        let nobody = fixture.journal.records_after(random_run(), 0, 2).await;
        assert!(matches!(nobody, Err(JournalError::NoSuchRun { .. })));
        fixture.tamper("UPDATE events SET content_type = NULL WHERE seq = 3");
        assert!(matches!(views(2, 1).await, Err(JournalError::Damaged(_))));
    }

    #[tokio::test]
    async fn equal_payloads_are_one_file_and_small_ones_none() {
        let (fixture, run) = history_of_five().await;
        let same = vec![
            completed("d", payload(200_000, 2)),
            completed("e", payload(131_072, 3)),
        ];
        fixture.journal.append(run, 5, 1, same).await.unwrap();
        let stats = fixture.journal.stats().await.unwrap();
        assert_eq!((stats.blobs, stats.blob_bytes), (1, 200_000));
        let folders = list(&fixture.dir().join("blobs"));
        assert_eq!(folders.flat_map(|folder| list(&folder)).count(), 1);
    }

    #[tokio::test]
    async fn a_damaged_definition_is_found() {
        let fixture = Fixture::new().await;
        let name = Digest::of(DEFINITION);
        assert_eq!(
            fixture.journal.definition(name).await.unwrap().unwrap(),
            DEFINITION
        );
        assert_eq!(
            fixture.journal.definition(Digest::of(b"")).await.unwrap(),
            None
        );
        fixture.tamper("UPDATE definitions SET body = x'00'");
        let damaged = fixture.journal.definition(name).await;
        assert!(matches!(damaged, Err(JournalError::BlobDamaged { .. })));
    }
}
