//! The agent type `mcp-server`: what a wrapped server is in the host.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{Adoption, AgentContext, AgentTypeSpec, Behaviour, Health, Measurement, Started, Stop},
    clock::{Mono, SharedClock},
    os::{process::tree_usage, tree},
    plugin::Registrar,
    schema,
};
use serde_json::{Map, Value, json};

use super::{
    KIND,
    host::{Config, Links, is_alive},
    link::{Link, Record, gone},
};

/// How long a new host waits for the wrappers of its agents: they come as soon as it listens.
const REUNION: Duration = Duration::from_secs(3);

/// Registers the type.
pub(super) fn register(to: &Registrar, links: Arc<Links>) -> Result<()> {
    let properties = json!({
        "link": {"type": "string", "x-hidden": true, "description": "which wrapped server"},
        "by": {"type": "string", "x-hidden": true, "description": "what wraps it: wrap or pool"},
        "process": {"type": "string", "x-hidden": true, "description": "the wrapper's process: pid, start and boot"},
        "command": {"type": "array", "items": {"type": "string"}, "x-hidden": true,
            "description": "the server's command line, without secrets"},
        "options": {"type": "object", "x-hidden": true, "description": "the wrapper's options"}
    });
    let spec = AgentTypeSpec {
        name: KIND.into(),
        version: semver::Version::new(1, 0, 0),
        summary: "an MCP server that `mcp wrap` or `mcp pool` keeps alive; made by them".into(),
        schema: schema::object(properties, &["link", "by", "process", "command"]),
        state_version: 0,
        tunables: Vec::new(),
    };
    let clock = to.kernel().clock().clone();
    let factory = move |value: &Value| -> Result<Arc<dyn Behaviour>> {
        let config: Config = serde_json::from_value(value.clone())
            .map_err(|e| Error::new(ErrorKind::InvalidConfig, format!("type `{KIND}`: {e}")))?;
        Ok(Arc::new(ServerAgent {
            links: links.clone(),
            config,
            clock: clock.clone(),
            link: Mutex::default(),
            cpu_seen: Mutex::default(),
        }))
    };
    to.agent_type(spec, Arc::new(factory))
}

struct ServerAgent {
    links: Arc<Links>,
    config: Config,
    clock: SharedClock,
    link: Mutex<Option<Arc<Link>>>,
    /// CPU time of the tree at the last measurement, and when.
    cpu_seen: Mutex<Option<(i32, Duration, Mono)>>,
}

impl ServerAgent {
    fn link(&self) -> Option<Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, link: &Arc<Link>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(link.clone());
    }

    /// Whether its wrapper is attached by the link of this life.
    fn is_linked(&self) -> bool {
        match (self.link(), self.links.get(&self.config.link)) {
            (Some(held), Some(there)) => Arc::ptr_eq(&held, &there),
            _ => false,
        }
    }
}

#[async_trait]
impl Behaviour for ServerAgent {
    /// The life that the wrapper has made or is making. Without its wrapper the agent waits.
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let Some(link) = self.links.get(&self.config.link) else {
            self.links.outlive(cx.id(), &self.config.link, &self.config.process);
            return Err(gone());
        };
        self.hold(&link);
        link.start(cx).await
    }

    /// Waits for the wrapper, which attaches to the new host by itself, and goes on as the life that both know.
    async fn adopt(&self, cx: &AgentContext) -> Result<Adoption> {
        if !is_alive(&self.config.process) {
            return Ok(Adoption::Absent); // `start` sees to the rest
        }
        let Some(record) = Record::read(cx.dir()) else { return Ok(Adoption::Absent) };
        let Some(link) = self.links.wait_for(&self.config.link, REUNION).await else {
            return Ok(Adoption::Absent);
        };
        self.hold(&link);
        let incarnation = record.incarnation;
        Ok(match link.resume(&cx.of_incarnation(incarnation), record.life) {
            Some(Ok(started)) => Adoption::Adopted { incarnation, started },
            Some(Err(exit)) => Adoption::Ended { incarnation, exit },
            None => Adoption::Absent,
        })
    }

    async fn health(&self) -> Health {
        let now = self.clock.now();
        self.link().map_or_else(Health::unknown, |link| link.read(|book| book.verdict(now)))
    }

    fn needs_checks(&self) -> bool {
        true
    }

    fn is_attached(&self) -> bool {
        self.is_linked()
    }

    fn facts(&self) -> Map<String, Value> {
        let mut facts = Map::new();
        if let Some(link) = self.link() {
            link.read(|book| book.facts(&mut facts));
        }
        facts
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        if let Some(link) = self.link() {
            link.read(|book| book.details(&mut details));
        }
        details.insert("by".into(), self.config.by.clone().into());
        let wrapper = self.config.process.split_whitespace().next().and_then(|pid| pid.parse::<i64>().ok());
        details.insert("wrapper_pid".into(), json!(wrapper));
        details
    }

    fn measure(&self) -> Vec<Measurement> {
        let Some(link) = self.link() else { return Vec::new() };
        let (mut measured, pid) = link.read(|book| (book.measure(), book.server.pid));
        let Some(pid) = pid else { return measured };
        let usage = tree_usage(tree::descendants(pid).iter().map(|id| id.pid).chain([pid]));
        let now = self.clock.now();
        measured.push(("memoryUsage".into(), usage.rss_bytes as f64));
        measured.push(("threads".into(), f64::from(usage.threads)));
        let mut seen = self.cpu_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, cpu, at)) = seen.replace((pid, usage.cpu_time, now))
            && of == pid
            && now > at
        {
            let used = usage.cpu_time.saturating_sub(cpu).as_secs_f64();
            measured.push(("cpuUsage".into(), used / (now - at).as_secs_f64()));
        }
        measured
    }

    /// Has the wrapper stop its server. The end of the host is no reason to: the client is still there.
    async fn stop(&self, how: Stop) -> Result<()> {
        let Some(link) = self.link().filter(|_| self.is_linked()) else { return Ok(()) };
        if how == Stop::Detach || is_ending(self.links.kernel()).await {
            link.let_go();
            return Ok(());
        }
        link.stop(how).await
    }
}

/// Whether the host was asked to end.
async fn is_ending(kernel: &Kernel) -> bool {
    tokio::select! {
        biased;
        _ = kernel.shutdown_requested() => true,
        () = std::future::ready(()) => false,
    }
}
