//! Agents: what they are meant to be ([`AgentSpec`]), what they do ([`Behaviour`]), and the runtime that
//! keeps the two together ([`Agents`]).
//!
//! Each agent is owned by one *cell*, a task that is the only one to start, stop or restart it: the cell
//! is the agent's action lock. Others talk to a cell through its control queue (bounded by the number of
//! callers, who wait for answers) and its mailbox (bounded, full means refused and counted).
//!
//! Lock order: `Agents::index` → `Shared::public`; neither is held across an await, a publish or any
//! call of a behaviour. The asynchronous locks over the structure and over one agent's changes come before
//! them (`structure.rs`).

mod behaviour;
mod cell;
mod change;
mod context;
mod group;
mod health;
mod index;
mod message;
mod runtime;
mod shared;
mod spec;
mod structure;
mod types;

pub use behaviour::{
    Adoption, AgentTypeSpec, Behaviour, BehaviourFactory, ExitReport, Measurement, Snapshot, Started, Stop,
    Tunable,
};
pub use cell::STOP_DEADLINE;
pub use context::AgentContext;
pub use health::{Health, HealthStatus, Issue};
pub use message::Message;
pub use runtime::{Agents, Create, RestartRequest, Restarted};
pub use shared::{AgentState, Status};
pub use spec::{AgentSpec, Desired, HealthCheck, common_schema};
pub use types::AgentTypes;
