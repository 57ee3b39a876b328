//! What a wrapper and a host tell each other, as it goes over the wire.
//!
//! A report is mostly *level*: where the server is now and how often things happened so far, so that a report
//! that is lost heals with the next one. Only exits, samples of latency and lines of output are told once.

use hms_core::agent::ExitReport;
use serde::{Deserialize, Serialize};

/// Where the server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Nothing runs, and nobody needs it yet.
    #[default]
    Idle,
    /// It runs, and cannot be called yet.
    Starting,
    /// It can be called.
    Up,
    /// It ended; the wrapper starts it again.
    Down,
    /// It was stopped by an order.
    Stopped,
    /// The wrapper could not keep it alive and does not try just now.
    GaveUp,
}

impl Phase {
    /// The word that the status shows.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Stopped => "stopped",
            Self::GaveUp => "gave-up",
        }
    }
}

/// The server now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub(crate) struct Server {
    /// Where it is.
    pub(crate) phase: Phase,
    /// Which life; 0 before the first.
    pub(crate) life: u64,
    /// Its process, while there is one.
    pub(crate) pid: Option<i32>,
    /// Why it is not up, where there is something to say.
    pub(crate) reason: Option<String>,
    /// The last life that was closed because nobody needed it: the next one is no restart.
    #[serde(default)]
    pub(crate) closed: u64,
    /// How long the last start took until it could be called, in milliseconds.
    pub(crate) start_ms: Option<f64>,
}

/// A life that ended without being told to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Which life.
    pub(crate) life: u64,
    /// How.
    pub(crate) exit: ExitReport,
}

/// The calls of one tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub(crate) struct ToolCalls {
    /// The tool.
    pub(crate) tool: String,
    /// Answered so far, well or not.
    pub(crate) calls: u64,
    /// Of these, those that failed.
    pub(crate) errors: u64,
    /// How long the newest ones took, in microseconds, oldest first; told once.
    #[serde(default)]
    pub(crate) took_us: Vec<u32>,
}

/// How often things happened since the wrapper began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub(crate) struct Counts {
    /// The server was replaced because it hung.
    pub(crate) hangs: u64,
    /// It was replaced because it used too much memory.
    pub(crate) memory_over: u64,
    /// A call was told that the session is gone.
    pub(crate) lost_sessions: u64,
    /// A tool was refused because it ends its server.
    pub(crate) refused: u64,
    /// The list of tools changed.
    pub(crate) tools_changed: u64,
    /// Facts that nobody took in time.
    pub(crate) facts_lost: u64,
    /// Lines of output that were not kept.
    pub(crate) lines_lost: u64,
}

/// What a wrapper reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub(crate) struct Report {
    /// The server now.
    pub(crate) server: Server,
    /// Lives that ended since the last acknowledged report, oldest first.
    #[serde(default)]
    pub(crate) exits: Vec<Exit>,
    /// The tools that were called since the last report; in the first one all of them.
    #[serde(default)]
    pub(crate) tools: Vec<ToolCalls>,
    /// Counts.
    pub(crate) counts: Counts,
    /// In words, what the last hang or excess of memory was.
    #[serde(default)]
    pub(crate) last_trouble: Option<String>,
    /// Lines that the server wrote to its standard error since the last report.
    #[serde(default)]
    pub(crate) stderr: Vec<String>,
    /// The number of the last order that was carried out.
    #[serde(default)]
    pub(crate) done: u64,
    /// The wrapper has no use for this server any more.
    #[serde(default)]
    pub(crate) closed: bool,
}

/// What a host orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// End the server's tree. Calls wait a moment for a start that may follow, then they are refused.
    Stop {
        /// At once, without asking it.
        kill: bool,
    },
    /// Start it.
    Start,
}

/// An item of the stream of `mcp attach`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Item {
    /// The first one: the server is this agent now.
    Attached {
        /// Its name.
        agent: String,
    },
    /// An order.
    Order {
        /// Its number, for [`Report::done`].
        number: u64,
        /// What to do.
        order: Order,
    },
}
