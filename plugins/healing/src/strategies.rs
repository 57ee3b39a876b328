//! The rungs that come with the organ: restart, reset, quarantine, escalate; `command` has a file of its own.

use async_trait::async_trait;
use hms_core::{
    Error, Kernel, Result,
    agent::{RestartRequest, Restarted},
    plugin::Registrar,
    service::Service,
};
use serde_json::{Value, json};

use crate::{
    command_rung,
    ladder::{self, Request},
};

use std::sync::Arc;

/// Causes of agents that no longer listen: asking such a one to end only costs time.
const DEAF: [&str; 9] = [
    "liveness",
    "health-check",
    "hang",
    "hung",
    "watchdog",
    "heartbeat",
    "unresponsive",
    "timeout",
    "no-progress",
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Restart,
    Reset,
    Command,
    Quarantine,
    Escalate,
}

const ALL: [(Kind, &str, &str); 5] = [
    (Kind::Restart, "restart", "restarts the agent: asks it to end, or kills it when it hangs"),
    (Kind::Reset, "reset", "restarts the agent and forgets its kept state"),
    (Kind::Command, "command", "runs the configured command, with the incident in HMS_INCIDENT"),
    (Kind::Quarantine, "quarantine", "takes the agent out of service until somebody starts it"),
    (Kind::Escalate, "escalate", "tells that a person is needed"),
];

struct BuiltIn {
    kernel: Kernel,
    kind: Kind,
}

/// Registers the strategies.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    for (kind, name, summary) in ALL {
        to.service(ladder::spec(name, summary), Arc::new(BuiltIn { kernel: to.kernel().clone(), kind }))?;
    }
    Ok(())
}

#[async_trait]
impl Service for BuiltIn {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        if method != "apply" {
            return Err(Error::not_found("method of a healing strategy", method));
        }
        let request = Request::read(args)?;
        match self.kind {
            Kind::Restart => self.restart(&request, false).await,
            Kind::Reset => self.restart(&request, true).await,
            Kind::Command => command_rung::run(&self.kernel, &request).await,
            Kind::Quarantine => {
                self.kernel.agents().quarantine(&request.id, &request.reason()).await?;
                Ok(json!({"result": "contained", "detail": request.reason()}))
            }
            // The engine tells of every escalation, however it came about.
            Kind::Escalate => Ok(json!({"result": "escalated"})),
        }
    }
}

impl BuiltIn {
    async fn restart(&self, request: &Request, reset: bool) -> Result<Value> {
        let code = request.incident.cause_code.as_str();
        let kill = DEAF.contains(&code);
        let restart = RestartRequest {
            reason: request.reason(),
            by: "healing".into(),
            reset,
            kill,
            if_incarnation: request.incarnation,
        };
        match self.kernel.agents().restart(&request.id, restart).await? {
            Restarted::Done { .. } if kill => {
                Ok(json!({"result": "applied", "detail": "killed: it did not answer"}))
            }
            Restarted::Done { .. } => Ok(json!({"result": "applied"})),
            Restarted::Superseded { incarnation } => Ok(json!({
                "result": "superseded",
                "detail": format!("life {incarnation} of `{}` is not the one that fell ill", request.agent),
            })),
        }
    }
}
