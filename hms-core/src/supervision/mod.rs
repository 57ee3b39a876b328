//! Supervision, as pure decisions: given the time, an exit and some chance, what happens next.
//!
//! Terms and semantics follow Erlang/OTP's `supervisor`: restart types, strategies, and intensity
//! (at most N restarts in T, then escalate). Back-off is exponential with full or partial jitter and a
//! cap (Brooker, "Exponential Backoff And Jitter"), and starts over after sustained health. Nothing here
//! does I/O or knows of tasks: the agent cell asks and acts.

mod group;
mod restart;
mod strategy;

pub use group::GroupTracker;
pub use restart::{Backoff, Decision, Intensity, Restart, RestartPolicy, RestartTracker};
pub use strategy::{Strategy, affected};
