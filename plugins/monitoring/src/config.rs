//! The section `monitoring` of the configuration: what may be set, and what it means.

use std::{collections::HashSet, time::Duration};

use hms_core::{Error, ErrorKind, Kernel, Result, config::Section};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::alerts::Rule;

/// The name of the section.
pub(crate) const SECTION: &str = "monitoring";

/// No agent is checked more often than this.
pub(crate) const SHORTEST: Duration = Duration::from_millis(100);

/// The section, typed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Time between two checks of an agent that sets none itself.
    #[serde(with = "hms_core::duration::text")]
    pub(crate) interval: Duration,
    /// How many checks run at once.
    pub(crate) concurrency: usize,
    /// Time between two samples of the metrics.
    #[serde(with = "hms_core::duration::text")]
    pub(crate) sample_interval: Duration,
    /// How long samples are kept.
    #[serde(with = "hms_core::duration::text")]
    pub(crate) retention: Duration,
    /// How many samples are kept at most.
    pub(crate) max_samples: u64,
    /// Whether the built-in rules apply.
    pub(crate) default_alerts: bool,
    /// The user's rules.
    #[serde(default)]
    pub(crate) alerts: Vec<Rule>,
}

impl Default for Settings {
    /// What the schema says, which is the one place where defaults are written.
    fn default() -> Self {
        let mut values = json!({});
        hms_core::schema::fill_defaults(&schema(), &mut values);
        serde_json::from_value(values).expect("the schema's defaults are settings")
    }
}

impl Settings {
    /// What the configuration says now.
    ///
    /// # Errors
    /// `invalid-config` for what no schema can express: a rule's name that is there twice.
    pub(crate) fn read(kernel: &Kernel) -> Result<Self> {
        let settings: Self = kernel.section(SECTION)?;
        let mut names = HashSet::new();
        match settings.alerts.iter().find(|rule| !names.insert(rule.name.as_str())) {
            None => Ok(settings),
            Some(twice) => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("configuration section `{SECTION}`: there are two alerts called `{}`", twice.name),
            )
            .hint("give each `[[monitoring.alerts]]` a name of its own")),
        }
    }

    /// The rules in force. A user's rule takes the place of a built-in one of the same name.
    pub(crate) fn rules(&self) -> Vec<Rule> {
        let built_in = if self.default_alerts { Rule::built_in() } else { Vec::new() };
        let replaced = |rule: &Rule| self.alerts.iter().any(|mine| mine.name == rule.name);
        built_in.into_iter().filter(|rule| !replaced(rule)).chain(self.alerts.iter().cloned()).collect()
    }
}

/// The section and its schema.
pub(crate) fn section() -> Section {
    Section { name: SECTION.into(), schema: schema() }
}

fn schema() -> Value {
    let interval = |default: &str, about: &str| {
        json!({"type": "string", "format": "hms-interval", "default": default, "x-live": true, "x-value": "DURATION",
            "description": about})
    };
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "interval": interval("30s", "time between health checks of an agent that sets none itself; at least 100ms"),
            "concurrency": {"type": "integer", "minimum": 1, "maximum": 4096, "default": 64, "x-live": true,
                "description": "health checks that run at once; an agent is never checked twice at a time"},
            "sample_interval": interval("10s", "time between samples of the metrics; at least 100ms"),
            "retention": interval("24h", "how long samples of the metrics are kept"),
            "max_samples": {"type": "integer", "minimum": 1000, "default": 1_000_000, "x-live": true,
                "description": "how many samples are kept at most, of all agents together"},
            "default_alerts": {"type": "boolean", "default": true, "x-live": true,
                "description": "the built-in alerts: agent-critical (critical for 10s), agent-quarantined"},
            "alerts": {"type": "array", "default": [], "x-live": true, "items": rule_schema(),
                "description": "alert rules, each a [[monitoring.alerts]] with a name and a condition: \
                    metric + op + threshold, or health, or status"},
        },
    })
}

fn rule_schema() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 63, "description": "unique among the rules"},
            "agent": {"type": "string", "minLength": 1, "default": "*",
                "description": "agents that the rule is about, by name or id; * and ? stand for any characters"},
            "metric": {"type": "string", "minLength": 1, "description": "the metric that is compared"},
            "op": {"enum": [">", ">=", "<", "<="], "description": "how it is compared"},
            "threshold": {"type": "number", "description": "with what it is compared"},
            "health": {"enum": ["degraded", "critical"], "description": "holds when an agent is as ill as this, or worse"},
            "status": {"enum": ["waiting", "starting", "restarting", "failed", "quarantined"],
                "description": "holds while an agent is in this status"},
            "for": {"type": "string", "format": "hms-duration", "default": "0s",
                "description": "how long the condition must hold before the alert fires"},
            "severity": {"enum": ["info", "warning", "critical"], "default": "warning", "description": "how much it matters"},
        },
        "oneOf": [{"required": ["metric"]}, {"required": ["health"]}, {"required": ["status"]}],
        "dependentRequired": {"metric": ["op", "threshold"], "op": ["metric"], "threshold": ["metric"]},
    })
}
