//! Waiting until agents do their work, or until it is clear that they will not.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentState, Status},
    command::CommandContext,
    event::{Subscribe, Subscription},
};

/// Sees changes from the moment it is made: make it before the changes that shall be waited for.
pub(super) struct Watch {
    kernel: Kernel,
    changes: Subscription,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    Coming,
    Lost,
}

impl Watch {
    pub(super) fn new(kernel: &Kernel) -> Result<Self> {
        let patterns = ["agent.status.changed", "agent.started", "agent.destroyed", "agent.quarantined"];
        let changes = kernel.bus().subscribe(Subscribe::to(patterns))?;
        Ok(Self { kernel: kernel.clone(), changes })
    }

    /// Waits until all of `names` are ready (or ended their job cleanly).
    ///
    /// Errors: `handler-failed` when some will not become so by themselves, `timeout`, `cancelled`; each
    /// says which ones and why.
    pub(super) async fn ready(&self, cx: &CommandContext, names: &[String], timeout: Duration) -> Result<()> {
        let clock = self.kernel.clock().clone();
        let by = clock.now() + timeout;
        loop {
            let stages = self.stages(names);
            let coming = stages.values().filter(|s| **s == Stage::Coming).count();
            if coming == 0 {
                let lost = stages.values().any(|s| *s == Stage::Lost);
                return if lost { Err(self.report(&stages, ErrorKind::HandlerFailed, "")) } else { Ok(()) };
            }
            let done = names.len() - coming;
            cx.progress(
                done as f64 / names.len().max(1) as f64,
                format!("{done} of {} agents are ready", names.len()),
            );
            tokio::select! {
                batch = self.changes.next_batch(256) => if batch.is_none() {
                    return Err(Error::new(ErrorKind::Cancelled, "the system ended while agents were becoming ready"));
                },
                () = clock.sleep_until(by) => {
                    let after = format!(" after {}", hms_core::duration::format(timeout));
                    return Err(self.report(&stages, ErrorKind::Timeout, &after));
                }
                () = cx.cancelled() => return Err(self.report(&stages, ErrorKind::Cancelled, ", and the wait was cancelled")),
            }
        }
    }

    fn stages<'a>(&self, names: &'a [String]) -> BTreeMap<&'a str, Stage> {
        let stage = |name: &str| self.kernel.agents().state(name).map_or(Stage::Lost, |state| stage(&state));
        let mut stages: BTreeMap<&str, Stage> = names.iter().map(|n| (n.as_str(), stage(n))).collect();
        // What waits for a lost one is lost as well, and so is what waits for that.
        loop {
            let lost: BTreeSet<&str> =
                stages.iter().filter(|(_, s)| **s == Stage::Lost).map(|(n, _)| *n).collect();
            let waits_for_lost = |name: &str| {
                self.kernel.agents().state(name).is_ok_and(|s| s.status == Status::Waiting)
                    && self
                        .kernel
                        .agents()
                        .spec(name)
                        .is_ok_and(|s| s.depends_on.iter().any(|d| lost.contains(d.as_str())))
            };
            let more: Vec<&str> = stages
                .iter()
                .filter(|(name, stage)| **stage == Stage::Coming && waits_for_lost(name))
                .map(|(name, _)| *name)
                .collect();
            if more.is_empty() {
                return stages;
            }
            more.into_iter().for_each(|name| {
                stages.insert(name, Stage::Lost);
            });
        }
    }

    fn report(&self, stages: &BTreeMap<&str, Stage>, kind: ErrorKind, when: &str) -> Error {
        let bad: Vec<String> =
            stages.iter().filter(|(_, s)| **s != Stage::Ready).map(|(name, _)| self.describe(name)).collect();
        let message =
            format!("{} of {} agents are not ready{when}: {}", bad.len(), stages.len(), bad.join("; "));
        Error::new(kind, message)
            .hint("`{program} agent status NAME` and `{program} agent logs NAME` tell more")
    }

    fn describe(&self, name: &str) -> String {
        match self.kernel.agents().state(name) {
            Err(_) => format!("`{name}` was destroyed"),
            Ok(AgentState { status, reason: Some(why), .. }) => {
                format!("`{name}` is {} ({why})", status.as_str())
            }
            Ok(state) => format!("`{name}` is {}", state.status.as_str()),
        }
    }
}

fn stage(state: &AgentState) -> Stage {
    match state.status {
        Status::Running | Status::Degraded => Stage::Ready,
        Status::Waiting | Status::Starting | Status::Restarting => Stage::Coming,
        // A job that is done was ready once.
        Status::Stopped if state.last_exit.as_ref().is_some_and(|e| e.clean) => Stage::Ready,
        Status::Stopped | Status::Failed | Status::Quarantined => Stage::Lost,
    }
}
