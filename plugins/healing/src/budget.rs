//! How much healing may do: actions of one agent within a window, and actions at once over all agents.
//!
//! The budget is a function of the times that are put in, so that it replays; the gate counts and wakes.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hms_core::clock::Mono;
use tokio::sync::Notify;

use crate::config::BudgetLimit;

/// What was done to one agent lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget {
    /// Times of actions, oldest first. Never longer than the largest limit that admitted one.
    actions: VecDeque<Mono>,
}

impl Budget {
    /// How many actions count at `now`.
    pub(crate) fn used(&self, window: Duration, now: Mono) -> u32 {
        let counts = |at: &&Mono| now.saturating_sub(**at) < window;
        u32::try_from(self.actions.iter().filter(counts).count()).unwrap_or(u32::MAX)
    }

    /// Whether one more action is allowed at `now`.
    pub(crate) fn has_room(&self, limit: BudgetLimit, now: Mono) -> bool {
        self.used(limit.window, now) < limit.actions
    }

    /// Counts an action at `at` and forgets what no longer matters.
    pub(crate) fn record(&mut self, limit: BudgetLimit, at: Mono) {
        while self.actions.front().is_some_and(|first| at.saturating_sub(*first) >= limit.window) {
            self.actions.pop_front();
        }
        self.actions.push_back(at);
    }
}

/// Lets at most so many in at once. The limit may change at any time; those inside stay.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: AtomicUsize,
    inside: Mutex<usize>,
    left: Notify,
}

impl Gate {
    /// A gate for `limit` at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit), inside: Mutex::new(0), left: Notify::new() }
    }

    /// How many are allowed inside.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many are inside.
    pub(crate) fn inside(&self) -> usize {
        *self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the limit; who waits looks again.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.left.notify_waiters();
    }

    /// Waits for a place; it is free again when the pass is dropped. Cancel-safe.
    pub(crate) async fn enter(&self) -> Pass<'_> {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            // Registered before the look, so that somebody who leaves in between is not missed.
            left.as_mut().enable();
            if let Some(pass) = self.try_enter() {
                return pass;
            }
            left.await;
        }
    }

    /// A place, if one is free.
    pub(crate) fn try_enter(&self) -> Option<Pass<'_>> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if *inside >= self.limit() {
            return None;
        }
        *inside += 1;
        Some(Pass(self))
    }
}

/// A place inside a [`Gate`].
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        *self.0.inside.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        // All of them: one that was woken and then dropped must not take the only notice with it.
        self.0.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_gate_holds_and_opens() {
        let gate = Gate::new(2);
        let (first, second) = (gate.try_enter(), gate.try_enter());
        assert!(first.is_some() && second.is_some() && gate.try_enter().is_none());
        drop(first);
        assert_eq!(gate.inside(), 1);
        assert!(gate.try_enter().is_some());
        gate.set_limit(1);
        assert!(gate.try_enter().is_none(), "the second one is still inside");
    }

    #[tokio::test]
    async fn who_waits_is_let_in() {
        let gate = std::sync::Arc::new(Gate::new(1));
        let first = gate.try_enter().expect("it is empty");
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { drop(gate.enter().await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        tokio::time::timeout(Duration::from_secs(10), waiting)
            .await
            .expect("it was let in")
            .expect("it did not panic");
    }

    proptest! {
        /// Never more than the limit in any window, and never refused while there is room.
        #[test]
        fn the_limit_holds(actions in 0u32..6, window in 1u64..400, gaps in prop::collection::vec(0u64..150, 1..80)) {
            let limit = BudgetLimit { actions, window: Duration::from_millis(window) };
            let (mut budget, mut now, mut done) = (Budget::default(), 0u64, Vec::<u64>::new());
            for gap in gaps {
                now += gap;
                let at = Duration::from_millis(now);
                let recent = done.iter().filter(|&&then| now - then < window).count();
                prop_assert_eq!(budget.used(limit.window, at) as usize, recent);
                prop_assert_eq!(budget.has_room(limit, at), recent < actions as usize);
                if budget.has_room(limit, at) {
                    budget.record(limit, at);
                    done.push(now);
                }
                prop_assert!(budget.actions.len() <= actions as usize);
            }
        }
    }
}
