//! The table of incidents. An incident is one row that is written again whenever it changes, so that what a
//! host left open is known to the next one.

use hms_core::{Error, ErrorKind, Result, store::Migration};
use rusqlite::{Connection, params};

use crate::incident::Incident;

/// The organ's tables.
pub(crate) const MIGRATIONS: [Migration; 1] = [Migration {
    component: "hms.healing",
    version: 1,
    sql: "
        CREATE TABLE healing_incidents (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            agent_id TEXT NOT NULL,
            agent TEXT NOT NULL,
            opened_ms INTEGER NOT NULL,
            closed_ms INTEGER,
            data TEXT NOT NULL
        ) STRICT;
        CREATE INDEX healing_incidents_agent ON healing_incidents (agent_id, number);
        CREATE INDEX healing_incidents_open ON healing_incidents (number) WHERE closed_ms IS NULL;
    ",
}];

/// Writes an incident, new or changed.
pub(crate) fn save(c: &Connection, incident: &Incident) -> Result<()> {
    let data =
        serde_json::to_string(incident).map_err(|e| Error::internal(format!("an incident as JSON: {e}")))?;
    let closed = incident.closed_ms.map(|ms| ms as i64);
    // Not an upsert: that would use up a number at every change, and `prune` counts by numbers.
    let changed = c
        .prepare_cached("UPDATE healing_incidents SET closed_ms = ?2, data = ?3 WHERE id = ?1")?
        .execute(params![incident.id, closed, data])?;
    if changed == 0 {
        c.prepare_cached(
            "INSERT INTO healing_incidents (id, agent_id, agent, opened_ms, closed_ms, data)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            incident.id,
            incident.agent_id,
            incident.agent,
            incident.opened_ms as i64,
            closed,
            data
        ])?;
    }
    Ok(())
}

/// Forgets closed incidents beyond the newest `max`, and those opened before `before_ms`.
pub(crate) fn prune(c: &Connection, max: u32, before_ms: u64) -> Result<()> {
    c.prepare_cached(
        "DELETE FROM healing_incidents WHERE closed_ms IS NOT NULL
         AND (opened_ms < ?1 OR number <= (SELECT max(number) FROM healing_incidents) - ?2)",
    )?
    .execute(params![before_ms as i64, i64::from(max)])?;
    Ok(())
}

/// The incidents that nobody closed, oldest first.
pub(crate) fn open(c: &Connection) -> Result<Vec<Incident>> {
    read(c, "SELECT data FROM healing_incidents WHERE closed_ms IS NULL ORDER BY number", params![])
}

/// The newest closed incidents, newest first; of one agent (its id or name) when given.
pub(crate) fn closed(c: &Connection, agent: Option<&str>, limit: usize) -> Result<Vec<Incident>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    match agent {
        Some(agent) => read(
            c,
            "SELECT data FROM healing_incidents WHERE closed_ms IS NOT NULL AND (agent_id = ?1 OR agent = ?1)
             ORDER BY number DESC LIMIT ?2",
            params![agent, limit],
        ),
        None => read(
            c,
            "SELECT data FROM healing_incidents WHERE closed_ms IS NOT NULL ORDER BY number DESC LIMIT ?1",
            params![limit],
        ),
    }
}

/// Incidents that were open at or after `since_ms`: what budgets are counted from.
pub(crate) fn since(c: &Connection, since_ms: u64) -> Result<Vec<Incident>> {
    read(
        c,
        "SELECT data FROM healing_incidents WHERE closed_ms IS NULL OR closed_ms >= ?1 ORDER BY number",
        params![since_ms as i64],
    )
}

fn read(c: &Connection, sql: &str, values: &[&dyn rusqlite::ToSql]) -> Result<Vec<Incident>> {
    let mut statement = c.prepare_cached(sql)?;
    let rows = statement.query_map(values, |row| row.get::<_, String>(0))?;
    rows.map(|row| {
        serde_json::from_str(&row?).map_err(|e| {
            Error::new(ErrorKind::StoreCorrupt, format!("a stored incident is not readable: {e}"))
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use hms_core::store::Store;
    use serde_json::json;

    use super::*;

    fn incident(id: &str, opened_ms: u64, closed_ms: Option<u64>) -> Incident {
        serde_json::from_value(json!({
            "id": id, "agent": "web", "agent_id": "a1", "type": "process", "cause": "c", "cause_code": "exited",
            "opened_ms": opened_ms, "closed_ms": closed_ms, "state": if closed_ms.is_some() { "closed" } else { "open" },
            "phase": null, "outcome": null, "reason": null, "occurrences": 1, "progress": 0, "incarnation": 1, "steps": []
        }))
        .expect("it is an incident")
    }

    fn ids(incidents: &[Incident]) -> Vec<&str> {
        incidents.iter().map(|i| i.id.as_str()).collect()
    }

    #[tokio::test]
    async fn open_ones_are_kept_and_history_is_bounded() {
        let store = Store::in_memory(&MIGRATIONS).expect("the migrations run");
        let found = store
            .write(|c| {
                save(c, &incident("old", 1, Some(2)))?;
                save(c, &incident("stale-but-open", 1, None))?;
                for n in 0..5u64 {
                    save(c, &incident(&format!("i{n}"), 100 + n, None))?;
                    save(c, &incident(&format!("i{n}"), 100 + n, Some(200 + n)))?;
                }
                prune(c, 3, 50)?;
                Ok((
                    closed(c, None, 10)?,
                    closed(c, Some("web"), 1)?,
                    closed(c, Some("db"), 9)?,
                    open(c)?,
                    since(c, 204)?,
                ))
            })
            .await
            .expect("the queries run");
        assert_eq!(ids(&found.0), ["i4", "i3", "i2"]);
        assert_eq!(ids(&found.1), ["i4"]);
        assert!(found.2.is_empty());
        assert_eq!(ids(&found.3), ["stale-but-open"]);
        assert_eq!(ids(&found.4), ["stale-but-open", "i4"]);
    }
}
