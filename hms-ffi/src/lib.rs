//! libhms: the C ABI of HMS. `include/hms.h` is generated from these files, `docs/c-abi.md` is its guide.
//!
//! One file a noun; the only public items are those of the ABI. The machinery beneath them:
//!
//! | file | room |
//! | --- | --- |
//! | `guard.rs` | every export's frame: no panic leaves, no forked child enters, errors become statuses |
//! | `gate.rs` | through it callbacks are called, and by it they end |
//! | `handle.rs` | handles that are checked, never addresses |
//! | `last_error.rs` | the message of the last failure, per thread |
//! | `input.rs`, `output.rs` | text and structures in; pointers out |
//! | `wait.rs` | waiting for the runtime from a foreign thread |
//!
//! The exports that take pointers are `unsafe` in Rust; what the caller owes is in the `Ownership` line
//! of each one's documentation.
#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(clippy::too_many_arguments, reason = "a completion, its user data and its drop function are three")]
#![allow(clippy::missing_safety_doc, reason = "the Ownership line says what the caller owes")]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("libhms keeps slot, generation and kind of a handle in the 64 bits of a pointer");

mod gate;
mod guard;
mod handle;
mod input;
mod last_error;
mod output;
mod wait;

mod agent;
mod agent_type;
mod cli;
mod command;
mod config;
mod event;
mod metric;
mod operation;
mod registration;
mod reply;
mod service;
mod status;
mod subscription;
mod system;
mod text;
mod version;

pub use agent::*;
pub use agent_type::*;
pub use cli::*;
pub use command::*;
pub use config::*;
pub use event::*;
pub use metric::*;
pub use operation::*;
pub use registration::*;
pub use reply::*;
pub use service::*;
pub use status::*;
pub use subscription::*;
pub use system::*;
pub use text::*;
pub use version::*;
