//! What others may see of an agent, and the queues that reach its cell.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hms_queue::{Overflow, Queue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::{
    AgentSpec, Behaviour, ExitReport, Health, Stop,
    message::Envelope,
    runtime::{RestartRequest, Restarted},
};
use crate::{Error, ErrorKind, Result, blocking::Hung, contain::contained_sync, supervision::GroupTracker};

/// Where an agent is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It cannot start yet: a dependency or its type is missing.
    Waiting,
    /// Started, and not ready yet.
    Starting,
    /// It does its work.
    Running,
    /// It runs, and is not healthy.
    Degraded,
    /// It ended and will be started again.
    Restarting,
    /// It is meant not to run, or its job is done.
    #[default]
    Stopped,
    /// It failed, and its policy does not restart it.
    Failed,
    /// It failed too often: nothing starts it but a person or an escalation.
    Quarantined,
}

impl Status {
    /// The word that JSON shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Quarantined => "quarantined",
        }
    }

    /// Whether a behaviour is alive in this state.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Degraded)
    }
}

/// The observable state of an agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AgentState {
    /// Where it is in its life.
    pub status: Status,
    /// Why, where that is not obvious.
    pub reason: Option<String>,
    /// How well it is.
    pub health: Health,
    /// Restarts by supervision and healing since it was created.
    pub restarts: u64,
    /// Its current (or last) life; grows with every start.
    pub incarnation: u64,
    /// Wall-clock milliseconds of the last change of status.
    pub since_ms: u64,
    /// How its last life ended.
    pub last_exit: Option<ExitReport>,
}

/// The part of the state that the store keeps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct KeptState {
    #[serde(default)]
    pub(crate) restarts: u64,
    #[serde(default)]
    pub(crate) incarnation: u64,
    #[serde(default)]
    pub(crate) quarantined: Option<String>,
    #[serde(default)]
    pub(crate) finished: Option<String>,
    #[serde(default)]
    pub(crate) last_exit: Option<ExitReport>,
}

pub(crate) struct Public {
    pub(crate) spec: Arc<AgentSpec>,
    pub(crate) state: AgentState,
    pub(crate) behaviour: Option<Arc<dyn Behaviour>>,
    /// It is being destroyed: its name is taken still, and nothing may come to need it.
    leaving: bool,
    /// While it changes from one specification to another: both, whose references hold until it is settled
    /// which one it has.
    reserved: Vec<Arc<AgentSpec>>,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What a cell is told.
pub(crate) enum Control {
    /// Begin: a first start or, after a host's death, adoption.
    Boot {
        adopt: bool,
        reply: Option<Reply<()>>,
    },
    Start {
        reply: Option<Reply<()>>,
    },
    Stop {
        how: Stop,
        settle: Settle,
        reply: Option<Reply<()>>,
    },
    /// Its group starts it again.
    GroupStart {
        cause: String,
        /// Whether its own count of failures begins anew.
        anew: bool,
        reply: Reply<()>,
    },
    Restart {
        request: RestartRequest,
        reply: Reply<Restarted>,
    },
    Destroy {
        reply: Reply<()>,
    },
    Update {
        spec: Arc<AgentSpec>,
        reply: Reply<()>,
    },
    Exited {
        incarnation: u64,
        exit: ExitReport,
    },
    Ready {
        incarnation: u64,
    },
    Health {
        incarnation: u64,
        health: Health,
    },
    /// A dependency or a type changed: look again.
    Recheck,
    /// No group restarts this life's failure any more: its parent, or what it is the child of, has changed.
    LeftAlone {
        incarnation: u64,
        why: String,
    },
}

/// What an agent is after a stop.
pub(crate) enum Settle {
    Stopped(String),
    Quarantined(String),
    /// A sibling's failure stopped it; its group starts it again.
    ForGroup(String),
}

/// The part of an agent that its cell and others share.
pub(crate) struct Shared {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) env: Option<Arc<BTreeMap<String, String>>>,
    pub(crate) control: Queue<Control>,
    pub(crate) mailbox: Queue<Envelope>,
    public: Mutex<Public>,
    /// As a parent: restarts of its group.
    group: Mutex<GroupTracker>,
    /// As a parent: held while its group is restarted.
    pub(crate) group_lock: tokio::sync::Mutex<()>,
    /// Held while its specification or its being there changes: one change of an agent at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Blocking calls of its behaviours that were given up and have not returned.
    pub(crate) hung: Hung,
    /// Lives that did not end when they were stopped, and were given up.
    pub(crate) abandoned: AtomicU64,
    /// Messages that found the mailbox full.
    pub(crate) refused: AtomicU64,
    /// Messages received, by source; at most [`EDGES`] sources are told apart.
    edges: Mutex<HashMap<String, u64>>,
}

const EDGES: usize = 256;

/// What a behaviour shows of itself; nothing when it panics.
pub(super) fn facts_of(behaviour: &dyn Behaviour) -> Map<String, Value> {
    contained_sync(|| behaviour.facts()).unwrap_or_default()
}

impl Shared {
    pub(crate) fn new(
        id: String,
        dir: PathBuf,
        env: Option<Arc<BTreeMap<String, String>>>,
        spec: Arc<AgentSpec>,
        kept: &KeptState,
        now_ms: u64,
    ) -> Self {
        let state = AgentState {
            // Until its cell has looked at what there is to adopt or to start.
            status: Status::Waiting,
            restarts: kept.restarts,
            incarnation: kept.incarnation,
            last_exit: kept.last_exit.clone(),
            since_ms: now_ms,
            ..AgentState::default()
        };
        Self {
            id,
            dir,
            env,
            control: Queue::new(usize::MAX >> 8, Overflow::Reject),
            mailbox: Queue::new(spec.mailbox, Overflow::Reject),
            public: Mutex::new(Public { spec, state, behaviour: None, leaving: false, reserved: Vec::new() }),
            group: Mutex::default(),
            group_lock: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            hung: Hung::default(),
            abandoned: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            edges: Mutex::default(),
        }
    }

    pub(crate) fn public(&self) -> MutexGuard<'_, Public> {
        self.public.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spec(&self) -> Arc<AgentSpec> {
        self.public().spec.clone()
    }

    pub(crate) fn name(&self) -> String {
        self.public().spec.name.clone()
    }

    pub(crate) fn group(&self) -> MutexGuard<'_, GroupTracker> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it needs, by name or id: dependencies and its parent, of every specification it may have.
    pub(crate) fn needs(&self) -> Vec<String> {
        let public = self.public();
        let specs = std::iter::once(&public.spec).chain(&public.reserved);
        specs.flat_map(|spec| spec.depends_on.iter().chain(&spec.parent)).cloned().collect()
    }

    /// Holds the references of `specs` until the guard goes.
    pub(crate) fn reserve(self: &Arc<Self>, specs: Vec<Arc<AgentSpec>>) -> Reserved {
        self.public().reserved = specs;
        Reserved(self.clone())
    }

    /// Marks the agent as leaving until the guard goes.
    pub(crate) fn leave(self: &Arc<Self>) -> Leaving {
        self.public().leaving = true;
        Leaving(self.clone())
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.public().leaving
    }

    /// An error while the agent is being destroyed.
    pub(crate) fn refuse_leaving(&self) -> Result<()> {
        if !self.is_leaving() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidState, format!("agent `{}` is being destroyed", self.name()))
            .hint("try again when it has gone"))
    }

    pub(crate) fn state(&self) -> AgentState {
        self.public().state.clone()
    }

    pub(crate) fn behaviour(&self) -> Option<Arc<dyn Behaviour>> {
        self.public().behaviour.clone()
    }

    pub(crate) fn tell_cell(&self, control: Control) {
        // Refused only when the cell has ended, and then nobody waits for an answer that is not dropped.
        let _ = self.control.push(control);
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.public().state.status, Status::Running | Status::Degraded)
    }

    pub(crate) fn count_edge(&self, source: &str) {
        let mut edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        let known = edges.len() < EDGES || edges.contains_key(source);
        *edges.entry(if known { source.to_owned() } else { "*".into() }).or_default() += 1;
    }

    pub(crate) fn edges(&self) -> HashMap<String, u64> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The agent as one row of `agent list`.
    pub(crate) fn row(&self) -> Value {
        let (spec, state, behaviour, leaving) = {
            let public = self.public();
            (public.spec.clone(), public.state.clone(), public.behaviour.clone(), public.leaving)
        };
        let mut row = Map::new();
        row.insert("id".into(), self.id.clone().into());
        row.insert("name".into(), spec.name.clone().into());
        row.insert("type".into(), spec.kind.clone().into());
        row.insert("status".into(), state.status.as_str().into());
        row.insert("health".into(), state.health.status.as_str().into());
        row.insert("restarts".into(), state.restarts.into());
        row.insert("since_ms".into(), state.since_ms.into());
        if let Some(reason) = &state.reason {
            row.insert("reason".into(), reason.clone().into());
        }
        if leaving {
            row.insert("leaving".into(), true.into());
        }
        if let Some(behaviour) = behaviour {
            row.append(&mut facts_of(&*behaviour));
        }
        Value::Object(row)
    }

    /// The agent as `agent status` shows it.
    pub(crate) fn detail(&self) -> Value {
        let mut row = self.row();
        let (spec, state, behaviour) = {
            let public = self.public();
            (public.spec.clone(), public.state.clone(), public.behaviour.clone())
        };
        let details = behaviour.and_then(|b| contained_sync(|| b.details()).ok()).unwrap_or_default();
        for (key, value) in details {
            row[key] = value;
        }
        row["issues"] = json!(state.health.issues);
        row["incarnation"] = state.incarnation.into();
        row["last_exit"] = json!(state.last_exit);
        row["depends_on"] = json!(spec.depends_on);
        row["parent"] = json!(spec.parent);
        row["labels"] = json!(spec.labels);
        row["desired"] = json!(spec.desired);
        row["restart"] = json!(spec.restart);
        row["config"] = spec.config.clone();
        let (abandoned, hung) = (self.abandoned.load(Ordering::Relaxed), self.hung.count());
        if abandoned > 0 {
            row["abandoned"] = abandoned.into();
        }
        if hung > 0 {
            row["hung_calls"] = hung.into();
        }
        row["messages"] = json!({"waiting": self.mailbox.len(), "refused": self.refused.load(Ordering::Relaxed), "from": self.edges()});
        row
    }
}

/// An agent that is being destroyed, until this goes.
pub(crate) struct Leaving(Arc<Shared>);

impl Leaving {
    pub(crate) fn agent(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.public().leaving = false;
    }
}

/// References that hold until this goes.
pub(crate) struct Reserved(Arc<Shared>);

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.public().reserved.clear();
    }
}
