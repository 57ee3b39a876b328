//! The organ of MCP: servers of the Model Context Protocol that never die, and HMS as one of them.
//!
//! | folder | room |
//! | --- | --- |
//! | `jsonrpc/` | messages on a line: found, told apart, answered, without being rewritten |
//! | `relay/` | one server's conversation, without I/O: what passes, what is sent again, what is given up |
//! | `server/` | the process of a stdio server: its tree, its memory, its end |
//! | `wrap/` | `mcp wrap`: one client, one server |
//! | `pool/` | `mcp pool`: many clients over HTTP, few servers |
//! | `serve/` | `mcp serve`: the command registry as tools |
//! | `agent/` | a wrapped server as an agent of the host |
#![forbid(unsafe_code)]

mod agent;
mod bearer;
mod jsonrpc;
mod pool;
mod relay;
mod serve;
mod server;
mod wrap;

use async_trait::async_trait;
use hms_core::{
    Kernel, Result,
    plugin::{Manifest, Plugin, Registrar},
};

/// The plugin `hms.mcp`.
pub struct McpPlugin;

#[async_trait]
impl Plugin for McpPlugin {
    fn manifest(&self) -> Manifest {
        Manifest {
            id: "hms.mcp",
            name: "MCP",
            version: env!("CARGO_PKG_VERSION"),
            depends_on: &[],
            migrations: Vec::new(),
            sections: vec![pool::section()],
        }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        wrap::register(to)?;
        pool::register(to)?;
        serve::register(to)?;
        agent::register(to)
    }

    async fn initialize(&self, _kernel: &Kernel) -> Result<()> {
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        Ok(())
    }
}
