//! Alerts in the store: what fires survives the host, what is resolved is kept as history.
//!
//! Pending alerts are not kept: their time begins anew with the host that sees their condition.

use hms_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, params};

use super::book::{Alert, AlertState};

/// Resolved alerts that are kept; older ones go.
const KEPT: u64 = 5_000;

/// The table.
pub(crate) const SQL: &str = "
    CREATE TABLE monitoring_alerts (
        id INTEGER PRIMARY KEY,
        state TEXT NOT NULL,
        agent TEXT NOT NULL,
        alert TEXT NOT NULL
    ) STRICT;
    CREATE INDEX monitoring_alerts_state ON monitoring_alerts (state, id);
";

/// Writes an alert that fires, or fired and is resolved.
pub(crate) fn save(c: &Connection, alert: &Alert) -> Result<()> {
    let state = match alert.state {
        AlertState::Resolved => "resolved",
        AlertState::Firing | AlertState::Pending => "firing",
    };
    let text = serde_json::to_string(alert).map_err(|e| Error::internal(format!("an alert as JSON: {e}")))?;
    c.prepare_cached("INSERT OR REPLACE INTO monitoring_alerts VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![alert.alert as i64, state, alert.id, text])?;
    if alert.state == AlertState::Resolved {
        c.prepare_cached(
            "DELETE FROM monitoring_alerts WHERE state = 'resolved' AND id <= (SELECT max(id) FROM monitoring_alerts) - ?1",
        )?
        .execute([KEPT as i64])?;
    }
    Ok(())
}

/// What was firing, and the first free number.
pub(crate) fn load(c: &Connection) -> Result<(Vec<Alert>, u64)> {
    let mut statement =
        c.prepare("SELECT alert FROM monitoring_alerts WHERE state = 'firing' ORDER BY id")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let firing = rows.map(|text| parse(&text?)).collect::<Result<_>>()?;
    let last: i64 = c.query_row("SELECT ifnull(max(id), 0) FROM monitoring_alerts", [], |row| row.get(0))?;
    Ok((firing, last as u64 + 1))
}

/// The newest resolved alerts, newest first; of one agent's id when given.
pub(crate) fn resolved(c: &Connection, agent: Option<&str>, limit: usize) -> Result<Vec<Alert>> {
    let mut statement = c.prepare_cached(
        "SELECT alert FROM monitoring_alerts WHERE state = 'resolved' AND (?1 IS NULL OR agent = ?1)
         ORDER BY id DESC LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![agent, limit], |row| row.get::<_, String>(0))?;
    rows.map(|text| parse(&text?)).collect()
}

fn parse(text: &str) -> Result<Alert> {
    serde_json::from_str(text)
        .map_err(|e| Error::new(ErrorKind::StoreCorrupt, format!("a stored alert is not readable: {e}")))
}
