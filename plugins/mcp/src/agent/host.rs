//! The host's side: which wrappers are attached, and the agents that stand for their servers.
//!
//! A wrapper runs `mcp attach` for as long as it lives and reports through the service `hms.mcp`. Its agent is
//! made when it attaches, and destroyed when its process has ended, which the host is told by the kernel
//! (pidfd): a connection that breaks while the wrapper lives only makes the agent wait for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentSpec, Create, Desired, Stop},
    command::{CommandContext, CommandSpec, handler},
    event::Subscribe,
    os::{files, identity::ProcessId, process::Process},
    plugin::Registrar,
    service::{Service, ServiceSpec},
    supervision::{Backoff, Intensity, Restart, RestartPolicy},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, watch};

use super::{
    KIND,
    book::Book,
    link::{Effect, Link, ORDERS},
    name::clean,
    report::{Item, Report},
};

/// The service that wrappers report to.
pub(super) const SERVICE: &str = "hms.mcp";
/// The command that attaches a wrapper.
pub(super) const ATTACH: &str = "mcp attach";
/// Names that are tried, with a number behind, before one is made up.
const NAMES: u32 = 1000;

/// What a wrapper says of itself when it attaches.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Which wrapped server: the same at every host, unique.
    pub(super) link: String,
    /// What it would like to be called.
    pub(super) name: String,
    /// `wrap` or `pool`.
    pub(super) by: String,
    /// The wrapper's process, as [`ProcessId::to_line`] writes it.
    pub(super) process: String,
    /// The server's command line, without secrets.
    pub(super) command: Vec<String>,
    /// Labels for the agent.
    pub(super) labels: BTreeMap<String, String>,
    /// The wrapper's options, for people.
    pub(super) options: Map<String, Value>,
    /// When the wrapper gives up.
    pub(super) budget: Intensity,
    /// The first report.
    pub(super) report: Report,
}

/// The configuration of an agent of this type.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Config {
    pub(super) link: String,
    pub(super) by: String,
    pub(super) process: String,
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) options: Map<String, Value>,
}

/// The wrappers that are attached.
pub(super) struct Links {
    kernel: Kernel,
    by_token: Mutex<HashMap<String, Arc<Link>>>,
    /// Counts arrivals: what an earlier host's agents wait for.
    arrivals: watch::Sender<u64>,
    /// Held while an agent is found or made for a wrapper.
    naming: tokio::sync::Mutex<()>,
    /// Agents whose wrapper's end is waited for.
    watched: Mutex<HashSet<String>>,
}

/// Registers the command and the service.
pub(super) fn register(to: &Registrar, links: Arc<Links>) -> Result<()> {
    let service = ServiceSpec::new(SERVICE, "1.0.0", "what wrappers of MCP servers report")
        .method("report", "takes a report of the wrapper `link`");
    to.service(service, Arc::new(Reports(links.clone())))?;
    let spec = CommandSpec::new(
        ATTACH,
        "Show a wrapped MCP server as an agent, for as long as its wrapper runs",
    )
    .args(
        json!({"wrapper": {"type": "object", "description": "who wraps which server, and how it is"}}),
        &["wrapper"],
    )
    .writes()
    .streaming()
    .hidden();
    to.command(spec, handler(move |cx, args: Attach| attach(links.clone(), cx, args.wrapper)))
}

#[derive(Deserialize)]
struct Attach {
    wrapper: Value,
}

struct Reports(Arc<Links>);

#[async_trait]
impl Service for Reports {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        #[derive(Deserialize)]
        struct Call {
            link: String,
            report: Report,
        }
        if method != "report" {
            return Err(Error::not_found("method of service `hms.mcp`", method));
        }
        let call: Call = read(args)?;
        let link = self.0.get(&call.link).ok_or_else(|| Error::not_found("attached wrapper", &call.link))?;
        let effects = link.take(call.report);
        self.0.carry_out(&call.link, &link, effects).await;
        Ok(Value::Null)
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|e| Error::new(ErrorKind::InvalidArgument, format!("a wrapper says what does not fit: {e}")))
}

/// Shows a wrapped server until its wrapper goes or the agent is destroyed. Emits [`Item`]s. Answers
/// `{"released": true}` when somebody destroyed the agent: the wrapper goes on by itself then.
async fn attach(links: Arc<Links>, cx: CommandContext, wrapper: Value) -> Result<Value> {
    let kernel = links.kernel.clone();
    kernel.require_open()?;
    let mut hello: Hello = read(wrapper)?;
    // Its log is known once its agent is.
    let printed = std::mem::take(&mut hello.report.stderr);
    let destroyed = kernel.bus().subscribe(Subscribe::to(["agent.destroyed"]))?;
    let (orders_in, mut orders) = mpsc::channel(ORDERS);
    let link = Arc::new(Link::new(Book::new(hello.budget), orders_in, kernel.clock().clone()));
    let effects = link.take(hello.report.clone());
    let guard = links.insert(&hello, &link);
    let (id, name) = links.agent_for(&hello, &link).await?;
    guard.set_agent(&id);
    if let Some(path) = log_of(&kernel, &id).await {
        link.log_to(path.into());
        let printed = link.take_output(printed);
        links.carry_out(&hello.link, &link, printed).await;
    }
    links.carry_out(&hello.link, &link, effects).await;
    let item = |item: Item| serde_json::to_value(item).map_err(|e| Error::internal(format!("an item: {e}")));
    cx.emit(item(Item::Attached { agent: name })?).await?;
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(order) = order else { break };
                cx.emit(item(order)?).await?;
            }
            batch = destroyed.next_batch(64) => {
                let Some(batch) = batch else { break };
                if batch.events.iter().any(|e| e.subject.as_deref() == Some(id.as_str())) {
                    return Ok(json!({"released": true}));
                }
            }
            () = cx.cancelled() => break,
        }
    }
    Ok(Value::Null)
}

/// The file that an agent's output goes to, kept within its limits by whoever keeps logs.
async fn log_of(kernel: &Kernel, id: &str) -> Option<String> {
    let logs = kernel.services().find("hms.logs").ok()?;
    match logs.call("keep", json!({"agent": id}), Duration::from_secs(10)).await {
        Ok(paths) => paths["stderr"].as_str().map(str::to_owned),
        Err(e) => {
            tracing::warn!(agent = id, error = %e, "the server's output is not kept");
            None
        }
    }
}

impl Links {
    pub(super) fn new(kernel: Kernel) -> Arc<Self> {
        Arc::new(Self {
            kernel,
            by_token: Mutex::default(),
            arrivals: watch::Sender::new(0),
            naming: tokio::sync::Mutex::default(),
            watched: Mutex::default(),
        })
    }

    /// The system.
    pub(super) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The wrapper `token`, if it is attached.
    pub(super) fn get(&self, token: &str) -> Option<Arc<Link>> {
        self.links().get(token).cloned()
    }

    /// Waits until it is, or until `deadline` has passed.
    pub(super) async fn wait_for(&self, token: &str, deadline: Duration) -> Option<Arc<Link>> {
        let clock = self.kernel.clock().clone();
        let until = clock.now() + deadline;
        let mut arrivals = self.arrivals.subscribe();
        loop {
            if let Some(link) = self.get(token) {
                return Some(link);
            }
            tokio::select! {
                _ = arrivals.changed() => {}
                () = clock.sleep_until(until) => return None,
            }
        }
    }

    fn insert(self: &Arc<Self>, hello: &Hello, link: &Arc<Link>) -> Guard {
        // One that attaches again before its old connection was found to be gone replaces itself.
        if let Some(old) = self.links().insert(hello.link.clone(), link.clone()) {
            old.sever();
        }
        self.arrivals.send_modify(|count| *count += 1);
        Guard {
            links: self.clone(),
            link: link.clone(),
            token: hello.link.clone(),
            process: hello.process.clone(),
            agent: Mutex::default(),
        }
    }

    /// The id and name of the agent that stands for this server: the one that an earlier host made, or a new one.
    async fn agent_for(&self, hello: &Hello, link: &Link) -> Result<(String, String)> {
        let agents = self.kernel.agents();
        let _one_at_a_time = self.naming.lock().await;
        if let Some((id, spec)) =
            agents.specs().into_iter().find(|(_, spec)| token_of(spec) == Some(&hello.link))
        {
            // It waits for its wrapper, unless its adoption waits already or somebody wants it not to run.
            agents.recheck(&id)?;
            return Ok((id, spec.name.clone()));
        }
        let restarts = link.read(|book| book.server.life.saturating_sub(1));
        link.forget_past();
        let config = Config {
            link: hello.link.clone(),
            by: hello.by.clone(),
            process: hello.process.clone(),
            command: hello.command.clone(),
            options: hello.options.clone(),
        };
        let mut spec = AgentSpec::new(&self.free_name(&hello.name).await, KIND, json!(config));
        spec.labels = hello.labels.clone();
        // The wrapper restarts, with a budget and a back-off of its own: here every end is followed by a start.
        let backoff = Backoff { initial: Duration::ZERO, ..Backoff::default() };
        spec.restart = RestartPolicy {
            policy: Restart::Permanent,
            intensity: Intensity { max: 0, ..Intensity::default() },
            backoff,
        };
        // Taking the server away from its client is nothing that healing should do by itself.
        spec.healing.insert("ladder".into(), json!(["restart", "escalate"]));
        let name = spec.name.clone();
        let row = agents.create(spec, Create { restarts, ..Create::default() }).await?;
        let id = row["id"].as_str().ok_or_else(|| Error::internal("an agent without an id"))?;
        Ok((id.to_owned(), name))
    }

    /// `mcp-<name>`, with a number behind when another wrapper's server is called so.
    async fn free_name(&self, wanted: &str) -> String {
        let agents = self.kernel.agents();
        let base = format!("mcp-{}", clean(wanted.strip_prefix("mcp-").unwrap_or(wanted)));
        for n in 1..=NAMES {
            let name = if n == 1 { base.clone() } else { format!("{base}-{n}") };
            match agents.spec(&name) {
                Err(_) => return name,
                Ok(spec) if self.is_left_over(&spec) => {
                    if agents.destroy(&name).await.is_ok() {
                        return name;
                    }
                }
                Ok(_) => {}
            }
        }
        format!("{base}-{}", self.kernel.rng().token(4))
    }

    /// Whether an agent stands for a server whose wrapper has ended.
    fn is_left_over(&self, spec: &AgentSpec) -> bool {
        let process = spec.config["process"].as_str().filter(|_| spec.kind == KIND);
        process.is_some_and(|line| !is_alive(line))
            && token_of(spec).is_some_and(|token| self.get(token).is_none())
    }

    /// Does what a report leads to.
    async fn carry_out(self: &Arc<Self>, token: &str, link: &Arc<Link>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Exited(cx, exit) => cx.exited(exit),
                Effect::Ready(cx) => cx.ready(),
                Effect::Health(cx, health) => cx.health(health),
                Effect::Record(dir, record) => record.write(&dir),
                Effect::Output(path, lines) => {
                    let written = tokio::task::spawn_blocking(move || append(&path, &lines)).await;
                    if let Ok(Err(e)) = written {
                        tracing::debug!(error = %e, "a server's output could not be kept");
                    }
                }
                Effect::GaveUp(why) => {
                    if let Some(id) = self.agent_of(token) {
                        let kernel = self.kernel.clone();
                        self.kernel.spawn(async move {
                            if let Err(e) = kernel.agents().quarantine(&id, &why).await {
                                tracing::debug!(agent = %id, error = %e, "it could not be quarantined");
                            }
                        });
                    }
                }
                Effect::Revived => self.revive(token, link),
            }
        }
    }

    /// The wrapper made another attempt: the agent goes on, unless somebody stopped it meanwhile.
    fn revive(&self, token: &str, link: &Arc<Link>) {
        let Some(id) = self.agent_of(token) else { return };
        let (kernel, link) = (self.kernel.clone(), link.clone());
        self.kernel.spawn(async move {
            let wanted = kernel.agents().spec(&id).is_ok_and(|spec| spec.desired == Desired::Running);
            let done = match wanted {
                true => kernel.agents().start(&id).await.map(drop),
                false => link.stop(Stop::Kill).await,
            };
            if let Err(e) = done {
                tracing::debug!(agent = %id, error = %e, "it does not follow its wrapper");
            }
        });
    }

    fn agent_of(&self, token: &str) -> Option<String> {
        let specs = self.kernel.agents().specs();
        specs.into_iter().find(|(_, spec)| token_of(spec).is_some_and(|t| t == token)).map(|(id, _)| id)
    }

    /// Waits for the end of a wrapper that is not attached, and destroys its agent then.
    pub(super) fn outlive(self: &Arc<Self>, id: &str, token: &str, process: &str) {
        if !self.watched().insert(id.to_owned()) {
            return;
        }
        let (links, id, token, process) = (self.clone(), id.to_owned(), token.to_owned(), process.to_owned());
        self.kernel.spawn(async move {
            let process = ProcessId::parse(&process).ok().and_then(|id| Process::adopt(&id).ok().flatten());
            if let Some(process) = process {
                let _ = process.wait().await;
            }
            links.watched().remove(&id);
            if links.get(&token).is_none() {
                links.destroy(&id).await;
            }
        });
    }

    async fn destroy(&self, id: &str) {
        if let Err(e) = self.kernel.agents().destroy(id).await {
            tracing::debug!(agent = id, error = %e, "an agent without a wrapper could not be destroyed");
        }
    }

    fn links(&self) -> MutexGuard<'_, HashMap<String, Arc<Link>>> {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watched(&self) -> MutexGuard<'_, HashSet<String>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Detaches a wrapper however its command ends: also when the connection breaks and its future is dropped.
struct Guard {
    links: Arc<Links>,
    link: Arc<Link>,
    token: String,
    process: String,
    agent: Mutex<Option<String>>,
}

impl Guard {
    fn set_agent(&self, id: &str) {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_owned());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        {
            let mut links = self.links.links();
            if links.get(&self.token).is_some_and(|link| Arc::ptr_eq(link, &self.link)) {
                links.remove(&self.token);
            }
        }
        self.link.sever();
        let id = self.agent.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(id) = id.or_else(|| self.links.agent_of(&self.token)) else { return };
        if self.link.is_closed() {
            let links = self.links.clone();
            self.links.kernel.spawn(async move { links.destroy(&id).await });
        } else {
            let _ = self.links.kernel.agents().recheck(&id); // it may be gone already
            self.links.outlive(&id, &self.token, &self.process);
        }
    }
}

fn token_of(spec: &AgentSpec) -> Option<&str> {
    spec.config["link"].as_str().filter(|_| spec.kind == KIND)
}

/// Whether the process that a line names still runs.
pub(super) fn is_alive(line: &str) -> bool {
    ProcessId::parse(line).is_ok_and(|id| id.is_alive())
}

fn append(path: &Path, lines: &[String]) -> std::io::Result<()> {
    let mut text = lines.join("\n");
    text.push('\n');
    files::append(path)?.write_all(text.as_bytes())
}
