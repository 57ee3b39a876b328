//! The engine: which incidents there are, what may be done about them, and what is told of them.
//!
//! One open incident per agent. Opening, joining and closing one are decided under one lock, so that an exit
//! either joins the open incident or finds it closed and opens the next; it is never lost between the two.
//! The lock is held for look-ups alone: what is published, stored or awaited happens outside.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentSpec, HealthStatus, Status},
    clock::Mono,
    duration,
    event::EventDraft,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::{
    budget::{Budget, Gate},
    case::{Case, Observed, Plan},
    config::{Config, SECTION, Settings},
    healer::{self, Begin, End},
    incident::{Incident, Outcome, Phase, State, StepResult, shorten},
    ladder, store,
};

/// What opens an incident, or joins the open one.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    /// For programs.
    pub(crate) code: String,
    /// For people.
    pub(crate) text: String,
    pub(crate) kind: CauseKind,
}

#[derive(Debug, Clone)]
pub(crate) enum CauseKind {
    /// A life ended, and supervision acts.
    Exit { ended: u64 },
    /// It is this ill.
    Health { level: HealthStatus },
    /// This rule fires.
    Alert { rule: String },
    /// Somebody took it out of service.
    Quarantined,
    /// A person or a service asks; perhaps for one strategy only.
    Asked { rung: Option<String> },
}

#[derive(Default)]
struct Inner {
    config: Option<Arc<Config>>,
    /// By agent.
    cases: HashMap<String, Arc<Case>>,
    /// What the last host left open, by agent, until its agent is there.
    resumed: HashMap<String, Incident>,
    budgets: HashMap<String, Budget>,
    /// Agents that were escalated and have not been well since: their illness is known.
    given_up: HashSet<String>,
    /// Agents that are degraded, since when, while a timer runs for them.
    degraded: HashMap<String, Option<Mono>>,
    /// Held by every task; closed when all of them have ended.
    tasks: Option<mpsc::Sender<()>>,
}

pub(crate) struct Engine {
    pub(crate) kernel: Kernel,
    pub(crate) gate: Gate,
    inner: Mutex<Inner>,
    stop: watch::Sender<bool>,
}

impl Engine {
    pub(crate) fn new(kernel: Kernel) -> Arc<Self> {
        Arc::new(Self {
            kernel,
            gate: Gate::new(1),
            inner: Mutex::default(),
            stop: watch::Sender::new(false),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- life of the engine -------------------------------------------------------------------

    /// Reads the configuration and what the last host left. Returns the end that is told when all tasks ended.
    pub(crate) async fn begin(&self) -> Result<mpsc::Receiver<()>> {
        let config = self.reload()?;
        let (now, wall) = (self.kernel.clock().now(), self.kernel.clock().wall_ms());
        let window = config.settings.budget.window;
        let from = wall.saturating_sub(window.as_millis() as u64);
        let (left, recent) =
            self.kernel.store().read(move |c| Ok((store::open(c)?, store::since(c, from)?))).await?;
        let (tx, rx) = mpsc::channel(1);
        let mut inner = self.inner();
        inner.tasks = Some(tx);
        for incident in &recent {
            let budget = inner.budgets.entry(incident.agent_id.clone()).or_default();
            let counts = |s: &&crate::incident::Step| {
                s.rung > 0 && !matches!(s.result, Some(StepResult::Superseded | StepResult::Escalated))
            };
            for step in incident.steps.iter().filter(counts) {
                // Before the origin of this host's clock is as early as can be said.
                let age = std::time::Duration::from_millis(wall.saturating_sub(step.started_ms));
                budget.record(config.settings.budget, now.saturating_sub(age));
            }
        }
        for mut incident in left {
            if incident.steps.last().is_some_and(|step| step.finished_ms.is_none()) {
                incident.note(Some(StepResult::Interrupted), None);
                incident.finish(wall, false);
            }
            inner.resumed.insert(incident.agent_id.clone(), incident);
        }
        Ok(rx)
    }

    /// Ends all tasks; what is open stays open for the next host.
    pub(crate) fn end(&self) {
        self.stop.send_replace(true);
        self.inner().tasks = None;
    }

    /// Completes when the engine is to end.
    pub(crate) async fn ending(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Runs a task that `end` waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(held) = self.inner().tasks.clone() else { return };
        self.kernel.spawn(async move {
            task.await;
            drop(held);
        });
    }

    /// Takes over the configuration as it is now.
    pub(crate) fn reload(&self) -> Result<Arc<Config>> {
        let config: Arc<Config> = Arc::new(self.kernel.section(SECTION)?);
        self.gate.set_limit(config.concurrency as usize);
        self.inner().config = Some(config.clone());
        Ok(config)
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Result<Arc<Config>> {
        self.kernel.require_open()?;
        let config = self.inner().config.clone();
        config.map_or_else(|| self.reload(), Ok)
    }

    /// How an agent is healed. Settings of its own that do not fit (it was created before they were checked)
    /// are left out, with a warning.
    pub(crate) fn settings_of(&self, spec: &AgentSpec) -> Result<Settings> {
        let config = self.config()?;
        Ok(config.settings.with(&spec.healing).unwrap_or_else(|e| {
            tracing::warn!(agent = %spec.name, error = %e, "the agent's healing settings are left out");
            config.settings.clone()
        }))
    }

    // ---- incidents ----------------------------------------------------------------------------

    /// Opens an incident for an agent, or joins the open one; says whether it joined.
    pub(crate) fn open(self: &Arc<Self>, agent_id: &str, cause: Cause) -> Result<(Arc<Case>, bool)> {
        self.resume(agent_id);
        if let Some(case) = self.case(agent_id)
            && self.join(&case, &cause)
        {
            return Ok((case, true));
        }
        let spec = self.kernel.agents().spec(agent_id)?;
        let state = self.kernel.agents().state(agent_id)?;
        let settings = self.settings_of(&spec)?;
        let now = self.kernel.clock().now();
        let incident = Incident {
            id: self.kernel.rng().token(10),
            agent: spec.name.clone(),
            agent_id: agent_id.to_owned(),
            kind: spec.kind.clone(),
            cause: shorten(&cause.text),
            cause_code: cause.code.clone(),
            opened_ms: self.kernel.clock().wall_ms(),
            closed_ms: None,
            state: State::Open,
            phase: Some(Phase::Healing),
            outcome: None,
            reason: None,
            occurrences: 1,
            progress: 0,
            incarnation: match cause.kind {
                CauseKind::Exit { ended } => ended,
                _ => state.incarnation,
            },
            steps: Vec::new(),
        };
        let (mut observed, mut begin, mut level) = (Observed::default(), Begin::Act, settings.on.health());
        let mut plan = Plan { ladder: settings.ladder.clone(), escalates: true, asked: false };
        match &cause.kind {
            CauseKind::Exit { ended } => {
                (observed.exits, observed.ended) = (1, Some(*ended));
                begin = Begin::Supervised;
            }
            CauseKind::Health { level: seen } => level = level.min(*seen),
            CauseKind::Alert { rule } => observed.alert = Some(rule.clone()),
            CauseKind::Quarantined => {}
            CauseKind::Asked { rung } => {
                plan.asked = true;
                if let Some(rung) = rung {
                    (plan.ladder, plan.escalates) = (vec![rung.clone()], false);
                }
            }
        }
        let depends_on = spec.depends_on.iter().filter_map(|d| self.kernel.agents().id(d).ok()).collect();
        let case = Arc::new(Case::new(incident, settings, level, plan, depends_on, observed, now));
        // Somebody may have been quicker.
        if let Some(there) = self.insert(&case) {
            self.join(&there, &cause);
            return Ok((there, true));
        }
        self.start(&case, begin);
        Ok((case, false))
    }

    fn insert(&self, case: &Arc<Case>) -> Option<Arc<Case>> {
        let mut inner = self.inner();
        if let Some(there) = inner.cases.get(&case.agent_id) {
            return Some(there.clone());
        }
        inner.cases.insert(case.agent_id.clone(), case.clone());
        None
    }

    fn start(self: &Arc<Self>, case: &Arc<Case>, begin: Begin) {
        if begin != Begin::Resume {
            self.publish("heal.incident.opened", case, json!({"incident": case.incident()}));
        }
        self.save(case);
        self.spawn(healer::run(self.clone(), case.clone(), begin));
    }

    /// Counts what happened again; false when the case was closed meanwhile.
    fn join(&self, case: &Arc<Case>, cause: &Cause) -> bool {
        let inner = self.inner();
        if !inner.cases.get(&case.agent_id).is_some_and(|there| Arc::ptr_eq(there, case)) {
            return false;
        }
        // Under the lock, so that a verdict that does not know of this exit cannot close the case.
        case.observe(|observed| {
            if let CauseKind::Exit { ended } = cause.kind {
                observed.exits += 1;
                observed.ended = observed.ended.max(Some(ended));
            }
        });
        drop(inner);
        if !matches!(cause.kind, CauseKind::Asked { .. } | CauseKind::Quarantined) {
            case.edit(|incident| incident.occurrences += 1);
            if case.is_save_due(self.kernel.clock().now()) {
                self.save(case);
            }
        }
        true
    }

    /// Goes on with an incident that the last host left open, once its agent is there.
    pub(crate) fn resume(self: &Arc<Self>, agent_id: &str) {
        if !self.inner().resumed.contains_key(agent_id) {
            return;
        }
        let Ok(spec) = self.kernel.agents().spec(agent_id) else { return };
        let Ok(settings) = self.settings_of(&spec) else { return };
        let Some(incident) = self.inner().resumed.remove(agent_id) else { return };
        let level = settings.on.health();
        let plan = Plan { ladder: settings.ladder.clone(), escalates: true, asked: false };
        let depends_on = spec.depends_on.iter().filter_map(|d| self.kernel.agents().id(d).ok()).collect();
        let now = self.kernel.clock().now();
        let case = Arc::new(Case::new(incident, settings, level, plan, depends_on, Observed::default(), now));
        if self.insert(&case).is_none() {
            self.start(&case, Begin::Resume);
        }
    }

    /// Goes on with all that the last host left open; those whose agents are gone are closed.
    pub(crate) fn resume_all(self: &Arc<Self>) {
        let ids: Vec<String> = self.inner().resumed.keys().cloned().collect();
        for id in ids {
            self.resume(&id);
            let Some(mut incident) = self.inner().resumed.remove(&id) else { continue };
            self.conclude(&mut incident, Outcome::Cancelled, Some("the agent is gone".into()));
            self.store(incident);
        }
    }

    /// Closes a case, unless it is to be closed as verified and the agent ended once more meanwhile.
    pub(crate) fn close(&self, case: &Arc<Case>, end: End) -> bool {
        {
            let mut inner = self.inner();
            if matches!(end, End::Verified { exits } if case.observed().exits != exits) {
                return false;
            }
            inner.cases.remove(&case.agent_id);
            if matches!(end, End::Escalated(_)) {
                inner.given_up.insert(case.agent_id.clone());
            }
        }
        let (outcome, reason) = match end {
            End::Verified { .. } => (Outcome::Verified, None),
            End::Failed(why) => (Outcome::Failed, Some(why)),
            End::Escalated(why) => (Outcome::Escalated, Some(why)),
            End::Cancelled(why) => (Outcome::Cancelled, Some(why)),
        };
        case.edit(|incident| self.conclude(incident, outcome, reason.clone()));
        self.save(case);
        if outcome == Outcome::Escalated {
            self.publish("heal.escalated", case, json!({"incident": case.incident(), "reason": reason}));
        }
        self.publish("heal.incident.closed", case, json!({"incident": case.incident()}));
        // Who waits for this agent to be healed looks again.
        self.concerned(&case.agent_id).iter().for_each(|case| case.observe(|_| {}));
        true
    }

    fn conclude(&self, incident: &mut Incident, outcome: Outcome, reason: Option<String>) {
        let now = self.kernel.clock().wall_ms();
        if let Some(step) = incident.steps.last().filter(|step| step.finished_ms.is_none()) {
            let result = step.result.unwrap_or(StepResult::Cancelled);
            incident.note(Some(result), None);
            incident.finish(now, false);
        }
        incident.state = State::Closed;
        incident.phase = None;
        incident.outcome = Some(outcome);
        incident.reason = reason.map(|why| shorten(&why));
        incident.closed_ms = Some(now);
        incident.progress = 100;
    }

    /// Opens an incident because somebody asks for it.
    pub(crate) fn trigger(
        self: &Arc<Self>,
        agent: &str,
        reason: Option<String>,
        rung: Option<String>,
    ) -> Result<(Arc<Case>, bool)> {
        let id = self.kernel.agents().id(agent)?;
        if let Some(rung) = &rung {
            ladder::require(&self.kernel, rung)?;
        }
        if self.kernel.agents().state(&id)?.status == Status::Stopped {
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!("agent `{agent}` is stopped, so there is nothing to heal"),
            )
            .hint("start it first"));
        }
        let text = reason.unwrap_or_else(|| "asked for".into());
        self.open(&id, Cause { code: "trigger".into(), text, kind: CauseKind::Asked { rung } })
    }

    // ---- looking ------------------------------------------------------------------------------

    /// The open case of an agent.
    pub(crate) fn case(&self, agent_id: &str) -> Option<Arc<Case>> {
        self.inner().cases.get(agent_id).cloned()
    }

    /// The open cases that an event about `agent_id` concerns: its own and those of its dependents.
    pub(crate) fn concerned(&self, agent_id: &str) -> Vec<Arc<Case>> {
        let concerns =
            |case: &&Arc<Case>| case.agent_id == agent_id || case.depends_on.iter().any(|d| d == agent_id);
        self.inner().cases.values().filter(concerns).cloned().collect()
    }

    /// The open incidents, newest first.
    pub(crate) fn active(&self) -> Vec<Incident> {
        let mut all: Vec<Incident> = {
            let inner = self.inner();
            inner.cases.values().map(|case| case.incident()).chain(inner.resumed.values().cloned()).collect()
        };
        all.sort_by(|a, b| b.opened_ms.cmp(&a.opened_ms).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// The open incidents, newest first; of one agent when given.
    pub(crate) fn active_of(&self, agent: Option<&str>) -> Vec<Incident> {
        let id = agent.map(|a| self.id_or_name(a));
        let mut all = self.active();
        all.retain(|i| id.as_ref().is_none_or(|id| i.agent_id == *id || i.agent == *id));
        all
    }

    /// The id of a living agent; of one that is gone, what it was called by.
    fn id_or_name(&self, agent: &str) -> String {
        self.kernel.agents().id(agent).unwrap_or_else(|_| agent.to_owned())
    }

    /// Incidents, newest first, open ones included; of one agent when given.
    pub(crate) async fn history(&self, agent: Option<&str>, limit: usize) -> Result<Vec<Incident>> {
        // What was just closed is on its way to the store; a disk that fails does not hide the rest.
        let _ = self.kernel.store().flush().await;
        let (key, wanted) = (agent.map(|a| self.id_or_name(a)), limit);
        let mut found = self.active_of(agent);
        found.extend(self.kernel.store().read(move |c| store::closed(c, key.as_deref(), wanted)).await?);
        if let (true, Some(agent)) = (found.is_empty(), agent) {
            self.kernel.agents().id(agent)?;
        }
        found.sort_by_key(|incident| std::cmp::Reverse(incident.opened_ms));
        found.truncate(limit);
        Ok(found)
    }

    /// What budgets are used, agent by agent.
    pub(crate) fn budgets(&self) -> Vec<Value> {
        let now = self.kernel.clock().now();
        let used: Vec<(String, Budget)> =
            self.inner().budgets.iter().map(|(id, budget)| (id.clone(), budget.clone())).collect();
        let row = |(id, budget): (String, Budget)| {
            let spec = self.kernel.agents().spec(&id).ok()?;
            let limit = self.settings_of(&spec).ok()?.budget;
            let used = budget.used(limit.window, now);
            (used > 0).then(|| {
                json!({"agent": spec.name, "id": id, "used": used, "limit": limit.actions,
                    "window_ms": limit.window.as_millis() as u64, "exhausted": used >= limit.actions})
            })
        };
        let mut rows: Vec<Value> = used.into_iter().filter_map(row).collect();
        rows.sort_by(|a, b| a["agent"].as_str().cmp(&b["agent"].as_str()));
        rows
    }

    // ---- what may be done ---------------------------------------------------------------------

    /// Whether one more action on this agent is within its budget; if not, why.
    pub(crate) fn admit(&self, case: &Case) -> std::result::Result<(), String> {
        let limit = case.settings.budget;
        let now = self.kernel.clock().now();
        let inner = self.inner();
        if inner.budgets.get(&case.agent_id).map_or(limit.actions > 0, |budget| budget.has_room(limit, now)) {
            return Ok(());
        }
        Err(format!(
            "the budget of {} actions within {} is exhausted",
            limit.actions,
            duration::format(limit.window)
        ))
    }

    /// Counts an action.
    pub(crate) fn spend(&self, case: &Case) {
        let now = self.kernel.clock().now();
        self.inner().budgets.entry(case.agent_id.clone()).or_default().record(case.settings.budget, now);
    }

    // ---- what is known of agents without a case -----------------------------------------------

    /// Whether the illness of an agent is known and nothing more is to be tried.
    pub(crate) fn is_given_up(&self, agent_id: &str) -> bool {
        self.inner().given_up.contains(agent_id)
    }

    /// An agent began anew, or is well.
    pub(crate) fn give_another_chance(&self, agent_id: &str) {
        self.inner().given_up.remove(agent_id);
    }

    /// An agent is gone.
    pub(crate) fn forget(&self, agent_id: &str) {
        let mut inner = self.inner();
        inner.given_up.remove(agent_id);
        inner.budgets.remove(agent_id);
        if let Some(since) = inner.degraded.get_mut(agent_id) {
            *since = None;
        }
    }

    /// An agent is no longer degraded, or worse than that.
    pub(crate) fn not_degraded(&self, agent_id: &str) {
        if let Some(since) = self.inner().degraded.get_mut(agent_id) {
            *since = None;
        }
    }

    /// An agent is degraded: opens an incident when it still is after `degraded_after`. One timer an agent.
    pub(crate) fn degraded(self: &Arc<Self>, agent_id: &str, cause: Cause, settings: &Settings) {
        let now = self.kernel.clock().now();
        {
            let mut inner = self.inner();
            if let Some(since) = inner.degraded.get_mut(agent_id) {
                since.get_or_insert(now);
                return;
            }
            inner.degraded.insert(agent_id.to_owned(), Some(now));
        }
        let (engine, id, after) = (self.clone(), agent_id.to_owned(), settings.degraded_after);
        self.spawn(async move {
            let mut until = now + after;
            loop {
                tokio::select! {
                    () = engine.ending() => return,
                    () = engine.kernel.clock().sleep_until(until) => {}
                }
                let since = engine.inner().degraded.get(&id).copied().flatten();
                match since {
                    Some(since) if since + after > until => until = since + after,
                    since => {
                        engine.inner().degraded.remove(&id);
                        if since.is_some() && !engine.is_given_up(&id) {
                            let _ = engine.open(&id, cause);
                        }
                        return;
                    }
                }
            }
        });
    }

    // ---- telling ------------------------------------------------------------------------------

    /// Publishes something about a case.
    pub(crate) fn publish(&self, kind: &'static str, case: &Case, mut data: Value) {
        let (agent, of_type) = case.read(|i| (i.agent.clone(), i.kind.clone()));
        data["agent"] = agent.into();
        data["id"] = case.agent_id.clone().into();
        data["type"] = of_type.into();
        self.kernel.publish(EventDraft::json(kind, data).subject(case.agent_id.clone()).source("/healing"));
    }

    /// Hands the incident to the store; a waiting older version of it is replaced.
    pub(crate) fn save(&self, case: &Case) {
        self.store(case.incident());
    }

    fn store(&self, incident: Incident) {
        let keep = self.config().map(|config| config.history).ok();
        let wall = self.kernel.clock().wall_ms();
        let key = format!("healing/{}", incident.id);
        let stored = self.kernel.store().post_latest(&key, move |c| {
            store::save(c, &incident)?;
            match keep.filter(|_| incident.is_closed()) {
                Some(keep) => {
                    store::prune(c, keep.max, wall.saturating_sub(keep.retention.as_millis() as u64))
                }
                None => Ok(()),
            }
        });
        if let Err(e) = stored {
            tracing::warn!(error = %e, "an incident could not be stored");
        }
    }
}
