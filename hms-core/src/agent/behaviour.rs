//! What an agent does: the trait behind every agent type, in whatever language it is written.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AgentContext, Health, Message};
use crate::{Error, ErrorKind, Result};

/// A parameter that may be tuned: its place, type and range. Declared now, tuned by evolution later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tunable {
    /// `component.parameter`.
    pub name: String,
    /// Lowest value.
    pub min: f64,
    /// Highest value.
    pub max: f64,
    /// Whether only whole numbers make sense.
    #[serde(default)]
    pub integer: bool,
    /// What it changes.
    #[serde(default)]
    pub summary: String,
}

/// A measurement: its name, and how much.
pub type Measurement = (Cow<'static, str>, f64);

/// What an agent type is, without its factory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentTypeSpec {
    /// The type's name: `process`.
    pub name: String,
    /// Its version; two providers of one type must offer the same.
    pub version: semver::Version,
    /// One line.
    #[serde(default)]
    pub summary: String,
    /// JSON Schema of the configuration.
    pub schema: Value,
    /// The version of its snapshots.
    #[serde(default)]
    pub state_version: u32,
    /// What may be tuned.
    #[serde(default)]
    pub tunables: Vec<Tunable>,
}

/// How an agent came to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Whether the type's own rules call it success.
    pub clean: bool,
    /// For people: `exit code 3`, `killed by SIGKILL`.
    pub reason: String,
    /// Of a process: its exit code, where the kernel tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Of a process: the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

impl ExitReport {
    /// A failure that is not a process's exit.
    pub fn failure(reason: impl Into<String>) -> Self {
        Self { clean: false, reason: reason.into(), code: None, signal: None }
    }
}

impl fmt::Display for ExitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// The state of an agent, to be restored in another life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The type's `state_version` when it was taken.
    pub state_version: u32,
    /// The state, as the type writes it.
    pub data: Vec<u8>,
}

/// Whether an agent that started does its work already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It does.
    Ready,
    /// It will call [`AgentContext::ready`] when it does.
    Pending,
}

/// What the last host left of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adoption {
    /// It still runs as this incarnation, and is watched again.
    Adopted {
        /// The incarnation it runs as.
        incarnation: u64,
        /// Whether it does its work already.
        started: Started,
    },
    /// It ran, and ended while nobody watched.
    Ended {
        /// The last incarnation that is known.
        incarnation: u64,
        /// How it ended, as far as the kernel still tells.
        exit: ExitReport,
    },
    /// It did not run.
    Absent,
}

/// Why and how an agent is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ask it to end, and force it at the deadline.
    Graceful(Duration),
    /// End it now.
    Kill,
    /// Let go of it: what runs goes on for the next host to adopt.
    Detach,
}

/// The behaviour of one agent. One instance a life: a restart makes a new one.
///
/// The cell that owns an agent calls `start` (or `adopt`) first and `stop` last; `handle` is never
/// called twice at a time. `health`, `facts` and `stop` may be called while `handle` runs. A panic in any
/// of them is this agent's failure, and so is a call that does not return by its deadline.
#[async_trait]
pub trait Behaviour: Send + Sync {
    /// Begins. What happens later (ready, an exit, health) is told through `cx`.
    async fn start(&self, cx: &AgentContext) -> Result<Started>;

    /// Whether it could start, found out before a running life is ended for it.
    async fn check(&self, _cx: &AgentContext) -> Result<()> {
        Ok(())
    }

    /// Takes over what the last host left.
    async fn adopt(&self, _cx: &AgentContext) -> Result<Adoption> {
        Ok(Adoption::Absent)
    }

    /// Answers a message; the answer to a tell is dropped.
    async fn handle(&self, _cx: &AgentContext, _message: Message) -> Result<Value> {
        Err(Error::new(ErrorKind::NotSupported, "this agent takes no messages"))
    }

    /// Finds out how well it is.
    async fn health(&self) -> Health {
        Health::healthy()
    }

    /// Whether `health` has to be asked: false when every change is told through the context.
    fn needs_checks(&self) -> bool {
        false
    }

    /// Whether its calls may block the thread they are made on: sleep, lock, wait, compute for long. True makes
    /// each asynchronous call of this behaviour on a thread of its own; false (for what only awaits) costs
    /// nothing, and a call that blocks all the same holds up other agents. Code in another language that is
    /// called in this process blocks unless it is known not to. The others (`facts`, `measure`, …) never may.
    ///
    /// A thread that never returns cannot be ended: the call is given up at its deadline, and an agent of which
    /// several hang is quarantined.
    fn blocks(&self) -> bool {
        false
    }

    /// Whether what runs it is still there. False once the peer that does has gone: the agent then waits for
    /// another provider of its type.
    fn is_attached(&self) -> bool {
        true
    }

    /// What the status shows beside the common fields (for a process: `pid`). Cheap; never blocks.
    fn facts(&self) -> Map<String, Value> {
        Map::new()
    }

    /// What only the status of this one agent shows, after `facts`: what is too long for a list or an event.
    /// Never blocks.
    fn details(&self) -> Map<String, Value> {
        Map::new()
    }

    /// Measurements by name, such as `cpuUsage`. Cheap enough for every few seconds.
    fn measure(&self) -> Vec<Measurement> {
        Vec::new()
    }

    /// Ends. Returns when nothing of it is left (unless detached).
    async fn stop(&self, _how: Stop) -> Result<()> {
        Ok(())
    }

    /// How long it may take to end by itself when it is asked to, where its configuration says so. A `stop` that
    /// takes much longer than this, or than the time it is given if that is more, is abandoned.
    fn grace(&self) -> Option<Duration> {
        None
    }

    /// Its state, for the next life.
    async fn snapshot(&self) -> Option<Snapshot> {
        None
    }

    /// Takes over the state of an earlier life, before `start`.
    async fn restore(&self, _snapshot: Snapshot) -> Result<()> {
        Ok(())
    }

    /// Forgets kept state and files; the agent is not running.
    async fn reset(&self, _cx: &AgentContext) -> Result<()> {
        Ok(())
    }
}

/// Makes behaviours of one type.
pub trait BehaviourFactory: Send + Sync {
    /// A behaviour with this (validated) configuration.
    fn create(&self, config: &Value) -> Result<Arc<dyn Behaviour>>;
}

impl<F> BehaviourFactory for F
where
    F: Fn(&Value) -> Result<Arc<dyn Behaviour>> + Send + Sync,
{
    fn create(&self, config: &Value) -> Result<Arc<dyn Behaviour>> {
        self(config)
    }
}
