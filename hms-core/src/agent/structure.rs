//! The structure: which agents there are, what they are called and who needs whom; and what changes it.
//!
//! Checks and changes of the structure are one step, under one lock that is held for nothing else: not while an
//! agent starts or stops, and not while anything foreign runs. What takes its time is announced under the lock
//! and done without it: an agent that is being destroyed is *leaving* (its name stays taken, and nothing can
//! come to need it), one that is being updated needs what it needed before and what it shall need, until it is
//! settled which of the two it is. The changes of one agent take turns (`Shared::changing`).
//!
//! Lock order: `Shared::changing` of one agent → `Structure::lock` → `Agents::index` → `Shared::public`.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    AgentSpec, Agents, Create, Desired, Stop,
    cell::{HANDLER_LIMIT, guarded},
    runtime::{Environment, gone},
    shared::{Control, KeptState, Leaving, Settle, Shared},
};
use crate::{Error, ErrorKind, Kernel, Result, event::EventDraft, store::agents as table};

/// Guards the set of agents.
#[derive(Default)]
pub(super) struct Structure {
    lock: tokio::sync::Mutex<()>,
    /// No agent is created, changed or destroyed any more.
    ending: AtomicBool,
}

/// What a creation found.
enum Claimed {
    New(Arc<Shared>),
    There(Arc<Shared>),
}

impl Agents {
    pub(super) async fn create_now(&self, mut spec: AgentSpec, how: Create) -> Result<Value> {
        self.refuse_when_ending()?;
        let kernel = self.kernel();
        if spec.name.is_empty() {
            spec.name = format!("{}-{}", spec.kind, kernel.rng().token(4));
        }
        spec.validate()?;
        kernel.types().check(&spec.kind, &mut spec.config)?;
        drop(kernel.types().create(&spec.kind, &spec.config)?);
        let shared = loop {
            match self.claim(&kernel, &spec, &how).await? {
                Claimed::New(shared) => break shared,
                Claimed::There(there) => match self.change(&there, spec.clone()).await {
                    // Destroyed between the two steps: the name is free.
                    Err(_) if self.index().get(&there.id).is_none() => {}
                    changed => return changed,
                },
            }
        };
        let (tx, rx) = oneshot::channel();
        shared.tell_cell(Control::Boot { adopt: false, reply: Some(tx) });
        let started = rx.await.unwrap_or_else(|_| Err(gone(&shared.id)));
        if let (Err(e), true) = (started, how.must_start) {
            let _turn = shared.changing.lock().await;
            // Somebody may have built on it meanwhile, or destroyed it: then it is not ours to undo.
            if let Ok(leaving) = self.announce_leaving(&shared).await {
                self.remove(leaving).await?;
            }
            return Err(e);
        }
        Ok(shared.row())
    }

    /// Takes the name for a new agent, which is durable then and not yet started.
    async fn claim(&self, kernel: &Kernel, spec: &AgentSpec, how: &Create) -> Result<Claimed> {
        let _structure = self.structure().lock.lock().await;
        self.refuse_when_ending()?;
        let there = {
            let index = self.index();
            index.check_references(spec)?;
            index.get(&spec.name).cloned()
        };
        match there {
            None => Ok(Claimed::New(self.insert(kernel, spec.clone(), how).await?)),
            Some(there) => {
                there.refuse_leaving()?;
                if how.ensure {
                    return Ok(Claimed::There(there));
                }
                Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("there is already an agent `{}`", spec.name),
                )
                .hint("choose another name, or destroy it first"))
            }
        }
    }

    async fn insert(&self, kernel: &Kernel, spec: AgentSpec, how: &Create) -> Result<Arc<Shared>> {
        let id = format!("{}{}", kernel.rng().token(4), kernel.rng().token(6));
        let dir = prepare_dir(kernel, &id, how.env.as_ref())?;
        let spec = Arc::new(spec);
        let kept = KeptState { restarts: how.restarts, ..KeptState::default() };
        let now = kernel.clock().wall_ms();
        let row = table::AgentRow {
            id: id.clone(),
            name: spec.name.clone(),
            spec: json!(*spec),
            desired: spec.desired.as_str().into(),
            incarnation: 0,
            state: json!(kept),
            created_ms: now,
            updated_ms: now,
        };
        if let Err(e) = kernel.store().write(move |db| table::insert(db, &row)).await {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(e);
        }
        let shared = self.spawn_cell(kernel, id, dir, how.env.clone(), spec.clone(), kept);
        let data = json!({"agent": spec.name, "id": shared.id, "type": spec.kind, "spec": self.shown(&spec)});
        kernel.publish(EventDraft::json("agent.created", data).subject(&shared.id).source("/agents"));
        Ok(shared)
    }

    pub(super) async fn update_now(&self, id_or_name: &str, spec: AgentSpec) -> Result<Value> {
        let shared = self.find(id_or_name)?;
        self.change(&shared, spec).await
    }

    async fn change(&self, shared: &Arc<Shared>, mut spec: AgentSpec) -> Result<Value> {
        shared.refuse_leaving()?;
        let _turn = shared.changing.lock().await;
        self.find(&shared.id)?;
        let kernel = self.kernel();
        spec.name = shared.name();
        spec.validate()?;
        kernel.types().check(&spec.kind, &mut spec.config)?;
        self.index().check_references(&spec)?;
        if *shared.spec() == spec {
            return Ok(shared.row());
        }
        let behaviour = kernel.types().create(&spec.kind, &spec.config)?;
        let (asked, cx) = (behaviour.clone(), self.context(&shared.id)?);
        let checked = async move { asked.check(&cx).await };
        guarded(&kernel, shared, &*behaviour, HANDLER_LIMIT, "its check", checked).await??;
        let (old, new) = (shared.spec(), Arc::new(spec));
        let _reserved = {
            let _structure = self.structure().lock.lock().await;
            self.refuse_when_ending()?;
            self.index().check_references(&new)?;
            shared.reserve(vec![old.clone(), new.clone()])
        };
        self.store_spec(&kernel, &shared.id, &new).await?;
        let updated = self.ask_cell(shared, |reply| Control::Update { spec: new, reply }).await;
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
        let shared = self.find(id_or_name)?;
        shared.refuse_leaving()?;
        let _turn = shared.changing.lock().await;
        let leaving = self.announce_leaving(&shared).await?;
        let row = shared.row();
        self.remove(leaving).await?;
        Ok(row)
    }

    /// From now on nothing can come to need it, and its name stays taken until it has gone.
    async fn announce_leaving(&self, shared: &Arc<Shared>) -> Result<Leaving> {
        let _structure = self.structure().lock.lock().await;
        self.refuse_when_ending()?;
        let index = self.index();
        index.find(&shared.id)?;
        if let Some(needs) = index.who_needs(shared) {
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!("agent `{}` needs `{}`", needs.name(), shared.name()),
            )
            .hint(format!("destroy `{}` first", needs.name())));
        }
        Ok(shared.leave())
    }

    /// Ends an agent and forgets it. What cannot be ended is not forgotten, and leaves no more.
    async fn remove(&self, leaving: Leaving) -> Result<()> {
        let (kernel, shared) = (self.kernel(), leaving.agent());
        match self.ask_cell(shared, |reply| Control::Destroy { reply }).await {
            // Its cell came to an end before, by a defect or in an earlier attempt that the store refused. In a
            // system that ends, its cell may have let go of what runs.
            Err(e) if e.kind == ErrorKind::AgentGone => self.refuse_when_ending()?,
            ended => ended?,
        }
        let id = shared.id.clone();
        kernel.store().write(move |db| table::delete(db, &id)).await?;
        self.forget_snapshot(&shared.id);
        self.leave_group(shared, &shared.spec());
        self.index_mut().remove(&shared.id);
        let _ = std::fs::remove_dir_all(&shared.dir);
        let data = json!({"agent": shared.name(), "id": shared.id});
        kernel.publish(EventDraft::json("agent.destroyed", data).subject(&shared.id).source("/agents"));
        Ok(())
    }

    fn refuse_when_ending(&self) -> Result<()> {
        if self.structure().ending.load(Ordering::Acquire) {
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

    /// Whether it shall run, durably. One that is leaving does as it was told.
    pub(super) async fn set_desired(&self, shared: &Arc<Shared>, desired: Desired) -> Result<()> {
        shared.refuse_leaving()?;
        let _turn = shared.changing.lock().await;
        self.find(&shared.id)?;
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

    /// Ends all agents: dependents first, each group side by side. With `Stop::Detach` they go on for the
    /// next host to adopt.
    pub async fn shutdown(&self, how: Stop) {
        let order = {
            let _structure = self.structure().lock.lock().await;
            self.structure().ending.store(true, Ordering::Release);
            self.index().stop_order()
        };
        for group in &order {
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
        // Changes that had begun meet ended cells; what they still write must find the store open.
        for shared in order.iter().flatten() {
            drop(shared.changing.lock().await);
        }
    }
}

fn prepare_dir(kernel: &Kernel, id: &str, env: Option<&Environment>) -> Result<PathBuf> {
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
