//! The organ of Codex: HMS inside Codex and other clients of MCP.
//!
//! | file | room |
//! | --- | --- |
//! | `commands.rs` | `codex install`, `uninstall`, `status`, `doctor`, `shim`, `hook` |
//! | `clients.rs`, `places.rs` | which clients there are, and where their files are |
//! | `edit/` | their configurations, changed by splices: the rest stays byte for byte |
//! | `wrapping.rs` | what a wrapped entry looks like, and how it is undone |
//! | `install.rs`, `backup.rs`, `diff.rs` | changing a file in one step, remembering what it was |
//! | `plugin_files.rs`, `skill/` | the plugin for Codex: server, hooks, skill |
//! | `ask.rs` | what Codex itself says of the hooks |
//! | `hook.rs` | what Codex runs when something happens in a session |
//! | `watch.rs`, `failures.rs`, `transcript.rs` | in the host: which calls failed, and whom to heal |
//! | `shim.rs` | `codex hms …` |
//! | `doctor/` | what is wrong, and what to do |
#![forbid(unsafe_code)]

mod ask;
mod backup;
mod clients;
mod commands;
mod config;
mod diff;
mod doctor;
mod edit;
mod failures;
mod hook;
mod install;
mod places;
mod plugin_files;
mod shim;
mod transcript;
mod watch;
mod wrapping;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use hms_core::{
    Kernel, Result,
    plugin::{Manifest, Plugin, Registrar},
};

/// The plugin `hms.codex`. One instance a system.
#[derive(Default)]
pub struct CodexPlugin {
    stop: Mutex<Option<tokio::sync::watch::Sender<bool>>>,
}

impl CodexPlugin {
    /// The plugin, to be registered with a kernel.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Plugin for CodexPlugin {
    fn manifest(&self) -> Manifest {
        Manifest {
            id: "hms.codex",
            name: "Codex",
            version: env!("CARGO_PKG_VERSION"),
            depends_on: &[],
            migrations: Vec::new(),
            sections: vec![config::section()],
        }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        commands::register(to)
    }

    async fn initialize(&self, kernel: &Kernel) -> Result<()> {
        let events = watch::subscribe(kernel)?;
        let (stop, stopped) = tokio::sync::watch::channel(false);
        kernel.spawn(watch::run(kernel.clone(), events, stopped));
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(stop);
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stop) = stop {
            stop.send_replace(true);
        }
        Ok(())
    }
}
