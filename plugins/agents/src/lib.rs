//! The agents organ: the agent types that come with HMS and the commands that manage agents.
//!
//! `process` supervises real processes; `http`, `tcp` and `heartbeat` watch what others run; `host` watches
//! the machine; `group` only supervises. The `agent …`, `up` and `down` commands live in `commands`.

mod commands;
mod endpoint;
mod group;
mod heartbeat;
mod host;
mod http;
mod keys;
mod probe;
pub mod process;
mod task;
mod tcp;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use hms_core::{
    Kernel, Result,
    plugin::{Manifest, Plugin, Registrar},
};

/// The agents organ.
#[derive(Default)]
pub struct AgentsPlugin {
    processes: std::sync::Arc<process::Processes>,
}

#[async_trait]
impl Plugin for AgentsPlugin {
    fn manifest(&self) -> Manifest {
        Manifest {
            id: "hms.agents",
            name: "Agents",
            version: env!("CARGO_PKG_VERSION"),
            ..Manifest::default()
        }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        process::register(to, self.processes.clone())?;
        http::register(to)?;
        tcp::register(to)?;
        heartbeat::register(to)?;
        host::register(to)?;
        group::register(to)?;
        commands::register(to)
    }

    async fn initialize(&self, kernel: &Kernel) -> Result<()> {
        self.processes.find_survivors(kernel).await
    }
}
