//! The cell: the one task that owns an agent, and with it the agent's action lock.
//!
//! It obeys its control queue first, then its back-off timer, then the message in hand, then the mailbox.
//! A crash is answered before anything is written: decide, start again, and only then publish and keep.

mod asked;
mod calls;
mod shown;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    Adoption, AgentContext, AgentSpec, Behaviour, Desired, ExitReport, Health, HealthStatus, Started, Status,
    Stop,
    shared::{Control, KeptState, Settle, Shared},
};
use crate::{
    Error, ErrorKind, Kernel, Result,
    clock::Mono,
    contain::{contained, contained_sync},
    supervision::{Decision, RestartTracker, Strategy},
};

/// A handler, a start, or anything else that takes longer has hung: that is a failure of its agent.
pub(super) const HANDLER_LIMIT: Duration = Duration::from_secs(60);

/// A snapshot that takes longer is not waited for.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(10);

/// How long a stop may take beyond the time the agent is given to end by itself.
const STOP_MARGIN: Duration = Duration::from_secs(30);

/// How long a graceful stop may take where the agent's configuration says nothing.
pub const STOP_DEADLINE: Duration = Duration::from_secs(10);

pub(super) use calls::{guarded, refuse, refuse_hung};

enum Phase {
    /// Nothing runs, nothing is planned.
    Idle,
    /// Wants to start and cannot yet.
    Waiting,
    /// A behaviour is alive.
    Live,
    /// Starts again at this time.
    Backoff(Mono, ExitReport),
    /// Stopped by or failed in its group, which starts it again.
    Grouped,
}

type Handling = Pin<Box<dyn Future<Output = Option<ExitReport>> + Send>>;

pub(crate) struct Cell {
    kernel: Kernel,
    shared: Arc<Shared>,
    phase: Phase,
    tracker: RestartTracker,
    behaviour: Option<Arc<dyn Behaviour>>,
    /// The registration of its type that the behaviour comes from.
    registration: u64,
    cx: AgentContext,
    /// What the behaviour last said of its health in this life.
    reported: Health,
    handling: Option<Handling>,
    /// A life could not be ended and may still be there: only who says so starts another one.
    unended: bool,
    kept: KeptState,
}

/// Runs a cell. One that panics (a defect of ours) leaves an agent that says so, and nobody waiting for it.
pub(crate) async fn run_contained(cell: Cell) {
    let shared = cell.shared.clone();
    if let Err(e) = contained(cell.run()).await {
        tracing::error!(agent = %shared.id, error = %e, "the agent's cell ended");
        shared.control.close_and_discard();
        shared.mailbox.close_and_discard();
        let mut public = shared.public();
        public.state.status = Status::Failed;
        public.state.reason = Some(format!("a defect ended its supervision: {}", e.message));
    }
}

impl Cell {
    pub(crate) fn new(kernel: Kernel, shared: Arc<Shared>, kept: KeptState) -> Self {
        let cx = AgentContext::new(kernel.clone(), shared.clone(), kept.incarnation);
        Self {
            kernel,
            shared,
            phase: Phase::Idle,
            tracker: RestartTracker::default(),
            behaviour: None,
            registration: 0,
            cx,
            reported: Health::unknown(),
            handling: None,
            unended: false,
            kept,
        }
    }

    /// Runs until the agent is destroyed or its control queue closes.
    pub(crate) async fn run(mut self) {
        loop {
            let backoff = match &self.phase {
                Phase::Backoff(at, _) => Some(self.kernel.clock().sleep_until(*at)),
                _ => None,
            };
            let listens =
                matches!(self.phase, Phase::Live) && self.handling.is_none() && self.shared.is_ready();
            tokio::select! {
                biased;
                control = self.shared.control.recv() => match control {
                    None => break,
                    Some(Control::Destroy { reply }) => {
                        let done = self.destroy().await;
                        let ended = done.is_ok();
                        let _ = reply.send(done);
                        if ended {
                            break;
                        }
                    }
                    Some(control) => self.obey(control).await,
                },
                () = when(backoff) => self.resume().await,
                failure = in_hand(&mut self.handling) => {
                    self.handling = None;
                    if let Some(exit) = failure {
                        self.fail(exit).await;
                    }
                }
                envelope = self.shared.mailbox.recv(), if listens => {
                    if let Some(envelope) = envelope {
                        self.take(envelope);
                    }
                }
            }
        }
        self.end_life("the agent has ended");
        self.shared.control.close_and_discard();
        self.shared.mailbox.close_and_discard();
    }

    async fn obey(&mut self, control: Control) {
        match control {
            Control::Boot { adopt, reply } => answer(reply, self.boot(adopt).await),
            Control::Start { reply } => answer(reply, self.start().await),
            Control::Stop { how, settle, reply } => answer(reply, self.stop(how, settle).await),
            Control::Restart { request, reply } => {
                let _ = reply.send(self.restart(request).await);
            }
            Control::GroupStart { cause, anew, reply } => {
                let _ = reply.send(self.group_start(&cause, anew).await);
            }
            Control::Update { spec, reply } => {
                let _ = reply.send(self.update(spec).await);
            }
            Control::Exited { incarnation, exit } if self.is_current(incarnation) => self.on_exit(exit).await,
            Control::Ready { incarnation } if self.is_current(incarnation) => self.on_ready(),
            Control::Health { incarnation, health } if self.is_current(incarnation) => self.on_health(health),
            Control::Exited { .. } | Control::Ready { .. } | Control::Health { .. } => {}
            Control::Recheck => self.recheck().await,
            Control::LeftAlone { incarnation, why } => {
                if matches!(self.phase, Phase::Grouped) && incarnation == self.cx.incarnation() {
                    self.quarantine(why);
                }
            }
            Control::Destroy { .. } => unreachable!("`run` handles it"),
        }
    }

    fn is_current(&self, incarnation: u64) -> bool {
        matches!(self.phase, Phase::Live) && incarnation == self.cx.incarnation()
    }

    // ---- beginnings ---------------------------------------------------------------------------

    async fn boot(&mut self, adopt: bool) -> Result<()> {
        let spec = self.shared.spec();
        if adopt && self.adopt_what_runs(&spec).await {
            return Ok(());
        }
        if let Some(why) = self.kept.quarantined.clone() {
            self.settle(Status::Quarantined, Some(why));
        } else if let Some(why) = self.kept.finished.clone() {
            self.settle(Status::Stopped, Some(why));
        } else if spec.desired == Desired::Running {
            return self.begin_life().await;
        } else {
            self.settle(Status::Stopped, None);
        }
        Ok(())
    }

    /// Takes over what the last host left; true when that decided what the agent does now.
    async fn adopt_what_runs(&mut self, spec: &AgentSpec) -> bool {
        let Ok((registration, behaviour)) = self.kernel.types().create_registered(&spec.kind, &spec.config)
        else {
            return false;
        };
        self.registration = registration;
        let (asked, cx) = (behaviour.clone(), self.cx.clone());
        let adoption = self
            .call(&behaviour, HANDLER_LIMIT, "its adoption", async move { asked.adopt(&cx).await })
            .await
            .and_then(|r| r);
        match adoption {
            Ok(Adoption::Adopted { incarnation, started }) => {
                self.enter_life(behaviour, incarnation);
                self.publish("agent.adopted", json!({"incarnation": incarnation}));
                self.go_live(started);
                if spec.desired == Desired::Stopped || self.kept.quarantined.is_some() {
                    let _ = self.stop(Stop::Graceful(STOP_DEADLINE), Settle::Stopped("stopped".into())).await;
                }
                true
            }
            Ok(Adoption::Ended { incarnation, exit })
                if spec.desired == Desired::Running
                    && self.kept.quarantined.is_none()
                    && self.kept.finished.is_none() =>
            {
                self.enter_life(behaviour, incarnation);
                self.phase = Phase::Live;
                self.on_exit(exit).await;
                true
            }
            Ok(Adoption::Ended { incarnation, .. }) => {
                self.set_incarnation(incarnation);
                false
            }
            Ok(Adoption::Absent) => false,
            Err(e) => {
                // It may well run: another life beside it would be a duplicate, and a stop must reach it.
                self.behaviour = Some(behaviour);
                tracing::error!(agent = %self.shared.id, error = %e, "adoption failed");
                self.settle(Status::Failed, Some(format!("could not be adopted: {}", e.message)));
                true
            }
        }
    }

    async fn start(&mut self) -> Result<()> {
        if matches!(self.phase, Phase::Live) {
            return Ok(());
        }
        if self.behaviour.is_some() {
            // What could not be adopted may run: it is ended before another life begins.
            let ended = self.abandon(Stop::Graceful(STOP_DEADLINE)).await;
            self.stopped_badly(ended)?;
        }
        self.forget_failures();
        self.unended = false;
        self.kept.quarantined = None;
        self.kept.finished = None;
        self.begin_life().await
    }

    /// Its own failures, and those of the group it is the parent of.
    fn forget_failures(&mut self) {
        self.tracker.clear();
        self.shared.group().clear(self.kernel.clock().now());
    }

    /// Starts a new life, or waits when something it needs is missing. An error leaves it failed.
    async fn begin_life(&mut self) -> Result<()> {
        if self.waits_for_dependency() {
            return Ok(());
        }
        match self.launch().await {
            Ok(started) => {
                self.publish("agent.started", self.life());
                self.go_live(started);
                Ok(())
            }
            Err(e) if e.kind == ErrorKind::TypeUnavailable => {
                self.wait("type_unavailable".into());
                Ok(())
            }
            Err(e) if refuse_hung(&self.shared).is_err() => {
                self.quarantine(e.message.clone());
                Err(e)
            }
            Err(e) => {
                self.settle(Status::Failed, Some(format!("could not start: {}", e.message)));
                Err(e)
            }
        }
    }

    /// Makes a behaviour and starts it. The hot path of every restart: no store, no event. What could not be
    /// started is ended, so that nothing of it meets the next life.
    async fn launch(&mut self) -> Result<Started> {
        refuse_hung(&self.shared)?;
        let spec = self.shared.spec();
        let (registration, behaviour) = self.kernel.types().create_registered(&spec.kind, &spec.config)?;
        self.registration = registration;
        let incarnation = self.cx.incarnation() + 1;
        self.enter_life(behaviour.clone(), incarnation);
        let (begun, cx) = (behaviour.clone(), self.cx.clone());
        let begin = async move {
            if let Some(snapshot) = cx.kernel().agents().snapshot_of(cx.id()) {
                begun.restore(snapshot).await?;
            }
            begun.start(&cx).await
        };
        let started =
            self.call(&behaviour, HANDLER_LIMIT, "its start", begin).await.and_then(|started| started);
        if started.is_err() {
            if let Err(e) = self.end(&behaviour, Stop::Kill).await {
                tracing::warn!(agent = %self.shared.id, error = %e, "what did not start could not be ended");
            }
            self.end_life("it could not be started");
        }
        started
    }

    fn enter_life(&mut self, behaviour: Arc<dyn Behaviour>, incarnation: u64) {
        self.set_incarnation(incarnation);
        self.reported = Health::unknown();
        self.behaviour = Some(behaviour.clone());
        self.shared.public().behaviour = Some(behaviour);
    }

    fn set_incarnation(&mut self, incarnation: u64) {
        self.cx = AgentContext::new(self.kernel.clone(), self.shared.clone(), incarnation);
        self.kept.incarnation = incarnation;
        self.shared.public().state.incarnation = incarnation;
    }

    fn go_live(&mut self, started: Started) {
        self.phase = Phase::Live;
        self.shared.public().state.since_ms = self.kernel.clock().wall_ms();
        match started {
            Started::Ready => self.on_ready(),
            Started::Pending => {
                self.show(Status::Starting, None);
                self.keep();
            }
        }
    }

    fn wait(&mut self, why: String) {
        self.end_life("the agent waits");
        self.phase = Phase::Waiting;
        self.show(Status::Waiting, Some(why));
        self.keep();
    }

    /// Waits when something it needs is not ready; whether it does.
    fn waits_for_dependency(&mut self) -> bool {
        let Some(missing) = self.kernel.agents().missing_dependency(&self.shared) else { return false };
        self.wait(format!("waiting for `{missing}`"));
        true
    }

    async fn recheck(&mut self) {
        if matches!(self.phase, Phase::Waiting)
            && self.kernel.agents().missing_dependency(&self.shared).is_none()
        {
            let _ = self.begin_life().await;
        } else if matches!(self.phase, Phase::Live) && self.is_deserted() {
            // Not a failure of the agent: it goes on where its type is offered, now or later.
            if let Err(e) = self.abandon(Stop::Graceful(STOP_DEADLINE)).await {
                tracing::warn!(agent = %self.shared.id, error = %e, "a life without a provider could not be ended cleanly");
            }
            if let Err(e) = self.begin_life().await {
                let why = format!("could not go on with another provider of its type: {}", e.message);
                self.on_exit(ExitReport::failure(why)).await;
            }
        }
    }

    /// Whether who offered its type, or what runs it, is gone.
    fn is_deserted(&self) -> bool {
        let attached = |b: &Arc<dyn Behaviour>| contained_sync(|| b.is_attached()).unwrap_or(true);
        self.behaviour.as_ref().is_some_and(|b| !attached(b))
            || !self.kernel.types().is_registered(&self.shared.spec().kind, self.registration)
    }

    // ---- what the behaviour tells -------------------------------------------------------------

    fn on_ready(&mut self) {
        if self.reported.status == HealthStatus::Unknown {
            self.reported = Health::healthy();
        }
        self.show(self.live_status(), None);
        self.keep();
        self.kernel.agents().readiness_changed(&self.shared);
    }

    fn on_health(&mut self, health: Health) {
        self.reported = health;
        // One that starts shows it once it is ready.
        if self.shared.is_ready() {
            self.show(self.live_status(), None);
        }
    }

    fn live_status(&self) -> Status {
        match self.reported.status {
            HealthStatus::Degraded | HealthStatus::Critical => Status::Degraded,
            HealthStatus::Healthy | HealthStatus::Unknown => Status::Running,
        }
    }

    /// The life ended by itself: supervision decides what follows.
    async fn on_exit(&mut self, exit: ExitReport) {
        let ended = self.life();
        let noticed = self.kernel.clock().now();
        self.end_life("the agent ended");
        let spec = self.shared.spec();
        let decision = self.tracker.on_exit(&spec.restart, noticed, exit.clean, self.kernel.rng());
        {
            let mut public = self.shared.public();
            public.state.last_exit = Some(exit.clone());
        }
        self.kept.last_exit = Some(exit.clone());
        self.kernel.agents().failed_in_group(&self.shared, &spec);
        let grouped = self.kernel.agents().strategy_over(&spec) != Strategy::OneForOne;
        match decision {
            Decision::Restart(_) | Decision::Escalate if refuse_hung(&self.shared).is_err() => {
                self.publish_exit(&ended, &exit, "none");
                let hung = refuse_hung(&self.shared).err().map(|e| e.message).unwrap_or_default();
                self.quarantine(format!("{}, and {hung}", exit.reason));
            }
            Decision::Restart(delay) if delay.is_zero() && !grouped => {
                if self.kernel.agents().missing_dependency(&self.shared).is_some() {
                    self.publish_exit(&ended, &exit, "restart");
                    self.waits_for_dependency();
                    return;
                }
                let relaunched = self.relaunch().await;
                self.publish_exit(&ended, &exit, "restart");
                self.after_relaunch(relaunched, &exit.reason, "supervision", noticed).await;
            }
            Decision::Restart(delay) => {
                self.publish_exit(&ended, &exit, "restart");
                let at = noticed + delay;
                self.show(Status::Restarting, Some(exit.reason.clone()));
                self.phase = Phase::Backoff(at, exit);
                self.keep();
            }
            Decision::Stay => {
                self.publish_exit(&ended, &exit, "none");
                let why = format!("ended: {}", exit.reason);
                self.kept.finished = Some(why.clone());
                self.settle(Status::Stopped, Some(why));
            }
            Decision::Fail => {
                self.publish_exit(&ended, &exit, "none");
                let why = format!("failed: {}", exit.reason);
                self.kept.finished = Some(why.clone());
                self.settle(Status::Failed, Some(why));
            }
            Decision::Escalate => {
                self.publish_exit(&ended, &exit, "escalate");
                self.escalate(&spec, exit);
            }
        }
    }

    /// The life failed without ending (a handler panicked or hung): end it, then treat it as an exit.
    async fn fail(&mut self, exit: ExitReport) {
        let ended = self.life();
        match self.abandon(Stop::Kill).await {
            Err(e) if e.kind == ErrorKind::Timeout => {
                self.publish_exit(&ended, &exit, "none");
                let why = format!("{}, and then it {}", exit.reason, e.message);
                let _ = self.stopped_badly::<()>(Err(Error { message: why, ..e }));
                return;
            }
            Err(e) => {
                tracing::warn!(agent = %self.shared.id, error = %e, "a failed life could not be ended cleanly");
            }
            Ok(()) => {}
        }
        self.on_exit(exit).await;
    }

    /// The back-off is over.
    async fn resume(&mut self) {
        let Phase::Backoff(_, exit) = std::mem::replace(&mut self.phase, Phase::Idle) else { return };
        let spec = self.shared.spec();
        if self.kernel.agents().strategy_over(&spec) != Strategy::OneForOne {
            self.phase = Phase::Grouped;
            self.kernel.agents().restart_group(&self.shared, &exit);
            return;
        }
        if self.waits_for_dependency() {
            return;
        }
        let now = self.kernel.clock().now();
        let relaunched = self.relaunch().await;
        self.after_relaunch(relaunched, &exit.reason, "supervision", now).await;
    }

    async fn relaunch(&mut self) -> Result<Started> {
        self.kept.restarts += 1;
        self.shared.public().state.restarts = self.kept.restarts;
        self.launch().await
    }

    /// Tells of a restart. One that failed is an exit like any other, without recursion: through the queue.
    async fn after_relaunch(&mut self, relaunched: Result<Started>, cause: &str, by: &str, since: Mono) {
        match relaunched {
            Ok(started) => {
                let mut data = self.life();
                data["cause"] = cause.into();
                data["by"] = by.into();
                data["took_ms"] = ((self.kernel.clock().now() - since).as_secs_f64() * 1e3).into();
                self.publish("agent.restarted", data);
                self.go_live(started);
            }
            Err(e) if e.kind == ErrorKind::TypeUnavailable => self.wait("type_unavailable".into()),
            Err(e) => {
                self.phase = Phase::Live;
                self.show(Status::Restarting, Some(format!("could not start: {}", e.message)));
                self.cx.exited(ExitReport::failure(format!("could not start: {}", e.message)));
            }
        }
    }

    fn escalate(&mut self, spec: &AgentSpec, exit: ExitReport) {
        let limit = spec.restart.intensity;
        let why = format!(
            "{} restarts within {} were not enough: {}",
            limit.max,
            crate::duration::format(limit.window),
            exit.reason
        );
        self.publish("agent.escalated", json!({"reason": why, "to": spec.parent}));
        if spec.parent.is_some() {
            self.show(Status::Restarting, Some(why.clone()));
            self.phase = Phase::Grouped;
            self.keep();
            self.kernel.agents().escalate(&self.shared, &why);
        } else {
            self.quarantine(why);
        }
    }

    fn quarantine(&mut self, why: String) {
        self.kept.quarantined = Some(why.clone());
        self.settle(Status::Quarantined, Some(why.clone()));
        self.publish("agent.quarantined", json!({"reason": why}));
    }
}

fn answer<T>(reply: Option<tokio::sync::oneshot::Sender<Result<T>>>, result: Result<T>) {
    if let Some(reply) = reply {
        let _ = reply.send(result);
    }
}

async fn when(timer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

async fn in_hand(handling: &mut Option<Handling>) -> Option<ExitReport> {
    match handling {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
