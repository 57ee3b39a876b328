//! What the bus asks of the store that keeps journaled events.

use std::{future::Future, pin::Pin, sync::Arc};

use super::{model::Event, subject::Pattern};
use crate::Result;

/// A boxed future that can move between threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Called once with the outcome of an append, after its commit.
pub type Ack = Box<dyn FnOnce(Result<()>) + Send>;

/// Keeps journaled events in the order of their sequence.
pub trait Journal: Send + Sync {
    /// Takes `event`, whose sequence is set, and promises to write it; calls `ack` when it is
    /// committed, or has failed.
    ///
    /// Called under the lock that orders journaled events, in ascending sequence: it must only hand the
    /// event on, and neither block, nor call `ack`, nor use the bus before it returns. An `ack` that is
    /// dropped uncalled means that the event was not kept.
    fn append(&self, event: Arc<Event>, ack: Option<Ack>);

    /// The first `limit` kept events with a sequence greater than `after_sequence` whose kind
    /// one of `patterns` matches, ascending.
    ///
    /// Sees every event whose append *returned* before this call, committed or not. Fewer than `limit`
    /// means that there are no more.
    fn read(
        &self,
        after_sequence: u64,
        patterns: &[Pattern],
        limit: usize,
    ) -> BoxFuture<Result<Vec<Arc<Event>>>>;

    /// The greatest sequence that retention has removed; 0 for none. A reader whose cursor is lower may
    /// have missed events, and is told.
    fn pruned_through(&self) -> u64 {
        0
    }
}
