//! Health checks: one task that knows when whose check is due, and lets a bounded number of them run.
//!
//! An agent whose health is known from what it tells (`needs_checks` is false) is never asked. Events say
//! when an agent comes to need checks; when it ceases to, its next check finds out and is the last.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hms_core::{
    Kernel, Result,
    agent::HealthStatus,
    clock::Mono,
    contain::contained,
    event::{Batch, Subscribe, Subscription},
};
use tokio::task::JoinSet;

use crate::{
    config::{SHORTEST, Settings},
    state::{Shared, Stopped},
    timetable::Timetable,
};

/// What may change whether and when an agent is checked.
const EVENTS: [&str; 7] = [
    "agent.created",
    "agent.updated",
    "agent.destroyed",
    "agent.status.changed",
    "agent.started",
    "agent.adopted",
    "agent.restarted",
];

/// A fresh agent is checked within this time, so that many that start at once are not checked at once.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

/// The checks of one agent since the last sample of its metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// How many there were.
    pub(crate) checks: u32,
    /// How many found it critical.
    pub(crate) failed: u32,
    /// The time they took, in milliseconds, together.
    pub(crate) took_ms: f64,
    /// When the last one ended, in milliseconds since the Unix epoch.
    pub(crate) checked_ms: Option<u64>,
}

/// What the checks told.
#[derive(Debug, Default)]
pub(crate) struct Log {
    tallies: Mutex<HashMap<String, Tally>>,
}

impl Log {
    fn add(&self, id: &str, took: Duration, failed: bool, now_ms: u64) {
        let mut tallies = self.tallies();
        let tally = match tallies.get_mut(id) {
            Some(tally) => tally,
            None => tallies.entry(id.to_owned()).or_default(),
        };
        tally.checks += 1;
        tally.failed += u32::from(failed);
        tally.took_ms += took.as_secs_f64() * 1e3;
        tally.checked_ms = Some(now_ms);
    }

    /// The checks since this was last asked; counting begins anew.
    pub(crate) fn take(&self, id: &str) -> Tally {
        let mut tallies = self.tallies();
        let Some(tally) = tallies.get_mut(id) else { return Tally::default() };
        let fresh = Tally { checked_ms: tally.checked_ms, ..Tally::default() };
        std::mem::replace(tally, fresh)
    }

    /// When an agent was last checked.
    pub(crate) fn checked_ms(&self, id: &str) -> Option<u64> {
        self.tallies().get(id)?.checked_ms
    }

    /// Forgets an agent that is gone.
    pub(crate) fn forget(&self, id: &str) {
        self.tallies().remove(id);
    }

    /// Keeps only the agents that there are: a check may end after its agent did.
    pub(crate) fn retain(&self, there: impl Fn(&str) -> bool) {
        self.tallies().retain(|id, _| there(id));
    }

    fn tallies(&self) -> MutexGuard<'_, HashMap<String, Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the scheduler listens to. Made before agents are restored, so that it misses none.
pub(crate) fn subscribe(kernel: &Kernel) -> Result<Subscription> {
    kernel.bus().subscribe(Subscribe::to(EVENTS))
}

/// Schedules checks until the end. Checks that run then are abandoned.
pub(crate) async fn run(kernel: Kernel, shared: Arc<Shared>, events: Subscription, mut stopped: Stopped) {
    let clock = kernel.clock().clone();
    let mut settings = shared.settings.subscribe();
    let mut scheduler = Scheduler {
        settings: settings.borrow_and_update().clone(),
        kernel,
        shared,
        table: Timetable::default(),
        running: JoinSet::new(),
    };
    scheduler.look_at_all();
    loop {
        let due = scheduler.begin_due();
        let timer = async {
            match due {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped.wait() => break,
            Some(done) = scheduler.running.join_next() => scheduler.end(done),
            batch = events.next_batch(256) => match batch {
                Some(batch) => scheduler.hear(&batch),
                None => break,
            },
            changed = settings.changed() => match changed {
                Ok(()) => {
                    let now = settings.borrow_and_update().clone();
                    scheduler.adopt_settings(now);
                }
                Err(_) => break,
            },
            () = timer => {}
        }
    }
}

/// What a check came to: of whom, how long it took, and what it found; `None` when the agent had gone.
type Done = (Arc<str>, Duration, Option<HealthStatus>);

struct Scheduler {
    kernel: Kernel,
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    table: Timetable,
    running: JoinSet<Done>,
}

impl Scheduler {
    fn now(&self) -> Mono {
        self.kernel.clock().now()
    }

    fn interval(&self, id: &str) -> Duration {
        let own = self.kernel.agents().spec(id).ok().and_then(|spec| spec.health.interval);
        own.unwrap_or(self.settings.interval).max(SHORTEST)
    }

    /// Begins what is due and fits; when to look again.
    fn begin_due(&mut self) -> Option<Mono> {
        while self.running.len() < self.settings.concurrency {
            let Some(id) = self.table.begin(self.now()) else { return self.table.next() };
            if !self.kernel.agents().needs_checks(&id) {
                // It stopped, or it tells by itself. Should it come to need checks again, an event says so.
                self.table.end(&id, self.now(), None);
                continue;
            }
            self.running.spawn(check(self.kernel.clone(), id));
        }
        None
    }

    fn end(&mut self, done: std::result::Result<Done, tokio::task::JoinError>) {
        // A check cannot panic (it is contained) and is aborted by nobody.
        let Ok((id, took, found)) = done else { return };
        let Some(health) = found else { return self.table.end(&id, self.now(), None) };
        self.shared.checks.add(&id, took, health == HealthStatus::Critical, self.kernel.clock().wall_ms());
        let interval = self.interval(&id);
        self.table.end(&id, self.now(), Some(interval));
    }

    fn hear(&mut self, batch: &Batch) {
        if batch.lost > 0 {
            self.look_at_all();
        }
        for event in &batch.events {
            let Some(id) = event.subject.as_deref() else { continue };
            match event.kind.as_str() {
                "agent.destroyed" => self.table.cancel(id),
                "agent.updated" => {
                    let interval = self.interval(id);
                    self.table.replan(id, self.now(), interval);
                    self.look_at(id);
                }
                _ => self.look_at(id),
            }
        }
    }

    /// Somebody may have begun to need checks, or a new life: a check soon, at a time left to chance.
    fn look_at(&mut self, id: &str) {
        if self.kernel.agents().needs_checks(id) {
            let within = self.interval(id).min(FIRST_WITHIN);
            let at = self.now() + within.mul_f64(self.kernel.rng().unit());
            self.table.request(id, at);
        }
    }

    fn look_at_all(&mut self) {
        for (id, _) in self.kernel.agents().specs() {
            self.look_at(&id);
        }
    }

    fn adopt_settings(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
        for id in self.table.agents() {
            let interval = self.interval(&id);
            self.table.replan(&id, self.now(), interval);
        }
    }
}

async fn check(kernel: Kernel, id: Arc<str>) -> Done {
    let began = kernel.clock().now();
    let found = contained(kernel.agents().check(&id)).await.and_then(|r| r);
    let took = kernel.clock().now().saturating_sub(began);
    (id, took, found.ok().map(|health| health.status))
}
