//! In the host: hears what sessions of Codex tell, finds the calls that failed, and asks healing to act.
//!
//! Publishes `codex.tool.failed` {session, turn, server, tool, tool_use, kind, error, in_a_row}. When calls of one
//! server fail `codex.heal_after` times in a row for want of the server, the agent of that server, if there is one,
//! is healed through the service `hms.healing`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use hms_core::{
    Kernel, Result,
    agent::AgentSpec,
    event::{EventDraft, Subscribe, Subscription},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    config::{Config, SECTION},
    failures::{Answer, Failure, Question, Sessions},
    transcript,
};

/// Events taken at once.
const BATCH: usize = 256;
/// How long healing may take to accept a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Hears from now on.
///
/// # Errors
/// When the bus is closed.
pub(crate) fn subscribe(kernel: &Kernel) -> Result<Subscription> {
    kernel.bus().subscribe(Subscribe::to(["codex.tool.*", "codex.turn.*", "codex.session.ended"]))
}

/// Watches until the end.
pub(crate) async fn run(kernel: Kernel, events: Subscription, mut stopped: watch::Receiver<bool>) {
    let mut sessions = Sessions::default();
    loop {
        let batch = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            batch = events.next_batch(BATCH) => match batch {
                Some(batch) => batch,
                None => return,
            },
        };
        for event in &batch.events {
            let data = event.data.as_json().unwrap_or(&Value::Null);
            if let Some(question) = sessions.hear(event.kind.as_str(), data) {
                let answers = look(&question).await;
                for failure in sessions.answered(&question, &answers) {
                    tell(&kernel, &failure);
                    if heal(&kernel, &failure).await {
                        sessions.forgive(&failure.call.server);
                    }
                }
            }
        }
    }
}

async fn look(question: &Question) -> BTreeMap<String, Answer> {
    let (path, calls) = (PathBuf::from(&question.transcript), question.calls.clone());
    let looked = tokio::task::spawn_blocking(move || transcript::ask(&path, &calls)).await;
    match looked {
        Ok(Ok(answers)) => answers,
        Ok(Err(e)) => {
            tracing::debug!(error = %e, transcript = question.transcript, "a session's transcript cannot be read");
            BTreeMap::new()
        }
        Err(e) => {
            tracing::warn!(error = %e, "reading a session's transcript failed");
            BTreeMap::new()
        }
    }
}

fn tell(kernel: &Kernel, failure: &Failure) {
    let call = &failure.call;
    let data = json!({
        "session": failure.session, "turn": call.turn, "server": call.server, "tool": call.tool,
        "tool_use": call.id, "kind": failure.kind, "error": failure.error, "in_a_row": failure.in_a_row,
    });
    let event =
        EventDraft::json("codex.tool.failed", data).subject(call.server.clone()).source("/clients/codex");
    kernel.publish(event);
}

/// Asks healing to act on the server's agent when it is time; whether it was asked.
async fn heal(kernel: &Kernel, failure: &Failure) -> bool {
    let after = match kernel.section::<Config>(SECTION) {
        Ok(config) => config.heal_after,
        Err(e) => {
            tracing::warn!(error = %e, "the section `codex` cannot be read");
            return false;
        }
    };
    if after == 0 || failure.in_a_row < after {
        return false;
    }
    let server = &failure.call.server;
    let specs = kernel.agents().specs();
    let Some((_, spec)) = specs.iter().find(|(_, spec)| stands_for(spec, server)) else { return false };
    let agent = spec.name.as_str();
    let reason = format!("{} calls in a row failed in Codex: {}", failure.in_a_row, failure.error);
    let Ok(healing) = kernel.services().find("hms.healing") else { return false };
    match healing.call("trigger", json!({"agent": agent, "reason": reason}), PATIENCE).await {
        Ok(_) => true,
        Err(e) => {
            tracing::warn!(error = %e, agent, "healing does not take the failures of a server");
            false
        }
    }
}

/// The label by which an agent is declared to be the MCP server that its value names.
const LABEL: &str = "mcp";

/// Whether an agent is the server that Codex calls `server`: it is a wrapped server of that name, or was labelled so.
/// An equal name alone says nothing: whoever adds a server "postgres" to Codex does not mean that the failures of its
/// calls restart the database. Codex writes `_` for what may not be in a tool's name.
fn stands_for(spec: &AgentSpec, server: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace(['-', '.', ' '], "_");
    let (name, server) = (plain(&spec.name), plain(server));
    if spec.labels.get(LABEL).is_some_and(|label| plain(label) == server) {
        return true;
    }
    let Some(rest) = name.strip_prefix("mcp_").filter(|_| spec.kind == "mcp-server") else { return false };
    let number = rest.strip_prefix(&server).map(|rest| rest.strip_prefix('_').unwrap_or(rest));
    number.is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_known_as_a_server() {
        let spec = |kind: &str, name: &str| AgentSpec::new(name, kind, json!({}));
        for name in ["mcp-my-git", "mcp-my-git-2"] {
            assert!(stands_for(&spec("mcp-server", name), "my_git"), "{name}");
        }
        for (kind, name) in [
            ("process", "mcp-my-git"),
            ("process", "my_git"),
            ("mcp-server", "mcp-my-github"),
            ("mcp-server", "mcp-git"),
        ] {
            assert!(!stands_for(&spec(kind, name), "my_git"), "{name}");
        }
        let mut labelled = spec("process", "database");
        labelled.labels.insert(LABEL.into(), "my-git".into());
        assert!(stands_for(&labelled, "my_git"));
    }
}
