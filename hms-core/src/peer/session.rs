//! The host's side of a conversation: what a peer may ask, and what goes when it does.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use semver::VersionReq;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{net::UnixStream, sync::mpsc};

use super::{
    Connection, PROTOCOL_MAJOR, PROTOCOL_MINOR, PeerHandler,
    lease::{PeerService, peer_command},
    remote_agent::{PeerType, Report, snapshot_from_json},
};
use crate::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentTypeSpec, Message, Stop},
    command::{Caller, Canceller, CommandContext, CommandSpec},
    event::{Event, EventDraft, Overflow, Subscribe, Subscription},
    owner::Owner,
    schema::Schema,
    service::ServiceSpec,
};

static NEXT_PEER: AtomicU64 = AtomicU64::new(1);

/// Answers one connected peer until it goes.
pub fn serve(kernel: Kernel, stream: UnixStream) -> Arc<Connection> {
    let number = NEXT_PEER.fetch_add(1, Ordering::Relaxed);
    let session = Session {
        kernel,
        owner: Owner::Peer(number),
        greeted: AtomicBool::new(false),
        running: Mutex::default(),
        subscriptions: Mutex::default(),
    };
    let (read, write) = stream.into_split();
    Connection::start(read, write, Arc::new(session))
}

struct Session {
    kernel: Kernel,
    owner: Owner,
    greeted: AtomicBool,
    /// Commands under way, by the caller's number.
    running: Mutex<BTreeMap<u64, Arc<Canceller>>>,
    subscriptions: Mutex<HashMap<u64, tokio::task::AbortHandle>>,
}

#[derive(Deserialize)]
struct Hello {
    protocol: Protocol,
}

#[derive(Deserialize)]
struct Protocol {
    major: u32,
}

#[derive(Deserialize)]
struct Run {
    /// The caller's number for updates and cancellation.
    call: u64,
    path: String,
    #[serde(default)]
    args: Value,
    #[serde(default)]
    caller: Caller,
}

#[derive(Deserialize)]
struct SubscribeParams {
    subscription: u64,
    patterns: Vec<String>,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default = "capacity")]
    capacity: usize,
    #[serde(default)]
    after_sequence: Option<u64>,
}

fn capacity() -> usize {
    4096
}

#[derive(Deserialize)]
struct ServiceCall {
    id: String,
    #[serde(default)]
    version: Option<VersionReq>,
    method: String,
    #[serde(default)]
    args: Value,
    #[serde(default = "deadline_ms")]
    deadline_ms: u64,
}

#[derive(Deserialize)]
struct Send {
    target: String,
    message: Message,
    #[serde(default = "deadline_ms")]
    deadline_ms: u64,
}

fn deadline_ms() -> u64 {
    30_000
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Numbered {
    subscription: u64,
}

#[async_trait]
impl PeerHandler for Session {
    async fn request(&self, peer: &Arc<Connection>, method: &str, params: Value) -> Result<Value> {
        if method == "hello" {
            return self.hello(parse(params)?);
        }
        if !self.greeted.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Protocol, format!("`{method}` before `hello`")));
        }
        let kernel = &self.kernel;
        match method {
            "command.list" => Ok(json!(kernel.commands().list())),
            "command.run" => self.run(peer, parse(params)?).await,
            "command.register" => {
                let spec: CommandSpec = parse(params)?;
                Schema::compile(&spec.args).map_err(|e| e.context(format!("command `{}`", spec.path)))?;
                let path = spec.path.clone();
                let handler = peer_command(path.clone(), Arc::downgrade(peer));
                self.leased(peer, || {
                    kernel.commands().register(self.owner.clone(), spec, handler)?;
                    kernel.command_event("command.registered", &path);
                    Ok(())
                })
            }
            "command.unregister" => {
                let path = parse::<Named>(params)?.id;
                kernel.commands().unregister(&self.owner, &path)?;
                kernel.command_event("command.unregistered", &path);
                Ok(Value::Null)
            }
            "type.list" => Ok(json!(kernel.types().list())),
            "type.register" => {
                let spec: AgentTypeSpec = parse(params)?;
                Schema::compile(&spec.schema)
                    .map_err(|e| e.context(format!("agent type `{}`", spec.name)))?;
                let factory = Arc::new(PeerType { peer: Arc::downgrade(peer) });
                let registered =
                    self.leased(peer, || kernel.types().register(self.owner.clone(), spec, factory));
                kernel.agents().types_changed();
                registered
            }
            "agent.report" => self.report(params).map(|()| Value::Null),
            "agent.save" => {
                let id = params["id"].as_str().ok_or_else(|| Error::argument("id", "is missing"))?;
                let snapshot = snapshot_from_json(&params["snapshot"])?;
                let id = self.agent_of_this_peer(id)?;
                kernel.agents().save_snapshot(&id, snapshot).await.map(|()| Value::Null)
            }
            "event.publish" => self.publish(params).await,
            "event.publish_batch" => self.publish_batch(params),
            "event.subscribe" => self.subscribe(peer, parse(params)?),
            "event.unsubscribe" => {
                self.unsubscribe(parse::<Numbered>(params)?.subscription);
                Ok(Value::Null)
            }
            "service.list" => {
                let list = kernel.services().list();
                Ok(list.into_iter().map(|(spec, owner)| json!({"spec": *spec, "owner": owner})).collect())
            }
            "service.call" => {
                let call: ServiceCall = parse(params)?;
                let service =
                    kernel.services().lookup(&call.id, &call.version.unwrap_or(VersionReq::STAR))?;
                service.call(&call.method, call.args, Duration::from_millis(call.deadline_ms)).await
            }
            "service.register" => {
                let spec: ServiceSpec = parse(params)?;
                let (id, version) = (spec.id.clone(), spec.version.clone());
                let service = Arc::new(PeerService { id, version, peer: Arc::downgrade(peer) });
                self.leased(peer, || kernel.services().register(self.owner.clone(), spec, service))
            }
            "service.unregister" => {
                kernel.services().unregister(&self.owner, &parse::<Named>(params)?.id).map(|()| Value::Null)
            }
            "agent.tell" => {
                let send: Send = parse(params)?;
                kernel.agents().tell(&send.target, send.message).map(|()| Value::Null)
            }
            "agent.ask" => {
                let send: Send = parse(params)?;
                kernel.agents().ask(&send.target, send.message, Duration::from_millis(send.deadline_ms)).await
            }
            "host.shutdown" => {
                let detach = params.get("detach").and_then(Value::as_bool).unwrap_or(false);
                kernel.request_shutdown(if detach {
                    Stop::Detach
                } else {
                    Stop::Graceful(Duration::from_secs(10))
                });
                Ok(json!({"pid": std::process::id()}))
            }
            _ => Err(Error::new(ErrorKind::Protocol, format!("no method `{method}`"))
                .hint("the host may be older than this program: `system restart` starts the new one")),
        }
    }

    async fn notification(&self, _peer: &Arc<Connection>, method: &str, params: Value) {
        // In order, where the order of several reports matters.
        if method == "agent.report"
            && let Err(e) = self.report(params.clone())
        {
            tracing::warn!(error = %e, "a peer's report is not accepted");
        }
        if method == "event.unsubscribe"
            && let Some(number) = params.get("subscription").and_then(Value::as_u64)
        {
            self.unsubscribe(number);
        }
        if method == "command.cancel"
            && let Some(call) = params.get("call").and_then(Value::as_u64)
            && let Some(running) = self.running().get(&call)
        {
            running.cancel();
        }
    }

    fn closed(&self) {
        self.running().clear();
        for (_, pump) in self.subscriptions().drain() {
            pump.abort();
        }
        self.kernel.remove_owner(&self.owner);
    }
}

impl Session {
    fn hello(&self, hello: Hello) -> Result<Value> {
        if hello.protocol.major != PROTOCOL_MAJOR {
            let theirs = hello.protocol.major;
            let what_to_do = if theirs > PROTOCOL_MAJOR {
                "the host is older than this program: `system restart` starts the new one and keeps the agents"
            } else {
                "this program is older than the host: update it"
            };
            return Err(Error::new(
                ErrorKind::VersionMismatch,
                format!("the host speaks protocol {PROTOCOL_MAJOR}, this program speaks {theirs}"),
            )
            .hint(what_to_do));
        }
        self.greeted.store(true, Ordering::Release);
        Ok(json!({
            "protocol": {"major": PROTOCOL_MAJOR, "minor": PROTOCOL_MINOR},
            "features": ["commands", "events", "event-batches", "services", "agents", "journal"],
            "host": {
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "home": self.kernel.dirs().home,
                "started_ms": self.kernel.started_ms(),
            },
        }))
    }

    /// Hands what the peer says of an agent it runs to that agent.
    fn report(&self, params: Value) -> Result<()> {
        let report: Report = parse(params)?;
        let id = self.agent_of_this_peer(&report.id)?;
        let cx = self.kernel.agents().context(&id)?;
        report.deliver(&cx);
        Ok(())
    }

    /// The id of an agent whose type this peer offers.
    fn agent_of_this_peer(&self, id_or_name: &str) -> Result<String> {
        let agents = self.kernel.agents();
        let kind = agents.spec(id_or_name)?.kind.clone();
        if !self.kernel.types().is_offered_by(&kind, &self.owner) {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("this peer does not offer agent type `{kind}`"),
            ));
        }
        agents.id(id_or_name)
    }

    async fn run(&self, peer: &Arc<Connection>, run: Run) -> Result<Value> {
        let command = self.kernel.commands().get(&run.path)?;
        let (updates, mut outgoing) = mpsc::channel(64);
        let (cx, canceller) = CommandContext::new(run.caller, Some(updates));
        // The session alone holds the canceller: when the peer goes, dropping it cancels the command.
        let canceller = Arc::new(canceller);
        let weak = Arc::downgrade(&canceller);
        self.running().insert(run.call, canceller);
        let forward = async {
            while let Some(update) = outgoing.recv().await {
                if peer.notify("command.update", json!({"call": run.call, "update": update})).await.is_err() {
                    break;
                }
            }
        };
        let (outcome, ()) = tokio::join!(command.run(cx, run.args), forward);
        if weak.strong_count() > 0 {
            self.running().remove(&run.call);
        }
        outcome
    }

    /// What a peer publishes, in its name if it gives no other.
    fn draft(&self, mut params: Value) -> Result<EventDraft> {
        if params["source"].as_str().is_none_or(str::is_empty) && params.is_object() {
            params["source"] = match &self.owner {
                Owner::Peer(number) => format!("/peers/{number}"),
                Owner::Plugin(id) => format!("/plugins/{id}"),
            }
            .into();
        }
        EventDraft::from_json(params)
    }

    /// All of several events, or none where one is faulty.
    fn publish_batch(&self, mut params: Value) -> Result<Value> {
        let Value::Array(events) = params["events"].take() else {
            return Err(Error::argument("events", "is not an array"));
        };
        let drafts = events.into_iter().map(|event| self.draft(event)).collect::<Result<Vec<_>>>()?;
        let published = drafts.len();
        for draft in drafts {
            self.kernel.bus().try_publish(draft)?;
        }
        Ok(json!({"published": published}))
    }

    async fn publish(&self, params: Value) -> Result<Value> {
        let durable = params.get("durable").and_then(Value::as_bool).unwrap_or(false);
        let draft = self.draft(params)?;
        let event = if durable {
            self.kernel.bus().publish_journaled(draft).await?
        } else {
            self.kernel.bus().try_publish(draft)?
        };
        Ok(json!({"id": event.id.to_string(), "sequence": event.sequence}))
    }

    fn subscribe(&self, peer: &Arc<Connection>, params: SubscribeParams) -> Result<Value> {
        // Before the subscription is there: what follows this sequence is delivered, or can be read again.
        let before = self.kernel.bus().last_sequence();
        let subscription = self.kernel.bus().subscribe(Subscribe {
            patterns: params.patterns,
            filter: params.filter,
            capacity: params.capacity.clamp(1, 65_536),
            overflow: Overflow::DropOldest,
            after_sequence: params.after_sequence,
        })?;
        let pump = tokio::spawn(pump(subscription, peer.clone(), params.subscription)).abort_handle();
        if let Some(old) = self.subscriptions().insert(params.subscription, pump) {
            old.abort();
        }
        Ok(json!({"sequence": before}))
    }

    fn unsubscribe(&self, number: u64) {
        if let Some(pump) = self.subscriptions().remove(&number) {
            pump.abort();
        }
    }

    /// Registers something in this peer's name, and takes it back when the peer went meanwhile.
    fn leased(&self, peer: &Connection, register: impl FnOnce() -> Result<()>) -> Result<Value> {
        register()?;
        if peer.is_closed() {
            self.kernel.remove_owner(&self.owner);
        }
        Ok(Value::Null)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Canceller>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscriptions(&self) -> MutexGuard<'_, HashMap<u64, tokio::task::AbortHandle>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forwards events in batches. A peer that reads slowly fills its own bounded queue, and the losses are
/// counted there; nobody else waits for it.
async fn pump(subscription: Subscription, peer: Arc<Connection>, number: u64) {
    let mut lost = 0;
    while let Some(batch) = subscription.next_batch(256).await {
        lost += batch.lost;
        // Large events are sent in parts, each as long as a frame may be.
        let mut parts = vec![batch.events.as_slice()];
        while let Some(part) = parts.pop() {
            let events: Vec<Value> = part.iter().map(|e| Event::to_json(e)).collect();
            let params = json!({
                "subscription": number, "events": events, "lost": lost, "pruned_through": batch.pruned_through,
            });
            match peer.notify("event.batch", params).await {
                Ok(()) => lost = 0,
                Err(e) if e.kind != ErrorKind::InvalidArgument => return,
                Err(_) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                // No frame can carry it.
                Err(_) => lost += 1,
            }
        }
    }
}

fn parse<T: DeserializeOwned>(params: Value) -> Result<T> {
    serde_json::from_value(params)
        .map_err(|e| Error::new(ErrorKind::InvalidArgument, format!("parameters: {e}")))
}
