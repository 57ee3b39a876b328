//! One server process and the clients that share it: started when it is first needed, stopped when it is not,
//! and brought back to where it was by saying again what its clients once said.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Result,
    clock::{Mono, SharedClock},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::{
    link::{Launch, Line, Said, Way},
    message::{self, Kind, META_CAPABILITIES, META_VERSION, Message},
    modern,
    mux::Mux,
    stream::Stream,
};

/// How long a server may take to answer the first request.
const START: Duration = Duration::from_secs(120);
/// For how long a server that refused the first request is taken at its word.
const REFUSED: Duration = Duration::from_secs(60);
/// Messages of clients that may wait to be written to a server.
const ROOM: usize = 256;

/// With whom a process may be shared: clients that agreed on the same protocol and offer the same to the server.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Key {
    /// The version and capabilities of an `initialize`.
    Legacy {
        /// The version the client asked for.
        version: String,
        /// What the client can be asked for.
        capabilities: Value,
    },
    /// From 2026-07-28 on a request says everything itself.
    Modern,
}

/// What a server answered first: to `initialize`, or to `server/discover`.
pub(super) struct Hello {
    params: Value,
    /// The result, as it was written.
    pub(super) result: String,
    /// The result.
    pub(super) value: Value,
}

/// The answer to the first request.
pub(super) enum Greeting {
    /// The server is there.
    Welcome(Arc<Hello>),
    /// The server refused, with this error.
    Refused(Value),
}

/// A server process and its clients.
pub(super) struct Unit {
    /// Its number within the pool.
    pub(super) number: u64,
    /// Who may share it.
    pub(super) key: Key,
    /// Whether it belongs to one client.
    pub(super) alone: bool,
    launcher: Arc<dyn Launch>,
    clock: SharedClock,
    room: Arc<Semaphore>,
    starting: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
    /// Tool schemas of the running process.
    pub(super) tools: tokio::sync::Mutex<Option<modern::Tools>>,
    tools_stale: AtomicBool,
    /// How many processes there are: one, and for a moment one more that is still going.
    processes: watch::Sender<usize>,
}

#[derive(Default)]
struct Inner {
    mux: Mux,
    to: Option<Way>,
    ready: bool,
    /// No process may be started any more.
    retired: bool,
    life: u64,
    hello: Option<Arc<Hello>>,
    used: Mono,
    /// The server's error to the first request, and when.
    refused: Option<(Mono, Value)>,
    /// Why the last life ended.
    ended: Option<String>,
}

impl Unit {
    /// A unit whose server is not started yet.
    pub(super) fn new(
        number: u64,
        key: Key,
        alone: bool,
        launcher: Arc<dyn Launch>,
        clock: SharedClock,
    ) -> Arc<Self> {
        let inner = Mutex::new(Inner { used: clock.now(), ..Inner::default() });
        let (room, processes) = (Arc::new(Semaphore::new(ROOM)), watch::Sender::new(0));
        let (starting, tools) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        let tools_stale = AtomicBool::new(true);
        Arc::new(Self {
            number,
            key,
            alone,
            launcher,
            clock,
            room,
            starting,
            inner,
            tools,
            tools_stale,
            processes,
        })
    }

    /// Whether a process runs for it.
    pub(super) fn running(&self) -> bool {
        self.lock().to.is_some()
    }

    /// When it was last used.
    pub(super) fn used(&self) -> Mono {
        self.lock().used
    }

    /// Whether the list of tools may have changed since this was last asked.
    pub(super) fn take_tools_stale(&self) -> bool {
        self.tools_stale.swap(false, Ordering::Relaxed)
    }

    /// Looks at, or changes, who is served; what that has to say to the server is sent.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Mux) -> T) -> T {
        let mut inner = self.lock();
        inner.used = self.clock.now();
        let value = f(&mut inner.mux);
        inner.flush(None);
        value
    }

    /// Looks without counting as use.
    pub(super) fn peek<T>(&self, f: impl FnOnce(&Mux) -> T) -> T {
        f(&self.lock().mux)
    }

    /// Sends a client's request, starting the server if need be. Waits while too much waits to be written.
    ///
    /// # Errors
    /// When the server cannot be started.
    pub(super) async fn request(
        self: &Arc<Self>,
        seat: Option<u64>,
        request: &Message,
        on: &Arc<Stream>,
    ) -> Result<u64> {
        let place = self.room.clone().acquire_owned().await.map_err(|_| gone("the pool is stopping"))?;
        self.up().await?;
        let mut inner = self.lock();
        inner.used = self.clock.now();
        let number = inner.mux.request(seat, request, on);
        inner.flush(Some(place));
        if inner.to.is_none() {
            // It went between the two locks: its last words reached everybody but this request.
            let why = inner.ended.clone().unwrap_or_default();
            inner.mux.server_gone(&why);
        }
        Ok(number)
    }

    /// A client's notification, or its answer to a question. Waits while too much waits to be written, but for what
    /// there can be only once for each request and each question.
    pub(super) async fn pass(&self, seat: u64, message: &Message) {
        let bounded = message.kind == Kind::Response || message.method == "notifications/cancelled";
        let place = if bounded { None } else { self.room.clone().acquire_owned().await.ok() };
        let mut inner = self.lock();
        inner.used = self.clock.now();
        match message.kind {
            Kind::Notification => inner.mux.notification(seat, message),
            _ => inner.mux.response(seat, message),
        }
        inner.flush(place);
    }

    /// A request of the pool itself.
    ///
    /// # Errors
    /// When the server cannot be started, or goes before it answers.
    pub(super) async fn ask(self: &Arc<Self>, method: &str, params: Option<&Value>) -> Result<Message> {
        self.up().await?;
        let answer = self.with(|mux| mux.ask(method, params));
        tokio::time::timeout(START, answer)
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, format!("the server did not answer `{method}`")))?
            .map_err(|_| self.why())
    }

    /// The server's first answer: from memory, or by starting it with the client's `params`.
    ///
    /// # Errors
    /// When the server cannot be started or does not answer.
    pub(super) async fn greet(self: &Arc<Self>, params: Value) -> Result<Greeting> {
        let unit = self.clone();
        // A client that gives up must not leave a server half started: the task goes on without it.
        let task = tokio::spawn(async move {
            let _one = unit.starting.lock().await;
            if let Some(hello) = unit.lock().hello.clone() {
                return Ok(Greeting::Welcome(hello));
            }
            if let Some((at, error)) = unit.lock().refused.clone()
                && unit.clock.now() < at + REFUSED
            {
                return Ok(Greeting::Refused(error));
            }
            unit.launch()?;
            let greeting = unit.say_hello(params).await;
            if !matches!(greeting, Ok(Greeting::Welcome(_))) {
                unit.stop("the server did not accept the first request");
            }
            if let Ok(Greeting::Refused(error)) = &greeting {
                unit.lock().refused = Some((unit.clock.now(), error.clone()));
            }
            greeting
        });
        task.await.unwrap_or_else(|e| Err(Error::internal(format!("the start of a server failed: {e}"))))
    }

    async fn say_hello(self: &Arc<Self>, params: Value) -> Result<Greeting> {
        let method = if self.key == Key::Modern { "server/discover" } else { "initialize" };
        let answer = self.with(|mux| mux.ask(method, Some(&params)));
        let said = tokio::time::timeout(START, answer)
            .await
            .map_err(|_| Error::new(ErrorKind::Timeout, format!("the server did not answer `{method}`")))?
            .map_err(|_| self.why())?;
        if let Some(error) = said.error() {
            return Ok(Greeting::Refused(error));
        }
        let result = said.result().unwrap_or("{}").to_owned();
        let value: Value = serde_json::from_str(&result).unwrap_or_default();
        if self.key == Key::Modern && modern::spoken(&value).is_empty() {
            // Not every server answers what it does not know with an error.
            return Ok(Greeting::Refused(json!({ "message": "it lists no such version" })));
        }
        let hello = Arc::new(Hello { params, result, value });
        let mut inner = self.lock();
        inner.hello = Some(hello.clone());
        inner.settle_in(&self.key, false);
        Ok(Greeting::Welcome(hello))
    }

    /// The server's first answer, if it is known.
    pub(super) fn hello(&self) -> Option<Arc<Hello>> {
        self.lock().hello.clone()
    }

    /// Makes sure that a process runs which knows what its clients said.
    async fn up(self: &Arc<Self>) -> Result<()> {
        if self.lock().ready {
            return Ok(());
        }
        let unit = self.clone();
        let task = tokio::spawn(async move {
            let _one = unit.starting.lock().await;
            if unit.lock().ready {
                return Ok(());
            }
            let hello = unit.hello().ok_or_else(|| unit.why())?;
            unit.launch()?;
            if unit.key == Key::Modern {
                unit.lock().ready = true;
                return Ok(());
            }
            let answer = unit.with(|mux| mux.ask("initialize", Some(&hello.params)));
            let said = match tokio::time::timeout(START, answer).await {
                Ok(Ok(said)) => said,
                Ok(Err(_)) => return Err(unit.why()),
                Err(_) => {
                    unit.stop("the server did not answer `initialize`");
                    return Err(unit.why());
                }
            };
            if let Some(error) = said.error() {
                unit.stop("the server refused the handshake it once accepted");
                return Err(gone(format!("the server refused to start again: {error}")));
            }
            unit.lock().settle_in(&unit.key, true);
            Ok(())
        });
        task.await.unwrap_or_else(|e| Err(Error::internal(format!("the start of a server failed: {e}"))))
    }

    fn launch(self: &Arc<Self>) -> Result<()> {
        let link = self.launcher.launch()?;
        let life = {
            let mut inner = self.lock();
            if inner.retired {
                return Err(gone("its clients have gone"));
            }
            inner.to = Some(link.to);
            inner.ready = false;
            inner.life += 1;
            inner.used = self.clock.now();
            inner.life
        };
        self.processes.send_modify(|n| *n += 1);
        let (unit, mut from) = (self.clone(), link.from);
        tokio::spawn(async move {
            let mut why = String::from("the server has ended");
            while let Some(said) = from.recv().await {
                match said {
                    Said::Line(line) => unit.hear(life, &line),
                    Said::Over(reason) => why = reason,
                }
            }
            unit.ended(life, &why);
        });
        Ok(())
    }

    fn hear(&self, life: u64, line: &str) {
        let Ok((messages, _)) = message::messages(line) else {
            tracing::warn!(
                unit = self.number,
                bytes = line.len(),
                "the server wrote a line that is no message"
            );
            return;
        };
        let mut inner = self.lock();
        if inner.life != life {
            return;
        }
        if messages.iter().any(|m| m.kind == Kind::Response) {
            inner.used = self.clock.now(); // a server that talks to itself is idle all the same
        }
        messages.into_iter().for_each(|m| inner.mux.hear(m));
        if inner.mux.take_tools_changed() {
            self.tools_stale.store(true, Ordering::Relaxed);
        }
        inner.flush(None);
    }

    fn ended(&self, life: u64, why: &str) {
        let mut inner = self.lock();
        if inner.life == life {
            inner.over(why);
            self.tools_stale.store(true, Ordering::Relaxed);
        }
        drop(inner);
        self.processes.send_modify(|n| *n -= 1);
    }

    /// Ends the process; its clients keep their seats, and the next request starts another one.
    pub(super) fn stop(&self, why: &str) {
        self.lock().over(why);
    }

    /// Ends the process for good: a start that is under way comes to nothing.
    pub(super) fn retire(&self, why: &str) {
        let mut inner = self.lock();
        inner.retired = true;
        inner.over(why);
    }

    /// Completes when no process runs any more.
    pub(super) async fn stopped(&self) {
        let _ = self.processes.subscribe().wait_for(|n| *n == 0).await;
    }

    fn why(&self) -> Error {
        gone(self.lock().ended.clone().unwrap_or_else(|| "the server has ended".into()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn flush(&mut self, mut place: Option<tokio::sync::OwnedSemaphorePermit>) {
        for text in self.mux.take_out() {
            if let Some(to) = &self.to {
                // An error means that the server just went; its end is on the way by the other channel.
                let _ = to.lines.send(Line { text, _place: place.take() });
            }
        }
    }

    /// After the first answer: the server is told that the client is ready, and what was so before.
    fn settle_in(&mut self, key: &Key, again: bool) {
        if *key != Key::Modern {
            self.flush(None);
            let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
            if let Some(to) = &self.to {
                let _ = to.lines.send(Line { text: ready.to_string(), _place: None });
            }
            if again {
                self.mux.restore();
            }
        }
        self.flush(None);
        self.ready = true;
    }

    fn over(&mut self, why: &str) {
        self.to = None;
        self.ready = false;
        self.ended = Some(why.into());
        self.mux.server_gone(why);
    }
}

fn gone(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::ServiceUnavailable, why)
}

/// The parameters of a request that the pool makes for itself from 2026-07-28 on.
pub(super) fn own_meta(version: &str) -> Value {
    json!({ "_meta": {
        META_VERSION: version,
        META_CAPABILITIES: {},
        "io.modelcontextprotocol/clientInfo": { "name": "codex-hms", "version": env!("CARGO_PKG_VERSION") },
    } })
}
