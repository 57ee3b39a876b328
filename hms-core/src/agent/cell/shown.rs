//! What is shown of an agent: its status and health, and the events that tell of them.

use serde_json::{Value, json};

use super::{Cell, Phase};
use crate::{
    agent::{ExitReport, Health, HealthStatus, Issue, Status, shared::facts_of},
    event::EventDraft,
};

impl Cell {
    pub(super) fn settle(&mut self, status: Status, reason: Option<String>) {
        self.phase = Phase::Idle;
        self.show(status, reason);
        self.keep();
    }

    /// Changes status and health, which others see at once: health follows from where it is in its life and,
    /// while it works, from what the behaviour reports.
    pub(super) fn show(&mut self, status: Status, reason: Option<String>) {
        let health = self.health_in(status, reason.as_deref().unwrap_or_default());
        // Even without a change: a life that follows at once on a healthy one begins its own time of health.
        self.tracker.health(self.kernel.clock().now(), health.status == HealthStatus::Healthy);
        let now_ms = self.kernel.clock().wall_ms();
        let (spec, was, had) = {
            let mut public = self.shared.public();
            let state = &mut public.state;
            if state.status != status || state.reason != reason {
                state.since_ms = now_ms;
            }
            let was = std::mem::replace(&mut state.status, status);
            state.reason.clone_from(&reason);
            let had = std::mem::replace(&mut state.health, health.clone());
            (public.spec.clone(), was, had)
        };
        self.kernel.agents().tell_group(&self.shared, &spec);
        if was != status {
            self.publish(
                "agent.status.changed",
                json!({"status": status, "previous": was, "reason": reason}),
            );
        }
        if had != health {
            let data =
                json!({"health": health, "previous": had.status, "incarnation": self.cx.incarnation()});
            self.publish("agent.health.updated", data);
        }
    }

    fn health_in(&self, status: Status, why: &str) -> Health {
        match status {
            Status::Running | Status::Degraded => self.reported.clone(),
            Status::Starting | Status::Waiting | Status::Stopped => Health::unknown(),
            Status::Restarting => Health::of(vec![Issue::critical("restarting", why)]),
            Status::Failed => Health::of(vec![Issue::critical("failed", why)]),
            Status::Quarantined => Health::of(vec![Issue::critical("quarantined", why)]),
        }
    }

    pub(super) fn publish_exit(&self, ended: &Value, exit: &ExitReport, next: &str) {
        let mut data = ended.clone();
        data["exit"] = json!(exit);
        data["next"] = next.into();
        self.publish("agent.exited", data);
    }

    /// This life, as events tell it.
    pub(super) fn life(&self) -> Value {
        let mut life = self.behaviour.as_deref().map(facts_of).unwrap_or_default();
        life.insert("incarnation".into(), self.cx.incarnation().into());
        life.insert("restarts".into(), self.kept.restarts.into());
        Value::Object(life)
    }

    pub(super) fn publish(&self, kind: &str, mut data: Value) {
        data["agent"] = self.shared.name().into();
        data["id"] = self.shared.id.clone().into();
        data["type"] = self.shared.spec().kind.clone().into();
        self.kernel.publish(
            EventDraft::json(kind, data)
                .subject(&self.shared.id)
                .source(format!("/agents/{}", self.shared.id)),
        );
    }

    pub(super) fn keep(&self) {
        self.kernel.agents().keep_state(&self.shared.id, &self.kept);
    }
}
