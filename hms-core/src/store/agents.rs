//! The agents that outlive the host, and their snapshots.
//!
//! Functions take a connection, so that a caller composes them into one [`Store::write`](super::Store::write).

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use super::kv::json;
use crate::error::{Error, ErrorKind, Result};

/// An agent as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRow {
    /// Its id, which never changes.
    pub id: String,
    /// Its name, unique in the home.
    pub name: String,
    /// What the user asked for; a text where what is stored is no JSON.
    pub spec: Value,
    /// The state it is meant to be in.
    pub desired: String,
    /// How often it was started.
    pub incarnation: u64,
    /// What the runtime needs in order to resume or adopt it.
    pub state: Value,
    /// Creation, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Last change, in milliseconds since the Unix epoch.
    pub updated_ms: u64,
}

/// A saved state of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Version of the format, by the agent's type.
    pub state_version: u32,
    /// The state.
    pub data: Vec<u8>,
    /// When it was taken, in milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// Adds an agent.
///
/// # Errors
/// `already-exists` when the id or the name is taken.
pub fn insert(c: &Connection, agent: &AgentRow) -> Result<()> {
    c.prepare_cached("INSERT INTO agents VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute(params![
            agent.id,
            agent.name,
            agent.spec.to_string(),
            agent.desired,
            agent.incarnation as i64,
            agent.state.to_string(),
            agent.created_ms as i64,
            agent.updated_ms as i64,
        ])
        .map_err(|e| match Error::from(e) {
            e if e.kind == ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::AlreadyExists, format!("there is an agent `{}` already", agent.name))
            }
            e => e,
        })?;
    Ok(())
}

/// Replaces what the user asked for; whether the agent exists.
///
/// # Errors
/// The database's.
pub fn update_spec(c: &Connection, id: &str, spec: &Value, desired: &str, now_ms: u64) -> Result<bool> {
    let changed = c
        .prepare_cached("UPDATE agents SET spec = ?2, desired = ?3, updated_ms = ?4 WHERE id = ?1")?
        .execute(params![id, spec.to_string(), desired, now_ms as i64])?;
    Ok(changed > 0)
}

/// Replaces what changes while the agent runs; whether it exists (a destroyed agent is not revived).
///
/// # Errors
/// The database's.
pub fn update_state(c: &Connection, id: &str, incarnation: u64, state: &Value, now_ms: u64) -> Result<bool> {
    let changed = c
        .prepare_cached("UPDATE agents SET incarnation = ?2, state = ?3, updated_ms = ?4 WHERE id = ?1")?
        .execute(params![id, incarnation as i64, state.to_string(), now_ms as i64])?;
    Ok(changed > 0)
}

/// Removes an agent and its snapshot; whether it existed.
///
/// # Errors
/// The database's.
pub fn delete(c: &Connection, id: &str) -> Result<bool> {
    Ok(c.prepare_cached("DELETE FROM agents WHERE id = ?1")?.execute([id])? > 0)
}

/// One agent.
///
/// # Errors
/// `store-corrupt` when a row is not what was written.
pub fn get(c: &Connection, id: &str) -> Result<Option<AgentRow>> {
    let found = c
        .prepare_cached("SELECT * FROM agents WHERE id = ?1")?
        .query_row([id], |row| Ok(agent(row)))
        .optional()?;
    found.transpose()
}

/// All agents, in the order of their creation.
///
/// # Errors
/// The database's.
pub fn list(c: &Connection) -> Result<Vec<AgentRow>> {
    let mut statement = c.prepare_cached("SELECT * FROM agents ORDER BY rowid")?;
    let rows = statement.query_map([], |row| Ok(agent(row)))?;
    rows.map(|row| row?).collect()
}

/// Replaces the snapshot of an agent; whether the agent exists.
///
/// # Errors
/// The database's.
pub fn save_snapshot(c: &Connection, agent: &str, snapshot: &SnapshotRow) -> Result<bool> {
    let SnapshotRow { state_version, data, time_ms } = snapshot;
    let changed = c
        .prepare_cached(
            "INSERT INTO snapshots SELECT id, ?2, ?3, ?4 FROM agents WHERE id = ?1
             ON CONFLICT (agent) DO UPDATE
             SET state_version = excluded.state_version, data = excluded.data, time_ms = excluded.time_ms",
        )?
        .execute(params![agent, state_version, data, *time_ms as i64])?;
    Ok(changed > 0)
}

/// The snapshot of an agent.
///
/// # Errors
/// The database's.
pub fn snapshot(c: &Connection, agent: &str) -> Result<Option<SnapshotRow>> {
    Ok(c.prepare_cached("SELECT state_version, data, time_ms FROM snapshots WHERE agent = ?1")?
        .query_row([agent], |row| {
            Ok(SnapshotRow {
                state_version: row.get(0)?,
                data: row.get(1)?,
                time_ms: row.get::<_, i64>(2)? as u64,
            })
        })
        .optional()?)
}

/// All snapshots, by agent.
///
/// # Errors
/// The database's.
pub fn snapshots(c: &Connection) -> Result<Vec<(String, SnapshotRow)>> {
    let mut statement = c.prepare_cached("SELECT agent, state_version, data, time_ms FROM snapshots")?;
    let rows = statement.query_map([], |row| {
        let (state_version, data, time_ms) = (row.get(1)?, row.get(2)?, row.get::<_, i64>(3)? as u64);
        Ok((row.get(0)?, SnapshotRow { state_version, data, time_ms }))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Forgets the snapshot of an agent; whether there was one.
///
/// # Errors
/// The database's.
pub fn delete_snapshot(c: &Connection, agent: &str) -> Result<bool> {
    Ok(c.prepare_cached("DELETE FROM snapshots WHERE agent = ?1")?.execute([agent])? > 0)
}

fn readable(text: String) -> Value {
    json(&text).unwrap_or(Value::String(text))
}

fn agent(row: &Row<'_>) -> Result<AgentRow> {
    Ok(AgentRow {
        id: row.get("id")?,
        name: row.get("name")?,
        // One damaged row must not keep all the others from running: as text, it is no specification.
        spec: readable(row.get("spec")?),
        desired: row.get("desired")?,
        incarnation: row.get::<_, i64>("incarnation")? as u64,
        state: readable(row.get("state")?),
        created_ms: row.get::<_, i64>("created_ms")? as u64,
        updated_ms: row.get::<_, i64>("updated_ms")? as u64,
    })
}
