//! The façade: one system, whether it lives in this process or is another's that we attach to.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{STOP_DEADLINE, Stop},
    clock::Rng,
    command::{Caller, CommandContext, Update},
    event::{Event, EventDraft, Overflow, Subscribe, Subscription},
    host,
    os::files::HomeLock,
    peer::{Attach, Client, HostCommand, RemoteSubscription},
    plugin::Plugin,
};
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

enum Place {
    Here { kernel: Kernel, files: PrivateFiles },
    Elsewhere(Client),
}

/// What a private system holds on disk.
enum PrivateFiles {
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

    /// Subscribes to events. A full queue loses the oldest and counts them.
    pub async fn subscribe(
        &self,
        patterns: Vec<String>,
        filter: Option<String>,
        capacity: usize,
        after_sequence: Option<u64>,
    ) -> Result<EventStream> {
        Ok(EventStream(match &*self.0 {
            Place::Elsewhere(client) => {
                Source::Elsewhere(client.subscribe(patterns, filter, capacity, after_sequence).await?)
            }
            Place::Here { kernel, .. } => {
                let request =
                    Subscribe { patterns, filter, capacity, overflow: Overflow::DropOldest, after_sequence };
                Source::Here(kernel.bus().subscribe(request)?)
            }
        }))
    }

    /// Publishes an event.
    pub async fn publish(&self, kind: &str, subject: Option<String>, data: Value) -> Result<()> {
        match &*self.0 {
            Place::Elsewhere(client) => {
                let params = json!({"type": kind, "subject": subject, "data": data});
                client.request("event.publish", params).await.map(drop)
            }
            Place::Here { kernel, .. } => {
                let mut draft = EventDraft::json(kind, data);
                if let Some(subject) = subject {
                    draft = draft.subject(subject);
                }
                kernel.bus().try_publish(draft).map(drop)
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
