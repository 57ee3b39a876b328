//! Agents whose behaviour runs in a peer.
//!
//! The peer offers the type (`type.register`); the host keeps the agents, supervises them and asks the peer to
//! start, handle, check, snapshot and stop each life. When the peer goes, its lives end without being
//! failures: the agents wait until somebody offers the type again, and resume there.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Connection;
use crate::{
    Error, ErrorKind, Result,
    agent::{
        AgentContext, Behaviour, BehaviourFactory, ExitReport, Health, Issue, Message, Snapshot, Started,
        Stop,
    },
};

/// How long a peer may take to start or to stop an agent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes behaviours that a peer runs.
pub(super) struct PeerType {
    pub(super) peer: Weak<Connection>,
}

impl BehaviourFactory for PeerType {
    fn create(&self, config: &Value) -> Result<Arc<dyn Behaviour>> {
        Ok(Arc::new(PeerAgent {
            peer: self.peer.clone(),
            config: config.clone(),
            life: std::sync::OnceLock::new(),
        }))
    }
}

struct PeerAgent {
    peer: Weak<Connection>,
    config: Value,
    /// Which life this is: set once, by `restore` or `start`.
    life: std::sync::OnceLock<Life>,
}

struct Life {
    id: String,
    incarnation: u64,
}

/// What a peer says of an agent that it runs.
#[derive(Deserialize)]
pub(super) struct Report {
    pub(super) id: String,
    pub(super) incarnation: u64,
    #[serde(flatten)]
    pub(super) what: What,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum What {
    Ready(bool),
    Exited(ExitReport),
    Health(Health),
}

impl Report {
    /// Hands the report to the agent's cell, which ignores it when it is of another life.
    pub(super) fn deliver(self, cx: &AgentContext) {
        let cx = cx.of_incarnation(self.incarnation);
        match self.what {
            What::Ready(true) => cx.ready(),
            What::Ready(false) => {}
            What::Exited(exit) => cx.exited(exit),
            What::Health(health) => cx.health(health),
        }
    }
}

/// A snapshot as the wire has it.
pub(super) fn snapshot_to_json(snapshot: &Snapshot) -> Value {
    json!({"state_version": snapshot.state_version, "data": BASE64_STANDARD.encode(&snapshot.data)})
}

pub(super) fn snapshot_from_json(value: &Value) -> Result<Snapshot> {
    let bad = |what: &str| Error::new(ErrorKind::InvalidArgument, format!("snapshot: {what}"));
    let version = value["state_version"].as_u64().and_then(|v| u32::try_from(v).ok());
    let data = value["data"].as_str().ok_or_else(|| bad("`data` is not text"))?;
    Ok(Snapshot {
        state_version: version.ok_or_else(|| bad("`state_version` is not a small whole number"))?,
        data: BASE64_STANDARD.decode(data).map_err(|_| bad("`data` is not base 64"))?,
    })
}

impl PeerAgent {
    fn peer(&self) -> Result<Arc<Connection>> {
        self.peer.upgrade().filter(|p| !p.is_closed()).ok_or_else(|| {
            Error::new(ErrorKind::TypeUnavailable, "the process that runs this agent has gone")
        })
    }

    async fn ask(&self, method: &str, mut params: Value, patience: Duration) -> Result<Value> {
        let peer = self.peer()?;
        if let Some(life) = self.life.get() {
            params["id"] = life.id.clone().into();
            params["incarnation"] = life.incarnation.into();
        }
        match tokio::time::timeout(patience, peer.request(method, params)).await {
            Ok(answer) if peer.is_closed() => answer.map_err(|_| {
                Error::new(ErrorKind::TypeUnavailable, "the process that runs this agent has gone")
            }),
            Ok(answer) => answer,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("the process that runs this agent did not answer `{method}` within {patience:?}"),
            )),
        }
    }
}

#[async_trait]
impl Behaviour for PeerAgent {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let _ = self.life.set(Life { id: cx.id().to_owned(), incarnation: cx.incarnation() });
        let snapshot = cx.kernel().agents().snapshot_of(cx.id());
        let params = json!({
            "name": cx.name(),
            "config": self.config,
            "snapshot": snapshot.as_ref().map(snapshot_to_json),
        });
        let answer = self.ask("agent.start", params, PATIENCE).await?;
        Ok(if answer["ready"].as_bool().unwrap_or(true) { Started::Ready } else { Started::Pending })
    }

    async fn handle(&self, _cx: &AgentContext, message: Message) -> Result<Value> {
        // The cell bounds how long a handler may take.
        self.ask("agent.handle", json!({"message": message}), Duration::MAX).await
    }

    async fn health(&self) -> Health {
        let asked = self.ask("agent.health", json!({}), PATIENCE).await;
        let told = asked.and_then(|health| {
            serde_json::from_value(health)
                .map_err(|e| Error::new(ErrorKind::Protocol, format!("not a health: {e}")))
        });
        told.unwrap_or_else(|e| match e.kind {
            // Nobody is there to ask: the agent is about to wait for another provider, not ill.
            ErrorKind::TypeUnavailable => Health::unknown(),
            _ => Health::of(vec![Issue::critical("health-check", e.message)]),
        })
    }

    fn needs_checks(&self) -> bool {
        true
    }

    fn is_attached(&self) -> bool {
        self.peer().is_ok()
    }

    fn facts(&self) -> Map<String, Value> {
        Map::new()
    }

    async fn stop(&self, how: Stop) -> Result<()> {
        if !self.is_attached() || self.life.get().is_none() {
            return Ok(());
        }
        let (word, patience) = match how {
            Stop::Graceful(deadline) => ("graceful", deadline.min(PATIENCE)),
            Stop::Kill => ("kill", Duration::from_secs(1)),
            Stop::Detach => ("detach", Duration::from_secs(1)),
        };
        match self.ask("agent.stop", json!({"how": word}), patience).await {
            Err(e) if how == Stop::Kill => {
                // What hangs in a peer cannot be killed from here; its life is over for us all the same.
                tracing::warn!(error = %e, "a peer did not stop an agent");
                Ok(())
            }
            Err(e) if e.kind == ErrorKind::TypeUnavailable => Ok(()),
            answer => answer.map(drop),
        }
    }

    async fn snapshot(&self) -> Option<Snapshot> {
        let answer = self.ask("agent.snapshot", json!({}), PATIENCE).await.ok()?;
        if answer.is_null() { None } else { snapshot_from_json(&answer).ok() }
    }
}
