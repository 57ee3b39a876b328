//! The assembled system: the kernel with its organs, and the façade that every front end stands on.
//!
//! [`System`] is a system, here or elsewhere; [`cli`] is a whole command line; [`argv`] and [`view`] turn
//! commands into options and results into text, once for all front ends.

pub mod argv;
mod cancel;
pub mod cli;
mod demo;
pub mod home;
mod host;
mod offer;
pub mod runtime;
mod system;
mod system_plugin;
mod terminal;
mod unit;
pub mod view;

use std::sync::Arc;

pub use cancel::Cancel;
use hms_core::plugin::Plugin;
pub use hms_core::{Error, ErrorKind, Result};
pub use offer::Registration;
pub use system::{EventStream, FoundService, Open, System, attach};

/// The built-in organs.
pub fn organs() -> Vec<Arc<dyn Plugin>> {
    vec![
        Arc::new(hms_agents::AgentsPlugin::default()),
        Arc::new(hms_monitoring::Monitoring::default()),
        Arc::new(hms_healing::HealingPlugin::default()),
        Arc::new(hms_mcp::McpPlugin),
        Arc::new(hms_codex::CodexPlugin::new()),
        Arc::new(system_plugin::SystemPlugin),
    ]
}
