//! Alerts: conditions on health, status and metrics that somebody wants to know of.
//!
//! `rule.rs` says what a condition is, `book.rs` which alerts there are, `history.rs` how they are kept.
//! This file joins them: what changes in the book is published and, once it has fired, stored.

mod book;
mod history;
mod rule;

use std::sync::{Mutex, MutexGuard, PoisonError};

use hms_core::{
    Kernel, Result,
    agent::{HealthStatus, Status},
    clock::Mono,
    event::EventDraft,
};
use serde_json::json;

use self::book::{Book, Now};
pub(crate) use self::{
    book::{Alert, AlertState, Who},
    history::SQL,
    rule::{Rule, When},
};

/// The alerts of a system. One task changes them; any may look.
#[derive(Debug, Default)]
pub(crate) struct Alerts {
    book: Mutex<Book>,
}

impl Alerts {
    /// Takes over what was firing when the last host ended.
    pub(crate) async fn restore(&self, kernel: &Kernel) -> Result<()> {
        let (firing, next) = kernel.store().read(history::load).await?;
        self.book().restore(firing, next);
        Ok(())
    }

    /// Judges an agent by its state.
    pub(crate) fn state(
        &self,
        kernel: &Kernel,
        rules: &[Rule],
        who: Who<'_>,
        status: Status,
        health: HealthStatus,
    ) {
        for rule in rules.iter().filter(|rule| rule.is_about(who.name, who.id)) {
            let Some(verdict) = rule.judge_state(status, health) else { continue };
            let value = match rule.when {
                When::Health { .. } => health.as_str().into(),
                When::Status(_) | When::Metric { .. } => status.as_str().into(),
            };
            let changed = self.book().observe(now(kernel), rule, who, verdict, value);
            self.tell(kernel, changed);
        }
    }

    /// Judges an agent by a sample of one of its metrics.
    pub(crate) fn sample(&self, kernel: &Kernel, rules: &[Rule], who: Who<'_>, metric: &str, value: f64) {
        for rule in rules.iter().filter(|rule| rule.is_about(who.name, who.id)) {
            let Some(verdict) = rule.judge_sample(metric, value) else { continue };
            let changed = self.book().observe(now(kernel), rule, who, verdict, value.into());
            self.tell(kernel, changed);
        }
    }

    /// Fires what has been pending for long enough.
    pub(crate) fn tick(&self, kernel: &Kernel) {
        let fired = self.book().tick(now(kernel));
        self.tell(kernel, fired);
    }

    /// When [`Alerts::tick`] has something to do.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.book().next_due()
    }

    /// Resolves the alerts that `keep` does not want.
    pub(crate) fn retain(&self, kernel: &Kernel, keep: impl Fn(&Alert) -> bool) {
        let gone = self.book().retain(now(kernel), keep);
        self.tell(kernel, gone);
    }

    /// The open alerts: firing ones first.
    pub(crate) fn open(&self) -> Vec<Alert> {
        self.book().list()
    }

    /// The newest resolved alerts, newest first; of one agent's id when given.
    pub(crate) async fn resolved(
        &self,
        kernel: &Kernel,
        agent: Option<String>,
        limit: usize,
    ) -> Result<Vec<Alert>> {
        // What was posted a moment ago belongs to the answer; a disk that fails does not take the rest away.
        let _ = kernel.store().flush().await;
        kernel.store().read(move |c| history::resolved(c, agent.as_deref(), limit)).await
    }

    /// Keeps what fires or has fired, and publishes what changed: in this order, so that who hears of it
    /// and asks finds it.
    fn tell(&self, kernel: &Kernel, changed: impl IntoIterator<Item = Alert>) {
        for alert in changed {
            if alert.fired_ms.is_some() {
                let record = alert.clone();
                if let Err(e) = kernel.store().post_kept(move |c| history::save(c, &record)) {
                    tracing::warn!(alert = alert.alert, error = %e, "an alert could not be kept");
                }
            }
            let kind = match alert.state {
                AlertState::Pending => "alert.pending",
                AlertState::Firing => "alert.firing",
                AlertState::Resolved => "alert.resolved",
            };
            let draft = EventDraft::json(kind, json!(alert)).subject(&alert.id).source("/monitoring/alerts");
            kernel.publish(draft);
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now(kernel: &Kernel) -> Now {
    Now { mono: kernel.clock().now(), wall_ms: kernel.clock().wall_ms() }
}
