//! Peers: every other process that takes part in a system, on one protocol (`docs/protocol.md`).
//!
//! Frames are a 4-byte little-endian length and that many bytes of JSON: JSON-RPC 2.0 requests, responses
//! and notifications, in both directions. [`Connection`] is one such conversation and knows no method;
//! [`serve`] answers for the host; [`Client`] is the other side, which finds, starts and outlives hosts.

mod client;
mod connection;
mod frame;
mod lease;
mod offers;
mod remote_agent;
mod session;

pub use client::{Attach, Client, HostCommand, RemoteSubscription};
pub use connection::{Connection, PeerHandler};
pub use frame::{MAX_FRAME, PROTOCOL_MAJOR, PROTOCOL_MINOR};
pub use offers::Offered;
pub use session::serve;

/// The socket's name in the runtime folder.
pub const SOCKET: &str = "host.sock";
