//! The sampler: one task that asks every agent for its measurements at every `monitoring.sample_interval`.

use std::{collections::HashSet, sync::Arc};

use hms_core::{
    Kernel,
    agent::{AgentState, HealthStatus, Measurement, Status},
    clock::Mono,
    contain::contained_sync,
};

use super::Metrics;
use crate::{
    checks::Tally,
    state::{Observation, Shared, Stopped},
};

/// Agents that are measured before others get their turn on this thread.
const AT_ONCE: usize = 16;

/// Samples until the end; the first time one interval after `last`.
pub(crate) async fn run(kernel: Kernel, shared: Arc<Shared>, mut last: Mono, mut stopped: Stopped) {
    let clock = kernel.clock().clone();
    let mut settings = shared.settings.subscribe();
    loop {
        let interval = settings.borrow_and_update().sample_interval;
        let next = last + interval;
        tokio::select! {
            biased;
            () = stopped.wait() => break,
            changed = settings.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            () = clock.sleep_until(next) => {
                sample(&kernel, &shared).await;
                // Regular; of several rounds that the machine slept through, one is made up for.
                last = next.max(clock.now().saturating_sub(interval));
            }
        }
    }
}

/// One round over all agents.
async fn sample(kernel: &Kernel, shared: &Shared) {
    let settings = shared.settings.borrow().clone();
    let rules = settings.rules();
    let time_ms = kernel.clock().wall_ms();
    let agents = kernel.agents().specs();
    let (mut rows, mut seen) = (Vec::new(), Vec::new());
    for (n, (id, spec)) in agents.iter().enumerate() {
        if n % AT_ONCE == AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let Ok(state) = kernel.agents().state(id) else { continue };
        if state.status == Status::Stopped {
            continue;
        }
        let samples = samples_of(kernel, id, &state, shared.checks.take(id));
        let (taken, outcome) = shared.metrics.take(id, time_ms, &samples);
        if let Err(e) = outcome {
            tracing::debug!(agent = %id, error = %e, "not every metric is kept");
        }
        let matters = |name: &str, value: f64| {
            rules.iter().any(|r| r.judge_sample(name, value).is_some() && r.is_about(&spec.name, id))
        };
        seen.extend(taken.iter().filter(|row| matters(&row.name, row.value)).map(|row| Observation {
            id: id.clone(),
            metric: row.name.clone(),
            value: row.value,
        }));
        rows.extend(taken);
    }
    Metrics::post(kernel, &settings, rows);
    // Agents that went while nobody heard of it must not stay in memory.
    let there: HashSet<&str> = agents.iter().map(|(id, _)| id.as_str()).collect();
    shared.metrics.retain(|id| there.contains(id));
    shared.checks.retain(|id| there.contains(id));
    if !seen.is_empty() {
        shared.observe(seen).await;
    }
}

/// What is known of one agent now. What it measures itself is better than what its checks tell.
fn samples_of(kernel: &Kernel, id: &str, state: &AgentState, tally: Tally) -> Vec<Measurement> {
    let measured = contained_sync(|| kernel.agents().measure(id)).and_then(|r| r);
    let mut samples = measured.unwrap_or_else(|e| {
        tracing::debug!(agent = %id, error = %e, "it could not be measured");
        Vec::new()
    });
    let mut add = |name: &'static str, value| {
        if !samples.iter().any(|(there, _)| there == name) {
            samples.push((name.into(), value));
        }
    };
    if tally.checks > 0 {
        add("responseTime", tally.took_ms / f64::from(tally.checks));
        add("errorRate", f64::from(tally.failed) / f64::from(tally.checks));
    }
    add("restarts", state.restarts as f64);
    match state.health.status {
        HealthStatus::Healthy => add("health", 1.0),
        HealthStatus::Degraded | HealthStatus::Critical => add("health", 0.0),
        HealthStatus::Unknown => {}
    }
    samples
}
