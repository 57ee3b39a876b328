//! What the tasks, commands and the service of this organ share.
//!
//! Each lock in here is a leaf: none is held across an await, a publish or another lock.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use crate::{alerts::Alerts, checks::Log, config::Settings, metrics::Metrics, system::Standing};

/// Rounds of samples that may wait to be judged; then the sampler waits.
const ROUNDS: usize = 16;

/// A sample that a rule is about.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    /// The agent's id.
    pub(crate) id: String,
    /// The metric.
    pub(crate) metric: Arc<str>,
    /// How much.
    pub(crate) value: f64,
}

/// The state of the organ.
pub(crate) struct Shared {
    /// The settings in force; replaced when the configuration changes.
    pub(crate) settings: watch::Sender<Arc<Settings>>,
    /// What the checks told.
    pub(crate) checks: Log,
    /// The metrics.
    pub(crate) metrics: Metrics,
    /// The alerts.
    pub(crate) alerts: Alerts,
    standing: Mutex<Standing>,
    samples: mpsc::Sender<Vec<Observation>>,
    judge: Mutex<Option<mpsc::Receiver<Vec<Observation>>>>,
}

impl Default for Shared {
    fn default() -> Self {
        let (samples, judge) = mpsc::channel(ROUNDS);
        Self {
            settings: watch::Sender::new(Arc::new(Settings::default())),
            checks: Log::default(),
            metrics: Metrics::default(),
            alerts: Alerts::default(),
            standing: Mutex::default(),
            samples,
            judge: Mutex::new(Some(judge)),
        }
    }
}

impl Shared {
    /// Hands samples to whoever judges them. After the end nobody does, and nobody minds.
    pub(crate) async fn observe(&self, samples: Vec<Observation>) {
        let _ = self.samples.send(samples).await;
    }

    /// Where samples arrive: for the one task that judges them.
    pub(crate) fn take_judge(&self) -> Option<mpsc::Receiver<Vec<Observation>>> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The health of the system as it was last announced.
    pub(crate) fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces it; the one before.
    pub(crate) fn stand(&self, standing: Standing) -> Standing {
        std::mem::replace(&mut self.standing.lock().unwrap_or_else(PoisonError::into_inner), standing)
    }
}

/// Tells a task when to end.
#[derive(Debug, Clone)]
pub(crate) struct Stopped(watch::Receiver<bool>);

impl Stopped {
    /// The switch, and what tells that it was switched (or dropped).
    pub(crate) fn switch() -> (watch::Sender<bool>, Self) {
        let (tx, rx) = watch::channel(false);
        (tx, Self(rx))
    }

    /// Completes when the task shall end.
    pub(crate) async fn wait(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
