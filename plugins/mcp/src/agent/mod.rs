//! A wrapped server as an agent of the host: the type `mcp-server`, and the link to the process that wraps it.
//!
//! A wrapper (`mcp wrap`, `mcp pool`) needs no host. Where one runs, or with `--host auto`, it is a *peer* of it,
//! in the background and never on the path of a call:
//!
//! ```text
//!   wrapper                                        host
//!   relay ── facts ──▶ digest ── reports ────────▶ service `hms.mcp` ──▶ link ──▶ agent `mcp-<name>`
//!   relay ◀── orders ─ uplink ◀─ items of a stream ─ command `mcp attach` ◀──────── its behaviour
//! ```
//!
//! - **The wrapper restarts; the host tells.** A life of the agent stands for a life of the server. An exit that
//!   the wrapper reports ends the agent's life, and the next one begins as the life which the wrapper has made:
//!   `agent.exited`, `agent.restarted`, the incident with its rung 0 and its verification, the count of restarts
//!   all come out as for any other agent. No second server is ever started by a host.
//! - **What one asks of the agent, the wrapper does.** Stopping the behaviour is an order to stop the server,
//!   starting it again an order to start: so `agent restart`, `heal trigger` and every rung of healing work. The
//!   wrapper holds calls for a moment between the two; a server that stays stopped refuses them clearly.
//! - **Its budget is the wrapper's.** Supervision here restarts without limit; when the wrapper gives up, the
//!   agent is quarantined for its reason, and comes back with the wrapper's next attempt.
//! - **The agent goes with the wrapper's process**, wherever that shows: at the end of the stream, or when the
//!   next host finds the process gone. Its history stays. It does *not* end with the host: an orderly `system
//!   stop` and a `kill -9` alike leave the server to its client, and the wrapper attaches to the next host as
//!   the same agent, whose adoption waits a moment for it.
//! - **A pool** is several wrappers in one: each process that it runs is an agent for as long as it does.
//! - **Somebody destroys the agent**: the wrapper is released, starts its server again if it was stopped for
//!   that, and shows it no more at this host.
//!
//! | file | room |
//! | --- | --- |
//! | `name.rs` | what a server is called; its command line without secrets |
//! | `report.rs` | what goes over the wire |
//! | `digest.rs`, `uplink.rs` | the wrapper's side: facts to reports; finding hosts |
//! | `host.rs`, `link.rs`, `book.rs` | the host's side: who is attached; lives; calls and health |
//! | `behaviour.rs` | the agent type |

mod behaviour;
mod book;
mod digest;
mod host;
mod link;
mod name;
mod report;
#[cfg(test)]
mod tests;
mod uplink;

use hms_core::{Result, plugin::Registrar};

pub(crate) use self::{
    name::name_of,
    report::Order,
    uplink::{Described, Presence, link},
};

/// The agent type.
const KIND: &str = "mcp-server";

/// Registers what this room offers.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let links = host::Links::new(to.kernel().clone());
    host::register(to, links.clone())?;
    behaviour::register(to, links)
}
