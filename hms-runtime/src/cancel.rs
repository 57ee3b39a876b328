//! Cancelling a whole command line from outside, as a signal handler's thread does.

use std::sync::Arc;

use tokio::sync::watch;

/// A switch that many may watch. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<watch::Sender<Option<i32>>>);

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

impl Cancel {
    /// A switch that is off.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Switches on; `signal` is the number of the signal that asks for it, 0 for none. The first call counts.
    pub fn cancel(&self, signal: i32) {
        self.0.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(signal);
            }
            first
        });
    }

    /// Whether it is on.
    pub fn is_cancelled(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// The signal that asked for it, once it is on.
    pub fn signal(&self) -> Option<i32> {
        *self.0.borrow()
    }

    /// Completes with the signal when it is on.
    pub async fn cancelled(&self) -> i32 {
        let mut watch = self.0.subscribe();
        let signal = watch.wait_for(Option::is_some).await;
        signal.ok().and_then(|s| *s).unwrap_or(0)
    }
}
