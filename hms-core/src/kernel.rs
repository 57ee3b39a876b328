//! The kernel: one system's registries, agents, store and configuration, put together.
//!
//! A kernel is *described* first (plugins fill the registries, nothing is opened) and then, where it is to
//! live, *opened* on a home. `--help` needs only the description.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    Error, ErrorKind, Result,
    agent::{AgentTypes, Agents, Stop},
    clock::{Rng, SharedClock, SystemClock},
    command::Commands,
    config::{Change, Config},
    event::{Bus, Event, EventDraft},
    owner::Owner,
    plugin::{Plugin, Plugins},
    service::Services,
    store::{self, Store, StoreOptions},
};

/// Subjects that are journaled: what history and replay need. Frequent ones are left out.
const JOURNALED: [&str; 7] = ["agent.>", "system.>", "heal.>", "alert.>", "plugin.>", "codex.>", "journal.>"];

/// Whether everything that `pattern` matches is journaled.
pub(crate) fn is_journaled(pattern: &str) -> bool {
    let root = pattern.split('.').next().unwrap_or_default();
    root != pattern && JOURNALED.iter().any(|kept| kept.strip_suffix(".>") == Some(root))
}

/// Where a system keeps its files.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// The home; everything below belongs to this system.
    pub home: PathBuf,
    /// One folder an agent.
    pub agents: PathBuf,
    /// Sockets; short paths.
    pub runtime: PathBuf,
}

/// A system. Cheap to clone.
#[derive(Clone)]
pub struct Kernel(Arc<Inner>);

pub(crate) struct Inner {
    clock: SharedClock,
    rng: Arc<Rng>,
    bus: Bus,
    types: AgentTypes,
    services: Services,
    commands: Commands,
    plugins: Plugins,
    agents: Agents,
    shutdown: watch::Sender<Option<Stop>>,
    open: OnceLock<Open>,
}

/// What exists only in an opened kernel.
struct Open {
    store: Store,
    journal: Arc<store::journal::Journal>,
    config: Mutex<Config>,
    dirs: Dirs,
    tasks: tokio::runtime::Handle,
    started_ms: u64,
}

impl Kernel {
    /// A kernel with these plugins registered; nothing is opened.
    pub fn describe(plugins: Vec<Arc<dyn Plugin>>) -> Result<Self> {
        Self::describe_with(plugins, SystemClock::shared(), Rng::from_os())
    }

    /// The same, with time and chance of the caller's choice.
    pub fn describe_with(plugins: Vec<Arc<dyn Plugin>>, clock: SharedClock, rng: Rng) -> Result<Self> {
        let rng = Arc::new(rng);
        let kernel = Self(Arc::new_cyclic(|weak: &Weak<Inner>| Inner {
            bus: Bus::new(clock.clone(), rng.clone()),
            clock,
            rng,
            types: AgentTypes::default(),
            services: Services::default(),
            commands: Commands::default(),
            plugins: Plugins::default(),
            agents: Agents::new(weak.clone()),
            shutdown: watch::Sender::new(None),
            open: OnceLock::new(),
        }));
        for plugin in plugins {
            kernel.0.plugins.register(&kernel, plugin)?;
        }
        Ok(kernel)
    }

    /// Opens the kernel on a home that this process owns: store, configuration, plugins, and the agents
    /// that the store knows. Call within the tokio runtime that its tasks shall run on.
    pub async fn open(&self, home: &Path, runtime_dir: &Path) -> Result<()> {
        let manifests = self.0.plugins.manifests();
        let agents = home.join("agents");
        hms_os::files::create_private_dir(&agents).map_err(|e| Error::io(agents.display(), &e))?;
        let sections = manifests.iter().flat_map(|m| m.sections.clone()).collect();
        let config = Config::load(home.join("config.toml"), sections)?;
        let migrations: Vec<_> = manifests.into_iter().flat_map(|m| m.migrations).collect();
        let database = home.join(store::DATABASE);
        let options = StoreOptions { clock: self.0.clock.clone(), ..StoreOptions::default() };
        let store = tokio::task::spawn_blocking(move || Store::open_with(database, &migrations, options))
            .await
            .map_err(|e| Error::internal(format!("opening the store: {e}")))??;
        let journal = Arc::new(store::journal::Journal::open(&store).await?);
        self.0.bus.set_journal(journal.clone(), &JOURNALED, journal.next_sequence())?;
        let dirs = Dirs { home: home.to_owned(), agents, runtime: runtime_dir.to_owned() };
        let open = Open {
            store,
            journal,
            config: Mutex::new(config),
            dirs,
            tasks: tokio::runtime::Handle::current(),
            started_ms: self.0.clock.wall_ms(),
        };
        if self.0.open.set(open).is_err() {
            return Err(Error::internal("the kernel is open already"));
        }
        let began = async {
            self.0.plugins.initialize(self).await?;
            self.0.agents.restore().await
        };
        if let Err(e) = began.await {
            // What began already must not go on in a system that is none. Agents stay for the next host.
            let _ = self.close(Stop::Detach).await;
            return Err(e);
        }
        Ok(())
    }

    /// Ends the system: agents (or lets go of them, with [`Stop::Detach`]), plugins, store.
    pub async fn close(&self, how: Stop) -> Result<()> {
        self.0.agents.shutdown(how).await;
        self.0.plugins.shutdown(self).await;
        let open = self.opened();
        open.journal.close().await?;
        open.store.close().await
    }

    /// Gives up a kernel that was described and is not (or could not be) opened. Organs and kernel hold each
    /// other, so that without this neither is ever freed.
    pub fn discard(&self) {
        for manifest in self.0.plugins.manifests() {
            self.remove_owner(&Owner::plugin(manifest.id));
        }
        self.0.plugins.clear();
    }

    pub(crate) fn from_weak(weak: &Weak<Inner>) -> Option<Self> {
        weak.upgrade().map(Self)
    }

    /// Registers a plugin in a running system and initialises it. An error leaves nothing of it.
    pub async fn add_plugin(&self, plugin: Arc<dyn Plugin>) -> Result<()> {
        let id = plugin.manifest().id;
        self.0.plugins.register(self, plugin)?;
        if let Err(e) = self.0.plugins.initialize(self).await {
            let _ = self.0.plugins.remove(self, id).await;
            return Err(e);
        }
        Ok(())
    }

    /// Removes what `owner` registered, everywhere.
    pub fn remove_owner(&self, owner: &Owner) {
        for path in self.0.commands.remove_owner(owner) {
            self.command_event("command.unregistered", &path);
        }
        self.0.services.remove_owner(owner);
        if self.0.types.remove_owner(owner) {
            self.0.agents.types_changed();
        }
    }

    /// Tells that a command came or went, for who draws something from the registry.
    pub(crate) fn command_event(&self, kind: &'static str, path: &str) {
        self.publish(EventDraft::json(kind, json!({"path": path})).source("/commands"));
    }

    /// The clock.
    pub fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// The generator.
    pub fn rng(&self) -> &Rng {
        &self.0.rng
    }

    /// Events.
    pub fn bus(&self) -> &Bus {
        &self.0.bus
    }

    /// Agent types.
    pub fn types(&self) -> &AgentTypes {
        &self.0.types
    }

    /// Services.
    pub fn services(&self) -> &Services {
        &self.0.services
    }

    /// Commands.
    pub fn commands(&self) -> &Commands {
        &self.0.commands
    }

    /// Plugins.
    pub fn plugins(&self) -> &Plugins {
        &self.0.plugins
    }

    /// Agents.
    pub fn agents(&self) -> &Agents {
        &self.0.agents
    }

    /// The store. Only in an opened kernel.
    pub fn store(&self) -> &Store {
        &self.opened().store
    }

    /// Where the files are. Only in an opened kernel.
    pub fn dirs(&self) -> &Dirs {
        &self.opened().dirs
    }

    /// When the kernel was opened, in milliseconds since the Unix epoch.
    pub fn started_ms(&self) -> u64 {
        self.opened().started_ms
    }

    /// Whether [`Kernel::open`] succeeded.
    pub fn is_open(&self) -> bool {
        self.0.open.get().is_some()
    }

    /// Runs a task on the kernel's runtime.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.opened().tasks.spawn(future);
    }

    /// Publishes an event. Never blocks.
    pub fn publish(&self, draft: EventDraft) -> Arc<Event> {
        self.0.bus.publish(draft)
    }

    /// The configuration. Do not hold it across an await.
    pub fn config(&self) -> MutexGuard<'_, Config> {
        self.opened().config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A plugin's section of the configuration, typed.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.config().section(name)
    }

    /// Changes a configuration value: validated, written to the file, published and kept in history.
    pub async fn configure(&self, key: &str, value: Option<&str>, by: &str) -> Result<Change> {
        let change = {
            let mut config = self.config();
            match value {
                Some(text) => config.set(key, text)?,
                None => config.unset(key)?,
            }
        };
        let data =
            json!({"key": change.key, "old": change.old, "new": change.new, "live": change.live, "by": by});
        self.record("configuration", Some(key), data.clone()).await?;
        self.publish(EventDraft::json("system.config.changed", data).subject(key).source("/config"));
        Ok(change)
    }

    /// Adds an entry to history; durable when this returns.
    pub async fn record(&self, kind: &'static str, subject: Option<&str>, data: Value) -> Result<()> {
        let (subject, now) = (subject.map(str::to_owned), self.0.clock.wall_ms());
        self.store()
            .write(move |db| store::history::append(db, now, kind, subject.as_deref(), &data).map(drop))
            .await
    }

    /// Asks whoever runs this system to end it.
    pub fn request_shutdown(&self, how: Stop) {
        self.0.shutdown.send_replace(Some(how));
    }

    /// Completes when somebody asked for the end.
    pub async fn shutdown_requested(&self) -> Stop {
        let mut asked = self.0.shutdown.subscribe();
        let asked = asked.wait_for(Option::is_some).await;
        asked.ok().and_then(|how| *how).unwrap_or(Stop::Graceful(crate::agent::STOP_DEADLINE))
    }

    fn opened(&self) -> &Open {
        self.0.open.get().expect("the kernel is described but not open")
    }

    /// Fails unless the kernel is open: for commands that `--help` must be able to describe.
    pub fn require_open(&self) -> Result<()> {
        if self.is_open() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::InvalidState, "the system is not open"))
        }
    }
}
