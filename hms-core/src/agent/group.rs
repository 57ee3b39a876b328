//! Groups: what a child's failure means for its siblings and its parent.
//!
//! A parent's children are restarted together under the parent's group lock, one group restart at a
//! time; the cells do the work, each under its own action lock. Who waited for the lock looks again: a
//! failure that the restart before it answered already needs no other one, and a child that has another
//! parent by then is that one's to restart. Whatever comes of it, no failed child is left to wait for ever.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::oneshot;

use super::{
    AgentSpec, Agents, ExitReport, Status, Stop,
    cell::STOP_DEADLINE,
    shared::{Control, Settle, Shared},
};
use crate::{
    event::EventDraft,
    supervision::{Decision, affected},
};

/// A failed child that its group is to restart: the agent, and its life that failed.
struct Due {
    agent: Arc<Shared>,
    life: u64,
}

impl Due {
    fn now(agent: &Arc<Shared>) -> Self {
        Self { agent: agent.clone(), life: agent.state().incarnation }
    }

    /// Whether nobody has restarted or stopped it yet.
    fn holds(&self) -> bool {
        let state = self.agent.state();
        state.status == Status::Restarting && state.incarnation == self.life
    }
}

impl Agents {
    /// `failed` is due for a restart under its parent's strategy.
    pub(super) fn restart_group(&self, failed: &Arc<Shared>, exit: &ExitReport) {
        let (agents, due, cause) = (self.clone(), Due::now(failed), exit.reason.clone());
        self.spawn(async move {
            if let Some(parent) = agents.parent_of(&due.agent) {
                let _one_at_a_time = parent.group_lock.lock().await;
                if !due.holds() {
                    return;
                }
                let members = agents.affected_by(&due.agent, &parent);
                if !members.is_empty() {
                    let why = format!("`{}` failed: {cause}", due.agent.name());
                    return agents.restart_members(&parent, &members, false, &why).await;
                }
            }
            // Another parent was given to it meanwhile, or none: it alone is restarted.
            let (reply, _) = oneshot::channel();
            due.agent.tell_cell(Control::GroupStart { cause, anew: false, reply });
        });
    }

    /// `failed` restarted too often: its parent's whole group is restarted, or its parent escalates.
    pub(super) fn escalate(&self, failed: &Arc<Shared>, why: &str) {
        let (agents, due, why) = (self.clone(), Due::now(failed), why.to_owned());
        self.spawn(async move {
            agents.climb(&due, &why).await;
            if due.holds() {
                // It was not below whoever was restarted or quarantined for it.
                due.agent.tell_cell(Control::LeftAlone { incarnation: due.life, why });
            }
        });
    }

    /// Goes up from the failed child until a group is restarted for it, or there is nobody above to do so: then
    /// the tree is quarantined.
    async fn climb(&self, due: &Due, why: &str) {
        let mut at = due.agent.clone();
        loop {
            let Some(parent) = self.parent_of(&at) else {
                if due.holds() {
                    self.quarantine_tree(&at, why).await;
                }
                return;
            };
            let _one_at_a_time = parent.group_lock.lock().await;
            if !due.holds() {
                return;
            }
            if !self.is_child(&at, &parent) {
                continue; // another parent was given to it meanwhile
            }
            let decision = {
                let kernel = self.kernel();
                let policy = parent.spec().restart;
                parent.group().on_failure(&policy, kernel.clock().now(), kernel.rng())
            };
            let Decision::Restart(delay) = decision else {
                let to = parent.spec().parent.clone();
                self.publish_about(&parent, "agent.escalated", json!({"reason": why, "to": to}));
                at = parent.clone();
                continue;
            };
            let clock = self.kernel().clock().clone();
            clock.sleep_until(clock.now() + delay).await;
            if !due.holds() {
                return;
            }
            if self.is_child(&at, &parent) {
                let children = self.children_of(&parent);
                return self.restart_members(&parent, &children, true, why).await;
            }
        }
    }

    fn is_child(&self, agent: &Shared, parent: &Arc<Shared>) -> bool {
        self.parent_of(agent).is_some_and(|p| Arc::ptr_eq(&p, parent))
    }

    /// The children of `parent` that share the fate of `failed`; none when it is not one of them.
    fn affected_by(&self, failed: &Shared, parent: &Arc<Shared>) -> Vec<Arc<Shared>> {
        let children = self.children_of(parent);
        let ids: Vec<&str> = children.iter().map(|c| c.id.as_str()).collect();
        let hit = affected(parent.spec().strategy, &ids, &failed.id.as_str());
        children.iter().filter(|c| hit.contains(&c.id.as_str())).cloned().collect()
    }

    /// Tells the parent of `agent` how well this child is.
    pub(super) fn tell_group(&self, agent: &Shared, spec: &AgentSpec) {
        let Some(parent) = self.parent_in(spec) else { return };
        let now = self.kernel().clock().now();
        let state = agent.state();
        match state.status {
            // Nobody is about to start it: its group goes on without it.
            Status::Stopped | Status::Failed | Status::Quarantined => parent.group().leave(now, &agent.id),
            Status::Running => parent.group().health(now, &agent.id, false),
            Status::Degraded | Status::Restarting | Status::Starting | Status::Waiting => {
                parent.group().health(now, &agent.id, true);
            }
        }
    }

    /// A life of `agent` ended: also one that is followed by the next at once interrupts its group's health.
    pub(super) fn failed_in_group(&self, agent: &Shared, spec: &AgentSpec) {
        if let Some(parent) = self.parent_in(spec) {
            parent.group().health(self.kernel().clock().now(), &agent.id, true);
        }
    }

    /// `agent` is no child of its parent in `spec` any more.
    pub(super) fn leave_group(&self, agent: &Shared, spec: &AgentSpec) {
        if let Some(parent) = self.parent_in(spec) {
            parent.group().leave(self.kernel().clock().now(), &agent.id);
        }
    }

    /// Stops `members` and what is below them, last first, and starts them again, first first. Under the parent's
    /// group lock.
    async fn restart_members(&self, parent: &Arc<Shared>, members: &[Arc<Shared>], anew: bool, why: &str) {
        for child in members.iter().rev() {
            self.stop_tree(child, why).await;
        }
        for child in members {
            self.start_tree(child, anew, why).await;
        }
        self.publish_about(
            parent,
            "agent.group.restarted",
            json!({
                "reason": why,
                "members": members.iter().map(|m| m.name()).collect::<Vec<_>>(),
            }),
        );
    }

    async fn stop_tree(&self, root: &Arc<Shared>, why: &str) {
        for child in self.children_of(root).iter().rev() {
            Box::pin(self.stop_tree(child, why)).await;
        }
        self.stop_cell(root, Stop::Graceful(STOP_DEADLINE), Settle::ForGroup(why.to_owned())).await;
    }

    async fn start_tree(&self, root: &Arc<Shared>, anew: bool, why: &str) {
        let (tx, rx) = oneshot::channel();
        root.tell_cell(Control::GroupStart { cause: why.to_owned(), anew, reply: tx });
        let _ = rx.await;
        for child in self.children_of(root) {
            Box::pin(self.start_tree(&child, anew, why)).await;
        }
    }

    async fn quarantine_tree(&self, root: &Arc<Shared>, why: &str) {
        for child in self.children_of(root).iter().rev() {
            Box::pin(self.quarantine_tree(child, why)).await;
        }
        self.stop_cell(root, Stop::Graceful(STOP_DEADLINE), Settle::Quarantined(why.to_owned())).await;
    }

    async fn stop_cell(&self, cell: &Arc<Shared>, how: Stop, settle: Settle) {
        let (tx, rx) = oneshot::channel();
        cell.tell_cell(Control::Stop { how, settle, reply: Some(tx) });
        let _ = rx.await;
    }

    fn publish_about(&self, agent: &Shared, kind: &str, mut data: serde_json::Value) {
        data["agent"] = agent.name().into();
        data["id"] = agent.id.clone().into();
        self.kernel()
            .publish(EventDraft::json(kind, data).subject(&agent.id).source(format!("/agents/{}", agent.id)));
    }
}
