//! The health of the system: the worst of the agents that are meant to run, and who suffers from whom.

use std::collections::HashMap;

use hms_core::{
    Kernel, Result,
    agent::{AgentState, HealthStatus, Status},
};
use serde_json::{Value, json};

use crate::state::Shared;

/// The health of the system, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The worst health of an agent that is meant to run.
    pub(crate) status: HealthStatus,
    /// Since when, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
}

impl Default for Standing {
    /// A system without agents lacks nothing.
    fn default() -> Self {
        Self { status: HealthStatus::Healthy, since_ms: 0 }
    }
}

/// How many agents are how well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    /// Healthy ones.
    pub(crate) healthy: usize,
    /// Degraded ones.
    pub(crate) degraded: usize,
    /// Critical ones.
    pub(crate) critical: usize,
    /// Those of whom nobody knows.
    pub(crate) unknown: usize,
}

impl Counts {
    fn of(&mut self, health: HealthStatus) -> &mut usize {
        match health {
            HealthStatus::Healthy => &mut self.healthy,
            HealthStatus::Degraded => &mut self.degraded,
            HealthStatus::Critical => &mut self.critical,
            HealthStatus::Unknown => &mut self.unknown,
        }
    }

    /// The worst that is there; healthy when nothing is.
    pub(crate) fn worst(&self) -> HealthStatus {
        if self.critical > 0 {
            HealthStatus::Critical
        } else if self.degraded > 0 {
            HealthStatus::Degraded
        } else if self.unknown > 0 {
            HealthStatus::Unknown
        } else {
            HealthStatus::Healthy
        }
    }
}

/// What the events told of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its name.
    pub(crate) name: String,
    /// Where it is in its life.
    pub(crate) status: Status,
    /// How well it is.
    pub(crate) health: HealthStatus,
}

impl Seen {
    /// What is stopped is not meant to run: somebody stopped it, or its job is done.
    fn is_meant_to_run(&self) -> bool {
        self.status != Status::Stopped
    }
}

/// The agents as events tell of them. Each event costs the same, however many agents there are.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    seen: HashMap<String, Seen>,
    counts: Counts,
}

impl Fleet {
    /// What is known of an agent.
    pub(crate) fn get(&self, id: &str) -> Option<&Seen> {
        self.seen.get(id)
    }

    /// All that are known.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Seen)> {
        self.seen.iter()
    }

    /// Replaces what is known of an agent.
    pub(crate) fn put(&mut self, id: &str, seen: Seen) {
        if seen.is_meant_to_run() {
            *self.counts.of(seen.health) += 1;
        }
        if let Some(before) = self.seen.insert(id.to_owned(), seen) {
            self.uncount(&before);
        }
    }

    /// Forgets an agent.
    pub(crate) fn remove(&mut self, id: &str) {
        if let Some(before) = self.seen.remove(id) {
            self.uncount(&before);
        }
    }

    fn uncount(&mut self, before: &Seen) {
        if before.is_meant_to_run() {
            *self.counts.of(before.health) -= 1;
        }
    }

    /// How well those are that are meant to run.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }
}

/// An agent among those it needs.
#[derive(Debug, Clone)]
struct Node {
    id: String,
    name: String,
    /// Ids or names of those it depends on, and of its parent.
    needs: Vec<String>,
    status: Status,
    health: HealthStatus,
}

/// For each node the names of those it suffers from: what it needs, however indirectly, and is ill; or, while
/// it waits, is stopped.
fn suffering(nodes: &[Node]) -> Vec<Vec<String>> {
    let mut place = HashMap::with_capacity(nodes.len() * 2);
    for (n, node) in nodes.iter().enumerate() {
        place.insert(node.id.as_str(), n);
        place.insert(node.name.as_str(), n);
    }
    let mut needed_by = vec![Vec::new(); nodes.len()];
    for (n, node) in nodes.iter().enumerate() {
        for need in node.needs.iter().filter_map(|need| place.get(need.as_str())) {
            needed_by[*need].push(n);
        }
    }
    let mut suffers = vec![Vec::new(); nodes.len()];
    for (cause, node) in nodes.iter().enumerate() {
        let ill = node.health >= HealthStatus::Degraded;
        if !ill && node.status != Status::Stopped {
            continue;
        }
        let mut reached = vec![false; nodes.len()];
        reached[cause] = true;
        let mut next = needed_by[cause].clone();
        while let Some(n) = next.pop() {
            if std::mem::replace(&mut reached[n], true) {
                continue;
            }
            if ill || nodes[n].status == Status::Waiting {
                suffers[n].push(node.name.clone());
            }
            next.extend(&needed_by[n]);
        }
    }
    suffers
}

/// The health of the system, or of one agent in it, as `monitor health` shows it (without what is being healed).
///
/// # Errors
/// `not-found` for an unknown agent.
pub(crate) fn report(kernel: &Kernel, shared: &Shared, agent: Option<&str>) -> Result<Value> {
    let wanted = agent.map(|a| kernel.agents().id(a)).transpose()?;
    let mut all: Vec<(Node, String, AgentState)> = Vec::new();
    for (id, spec) in kernel.agents().specs() {
        // Destroyed a moment ago: it is no component any more.
        let Ok(state) = kernel.agents().state(&id) else { continue };
        let needs = spec.depends_on.iter().chain(&spec.parent).cloned().collect();
        let node =
            Node { id, name: spec.name.clone(), needs, status: state.status, health: state.health.status };
        all.push((node, spec.kind.clone(), state));
    }
    let nodes: Vec<Node> = all.iter().map(|(node, ..)| node.clone()).collect();
    let suffers = suffering(&nodes);
    let (mut counts, mut meant, mut components, mut since_ms) =
        (Counts::default(), Counts::default(), Vec::new(), None);
    for ((node, kind, state), suffers) in all.into_iter().zip(suffers) {
        if wanted.as_ref().is_some_and(|id| *id != node.id) {
            continue;
        }
        *counts.of(node.health) += 1;
        if node.status != Status::Stopped || wanted.is_some() {
            *meant.of(node.health) += 1;
        }
        since_ms = wanted.as_ref().map(|_| state.since_ms);
        let checked_ms = shared.checks.checked_ms(&node.id);
        components.push(json!({
            "agent": node.name, "id": node.id, "type": kind, "status": node.status, "health": node.health,
            "suffers_from": suffers, "issues": state.health.issues, "checked_ms": checked_ms,
            "restarts": state.restarts,
        }));
    }
    let status = meant.worst();
    let standing = shared.standing();
    let since_ms = since_ms.unwrap_or(if standing.status == status {
        standing.since_ms
    } else {
        kernel.clock().wall_ms()
    });
    Ok(json!({"status": status, "since_ms": since_ms, "components": components, "counts": counts}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, needs: &[&str], status: Status, health: HealthStatus) -> Node {
        Node {
            id: format!("id-{name}"),
            name: name.into(),
            needs: needs.iter().map(ToString::to_string).collect(),
            status,
            health,
        }
    }

    #[test]
    fn those_who_suffer_are_told_from_those_who_are_ill() {
        use HealthStatus::{Critical, Degraded, Healthy, Unknown};
        let nodes = [
            node("db", &[], Status::Degraded, Critical),
            node("api", &["id-db"], Status::Running, Healthy),
            node("web", &["api", "cache"], Status::Degraded, Degraded),
            node("cache", &[], Status::Running, Healthy),
            node("off", &[], Status::Stopped, Unknown),
            node("idle", &["off"], Status::Waiting, Unknown),
            node("busy", &["off"], Status::Running, Healthy),
            node("last", &["idle"], Status::Waiting, Unknown),
        ];
        let suffers = suffering(&nodes);
        let of = |name: &str| suffers[nodes.iter().position(|n| n.name == name).unwrap()].clone();
        assert_eq!((of("db"), of("cache")), (vec![], vec![]), "who is ill suffers from nobody");
        assert_eq!(of("api"), ["db"]);
        assert_eq!(of("web"), ["db"], "through others; itself ill as well");
        assert_eq!((of("idle"), of("last")), (vec!["off".to_owned()], vec!["off".to_owned()]));
        assert_eq!(of("busy"), Vec::<String>::new(), "it does its work without");
    }

    #[test]
    fn a_cycle_does_not_hang() {
        let nodes = [
            node("a", &["b"], Status::Degraded, HealthStatus::Critical),
            node("b", &["a"], Status::Running, HealthStatus::Healthy),
        ];
        assert_eq!(suffering(&nodes), [vec![], vec!["a".to_owned()]]);
    }

    #[test]
    fn the_worst_of_those_that_are_meant_to_run_counts() {
        let mut fleet = Fleet::default();
        let seen = |status, health| Seen { name: "x".into(), status, health };
        assert_eq!(fleet.counts().worst(), HealthStatus::Healthy);
        fleet.put("a", seen(Status::Running, HealthStatus::Healthy));
        fleet.put("b", seen(Status::Starting, HealthStatus::Unknown));
        assert_eq!(fleet.counts().worst(), HealthStatus::Unknown);
        fleet.put("b", seen(Status::Degraded, HealthStatus::Degraded));
        assert_eq!(fleet.counts().worst(), HealthStatus::Degraded);
        fleet.put("c", seen(Status::Quarantined, HealthStatus::Critical));
        assert_eq!(fleet.counts().worst(), HealthStatus::Critical);
        fleet.put("c", seen(Status::Stopped, HealthStatus::Critical));
        fleet.remove("b");
        fleet.remove("b");
        assert_eq!(fleet.counts(), Counts { healthy: 1, ..Counts::default() });
    }
}
