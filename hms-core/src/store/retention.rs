//! Tables that grow are bounded by count and by age, and pruned in small steps between transactions.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::Result;

/// The bounds of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// The table.
    pub table: &'static str,
    /// Its `INTEGER PRIMARY KEY`, which grows with time.
    pub key: &'static str,
    /// Its column of milliseconds since the Unix epoch.
    pub time_ms: &'static str,
    /// Rows to keep, give or take what is written between two prunings.
    pub max_rows: u64,
    /// Older rows go.
    pub max_age: Duration,
}

/// Rows changed between two prunings.
const EVERY: u64 = 2048;
/// Rows deleted in one step: a few milliseconds for whoever waits.
const STEP: u64 = 512;

/// When to prune.
#[derive(Debug, Default)]
pub(super) struct Pruner {
    /// `None` until the first pruning, which is due when the store first has nothing to do.
    pruned_at: Option<u64>,
}

impl Pruner {
    /// Whether enough was written since the last time.
    pub(super) fn is_due(&self, connection: &Connection) -> bool {
        self.pruned_at.is_none_or(|then| connection.total_changes() - then >= EVERY)
    }

    /// Deletes up to [`STEP`] rows of each table; whether there is more to do. `tell` learns up to which key a
    /// table is pruned, just before it is.
    pub(super) fn step(
        &mut self,
        connection: &Connection,
        tables: &[Retention],
        now_ms: u64,
        tell: &dyn Fn(&'static str, i64),
    ) -> Result<bool> {
        let mut more = false;
        for table in tables {
            more |= table.prune(connection, now_ms, tell)? == STEP;
        }
        if !more {
            self.pruned_at = Some(connection.total_changes());
        }
        Ok(more)
    }
}

impl Retention {
    /// Deletes the oldest rows that are too many or too old, up to [`STEP`]; says how many.
    fn prune(&self, connection: &Connection, now_ms: u64, tell: &dyn Fn(&'static str, i64)) -> Result<u64> {
        let Self { table, key, time_ms, .. } = self;
        let before = now_ms.saturating_sub(self.max_age.as_millis().try_into().unwrap_or(u64::MAX));
        let surplus = self.surplus(connection)?.min(STEP);
        // Keys grow with time, so the old and the surplus are both at the beginning.
        let last: Option<i64> = connection
            .prepare_cached(&format!(
                "SELECT max({key}) FROM (
                    SELECT {key}, {time_ms}, row_number() OVER (ORDER BY {key}) AS place
                    FROM (SELECT {key}, {time_ms} FROM {table} ORDER BY {key} LIMIT {STEP})
                 ) WHERE {time_ms} < ?1 OR place <= ?2"
            ))?
            .query_row([before as i64, surplus as i64], |row| row.get(0))
            .optional()?
            .flatten();
        let Some(last) = last else { return Ok(0) };
        tell(table, last);
        let step = connection.unchecked_transaction()?;
        let deleted =
            step.prepare_cached(&format!("DELETE FROM {table} WHERE {key} <= ?1"))?.execute([last])?;
        step.prepare_cached("INSERT OR REPLACE INTO pruned VALUES (?1, ?2)")?
            .execute(params![table, last])?;
        step.commit()?;
        Ok(deleted as u64)
    }

    /// Rows above the bound. Counting walks the table, so it is done only when the keys leave room for doubt.
    fn surplus(&self, connection: &Connection) -> Result<u64> {
        let Self { table, key, max_rows, .. } = self;
        let span: i64 = connection
            .prepare_cached(&format!(
                "SELECT ifnull((SELECT max({key}) FROM {table}) - (SELECT min({key}) FROM {table}) + 1, 0)"
            ))?
            .query_row([], |row| row.get(0))?;
        if span as u64 <= *max_rows {
            return Ok(0);
        }
        let rows: i64 = connection
            .prepare_cached(&format!("SELECT count(*) FROM {table}"))?
            .query_row([], |row| row.get(0))?;
        Ok((rows as u64).saturating_sub(*max_rows))
    }
}

/// Up to which key `table` was ever pruned; 0 for never.
pub(super) fn pruned_through(connection: &Connection, table: &str) -> Result<u64> {
    let through: Option<i64> = connection
        .query_row("SELECT through FROM pruned WHERE name = ?1", [table], |row| row.get(0))
        .optional()?;
    Ok(through.unwrap_or(0) as u64)
}
