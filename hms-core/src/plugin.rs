//! Plugins and their manager: the one door through which anything gets into the four registries.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use crate::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentTypeSpec, BehaviourFactory},
    command::{CommandSpec, Handler},
    config::Section,
    contain::{contained, contained_sync},
    owner::Owner,
    service::{Service, ServiceSpec},
    store::Migration,
};

/// What a plugin is.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// Unique id: `hms.healing`.
    pub id: &'static str,
    /// For people.
    pub name: &'static str,
    /// Semver.
    pub version: &'static str,
    /// Ids of plugins that are initialised first.
    pub depends_on: &'static [&'static str],
    /// Its tables.
    pub migrations: Vec<Migration>,
    /// Its sections of the configuration.
    pub sections: Vec<Section>,
}

/// A plugin. Built-in organs and a user's plugins are the same thing.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// What it is. Constant.
    fn manifest(&self) -> Manifest;

    /// Puts what it offers into the registries. Does no I/O: `--help` calls this too.
    fn register(&self, to: &Registrar) -> Result<()>;

    /// Begins its work. Store and configuration are open; agents are not restored yet.
    async fn initialize(&self, _kernel: &Kernel) -> Result<()> {
        Ok(())
    }

    /// Ends its work. What it registered is removed afterwards.
    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}

/// Registers things in the name of one owner.
#[derive(Clone)]
pub struct Registrar {
    kernel: Kernel,
    owner: Owner,
}

impl Registrar {
    pub(crate) fn new(kernel: Kernel, owner: Owner) -> Self {
        Self { kernel, owner }
    }

    /// The system, for handlers to keep.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Registers a command.
    pub fn command(&self, spec: CommandSpec, handler: Handler) -> Result<()> {
        self.kernel.commands().register(self.owner.clone(), spec, handler)
    }

    /// Registers a service.
    pub fn service(&self, spec: ServiceSpec, service: Arc<dyn Service>) -> Result<()> {
        self.kernel.services().register(self.owner.clone(), spec, service)
    }

    /// Registers an agent type; agents that wait for it start.
    pub fn agent_type(&self, spec: AgentTypeSpec, factory: Arc<dyn BehaviourFactory>) -> Result<()> {
        self.kernel.types().register(self.owner.clone(), spec, factory)?;
        self.kernel.agents().types_changed();
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Stage {
    Registered,
    Active,
    Failed,
}

struct Entry {
    plugin: Arc<dyn Plugin>,
    manifest: Manifest,
    stage: Stage,
    problem: Option<String>,
}

/// The plugins of a system.
#[derive(Default)]
pub struct Plugins {
    entries: Mutex<BTreeMap<&'static str, Entry>>,
}

impl Plugins {
    /// Registers a plugin: a second one with its id is an error. One that fails to register leaves
    /// nothing behind.
    pub(crate) fn register(&self, kernel: &Kernel, plugin: Arc<dyn Plugin>) -> Result<()> {
        let manifest = plugin.manifest();
        let (id, owner) = (manifest.id, Owner::plugin(manifest.id));
        if self.entries().contains_key(id) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("plugin `{id}` is already registered")));
        }
        let registrar = Registrar::new(kernel.clone(), owner.clone());
        if let Err(e) = contained_sync(|| plugin.register(&registrar)).and_then(|r| r) {
            kernel.remove_owner(&owner);
            return Err(e.context(format!("plugin `{id}`")));
        }
        self.entries().insert(id, Entry { plugin, manifest, stage: Stage::Registered, problem: None });
        Ok(())
    }

    /// The manifests, by id.
    pub fn manifests(&self) -> Vec<Manifest> {
        self.entries().values().map(|e| e.manifest.clone()).collect()
    }

    /// The plugins as `system status` shows them.
    pub fn list(&self) -> Vec<Value> {
        let row = |e: &Entry| {
            serde_json::json!({
                "id": e.manifest.id, "name": e.manifest.name, "version": e.manifest.version,
                "stage": e.stage, "problem": e.problem,
            })
        };
        self.entries().values().map(row).collect()
    }

    /// Initialises what is registered, dependencies first. One that fails is taken out again and reported;
    /// the error is that of the first.
    pub(crate) async fn initialize(&self, kernel: &Kernel) -> Result<()> {
        for id in self.order()? {
            let Some(plugin) =
                self.entries().get(id).filter(|e| e.stage == Stage::Registered).map(|e| e.plugin.clone())
            else {
                continue;
            };
            let outcome = contained(plugin.initialize(kernel)).await.and_then(|r| r);
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(id) else { continue };
            match outcome {
                Ok(()) => entry.stage = Stage::Active,
                Err(e) => {
                    entry.stage = Stage::Failed;
                    entry.problem = Some(e.message.clone());
                    drop(entries);
                    kernel.remove_owner(&Owner::plugin(id));
                    return Err(e.context(format!("plugin `{id}`")));
                }
            }
        }
        Ok(())
    }

    /// Shuts all down, dependents first; what they registered disappears.
    pub(crate) async fn shutdown(&self, kernel: &Kernel) {
        let mut order = self.order().unwrap_or_default();
        order.reverse();
        for id in order {
            let _ = self.remove(kernel, id).await;
        }
    }

    /// Forgets all plugins without a word to them: none was initialised, or the system did not come to life.
    pub(crate) fn clear(&self) {
        let entries = std::mem::take(&mut *self.entries());
        drop(entries);
    }

    /// Shuts one plugin down; what it registered disappears. Errors: `not-found`; `invalid-state` while
    /// another one needs it; what its shutdown reports (it is gone all the same).
    pub async fn remove(&self, kernel: &Kernel, id: &str) -> Result<()> {
        let entry = {
            let mut entries = self.entries();
            if let Some((by, _)) = entries.iter().find(|(_, e)| e.manifest.depends_on.contains(&id)) {
                return Err(Error::new(
                    ErrorKind::InvalidState,
                    format!("plugin `{by}` needs plugin `{id}`"),
                )
                .hint(format!("remove `{by}` first")));
            }
            entries.remove(id).ok_or_else(|| Error::not_found("plugin", id))?
        };
        let outcome = match entry.stage {
            Stage::Active => contained(entry.plugin.shutdown()).await.and_then(|r| r),
            Stage::Registered | Stage::Failed => Ok(()),
        };
        kernel.remove_owner(&Owner::plugin(id));
        outcome
    }

    /// Ids so that each comes after what it depends on.
    fn order(&self) -> Result<Vec<&'static str>> {
        let entries = self.entries();
        let mut order: Vec<&'static str> = Vec::with_capacity(entries.len());
        while order.len() < entries.len() {
            let ready = entries.iter().find(|(id, e)| {
                !order.contains(id) && e.manifest.depends_on.iter().all(|d| order.contains(d))
            });
            let Some((id, _)) = ready else {
                let (id, entry) = entries.iter().find(|(id, _)| !order.contains(id)).expect("one is left");
                let missing = entry.manifest.depends_on.iter().find(|d| !entries.contains_key(*d));
                let why = match missing {
                    Some(missing) => {
                        format!("plugin `{id}` needs plugin `{missing}`, which is not registered")
                    }
                    None => format!("plugin `{id}` is part of a dependency cycle"),
                };
                return Err(Error::new(ErrorKind::InvalidConfig, why));
            };
            order.push(id);
        }
        Ok(order)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<&'static str, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
