//! The difference between what a file declares and what there is. Pure: it looks, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use hms_core::{Error, ErrorKind, Kernel, Result, agent::AgentSpec};

use super::{
    super::order::{living, needs_first},
    file::LABEL,
};

/// What becomes of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Update,
    Keep,
}

/// What `up` does, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Agents that go first, dependents before what they need: what replaces them may want their ports.
    pub(super) early: Vec<String>,
    /// The declared agents, each after those it needs.
    pub(super) steps: Vec<(AgentSpec, Change)>,
    /// Agents that can only go once an updated one needs them no more.
    pub(super) late: Vec<String>,
}

/// The plan that makes the agents of `project` what `specs` (in the order of their needs) say.
///
/// Errors: `invalid-state` when an agent of somebody else's needs one that would go.
pub(super) fn plan(kernel: &Kernel, project: &str, specs: Vec<AgentSpec>) -> Result<Plan> {
    let declared: BTreeSet<String> = specs.iter().map(|s| s.name.clone()).collect();
    let leaving: Vec<String> =
        members(kernel, project).into_iter().filter(|name| !declared.contains(name)).collect();
    refuse_needed(kernel, project, &leaving, &declared)?;
    let mut plan = Plan::default();
    (plan.early, plan.late) = split(kernel, leaving);
    plan.steps = specs
        .into_iter()
        .map(|spec| {
            let change = match kernel.agents().spec(&spec.name) {
                Err(_) => Change::Create,
                Ok(there) if *there == spec => Change::Keep,
                Ok(_) => Change::Update,
            };
            (spec, change)
        })
        .collect();
    Ok(plan)
}

/// The agents of a project, dependents before what they need.
pub(super) fn members(kernel: &Kernel, project: &str) -> Vec<String> {
    let mut order = needs_first(&living(kernel)).unwrap_or_default();
    order.retain(|name| {
        kernel.agents().spec(name).is_ok_and(|s| s.labels.get(LABEL).map(String::as_str) == Some(project))
    });
    order.reverse();
    order
}

/// An error when an agent that is neither leaving nor one of `updated` needs one that is leaving.
pub(super) fn refuse_needed(
    kernel: &Kernel,
    project: &str,
    leaving: &[String],
    updated: &BTreeSet<String>,
) -> Result<()> {
    for (name, needs) in living(kernel) {
        if leaving.contains(&name) || updated.contains(&name) {
            continue;
        }
        if let Some(needed) = needs.iter().find(|need| leaving.contains(need)) {
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!("agent `{name}`, which is no part of project `{project}`, needs `{needed}`"),
            )
            .hint(format!("destroy `{name}` first")));
        }
    }
    Ok(())
}

/// Those whom only leaving agents need, which can go at once, and the others.
fn split(kernel: &Kernel, leaving: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut needed_by: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, needs) in living(kernel) {
        for need in needs {
            needed_by.entry(need).or_default().push(name.clone());
        }
    }
    let (mut early, mut late): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    // Dependents come first, so each agent's dependents are placed before it.
    for name in leaving {
        let free = needed_by.get(&name).into_iter().flatten().all(|dependent| early.contains(dependent));
        if free { early.push(name) } else { late.push(name) }
    }
    (early, late)
}
