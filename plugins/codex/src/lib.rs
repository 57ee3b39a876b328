//! The organ of Codex: HMS inside Codex and other clients of MCP.
#![forbid(unsafe_code)]

use async_trait::async_trait;
use hms_core::{
    Kernel, Result,
    plugin::{Manifest, Plugin, Registrar},
};

/// The plugin `hms.codex`.
pub struct CodexPlugin;

#[async_trait]
impl Plugin for CodexPlugin {
    fn manifest(&self) -> Manifest {
        Manifest {
            id: "hms.codex",
            name: "Codex",
            version: env!("CARGO_PKG_VERSION"),
            depends_on: &[],
            migrations: Vec::new(),
            sections: Vec::new(),
        }
    }

    fn register(&self, _to: &Registrar) -> Result<()> {
        Ok(())
    }

    async fn initialize(&self, _kernel: &Kernel) -> Result<()> {
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}
