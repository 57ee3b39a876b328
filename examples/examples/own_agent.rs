//! An agent type of one's own, in a plugin of one's own, beside the built-in ones.
//!
//! The type is `counter`: an agent that adds up what it is told, answers when it is asked, and keeps its total
//! over restarts. The built-in organs come in through the same door as this plugin, and have no other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Result,
    agent::{AgentContext, AgentTypeSpec, Behaviour, Message, Snapshot, Started},
    plugin::{Manifest, Plugin, Registrar},
};
use hms_runtime::System;
use serde::Deserialize;
use serde_json::{Value, json};

/// Grows when the form of [`Counter::snapshot`] changes.
const STATE_VERSION: u32 = 1;

struct Counter {
    total: AtomicI64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    /// `{"add": 5}`
    Add(i64),
    /// `"total"`
    Total,
}

#[async_trait]
impl Behaviour for Counter {
    async fn start(&self, _cx: &AgentContext) -> Result<Started> {
        Ok(Started::Ready)
    }

    /// Answers an ask; of a tell the answer is dropped. Never called twice at a time.
    async fn handle(&self, cx: &AgentContext, message: Message) -> Result<Value> {
        let request = serde_json::from_value(message.body).map_err(|e| {
            Error::new(ErrorKind::InvalidArgument, format!("`{}` does not take that: {e}", cx.name()))
        })?;
        match request {
            Request::Add(n) => {
                let total = self.total.fetch_add(n, Ordering::Relaxed) + n;
                cx.publish("counter.changed", json!({"total": total}));
            }
            Request::Total => {}
        }
        Ok(json!({"total": self.total.load(Ordering::Relaxed)}))
    }

    /// Taken when the agent is stopped; kept in the home.
    async fn snapshot(&self) -> Option<Snapshot> {
        let data = self.total.load(Ordering::Relaxed).to_le_bytes().to_vec();
        Some(Snapshot { state_version: STATE_VERSION, data })
    }

    /// Called before `start` of the next life.
    async fn restore(&self, snapshot: Snapshot) -> Result<()> {
        if snapshot.state_version != STATE_VERSION {
            let why = format!("no state of version {} can be read", snapshot.state_version);
            return Err(Error::new(ErrorKind::VersionMismatch, why));
        }
        let data = snapshot.data.try_into().map_err(|_| Error::internal("a total has 8 bytes"))?;
        self.total.store(i64::from_le_bytes(data), Ordering::Relaxed);
        Ok(())
    }
}

struct CounterPlugin;

impl Plugin for CounterPlugin {
    fn manifest(&self) -> Manifest {
        Manifest { id: "example.counter", name: "Counter", version: "1.0.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        let spec = AgentTypeSpec {
            name: "counter".into(),
            version: semver::Version::new(1, 0, 0),
            summary: "adds up what it is told".into(),
            schema: json!({
                "type": "object",
                "additionalProperties": false,
                "properties": {"first": {"type": "integer", "default": 0, "description": "where it begins"}},
            }),
            state_version: STATE_VERSION,
            tunables: Vec::new(),
        };
        // The configuration has been validated, and defaults are filled in.
        let create = |config: &Value| -> Result<Arc<dyn Behaviour>> {
            Ok(Arc::new(Counter { total: AtomicI64::new(config["first"].as_i64().unwrap_or_default()) }))
        };
        to.agent_type(spec, Arc::new(create))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let system = System::open_private_with(None, vec![Arc::new(CounterPlugin)]).await?;
    let outcome = count(&system).await;
    system.close(false).await?;
    outcome
}

async fn count(system: &System) -> Result<()> {
    let agent = json!({"type": "counter", "name": "sum", "config": {"first": 30}});
    run(system, "agent create", agent).await?;
    println!("sum begins at {}", ask(system, json!("total")).await?);
    println!("with 12 more it is {}", ask(system, json!({"add": 12})).await?);

    run(system, "agent restart", json!({"agents": ["sum"]})).await?;
    println!("after a restart it is {}", ask(system, json!("total")).await?);

    match ask(system, json!({"subtract": 1})).await {
        Ok(answer) => return Err(Error::internal(format!("it answered {answer}"))),
        Err(e) => println!("refused: {e}"),
    }
    Ok(())
}

/// Asks the counter, as any program, language or other agent can: by its name.
async fn ask(system: &System, body: Value) -> Result<Value> {
    let kernel = system.kernel().ok_or_else(|| Error::internal("a private system has a kernel"))?;
    let answer = kernel.agents().ask("sum", Message::new("example", body), Duration::from_secs(10)).await?;
    Ok(answer["total"].clone())
}

async fn run(system: &System, path: &str, args: Value) -> Result<Value> {
    system.run(path, args, Default::default(), |_| {}).await
}
