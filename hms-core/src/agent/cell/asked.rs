//! What others ask of a cell: stop, restart, update, destroy, and its part in a group's restart.

use std::sync::Arc;

use serde_json::json;

use super::{Cell, HANDLER_LIMIT, Phase, SNAPSHOT_LIMIT, STOP_DEADLINE};
use crate::{
    Error, ErrorKind, Result,
    agent::{
        AgentSpec, Behaviour, Desired, Status, Stop,
        runtime::{RestartRequest, Restarted},
        shared::Settle,
    },
};

impl Cell {
    pub(super) async fn stop(&mut self, how: Stop, settle: Settle) -> Result<()> {
        if matches!(settle, Settle::ForGroup(_)) && !self.shares_its_groups_fate() {
            return Ok(());
        }
        let stopped = self.abandon(how).await;
        if stopped.is_err() && how != Stop::Detach {
            self.unended = true;
        }
        match settle {
            Settle::Stopped(_) if how == Stop::Detach => {}
            Settle::Stopped(why) => {
                let but = stopped.as_ref().err().map(|e| format!(", but could not be ended: {}", e.message));
                self.settle(Status::Stopped, Some(why + but.as_deref().unwrap_or_default()));
            }
            Settle::Quarantined(why) => self.quarantine(why),
            Settle::ForGroup(_) if stopped.is_err() => return self.stopped_badly(stopped),
            Settle::ForGroup(why) => {
                self.show(Status::Restarting, Some(why));
                self.phase = Phase::Grouped;
            }
        }
        stopped
    }

    /// Whether a restart of its group restarts it: not one that is meant not to run, and not one that waits,
    /// which starts by itself.
    pub(super) fn shares_its_groups_fate(&self) -> bool {
        let settled = self.kept.quarantined.is_some() || self.kept.finished.is_some();
        !settled && !matches!(self.phase, Phase::Waiting) && self.shared.spec().desired == Desired::Running
    }

    /// Whether it was decided that it not run: until somebody starts it.
    fn is_settled(&self) -> bool {
        self.kept.quarantined.is_some() || self.kept.finished.is_some()
    }

    /// A life that could not be ended may still be there: no other one is started beside it.
    pub(super) fn stopped_badly<T>(&mut self, stopped: Result<T>) -> Result<T> {
        if let Err(e) = &stopped {
            self.unended = true;
            self.settle(Status::Failed, Some(format!("could not be ended: {}", e.message)));
        }
        stopped
    }

    pub(super) async fn restart(&mut self, request: RestartRequest) -> Result<Restarted> {
        let incarnation = self.cx.incarnation();
        // A diagnosis is outdated by another life, by supervision being at it, and by a decision that it not run.
        if let Some(seen) = request.if_incarnation {
            let at_it = matches!(self.phase, Phase::Backoff(..) | Phase::Grouped);
            let settled = self.kept.quarantined.is_some() || self.kept.finished.is_some();
            if seen != incarnation || at_it || settled || self.shared.spec().desired == Desired::Stopped {
                return Ok(Restarted::Superseded { incarnation });
            }
            if self.unended {
                return Err(Error::new(
                    ErrorKind::InvalidState,
                    "its last life could not be ended, and none is started beside it",
                )
                .hint("end it by hand, then start the agent"));
            }
        }
        let since = self.kernel.clock().now();
        let behaviour = self.behaviour.clone();
        let how = if request.kill { Stop::Kill } else { Stop::Graceful(STOP_DEADLINE) };
        let ended = self.abandon(how).await;
        self.stopped_badly(ended)?;
        if request.reset {
            self.kernel.agents().forget_snapshot(&self.shared.id);
            if let Some(behaviour) = behaviour {
                let reset = self.reset(behaviour).await;
                self.stopped_badly(reset)?;
            }
        }
        if request.if_incarnation.is_none() {
            self.forget_failures();
        }
        self.unended = false;
        self.kept.quarantined = None;
        self.kept.finished = None;
        if self.waits_for_dependency() {
            return Ok(Restarted::Done { incarnation });
        }
        let relaunched = self.relaunch().await;
        let failed = relaunched.as_ref().err().cloned();
        self.after_relaunch(relaunched, &request.reason, &request.by, since).await;
        match failed {
            Some(e) => Err(e),
            None => Ok(Restarted::Done { incarnation: self.cx.incarnation() }),
        }
    }

    /// The group starts this member again. After an escalation the parent's count of failures is the one that
    /// matters, and its own begins `anew`.
    pub(super) async fn group_start(&mut self, cause: &str, anew: bool) -> Result<()> {
        if !matches!(self.phase, Phase::Grouped) {
            return Ok(());
        }
        if anew {
            self.forget_failures();
        }
        let since = self.kernel.clock().now();
        if self.waits_for_dependency() {
            return Ok(());
        }
        let relaunched = self.relaunch().await;
        self.after_relaunch(relaunched, cause, "group", since).await;
        Ok(())
    }

    pub(super) async fn update(&mut self, spec: Arc<AgentSpec>) -> Result<()> {
        let old = std::mem::replace(&mut self.shared.public().spec, spec.clone());
        self.publish("agent.updated", json!({"spec": self.kernel.agents().shown(&spec)}));
        if old.parent != spec.parent {
            self.kernel.agents().leave_group(&self.shared, &old);
            self.kernel.agents().tell_group(&self.shared, &spec);
        }
        let new_life = old.kind != spec.kind || old.config != spec.config;
        match spec.desired {
            Desired::Stopped if old.desired == Desired::Running => {
                self.stop(Stop::Graceful(STOP_DEADLINE), Settle::Stopped("stopped".into())).await
            }
            Desired::Running if self.unended => Ok(()),
            // What was given up, or is done, stays so: a change that begins no new life is no wish to start it.
            Desired::Running if !new_life && old.desired == Desired::Running && self.is_settled() => Ok(()),
            Desired::Running if new_life && matches!(self.phase, Phase::Live) => {
                let ended = self.abandon(Stop::Graceful(STOP_DEADLINE)).await;
                self.stopped_badly(ended)?;
                self.begin_life().await
            }
            Desired::Running
                if new_life || !matches!(self.phase, Phase::Live | Phase::Backoff(..) | Phase::Grouped) =>
            {
                self.start().await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn destroy(&mut self) -> Result<()> {
        let behaviour = self.behaviour.clone();
        let ended = self.abandon(Stop::Graceful(STOP_DEADLINE)).await;
        self.stopped_badly(ended)?;
        if let Some(behaviour) = behaviour {
            let _ = self.reset(behaviour).await;
        }
        // Seen only when the store does not forget it: it is not what it was then, and can be destroyed again.
        let state = &mut self.shared.public().state;
        (state.status, state.reason) = (Status::Stopped, Some("being destroyed".into()));
        Ok(())
    }

    async fn reset(&mut self, behaviour: Arc<dyn Behaviour>) -> Result<()> {
        let (asked, cx) = (behaviour.clone(), self.cx.clone());
        let reset = async move { asked.reset(&cx).await };
        self.call(&behaviour, HANDLER_LIMIT, "its reset", reset).await.and_then(|r| r)
    }

    /// Ends the life on purpose, taking a snapshot when there is time for one.
    pub(super) async fn abandon(&mut self, how: Stop) -> Result<()> {
        let was_live = matches!(self.phase, Phase::Live);
        self.phase = Phase::Idle;
        self.handling = None;
        let Some(behaviour) = self.behaviour.clone() else { return Ok(()) };
        let asked = behaviour.clone();
        let snapshot = async move { asked.snapshot().await };
        if how != Stop::Kill
            && was_live
            && let Ok(Some(snapshot)) = self.call(&behaviour, SNAPSHOT_LIMIT, "its snapshot", snapshot).await
        {
            let _ = self.kernel.agents().save_snapshot(&self.shared.id, snapshot).await;
        }
        let stopped = self.end(&behaviour, how).await;
        self.end_life("the agent was stopped");
        stopped
    }

    pub(super) fn end_life(&mut self, why: &str) {
        self.handling = None;
        self.phase = Phase::Idle;
        if self.behaviour.take().is_some() {
            self.shared.public().behaviour = None;
        }
        let waiting = self.shared.mailbox.len();
        if waiting > 0 {
            tracing::debug!(agent = %self.shared.id, waiting, "{why}; messages wait for the next life");
        }
    }
}
