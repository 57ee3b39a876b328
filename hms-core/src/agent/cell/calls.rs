//! Calls of a behaviour: each has a deadline, its panics are contained, and one that blocks does so on a thread
//! of its own.
//!
//! A call that is given up is over for the cell, which goes on. One that awaits ends with that; one that blocks
//! its thread goes on, and is counted for as long as it does: an agent of which too many hang gets no new life.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::json;

use super::{Cell, HANDLER_LIMIT, STOP_MARGIN, answer};
use crate::{
    Error, ErrorKind, Kernel, Result,
    agent::{Behaviour, ExitReport, Message, Stop, message::Envelope, shared::Shared},
    clock::SharedClock,
    contain::{contained, contained_sync},
};

/// So many calls of one agent may hang before nothing of it is called any more but its end.
const HUNG_LIMIT: usize = 3;

impl Cell {
    /// What `call`, which is a call of `behaviour`, comes to within `limit`.
    pub(super) async fn call<T: Send + 'static>(
        &mut self,
        behaviour: &Arc<dyn Behaviour>,
        limit: Duration,
        what: &str,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        guarded(&self.kernel, &self.shared, &**behaviour, limit, what, call).await
    }

    /// Ends what `behaviour` runs; by force when it fails to end it otherwise. What does not return from that
    /// either is abandoned: nobody waits for it any more, and it is said and counted.
    pub(super) async fn end(&mut self, behaviour: &Arc<dyn Behaviour>, how: Stop) -> Result<()> {
        let mut stopped = self.stop_behaviour(behaviour, how).await;
        if let (Err(e), Stop::Graceful(_)) = (&stopped, how)
            && matches!(e.kind, ErrorKind::Panic | ErrorKind::Timeout)
        {
            // It did not get as far as trying force.
            stopped = self.stop_behaviour(behaviour, Stop::Kill).await;
        }
        if let Err(e) = &stopped
            && e.kind == ErrorKind::Timeout
        {
            let abandoned = self.shared.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
            let incarnation = self.cx.incarnation();
            tracing::error!(agent = %self.shared.id, incarnation, error = %e, "a life that does not end is abandoned");
            self.publish(
                "agent.abandoned",
                json!({"reason": e.message, "incarnation": incarnation, "abandoned": abandoned}),
            );
        }
        stopped
    }

    async fn stop_behaviour(&mut self, behaviour: &Arc<dyn Behaviour>, how: Stop) -> Result<()> {
        let grace = match how {
            Stop::Graceful(given) => {
                contained_sync(|| behaviour.grace()).ok().flatten().unwrap_or(given).max(given)
            }
            Stop::Kill | Stop::Detach => Duration::ZERO,
        };
        let stopped = behaviour.clone();
        let stop = async move { stopped.stop(how).await };
        self.call(behaviour, grace.saturating_add(STOP_MARGIN), "its stop", stop).await.and_then(|r| r)
    }

    /// Takes a message in hand.
    pub(super) fn take(&mut self, envelope: Envelope) {
        let Some(behaviour) = self.behaviour.clone() else { return };
        let Envelope { message, deadline, reply } = envelope;
        if deadline.is_some_and(|d| d <= self.kernel.clock().now()) {
            return answer(
                reply,
                Err(Error::new(ErrorKind::Timeout, "the message's deadline passed before it was handled")),
            );
        }
        self.shared.count_edge(&message.source);
        let (kernel, shared, cx) = (self.kernel.clone(), self.shared.clone(), self.cx.clone());
        self.handling = Some(Box::pin(async move {
            let asked = behaviour.clone();
            let handle = async move { asked.handle(&cx, message).await };
            let outcome = match refuse_hung(&shared) {
                Ok(()) => {
                    guarded(&kernel, &shared, &*behaviour, HANDLER_LIMIT, "a message handler", handle).await
                }
                Err(e) => Err(e),
            };
            let failure = outcome.as_ref().err().map(|e| ExitReport::failure(e.message.clone()));
            answer(reply, outcome.and_then(|r| r));
            failure
        }));
    }
}

/// What `call`, which is a call of `behaviour`, comes to within `limit`.
///
/// Errors: `timeout`, `panic`.
pub(in crate::agent) async fn guarded<T: Send + 'static>(
    kernel: &Kernel,
    shared: &Shared,
    behaviour: &dyn Behaviour,
    limit: Duration,
    what: &str,
    call: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let clock = kernel.clock();
    if contained_sync(|| behaviour.blocks()).unwrap_or(false) {
        let apart = kernel.agents().blocking().run(&shared.hung, call);
        within(clock, limit, what, apart).await.and_then(|outcome| outcome)
    } else {
        within(clock, limit, what, call).await
    }
}

/// The outcome of `future`, which may panic, and may take as long as `limit`.
async fn within<F: Future>(clock: &SharedClock, limit: Duration, what: &str, future: F) -> Result<F::Output> {
    tokio::select! {
        biased;
        outcome = contained(future) => outcome,
        () = clock.sleep_until(clock.now().saturating_add(limit)) => Err(Error::new(
            ErrorKind::Timeout,
            format!("{what} took longer than {}", crate::duration::format(limit)),
        )),
    }
}

/// An error when too many calls of this agent hang to make another one.
pub(in crate::agent) fn refuse_hung(shared: &Shared) -> Result<()> {
    let hung = shared.hung.count();
    if hung < HUNG_LIMIT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidState, format!("{hung} of its calls have not returned"))
        .hint("restart the process they run in"))
}

/// So that a message to an agent that cannot take one is answered at once.
pub(in crate::agent) fn refuse(message: &Message, target: &str) -> Option<Error> {
    message.chain.iter().any(|id| id == target).then(|| {
        Error::new(ErrorKind::WouldDeadlock, format!("agent `{target}` already waits for this answer"))
            .hint("use tell, or answer before asking back")
    })
}
