//! Messages to agents: tell and ask.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::{Result, clock::Mono};

/// A message: who sends it, what it says, by when it matters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who sends it: an agent's id, or a peer's name.
    pub source: String,
    /// What it says.
    pub body: Value,
    /// The agents that wait, up the chain of asks, for an answer to this message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

impl Message {
    /// A message from `source`.
    pub fn new(source: impl Into<String>, body: Value) -> Self {
        Self { source: source.into(), body, chain: Vec::new() }
    }
}

/// A message on its way, with where its answer goes.
pub(crate) struct Envelope {
    pub(crate) message: Message,
    pub(crate) deadline: Option<Mono>,
    pub(crate) reply: Option<oneshot::Sender<Result<Value>>>,
}
