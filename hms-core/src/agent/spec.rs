//! What an agent is meant to be: its specification, as a user writes it and the store keeps it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    Error, ErrorKind, Result,
    supervision::{RestartPolicy, Strategy},
};

/// How and how often an agent's health is checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Time between checks; unset means the system's default. At least 100 ms.
    #[serde(with = "crate::duration::option", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// A check that takes longer counts as failed.
    #[serde(with = "crate::duration::text")]
    pub timeout: Duration,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { interval: None, timeout: Duration::from_secs(5) }
    }
}

/// Whether an agent should be running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    /// It should run.
    #[default]
    Running,
    /// It should not.
    Stopped,
}

impl Desired {
    /// The word that JSON shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}

/// The specification of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// Unique among living agents; lower-case letters, digits, `-`, `_` and `.`.
    #[serde(default)]
    pub name: String,
    /// The agent type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Configuration, as the type's schema wants it.
    #[serde(default = "empty")]
    pub config: Value,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Names or ids of agents that must be ready first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// Name or id of the supervising agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How it treats its own children.
    #[serde(default)]
    pub strategy: Strategy,
    /// When it is restarted.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How its health is checked.
    #[serde(default)]
    pub health: HealthCheck,
    /// How it is healed, where it differs from the system's configuration.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub healing: Map<String, Value>,
    /// Whether it should be running.
    #[serde(default)]
    pub desired: Desired,
    /// How many messages may wait; more are refused and counted.
    #[serde(default = "mailbox")]
    pub mailbox: usize,
}

fn empty() -> Value {
    Value::Object(Map::new())
}

fn mailbox() -> usize {
    256
}

impl AgentSpec {
    /// A specification of type `kind`, everything else by default.
    pub fn new(name: &str, kind: &str, config: Value) -> Self {
        Self {
            name: name.into(),
            kind: kind.into(),
            config,
            labels: BTreeMap::new(),
            depends_on: Vec::new(),
            parent: None,
            strategy: Strategy::default(),
            restart: RestartPolicy::default(),
            health: HealthCheck::default(),
            healing: Map::new(),
            desired: Desired::Running,
            mailbox: mailbox(),
        }
    }

    /// Reads a specification; errors name the key.
    pub fn from_json(value: Value) -> Result<Self> {
        serde_json::from_value(value)
            .map_err(|e| Error::new(ErrorKind::InvalidConfig, format!("agent specification: {e}")))
    }

    /// Checks what needs no other agent and no type.
    pub fn validate(&self) -> Result<()> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > 63 || !self.name.chars().all(fits) {
            return Err(Error::argument("name", format_args!("`{}` is not a name", self.name))
                .hint("use 1 to 63 of: a-z 0-9 - _ ."));
        }
        if let Some(interval) = self.health.interval
            && interval < Duration::from_millis(100)
        {
            return Err(Error::argument("health.interval", "is shorter than 100ms"));
        }
        if self.mailbox == 0 || self.mailbox > 65_536 {
            return Err(Error::argument("mailbox", "is not between 1 and 65536"));
        }
        let b = &self.restart.backoff;
        if !(b.factor.is_finite() && b.factor >= 1.0 && (0.0..=1.0).contains(&b.jitter)) {
            return Err(Error::argument(
                "restart.backoff",
                "factor must be at least 1 and jitter between 0 and 1",
            ));
        }
        Ok(())
    }
}

/// The properties of a specification that a command takes beside the type's own configuration.
pub fn common_schema() -> Value {
    let duration = |about: &str, default: &str| json!({"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": about, "default": default});
    json!({
        "name": {"type": "string", "x-short": "n", "description": "unique name (a-z 0-9 - _ .); made up when missing"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}, "description": "free labels"},
        "depends_on": {"type": "array", "items": {"type": "string"}, "description": "agents that must be ready first"},
        "parent": {"type": "string", "description": "supervising agent"},
        "strategy": {"enum": ["one-for-one", "one-for-all", "rest-for-one"], "description": "how it treats its own children (default one-for-one)"},
        "restart": {"type": "object", "additionalProperties": false, "description": "when it is restarted", "properties": {
            "policy": {"enum": ["permanent", "transient", "temporary"], "description": "which exits are followed by a restart (default permanent)"},
            "intensity": {"type": "object", "additionalProperties": false, "description": "how many restarts are too many", "properties": {
                "max": {"type": "integer", "minimum": 0, "description": "restarts allowed within the window before it is quarantined; 0: no limit (default 5)"},
                "window": duration("the window", "1m")}},
            "backoff": {"type": "object", "additionalProperties": false, "description": "delays between restarts", "properties": {
                "initial": duration("delay of the second restart in a row; 0: none", "100ms"),
                "max": duration("longest delay", "30s"),
                "factor": {"type": "number", "minimum": 1, "description": "growth of the delay (default 2)"},
                "jitter": {"type": "number", "minimum": 0, "maximum": 1, "description": "part of the delay left to chance (default 0.2)"},
                "reset_after": duration("healthy for this long, and the next restart is immediate again", "10s")}}
        }},
        "health": {"type": "object", "additionalProperties": false, "description": "how its health is checked", "properties": {
            "interval": {"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": "time between health checks, at least 100ms (default: monitoring.interval)"},
            "timeout": duration("a check that takes longer has failed", "5s")}},
        "healing": {"type": "object", "description": "healing settings that differ from the system's"},
        "desired": {"enum": ["running", "stopped"], "description": "whether it should run (default running)"},
        "mailbox": {"type": "integer", "minimum": 1, "maximum": 65536, "description": "messages that may wait (default 256); a change of it holds from the next start of the host"}
    })
}
