//! Groups: what a child's failure means for its siblings and its parent.
//!
//! A parent's children are restarted together under the parent's group lock, one group restart at a
//! time; the cells do the work, each under its own action lock.

use std::sync::{Arc, PoisonError};

use serde_json::json;
use tokio::sync::oneshot;

use super::{
    Agents, ExitReport, Stop,
    cell::STOP_DEADLINE,
    shared::{Control, Settle, Shared},
};
use crate::{
    event::EventDraft,
    supervision::{Decision, affected},
};

impl Agents {
    /// `failed` is due for a restart under its parent's strategy.
    pub(super) fn restart_group(&self, failed: &Arc<Shared>, exit: &ExitReport) {
        let Some(parent) = self.parent_of(failed) else {
            return failed.tell_cell(Control::Start { reply: None });
        };
        let (agents, failed, cause) = (self.clone(), failed.clone(), exit.reason.clone());
        self.spawn(async move {
            let children = agents.children_of(&parent);
            let ids: Vec<&str> = children.iter().map(|c| c.id.as_str()).collect();
            let strategy = parent.spec().strategy;
            let hit = affected(strategy, &ids, &failed.id.as_str());
            let members: Vec<_> = children.iter().filter(|c| hit.contains(&c.id.as_str())).cloned().collect();
            if members.is_empty() {
                // Another parent was given to it meanwhile.
                return failed.tell_cell(Control::Start { reply: None });
            }
            let why = format!("`{}` failed: {cause}", failed.name());
            agents.restart_members(&parent, &members, false, &why).await;
        });
    }

    /// `failed` restarted too often: its parent's whole group is restarted, or its parent escalates.
    pub(super) fn escalate(&self, failed: &Arc<Shared>, why: &str) {
        let Some(parent) = self.parent_of(failed) else { return };
        let (agents, why) = (self.clone(), why.to_owned());
        self.spawn(async move {
            let decision = {
                let kernel = agents.kernel();
                let mut group = parent.group.lock().unwrap_or_else(PoisonError::into_inner);
                group.on_exit(&parent.spec().restart, kernel.clock().now(), false, kernel.rng())
            };
            match decision {
                Decision::Restart(delay) => {
                    let clock = agents.kernel().clock().clone();
                    clock.sleep_until(clock.now() + delay).await;
                    let children = agents.children_of(&parent);
                    agents.restart_members(&parent, &children, true, &why).await;
                }
                Decision::Stay | Decision::Fail | Decision::Escalate => {
                    let to = parent.spec().parent.clone();
                    agents.publish_about(&parent, "agent.escalated", json!({"reason": why, "to": to}));
                    if to.is_some() {
                        agents.escalate(&parent, &why);
                    } else {
                        agents.quarantine_tree(&parent, &why).await;
                    }
                }
            }
        });
    }

    /// Stops `members` and what is below them, last first, and starts them again, first first.
    async fn restart_members(&self, parent: &Arc<Shared>, members: &[Arc<Shared>], anew: bool, why: &str) {
        let _one_at_a_time = parent.group_lock.lock().await;
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
