//! The HMS kernel.
//!
//! Four registries (agent types, events, services, commands), the plugin manager that fills them, the
//! agent runtime with its supervision, the store, and the host that peers attach to. No organ is known
//! here: what a user sees is put there by a plugin.
#![forbid(unsafe_code)]

pub mod agent;
pub mod blocking;
pub mod bytesize;
pub mod clock;
pub mod command;
pub mod config;
pub mod contain;
pub mod duration;
pub mod error;
pub mod event;
pub mod host;
pub mod kernel;
pub mod owner;
pub mod peer;
pub mod plugin;
pub mod schema;
pub mod service;
pub mod store;
pub mod supervision;

pub use error::{Error, ErrorKind, Result};
pub use hms_os as os;
pub use kernel::{Dirs, Kernel};
