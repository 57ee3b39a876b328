//! A real host, and peers that speak to it by hand.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentSpec, Create, Message, Status, Stop},
    clock::ManualClock,
    command::{CommandSpec, handler},
    host::Host,
    peer::{Attach, Client, Connection, PeerHandler, SOCKET},
    plugin::{Manifest, Plugin, Registrar},
};
use serde_json::{Value, json};
use tokio::{
    net::UnixStream,
    sync::{mpsc, watch},
};

use crate::common::{PATIENCE, WorkerPlugin, World, describe, soon, type_spec, worker};

pub const GRACEFUL: Stop = Stop::Graceful(Duration::from_secs(5));

/// Commands that take their time, and tell when they were cancelled.
pub struct Slow {
    cancelled: watch::Sender<u32>,
}

impl Plugin for Slow {
    fn manifest(&self) -> Manifest {
        Manifest { id: "test.slow", name: "slow", version: "1.0.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        let count = CommandSpec::new("slow count", "counts")
            .args(json!({"to": {"type": "integer", "minimum": 0, "description": "how far"}}), &["to"])
            .streaming();
        to.command(
            count,
            handler(async |cx, args: Value| {
                let to = args["to"].as_u64().unwrap_or(0);
                cx.progress(0.0, "begins");
                for n in 1..=to {
                    cx.emit(json!(n)).await?;
                }
                Ok(json!({"counted": to}))
            }),
        )?;
        let cancelled = self.cancelled.clone();
        to.command(
            CommandSpec::new("slow wait", "waits to be cancelled").streaming(),
            handler(move |cx, _: Value| {
                let told = Told(cancelled.clone());
                async move {
                    cx.emit(json!("waits")).await?;
                    cx.cancelled().await;
                    drop(told);
                    Err(Error::new(ErrorKind::Cancelled, "cancelled"))
                }
            }),
        )
    }
}

/// Counts a command as ended when it ends, in whatever way.
pub struct Told(watch::Sender<u32>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n += 1);
    }
}

pub struct Side {
    pub host: Host,
    pub clock: Arc<ManualClock>,
    pub cancelled: watch::Receiver<u32>,
}

impl Side {
    pub async fn open(home: &Path) -> Self {
        let clock = ManualClock::shared();
        let (tx, cancelled) = watch::channel(0);
        let plugins: Vec<Arc<dyn Plugin>> =
            vec![Arc::new(WorkerPlugin(Arc::new(World::default()))), Arc::new(Slow { cancelled: tx })];
        let kernel = describe(plugins, &clock);
        let host = Host::open(kernel, home, home).await.expect("the host opens");
        Self { host, clock, cancelled }
    }

    pub fn kernel(&self) -> &Kernel {
        self.host.kernel()
    }

    pub async fn create(&self, spec: AgentSpec) -> Result<Value> {
        soon("a creation", self.kernel().agents().create(spec, Create::default())).await
    }

    pub async fn ask(&self, agent: &str, body: Value) -> Result<Value> {
        let asked = self.kernel().agents().ask(agent, Message::new("test", body), Duration::from_secs(60));
        soon(("an answer of", agent), asked).await
    }

    pub fn status(&self, agent: &str) -> Status {
        self.kernel().agents().state(agent).expect("it is there").status
    }

    pub async fn close(self) {
        soon("the host's end", self.host.close(GRACEFUL)).await.expect("the host closes");
    }
}

pub fn attach(home: &Path) -> Attach {
    Attach { runtime_dir: home.to_owned(), name: "test".into(), start: None, deadline: PATIENCE }
}

pub async fn client(home: &Path) -> Client {
    Client::attach(attach(home)).await.expect("it attaches")
}

/// One life of an agent in a peer.
pub struct PeerLife {
    pub incarnation: u64,
    pub count: u64,
}

/// What a peer of the tests answers: agents that count, and a service that echoes.
#[derive(Default)]
pub struct Runs {
    pub lives: Mutex<HashMap<String, PeerLife>>,
    pub log: Mutex<Vec<String>>,
    /// Notifications, in order.
    pub told: Mutex<Option<mpsc::UnboundedSender<(String, Value)>>>,
    /// What `agent.health` answers.
    pub health: Mutex<Value>,
    pub starts_pending: AtomicBool,
    pub refuses_to_start: AtomicBool,
    pub never_answers: AtomicBool,
    /// Requests that are never answered, so far.
    pub swallowed: watch::Sender<u32>,
}

impl Runs {
    pub fn lives(&self) -> MutexGuard<'_, HashMap<String, PeerLife>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, what: String) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn snapshot(count: u64) -> Value {
        json!({"state_version": 1, "data": BASE64_STANDARD.encode(count.to_string())})
    }

    fn start(&self, params: &Value) -> Result<Value> {
        let (id, incarnation) = (params["id"].as_str().expect("an id"), params["incarnation"].as_u64());
        self.say(format!(
            "start {} {}",
            params["name"].as_str().expect("a name"),
            incarnation.expect("a life")
        ));
        if self.refuses_to_start.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::HandlerFailed, "told not to start"));
        }
        let kept = params["snapshot"]["data"].as_str().map_or(0, |data| {
            let text = BASE64_STANDARD.decode(data).expect("base 64");
            String::from_utf8(text).expect("text").parse().expect("a number")
        });
        let life = PeerLife { incarnation: incarnation.expect("a life"), count: kept };
        assert!(self.lives().insert(id.into(), life).is_none(), "two lives of {id} at once");
        Ok(json!({"ready": !self.starts_pending.load(Ordering::SeqCst)}))
    }

    async fn handle(&self, peer: &Arc<Connection>, params: &Value) -> Result<Value> {
        let (id, body) = (params["id"].as_str().expect("an id"), &params["message"]["body"]);
        match body["do"].as_str().unwrap_or_default() {
            "crash" => {
                let incarnation = self.lives().remove(id).expect("it lives").incarnation;
                let exited = json!({"clean": false, "reason": "crashed in the peer"});
                peer.request("agent.report", json!({"id": id, "incarnation": incarnation, "exited": exited}))
                    .await
            }
            "save" => {
                let count = self.lives()[id].count;
                peer.request("agent.save", json!({"id": id, "snapshot": Self::snapshot(count)})).await
            }
            "fail" => Err(Error::new(ErrorKind::HandlerFailed, "told to fail")),
            _ => {
                let mut lives = self.lives();
                let life = lives.get_mut(id).expect("it lives");
                life.count += 1;
                Ok(life.count.into())
            }
        }
    }
}

#[async_trait]
impl PeerHandler for Runs {
    async fn request(&self, peer: &Arc<Connection>, method: &str, params: Value) -> Result<Value> {
        if self.never_answers.load(Ordering::SeqCst) {
            self.swallowed.send_modify(|n| *n += 1);
            std::future::pending::<()>().await;
        }
        let id = params["id"].as_str().unwrap_or_default();
        match method {
            "agent.start" => self.start(&params),
            "agent.handle" => self.handle(peer, &params).await,
            "agent.health" => Ok(self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            "agent.snapshot" => Ok(self.lives().get(id).map_or(Value::Null, |l| Self::snapshot(l.count))),
            "agent.stop" => {
                self.say(format!("stop {}", params["how"].as_str().expect("how")));
                self.lives().remove(id);
                Ok(Value::Null)
            }
            "service.invoke" => {
                Ok(json!({"method": params["method"], "args": params["args"], "version": params["version"]}))
            }
            "command.invoke" => Ok(json!({"from": "the peer", "args": params["args"]})),
            _ => Err(Error::new(ErrorKind::NotSupported, method.to_owned())),
        }
    }

    async fn notification(&self, _peer: &Arc<Connection>, method: &str, params: Value) {
        if let Some(told) = &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = told.send((method.to_owned(), params));
        }
    }
}

/// A peer that speaks the protocol by hand.
pub struct RawPeer {
    pub connection: Arc<Connection>,
    pub runs: Arc<Runs>,
}

impl RawPeer {
    pub async fn greet(home: &Path) -> Self {
        let stream = UnixStream::connect(home.join(SOCKET)).await.expect("the host listens");
        let runs = Arc::new(Runs::default());
        *runs.health.lock().unwrap_or_else(PoisonError::into_inner) = json!({"status": "healthy"});
        let (read, write) = stream.into_split();
        let connection = Connection::start(read, write, runs.clone());
        let hello = json!({"protocol": {"major": 1, "minor": 0}, "client": {"name": "raw"}});
        let answer = connection.request("hello", hello).await.expect("a greeting");
        assert_eq!(answer["host"]["pid"], std::process::id());
        Self { connection, runs }
    }

    pub async fn ask(&self, method: &str, params: Value) -> Result<Value> {
        soon(method.to_owned(), self.connection.request(method, params)).await
    }

    pub async fn offer(&self, version: &str) -> Result<Value> {
        self.ask("type.register", json!(type_spec("remote", version))).await
    }

    /// The peer dies, as the host sees it.
    pub fn die(self) {
        self.connection.close();
    }
}

pub fn remote(name: &str) -> AgentSpec {
    AgentSpec { kind: "remote".into(), ..worker(name) }
}
