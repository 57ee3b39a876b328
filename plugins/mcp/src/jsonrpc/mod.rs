//! JSON-RPC messages on newline-delimited streams: found and told apart, never rewritten.
//!
//! A message is its raw bytes and an [`Envelope`]: the few members that a relay needs to know. Both come from
//! one incremental scan that keeps nothing of the rest, so that a line of many megabytes passes in pieces.
//!
//! | file | what |
//! | --- | --- |
//! | `scan` | the scanner: bytes in, envelopes out |
//! | `lines` | cuts a stream into messages, or into pieces of one that is long |
//! | `id` | ids that are equal when JSON says so |
//! | `build` | the few messages that a relay writes itself |

mod build;
mod id;
mod lines;
mod scan;
#[cfg(test)]
mod tests;

pub(crate) use build::{Failure, notification, request, respond, with_id};
pub(crate) use id::Id;
pub(crate) use lines::{Lines, Piece};
pub(crate) use scan::{Envelope, Kind, Scan};
