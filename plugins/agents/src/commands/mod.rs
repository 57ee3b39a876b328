//! The commands that manage agents: `agent …`, and the declarative `up` and `down`.
//!
//! Handlers stay thin: they turn arguments into calls of the kernel and the answers into stable JSON. What
//! agents do is in their types, and how results are drawn is in the views.

mod act;
mod agent;
mod declare;
mod graph;
mod logs;
mod order;
mod place;
mod ready;
#[cfg(test)]
mod tests;

use std::time::Duration;

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    command::{CommandContext, CommandSpec},
    plugin::Registrar,
};
use serde_json::{Map, Value, json};

/// How long the healing organ may take to look at a piece of configuration.
const ASK: Duration = Duration::from_secs(5);

/// Registers every command of this organ.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    agent::register(to)?;
    act::register(to)?;
    graph::register(to)?;
    logs::register(to)?;
    declare::register(to)
}

/// Marks a command whose agents inherit the environment of whoever runs it: front ends then send it.
fn with_caller_env(mut spec: CommandSpec) -> CommandSpec {
    spec.args["x-caller-env"] = true.into();
    spec
}

/// The schema of an option that takes a duration.
fn duration(about: &str, default: &str) -> Value {
    json!({"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": about, "default": default})
}

/// Who runs a command, for messages and history.
fn source(cx: &CommandContext) -> String {
    if cx.caller.source.is_empty() { "user".into() } else { cx.caller.source.clone() }
}

/// The row of one agent, as `agent list` shows it.
fn row(kernel: &Kernel, id_or_name: &str) -> Result<Value> {
    let id = kernel.agents().id(id_or_name)?;
    let rows = kernel.agents().list();
    rows.into_iter().find(|r| r["id"] == id.as_str()).ok_or_else(|| Error::not_found("agent", id_or_name))
}

/// Lets the healing organ, where it is there, check healing settings before an agent gets them.
async fn check_healing(kernel: &Kernel, healing: &Map<String, Value>) -> Result<()> {
    if healing.is_empty() {
        return Ok(());
    }
    let Ok(service) = kernel.services().find("hms.healing") else { return Ok(()) };
    service.call("check_config", json!({"healing": healing}), ASK).await.map(drop).map_err(|mut e| {
        if e.kind == ErrorKind::InvalidArgument {
            e.kind = ErrorKind::InvalidConfig;
        }
        e
    })
}
