//! The watcher: one task that hears what happens to agents, says how the system is, and judges the rules.

use std::{future::pending, sync::Arc};

use hms_core::{
    Kernel, Result,
    agent::{Desired, HealthStatus, Status},
    event::{Batch, Event, EventDraft, Subscribe, Subscription},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    alerts::{Rule, Who},
    config::{SECTION, Settings},
    state::{Observation, Shared, Stopped},
    system::{Fleet, Seen, Standing},
};

/// Events taken at once.
const BATCH: usize = 256;

/// What changes the picture.
const EVENTS: [&str; 5] = [
    "agent.destroyed",
    "agent.status.changed",
    "agent.health.updated",
    "system.config.changed",
    "system.host.started",
];

/// Hears what happens from now on. Called before agents are restored, so that nothing is missed: an agent
/// that is not known yet is one that has not begun anything.
///
/// # Errors
/// When the bus is closed.
pub(crate) fn watch(kernel: &Kernel, shared: &Arc<Shared>) -> Result<Watcher> {
    let events = kernel.bus().subscribe(Subscribe::to(EVENTS))?;
    let rules = shared.settings.borrow().rules();
    let mut watcher =
        Watcher { kernel: kernel.clone(), shared: shared.clone(), events, rules, fleet: Fleet::default() };
    shared.stand(Standing { since_ms: kernel.clock().wall_ms(), ..Standing::default() });
    watcher.forget_old_rules();
    watcher.look_at_all();
    Ok(watcher)
}

/// Knows the agents by what events tell, and the rules.
pub(crate) struct Watcher {
    kernel: Kernel,
    shared: Arc<Shared>,
    events: Subscription,
    rules: Vec<Rule>,
    fleet: Fleet,
}

impl Watcher {
    /// Watches until the end.
    pub(crate) async fn run(mut self, mut samples: mpsc::Receiver<Vec<Observation>>, mut stopped: Stopped) {
        let clock = self.kernel.clock().clone();
        loop {
            let due = self.shared.alerts.next_due();
            let timer = async {
                match due {
                    Some(at) => clock.sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = stopped.wait() => break,
                batch = self.events.next_batch(BATCH) => match batch {
                    Some(batch) => self.hear(&batch),
                    None => break,
                },
                Some(round) = samples.recv() => self.judge_samples(&round),
                () = timer => self.shared.alerts.tick(&self.kernel),
            }
        }
    }

    fn hear(&mut self, batch: &Batch) {
        if batch.lost > 0 {
            return self.catch_up(batch);
        }
        for event in &batch.events {
            self.hear_one(event);
        }
    }

    /// Too much happened to hear all of it. What waits still is older than what there is to see: of it only
    /// what is not about the state of an agent matters.
    fn catch_up(&mut self, batch: &Batch) {
        let mut events = batch.events.clone();
        while let Some(more) = self.events.try_next_batch(BATCH) {
            events.extend(more.events);
        }
        for event in events.iter().filter(|event| event.kind.as_str().starts_with("system.")) {
            self.hear_one(event);
        }
        self.look_at_all();
    }

    fn hear_one(&mut self, event: &Event) {
        let data = event.data.as_json().unwrap_or(&Value::Null);
        match event.kind.as_str() {
            "system.config.changed" => self.adopt_settings(data["key"].as_str().unwrap_or_default()),
            "system.host.started" => self.forget_old_agents(),
            kind => {
                let Some(id) = event.subject.as_deref() else { return };
                if kind == "agent.destroyed" {
                    self.forget(id);
                } else {
                    self.update(id, data);
                }
            }
        }
    }

    /// Takes from an event what it tells, and nothing from the agent itself: that may be ahead of its events,
    /// and would seem to go back with the next one.
    fn update(&mut self, id: &str, data: &Value) {
        let mut seen = match (self.fleet.get(id), data["agent"].as_str()) {
            (Some(seen), _) => seen.clone(),
            (None, Some(name)) => {
                Seen { name: name.to_owned(), status: Status::Stopped, health: HealthStatus::Unknown }
            }
            (None, None) => return,
        };
        let (status, health) =
            (Status::deserialize(&data["status"]), HealthStatus::deserialize(&data["health"]["status"]));
        if status.is_err() && health.is_err() {
            return;
        }
        seen.status = status.unwrap_or(seen.status);
        seen.health = health.unwrap_or(seen.health);
        self.put(id, seen);
    }

    /// How an agent is now; `None` when it is gone, or is back from the store and has not begun anything yet:
    /// it looks stopped then, which says nothing about the alerts of its last life.
    fn look_up(&self, id: &str) -> Option<Seen> {
        let (spec, state) = (self.kernel.agents().spec(id).ok()?, self.kernel.agents().state(id).ok()?);
        let begun =
            state.status != Status::Stopped || state.reason.is_some() || spec.desired == Desired::Stopped;
        begun.then(|| Seen { name: spec.name.clone(), status: state.status, health: state.health.status })
    }

    fn put(&mut self, id: &str, seen: Seen) {
        let who = Who { id, name: &seen.name };
        self.shared.alerts.state(&self.kernel, &self.rules, who, seen.status, seen.health);
        self.fleet.put(id, seen);
        self.announce();
    }

    fn forget(&mut self, id: &str) {
        self.fleet.remove(id);
        self.shared.checks.forget(id);
        self.shared.metrics.forget(id);
        self.shared.alerts.retain(&self.kernel, |alert| alert.id != id);
        self.announce();
    }

    /// Not everything was heard: looks for itself.
    fn look_at_all(&mut self) {
        let agents = self.kernel.agents();
        let gone: Vec<String> =
            self.fleet.iter().map(|(id, _)| id).filter(|id| agents.state(id).is_err()).cloned().collect();
        gone.iter().for_each(|id| self.forget(id));
        for (id, _) in self.kernel.agents().specs() {
            if let Some(seen) = self.look_up(&id) {
                self.put(&id, seen);
            }
        }
    }

    /// Says how the system is, if that changed.
    fn announce(&mut self) {
        let (counts, before) = (self.fleet.counts(), self.shared.standing());
        let status = counts.worst();
        if status == before.status {
            return;
        }
        let since_ms = self.kernel.clock().wall_ms();
        self.shared.stand(Standing { status, since_ms });
        let data =
            json!({"status": status, "previous": before.status, "since_ms": since_ms, "counts": counts});
        self.kernel.publish(EventDraft::json("system.health.changed", data).source("/monitoring"));
    }

    // ---- rules ----------------------------------------------------------------------------------

    fn judge_samples(&mut self, round: &[Observation]) {
        for Observation { id, metric, value } in round {
            // Its samples may arrive before what it did.
            let Ok(spec) = self.kernel.agents().spec(id) else { continue };
            let who = Who { id, name: &spec.name };
            self.shared.alerts.sample(&self.kernel, &self.rules, who, metric, *value);
        }
    }

    fn adopt_settings(&mut self, key: &str) {
        if key.split('.').next() != Some(SECTION) {
            return;
        }
        match Settings::read(&self.kernel) {
            Ok(settings) => {
                self.rules = settings.rules();
                self.shared.settings.send_replace(Arc::new(settings));
                self.forget_old_rules();
                for (id, seen) in self.fleet.iter() {
                    let who = Who { id, name: &seen.name };
                    self.shared.alerts.state(&self.kernel, &self.rules, who, seen.status, seen.health);
                }
            }
            Err(e) => tracing::warn!(%key, error = %e, "the settings before stay in force"),
        }
    }

    /// Resolves the alerts of rules that are not there any more, or say something else now.
    fn forget_old_rules(&self) {
        self.shared.alerts.retain(&self.kernel, |alert| {
            self.rules.iter().any(|rule| {
                rule.name == alert.rule
                    && rule.condition() == alert.condition
                    && rule.severity == alert.severity
                    && rule.is_about(&alert.agent, &alert.id)
            })
        });
    }

    /// All agents are back after a start of the host: the alerts of those that are not have no object.
    fn forget_old_agents(&self) {
        self.shared.alerts.retain(&self.kernel, |alert| self.kernel.agents().state(&alert.id).is_ok());
    }
}
