//! The organ that watches: health checks, the health of the system, metrics, and alerts.
//!
//! Three tasks, however many agents there are: the scheduler of checks (`checks.rs`), the watcher that
//! hears events and judges rules (`watcher.rs`), and the sampler of metrics (`metrics/sampler.rs`). What
//! they know is in `state.rs`; commands and the service `hms.metrics` read it there. It acts on nothing:
//! it publishes `system.health.changed` and `alert.*`, and healing acts on those.
//!
//! Events it publishes: `system.health.changed` {status, previous, since_ms, counts} and `alert.pending`,
//! `alert.firing`, `alert.resolved`, each with the whole alert {alert, rule, state, severity, agent, id,
//! condition, value, since_ms, fired_ms, resolved_ms}. An alert that clears before it fired is told as
//! resolved with `fired_ms` null, and is not kept.
#![forbid(unsafe_code)]

mod alerts;
mod checks;
mod commands;
mod config;
mod metrics;
mod state;
mod system;
mod timetable;
mod watcher;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use hms_core::{
    Error, Kernel, Result,
    plugin::{Manifest, Plugin, Registrar},
    store::Migration,
};
use tokio::sync::{mpsc, watch};

use self::{
    config::Settings,
    metrics::{Metrics, MetricsService},
    state::{Shared, Stopped},
};

/// The plugin `hms.monitoring`. One instance a system.
#[derive(Default)]
pub struct Monitoring {
    shared: Arc<Shared>,
    tasks: Mutex<Option<Tasks>>,
}

/// The running tasks: what ends them, and what tells that they have ended.
struct Tasks {
    stop: watch::Sender<bool>,
    ended: mpsc::Receiver<()>,
}

impl Monitoring {
    /// The plugin, to be registered with a kernel.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn spawn(kernel: &Kernel, running: &mpsc::Sender<()>, task: impl Future<Output = ()> + Send + 'static) {
        let running = running.clone();
        kernel.spawn(async move {
            task.await;
            drop(running);
        });
    }
}

#[async_trait]
impl Plugin for Monitoring {
    fn manifest(&self) -> Manifest {
        Manifest {
            id: "hms.monitoring",
            name: "Monitoring",
            version: env!("CARGO_PKG_VERSION"),
            migrations: vec![
                Migration { component: "monitoring", version: 1, sql: metrics::SQL },
                Migration { component: "monitoring", version: 2, sql: alerts::SQL },
            ],
            sections: vec![config::section()],
            ..Manifest::default()
        }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        commands::register(to, &self.shared)?;
        to.service(metrics::spec(), Arc::new(MetricsService::new(to.kernel().clone(), self.shared.clone())))
    }

    async fn initialize(&self, kernel: &Kernel) -> Result<()> {
        let settings = Settings::read(kernel)?;
        self.shared.settings.send_replace(Arc::new(settings));
        self.shared.alerts.restore(kernel).await?;
        Metrics::sweep(kernel);
        let samples =
            self.shared.take_judge().ok_or_else(|| Error::internal("monitoring is initialised already"))?;

        let (stop, stopped) = Stopped::switch();
        let (running, ended) = mpsc::channel(1);
        let (k, s) = (kernel, &self.shared);
        Self::spawn(k, &running, watcher::watch(k, s)?.run(samples, stopped.clone()));
        let events = checks::subscribe(k)?;
        Self::spawn(k, &running, checks::run(k.clone(), s.clone(), events, stopped.clone()));
        Self::spawn(k, &running, metrics::run(k.clone(), s.clone(), k.clock().now(), stopped));
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tasks { stop, ended });
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Tasks { stop, mut ended }) = tasks {
            stop.send_replace(true);
            // Nobody sends: the channel closes when the last task has ended.
            let _ = ended.recv().await;
        }
        Ok(())
    }
}
