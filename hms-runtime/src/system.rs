//! The façade: one system, whether it lives in this process or is another's that we attach to.

use std::{
    future::poll_fn,
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{Message, STOP_DEADLINE, Stop},
    clock::Rng,
    command::{Caller, CommandContext, Update},
    event::{Event, EventDraft, Overflow, Subscribe, Subscription},
    host,
    os::files::HomeLock,
    peer::{Attach, Client, HostCommand, RemoteSubscription},
    plugin::Plugin,
    service::{ServiceRef, ServiceSpec},
};
use semver::VersionReq;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{home, organs};

/// How a system is opened.
#[derive(Debug, Clone)]
pub enum Open {
    /// In this process alone: on a home of its own, or without one, gone when it is closed.
    Private {
        /// The home; nobody else may own it.
        home: Option<PathBuf>,
    },
    /// Attached to the home's host.
    Shared {
        /// The home; none means the user's own.
        home: Option<PathBuf>,
        /// The program that runs a host (as `<program> system run`) when there is none.
        start_host: Option<PathBuf>,
    },
}

/// How long finding or starting a host may take.
const ATTACH_DEADLINE: Duration = Duration::from_secs(20);

/// An open system. Cheap to clone.
#[derive(Clone)]
pub struct System(Arc<Place>);

pub(crate) enum Place {
    Here { kernel: Kernel, files: PrivateFiles },
    Elsewhere(Client),
}

/// What a private system holds on disk.
pub(crate) enum PrivateFiles {
    Temporary(PathBuf, #[expect(dead_code, reason = "held, not read")] HomeLock),
    Own(#[expect(dead_code, reason = "held, not read")] HomeLock),
}

impl System {
    /// Opens a system. Call within a tokio runtime, which must last as long as the system.
    ///
    /// Errors: `home-busy` (private), `host-unavailable`, `version-mismatch` (shared), and what opening the
    /// store or reading the configuration reports.
    pub async fn open(how: Open) -> Result<Self> {
        match how {
            Open::Private { home } => Self::open_private_with(home.as_deref(), Vec::new()).await,
            Open::Shared { home, start_host } => {
                let home = home::prepare(home.as_deref())?;
                let client = Client::attach(attach(&home, "libhms", start_host.as_deref())?).await?;
                Ok(Self(Arc::new(Place::Elsewhere(client))))
            }
        }
    }

    /// Opens a private system (as [`Open::Private`]) with further plugins beside the built-in organs: its own
    /// agent types, commands and services, registered through the same door. Agents of their types that the
    /// home remembers go on.
    ///
    /// Errors: those of [`System::open`], and `already-exists` when a plugin's id or something that it
    /// registers is taken.
    pub async fn open_private_with(named: Option<&Path>, plugins: Vec<Arc<dyn Plugin>>) -> Result<Self> {
        let home = match named {
            Some(named) => home::prepare(Some(named))?,
            None => {
                let name = format!("hms-private-{}-{}", std::process::id(), Rng::from_os().token(8));
                home::prepare(Some(&std::env::temp_dir().join(name)))?
            }
        };
        let path = home.join("lock");
        let lock = HomeLock::try_acquire(&path).map_err(|e| Error::io(path.display(), &e))?;
        let lock = lock.ok_or_else(|| {
            Error::new(ErrorKind::HomeBusy, format!("another process owns {}", home.display()))
        })?;
        let files = match named {
            Some(_) => PrivateFiles::Own(lock),
            None => PrivateFiles::Temporary(home.clone(), lock),
        };
        let runtime = home::runtime_dir(&home)?;
        host::claim(&runtime, &home)?;
        let kernel = Kernel::describe(organs().into_iter().chain(plugins).collect())?;
        if let Err(e) = kernel.open(&home, &runtime).await {
            kernel.discard();
            if let PrivateFiles::Temporary(home, _) = files {
                let _ = std::fs::remove_dir_all(home);
            }
            return Err(e);
        }
        Ok(Self(Arc::new(Place::Here { kernel, files })))
    }

    /// Runs a command. `on_update` is called, in order, with what it says meanwhile; dropping the future
    /// cancels the command. `caller` commands are not run here: they belong to a command line.
    pub async fn run(
        &self,
        path: &str,
        args: Value,
        caller: Caller,
        on_update: impl FnMut(Update),
    ) -> Result<Value> {
        let kernel = match &*self.0 {
            Place::Elsewhere(client) => return client.run(path, args, caller, on_update).await,
            Place::Here { kernel, .. } => kernel,
        };
        let command = kernel.commands().get(path)?;
        let (tx, mut updates) = mpsc::channel(64);
        let (cx, _cancelled_on_drop) = CommandContext::new(caller, Some(tx));
        Update::until(command.run(cx, args), |cx| updates.poll_recv(cx), on_update).await
    }

    /// Runs a command as [`System::run`] does, with updates that are taken one after the other: the next one comes
    /// when the future of the last one is done, and a command in this process waits so long.
    ///
    /// Errors: those of the command.
    pub async fn run_with<F: Future<Output = ()>>(
        &self,
        path: &str,
        args: Value,
        caller: Caller,
        mut on_update: impl FnMut(Update) -> F,
    ) -> Result<Value> {
        let kernel = match &*self.0 {
            Place::Elsewhere(client) => {
                let (tx, mut updates) = mpsc::unbounded_channel();
                let run = client.run(path, args, caller, move |update| drop(tx.send(update)));
                return one_by_one(run, move |cx: &mut Context<'_>| updates.poll_recv(cx), on_update).await;
            }
            Place::Here { kernel, .. } => kernel,
        };
        let command = kernel.commands().get(path)?;
        let (tx, mut updates) = mpsc::channel(64);
        let (cx, _cancelled_on_drop) = CommandContext::new(caller, Some(tx));
        one_by_one(command.run(cx, args), move |cx: &mut Context<'_>| updates.poll_recv(cx), &mut on_update)
            .await
    }

    /// What every command is, by path.
    pub async fn commands(&self) -> Result<Value> {
        match &*self.0 {
            Place::Elsewhere(client) => client.request("command.list", Value::Null).await,
            Place::Here { kernel, .. } => Ok(json!(kernel.commands().list())),
        }
    }

    /// Sends a message to an agent, without waiting for an answer.
    ///
    /// Errors: `not-found`, `queue-full`, `invalid-state` when the agent is not meant to run.
    pub async fn tell(&self, target: &str, message: Message) -> Result<()> {
        match &*self.0 {
            Place::Elsewhere(client) => {
                client.request("agent.tell", json!({"target": target, "message": message})).await.map(drop)
            }
            Place::Here { kernel, .. } => kernel.agents().tell(target, message),
        }
    }

    /// Sends a message to an agent and waits for the answer.
    ///
    /// Errors: those of [`System::tell`]; `timeout`; what the agent answers with.
    pub async fn ask(&self, target: &str, message: Message, deadline: Duration) -> Result<Value> {
        match &*self.0 {
            Place::Elsewhere(client) => {
                let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                let params = json!({"target": target, "message": message, "deadline_ms": deadline_ms});
                client.request("agent.ask", params).await
            }
            Place::Here { kernel, .. } => kernel.agents().ask(target, message, deadline).await,
        }
    }

    /// The services there are: an array of `{"spec": …, "owner": …}`.
    pub async fn services(&self) -> Result<Value> {
        match &*self.0 {
            Place::Elsewhere(client) => client.request("service.list", Value::Null).await,
            Place::Here { kernel, .. } => {
                let list = kernel.services().list();
                Ok(list.into_iter().map(|(spec, owner)| json!({"spec": *spec, "owner": owner})).collect())
            }
        }
    }

    /// The highest version of service `id` that `requirement` allows.
    ///
    /// Errors: `service-unavailable`, and why.
    pub async fn service(&self, id: &str, requirement: &VersionReq) -> Result<FoundService> {
        let client = match &*self.0 {
            Place::Elsewhere(client) => client,
            Place::Here { kernel, .. } => {
                let service = kernel.services().lookup(id, requirement)?;
                return Ok(FoundService { spec: service.spec().clone(), place: Found::Here(service) });
            }
        };
        let list = client.request("service.list", Value::Null).await?;
        let specs = list.as_array().into_iter().flatten().map(|entry| &entry["spec"]);
        let specs = specs.filter_map(|spec| serde_json::from_value::<ServiceSpec>(spec.clone()).ok());
        let all: Vec<_> = specs.filter(|spec| spec.id == id).collect();
        let have = all.iter().map(|spec| spec.version.to_string()).collect::<Vec<_>>().join(", ");
        let fits = all.into_iter().filter(|spec| requirement.matches(&spec.version));
        let Some(spec) = fits.max_by(|a, b| a.version.cmp(&b.version)) else {
            let why = match have.as_str() {
                "" => format!("no service `{id}` is registered"),
                _ => format!("service `{id}` {requirement} is not there; registered: {have}"),
            };
            return Err(Error::new(ErrorKind::ServiceUnavailable, why));
        };
        Ok(FoundService { spec, place: Found::Elsewhere(client.clone()) })
    }

    /// Subscribes to events. A full queue loses the oldest and counts them.
    pub async fn subscribe(
        &self,
        patterns: Vec<String>,
        filter: Option<String>,
        capacity: usize,
        after_sequence: Option<u64>,
    ) -> Result<EventStream> {
        let overflow = Overflow::DropOldest;
        self.subscribe_with(Subscribe { patterns, filter, capacity, overflow, after_sequence }).await
    }

    /// Subscribes to events, with a policy for a full queue.
    ///
    /// Errors: those of [`Bus::subscribe`](hms_core::event::Bus::subscribe); `not-supported` for a policy other
    /// than drop-oldest in a shared system.
    pub async fn subscribe_with(&self, request: Subscribe) -> Result<EventStream> {
        Ok(EventStream(match &*self.0 {
            Place::Elsewhere(_) if request.overflow != Overflow::DropOldest => {
                return Err(Error::new(
                    ErrorKind::NotSupported,
                    "subscriptions of a shared system drop the oldest events when their queue is full",
                ));
            }
            Place::Elsewhere(client) => {
                let Subscribe { patterns, filter, capacity, after_sequence, .. } = request;
                Source::Elsewhere(client.subscribe(patterns, filter, capacity, after_sequence).await?)
            }
            Place::Here { kernel, .. } => Source::Here(kernel.bus().subscribe(request)?),
        }))
    }

    /// Publishes an event.
    pub async fn publish(&self, kind: &str, subject: Option<String>, data: Value) -> Result<()> {
        self.publish_draft(EventDraft::json(kind, data).subject(subject.unwrap_or_default())).await
    }

    /// Publishes an event. In a private system this waits for room in the queues of subscriptions that want
    /// publishers to (`Overflow::Block`), in a shared one for the host's answer.
    ///
    /// Errors: `invalid-argument` when the draft is faulty; `host-unavailable`.
    pub async fn publish_draft(&self, draft: EventDraft) -> Result<()> {
        match &*self.0 {
            Place::Elsewhere(client) => client.request("event.publish", draft.to_json()?).await.map(drop),
            Place::Here { kernel, .. } => kernel.bus().publish_wait(draft).await.map(drop),
        }
    }

    /// Publishes events in order: all of them, or none when one is faulty. (In a shared system many of them
    /// travel in several messages; when the host goes in the middle, those that arrived are published.)
    ///
    /// Errors: as [`System::publish_draft`].
    pub async fn publish_all(&self, drafts: Vec<EventDraft>) -> Result<()> {
        match &*self.0 {
            Place::Elsewhere(client) => client.publish_all(&drafts).await,
            Place::Here { kernel, .. } => {
                drafts.iter().try_for_each(EventDraft::check)?;
                for draft in drafts {
                    kernel.bus().publish_wait(draft).await?;
                }
                Ok(())
            }
        }
    }

    /// The peer connection of a shared system.
    pub fn client(&self) -> Option<&Client> {
        match &*self.0 {
            Place::Elsewhere(client) => Some(client),
            Place::Here { .. } => None,
        }
    }

    pub(crate) fn place(&self) -> &Arc<Place> {
        &self.0
    }

    /// The kernel of a private system.
    pub fn kernel(&self) -> Option<&Kernel> {
        match &*self.0 {
            Place::Here { kernel, .. } => Some(kernel),
            Place::Elsewhere(_) => None,
        }
    }

    /// Closes a private system: its agents end, or go on for the next one on the same home with
    /// `agents_stay`. A shared one only detaches.
    pub async fn close(&self, agents_stay: bool) -> Result<()> {
        let Place::Here { kernel, files } = &*self.0 else { return Ok(()) };
        let stays = agents_stay && matches!(files, PrivateFiles::Own(_));
        let closed = kernel.close(if stays { Stop::Detach } else { Stop::Graceful(STOP_DEADLINE) }).await;
        if let PrivateFiles::Temporary(home, _) = files {
            let _ = std::fs::remove_dir_all(&kernel.dirs().runtime);
            let _ = std::fs::remove_dir_all(home);
        }
        closed
    }
}

/// A service that was found. It fails once who offers it has gone.
#[derive(Clone)]
pub struct FoundService {
    spec: ServiceSpec,
    place: Found,
}

#[derive(Clone)]
enum Found {
    Here(ServiceRef),
    Elsewhere(Client),
}

impl FoundService {
    /// What it is.
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// Calls `method`.
    ///
    /// Errors: `not-found` for a method that it does not have, `timeout`, `service-unavailable`, and what the
    /// service answers with.
    pub async fn call(&self, method: &str, args: Value, deadline: Duration) -> Result<Value> {
        match &self.place {
            Found::Here(service) => service.call(method, args, deadline).await,
            Found::Elsewhere(client) => {
                let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
                let ServiceSpec { id, version, .. } = &self.spec;
                let params = json!({
                    "id": id, "version": format!("={version}"), "method": method, "args": args,
                    "deadline_ms": deadline_ms,
                });
                client.request("service.call", params).await
            }
        }
    }
}

/// Runs `work` to its end; of `next`, what it says meanwhile, each is taken before the following one, and all
/// of it before the outcome.
async fn one_by_one<T, F: Future<Output = ()>>(
    work: impl Future<Output = T>,
    mut next: impl FnMut(&mut Context<'_>) -> Poll<Option<Update>>,
    mut on_update: impl FnMut(Update) -> F,
) -> T {
    let mut work = std::pin::pin!(work);
    let outcome = loop {
        tokio::select! {
            biased;
            Some(update) = poll_fn(&mut next) => on_update(update).await,
            outcome = &mut work => break outcome,
        }
    };
    // What was said just before the end: it is there already.
    loop {
        let said = tokio::task::unconstrained(poll_fn(|cx| Poll::Ready(next(cx)))).await;
        let Poll::Ready(Some(update)) = said else { return outcome };
        on_update(update).await;
    }
}

/// How `name` attaches to the host of `home`.
pub fn attach(home: &Path, name: &str, start_host: Option<&Path>) -> Result<Attach> {
    let args = ["system", "run", "--detached", "--home"].map(String::from).into_iter();
    let args = args.chain([home.display().to_string()]).collect();
    Ok(Attach {
        runtime_dir: home::runtime_dir(home)?,
        name: name.into(),
        start: start_host.map(|program| HostCommand::new(program, args, home)),
        deadline: ATTACH_DEADLINE,
    })
}

/// Events of a system, one after the other.
pub struct EventStream(Source);

enum Source {
    Here(Subscription),
    Elsewhere(RemoteSubscription),
}

impl EventStream {
    /// The next events, with how many were lost before them; `None` when there will be no more.
    pub async fn next_batch(&mut self, max: usize) -> Option<(Vec<Arc<Event>>, u64)> {
        match &mut self.0 {
            Source::Here(subscription) => subscription.next_batch(max).await.map(|b| (b.events, b.lost)),
            Source::Elsewhere(remote) => {
                let batch = remote.next_batch(max).await?;
                Some((batch.items.into_iter().map(Arc::new).collect(), batch.lost_before))
            }
        }
    }
}
