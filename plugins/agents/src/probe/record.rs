//! The record of an endpoint's checks: how long they take, how many fail, and the verdict that follows.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hms_core::{
    agent::{Health, Issue},
    clock::{Mono, SharedClock},
    duration,
};
use serde_json::{Map, Value};

/// The error rate is that of so many last checks.
const WINDOW: usize = 100;

/// What is remembered of an endpoint's checks.
pub(crate) struct Record {
    /// So many failures in a row make it critical; fewer degrade it.
    failures: u32,
    /// An answer that takes longer degrades it.
    slow: Option<Duration>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Whether each of the last checks failed.
    window: VecDeque<bool>,
    in_a_row: u32,
    took: Option<Duration>,
    error: Option<String>,
    checked_ms: Option<u64>,
}

impl Record {
    pub(crate) fn new(failures: u32, slow: Option<Duration>) -> Self {
        Self { failures, slow, inner: Mutex::default() }
    }

    /// Begins a check. One that is dropped before it is finished counts as failed.
    pub(crate) fn attempt<'a>(&'a self, clock: &'a SharedClock) -> Attempt<'a> {
        Attempt { record: self, clock, began: clock.now(), open: true }
    }

    /// What the checks so far say: unknown before the first.
    pub(crate) fn health(&self, what: &str) -> Health {
        let inner = self.lock();
        let Some(failed) = inner.window.back() else { return Health::unknown() };
        if *failed {
            let error = inner.error.as_deref().unwrap_or("the check was given up");
            let message = format!("{what}: {error}");
            let make = if inner.in_a_row >= self.failures { Issue::critical } else { Issue::degraded };
            return Health::of(vec![make("check", message)]);
        }
        match (inner.took, self.slow) {
            (Some(took), Some(slow)) if took > slow => {
                let (took, slow) = (duration::format(took), duration::format(slow));
                Health::of(vec![Issue::degraded(
                    "slow",
                    format!("{what}: answered after {took}, slow from {slow} on"),
                )])
            }
            _ => Health::healthy(),
        }
    }

    /// `responseTime` in milliseconds (of the last answer) and `errorRate` (0 to 1, over the last 100 checks).
    pub(crate) fn measure(&self) -> Vec<(&'static str, f64)> {
        let inner = self.lock();
        let mut all = Vec::with_capacity(2);
        all.extend(inner.took.map(|took| ("responseTime", took.as_secs_f64() * 1e3)));
        if !inner.window.is_empty() {
            let failed = inner.window.iter().filter(|failed| **failed).count();
            all.push(("errorRate", failed as f64 / inner.window.len() as f64));
        }
        all
    }

    /// The last check, for the status.
    pub(crate) fn facts(&self, into: &mut Map<String, Value>) {
        let inner = self.lock();
        if let Some(at) = inner.checked_ms {
            into.insert("checked_ms".into(), at.into());
            into.insert("last_error".into(), inner.error.clone().into());
        }
    }

    fn finish(&self, began: Mono, clock: &SharedClock, outcome: Result<(), String>) {
        let mut inner = self.lock();
        inner.checked_ms = Some(clock.wall_ms());
        inner.in_a_row = if outcome.is_ok() { 0 } else { inner.in_a_row.saturating_add(1) };
        if inner.window.len() == WINDOW {
            inner.window.pop_front();
        }
        inner.window.push_back(outcome.is_err());
        match outcome {
            Ok(()) => {
                inner.took = Some(clock.now().saturating_sub(began));
                inner.error = None;
            }
            Err(error) => inner.error = Some(error),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A check under way.
pub(crate) struct Attempt<'a> {
    record: &'a Record,
    clock: &'a SharedClock,
    began: Mono,
    open: bool,
}

impl Attempt<'_> {
    /// The check's outcome.
    pub(crate) fn finish(mut self, outcome: Result<(), String>) {
        self.open = false;
        self.record.finish(self.began, self.clock, outcome);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.open {
            self.record.finish(
                self.began,
                self.clock,
                Err("the check was given up before it answered".into()),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hms_core::{agent::HealthStatus, clock::ManualClock};

    use super::*;

    #[test]
    fn failures_degrade_first_and_are_believed_in_a_row() {
        let clock: SharedClock = ManualClock::shared();
        let record = Record::new(2, None);
        assert_eq!(record.health("x").status, HealthStatus::Unknown);
        assert_eq!(record.measure(), []);
        let fail = || record.attempt(&clock).finish(Err("connection refused".into()));
        fail();
        assert_eq!(record.health("x").status, HealthStatus::Degraded);
        fail();
        let health = record.health("x");
        assert_eq!(health.status, HealthStatus::Critical);
        assert_eq!(health.issues[0].message, "x: connection refused");
        record.attempt(&clock).finish(Ok(()));
        assert_eq!(record.health("x").status, HealthStatus::Healthy);
        fail();
        assert_eq!(record.health("x").status, HealthStatus::Degraded);
        assert!(record.measure().contains(&("errorRate", 0.75)));
    }

    #[test]
    fn slow_answers_degrade_and_given_up_ones_fail() {
        let manual = ManualClock::shared();
        let clock: SharedClock = Arc::clone(&manual) as SharedClock;
        let record = Record::new(1, Some(Duration::from_millis(100)));
        let attempt = record.attempt(&clock);
        manual.advance(Duration::from_millis(150));
        attempt.finish(Ok(()));
        let health = record.health("x");
        assert_eq!((health.status, health.issues[0].code.as_str()), (HealthStatus::Degraded, "slow"));
        assert_eq!(record.measure()[0], ("responseTime", 150.0));
        drop(record.attempt(&clock));
        assert_eq!(record.health("x").status, HealthStatus::Critical);
    }

    #[test]
    fn the_error_rate_forgets() {
        let clock: SharedClock = ManualClock::shared();
        let record = Record::new(1, None);
        record.attempt(&clock).finish(Err("x".into()));
        for _ in 0..WINDOW {
            record.attempt(&clock).finish(Ok(()));
        }
        assert!(record.measure().contains(&("errorRate", 0.0)));
    }
}
