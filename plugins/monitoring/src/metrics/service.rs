//! The service `hms.metrics`: what other organs, plugins and languages ask and record.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    service::{MethodSpec, Service, ServiceSpec},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Metrics, Query};
use crate::state::{Observation, Shared};

/// The service's id.
const ID: &str = "hms.metrics";

/// What the service is.
pub(crate) fn spec() -> ServiceSpec {
    let text = |about: &str| json!({"type": "string", "description": about});
    let time = |about: &str| json!({"type": "integer", "minimum": 0, "description": about});
    let agent = text("an agent, by id or name");
    let method = |summary: &str, properties: Value, required: &[&str]| MethodSpec {
        summary: summary.into(),
        args: hms_core::schema::object(properties, required),
    };
    let mut spec =
        ServiceSpec::new(ID, "1.0.0", "metrics of agents: the newest, their history, and one's own");
    spec.methods = [
        ("names", method("the metrics that there are", json!({}), &[])),
        ("latest", method("the newest sample of each metric", json!({"agent": agent}), &[])),
        (
            "query",
            method(
                "samples over a span of time",
                json!({
                    "name": text("the metric; all when missing"),
                    "agent": agent,
                    "since_ms": time("from when, in milliseconds since the Unix epoch (default: an hour before the end)"),
                    "until_ms": time("until when (default: now)"),
                    "step": text("mean, least and greatest value of each span this long, such as 1m"),
                }),
                &[],
            ),
        ),
        (
            "record",
            method(
                "adds a sample of now",
                json!({"name": text("the metric: letters, digits, `_`, `.` and `-`"), "agent": agent,
                    "value": {"type": "number", "description": "how much"}}),
                &["name", "agent", "value"],
            ),
        ),
    ]
    .map(|(name, method)| (name.to_owned(), method))
    .into();
    spec
}

/// What answers.
pub(crate) struct MetricsService {
    kernel: Kernel,
    shared: Arc<Shared>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Latest {
    agent: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    name: Option<String>,
    agent: Option<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    #[serde(default, with = "hms_core::duration::option")]
    step: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: String,
    agent: String,
    value: f64,
}

impl MetricsService {
    /// The service of this system.
    pub(crate) fn new(kernel: Kernel, shared: Arc<Shared>) -> Self {
        Self { kernel, shared }
    }

    async fn record(&self, record: Record) -> Result<Value> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if record.name.is_empty() || record.name.len() > 64 || !record.name.chars().all(legal) {
            let shown = record.name.escape_debug().to_string();
            return Err(Error::argument("name", format_args!("`{shown}` is not a metric's name"))
                .hint("use 1 to 64 letters, digits, `_`, `.` and `-`"));
        }
        if !record.value.is_finite() {
            return Err(Error::argument("value", "is not a finite number"));
        }
        let id = self.kernel.agents().id(&record.agent)?;
        let time_ms = self.kernel.clock().wall_ms();
        let (rows, outcome) = self.shared.metrics.take(&id, time_ms, &[(&record.name, record.value)]);
        outcome?;
        let settings = self.shared.settings.borrow().clone();
        let metric = rows.first().map(|row| row.name.clone());
        Metrics::post(&self.kernel, &settings, rows);
        if let Some(metric) = metric {
            self.shared.observe(vec![Observation { id, metric, value: record.value }]).await;
        }
        Ok(json!({"time_ms": time_ms}))
    }
}

#[async_trait]
impl Service for MetricsService {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        self.kernel.require_open()?;
        let metrics = &self.shared.metrics;
        match method {
            "names" => {
                read::<Nothing>(method, args)?;
                metrics.names(&self.kernel).await
            }
            "latest" => metrics.latest(&self.kernel, read::<Latest>(method, args)?.agent.as_deref()),
            "query" => {
                let Ask { name, agent, since_ms, until_ms, step } = read(method, args)?;
                metrics.query(&self.kernel, Query { name, agent, since_ms, until_ms, step }).await
            }
            "record" => self.record(read(method, args)?).await,
            other => Err(Error::not_found(&format!("method of service `{ID}`"), other)),
        }
    }
}

fn read<T: DeserializeOwned>(method: &str, args: Value) -> Result<T> {
    let args = if args.is_null() { json!({}) } else { args };
    serde_json::from_value(args).map_err(|e| {
        Error::new(ErrorKind::InvalidArgument, format!("method `{method}` of service `{ID}`: {e}"))
    })
}
