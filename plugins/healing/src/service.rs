//! The service `hms.healing`: what other organs, plugins and languages ask of healing.

use std::sync::Arc;

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Result,
    agent::Health,
    service::{Service, ServiceSpec},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{commands::check_for, director, engine::Engine};

/// Incidents that `history` returns when no number is asked for.
pub(crate) const DEFAULT_LIMIT: usize = 50;

pub(crate) fn spec() -> ServiceSpec {
    ServiceSpec::new("hms.healing", "1.0.0", "incidents and their healing")
        .method("active", "the open incidents, newest first")
        .method("history", "incidents, newest first: {agent?, limit?}")
        .method(
            "trigger",
            "opens (or joins) an incident: {agent, reason?, rung?}; answers {incident, joined}",
        )
        .method("check_config", "validates the `healing` map of an agent: {healing}")
        .method(
            "heal_agent",
            "reports an agent's health: {agent, health}; answers {incident}, null when none was called for",
        )
}

pub(crate) struct Healing(pub(crate) Arc<Engine>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    agent: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trigger {
    agent: String,
    reason: Option<String>,
    rung: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckConfig {
    #[serde(default)]
    healing: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HealAgent {
    agent: String,
    health: Health,
}

#[async_trait]
impl Service for Healing {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        let engine = &self.0;
        engine.kernel.require_open()?;
        match method {
            "active" => Ok(json!(engine.active())),
            "history" => {
                let History { agent, limit } = read(args)?;
                Ok(json!(engine.history(agent.as_deref(), limit.unwrap_or(DEFAULT_LIMIT)).await?))
            }
            "trigger" => {
                let Trigger { agent, reason, rung } = read(args)?;
                let (case, joined) = engine.trigger(&agent, reason, rung)?;
                Ok(json!({"incident": case.incident(), "joined": joined}))
            }
            "check_config" => {
                let CheckConfig { healing } = read(args)?;
                check_for(engine, &healing)?;
                Ok(json!({}))
            }
            "heal_agent" => {
                let HealAgent { agent, health } = read(args)?;
                let id = engine.kernel.agents().id(&agent)?;
                Ok(json!({"incident": director::report(engine, &id, &health)}))
            }
            other => Err(Error::not_found("method of service `hms.healing`", other)),
        }
    }
}

fn read<T: DeserializeOwned>(args: Value) -> Result<T> {
    let args = if args.is_null() { json!({}) } else { args };
    serde_json::from_value(args)
        .map_err(|e| Error::new(ErrorKind::InvalidArgument, format!("service `hms.healing`: {e}")))
}
