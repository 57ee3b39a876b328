//! Tasks that end with whoever began them.

use hms_core::agent::{AgentContext, Health};

/// A task that is aborted when this is dropped.
pub(crate) struct Task(tokio::task::AbortHandle);

impl Task {
    /// Begins a task on the current runtime.
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future).abort_handle())
    }

    /// Begins the first check of an agent, which is ready once there is a result, good or bad: what watches
    /// others does its work then, and its health is never a guess.
    pub(crate) fn first_check(
        cx: &AgentContext,
        check: impl Future<Output = Health> + Send + 'static,
    ) -> Self {
        let cx = cx.clone();
        Self::spawn(async move {
            cx.health(check.await);
            cx.ready();
        })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
