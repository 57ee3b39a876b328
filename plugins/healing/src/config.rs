//! What may be configured: the section `healing` of the home, and the same settings per agent.
//!
//! An agent's `healing` map overrides the section key by key. Both are validated by schemas made of the same
//! properties, so that a key means the same in either place.

use std::{sync::LazyLock, time::Duration};

use hms_core::{
    Error, ErrorKind, Result,
    agent::HealthStatus,
    config::{Section, closest},
    duration,
    schema::{Schema, object},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The name of the section.
pub(crate) const SECTION: &str = "healing";

/// Keys of the section that concern the system as a whole and no single agent.
const SYSTEM_ONLY: [&str; 2] = ["concurrency", "history"];

/// How ill an agent has to be for an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    /// It works, but not as it should.
    Degraded,
    /// It does not do its work.
    Critical,
}

impl Level {
    /// The health at which an agent counts as ill.
    pub(crate) fn health(self) -> HealthStatus {
        match self {
            Self::Degraded => HealthStatus::Degraded,
            Self::Critical => HealthStatus::Critical,
        }
    }
}

/// How much healing may do to one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BudgetLimit {
    /// Actions allowed within the window.
    pub actions: u32,
    /// The window.
    #[serde(with = "duration::text")]
    pub window: Duration,
}

/// How one agent is healed: the section, overridden by the agent's own map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Whether incidents open by themselves.
    pub enabled: bool,
    /// The health that opens one.
    pub on: Level,
    /// Degraded for this long opens one too; zero: never.
    #[serde(with = "duration::text")]
    pub degraded_after: Duration,
    /// Whether a firing alert opens one.
    pub alerts: bool,
    /// Names of strategies, tried in this order.
    pub ladder: Vec<String>,
    /// How long an agent may take to become ready (and well) after a step.
    #[serde(with = "duration::text")]
    pub ready_timeout: Duration,
    /// How long it must then stay well.
    #[serde(with = "duration::text")]
    pub verify_window: Duration,
    /// Exits during the verification of one step that make it a failure; zero: supervision's restart
    /// intensity alone decides.
    pub max_exits: u32,
    /// How much may be done.
    pub budget: BudgetLimit,
    /// The argv of the rung `command`.
    pub command: Vec<String>,
    /// How long that command may take.
    #[serde(with = "duration::text")]
    pub command_timeout: Duration,
}

/// How long incidents are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    /// Closed incidents kept at most.
    pub max: u32,
    /// Older ones are forgotten.
    #[serde(with = "duration::text")]
    pub retention: Duration,
}

/// The section `healing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    /// What agents may override.
    #[serde(flatten)]
    pub settings: Settings,
    /// Actions at once, over all agents.
    pub concurrency: u32,
    /// How long incidents are kept.
    pub history: History,
}

fn properties() -> Value {
    let time = |default: &str, about: &str| json!({"type": "string", "format": "hms-duration", "x-value": "DURATION", "default": default, "x-live": true, "description": about});
    json!({
        "enabled": {"type": "boolean", "default": true, "x-live": true, "description": "whether incidents are opened and healed by themselves"},
        "on": {"enum": ["critical", "degraded"], "default": "critical", "x-live": true, "description": "the health that opens an incident"},
        "degraded_after": time("0s", "degraded for this long opens an incident too; 0: never"),
        "alerts": {"type": "boolean", "default": true, "x-live": true, "description": "whether a firing alert opens an incident"},
        "ladder": {"type": "array", "items": {"type": "string", "pattern": "^[a-z][a-z0-9-]*$"}, "minItems": 1, "maxItems": 32,
            "default": ["restart", "restart", "reset", "quarantine"], "x-live": true, "description": "what is tried, in this order, before somebody is told"},
        "ready_timeout": time("30s", "how long an agent may take to be ready and well after a step"),
        "verify_window": time("2s", "how long it must then stay well"),
        "max_exits": {"type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0, "x-live": true,
            "description": "exits while one step is verified that make it a failure; 0: the restart intensity decides alone"},
        "budget": {"type": "object", "additionalProperties": false, "description": "how much healing may do to one agent", "properties": {
            "actions": {"type": "integer", "minimum": 0, "maximum": 10_000, "default": 10, "x-live": true, "description": "actions within the window"},
            "window": time("10m", "the window")}},
        "command": {"type": "array", "items": {"type": "string", "minLength": 1}, "default": [], "x-live": true,
            "description": "program and arguments of the rung `command`; it finds the incident in HMS_INCIDENT"},
        "command_timeout": time("30s", "how long that command may take"),
        "concurrency": {"type": "integer", "minimum": 1, "maximum": 1024, "default": 8, "x-live": true, "description": "actions at once, over all agents"},
        "history": {"type": "object", "additionalProperties": false, "description": "how long incidents are kept", "properties": {
            "max": {"type": "integer", "minimum": 1, "default": 10_000, "x-live": true, "description": "closed incidents kept at most"},
            "retention": time("90d", "older ones are forgotten")}}
    })
}

/// The section, for the manifest.
pub(crate) fn section() -> Section {
    Section { name: SECTION.into(), schema: object(properties(), &[]) }
}

/// The schema of an agent's `healing` map: without defaults, which are the section's values.
pub(crate) fn agent_schema() -> Value {
    let mut schema = object(properties(), &[]);
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.retain(|key, _| !SYSTEM_ONLY.contains(&key.as_str()));
    }
    strip_defaults(&mut schema);
    schema
}

fn strip_defaults(schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for property in properties.values_mut() {
        if let Some(property) = property.as_object_mut() {
            property.shift_remove("default");
        }
        strip_defaults(property);
    }
}

/// Checks the keys and values of an agent's `healing` map, whatever the system's configuration.
///
/// # Errors
/// `invalid-config` that names the key, for an unknown key (with what was probably meant) or a value that
/// does not fit.
pub fn validate(healing: &Map<String, Value>) -> Result<()> {
    static SCHEMA: LazyLock<Result<Schema>> = LazyLock::new(|| Schema::compile(&agent_schema()));
    let schema = SCHEMA.as_ref().map_err(Clone::clone)?;
    let known = schema.raw()["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str);
    let known: Vec<&str> = known.collect();
    if let Some(key) = healing.keys().find(|key| !known.contains(&key.as_str())) {
        let e = Error::new(ErrorKind::InvalidConfig, format!("healing settings: unknown key `{key}`"));
        return Err(match closest(key, known.iter().copied()) {
            Some(near) => e.hint(format!("did you mean `{near}`?")),
            None => e.hint(format!("known keys: {}", known.join(", "))),
        });
    }
    schema.check("healing settings", ErrorKind::InvalidConfig, &mut Value::Object(healing.clone()))
}

impl Settings {
    /// These settings with an agent's own map on top.
    ///
    /// # Errors
    /// As [`validate`]; also for a ladder with the rung `command` when there is no command.
    pub(crate) fn with(&self, healing: &Map<String, Value>) -> Result<Self> {
        if healing.is_empty() {
            return Ok(self.clone());
        }
        validate(healing)?;
        let mut merged = json!(self);
        for (key, value) in healing {
            match (&mut merged[key], value) {
                (Value::Object(below), Value::Object(above)) => below.extend(above.clone()),
                (below, above) => *below = above.clone(),
            }
        }
        let settings: Self = serde_json::from_value(merged)
            .map_err(|e| Error::new(ErrorKind::InvalidConfig, format!("healing settings: {e}")))?;
        settings.check_command()?;
        Ok(settings)
    }

    fn check_command(&self) -> Result<()> {
        if self.command.is_empty() && self.ladder.iter().any(|rung| rung == "command") {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                "healing settings: `ladder` has the rung `command`, and there is none",
            )
            .hint("set `command` to a program and its arguments"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults() -> Config {
        let mut value = json!({});
        let schema = Schema::compile(&section().schema).expect("the section's schema compiles");
        schema.check("healing", ErrorKind::InvalidConfig, &mut value).expect("the defaults are valid");
        value["budget"] = json!({"actions": 10, "window": "10m"});
        value["history"] = json!({"max": 10, "retention": "90d"});
        serde_json::from_value(value).expect("the defaults fit the type")
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn an_agents_map_overrides_key_by_key() {
        let base = defaults().settings;
        let own = base.with(&map(json!({"verify_window": "5s", "budget": {"actions": 3}}))).unwrap();
        assert_eq!(own.verify_window, Duration::from_secs(5));
        assert_eq!(own.budget, BudgetLimit { actions: 3, window: Duration::from_secs(600) });
        assert_eq!(own.ladder, base.ladder);
    }

    #[test]
    fn errors_name_the_key() {
        let base = defaults().settings;
        for (healing, words) in [
            (json!({"verify_windw": "5s"}), "unknown key `verify_windw`"),
            (json!({"verify_window": 5}), "`verify_window`"),
            (json!({"verify_window": "soon"}), "`verify_window`"),
            (json!({"budget": {"actions": -1}}), "`budget.actions`"),
            (json!({"concurrency": 2}), "unknown key `concurrency`"),
            (json!({"ladder": []}), "`ladder`"),
            (json!({"ladder": ["command"]}), "`ladder` has the rung `command`"),
        ] {
            let e = base.with(&map(healing.clone())).unwrap_err();
            assert!(e.message.contains(words), "{healing}: {e}");
            assert_eq!(e.kind, ErrorKind::InvalidConfig, "{healing}");
        }
        let e = validate(&map(json!({"verify_windw": "5s"}))).unwrap_err();
        assert_eq!(e.hint.as_deref(), Some("did you mean `verify_window`?"));
    }
}
