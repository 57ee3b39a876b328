//! The organ of healing: incidents, and what is done about them until it is verified to have helped.
//!
//! An agent that ends, falls ill, lets an alert fire or is pointed at by `heal trigger` has an *incident*;
//! never more than one. Supervision's own restart is its rung 0. Beyond it healing climbs the *ladder* of
//! configured strategies, within a budget, and *verifies* each step over a window, until the agent is well or
//! a person is told.
//!
//! | file | room |
//! | --- | --- |
//! | `incident.rs`, `store.rs` | what is remembered |
//! | `config.rs`, `configure.rs` | settings, of the system and per agent |
//! | `director.rs` | events in: what opens and what joins an incident |
//! | `engine.rs`, `case.rs` | which incidents are open, and what is known of their agents |
//! | `healer.rs` | one task an incident: watch, act, verify, climb |
//! | `verify.rs`, `budget.rs` | pure: when is it well, how much may be done |
//! | `ladder.rs`, `strategies.rs`, `command_rung.rs` | the contract of strategies, and the built-in ones |
//! | `service.rs`, `commands.rs` | the doors |
//!
//! **Over a host's end.** Open incidents stay open in the store. The next host goes on with each as soon as its
//! agent is there: a step that was under way is marked `interrupted`, the agent is verified, and the ladder is
//! climbed from where it was left. Budgets count what earlier hosts did.
#![forbid(unsafe_code)]

mod budget;
mod case;
mod command_rung;
mod commands;
mod config;
mod configure;
mod director;
mod engine;
mod healer;
mod incident;
mod ladder;
mod service;
mod store;
mod strategies;
mod verify;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use hms_core::{
    Error, Kernel, Result,
    plugin::{Manifest, Plugin, Registrar},
};
use tokio::sync::mpsc;

pub use config::validate;
pub use incident::{Incident, Outcome, Phase, State, Step, StepResult};
pub use ladder::{CONTRACT, PREFIX};

use engine::Engine;

/// The plugin `hms.healing`.
#[derive(Default)]
pub struct HealingPlugin {
    engine: OnceLock<Arc<Engine>>,
    /// Closed when all tasks have ended.
    ended: Mutex<Option<mpsc::Receiver<()>>>,
}

impl HealingPlugin {
    /// The plugin, for [`Kernel::describe`].
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
}

#[async_trait]
impl Plugin for HealingPlugin {
    fn manifest(&self) -> Manifest {
        Manifest {
            id: "hms.healing",
            name: "Healing",
            version: env!("CARGO_PKG_VERSION"),
            depends_on: &[],
            migrations: store::MIGRATIONS.to_vec(),
            sections: vec![config::section()],
        }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        let engine = self.engine.get_or_init(|| Engine::new(to.kernel().clone()));
        strategies::register(to)?;
        to.service(service::spec(), Arc::new(service::Healing(engine.clone())))?;
        commands::register(to, engine)
    }

    async fn initialize(&self, _kernel: &Kernel) -> Result<()> {
        let engine =
            self.engine.get().ok_or_else(|| Error::internal("initialised before it was registered"))?;
        // Before anything else, so that nothing is missed while the store is read.
        let events = director::subscribe(engine)?;
        let ended = engine.begin().await?;
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        engine.spawn(director::run(engine.clone(), events));
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(engine), Some(mut ended)) = (self.engine.get(), ended) else { return Ok(()) };
        engine.end();
        // Nothing is ever sent: it closes with the last task.
        let _ = ended.recv().await;
        Ok(())
    }
}
