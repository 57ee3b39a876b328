//! Metrics: numbers about agents over time. `series.rs` holds the newest in memory, `history.rs` the
//! rest in the store, `sampler.rs` collects them, `service.rs` answers who asks.

mod history;
mod sampler;
mod series;
mod service;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hms_core::{Error, ErrorKind, Kernel, Result};
use serde_json::{Value, json};

pub(crate) use self::{
    history::SQL,
    sampler::run,
    service::{MetricsService, spec},
};
use self::{
    history::{Bounds, Row, Span},
    series::{Points, Recent},
};
use crate::config::Settings;

/// Metrics that one agent may have: whoever records names without end is told.
const MOST_NAMES: usize = 64;

/// What asks for no span gets this one.
const DEFAULT_SPAN: Duration = Duration::from_secs(3600);

/// What the well-known metrics are: name, unit, meaning.
const KNOWN: [(&str, &str, &str); 7] = [
    ("responseTime", "ms", "time that a health check took, the mean since the last sample"),
    ("errorRate", "ratio", "health checks that found the agent critical, of all since the last sample"),
    ("cpuUsage", "cores", "processor time used, in cores"),
    ("memoryUsage", "bytes", "resident memory"),
    ("threads", "count", "threads"),
    ("restarts", "count", "restarts since the agent was created"),
    ("health", "ratio", "1 when healthy, 0 when degraded or critical"),
];

fn unit(name: &str) -> &'static str {
    KNOWN.iter().find(|(known, ..)| *known == name).map_or("", |(_, unit, _)| unit)
}

/// What is asked of the metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    /// One metric, or all.
    pub(crate) name: Option<String>,
    /// One agent, by id or name, or all.
    pub(crate) agent: Option<String>,
    /// From when, in milliseconds since the Unix epoch; unset: an hour before the end.
    pub(crate) since_ms: Option<u64>,
    /// Until when; unset: now.
    pub(crate) until_ms: Option<u64>,
    /// Points at this distance.
    pub(crate) step: Option<Duration>,
}

/// The metrics of a system.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By agent's id; few names each, so a list is the smallest map.
    agents: Mutex<HashMap<Arc<str>, Vec<Named>>>,
}

#[derive(Debug)]
struct Named {
    name: Arc<str>,
    recent: Recent,
}

impl Metrics {
    /// Takes samples of one agent at one time; what is to be stored of them.
    ///
    /// # Errors
    /// `invalid-state` when the agent has too many metrics; then the further ones were left out.
    fn take(&self, agent: &str, time_ms: u64, samples: &[(impl AsRef<str>, f64)]) -> (Vec<Row>, Result<()>) {
        let mut agents = self.agents();
        let id = agents.get_key_value(agent).map_or_else(|| agent.into(), |(id, _)| id.clone());
        let series = agents.entry(id.clone()).or_default();
        let (mut rows, mut outcome) = (Vec::with_capacity(samples.len()), Ok(()));
        for (name, value) in samples.iter().filter(|(_, value)| value.is_finite()) {
            let name = name.as_ref();
            let at = series.iter().position(|s| *s.name == *name);
            let at = match at {
                Some(at) => at,
                None if series.len() < MOST_NAMES => {
                    series.push(Named { name: name.into(), recent: Recent::default() });
                    series.len() - 1
                }
                None => {
                    outcome = Err(Error::new(
                        ErrorKind::InvalidState,
                        format!("agent `{agent}` has {MOST_NAMES} metrics already; `{name}` is one too many"),
                    )
                    .hint("use fewer names, and put what differs into the value"));
                    continue;
                }
            };
            series[at].recent.push(time_ms, *value);
            rows.push(Row { agent: id.clone(), name: series[at].name.clone(), time_ms, value: *value });
        }
        (rows, outcome)
    }

    /// Writes rows some time soon, or not at all: metrics never make anybody wait.
    fn post(kernel: &Kernel, settings: &Settings, rows: Vec<Row>) {
        if rows.is_empty() {
            return;
        }
        let retention = settings.retention.as_millis() as u64;
        let bounds = Bounds {
            before_ms: kernel.clock().wall_ms().saturating_sub(retention),
            max_samples: settings.max_samples,
        };
        kernel.store().post(move |c| history::append(c, &rows, bounds));
    }

    /// Forgets in the store what nothing refers to any more.
    pub(crate) fn sweep(kernel: &Kernel) {
        kernel.store().post(history::sweep);
    }

    /// Forgets the newest samples of an agent that is gone. The store keeps its history until it is too old.
    pub(crate) fn forget(&self, agent: &str) {
        self.agents().remove(agent);
    }

    /// Keeps only the agents that there are.
    pub(crate) fn retain(&self, there: impl Fn(&str) -> bool) {
        self.agents().retain(|agent, _| there(agent));
    }

    /// The metrics that there are: `[{name, unit, summary, agents}]`.
    pub(crate) async fn names(&self, kernel: &Kernel) -> Result<Value> {
        let _ = kernel.store().flush().await;
        let mut names: BTreeMap<String, u64> =
            kernel.store().read(history::names).await?.into_iter().collect();
        KNOWN.iter().for_each(|(name, ..)| {
            names.entry((*name).to_owned()).or_default();
        });
        let row = |(name, agents): (String, u64)| {
            let summary = KNOWN.iter().find(|(known, ..)| *known == name).map_or("", |(.., summary)| summary);
            json!({"name": name, "unit": unit(&name), "summary": summary, "agents": agents})
        };
        Ok(names.into_iter().map(row).collect())
    }

    /// The newest sample of each metric: `[{agent, id, name, unit, value, time_ms}]`.
    ///
    /// # Errors
    /// `not-found` for an unknown agent.
    pub(crate) fn latest(&self, kernel: &Kernel, agent: Option<&str>) -> Result<Value> {
        let wanted = agent.map(|a| kernel.agents().id(a)).transpose()?;
        let mut rows = Vec::new();
        let agents = self.agents();
        for (id, spec) in kernel.agents().specs() {
            if wanted.as_ref().is_some_and(|w| *w != id) {
                continue;
            }
            for series in agents.get(id.as_str()).into_iter().flatten() {
                if let Some((time_ms, value)) = series.recent.last() {
                    rows.push(json!({"agent": spec.name, "id": id, "name": &*series.name, "unit": unit(&series.name),
                        "value": value, "time_ms": time_ms}));
                }
            }
        }
        Ok(Value::Array(rows))
    }

    /// Series over a span: `{since_ms, until_ms, step_ms, series: [{label, agent, id, name, unit, count, min,
    /// avg, max, last, points}]}`. A point is `[time_ms, value]`, or with a step `[time_ms, avg, min, max]`.
    ///
    /// # Errors
    /// `not-found` for an unknown agent or metric, `invalid-argument` for a span that ends before it begins.
    pub(crate) async fn query(&self, kernel: &Kernel, query: Query) -> Result<Value> {
        let until_ms = query.until_ms.unwrap_or_else(|| kernel.clock().wall_ms());
        let since_ms =
            query.since_ms.unwrap_or_else(|| until_ms.saturating_sub(DEFAULT_SPAN.as_millis() as u64));
        if since_ms > until_ms {
            return Err(Error::argument("since", "is after the end of the span"));
        }
        let names: HashMap<String, String> =
            kernel.agents().specs().into_iter().map(|(id, spec)| (id, spec.name.clone())).collect();
        let agent = match &query.agent {
            None => None,
            Some(agent) => Some(kernel.agents().id(agent)?),
        };
        let span = Span { name: query.name, agent, since_ms, until_ms, step: query.step };
        let (found, step) = match self.in_memory(&span) {
            Some(found) => (found, span.step),
            None => self.in_store(kernel, span.clone()).await?,
        };
        if found.is_empty()
            && let Some(name) = &span.name
        {
            self.refuse_unknown(kernel, name).await?;
        }
        let series: Vec<Value> = found
            .into_iter()
            .filter_map(|(id, name, points)| {
                // One that was destroyed has its id left.
                let agent = names.get(&id).unwrap_or(&id);
                let mut row = json!({"label": format!("{agent} {name}"), "agent": agent, "id": id, "name": name, "unit": unit(&name)});
                row.as_object_mut()?.append(points.finish()?.as_object_mut()?);
                Some(row)
            })
            .collect();
        let step_ms = step.map(|s| s.as_millis() as u64);
        Ok(json!({"since_ms": since_ms, "until_ms": until_ms, "step_ms": step_ms, "series": series}))
    }

    /// The answer from memory, if all of it is there: of one agent, for a short while.
    fn in_memory(&self, span: &Span) -> Option<Vec<(String, String, Points)>> {
        let agent = span.agent.as_deref()?;
        let agents = self.agents();
        let wanted = |s: &&Named| span.name.as_ref().is_none_or(|name| **name == *s.name);
        let mut series: Vec<&Named> = agents.get(agent)?.iter().filter(wanted).collect();
        if series.is_empty() || !series.iter().all(|s| s.recent.reaches(span.since_ms)) {
            return None;
        }
        series.sort_by(|a, b| a.name.cmp(&b.name));
        let points = |s: &Named| {
            let mut points = Points::new(span.step);
            s.recent.between(span.since_ms, span.until_ms).for_each(|(t, v)| points.add(t, v));
            points
        };
        Some(series.iter().map(|s| (agent.to_owned(), s.name.to_string(), points(s))).collect())
    }

    async fn in_store(&self, kernel: &Kernel, span: Span) -> Result<history::Found> {
        // Samples are posted: those of a moment ago belong to the answer. A disk that fails does not take
        // the older ones away.
        let _ = kernel.store().flush().await;
        kernel.store().read(move |c| history::read(c, &span)).await
    }

    async fn refuse_unknown(&self, kernel: &Kernel, name: &str) -> Result<()> {
        let mut known: Vec<String> =
            kernel.store().read(history::names).await?.into_iter().map(|(n, _)| n).collect();
        known.extend(KNOWN.iter().map(|(n, ..)| (*n).to_owned()));
        if known.iter().any(|k| k == name) {
            return Ok(());
        }
        known.sort_unstable();
        known.dedup();
        Err(Error::not_found("metric", name).hint(format!("there are: {}", known.join(", "))))
    }

    fn agents(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Named>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
