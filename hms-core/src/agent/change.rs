//! Changes of the set of agents and of what they are meant to be: each runs to its end, whatever becomes of
//! who asked for it. A caller that goes in the middle must not leave half a change behind.

use std::future::Future;

use serde_json::Value;
use tokio::sync::oneshot;

use super::{AgentSpec, Agents, Create, Stop};
use crate::{Error, Result, contain::contained};

impl Agents {
    /// Creates an agent and, when it is meant to run, starts it. Durable when this returns.
    ///
    /// Errors: `invalid-config`, `invalid-argument` (name, references), `already-exists`,
    /// `type-unavailable`; with `must_start` also whatever kept it from starting. An error leaves
    /// nothing behind.
    pub async fn create(&self, spec: AgentSpec, how: Create) -> Result<Value> {
        self.whole(|agents| async move { agents.create_now(spec, how).await }).await
    }

    /// Changes an agent to `spec` (its name stays); a changed configuration starts a new life.
    pub async fn update(&self, id_or_name: &str, spec: AgentSpec) -> Result<Value> {
        let name = id_or_name.to_owned();
        self.whole(|agents| async move { agents.update_now(&name, spec).await }).await
    }

    /// Ends an agent and forgets it, its files and its state.
    pub async fn destroy(&self, id_or_name: &str) -> Result<Value> {
        let name = id_or_name.to_owned();
        self.whole(|agents| async move { agents.destroy_now(&name).await }).await
    }

    /// Starts a stopped, failed or quarantined agent, and its being meant to run is kept.
    pub async fn start(&self, id_or_name: &str) -> Result<Value> {
        let name = id_or_name.to_owned();
        self.whole(|agents| async move { agents.start_now(&name).await }).await
    }

    /// Stops an agent (its children first); it stays stopped until it is started.
    pub async fn stop(&self, id_or_name: &str, how: Stop) -> Result<Value> {
        let name = id_or_name.to_owned();
        self.whole(|agents| async move { agents.stop_now(&name, how).await }).await
    }

    /// Runs `change` in a task of its own and waits for it.
    async fn whole<F>(&self, change: impl FnOnce(Self) -> F) -> Result<Value>
    where
        F: Future<Output = Result<Value>> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let change = change(self.clone());
        self.spawn(async move {
            let _ = tx.send(contained(change).await.and_then(|r| r));
        });
        rx.await.unwrap_or_else(|_| Err(Error::internal("the runtime ended in the middle of a change")))
    }
}
