//! The HMS kernel.
//!
//! Four registries (agent types, events, services, commands), the plugin manager that fills them, the
//! agent runtime with its supervision, the store, and the host that peers attach to. No organ is known
//! here: what a user sees is put there by a plugin.
#![forbid(unsafe_code)]

pub mod bytesize;
pub mod clock;
pub mod error;
pub mod peer;
pub mod host;
pub mod config;
pub mod contain;
pub mod plugin;
pub mod kernel;
pub mod agent;
pub mod supervision;
pub mod duration;
pub mod service;
pub mod schema;
pub mod owner;
pub mod command;
pub mod event;
pub mod store;

pub use kernel::{Dirs, Kernel};
pub use error::{Error, ErrorKind, Result};
pub use hms_os as os;
