//! The director: turns what the kernel and other organs publish into causes and observations.
//!
//! It reacts to events alone, and never waits for the store or for an agent. Should its queue overflow in a
//! storm, it looks at all agents once, so that what was lost is found by its traces.

use std::sync::Arc;

use hms_core::{
    Result,
    agent::{Desired, Health, HealthStatus, Status},
    event::{Event, Overflow, Subscribe, Subscription},
};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    case::Observed,
    engine::{Cause, CauseKind, Engine},
    healer::describe,
};

/// What the director listens to.
const SUBJECTS: [&str; 11] = [
    "agent.health.updated",
    "agent.exited",
    "agent.started",
    "agent.adopted",
    "agent.restarted",
    "agent.status.changed",
    "agent.quarantined",
    "agent.destroyed",
    "alert.*",
    "system.config.changed",
    "system.host.started",
];

/// Events that wait at most; a loss is made good by looking.
const QUEUE: usize = 8192;

/// Issues that tell of supervision's own doing, or of somebody else's illness.
const NOT_AN_ILLNESS: [&str; 3] = ["restarting", "quarantined", "dependency"];

pub(crate) fn subscribe(engine: &Engine) -> Result<Subscription> {
    engine.kernel.bus().subscribe(Subscribe::to(SUBJECTS).queue(QUEUE, Overflow::DropOldest))
}

/// Directs until the subscription or the engine ends.
pub(crate) async fn run(engine: Arc<Engine>, events: Subscription) {
    let clock = engine.kernel.clock().clone();
    let patience = engine.config().map(|c| c.settings.ready_timeout).unwrap_or_default();
    // Agents of which nothing is heard are looked at after all.
    let mut silence = Some(clock.sleep_until(clock.now() + patience));
    loop {
        let batch = tokio::select! {
            biased;
            () = engine.ending() => return,
            batch = events.next_batch(256) => batch,
            () = async { match silence.as_mut() { Some(s) => s.await, None => std::future::pending().await } } => {
                silence = None;
                engine.resume_all();
                continue;
            }
        };
        let Some(batch) = batch else { return };
        if batch.lost > 0 {
            look_at_all(&engine);
        }
        for event in &batch.events {
            direct(&engine, event);
        }
    }
}

fn direct(engine: &Arc<Engine>, event: &Event) {
    let none = Value::Null;
    let data = event.data.as_json().unwrap_or(&none);
    let kind = event.kind.as_str();
    match kind {
        "system.config.changed" => {
            if data["key"].as_str().is_some_and(|key| key.starts_with("healing."))
                && let Err(e) = engine.reload()
            {
                tracing::warn!(error = %e, "the healing configuration was not taken over");
            }
            return;
        }
        "system.host.started" => return engine.resume_all(),
        _ => {}
    }
    let Some(id) = data["id"].as_str() else { return };
    engine.resume(id);
    match kind {
        "agent.exited" => exited(engine, id, data),
        "agent.health.updated" => health_updated(engine, id, data),
        "agent.quarantined" => quarantined(engine, id, data),
        "agent.destroyed" => {
            over(engine, id, "the agent was destroyed");
            engine.forget(id);
        }
        "agent.started" | "agent.adopted" => engine.give_another_chance(id),
        "agent.restarted" if data["by"] == "user" => engine.give_another_chance(id),
        "agent.status.changed" if data["status"] == "stopped" => {
            let stopped = engine.kernel.agents().spec(id).is_ok_and(|spec| spec.desired == Desired::Stopped);
            if stopped {
                over(engine, id, "the agent was stopped");
            }
        }
        "alert.firing" => alert_firing(engine, id, data),
        "alert.resolved" => {
            let rule = data["rule"].as_str();
            observe(engine, id, |o| o.alert = o.alert.take().filter(|fires| Some(fires.as_str()) != rule));
        }
        _ => {}
    }
    nudge(engine, id);
}

fn exited(engine: &Arc<Engine>, id: &str, data: &Value) {
    let reason = data["exit"]["reason"].as_str().unwrap_or("it ended").to_owned();
    if data["next"] == "none" {
        // An end that its rules call a failure shows as health `failed`.
        if data["exit"]["clean"] == true {
            over(engine, id, &format!("its work is done: {reason}"));
        }
        return;
    }
    let ended = data["incarnation"].as_u64().unwrap_or_default();
    open(engine, id, Cause { code: "exited".into(), text: reason, kind: CauseKind::Exit { ended } });
}

fn health_updated(engine: &Arc<Engine>, id: &str, data: &Value) {
    let Ok(health) = Health::deserialize(&data["health"]) else { return };
    if health.status == HealthStatus::Healthy {
        engine.give_another_chance(id);
    }
    report(engine, id, &health);
}

/// What somebody says of an agent's health: opens or joins an incident where that is called for.
pub(crate) fn report(engine: &Arc<Engine>, id: &str, health: &Health) -> Option<String> {
    let degraded = health.status == HealthStatus::Degraded;
    if !degraded {
        engine.not_degraded(id);
    }
    // The worst issue names the cause.
    let worst = health.issues.iter().max_by_key(|issue| issue.severity);
    let code = worst.map_or(health.status.as_str(), |issue| issue.code.as_str()).to_owned();
    if health.status < HealthStatus::Degraded || NOT_AN_ILLNESS.contains(&code.as_str()) {
        return None;
    }
    let spec = engine.kernel.agents().spec(id).ok()?;
    let settings = engine.settings_of(&spec).ok()?;
    let cause = Cause { code, text: describe(health), kind: CauseKind::Health { level: health.status } };
    if health.status >= settings.on.health() {
        return open(engine, id, cause);
    }
    if settings.enabled && !settings.degraded_after.is_zero() && engine.case(id).is_none() {
        engine.degraded(id, cause, &settings);
    }
    None
}

fn quarantined(engine: &Arc<Engine>, id: &str, data: &Value) {
    // Its own incident sees it; one that just escalated knows already.
    if engine.case(id).is_none() && !engine.is_given_up(id) {
        let text = data["reason"].as_str().unwrap_or("taken out of service").to_owned();
        open(engine, id, Cause { code: "quarantined".into(), text, kind: CauseKind::Quarantined });
    }
}

fn alert_firing(engine: &Arc<Engine>, id: &str, data: &Value) {
    let rule = data["rule"].as_str().unwrap_or_default().to_owned();
    let live = engine.kernel.agents().state(id).is_ok_and(|s| s.status.is_live());
    let listens =
        engine.kernel.agents().spec(id).is_ok_and(|s| engine.settings_of(&s).is_ok_and(|s| s.alerts));
    if live && listens {
        let text = format!("alert `{rule}` fires");
        open(engine, id, Cause { code: "alert".into(), text, kind: CauseKind::Alert { rule } });
    }
}

/// Opens or joins, unless healing is switched off or the agent was given up; the incident's id.
fn open(engine: &Arc<Engine>, id: &str, cause: Cause) -> Option<String> {
    let known = engine.case(id).is_some();
    if !known {
        let spec = engine.kernel.agents().spec(id).ok()?;
        let enabled = engine.settings_of(&spec).is_ok_and(|settings| settings.enabled);
        let stale = matches!(cause.kind, CauseKind::Health { .. } | CauseKind::Alert { .. })
            && engine.is_given_up(id);
        if !enabled || stale {
            return None;
        }
    }
    match engine.open(id, cause) {
        Ok((case, _)) => Some(case.id.clone()),
        Err(e) => {
            tracing::debug!(agent = %id, error = %e, "no incident was opened");
            None
        }
    }
}

fn over(engine: &Arc<Engine>, id: &str, why: &str) {
    observe(engine, id, |observed| observed.over = Some(why.to_owned()));
}

fn observe(engine: &Arc<Engine>, id: &str, change: impl FnOnce(&mut Observed)) {
    if let Some(case) = engine.case(id) {
        case.observe(change);
    }
}

/// Something is new about an agent: its case and those of its dependents look again.
fn nudge(engine: &Arc<Engine>, id: &str) {
    for case in engine.concerned(id) {
        case.observe(|_| {});
    }
}

/// Events were lost: what they said shows in the state of the agents.
fn look_at_all(engine: &Arc<Engine>) {
    let agents = engine.kernel.agents();
    for (id, spec) in agents.specs() {
        engine.resume(&id);
        let Ok(state) = agents.state(&id) else { continue };
        match state.status {
            Status::Stopped if spec.desired == Desired::Stopped => over(engine, &id, "the agent was stopped"),
            Status::Quarantined => quarantined(engine, &id, &Value::Null),
            Status::Restarting if engine.case(&id).is_none() => {
                let text = state.reason.unwrap_or_else(|| "it ended".into());
                let kind = CauseKind::Exit { ended: state.incarnation };
                open(engine, &id, Cause { code: "exited".into(), text, kind });
            }
            _ if engine.case(&id).is_none() => {
                report(engine, &id, &state.health);
            }
            _ => {}
        }
        nudge(engine, &id);
    }
    let gone: Vec<String> =
        engine.active().into_iter().map(|i| i.agent_id).filter(|id| agents.spec(id).is_err()).collect();
    gone.iter().for_each(|id| over(engine, id, "the agent was destroyed"));
}
