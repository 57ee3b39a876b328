//! Opening the file: whose is it, is it whole, may this version use it. Nothing is written before all three
//! are answered.
//!
//! **How whole is checked.** The header and the application id are read as plain bytes. Then a read-only
//! connection reads the schema and its versions, which finds a broken first page or catalogue. A clean close
//! leaves no write-ahead log, so a log with content says that the last host was killed; only then does
//! SQLite's `quick_check` walk the file, and only up to [`CHECK_LIMIT`], because the next host must be back
//! within two seconds. A damage beyond that shows when its page is read, as `store-corrupt` too.

use std::{
    fs::{self, OpenOptions},
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};

use super::{
    error::{corrupt, locate},
    migrate::Plan,
};
use crate::error::{Error, Result};

/// `HMS1`: marks the file as ours.
pub(super) const APPLICATION_ID: i32 = 0x484D_5331;

/// The largest file that is walked after an unclean stop.
const CHECK_LIMIT: u64 = 64 << 20;

const HEADER: &[u8; 16] = b"SQLite format 3\0";
const BUSY: Duration = Duration::from_secs(5);

/// The writing connection to the database at `path`, created or migrated as needed.
pub(super) fn file(path: &Path, plan: &Plan, now_ms: u64) -> Result<Connection> {
    let existing = inspect(path, plan)?;
    if !existing {
        create(path)?;
    }
    let prepared = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|mut connection| {
        if !existing {
            // Before WAL, so that the id is in the file itself from its first moment.
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        }
        connection.pragma_update(None, "journal_mode", "wal")?;
        tune(&connection, 512)?;
        connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
        plan.apply(&mut connection, Some(path).filter(|_| existing), now_ms)?;
        Ok(connection)
    });
    prepared.map_err(|e| locate(e, path))
}

/// The reading connection to a database that [`file`] opened.
pub(super) fn read_only(path: &Path) -> Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .and_then(|connection| {
            tune(&connection, 256)?;
            Ok(connection)
        })
        .map_err(|e| locate(e, path))
}

/// A database without a file.
pub(super) fn memory(plan: &Plan) -> Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    tune(&connection, 512)?;
    plan.apply(&mut connection, None, 0)?;
    Ok(connection)
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection> {
    // No URI flag: a path is a path, whatever characters it has.
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    Ok(Connection::open_with_flags(path, flags)?)
}

/// Memory counts: small caches, no mmap.
fn tune(connection: &Connection, cache_kib: i64) -> Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(())
}

/// Creates the file for its owner alone; the log and its index inherit the mode.
fn create(path: &Path) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
        .map_err(|e| locate(Error::io(format!("cannot create {}", path.display()), &e), path))
}

/// Whether there is a database of ours; an error if there is something else, or one that must not be used.
fn inspect(path: &Path, plan: &Plan) -> Result<bool> {
    let Some(header) = read_header(path)? else { return Ok(false) };
    if !header.starts_with(HEADER) {
        return Err(corrupt(path, "this is not a database, or its beginning is damaged"));
    }
    let id = header.get(68..72).map_or(0, |b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    if id != APPLICATION_ID {
        return Err(corrupt(path, "this is an SQLite database of another application"));
    }
    look(path, plan).map_err(|e| locate(e, path))?;
    Ok(true)
}

/// The first 100 bytes; `None` when there is no file or an empty one without a log.
fn read_header(path: &Path) -> Result<Option<Vec<u8>>> {
    let what = || format!("cannot read {}", path.display());
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(what(), &e)),
    };
    let mut header = Vec::with_capacity(100);
    file.take(100).read_to_end(&mut header).map_err(|e| Error::io(what(), &e))?;
    // An empty file is what a host leaves that was killed while it created it.
    Ok(Some(header).filter(|header| !header.is_empty()))
}

/// Reads without being able to write: not even the log is folded in when this connection closes.
fn look(path: &Path, plan: &Plan) -> Result<()> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    tune(&connection, 256)?;
    plan.refuse_newer(&connection, path)?;
    if !was_killed(path) || size(path) > CHECK_LIMIT {
        return Ok(());
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    match verdict.as_str() {
        "ok" => Ok(()),
        damage => Err(corrupt(path, &format!("the database is damaged: {}", damage.replace('\n', " ")))),
    }
}

fn was_killed(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    size(Path::new(&log)) > 0
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}
