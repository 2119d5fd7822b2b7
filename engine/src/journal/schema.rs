//! The database file: how it is opened, and how an older one is brought up to
//! date.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{error::JournalError, files::open_regular, settings::JournalSettings};

/// What brings a file from version *n* to version *n + 1*, from version 0,
/// which is an empty file. Entries are only ever added.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql")];

/// Marks the file as a journal ("ORCj"), as
/// [`PRAGMA application_id`](https://sqlite.org/pragma.html#pragma_application_id) is meant.
const APPLICATION_ID: i64 = 0x4f52_436a;

const PAGE_BYTES: u64 = 8_192;

/// Opens the file for the writer, makes it if it is not there, and brings it
/// up to date. Openers must take turns.
pub(super) fn open_writer(
    path: &Path,
    settings: &JournalSettings,
) -> Result<Connection, JournalError> {
    let inaccessible = |reason: String| JournalError::Inaccessible {
        path: path.to_owned(),
        reason,
    };
    // SQLite would make it readable for everybody, and its log likewise.
    let mut own = OpenOptions::new();
    let made = open_regular(own.append(true).create(true).mode(0o600), path);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => JournalError::NotAJournal {
            path: path.to_owned(),
        },
        _ => inaccessible(error.to_string()),
    })?;
    let mut connection =
        connect(path, settings.busy_timeout).map_err(|error| inaccessible(error.to_string()))?;
    // Before anything is changed: it may be somebody else's.
    let opened = version(&connection, path, MIGRATIONS)
        .and_then(|_| Ok(configure(&connection, settings)?))
        .and_then(|()| migrate(&mut connection, path, MIGRATIONS));
    match opened {
        Ok(()) => Ok(connection),
        Err(JournalError::Unreadable { reason, .. }) => Err(inaccessible(reason)),
        Err(error) => Err(error),
    }
}

/// Opens a file that is up to date for queries.
pub(super) fn open_reader(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = connect(path, busy_timeout)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    // Without a mutex in SQLite: a connection is used by one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn configure(connection: &Connection, settings: &JournalSettings) -> rusqlite::Result<()> {
    let pages = (settings.database_bytes_max / PAGE_BYTES).max(1);
    let set = |name: &str, value: i64| connection.pragma_update(None, name, value);
    set("page_size", PAGE_BYTES.cast_signed())?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Large enough to write a page once for many commits, small enough for
    // the log to stay in the page cache. Truncated should it ever outgrow that.
    set("wal_autocheckpoint", 2_000)?;
    set("journal_size_limit", 64 << 20)?;
    set("cache_size", -(64 << 10))?;
    set("foreign_keys", 0)?;
    set("max_page_count", pages.try_into().unwrap_or(i64::MAX))
}

fn migrate(
    connection: &mut Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<(), JournalError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let missing = &migrations[version(&tx, path, migrations)?..];
    for migration in missing {
        tx.execute_batch(migration)?;
    }
    if !missing.is_empty() {
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", migrations.len() as i64)?;
    }
    tx.commit()?;
    Ok(())
}

/// How many migrations the file has had.
fn version(
    connection: &Connection,
    path: &Path,
    migrations: &[&str],
) -> Result<usize, JournalError> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables = || {
        let sql = "SELECT count(*) FROM sqlite_schema";
        connection.query_row(sql, [], |row| row.get::<_, i64>(0))
    };
    let read = || {
        Ok((
            number("user_version")?,
            number("application_id")?,
            tables()?,
        ))
    };
    let (version, application, tables) = read().map_err(|error: rusqlite::Error| {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => JournalError::NotAJournal { path },
            _ => error.into(),
        }
    })?;
    let is_new = (version, application, tables) == (0, 0, 0);
    if !is_new && application != APPLICATION_ID {
        let path = path.to_owned();
        return Err(JournalError::NotAJournal { path });
    }
    let known = migrations.len();
    match usize::try_from(version) {
        Ok(done) if done <= known => Ok(done),
        _ => Err(JournalError::NewerSchema {
            found: version,
            known: known as i64,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        (dir, path)
    }

    fn tables(connection: &Connection) -> i64 {
        let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN
            ('runs', 'events', 'blobs', 'definitions', 'inbox', 'sessions', 'session_values')";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_file_of_version_0_is_brought_up_to_date_and_durable_to_the_full() {
        let (_dir, path) = file();
        // What an engine leaves behind that was killed before its first
        // migration: an empty database of another page size.
        let old = Connection::open(&path).unwrap();
        old.execute_batch("PRAGMA page_size = 4096; VACUUM;")
            .unwrap();
        drop(old);
        let settings = JournalSettings::for_tests();
        let connection = open_writer(&path, &settings).unwrap();
        assert_eq!(tables(&connection), 7);
        let text = |name: &str| {
            let value = connection
                .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
            format!("{:?}", value.unwrap())
        };
        assert_eq!(text("journal_mode"), "Text(\"wal\")");
        assert_eq!(text("synchronous"), "Integer(2)");
        assert_eq!(text("user_version"), "Integer(1)");
        assert!(open_writer(&path, &settings).is_ok());
    }

    #[test]
    fn the_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, path) = file();
        let connection = open_writer(&path, &JournalSettings::for_tests()).unwrap();
        for file in super::super::blobs::list(dir.path()) {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", file.display());
        }
        drop(connection);
    }

    #[test]
    fn every_older_version_is_migrated_and_keeps_its_rows() {
        let (_dir, path) = file();
        let steps = ["CREATE TABLE a (x)", "ALTER TABLE a RENAME COLUMN x TO y"];
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &path, &steps[..1]).unwrap();
        connection
            .execute("INSERT INTO a (x) VALUES (7)", [])
            .unwrap();
        migrate(&mut connection, &path, &steps).unwrap();
        let kept: i64 = connection
            .query_row("SELECT y FROM a", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, 7);
        migrate(&mut connection, &path, &steps).unwrap();
        let newer = migrate(&mut connection, &path, &steps[..1]);
        assert!(matches!(
            newer,
            Err(JournalError::NewerSchema { found: 2, known: 1 })
        ));
    }

    #[test]
    fn a_failed_migration_changes_nothing() {
        let (_dir, path) = file();
        let mut connection = Connection::open(&path).unwrap();
        assert!(migrate(&mut connection, &path, &["CREATE TABLE a (x)", "nonsense"]).is_err());
        migrate(&mut connection, &path, &["CREATE TABLE a (x)"]).unwrap();
    }

    #[test]
    fn a_file_of_something_else_is_refused_and_left_alone() {
        let (_dir, path) = file();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE theirs (x)").unwrap();
        drop(other);
        let settings = JournalSettings::for_tests();
        let refused = open_writer(&path, &settings);
        assert!(matches!(refused, Err(JournalError::NotAJournal { .. })));
        fs::write(&path, [b'x'; 4_096]).unwrap();
        let refused = open_writer(&path, &settings);
        assert!(
            matches!(refused, Err(JournalError::NotAJournal { .. })),
            "{refused:?}"
        );
    }
}
