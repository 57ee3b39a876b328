//! What a peer offers to its host: services and commands that this process answers.
//!
//! They are leases. The client registers them again at each next host, before anybody can ask it anything, and
//! answers what that host asks. Here they are kept in registries like the host's own, so that what blocks, what
//! fails and what is validated are the same in a shared system and in a private one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use semver::{Comparator, Op, Version, VersionReq};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    Client, Connection,
    client::{Link, Shared},
};
use crate::{
    Error, ErrorKind, Result,
    command::{Caller, Canceller, CommandContext, CommandSpec, Commands, Handler},
    owner::Owner,
    service::{Service, ServiceSpec, Services},
};

/// How long a call of a service may take here. The host's caller has a deadline of its own, which is not told.
const LONGEST_CALL: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(super) struct Offers {
    services: Services,
    commands: Commands,
    /// In the order in which they were made.
    leases: Mutex<BTreeMap<u64, Lease>>,
    /// Commands under way, by the host's number.
    running: Mutex<HashMap<u64, Canceller>>,
    /// What is being taken back: its name is free at the host when these are done.
    ending: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicU64,
}

#[derive(Clone)]
struct Lease {
    register: &'static str,
    spec: Value,
    unregister: &'static str,
    id: String,
    /// A host took it, so that the next one has to as well.
    granted: bool,
}

#[derive(Deserialize)]
struct Invoke {
    id: String,
    version: Version,
    method: String,
    #[serde(default)]
    args: Value,
}

#[derive(Deserialize)]
struct Run {
    call: u64,
    path: String,
    #[serde(default)]
    args: Value,
    #[serde(default)]
    caller: Caller,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn owner(number: u64) -> Owner {
    Owner::plugin(format!("offer.{number}"))
}

impl Offers {
    /// Takes a service in. Its number, by which it is leased and taken back.
    pub(super) fn add_service(&self, spec: ServiceSpec, service: Arc<dyn Service>) -> Result<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (id, register, unregister) = (spec.id.clone(), "service.register", "service.unregister");
        let lease = Lease { register, spec: json!(spec), unregister, id, granted: false };
        self.services.register(owner(number), spec, service)?;
        lock(&self.leases).insert(number, lease);
        Ok(number)
    }

    /// Takes a command in.
    pub(super) fn add_command(&self, spec: CommandSpec, handler: Handler) -> Result<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (id, register, unregister) = (spec.path.clone(), "command.register", "command.unregister");
        let lease = Lease { register, spec: json!(spec), unregister, id, granted: false };
        self.commands.register(owner(number), spec, handler)?;
        lock(&self.leases).insert(number, lease);
        Ok(number)
    }

    /// Forgets one: it is answered no more.
    pub(super) fn remove(&self, number: u64) -> Option<(&'static str, Value)> {
        let lease = lock(&self.leases).remove(&number)?;
        self.services.remove_owner(&owner(number));
        self.commands.remove_owner(&owner(number));
        Some((lease.unregister, json!({"id": lease.id})))
    }

    /// Registers one at a host.
    pub(super) async fn register(&self, number: u64, connection: &Connection) -> Result<()> {
        let lease = lock(&self.leases).get(&number).cloned();
        // Taken back meanwhile.
        let Some(lease) = lease else { return Ok(()) };
        connection.request(lease.register, lease.spec).await?;
        if let Some(lease) = lock(&self.leases).get_mut(&number) {
            lease.granted = true;
        }
        Ok(())
    }

    /// Registers all of them at the next host. One that it does not take does not keep us from attaching.
    pub(super) async fn renew(&self, connection: &Connection) {
        let numbers: Vec<u64> =
            lock(&self.leases).iter().filter(|(_, lease)| lease.granted).map(|(number, _)| *number).collect();
        for number in numbers {
            if let Err(e) = self.register(number, connection).await
                && !connection.is_closed()
            {
                tracing::warn!(error = %e, "the next host does not take what this process offers");
            }
        }
    }

    /// Remembers a task that takes something back at the host.
    pub(super) fn ends(&self, task: JoinHandle<()>) {
        let mut ending = lock(&self.ending);
        ending.retain(|task| !task.is_finished());
        ending.push(task);
    }

    /// Waits until what was taken back before is gone at the host.
    pub(super) async fn settled(&self) {
        let ending = std::mem::take(&mut *lock(&self.ending));
        for task in ending {
            let _ = task.await;
        }
    }

    /// Answers the host.
    pub(super) async fn answer(&self, method: &str, params: Value) -> Result<Value> {
        match method {
            "service.invoke" => self.invoke(parse(params)?).await,
            "command.invoke" => self.run(parse(params)?).await,
            _ => Err(Error::new(ErrorKind::NotSupported, format!("this peer does not answer `{method}`"))),
        }
    }

    async fn invoke(&self, invoke: Invoke) -> Result<Value> {
        let Version { major, minor, patch, pre, .. } = invoke.version;
        let exactly = Comparator { op: Op::Exact, major, minor: Some(minor), patch: Some(patch), pre };
        let service = self.services.lookup(&invoke.id, &VersionReq { comparators: vec![exactly] })?;
        service.call(&invoke.method, invoke.args, LONGEST_CALL).await
    }

    async fn run(&self, run: Run) -> Result<Value> {
        struct Running<'o>(&'o Offers, u64);
        impl Drop for Running<'_> {
            fn drop(&mut self) {
                lock(&self.0.running).remove(&self.1);
            }
        }
        let command = self.commands.get(&run.path)?;
        let (cx, canceller) = CommandContext::new(run.caller, None);
        lock(&self.running).insert(run.call, canceller);
        let _running = Running(self, run.call);
        command.run(cx, run.args).await
    }

    /// The host's caller cancelled a command, or has gone.
    pub(super) fn cancel(&self, call: u64) {
        if let Some(canceller) = lock(&self.running).get(&call) {
            canceller.cancel();
        }
    }
}

impl Client {
    /// Offers a service to the system, over its hosts' deaths.
    ///
    /// Errors: `already-exists` when its id and version are taken; `host-unavailable`.
    pub async fn offer_service(&self, spec: ServiceSpec, service: Arc<dyn Service>) -> Result<Offered> {
        self.offer(|offers| offers.add_service(spec, service)).await
    }

    /// Offers a command to the system, over its hosts' deaths. What it emits before its answer goes nowhere.
    ///
    /// Errors: `already-exists` when its path is taken; `invalid-config`; `host-unavailable`.
    pub async fn offer_command(&self, spec: CommandSpec, handler: Handler) -> Result<Offered> {
        self.offer(|offers| offers.add_command(spec, handler)).await
    }

    async fn offer(&self, add: impl FnOnce(&Offers) -> Result<u64>) -> Result<Offered> {
        let number = add(&self.0.offers)?;
        let tasks = tokio::runtime::Handle::current();
        // From here on, dropping it takes it back.
        let offered = Offered { client: Arc::downgrade(&self.0), number, tasks };
        loop {
            self.0.offers.settled().await;
            let connection = self.0.connection().await?;
            let _issuing = self.0.issuing.lock().await;
            match self.0.offers.register(number, &connection).await {
                // To the next host, which has not been asked.
                Err(_) if connection.is_closed() => {}
                registered => return registered.map(|()| offered),
            }
        }
    }
}

/// Something that is offered to the system. Dropping it takes it back.
pub struct Offered {
    client: Weak<Shared>,
    number: u64,
    tasks: tokio::runtime::Handle,
}

impl Offered {
    /// Takes it back: it is answered no more, and the host is told. Does not wait; may be called again.
    pub fn end(&self) {
        let Some(client) = self.client.upgrade() else { return };
        let Some((method, params)) = client.offers.remove(self.number) else { return };
        // Detached, or between two hosts, there is nobody who knows of it.
        let Link::Up { connection, .. } = client.link.borrow().clone() else { return };
        let task = self.tasks.spawn(async move { drop(connection.request(method, params).await) });
        client.offers.ends(task);
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        self.end();
    }
}

fn parse<T: for<'de> Deserialize<'de>>(params: Value) -> Result<T> {
    serde_json::from_value(params).map_err(|e| Error::new(ErrorKind::Protocol, format!("parameters: {e}")))
}
