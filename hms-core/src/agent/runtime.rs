//! The agent runtime: creation, lookup, messages, restarts and the orderly end of all agents.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    AgentContext, AgentSpec, AgentState, Behaviour, Desired, Health, Issue, Message, Snapshot, Stop,
    cell::{Cell, STOP_DEADLINE, refuse},
    index::Index,
    message::Envelope,
    shared::{Control, KeptState, Settle, Shared},
};
use crate::{
    Error, ErrorKind, Kernel, Result,
    contain::{contained, contained_sync},
    event::EventDraft,
    kernel::Inner,
    store::agents as table,
    supervision::Strategy,
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
    /// No agent is created any more.
    ending: AtomicBool,
    /// Held while the set of agents changes, so that checks and changes are one step.
    structure: tokio::sync::Mutex<()>,
    snapshots: Mutex<HashMap<String, Snapshot>>,
    /// Environments in use: agents created from one shell share theirs.
    envs: Mutex<Vec<Weak<Environment>>>,
}

type Environment = BTreeMap<String, String>;

impl Agents {
    pub(crate) fn new(kernel: Weak<Inner>) -> Self {
        Self { kernel, inner: Arc::default() }
    }

    pub(super) fn kernel(&self) -> Kernel {
        // Cells and callers hold a kernel, so it lives as long as anything here runs.
        Kernel::from_weak(&self.kernel).expect("the kernel outlives its agents")
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.kernel().spawn(future);
    }

    // ---- the set of agents --------------------------------------------------------------------

    pub(super) async fn create_now(&self, mut spec: AgentSpec, how: Create) -> Result<Value> {
        let structure = self.inner.structure.lock().await;
        self.refuse_when_ending()?;
        let kernel = self.kernel();
        if spec.name.is_empty() {
            spec.name = format!("{}-{}", spec.kind, kernel.rng().token(4));
        }
        spec.validate()?;
        kernel.types().check(&spec.kind, &mut spec.config)?;
        drop(kernel.types().create(&spec.kind, &spec.config)?);
        let there = {
            let index = self.index();
            index.check_references(&spec)?;
            index.get(&spec.name).cloned()
        };
        if let Some(there) = there {
            if !how.ensure {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("there is already an agent `{}`", spec.name),
                )
                .hint("choose another name, or destroy it first"));
            }
            return self.update_locked(&there, spec).await;
        }
        let shared = self.insert(&kernel, spec, &how).await?;
        // What takes its time to start must not keep others from being created.
        drop(structure);
        let (tx, rx) = oneshot::channel();
        shared.tell_cell(Control::Boot { adopt: false, reply: Some(tx) });
        let started = rx.await.unwrap_or_else(|_| Err(gone(&shared.id)));
        if let (Err(e), true) = (started, how.must_start) {
            let _structure = self.inner.structure.lock().await;
            let needed = {
                let index = self.index();
                !index.dependents(&shared).is_empty() || !index.children(&shared).is_empty()
            };
            // Somebody may have built on it meanwhile, or destroyed it: then it is not ours to undo.
            if !needed && self.index().get(&shared.id).is_some() {
                self.destroy_locked(&shared).await?;
            }
            return Err(e);
        }
        Ok(shared.row())
    }

    async fn insert(&self, kernel: &Kernel, spec: AgentSpec, how: &Create) -> Result<Arc<Shared>> {
        let id = format!("{}{}", kernel.rng().token(4), kernel.rng().token(6));
        let dir = self.prepare_dir(kernel, &id, how.env.as_ref())?;
        let spec = Arc::new(spec);
        let now = kernel.clock().wall_ms();
        let row = table::AgentRow {
            id: id.clone(),
            name: spec.name.clone(),
            spec: json!(*spec),
            desired: spec.desired.as_str().into(),
            incarnation: 0,
            state: json!(KeptState::default()),
            created_ms: now,
            updated_ms: now,
        };
        if let Err(e) = kernel.store().write(move |db| table::insert(db, &row)).await {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(e);
        }
        let shared = self.spawn_cell(kernel, id, dir, how.env.clone(), spec.clone(), KeptState::default());
        let data = json!({"agent": spec.name, "id": shared.id, "type": spec.kind, "spec": self.shown(&spec)});
        kernel.publish(EventDraft::json("agent.created", data).subject(&shared.id).source("/agents"));
        Ok(shared)
    }

    fn prepare_dir(
        &self,
        kernel: &Kernel,
        id: &str,
        env: Option<&BTreeMap<String, String>>,
    ) -> Result<PathBuf> {
        let dir = kernel.dirs().agents.join(id);
        hms_os::files::create_private_dir(&dir).map_err(|e| Error::io(dir.display(), &e))?;
        if let Some(env) = env {
            let path = dir.join("env.json");
            hms_os::files::write_private(&path, json!(env).to_string().as_bytes()).map_err(|e| {
                let _ = std::fs::remove_dir_all(&dir);
                Error::io(path.display(), &e)
            })?;
        }
        Ok(dir)
    }

    fn spawn_cell(
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
            let spec = match AgentSpec::from_json(row.spec) {
                Ok(spec) => Arc::new(spec),
                Err(e) => {
                    tracing::error!(agent = %row.id, error = %e, "the stored specification is not readable; the agent is left alone");
                    continue;
                }
            };
            let kept: KeptState = serde_json::from_value(row.state).unwrap_or_default();
            let dir = kernel.dirs().agents.join(&row.id);
            hms_os::files::create_private_dir(&dir).map_err(|e| Error::io(dir.display(), &e))?;
            let env = read_env(&dir);
            cells.push(self.spawn_cell(&kernel, row.id, dir, env, spec, kept));
        }
        // All are in the index before the first one looks for its dependencies.
        for cell in &cells {
            cell.tell_cell(Control::Boot { adopt: true, reply: None });
        }
        Ok(cells.len())
    }

    pub(super) async fn update_now(&self, id_or_name: &str, spec: AgentSpec) -> Result<Value> {
        let _structure = self.inner.structure.lock().await;
        let shared = self.find(id_or_name)?;
        self.update_locked(&shared, spec).await
    }

    async fn update_locked(&self, shared: &Arc<Shared>, mut spec: AgentSpec) -> Result<Value> {
        let kernel = self.kernel();
        spec.name = shared.name();
        spec.validate()?;
        kernel.types().check(&spec.kind, &mut spec.config)?;
        self.index().check_references(&spec)?;
        if *shared.spec() == spec {
            return Ok(shared.row());
        }
        let behaviour = kernel.types().create(&spec.kind, &spec.config)?;
        contained(behaviour.check(&self.context(&shared.id)?)).await??;
        let old = shared.spec();
        self.store_spec(&kernel, &shared.id, &spec).await?;
        let updated = self.ask_cell(shared, |reply| Control::Update { spec: Arc::new(spec), reply }).await;
        if let Err(e) = updated {
            // What it was is better than nothing: an error changes nothing that lasts.
            self.store_spec(&kernel, &shared.id, &old).await?;
            let restored = self.ask_cell(shared, |reply| Control::Update { spec: old, reply }).await;
            return Err(match restored {
                Ok(()) => e,
                Err(again) => e.hint(format!("going back to what it was failed too: {}", again.message)),
            });
        }
        Ok(shared.row())
    }

    pub(super) async fn destroy_now(&self, id_or_name: &str) -> Result<Value> {
        let _structure = self.inner.structure.lock().await;
        let shared = self.find(id_or_name)?;
        let name = shared.name();
        let (dependents, children) = {
            let index = self.index();
            (index.dependents(&shared), index.children(&shared))
        };
        if let Some(needs) = dependents.first().or(children.first()) {
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!("agent `{}` needs `{name}`", needs.name()),
            )
            .hint(format!("destroy `{}` first", needs.name())));
        }
        let row = shared.row();
        self.destroy_locked(&shared).await?;
        Ok(row)
    }

    async fn destroy_locked(&self, shared: &Arc<Shared>) -> Result<()> {
        let kernel = self.kernel();
        self.ask_cell(shared, |reply| Control::Destroy { reply }).await?;
        let id = shared.id.clone();
        kernel.store().write(move |db| table::delete(db, &id)).await?;
        self.forget_snapshot(&shared.id);
        self.index_mut().remove(&shared.id);
        let _ = std::fs::remove_dir_all(&shared.dir);
        let data = json!({"agent": shared.name(), "id": shared.id});
        kernel.publish(EventDraft::json("agent.destroyed", data).subject(&shared.id).source("/agents"));
        Ok(())
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
    pub fn measure(&self, id_or_name: &str) -> Result<Vec<(&'static str, f64)>> {
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
        let clock = self.kernel().clock().clone();
        let health = tokio::select! {
            health = contained(behaviour.health()) => health.unwrap_or_else(|e| {
                Health::of(vec![Issue::critical("health-check", e.message)])
            }),
            () = clock.sleep_until(clock.now() + timeout) => Health::of(vec![Issue::critical(
                "health-check",
                format!("no answer to a health check within {}", crate::duration::format(timeout)),
            )]),
        };
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
            Box::pin(self.stop_now(&child.id, how)).await?;
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

    fn refuse_when_ending(&self) -> Result<()> {
        if self.inner.ending.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::HostUnavailable, "the system is ending")
                .hint("try again: the next one takes over"));
        }
        Ok(())
    }

    async fn store_spec(&self, kernel: &Kernel, id: &str, spec: &AgentSpec) -> Result<()> {
        let (id, json, desired, now) =
            (id.to_owned(), json!(spec), spec.desired.as_str(), kernel.clock().wall_ms());
        kernel.store().write(move |db| table::update_spec(db, &id, &json, desired, now).map(drop)).await
    }

    async fn set_desired(&self, shared: &Arc<Shared>, desired: Desired) -> Result<()> {
        let _structure = self.inner.structure.lock().await;
        let mut spec = (*shared.spec()).clone();
        if spec.desired == desired {
            return Ok(());
        }
        spec.desired = desired;
        let kernel = self.kernel();
        self.store_spec(&kernel, &shared.id, &spec).await?;
        shared.public().spec = Arc::new(spec);
        Ok(())
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

    /// Ends all agents: dependents first, each group side by side. With `Stop::Detach` they go on for the
    /// next host to adopt.
    pub async fn shutdown(&self, how: Stop) {
        let _structure = self.inner.structure.lock().await;
        self.inner.ending.store(true, Ordering::Release);
        let order = self.index().stop_order();
        for group in order {
            let mut waiting = Vec::with_capacity(group.len());
            for shared in group {
                let (tx, rx) = oneshot::channel();
                shared.tell_cell(Control::Stop {
                    how,
                    settle: Settle::Stopped("the system stopped".into()),
                    reply: Some(tx),
                });
                shared.control.close();
                waiting.push(rx);
            }
            for rx in waiting {
                let _ = rx.await;
            }
        }
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
        let parent = shared.spec().parent.clone()?;
        self.index().get(&parent).cloned()
    }

    pub(super) fn children_of(&self, shared: &Shared) -> Vec<Arc<Shared>> {
        self.index().children(shared)
    }

    pub(super) fn strategy_over(&self, spec: &AgentSpec) -> Strategy {
        let Some(parent) = &spec.parent else { return Strategy::OneForOne };
        self.index().get(parent).map(|p| p.spec().strategy).unwrap_or_default()
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

    fn find(&self, id_or_name: &str) -> Result<Arc<Shared>> {
        self.index().find(id_or_name)
    }

    async fn ask_cell<T>(
        &self,
        shared: &Arc<Shared>,
        make: impl FnOnce(oneshot::Sender<Result<T>>) -> Control,
    ) -> Result<T> {
        let (tx, rx) = oneshot::channel();
        shared.tell_cell(make(tx));
        rx.await.unwrap_or_else(|_| Err(gone(&shared.id)))
    }

    fn index(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.inner.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.inner.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(id: &str) -> Error {
    Error::new(ErrorKind::AgentGone, format!("agent `{id}` was destroyed"))
}

fn read_env(dir: &Path) -> Option<Environment> {
    let text = std::fs::read(dir.join("env.json")).ok()?;
    serde_json::from_slice(&text).ok()
}
