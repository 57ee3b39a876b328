//! The commands on a real kernel, with real processes, as a front end would run them.

mod agents;
mod declared;
mod output;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use hms_core::{
    Error, Kernel, Result,
    agent::{STOP_DEADLINE, Stop},
    command::{Caller, Canceller, CommandContext, Update},
    event::Subscribe,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::AgentsPlugin;

/// Nothing here takes that long; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A system in a home of its own.
struct System {
    kernel: Kernel,
    home: TempDir,
    /// Where the caller of the commands is.
    work: TempDir,
}

impl System {
    async fn open() -> Self {
        let kernel = Kernel::describe(vec![Arc::new(AgentsPlugin::default())]).unwrap();
        let (home, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let runtime = home.path().join("run");
        std::fs::create_dir(&runtime).unwrap();
        kernel.open(home.path(), &runtime).await.unwrap();
        Self { kernel, home, work }
    }

    async fn close(self) {
        self.kernel.close(Stop::Graceful(STOP_DEADLINE)).await.unwrap();
    }

    fn caller(&self) -> Caller {
        let mut env: BTreeMap<String, String> =
            [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())].into();
        env.insert("GREETING".into(), "hello from the caller".into());
        Caller { source: "test".into(), cwd: Some(self.work.path().to_str().unwrap().into()), env: Some(env) }
    }

    async fn run(&self, path: &str, args: Value) -> Result<Value> {
        let (cx, _canceller) = CommandContext::new(self.caller(), None);
        let command = self.kernel.commands().get(path)?;
        tokio::time::timeout(PATIENCE, command.run(cx, args))
            .await
            .unwrap_or_else(|_| panic!("`{path}` hangs"))
    }

    async fn fails(&self, path: &str, args: Value) -> Error {
        match self.run(path, args).await {
            Ok(value) => panic!("`{path}` should fail, and gave {value}"),
            Err(e) => e,
        }
    }

    /// Begins a command that streams.
    fn stream(&self, path: &str, args: Value) -> Streaming {
        let (updates, incoming) = mpsc::channel(64);
        let (cx, canceller) = CommandContext::new(self.caller(), Some(updates));
        let command = self.kernel.commands().get(path).unwrap();
        Streaming { incoming, canceller, outcome: tokio::spawn(async move { command.run(cx, args).await }) }
    }

    /// Writes `hms.toml` where the caller is.
    fn declare(&self, text: &str) {
        std::fs::write(self.work.path().join("hms.toml"), text).unwrap();
    }

    async fn names(&self) -> Vec<String> {
        let rows = self.run("agent list", json!({})).await.unwrap();
        rows.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn pid(&self, agent: &str) -> u64 {
        let status = self.run("agent status", json!({"agent": agent})).await.unwrap();
        status["pid"].as_u64().unwrap_or_else(|| panic!("{status}"))
    }

    /// Creates an agent that sleeps.
    async fn sleeper(&self, name: &str, more: Value) -> Value {
        let mut args = json!({"type": "process", "name": name, "config": {"command": ["sleep", "300"]}});
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.run("agent create", args).await.unwrap()
    }

    /// Waits until the status of `agent` is `wanted`.
    async fn until(&self, agent: &str, wanted: &str) {
        let changes = self.kernel.bus().subscribe(Subscribe::to(["agent.>"])).unwrap();
        let wait = async {
            loop {
                let status = self.kernel.agents().state(agent).unwrap().status;
                if status.as_str() == wanted {
                    return;
                }
                changes.next_batch(64).await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("`{agent}` does not become {wanted}"));
    }

    /// Waits until `agent` has printed `count` lines, and gives them.
    async fn lines(&self, agent: &str, count: usize) -> Vec<String> {
        let mut logs = self.stream("agent logs", json!({"agent": agent, "follow": true}));
        let mut lines = Vec::new();
        while lines.len() < count {
            let item = logs.item().await.expect("a line");
            lines.push(item["line"].as_str().unwrap().to_owned());
        }
        logs.canceller.cancel();
        assert_eq!(logs.outcome.await.unwrap().unwrap(), Value::Null);
        lines
    }
}

/// A streaming command under way.
struct Streaming {
    incoming: mpsc::Receiver<Update>,
    canceller: Canceller,
    outcome: JoinHandle<Result<Value>>,
}

impl Streaming {
    /// The next item; none at the end.
    async fn item(&mut self) -> Option<Value> {
        loop {
            match tokio::time::timeout(PATIENCE, self.incoming.recv())
                .await
                .expect("a streaming command hangs")
            {
                Some(Update::Item { value }) => return Some(value),
                Some(Update::Progress { .. } | Update::Resume { .. }) => {}
                None => return None,
            }
        }
    }

    /// All items to the end.
    async fn all(mut self) -> Vec<Value> {
        let mut items = Vec::new();
        while let Some(item) = self.item().await {
            items.push(item);
        }
        self.outcome.await.unwrap().unwrap();
        items
    }
}

fn is_alive(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
