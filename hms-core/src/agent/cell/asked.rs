//! What others ask of a cell: stop, restart, update, destroy, and its part in a group's restart.

use std::sync::Arc;

use serde_json::json;

use super::{Cell, Phase, SNAPSHOT_LIMIT, STOP_DEADLINE, within};
use crate::{
    ErrorKind, Result,
    agent::{
        AgentSpec, Desired, Status, Stop,
        runtime::{RestartRequest, Restarted},
        shared::Settle,
    },
    contain::contained,
};

impl Cell {
    pub(super) async fn stop(&mut self, how: Stop, settle: Settle) -> Result<()> {
        if matches!(settle, Settle::ForGroup(_)) && !self.shares_its_groups_fate() {
            return Ok(());
        }
        let stopped = self.abandon(how).await;
        match settle {
            Settle::Stopped(_) if how == Stop::Detach => {}
            Settle::Stopped(why) => self.settle(Status::Stopped, Some(why)),
            Settle::Quarantined(why) => self.quarantine(why),
            Settle::ForGroup(_) if stopped.is_err() => return self.stopped_badly(stopped),
            Settle::ForGroup(why) => {
                self.set_status(Status::Restarting, Some(why));
                self.phase = Phase::Grouped;
                self.refresh_health();
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

    /// A life that could not be ended may still be there: no other one is started beside it.
    pub(super) fn stopped_badly<T>(&mut self, stopped: Result<T>) -> Result<T> {
        if let Err(e) = &stopped {
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
        }
        let since = self.kernel.clock().now();
        let behaviour = self.behaviour.clone();
        let how = if request.kill { Stop::Kill } else { Stop::Graceful(STOP_DEADLINE) };
        let ended = self.abandon(how).await;
        self.stopped_badly(ended)?;
        if request.reset {
            self.kernel.agents().forget_snapshot(&self.shared.id);
            if let Some(behaviour) = behaviour {
                let reset = contained(behaviour.reset(&self.cx)).await.and_then(|r| r);
                self.stopped_badly(reset)?;
            }
        }
        if request.if_incarnation.is_none() {
            self.forget_failures();
        }
        self.kept.quarantined = None;
        self.kept.finished = None;
        if let Some(missing) = self.kernel.agents().missing_dependency(&self.shared) {
            self.wait(format!("waiting for `{missing}`"));
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
        if let Some(missing) = self.kernel.agents().missing_dependency(&self.shared) {
            self.wait(format!("waiting for `{missing}`"));
            return Ok(());
        }
        let relaunched = self.relaunch().await;
        self.after_relaunch(relaunched, cause, "group", since).await;
        Ok(())
    }

    pub(super) async fn update(&mut self, spec: Arc<AgentSpec>) -> Result<()> {
        let old = std::mem::replace(&mut self.shared.public().spec, spec.clone());
        self.publish("agent.updated", json!({"spec": self.kernel.agents().shown(&spec)}));
        let new_life = old.kind != spec.kind || old.config != spec.config;
        match spec.desired {
            Desired::Stopped if old.desired == Desired::Running => {
                self.stop(Stop::Graceful(STOP_DEADLINE), Settle::Stopped("stopped".into())).await
            }
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
            let _ = contained(behaviour.reset(&self.cx)).await;
        }
        Ok(())
    }

    /// Ends the life on purpose, taking a snapshot when there is time for one.
    pub(super) async fn abandon(&mut self, how: Stop) -> Result<()> {
        let was_live = matches!(self.phase, Phase::Live);
        self.phase = Phase::Idle;
        self.handling = None;
        let Some(behaviour) = self.behaviour.clone() else { return Ok(()) };
        if how != Stop::Kill
            && was_live
            && let Ok(Some(snapshot)) =
                within(self.kernel.clock(), SNAPSHOT_LIMIT, "its snapshot", behaviour.snapshot()).await
        {
            let _ = self.kernel.agents().save_snapshot(&self.shared.id, snapshot).await;
        }
        let mut stopped = contained(behaviour.stop(how)).await.and_then(|r| r);
        if let (Err(e), Stop::Graceful(_)) = (&stopped, how)
            && matches!(e.kind, ErrorKind::Panic | ErrorKind::Timeout)
        {
            // It did not get as far as trying force.
            stopped = contained(behaviour.stop(Stop::Kill)).await.and_then(|r| r);
        }
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
