//! Health: how well an agent is, and why not.

use serde::{Deserialize, Serialize};

/// How well a thing is. Ordered from best to worst, so that the worst of several is their `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// It does its work.
    Healthy,
    /// Nobody knows: not started, just starting, or nobody there to ask.
    #[default]
    Unknown,
    /// It works, but not as it should.
    Degraded,
    /// It does not do its work.
    Critical,
}

impl HealthStatus {
    /// The word that JSON shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unknown => "unknown",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// For programs: `liveness`, `memory-limit`, `exited`, `dependency`.
    pub code: String,
    /// For people.
    pub message: String,
    /// How bad it is alone.
    pub severity: HealthStatus,
}

impl Issue {
    /// A critical issue.
    pub fn critical(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), severity: HealthStatus::Critical }
    }

    /// A degrading issue.
    pub fn degraded(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), severity: HealthStatus::Degraded }
    }
}

/// An agent's health: the worst of its issues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Why, when it is not healthy.
    #[serde(default)]
    pub issues: Vec<Issue>,
}

impl Health {
    /// All is well.
    pub fn healthy() -> Self {
        Self { status: HealthStatus::Healthy, issues: Vec::new() }
    }

    /// Nobody knows.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// As bad as the worst of `issues`; healthy without any.
    pub fn of(issues: Vec<Issue>) -> Self {
        let status = issues.iter().map(|i| i.severity).max().unwrap_or(HealthStatus::Healthy);
        Self { status, issues }
    }
}
