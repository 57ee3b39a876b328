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
        self.set_status(status, reason);
        self.refresh_health();
        self.keep();
    }

    pub(super) fn set_status(&mut self, status: Status, reason: Option<String>) {
        let previous = {
            let mut public = self.shared.public();
            if public.state.status == status && public.state.reason == reason {
                return;
            }
            let previous = std::mem::replace(&mut public.state.status, status);
            public.state.reason = reason.clone();
            public.state.since_ms = self.kernel.clock().wall_ms();
            previous
        };
        if previous != status {
            self.publish(
                "agent.status.changed",
                json!({"status": status, "previous": previous, "reason": reason}),
            );
        }
    }

    /// Health follows from the phase of life and, while alive, from what the behaviour reports.
    pub(super) fn refresh_health(&mut self) {
        let (status, reason) = {
            let public = self.shared.public();
            (public.state.status, public.state.reason.clone())
        };
        let why = || reason.clone().unwrap_or_default();
        let health = match status {
            Status::Running | Status::Degraded => self.reported.clone(),
            Status::Starting | Status::Waiting | Status::Stopped => Health::unknown(),
            Status::Restarting => Health::of(vec![Issue::critical("restarting", why())]),
            Status::Failed => Health::of(vec![Issue::critical("failed", why())]),
            Status::Quarantined => Health::of(vec![Issue::critical("quarantined", why())]),
        };
        // Even without a change: a life that follows at once on a healthy one begins its own time of health.
        self.tracker.health(self.kernel.clock().now(), health.status == HealthStatus::Healthy);
        let previous = {
            let mut public = self.shared.public();
            if public.state.health == health {
                return;
            }
            std::mem::replace(&mut public.state.health, health.clone())
        };
        let data =
            json!({"health": health, "previous": previous.status, "incarnation": self.cx.incarnation()});
        self.publish("agent.health.updated", data);
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
