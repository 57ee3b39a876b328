//! What happened and must be told later: configuration changes, resets, upgrades.

use std::time::Duration;

use rusqlite::{Connection, Row, params};
use serde_json::Value;

use super::{Retention, kv::json};
use crate::error::Result;

/// The bounds that [`StoreOptions::default`](super::StoreOptions) sets.
pub const RETENTION: Retention = Retention {
    table: "history",
    key: "id",
    time_ms: "time_ms",
    max_rows: 50_000,
    max_age: Duration::from_secs(400 * 86_400),
};

/// A record of history.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct HistoryRow {
    /// Grows with time.
    pub id: i64,
    /// When, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What kind of thing happened, such as `config.changed`.
    pub kind: String,
    /// To whom.
    pub subject: Option<String>,
    /// The particulars.
    pub data: Value,
}

/// Adds a record; its id.
///
/// # Errors
/// The database's.
pub fn append(c: &Connection, time_ms: u64, kind: &str, subject: Option<&str>, data: &Value) -> Result<i64> {
    c.prepare_cached("INSERT INTO history (time_ms, kind, subject, data) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![time_ms as i64, kind, subject, data.to_string()])?;
    Ok(c.last_insert_rowid())
}

/// The newest `limit` records, newest first; of one kind or subject when given.
///
/// # Errors
/// `store-corrupt` when a row is not what was written.
pub fn list(
    c: &Connection,
    kind: Option<&str>,
    subject: Option<&str>,
    limit: usize,
) -> Result<Vec<HistoryRow>> {
    let mut statement = c.prepare_cached(
        "SELECT id, time_ms, kind, subject, data FROM history
         WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR subject = ?2)
         ORDER BY id DESC LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![kind, subject, limit], |row| Ok(record(row)))?;
    rows.map(|row| row?).collect()
}

fn record(row: &Row<'_>) -> Result<HistoryRow> {
    Ok(HistoryRow {
        id: row.get(0)?,
        time_ms: row.get::<_, i64>(1)? as u64,
        kind: row.get(2)?,
        subject: row.get(3)?,
        data: json(&row.get::<_, String>(4)?)?,
    })
}
