//! The other side: finds the home's host, starts one when there is none, and outlives it.
//!
//! A client keeps attached: when the host dies, every client races to start the next one (the home's lock
//! lets exactly one win), greets it, and renews its subscriptions from where they were. Requests under way
//! fail and say so; requests made meanwhile wait.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hms_queue::{Batch, Overflow, Queue};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixStream,
    sync::watch,
    time::Instant,
};

use super::{Connection, MAX_FRAME, PROTOCOL_MAJOR, PROTOCOL_MINOR, PeerHandler, SOCKET, offers::Offers};
use crate::{
    Error, ErrorKind, Result,
    command::{Caller, Update},
    event::{Event, EventDraft, MAX_WAITING},
    host::STOPPED,
    kernel,
};

/// The command line that runs a host. It must print `ready` when it listens, `busy` when another one has
/// the home, or an error as JSON, as its first line, and close its standard output.
#[derive(Debug, Clone)]
pub struct HostCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where its standard error goes.
    pub log: PathBuf,
}

/// How to attach.
#[derive(Debug, Clone)]
pub struct Attach {
    /// The folder of the host's socket.
    pub runtime_dir: PathBuf,
    /// Who attaches, for the host's log.
    pub name: String,
    /// How to start a host when there is none; `None`: never start one.
    pub start: Option<HostCommand>,
    /// How long finding or starting a host may take, and how long one may be silent when it is asked whether it
    /// is there.
    pub deadline: Duration,
}

/// A peer attached to a home's host. Cheap to clone; the last one dropped detaches.
#[derive(Clone)]
pub struct Client(
    pub(super) Arc<Shared>,
    #[expect(dead_code, reason = "dropping the last one detaches")] Arc<Detach>,
);

struct Detach(Arc<Shared>);

impl Drop for Detach {
    fn drop(&mut self) {
        self.0.detach();
    }
}

pub(super) struct Shared {
    attach: Attach,
    pub(super) link: watch::Sender<Link>,
    next: AtomicU64,
    /// Where updates of running commands go, by call.
    calls: Mutex<HashMap<u64, tokio::sync::mpsc::UnboundedSender<Update>>>,
    subscriptions: Mutex<HashMap<u64, Arc<Remote>>>,
    pub(super) offers: Offers,
    /// The host said that it is being stopped: do not start another.
    stopping: AtomicBool,
    detached: AtomicBool,
    /// Held while subscriptions are issued: each is issued once on each connection.
    pub(super) issuing: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
pub(super) enum Link {
    Up { connection: Arc<Connection>, host: Arc<Value> },
    Down,
    Over(Error),
}

struct Remote {
    params: Value,
    queue: Queue<Event>,
    /// The journal's sequence up to which everything has arrived, where that is known: where to go on after the
    /// host died.
    cursor: Mutex<Option<u64>>,
    /// The host granted it, so that the next one has to as well.
    granted: AtomicBool,
}

impl Client {
    /// Attaches to the host, starting one if need be and allowed.
    ///
    /// Errors: `host-unavailable` (there is none and none may or could be started), `version-mismatch`,
    /// and what the started host reports (a corrupt store, a malformed configuration).
    pub async fn attach(attach: Attach) -> Result<Self> {
        let (link, _) = watch::channel(Link::Down);
        let shared = Arc::new(Shared {
            attach,
            link,
            next: AtomicU64::new(1),
            calls: Mutex::default(),
            subscriptions: Mutex::default(),
            offers: Offers::default(),
            stopping: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            issuing: tokio::sync::Mutex::default(),
        });
        shared.connect(false).await?;
        tokio::spawn(shared.clone().keep_attached());
        Ok(Self(shared.clone(), Arc::new(Detach(shared))))
    }

    /// What the host said of itself: `pid`, `version`, `home`, `started_ms`.
    pub fn host(&self) -> Option<Arc<Value>> {
        match &*self.0.link.borrow() {
            Link::Up { host, .. } => Some(host.clone()),
            Link::Down | Link::Over(_) => None,
        }
    }

    /// Asks the host; waits for the next one while there is none.
    pub async fn request(&self, method: &str, params: Value) -> Result<Value> {
        let connection = self.0.connection().await?;
        let answer = connection.request(method, params).await;
        match answer {
            Err(e) if e.kind == ErrorKind::HostUnavailable && connection.is_closed() => {
                if let Some(why) = connection.why() {
                    return Err(why.clone());
                }
                Err(Error::new(ErrorKind::HostUnavailable, "the host went away before it answered")
                    .hint("it may or may not have done what was asked: look, then ask again"))
            }
            answer => answer,
        }
    }

    /// Runs a command in the host. `on_update` is called, in order, with what it says meanwhile; dropping the
    /// future cancels the command. One that told how to go on ([`Update::Resume`]) goes on at the next host
    /// when this one dies.
    pub async fn run(
        &self,
        path: &str,
        args: Value,
        caller: Caller,
        mut on_update: impl FnMut(Update),
    ) -> Result<Value> {
        let (mut args, mut resumable) = (args, false);
        loop {
            let mut next = args.clone();
            let updates = |update| match update {
                Update::Resume { args: Value::Object(changed) } => {
                    resumable = true;
                    if let Some(next) = next.as_object_mut() {
                        next.extend(changed);
                    }
                }
                Update::Resume { .. } => {}
                update => on_update(update),
            };
            match self.run_once(path, args, caller.clone(), updates).await {
                Err(e) if e.kind == ErrorKind::HostUnavailable && resumable => {
                    // The reason, should there be no next one.
                    self.0.connection().await?;
                    args = next;
                }
                outcome => return outcome,
            }
        }
    }

    async fn run_once(
        &self,
        path: &str,
        args: Value,
        caller: Caller,
        on_update: impl FnMut(Update),
    ) -> Result<Value> {
        let call = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (tx, mut updates) = tokio::sync::mpsc::unbounded_channel();
        self.0.calls().insert(call, tx);
        let mut guard = CallGuard { shared: &self.0, call, done: false };
        let params = json!({"call": call, "path": path, "args": args, "caller": caller});
        let request = self.request("command.run", params);
        let outcome = Update::until(request, |cx| updates.poll_recv(cx), on_update).await;
        guard.done = true;
        outcome
    }

    /// Subscribes to events of the host, over its deaths.
    pub async fn subscribe(
        &self,
        patterns: Vec<String>,
        filter: Option<String>,
        capacity: usize,
        after_sequence: Option<u64>,
    ) -> Result<RemoteSubscription> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let params = json!({
            "subscription": number, "patterns": patterns, "filter": filter,
            "capacity": capacity, "after_sequence": after_sequence,
        });
        let remote = Arc::new(Remote {
            params: params.clone(),
            queue: Queue::new(capacity.max(1), Overflow::DropOldest).weighed(MAX_WAITING, Event::weight),
            cursor: Mutex::new(after_sequence),
            granted: AtomicBool::new(false),
        });
        self.0.subscriptions().insert(number, remote.clone());
        // From here on, dropping it takes it out again.
        let subscription = RemoteSubscription { client: self.clone(), number, remote };
        loop {
            let connection = self.0.connection().await?;
            let _issuing = self.0.issuing.lock().await;
            match subscription.remote.issue(&connection, params.clone()).await {
                // To the next host, which has not been asked for it.
                Err(_) if connection.is_closed() => {}
                issued => return issued.map(|()| subscription),
            }
        }
    }

    /// Publishes events in order, in as few messages as their sizes allow.
    ///
    /// Errors: `invalid-argument` when one is faulty, and then none is published; `host-unavailable`, and then
    /// those that went in earlier messages are.
    pub async fn publish_all(&self, drafts: &[EventDraft]) -> Result<()> {
        let events = drafts.iter().map(EventDraft::to_json).collect::<Result<Vec<_>>>()?;
        let (mut part, mut weight) = (Vec::new(), 0);
        for (event, draft) in events.into_iter().zip(drafts) {
            if weight + draft.weight() > MAX_FRAME / 4 && !part.is_empty() {
                let events = std::mem::take(&mut part);
                self.request("event.publish_batch", json!({"events": events})).await?;
                weight = 0;
            }
            weight += draft.weight();
            part.push(event);
        }
        if part.is_empty() {
            return Ok(());
        }
        self.request("event.publish_batch", json!({"events": part})).await.map(drop)
    }

    /// Asks the host to end (or, with `detach`, to let the next one take its agents over), and waits until it
    /// has.
    pub async fn shut_down_host(&self, detach: bool) -> Result<Value> {
        self.0.stopping.store(true, Ordering::Release);
        let connection = self.0.connection().await?;
        let answer = connection.request("host.shutdown", json!({"detach": detach})).await?;
        connection.ended().await;
        Ok(answer)
    }

    /// Completes with the reason when there is no host any more and none can be started.
    pub async fn over(&self) -> Error {
        let mut link = self.0.link.subscribe();
        let link = link.wait_for(|l| matches!(l, Link::Over(_))).await;
        match link.as_deref() {
            Ok(Link::Over(e)) => e.clone(),
            _ => Error::new(ErrorKind::HostUnavailable, "detached"),
        }
    }
}

struct CallGuard<'c> {
    shared: &'c Arc<Shared>,
    call: u64,
    done: bool,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.shared.calls().remove(&self.call);
        if !self.done
            && let Link::Up { connection, .. } = &*self.shared.link.borrow()
        {
            let _ = connection.try_notify("command.cancel", json!({"call": self.call}));
        }
    }
}

/// A subscription to a host's events.
pub struct RemoteSubscription {
    client: Client,
    number: u64,
    remote: Arc<Remote>,
}

impl RemoteSubscription {
    /// The next events, with how many were lost before them; `None` when there will be no more.
    pub async fn next_batch(&mut self, max: usize) -> Option<Batch<Event>> {
        self.remote.queue.recv_batch(max).await
    }
}

impl Drop for RemoteSubscription {
    fn drop(&mut self) {
        self.client.0.subscriptions().remove(&self.number);
        if let Link::Up { connection, .. } = &*self.client.0.link.borrow() {
            // Detached: the host forgets the subscription with the connection if this does not arrive.
            let _ = connection.try_notify("event.unsubscribe", json!({"subscription": self.number}));
        }
    }
}

impl Remote {
    /// Asks a host for it.
    async fn issue(&self, connection: &Connection, params: Value) -> Result<()> {
        let answer = connection.request("event.subscribe", params).await?;
        if let Some(sequence) = answer["sequence"].as_u64() {
            // Of one that begins now: what was journaled before is not wanted.
            self.cursor().get_or_insert(sequence);
        }
        self.granted.store(true, Ordering::Release);
        Ok(())
    }

    /// Asks the next host for it, from where the last one was.
    async fn renew(&self, connection: &Connection) -> Result<()> {
        let mut params = self.params.clone();
        let cursor = *self.cursor();
        let mut patterns = params["patterns"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if cursor.is_none() || !patterns.all(kernel::is_journaled) {
            // What is not in the journal cannot be read again: some are missing, how many nobody knows.
            self.queue.record_lost(1);
        }
        if let Some(cursor) = cursor {
            params["after_sequence"] = cursor.into();
        }
        self.issue(connection, params).await
    }

    fn cursor(&self) -> MutexGuard<'_, Option<u64>> {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// A living connection; waits for the next one while there is none.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>> {
        let mut link = self.link.subscribe();
        let wait = link.wait_for(|l| match l {
            Link::Up { connection, .. } => !connection.is_closed(),
            Link::Down => false,
            Link::Over(_) => true,
        });
        match tokio::time::timeout(self.attach.deadline, wait).await {
            Ok(Ok(link)) => match &*link {
                Link::Up { connection, .. } => Ok(connection.clone()),
                Link::Over(e) => Err(e.clone()),
                Link::Down => Err(Error::internal("waited for a link and got none")),
            },
            Ok(Err(_)) => Err(Error::new(ErrorKind::HostUnavailable, "detached")),
            Err(_) => Err(Error::new(
                ErrorKind::HostUnavailable,
                format!("no host within {}", crate::duration::format(self.attach.deadline)),
            )),
        }
    }

    /// Finds or starts a host and greets it. `again`: there was one, and others may be starting the next.
    async fn connect(self: &Arc<Self>, again: bool) -> Result<()> {
        let socket = self.attach.runtime_dir.join(SOCKET);
        let until = Instant::now() + self.attach.deadline;
        let mut pause = Duration::from_millis(5);
        let mut stillborn = 0;
        loop {
            if self.detached.load(Ordering::Acquire) {
                return Err(Error::new(ErrorKind::HostUnavailable, "detached"));
            }
            match UnixStream::connect(&socket).await {
                Ok(stream) => match self.greet_within(stream, until).await {
                    // It died while we greeted it: on to the next one.
                    Err(e) if e.kind == ErrorKind::HostUnavailable && Instant::now() < until => {}
                    greeted => return greeted,
                },
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(Error::io(socket.display(), &e));
                }
                Err(_) => {}
            }
            match &self.attach.start {
                Some(command) => match start_host(command, until).await? {
                    Began::Ready => continue,
                    // Another process owns the home and just begins or ends; there is nothing to wait on.
                    Began::Busy => {}
                    // Killed, perhaps; one that cannot live dies again.
                    Began::Died if stillborn < STILLBORN => stillborn += 1,
                    Began::Died => return Err(command.failed("the host ended before it was ready")),
                },
                None if again => {}
                None => {
                    return Err(Error::new(ErrorKind::HostUnavailable, "no host runs for this home")
                        .hint("start one with `system run`"));
                }
            }
            if Instant::now() >= until {
                return Err(Error::new(ErrorKind::HostUnavailable, format!("no host listens at {}", socket.display()))
                    .hint("a process owns the home but does not answer: `system status` and the host's log tell more"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Greets, but a host that is stopped or hangs shall not hang us.
    async fn greet_within(self: &Arc<Self>, stream: UnixStream, until: Instant) -> Result<()> {
        let host = hms_os::host::peer_credentials(&stream)
            .map(|peer| format!(" (pid {})", peer.pid))
            .unwrap_or_default();
        let silent = |within: Duration| {
            let within = crate::duration::format(within);
            let what = format!("the host{host} does not answer within {within}");
            Error::new(ErrorKind::HostUnavailable, what)
                .hint("end it with `kill -9`: agents outlive it, and the next command starts another")
        };
        let quiet = self.attach.deadline / 2;
        tokio::time::timeout_at(until, self.greet(stream, quiet, silent(quiet * 2)))
            .await
            .unwrap_or_else(|_| Err(silent(self.attach.deadline)))
    }

    async fn greet(self: &Arc<Self>, stream: UnixStream, quiet: Duration, silent: Error) -> Result<()> {
        let (read, write) = stream.into_split();
        let connection = Connection::start(read, write, Arc::new(Inbound(self.clone())));
        // One that comes to nothing is not left open: it would keep the host's session and our descriptor.
        let unless_up = CloseOnDrop(Some(connection.clone()));
        let hello = json!({
            "protocol": {"major": PROTOCOL_MAJOR, "minor": PROTOCOL_MINOR},
            "client": {"name": self.attach.name, "version": env!("CARGO_PKG_VERSION"), "pid": std::process::id()},
        });
        let mut answer = connection.request("hello", hello).await?;
        let host = Arc::new(answer.get_mut("host").map(Value::take).unwrap_or_default());
        let _issuing = self.issuing.lock().await;
        let granted = |remote: &&Arc<Remote>| remote.granted.load(Ordering::Acquire);
        let renew: Vec<_> = self.subscriptions().values().filter(granted).cloned().collect();
        for remote in renew {
            match remote.renew(&connection).await {
                Err(e) if connection.is_closed() => return Err(e),
                Err(e) => {
                    // The next host may know less than the last one. That is the end of this one alone.
                    tracing::warn!(error = %e, "a subscription was refused by the next host and ends");
                    remote.queue.close();
                }
                Ok(()) => {}
            }
        }
        self.offers.renew(&connection).await;
        // A host that hangs later must not leave anybody waiting for ever.
        let watched = connection.clone();
        tokio::spawn(async move { watched.keep_alive(quiet, silent).await });
        self.link.send_replace(Link::Up { connection, host });
        if self.detached.load(Ordering::Acquire) {
            // Meanwhile: whoever detached saw no link to close.
            return Err(Error::new(ErrorKind::HostUnavailable, "detached"));
        }
        unless_up.keep();
        Ok(())
    }

    /// Waits for the host to go, and races for the next one.
    async fn keep_attached(self: Arc<Self>) {
        loop {
            let connection = match &*self.link.borrow() {
                Link::Up { connection, .. } => connection.clone(),
                Link::Down | Link::Over(_) => return,
            };
            connection.ended().await;
            if self.detached.load(Ordering::Acquire) {
                return;
            }
            if self.stopping.load(Ordering::Acquire) || self.attach.runtime_dir.join(STOPPED).exists() {
                return self.end(Error::new(ErrorKind::HostUnavailable, "the host was stopped"));
            }
            self.link.send_replace(Link::Down);
            if let Err(e) = self.connect(true).await {
                return self.end(e);
            }
        }
    }

    fn end(&self, why: Error) {
        self.link.send_replace(Link::Over(why));
        for remote in self.subscriptions().values() {
            remote.queue.close();
        }
    }

    fn detach(&self) {
        self.detached.store(true, Ordering::Release);
        let link = self.link.send_replace(Link::Over(Error::new(ErrorKind::HostUnavailable, "detached")));
        if let Link::Up { connection, .. } = link {
            connection.close();
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, tokio::sync::mpsc::UnboundedSender<Update>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscriptions(&self) -> MutexGuard<'_, HashMap<u64, Arc<Remote>>> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a connection unless it is kept.
struct CloseOnDrop(Option<Arc<Connection>>);

impl CloseOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close();
        }
    }
}

struct Inbound(Arc<Shared>);

#[async_trait]
impl PeerHandler for Inbound {
    async fn request(&self, _peer: &Arc<Connection>, method: &str, params: Value) -> Result<Value> {
        self.0.offers.answer(method, params).await
    }

    async fn notification(&self, _peer: &Arc<Connection>, method: &str, mut params: Value) {
        match method {
            "event.batch" => self.take_events(&mut params),
            "command.update" => {
                let call = params["call"].as_u64().unwrap_or_default();
                if let Some(call) = self.0.calls().get(&call)
                    && let Ok(update) = serde_json::from_value(params["update"].take())
                {
                    let _ = call.send(update);
                }
            }
            "command.cancel" => self.0.offers.cancel(params["call"].as_u64().unwrap_or_default()),
            "host.stopping" if !params["restart"].as_bool().unwrap_or(false) => {
                self.0.stopping.store(true, Ordering::Release);
            }
            _ => {}
        }
    }
}

impl Inbound {
    fn take_events(&self, params: &mut Value) {
        let Some(number) = params["subscription"].as_u64() else { return };
        let Some(remote) = self.0.subscriptions().get(&number).cloned() else { return };
        remote.queue.record_lost(params["lost"].as_u64().unwrap_or(0));
        let Value::Array(events) = params["events"].take() else { return };
        for event in events {
            match Event::from_json(event) {
                Ok(event) => {
                    if let Some(sequence) = event.sequence {
                        let mut cursor = remote.cursor();
                        *cursor = (*cursor).max(Some(sequence));
                    }
                    let _ = remote.queue.push(event);
                }
                Err(e) => tracing::warn!(error = %e, "the host sent an event that is none"),
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Began {
    /// It listens.
    Ready,
    /// Another one has the home.
    Busy,
    /// It ended without a word.
    Died,
}

/// Hosts in a row that may die before they are ready.
const STILLBORN: u32 = 3;

/// Starts a host and waits for its first line.
async fn start_host(command: &HostCommand, until: Instant) -> Result<Began> {
    let failed = |what: String| command.failed(&what);
    if let Some(home) = command.log.parent() {
        hms_os::files::create_private_dir(home).map_err(|e| Error::io(home.display(), &e))?;
    }
    let log = hms_os::files::append(&command.log).map_err(|e| Error::io(command.log.display(), &e))?;
    let mut child = std::process::Command::new(&command.program)
        .args(&command.args)
        // Started from inside an agent it would otherwise count as a part of it.
        .env_remove("HMS_AGENT")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|e| failed(format!("could not start a host ({}): {e}", command.program.display())))?;
    let stdout = child.stdout.take().ok_or_else(|| Error::internal("a piped stdout is there"))?;
    // Whoever starts a host must also reap it, should it end first.
    std::thread::Builder::new()
        .name("hms-host-reaper".into())
        .stack_size(64 << 10)
        .spawn(move || child.wait())
        .map_err(|e| Error::io("starting a thread", &e))?;
    let receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(stdout.into())
        .map_err(|e| Error::io("a pipe", &e))?;
    let mut line = String::new();
    let mut reader = BufReader::new(receiver);
    match tokio::time::timeout_at(until, reader.read_line(&mut line)).await {
        Err(_) => return Err(failed("the host did not become ready in time".into())),
        Ok(Err(e)) => return Err(failed(format!("the host could not be heard: {e}"))),
        Ok(Ok(_)) => {}
    }
    match line.trim() {
        "ready" => Ok(Began::Ready),
        "busy" => Ok(Began::Busy),
        "" => Ok(Began::Died),
        text => {
            Err(serde_json::from_str::<Error>(text)
                .unwrap_or_else(|_| failed(format!("the host said: {text}"))))
        }
    }
}

/// The files of a home that clients and hosts agree on.
impl HostCommand {
    /// `program args… ` for `home`, logging to `<home>/host.log`.
    pub fn new(program: impl Into<PathBuf>, args: Vec<String>, home: &Path) -> Self {
        Self { program: program.into(), args, log: home.join("host.log") }
    }

    fn failed(&self, what: &str) -> Error {
        Error::new(ErrorKind::HostUnavailable, what).hint(format!("its log is {}", self.log.display()))
    }
}
