//! Small values that a component remembers, as JSON.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

/// Remembers `value` under `key`.
///
/// # Errors
/// The database's.
pub fn set(c: &Connection, component: &str, key: &str, value: &Value) -> Result<()> {
    c.prepare_cached("INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3)")?.execute(params![
        component,
        key,
        value.to_string()
    ])?;
    Ok(())
}

/// What was remembered under `key`.
///
/// # Errors
/// `store-corrupt` when it is not JSON.
pub fn get(c: &Connection, component: &str, key: &str) -> Result<Option<Value>> {
    let found: Option<String> = c
        .prepare_cached("SELECT value FROM kv WHERE component = ?1 AND key = ?2")?
        .query_row([component, key], |row| row.get(0))
        .optional()?;
    found.map(|text| json(&text)).transpose()
}

/// Everything that a component remembers, in the order of the keys.
///
/// # Errors
/// `store-corrupt` when a value is not JSON.
pub fn list(c: &Connection, component: &str) -> Result<Vec<(String, Value)>> {
    let mut statement = c.prepare_cached("SELECT key, value FROM kv WHERE component = ?1 ORDER BY key")?;
    let rows = statement.query_map([component], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    rows.map(|row| {
        let (key, text) = row?;
        Ok((key, json(&text)?))
    })
    .collect()
}

/// Forgets `key`; whether it was there.
///
/// # Errors
/// The database's.
pub fn delete(c: &Connection, component: &str, key: &str) -> Result<bool> {
    Ok(c.prepare_cached("DELETE FROM kv WHERE component = ?1 AND key = ?2")?.execute([component, key])? > 0)
}

/// Stored JSON that does not parse is damage, not a caller's mistake.
pub(super) fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text)
        .map_err(|e| Error::new(ErrorKind::StoreCorrupt, format!("a stored value is not JSON: {e}")))
}
