//! The agent runtime: what agents there are, messages to them, and what people and organs ask of them.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, Weak, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    AgentContext, AgentSpec, AgentState, Behaviour, Desired, Health, Issue, Measurement, Message, Snapshot,
    Status, Stop,
    cell::{Cell, STOP_DEADLINE, guarded, refuse, refuse_hung},
    index::Index,
    message::Envelope,
    shared::{Control, KeptState, Settle, Shared},
    structure::Structure,
};
use crate::{
    Error, ErrorKind, Kernel, Result, blocking::Blocking, contain::contained_sync, kernel::Inner,
    store::agents as table, supervision::Strategy,
};

/// How an agent is created.
#[derive(Debug, Clone, Default)]
pub struct Create {
    /// The environment of whoever creates it, for types that inherit it. Kept in a private file.
    pub env: Option<BTreeMap<String, String>>,
    /// Undo the creation when the first start fails.
    pub must_start: bool,
    /// Update an agent of the same name instead of failing.
    pub ensure: bool,
    /// Restarts of what it stands for before it became an agent here; its count goes on from there.
    pub restarts: u64,
}

/// Why and how an agent is restarted.
#[derive(Debug, Clone, Default)]
pub struct RestartRequest {
    /// The cause, for history.
    pub reason: String,
    /// Who wants it: `user`, `healing`.
    pub by: String,
    /// Forget kept state first.
    pub reset: bool,
    /// End it at once instead of asking.
    pub kill: bool,
    /// Only if this is still its incarnation: a diagnosis of an earlier life is no reason to end this one.
    pub if_incarnation: Option<u64>,
}

/// What a restart request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarted {
    /// It was restarted, as this incarnation.
    Done {
        /// The new incarnation.
        incarnation: u64,
    },
    /// Somebody else restarted it first.
    Superseded {
        /// The current incarnation.
        incarnation: u64,
    },
}

/// The agents of a system. Cheap to clone.
#[derive(Clone)]
pub struct Agents {
    kernel: Weak<Inner>,
    inner: Arc<State>,
}

#[derive(Default)]
struct State {
    index: RwLock<Index>,
    structure: Structure,
    /// Where behaviours run that block.
    blocking: Blocking,
    snapshots: Mutex<HashMap<String, Snapshot>>,
    /// Environments in use: agents created from one shell share theirs.
    envs: Mutex<Vec<Weak<Environment>>>,
}

pub(super) type Environment = BTreeMap<String, String>;

impl Agents {
    pub(crate) fn new(kernel: Weak<Inner>) -> Self {
        Self { kernel, inner: Arc::default() }
    }

    pub(super) fn kernel(&self) -> Kernel {
        // Cells and callers hold a kernel, so it lives as long as anything here runs.
        Kernel::from_weak(&self.kernel).expect("the kernel outlives its agents")
    }

    pub(super) fn structure(&self) -> &Structure {
        &self.inner.structure
    }

    pub(super) fn blocking(&self) -> &Blocking {
        &self.inner.blocking
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.kernel().spawn(future);
    }

    // ---- the set of agents --------------------------------------------------------------------

    pub(super) fn spawn_cell(
        &self,
        kernel: &Kernel,
        id: String,
        dir: PathBuf,
        env: Option<Environment>,
        spec: Arc<AgentSpec>,
        kept: KeptState,
    ) -> Arc<Shared> {
        let env = env.map(|env| self.intern(env));
        let shared = Arc::new(Shared::new(id, dir, env, spec, &kept, kernel.clock().wall_ms()));
        self.index_mut().insert(shared.clone());
        kernel.spawn(super::cell::run_contained(Cell::new(kernel.clone(), shared.clone(), kept)));
        shared
    }

    fn intern(&self, env: Environment) -> Arc<Environment> {
        let mut envs = self.inner.envs.lock().unwrap_or_else(PoisonError::into_inner);
        envs.retain(|known| known.strong_count() > 0);
        if let Some(known) = envs.iter().filter_map(Weak::upgrade).find(|known| **known == env) {
            return known;
        }
        let env = Arc::new(env);
        envs.push(Arc::downgrade(&env));
        env
    }

    /// Brings back the agents that the store knows: adopts what still runs, starts what should run.
    /// Returns how many there are.
    pub(crate) async fn restore(&self) -> Result<usize> {
        let kernel = self.kernel();
        let (rows, snapshots) =
            kernel.store().read(|db| Ok((table::list(db)?, table::snapshots(db)?))).await?;
        {
            let mut kept = self.inner.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend(
                snapshots
                    .into_iter()
                    .map(|(id, s)| (id, Snapshot { state_version: s.state_version, data: s.data })),
            );
        }
        let mut cells = Vec::with_capacity(rows.len());
        for row in rows {
            let (spec, unreadable) = match AgentSpec::from_json(row.spec) {
                Ok(spec) => (spec, None),
                // It keeps its name and its row, and says what is wrong; nothing of it is run.
                Err(e) => (AgentSpec::new(&row.name, "unreadable", json!({})), Some(e)),
            };
            let kept: KeptState = serde_json::from_value(row.state).unwrap_or_default();
            let dir = kernel.dirs().agents.join(&row.id);
            if let Err(e) = hms_os::files::create_private_dir(&dir) {
                // What runs is adopted all the same; what cannot start without it says why.
                tracing::error!(agent = %row.id, error = %e, "{} cannot be used", dir.display());
            }
            let env = read_env(&dir);
            let cell = self.spawn_cell(&kernel, row.id, dir, env, Arc::new(spec), kept);
            match unreadable {
                None => cells.push(cell),
                Some(e) => {
                    tracing::error!(agent = %cell.id, error = %e, "the stored specification is not readable; the agent is left alone");
                    let why = format!("its stored specification cannot be read: {}", e.message);
                    let state = &mut cell.public().state;
                    state.status = Status::Failed;
                    state.health = Health::of(vec![Issue::critical("failed", why.clone())]);
                    state.reason = Some(why);
                }
            }
        }
        // All are in the index before the first one looks for its dependencies.
        for cell in &cells {
            cell.tell_cell(Control::Boot { adopt: true, reply: None });
        }
        Ok(cells.len())
    }

    // ---- looking ------------------------------------------------------------------------------

    /// One row an agent, in order of creation.
    pub fn list(&self) -> Vec<Value> {
        let all = self.index().all();
        all.iter().map(|s| s.row()).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything about one agent.
    pub fn status(&self, id_or_name: &str) -> Result<Value> {
        let shared = self.find(id_or_name)?;
        let mut detail = shared.detail();
        self.redact(&shared.spec().kind, &mut detail["config"]);
        Ok(detail)
    }

    /// The observable state of one agent.
    pub fn state(&self, id_or_name: &str) -> Result<AgentState> {
        Ok(self.find(id_or_name)?.state())
    }

    /// The specification of one agent.
    pub fn spec(&self, id_or_name: &str) -> Result<Arc<AgentSpec>> {
        Ok(self.find(id_or_name)?.spec())
    }

    /// The id of the agent that `id_or_name` names.
    pub fn id(&self, id_or_name: &str) -> Result<String> {
        Ok(self.find(id_or_name)?.id.clone())
    }

    /// The folder of one agent's files.
    pub fn dir(&self, id_or_name: &str) -> Result<PathBuf> {
        Ok(self.find(id_or_name)?.dir.clone())
    }

    /// Ids and specifications of all agents, in order of creation.
    pub fn specs(&self) -> Vec<(String, Arc<AgentSpec>)> {
        let all = self.index().all();
        all.iter().map(|s| (s.id.clone(), s.spec())).collect()
    }

    /// Measurements of a living agent, by name.
    pub fn measure(&self, id_or_name: &str) -> Result<Vec<Measurement>> {
        let behaviour = self.find(id_or_name)?.behaviour();
        Ok(behaviour.and_then(|b| contained_sync(|| b.measure()).ok()).unwrap_or_default())
    }

    /// Whether this agent's health has to be asked for now.
    pub fn needs_checks(&self, id_or_name: &str) -> bool {
        // One that panics when it is asked is checked, which finds out more.
        let needs = |b: Arc<dyn Behaviour>| contained_sync(|| b.needs_checks()).unwrap_or(true);
        self.find(id_or_name).is_ok_and(|s| s.is_ready() && s.behaviour().is_some_and(needs))
    }

    /// Asks a living agent how well it is, and remembers the answer. One that does not answer within its
    /// deadline is critical.
    pub async fn check(&self, id_or_name: &str) -> Result<Health> {
        let shared = self.find(id_or_name)?;
        let Some(behaviour) = shared.behaviour().filter(|_| shared.is_ready()) else {
            return Ok(shared.state().health);
        };
        let incarnation = shared.state().incarnation;
        let timeout = shared.spec().health.timeout;
        let asked = behaviour.clone();
        let check = async move { asked.health().await };
        let answer = match refuse_hung(&shared) {
            Ok(()) => guarded(&self.kernel(), &shared, &*behaviour, timeout, "a health check", check).await,
            Err(e) => Err(e),
        };
        let health = answer.unwrap_or_else(|e| {
            let message = match e.kind {
                ErrorKind::Timeout => {
                    format!("no answer to a health check within {}", crate::duration::format(timeout))
                }
                _ => e.message,
            };
            Health::of(vec![Issue::critical("health-check", message)])
        });
        shared.tell_cell(Control::Health { incarnation, health: health.clone() });
        Ok(health)
    }

    // ---- acting -------------------------------------------------------------------------------

    pub(super) async fn start_now(&self, id_or_name: &str) -> Result<Value> {
        let shared = self.find(id_or_name)?;
        self.set_desired(&shared, Desired::Running).await?;
        self.ask_cell(&shared, |reply| Control::Start { reply: Some(reply) }).await?;
        Ok(shared.row())
    }

    pub(super) async fn stop_now(&self, id_or_name: &str, how: Stop) -> Result<Value> {
        let shared = self.find(id_or_name)?;
        for child in self.children_of(&shared).iter().rev() {
            if child.is_leaving() {
                drop(child.changing.lock().await); // it ends for good, unless it cannot
            }
            match Box::pin(self.stop_now(&child.id, how)).await {
                Err(e) if e.kind == ErrorKind::NotFound => {}
                stopped => drop(stopped?),
            }
        }
        self.set_desired(&shared, Desired::Stopped).await?;
        let settle = Settle::Stopped("stopped".into());
        self.ask_cell(&shared, |reply| Control::Stop { how, settle, reply: Some(reply) }).await?;
        Ok(shared.row())
    }

    /// Ends an agent that cannot be healed, and keeps it from being started until somebody does.
    pub async fn quarantine(&self, id_or_name: &str, reason: &str) -> Result<()> {
        let shared = self.find(id_or_name)?;
        let settle = Settle::Quarantined(reason.into());
        self.ask_cell(&shared, |reply| Control::Stop {
            how: Stop::Graceful(STOP_DEADLINE),
            settle,
            reply: Some(reply),
        })
        .await
    }

    /// Restarts an agent.
    pub async fn restart(&self, id_or_name: &str, request: RestartRequest) -> Result<Restarted> {
        let shared = self.find(id_or_name)?;
        if request.if_incarnation.is_none() && shared.spec().desired == Desired::Stopped {
            self.set_desired(&shared, Desired::Running).await?;
        }
        self.ask_cell(&shared, |reply| Control::Restart { request, reply }).await
    }

    /// Lets an agent look again whether what runs it is there: one that waits for it starts, one that it has
    /// left waits. For types whose lives depend on somebody who comes and goes.
    pub fn recheck(&self, id_or_name: &str) -> Result<()> {
        self.find(id_or_name)?.tell_cell(Control::Recheck);
        Ok(())
    }

    /// A specification as events and history may show it.
    pub(crate) fn shown(&self, spec: &AgentSpec) -> Value {
        let mut shown = json!(spec);
        self.redact(&spec.kind, &mut shown["config"]);
        shown
    }

    fn redact(&self, kind: &str, config: &mut Value) {
        if let Ok(spec) = self.kernel().types().get(kind) {
            crate::schema::redact(&spec.schema, config);
        }
    }

    /// Sends a message without waiting for an answer. Errors: `queue-full` (counted), `invalid-state`
    /// when the agent is not meant to run.
    pub fn tell(&self, target: &str, message: Message) -> Result<()> {
        self.post(target, message, None, None)
    }

    /// Sends a message and waits for the answer.
    pub async fn ask(&self, target: &str, message: Message, deadline: Duration) -> Result<Value> {
        let clock = self.kernel().clock().clone();
        let by = clock.now() + deadline;
        let (tx, rx) = oneshot::channel();
        self.post(target, message, Some(by), Some(tx))?;
        tokio::select! {
            answer = rx => answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Cancelled, format!("agent `{target}` ended before it answered")))),
            () = clock.sleep_until(by) => Err(Error::new(
                ErrorKind::Timeout,
                format!("agent `{target}` did not answer within {}", crate::duration::format(deadline)),
            )),
        }
    }

    fn post(
        &self,
        target: &str,
        message: Message,
        deadline: Option<Duration>,
        reply: Option<oneshot::Sender<Result<Value>>>,
    ) -> Result<()> {
        use super::Status::{Failed, Quarantined, Stopped};
        let shared = self.find(target)?;
        if let Some(e) = refuse(&message, &shared.id) {
            return Err(e);
        }
        let status = shared.state().status;
        if matches!(status, Stopped | Failed | Quarantined) {
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!("agent `{}` is {}", shared.name(), status.as_str()),
            )
            .hint("start it first"));
        }
        shared.mailbox.push(Envelope { message, deadline, reply }).map(drop).map_err(|e| match e {
            hms_queue::PushError::Full(_) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                Error::new(ErrorKind::QueueFull, format!("the mailbox of agent `{}` is full", shared.name()))
            }
            hms_queue::PushError::Closed(_) => gone(&shared.id),
        })
    }

    // ---- for cells ----------------------------------------------------------------------------

    /// The first dependency of `of` that is not ready.
    pub(super) fn missing_dependency(&self, of: &Shared) -> Option<String> {
        let spec = of.spec();
        let index = self.index();
        spec.depends_on.iter().find(|d| !index.get(d).is_some_and(|s| s.is_ready())).cloned()
    }

    pub(super) fn readiness_changed(&self, of: &Shared) {
        let dependents = self.index().dependents(of);
        dependents.iter().for_each(|d| d.tell_cell(Control::Recheck));
    }

    /// A type came or went: agents of it look again.
    pub(crate) fn types_changed(&self) {
        let all = self.index().all();
        all.iter().for_each(|s| s.tell_cell(Control::Recheck));
    }

    pub(super) fn parent_of(&self, shared: &Shared) -> Option<Arc<Shared>> {
        self.parent_in(&shared.spec())
    }

    pub(super) fn parent_in(&self, spec: &AgentSpec) -> Option<Arc<Shared>> {
        self.index().get(spec.parent.as_ref()?).cloned()
    }

    pub(super) fn children_of(&self, shared: &Shared) -> Vec<Arc<Shared>> {
        self.index().children(shared)
    }

    pub(super) fn strategy_over(&self, spec: &AgentSpec) -> Strategy {
        self.parent_in(spec).map(|p| p.spec().strategy).unwrap_or_default()
    }

    pub(super) fn keep_state(&self, id: &str, kept: &KeptState) {
        let kernel = self.kernel();
        let (key, incarnation, state, now) =
            (id.to_owned(), kept.incarnation, json!(kept), kernel.clock().wall_ms());
        let job = move |db: &_| table::update_state(db, &key, incarnation, &state, now).map(drop);
        if let Err(e) = kernel.store().post_latest(&format!("agent-state/{id}"), job) {
            tracing::error!(agent = id, error = %e, "the state could not be kept");
        }
    }

    pub(crate) fn snapshot_of(&self, id: &str) -> Option<Snapshot> {
        self.inner.snapshots.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn forget_snapshot(&self, id: &str) {
        let had = self.inner.snapshots.lock().unwrap_or_else(PoisonError::into_inner).remove(id).is_some();
        if had {
            let id = id.to_owned();
            if let Err(e) =
                self.kernel().store().post_kept(move |db| table::delete_snapshot(db, &id).map(drop))
            {
                tracing::error!(error = %e, "a snapshot could not be forgotten");
            }
        }
    }

    pub(crate) async fn save_snapshot(&self, id: &str, snapshot: Snapshot) -> Result<()> {
        let kernel = self.kernel();
        let now = kernel.clock().wall_ms();
        self.inner
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.to_owned(), snapshot.clone());
        let id = id.to_owned();
        let row =
            table::SnapshotRow { state_version: snapshot.state_version, data: snapshot.data, time_ms: now };
        kernel.store().write(move |db| table::save_snapshot(db, &id, &row).map(drop)).await
    }

    /// The context of an agent of type `kind`, for a peer that reports about it.
    pub(crate) fn context(&self, id: &str) -> Result<AgentContext> {
        let shared = self.find(id)?;
        let incarnation = shared.state().incarnation;
        Ok(AgentContext::new(self.kernel(), shared, incarnation))
    }

    pub(super) fn find(&self, id_or_name: &str) -> Result<Arc<Shared>> {
        self.index().find(id_or_name)
    }

    pub(super) async fn ask_cell<T>(
        &self,
        shared: &Arc<Shared>,
        make: impl FnOnce(oneshot::Sender<Result<T>>) -> Control,
    ) -> Result<T> {
        let (tx, rx) = oneshot::channel();
        shared.tell_cell(make(tx));
        rx.await.unwrap_or_else(|_| Err(gone(&shared.id)))
    }

    pub(super) fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.inner.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn index_mut(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.inner.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn gone(id: &str) -> Error {
    Error::new(ErrorKind::AgentGone, format!("agent `{id}` was destroyed"))
}

fn read_env(dir: &Path) -> Option<Environment> {
    let text = std::fs::read(dir.join("env.json")).ok()?;
    serde_json::from_slice(&text).ok()
}
