//! Samples in the store: appended in batches, read by series and span, bounded by age and by number.
//!
//! The samples' own key grows with time, so that what is too old and what is too many are both at its
//! beginning. Each batch removes a little more than it adds: there is no great clean-up to wait for.

use std::{sync::Arc, time::Duration};

use hms_core::Result;
use rusqlite::{Connection, params};

use super::series::Points;

/// The tables.
pub(crate) const SQL: &str = "
    CREATE TABLE monitoring_series (
        id INTEGER PRIMARY KEY,
        agent TEXT NOT NULL,
        name TEXT NOT NULL,
        UNIQUE (agent, name)
    ) STRICT;
    CREATE TABLE monitoring_samples (
        id INTEGER PRIMARY KEY,
        series INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        value REAL NOT NULL
    ) STRICT;
    CREATE INDEX monitoring_samples_series ON monitoring_samples (series, time_ms);
";

/// Samples that a batch removes beside as many as it adds.
const STEP: u64 = 512;

/// Points that an answer has without being asked to; a longer series is told in steps.
const MOST_POINTS: u64 = 5_000;

/// Steps that a long series is told in.
const STEPS: u64 = 1_000;

/// A sample on its way to the store.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The agent's id.
    pub(crate) agent: Arc<str>,
    /// The metric.
    pub(crate) name: Arc<str>,
    /// When.
    pub(crate) time_ms: u64,
    /// How much.
    pub(crate) value: f64,
}

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Older samples go.
    pub(crate) before_ms: u64,
    /// More samples go, the oldest first.
    pub(crate) max_samples: u64,
}

/// Appends a batch, and removes what is out of bounds.
pub(crate) fn append(c: &Connection, rows: &[Row], bounds: Bounds) -> Result<()> {
    let mut series =
        c.prepare_cached("INSERT OR IGNORE INTO monitoring_series (agent, name) VALUES (?1, ?2)")?;
    let mut sample = c.prepare_cached(
        "INSERT INTO monitoring_samples (series, time_ms, value)
         SELECT id, ?3, ?4 FROM monitoring_series WHERE agent = ?1 AND name = ?2",
    )?;
    for row in rows {
        series.execute(params![row.agent, row.name])?;
        sample.execute(params![row.agent, row.name, row.time_ms as i64, row.value])?;
    }
    prune(c, bounds, rows.len() as u64 + STEP)
}

fn prune(c: &Connection, bounds: Bounds, most: u64) -> Result<()> {
    c.prepare_cached(
        "DELETE FROM monitoring_samples WHERE id <= (
            SELECT max(id) FROM (SELECT id, time_ms FROM monitoring_samples ORDER BY id LIMIT ?1)
            WHERE time_ms < ?2 OR id <= (SELECT max(id) FROM monitoring_samples) - ?3
         )",
    )?
    .execute(params![most as i64, bounds.before_ms as i64, bounds.max_samples as i64])?;
    Ok(())
}

/// Forgets series without samples: their agents are gone, and their time has passed.
pub(crate) fn sweep(c: &Connection) -> Result<()> {
    c.execute(
        "DELETE FROM monitoring_series
         WHERE NOT EXISTS (SELECT 1 FROM monitoring_samples WHERE series = monitoring_series.id)",
        [],
    )?;
    Ok(())
}

/// What is asked of history.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// One metric, or all.
    pub(crate) name: Option<String>,
    /// One agent's id, or all.
    pub(crate) agent: Option<String>,
    /// From when.
    pub(crate) since_ms: u64,
    /// Until when, inclusive.
    pub(crate) until_ms: u64,
    /// Points at this distance; unset: each sample, or, of a long series, a step that fits.
    pub(crate) step: Option<Duration>,
}

/// What was found: (agent's id, metric, points) by agent and metric, and the step of the points.
pub(crate) type Found = (Vec<(String, String, Points)>, Option<Duration>);

/// Reads the series of a span. Series that have no sample in it are left out.
pub(crate) fn read(c: &Connection, span: &Span) -> Result<Found> {
    let (since, until) = (sql_time(span.since_ms), sql_time(span.until_ms));
    let mut statement = c.prepare_cached(
        "SELECT s.id, s.agent, s.name,
            (SELECT count(*) FROM monitoring_samples WHERE series = s.id AND time_ms BETWEEN ?3 AND ?4)
         FROM monitoring_series s WHERE (?1 IS NULL OR s.name = ?1) AND (?2 IS NULL OR s.agent = ?2)
         ORDER BY s.agent, s.name",
    )?;
    let rows = statement.query_map(params![span.name, span.agent, since, until], |row| {
        Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)? as u64))
    })?;
    let series: Vec<(i64, String, String, u64)> = rows.collect::<std::result::Result<_, _>>()?;
    let longest = series.iter().map(|(.., count)| *count).max().unwrap_or_default();
    let step = span.step.or_else(|| (longest > MOST_POINTS).then(|| fitting_step(span)));
    let mut samples = c.prepare_cached(
        "SELECT time_ms, value FROM monitoring_samples WHERE series = ?1 AND time_ms BETWEEN ?2 AND ?3 ORDER BY time_ms, id",
    )?;
    let mut found = Vec::new();
    for (id, agent, name, _) in series.into_iter().filter(|(.., count)| *count > 0) {
        let mut points = Points::new(step);
        let mut rows = samples.query(params![id, since, until])?;
        while let Some(row) = rows.next()? {
            points.add(row.get::<_, i64>(0)? as u64, row.get(1)?);
        }
        found.push((agent, name, points));
    }
    Ok((found, step))
}

/// Whole seconds, so that the spans of a minute or an hour are round.
fn fitting_step(span: &Span) -> Duration {
    let ms = span.until_ms.saturating_sub(span.since_ms) / STEPS;
    Duration::from_secs(ms.div_ceil(1_000).max(1))
}

fn sql_time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// The names of all metrics with samples in the store.
pub(crate) fn names(c: &Connection) -> Result<Vec<(String, u64)>> {
    let mut statement = c.prepare_cached(
        "SELECT name, count(DISTINCT agent) FROM monitoring_series GROUP BY name ORDER BY name",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let c = Connection::open_in_memory().unwrap();
        c.execute_batch(SQL).unwrap();
        c
    }

    fn rows(count: u64, at: impl Fn(u64) -> u64) -> Vec<Row> {
        (0..count)
            .map(|n| Row { agent: "a".into(), name: "x".into(), time_ms: at(n), value: n as f64 })
            .collect()
    }

    fn count(c: &Connection) -> i64 {
        c.query_row("SELECT count(*) FROM monitoring_samples", [], |row| row.get(0)).unwrap()
    }

    const OPEN: Bounds = Bounds { before_ms: 0, max_samples: u64::MAX >> 1 };

    fn span(since_ms: u64, until_ms: u64, step: Option<Duration>) -> Span {
        Span { name: Some("x".into()), agent: None, since_ms, until_ms, step }
    }

    #[test]
    fn what_is_too_old_goes_and_no_more() {
        let c = database();
        append(&c, &rows(100, |n| n * 10), OPEN).unwrap();
        append(&c, &rows(1, |_| 2_000), Bounds { before_ms: 500, ..OPEN }).unwrap();
        assert_eq!(count(&c), 51);
        let (found, step) = read(&c, &span(0, 600, None)).unwrap();
        let series = found.into_iter().next().unwrap().2.finish().unwrap();
        assert_eq!(
            (series["points"][0][0].as_u64(), series["count"].as_u64(), step),
            (Some(500), Some(11), None)
        );
    }

    #[test]
    fn the_number_of_samples_is_bounded() {
        let c = database();
        for n in 0..50 {
            append(&c, &rows(100, |i| n * 100 + i), Bounds { max_samples: 1_000, ..OPEN }).unwrap();
        }
        assert_eq!(count(&c), 1_000);
        let (found, _) = read(&c, &span(0, u64::MAX, None)).unwrap();
        let series = found.into_iter().next().unwrap().2.finish().unwrap();
        assert_eq!(series["points"][0][0], 4_000, "the newest stay");
    }

    #[test]
    fn a_long_series_is_told_in_steps() {
        let c = database();
        append(&c, &rows(6_000, |n| n * 1_000), OPEN).unwrap();
        let (found, step) = read(&c, &span(0, 6_000_000, None)).unwrap();
        assert_eq!(step, Some(Duration::from_secs(6)));
        let series = found.into_iter().next().unwrap().2.finish().unwrap();
        assert_eq!(
            (series["count"].as_u64(), series["points"].as_array().unwrap().len()),
            (Some(6_000), 1_000)
        );
    }

    #[test]
    fn series_without_samples_are_swept() {
        let c = database();
        append(&c, &rows(3, |n| n), OPEN).unwrap();
        append(
            &c,
            &[Row { agent: "b".into(), name: "y".into(), time_ms: 9_000, value: 1.0 }],
            Bounds { before_ms: 100, ..OPEN },
        )
        .unwrap();
        sweep(&c).unwrap();
        assert_eq!(names(&c).unwrap(), [("y".to_owned(), 1)]);
    }
}
