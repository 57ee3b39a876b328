//! What a behaviour knows of its agent and its world.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    ExitReport, Health, Message, Snapshot,
    shared::{Control, Shared},
};
use crate::{Kernel, Result, event::EventDraft};

/// Handed to a behaviour for one life of its agent. Cheap to clone; outdated ones are harmless: what an
/// earlier life says is ignored.
#[derive(Clone)]
pub struct AgentContext {
    kernel: Kernel,
    shared: Arc<Shared>,
    incarnation: u64,
}

impl AgentContext {
    pub(crate) fn new(kernel: Kernel, shared: Arc<Shared>, incarnation: u64) -> Self {
        Self { kernel, shared, incarnation }
    }

    /// The agent's id.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The agent's name.
    pub fn name(&self) -> String {
        self.shared.name()
    }

    /// This life's number; it grows with every start.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The same agent's context for another life: for a behaviour that adopts what an earlier host started.
    #[must_use]
    pub fn of_incarnation(&self, incarnation: u64) -> Self {
        Self { incarnation, ..self.clone() }
    }

    /// The folder of this agent's files. It exists.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The environment of whoever created the agent, where it was kept.
    pub fn inherited_env(&self) -> Option<Arc<BTreeMap<String, String>>> {
        self.shared.env.clone()
    }

    /// The system this agent lives in.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The agent does its work now.
    pub fn ready(&self) {
        self.shared.tell_cell(Control::Ready { incarnation: self.incarnation });
    }

    /// The agent came to its end. Supervision decides what follows.
    pub fn exited(&self, exit: ExitReport) {
        self.shared.tell_cell(Control::Exited { incarnation: self.incarnation, exit });
    }

    /// The agent's health changed.
    pub fn health(&self, health: Health) {
        self.shared.tell_cell(Control::Health { incarnation: self.incarnation, health });
    }

    /// Publishes an event about this agent.
    pub fn publish(&self, kind: &str, data: Value) {
        let draft = EventDraft::json(kind, data).subject(self.id()).source(format!("/agents/{}", self.id()));
        self.kernel.publish(draft);
    }

    /// Keeps a state for the next life. Returns when it is durable.
    pub async fn save(&self, snapshot: Snapshot) -> Result<()> {
        self.kernel.agents().save_snapshot(self.id(), snapshot).await
    }

    /// Asks another agent while handling `message` (whose chain of asks it joins, so that a cycle is an
    /// error instead of a deadlock).
    pub async fn ask(
        &self,
        message: &Message,
        target: &str,
        body: Value,
        deadline: Duration,
    ) -> Result<Value> {
        let mut chain = message.chain.clone();
        chain.push(self.id().to_owned());
        let next = Message { source: self.id().to_owned(), body, chain };
        self.kernel.agents().ask(target, next, deadline).await
    }

    /// Tells another agent.
    pub fn tell(&self, target: &str, body: Value) -> Result<()> {
        self.kernel.agents().tell(target, Message::new(self.id(), body))
    }
}
