//! The healer: one task an incident, which watches supervision, climbs the ladder and verifies each step.
//!
//! It acts through strategies alone and always with the life that it diagnosed, so that it never ends a life
//! that supervision has begun since. While supervision is at it (`restarting`) it only watches.

use std::{sync::Arc, time::Duration};

use hms_core::{
    agent::{AgentState, Health, HealthStatus, Status},
    contain::contained,
    supervision::Restart,
};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    case::{Case, Observed},
    engine::Engine,
    incident::{Phase, StepResult},
    ladder,
    verify::{Facts, Limits, Next, Verdict, Verification},
};

/// Between two checks of an agent that has no interval of its own.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Where a healer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Supervision is at it: watch.
    Supervised,
    /// Do something.
    Act,
    /// The last host began it: see how the agent is.
    Resume,
    /// The agent ended once more when it seemed well: the last step is verified again.
    Again,
}

/// How an incident ends.
#[derive(Debug)]
pub(crate) enum End {
    /// It is well; with the number of exits that this takes into account.
    Verified {
        exits: u64,
    },
    Failed(String),
    Escalated(String),
    Cancelled(String),
}

/// Heals until there is an end, or the engine's.
pub(crate) async fn run(engine: Arc<Engine>, case: Arc<Case>, mut begin: Begin) {
    loop {
        let mut climb = Climb { engine: &engine, case: &case, news: case.watch() };
        let end = tokio::select! {
            biased;
            () = engine.ending() => return engine.save(&case),
            why = over(&case) => End::Cancelled(why),
            end = contained(climb.run(begin)) => {
                end.unwrap_or_else(|e| End::Escalated(format!("healing itself failed: {}", e.message)))
            }
        };
        if engine.close(&case, end) {
            return;
        }
        begin = Begin::Again;
    }
}

/// Completes when there is nothing to heal any more; with the reason.
async fn over(case: &Case) -> String {
    let mut news = case.watch();
    let why = news.wait_for(|observed| observed.over.is_some()).await.ok().and_then(|o| o.over.clone());
    why.unwrap_or_default()
}

struct Climb<'a> {
    engine: &'a Arc<Engine>,
    case: &'a Arc<Case>,
    news: watch::Receiver<Observed>,
}

impl Climb<'_> {
    async fn run(&mut self, begin: Begin) -> End {
        let watched = match begin {
            Begin::Supervised => Some(("supervision", None)),
            Begin::Resume => Some(("resume", Some("the host was started again".into()))),
            Begin::Act => None,
            Begin::Again => {
                self.case.edit(|i| {
                    if let Some(step) = i.steps.last_mut() {
                        (step.finished_ms, step.verified) = (None, false);
                    }
                });
                if let Some(end) = self.verify_step().await {
                    return end;
                }
                None
            }
        };
        if let Some((action, detail)) = watched
            && let Some(end) = self.watch_others(action, detail).await
        {
            return end;
        }
        loop {
            let incarnation = match self.before_acting().await {
                Ok(incarnation) => incarnation,
                Err(end) => return end,
            };
            let taken = self.case.read(|i| i.rungs_taken());
            let Some(rung) = self.case.plan.ladder.get(taken).cloned() else { return self.out_of_rungs() };
            if let Some(end) = self.act(&rung, incarnation).await {
                return end;
            }
        }
    }

    /// Waits for whatever must be over before healing may act. Which life to act on: any, where none is named.
    async fn before_acting(&mut self) -> Result<Option<u64>, End> {
        let state = self.state()?;
        let why = state.reason.clone().unwrap_or_default();
        let replaced = self.case.observed().ended.is_some_and(|ended| ended >= state.incarnation);
        let end = match state.status {
            Status::Quarantined | Status::Failed if self.case.plan.asked => return Ok(None),
            Status::Quarantined => Some(self.quarantined_by_others(why)),
            Status::Failed if self.forbids_restarts() => {
                Some(End::Escalated(format!("its restart policy `temporary` allows no restart: {why}")))
            }
            Status::Restarting => self.watch_others("supervision", None).await,
            status if status.is_live() && replaced => self.watch_others("supervision", None).await,
            Status::Waiting | Status::Stopped => self.watch_others("wait", Some(why)).await,
            _ => match self.ill_dependency() {
                Some(id) => self.await_dependency(&self.name_of(&id)).await,
                None => None,
            },
        };
        match end {
            Some(end) => Err(end),
            None => Ok(Some(self.state()?.incarnation)),
        }
    }

    /// One rung: within the budget, and not too many at once.
    async fn act(&mut self, name: &str, incarnation: Option<u64>) -> Option<End> {
        let counts = name != "escalate";
        if counts && let Err(why) = self.engine.admit(self.case) {
            return Some(End::Escalated(why));
        }
        let place = self.engine.gate.enter().await;
        let before = self.last_failure();
        let rung = self.case.read(|i| i.rungs_taken()) as u32 + 1;
        self.begin_step(rung, name, None);
        let incident = self.case.incident();
        let applied =
            ladder::apply(&self.engine.kernel, name, &incident, incarnation, &self.case.settings).await;
        drop(place);
        if counts && !matches!(&applied, Ok(a) if a.result == StepResult::Superseded) {
            self.engine.spend(self.case);
        }
        match applied {
            Ok(applied) => {
                self.case.edit(|i| i.note(Some(applied.result), applied.detail));
                let why = before.unwrap_or(incident.cause);
                let why = match applied.result {
                    StepResult::Contained => format!("`{name}` took it out of service: {why}"),
                    StepResult::Escalated => format!("nothing before `{name}` helped: {why}"),
                    _ => return self.verify_step().await,
                };
                self.finish_step(false, None);
                Some(End::Escalated(why))
            }
            Err(e) => {
                self.case.edit(|i| i.note(Some(StepResult::Failed), None));
                self.finish_step(false, Some(e.message));
                None
            }
        }
    }

    fn out_of_rungs(&mut self) -> End {
        let last = self.last_failure().map(|why| format!(": {why}")).unwrap_or_default();
        if !self.case.plan.escalates {
            return End::Failed(format!("it did not help{last}"));
        }
        let rung = self.case.read(|i| i.rungs_taken()) as u32 + 1;
        self.begin_step(rung, "escalate", None);
        self.case.edit(|i| i.note(Some(StepResult::Escalated), None));
        self.finish_step(false, None);
        End::Escalated(format!("nothing on the ladder helped{last}"))
    }

    /// A step of somebody else, which healing watches.
    async fn watch_others(&mut self, action: &str, detail: Option<String>) -> Option<End> {
        self.begin_step(0, action, detail);
        self.case.edit(|i| i.note(Some(StepResult::Applied), None));
        self.verify_step().await
    }

    /// It suffers from another: that one is healed first, however long it takes, and has `ready_timeout` to get
    /// well where nobody heals it.
    async fn await_dependency(&mut self, name: &str) -> Option<End> {
        self.begin_step(0, "wait", Some(format!("`{name}`, which it depends on, is not well")));
        self.case.edit(|i| i.note(Some(StepResult::Applied), None));
        let clock = self.engine.kernel.clock().clone();
        let end = clock.now() + self.case.settings.ready_timeout;
        while let Some(id) = self.ill_dependency() {
            let healed = self.engine.case(&id).is_some();
            if !healed && clock.now() >= end {
                self.finish_step(false, None);
                return None;
            }
            tokio::select! {
                _ = self.news.changed() => {}
                () = clock.sleep_until(end), if !healed => {}
            }
        }
        // It has what it needs again: now it has the time to get well by itself.
        self.verify_step().await
    }

    fn quarantined_by_others(&mut self, why: String) -> End {
        self.begin_step(0, "quarantine", Some(why.clone()));
        self.case.edit(|i| i.note(Some(StepResult::Contained), None));
        self.finish_step(false, None);
        End::Escalated(why)
    }

    // ---- verification -------------------------------------------------------------------------

    /// Verifies the step under way and ends it; `None` when it did not help.
    async fn verify_step(&mut self) -> Option<End> {
        self.case.edit(|i| i.phase = Some(Phase::Verifying));
        self.progress(0.5);
        self.announce_progress();
        self.engine.save(self.case);
        let verdict = self.verify().await;
        let (end, why) = match verdict {
            Verdict::Verified { exits } => (Some(End::Verified { exits }), None),
            Verdict::Failed(why) => (None, Some(why)),
            Verdict::Parked(why) => (Some(End::Cancelled(why.clone())), Some(why)),
            Verdict::Quarantined(why) => {
                self.finish_step(false, None);
                return Some(self.quarantined_by_others(why));
            }
        };
        self.finish_step(matches!(end, Some(End::Verified { .. })), why);
        end
    }

    async fn verify(&mut self) -> Verdict {
        let clock = self.engine.kernel.clock().clone();
        let mut verification = None;
        loop {
            let observed = self.news.borrow_and_update().clone();
            let Some(facts) = self.facts(&observed) else {
                return Verdict::Parked("the agent is gone".into());
            };
            let verification = verification.get_or_insert_with(|| Verification::new(self.limits(), &facts));
            match verification.step(clock.now(), &facts) {
                Next::Done(verdict) => return verdict,
                Next::Check => {
                    let health = self.engine.kernel.agents().check(&self.case.agent_id).await;
                    let complaint = health.ok().filter(|h| h.status >= self.case.level).map(|h| describe(&h));
                    verification.checked(clock.now(), complaint);
                }
                Next::Wait(until) => {
                    self.progress(0.5 + 0.5 * verification.fraction(clock.now()));
                    tokio::select! {
                        _ = self.news.changed() => {}
                        () = clock.sleep_until(until) => {}
                    }
                }
            }
        }
    }

    fn limits(&self) -> Limits {
        let settings = &self.case.settings;
        let spec = self.engine.kernel.agents().spec(&self.case.agent_id).ok();
        let backoff = spec.as_ref().map_or(Duration::ZERO, |s| s.restart.backoff.max);
        Limits {
            ready: settings.ready_timeout,
            window: settings.verify_window,
            supervision: backoff + settings.ready_timeout,
            waiting: settings.ready_timeout,
            check_every: spec.and_then(|s| s.health.interval).unwrap_or(CHECK_EVERY),
            max_exits: settings.max_exits,
        }
    }

    fn facts(&self, observed: &Observed) -> Option<Facts> {
        let agents = self.engine.kernel.agents();
        let state = agents.state(&self.case.agent_id).ok()?;
        let ill = state.health.status >= self.case.level;
        let reason = match (&observed.alert, &state.reason) {
            _ if ill && state.status.is_live() => describe(&state.health),
            (_, Some(reason)) => reason.clone(),
            (Some(rule), None) => format!("alert `{rule}` still fires"),
            (None, None) => state.last_exit.as_ref().map(|exit| exit.reason.clone()).unwrap_or_default(),
        };
        Some(Facts {
            status: state.status,
            reason,
            incarnation: state.incarnation,
            // Health that nobody knows is no proof of healing.
            well: !ill && state.health.status != HealthStatus::Unknown && observed.alert.is_none(),
            checkable: agents.needs_checks(&self.case.agent_id),
            exits: observed.exits,
            ended: observed.ended,
        })
    }

    // ---- looking ------------------------------------------------------------------------------

    fn state(&self) -> Result<AgentState, End> {
        let gone = |_| End::Cancelled("the agent is gone".into());
        self.engine.kernel.agents().state(&self.case.agent_id).map_err(gone)
    }

    fn forbids_restarts(&self) -> bool {
        let spec = self.engine.kernel.agents().spec(&self.case.agent_id);
        spec.is_ok_and(|spec| spec.restart.policy == Restart::Temporary)
    }

    /// The id of a dependency that is ill or not ready, while this agent is alive.
    fn ill_dependency(&self) -> Option<String> {
        let ill = |id: &&String| {
            self.engine.kernel.agents().state(id).is_ok_and(|s| {
                let ready = matches!(s.status, Status::Running | Status::Degraded);
                !ready || s.health.status >= self.case.level
            })
        };
        self.case.depends_on.iter().find(ill).cloned()
    }

    fn name_of(&self, id: &str) -> String {
        self.engine.kernel.agents().spec(id).map_or_else(|_| id.to_owned(), |spec| spec.name.clone())
    }

    fn last_failure(&self) -> Option<String> {
        self.case.read(|i| i.steps.iter().rev().find_map(|step| step.detail.clone()))
    }

    // ---- records ------------------------------------------------------------------------------

    fn begin_step(&mut self, rung: u32, action: &str, detail: Option<String>) {
        let now = self.engine.kernel.clock().wall_ms();
        self.case.edit(|i| {
            i.phase = Some(Phase::Healing);
            i.begin(rung, action, now, detail);
        });
        self.progress(0.0);
        self.publish_step("heal.step.started");
        self.announce_progress();
        self.engine.save(self.case);
    }

    fn finish_step(&mut self, verified: bool, detail: Option<String>) {
        let now = self.engine.kernel.clock().wall_ms();
        self.case.edit(|i| {
            i.note(None, detail);
            i.finish(now, verified);
        });
        self.publish_step("heal.step.finished");
        self.engine.save(self.case);
    }

    fn publish_step(&self, kind: &'static str) {
        let (id, step) = self.case.read(|i| (i.id.clone(), i.steps.last().cloned()));
        self.engine.publish(kind, self.case, json!({"incident": id, "step": step}));
    }

    fn announce_progress(&self) {
        let data = self.case.read(|i| {
            json!({"incident": i.id, "progress": i.progress, "phase": i.phase, "occurrences": i.occurrences})
        });
        self.engine.publish("heal.progress", self.case, data);
    }

    /// `part` (0–1) of the step under way is done. Each rung has an equal share of the whole.
    fn progress(&self, part: f64) {
        let rungs = self.case.plan.ladder.len() as f64 + 1.0;
        let at = self.case.read(|i| i.steps.last().map_or(0, |s| s.rung) as f64);
        let percent = 100.0 * ((at + part) / (rungs + 1.0)).min(0.99);
        if percent as u8 > self.case.read(|i| i.progress) {
            self.case.edit(|i| i.advance(percent));
        }
    }
}

/// What ails an agent, in one line.
pub(crate) fn describe(health: &Health) -> String {
    if health.issues.is_empty() {
        return format!("it is {}", health.status.as_str());
    }
    health.issues.iter().map(|issue| issue.message.as_str()).collect::<Vec<_>>().join("; ")
}
