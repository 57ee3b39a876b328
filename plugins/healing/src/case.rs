//! A case: an open incident together with what was observed of its agent since, and who waits for news.

use std::sync::{Mutex, PoisonError};

use hms_core::{agent::HealthStatus, clock::Mono};
use tokio::sync::watch;

use crate::{config::Settings, incident::Incident};

/// What may be tried in a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Names of strategies, in order.
    pub(crate) ladder: Vec<String>,
    /// Whether somebody is told when all of them failed; else the outcome is `failed`.
    pub(crate) escalates: bool,
    /// Whether a person asked: then an agent in quarantine is taken out of it.
    pub(crate) asked: bool,
}

/// What was seen of the agent since the case was opened. Counts and last values only, so that a storm costs
/// nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Times it ended.
    pub(crate) exits: u64,
    /// The last life that ended.
    pub(crate) ended: Option<u64>,
    /// The alert that opened the case, while it fires.
    pub(crate) alert: Option<String>,
    /// Why there is nothing to heal any more.
    pub(crate) over: Option<String>,
}

pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) agent_id: String,
    pub(crate) settings: Settings,
    /// From this health on it counts as ill.
    pub(crate) level: HealthStatus,
    pub(crate) plan: Plan,
    /// Ids of the agents it depends on.
    pub(crate) depends_on: Vec<String>,
    incident: watch::Sender<Incident>,
    observed: watch::Sender<Observed>,
    /// When its counts were last handed to the store.
    saved: Mutex<Mono>,
}

impl Case {
    pub(crate) fn new(
        incident: Incident,
        settings: Settings,
        level: HealthStatus,
        plan: Plan,
        depends_on: Vec<String>,
        observed: Observed,
        now: Mono,
    ) -> Self {
        Self {
            id: incident.id.clone(),
            agent_id: incident.agent_id.clone(),
            settings,
            level,
            plan,
            depends_on,
            incident: watch::Sender::new(incident),
            observed: watch::Sender::new(observed),
            saved: Mutex::new(now),
        }
    }

    /// The incident as it is now.
    pub(crate) fn incident(&self) -> Incident {
        self.incident.borrow().clone()
    }

    /// Looks at the incident.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Incident) -> T) -> T {
        look(&self.incident.borrow())
    }

    /// Changes the incident.
    pub(crate) fn edit(&self, change: impl FnOnce(&mut Incident)) {
        self.incident.send_modify(change);
    }

    /// For who waits for changes of the incident.
    pub(crate) fn follow(&self) -> watch::Receiver<Incident> {
        self.incident.subscribe()
    }

    /// Tells what was observed.
    pub(crate) fn observe(&self, change: impl FnOnce(&mut Observed)) {
        self.observed.send_modify(change);
    }

    /// For who waits for observations.
    pub(crate) fn watch(&self) -> watch::Receiver<Observed> {
        self.observed.subscribe()
    }

    /// What was observed so far.
    pub(crate) fn observed(&self) -> Observed {
        self.observed.borrow().clone()
    }

    /// Whether counts that changed are due to be stored again at `now`; if so, they count as stored.
    pub(crate) fn is_save_due(&self, now: Mono) -> bool {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.saturating_sub(*saved).as_secs() >= 1;
        if due {
            *saved = now;
        }
        due
    }
}
