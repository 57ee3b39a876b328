//! The alerts that are: a state machine of (rule, agent), pure and driven by whoever holds the clock.
//!
//! ```text
//!            holds                 held for `for`
//!   (none) ─────────▶ pending ─────────────────▶ firing
//!                        │ clear                   │ clear
//!                        ▼                         ▼
//!                     resolved (never fired)    resolved
//! ```

use std::collections::BTreeMap;

use hms_core::clock::Mono;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rule::{Rule, Severity, Verdict};

/// Where an alert is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AlertState {
    /// The condition holds, for long enough.
    Firing,
    /// The condition holds, not for long enough yet.
    Pending,
    /// The condition does not hold any more.
    Resolved,
}

/// An alert, as commands, events and the store show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Alert {
    /// Its number.
    pub(crate) alert: u64,
    /// The rule.
    pub(crate) rule: String,
    /// Where it is in its life.
    pub(crate) state: AlertState,
    /// How much it matters.
    pub(crate) severity: Severity,
    /// The agent's name.
    pub(crate) agent: String,
    /// The agent's id.
    pub(crate) id: String,
    /// The condition in words.
    pub(crate) condition: String,
    /// What was last seen: a metric's value, a health or a status.
    pub(crate) value: Value,
    /// Since when the condition holds, in milliseconds since the Unix epoch.
    pub(crate) since_ms: u64,
    /// When it began to fire.
    pub(crate) fired_ms: Option<u64>,
    /// When it was resolved.
    pub(crate) resolved_ms: Option<u64>,
}

/// One moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// For intervals.
    pub(crate) mono: Mono,
    /// For people.
    pub(crate) wall_ms: u64,
}

/// The agent that is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
}

#[derive(Debug)]
struct Open {
    alert: Alert,
    /// When a pending one may fire.
    due: Mono,
    /// Whether the condition held when it was last judged.
    holds: bool,
}

impl Open {
    fn fire(&mut self, now: Now) -> Alert {
        self.alert.state = AlertState::Firing;
        self.alert.fired_ms = Some(now.wall_ms);
        self.alert.clone()
    }

    fn waits(&self) -> bool {
        self.alert.state == AlertState::Pending && self.holds
    }
}

/// The open alerts.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// By agent, so that an agent's end is found without a walk.
    open: BTreeMap<(String, String), Open>,
    next: u64,
}

impl Book {
    /// Takes over what was firing when the last host ended; `next` is the first free number.
    pub(crate) fn restore(&mut self, firing: Vec<Alert>, next: u64) {
        self.next = next;
        for alert in firing {
            let key = (alert.id.clone(), alert.rule.clone());
            self.open.insert(key, Open { alert, due: Mono::ZERO, holds: false });
        }
    }

    /// Takes a judgement into account; the alert when its state changed.
    pub(crate) fn observe(
        &mut self,
        now: Now,
        rule: &Rule,
        who: Who<'_>,
        verdict: Verdict,
        value: Value,
    ) -> Option<Alert> {
        let key = (who.id.to_owned(), rule.name.clone());
        match (self.open.get_mut(&key), verdict) {
            (None, Verdict::Clear | Verdict::Unknown) => None,
            (None, Verdict::Holds) => {
                let alert = self.opened(now, rule, who, value);
                let mut open = Open { alert, due: now.mono + rule.lasting, holds: true };
                let shown = if rule.lasting.is_zero() { open.fire(now) } else { open.alert.clone() };
                self.open.insert(key, open);
                Some(shown)
            }
            (Some(open), Verdict::Unknown) => {
                open.holds = false;
                None
            }
            (Some(open), Verdict::Holds) => {
                open.holds = true;
                open.alert.value = value;
                (open.waits() && open.due <= now.mono).then(|| open.fire(now))
            }
            (Some(_), Verdict::Clear) => {
                let mut open = self.open.remove(&key)?;
                open.alert.value = value;
                Some(resolved(now, open))
            }
        }
    }

    fn opened(&mut self, now: Now, rule: &Rule, who: Who<'_>, value: Value) -> Alert {
        self.next += 1;
        Alert {
            alert: self.next - 1,
            rule: rule.name.clone(),
            state: AlertState::Pending,
            severity: rule.severity,
            agent: who.name.into(),
            id: who.id.into(),
            condition: rule.condition(),
            value,
            since_ms: now.wall_ms,
            fired_ms: None,
            resolved_ms: None,
        }
    }

    /// Fires what has been pending for long enough.
    pub(crate) fn tick(&mut self, now: Now) -> Vec<Alert> {
        self.open.values_mut().filter(|o| o.waits() && o.due <= now.mono).map(|o| o.fire(now)).collect()
    }

    /// When the next pending one may fire.
    pub(crate) fn next_due(&self) -> Option<Mono> {
        self.open.values().filter(|o| o.waits()).map(|o| o.due).min()
    }

    /// Resolves all alerts for which `keep` is false: their agent or their rule is gone.
    pub(crate) fn retain(&mut self, now: Now, keep: impl Fn(&Alert) -> bool) -> Vec<Alert> {
        let gone: Vec<_> =
            self.open.iter().filter(|(_, o)| !keep(&o.alert)).map(|(key, _)| key.clone()).collect();
        gone.iter().filter_map(|key| self.open.remove(key)).map(|open| resolved(now, open)).collect()
    }

    /// The open alerts: firing ones first, the worst and then the newest first.
    pub(crate) fn list(&self) -> Vec<Alert> {
        let mut all: Vec<Alert> = self.open.values().map(|o| o.alert.clone()).collect();
        all.sort_by(|a, b| {
            a.state
                .cmp(&b.state)
                .then(b.severity.cmp(&a.severity))
                .then(b.since_ms.cmp(&a.since_ms))
                .then(b.alert.cmp(&a.alert))
        });
        all
    }
}

fn resolved(now: Now, mut open: Open) -> Alert {
    open.alert.state = AlertState::Resolved;
    open.alert.resolved_ms = Some(now.wall_ms);
    open.alert
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hms_core::agent::HealthStatus;
    use proptest::prelude::*;
    use serde_json::json;

    use super::{super::rule::When, *};

    const WHO: Who<'_> = Who { id: "7f3k", name: "web" };

    fn rule(seconds: u64) -> Rule {
        Rule {
            name: "ill".into(),
            agent: "*".into(),
            when: When::Health { at_least: HealthStatus::Critical, but_quarantined: false },
            lasting: Duration::from_secs(seconds),
            severity: Severity::Critical,
        }
    }

    fn at(seconds: u64) -> Now {
        Now { mono: Duration::from_secs(seconds), wall_ms: 1_000 + seconds * 1_000 }
    }

    fn observe(book: &mut Book, seconds: u64, lasting: u64, verdict: Verdict) -> Option<Alert> {
        book.observe(at(seconds), &rule(lasting), WHO, verdict, json!("critical"))
    }

    #[test]
    fn an_alert_lives_from_pending_to_firing_to_resolved() {
        let mut book = Book::default();
        let pending = observe(&mut book, 0, 10, Verdict::Holds).unwrap();
        assert_eq!((pending.state, pending.fired_ms), (AlertState::Pending, None));
        assert_eq!(book.next_due(), Some(Duration::from_secs(10)));
        assert!(book.tick(at(9)).is_empty());
        assert_eq!(observe(&mut book, 9, 10, Verdict::Holds), None, "told once");
        let firing = book.tick(at(10)).pop().unwrap();
        assert_eq!(
            (firing.state, firing.fired_ms, firing.since_ms),
            (AlertState::Firing, Some(11_000), 1_000)
        );
        assert_eq!(book.next_due(), None);
        assert!(book.tick(at(11)).is_empty(), "fires once");
        let resolved = observe(&mut book, 12, 10, Verdict::Clear).unwrap();
        assert_eq!((resolved.state, resolved.resolved_ms), (AlertState::Resolved, Some(13_000)));
        assert!(book.list().is_empty());
    }

    #[test]
    fn what_clears_in_time_never_fires() {
        let mut book = Book::default();
        observe(&mut book, 0, 10, Verdict::Holds).unwrap();
        let cleared = observe(&mut book, 5, 10, Verdict::Clear).unwrap();
        assert_eq!((cleared.state, cleared.fired_ms), (AlertState::Resolved, None));
        assert!(book.tick(at(60)).is_empty());
        let again = observe(&mut book, 61, 10, Verdict::Holds).unwrap();
        assert_eq!(
            (again.since_ms, again.alert),
            (62_000, cleared.alert + 1),
            "another alert, its time begins anew"
        );
    }

    #[test]
    fn while_nobody_knows_nothing_changes() {
        let mut book = Book::default();
        observe(&mut book, 0, 10, Verdict::Holds).unwrap();
        assert_eq!(observe(&mut book, 5, 10, Verdict::Unknown), None);
        assert_eq!((book.next_due(), book.tick(at(20)).len()), (None, 0), "it does not fire on a guess");
        let firing = observe(&mut book, 21, 10, Verdict::Holds).unwrap();
        assert_eq!(firing.state, AlertState::Firing, "it never was well in between");
        assert_eq!(observe(&mut book, 22, 10, Verdict::Unknown), None);
        assert_eq!(book.list().len(), 1, "and is not resolved on a guess");
    }

    #[test]
    fn a_rule_without_for_fires_at_once_and_what_is_gone_is_resolved() {
        let mut book = Book::default();
        assert_eq!(observe(&mut book, 0, 0, Verdict::Holds).unwrap().state, AlertState::Firing);
        assert!(book.retain(at(1), |alert| alert.id == WHO.id).is_empty());
        assert_eq!(book.retain(at(1), |_| false)[0].state, AlertState::Resolved);
    }

    #[test]
    fn a_restored_alert_goes_on_firing_and_numbers_go_on() {
        let mut book = Book::default();
        let firing = observe(&mut book, 0, 0, Verdict::Holds).unwrap();
        let mut next = Book::default();
        next.restore(vec![firing.clone()], 7);
        assert_eq!(next.list(), [firing]);
        assert_eq!(observe(&mut next, 1, 0, Verdict::Unknown), None);
        assert_eq!(observe(&mut next, 2, 0, Verdict::Holds), None, "not announced twice");
        assert_eq!(observe(&mut next, 3, 0, Verdict::Clear).unwrap().state, AlertState::Resolved);
        assert_eq!(observe(&mut next, 4, 0, Verdict::Holds).unwrap().alert, 7);
    }

    proptest! {
        /// Whatever is seen: each alert is told in the order pending, firing, resolved, each at most once,
        /// and none fires before its time.
        #[test]
        fn states_are_told_in_order(steps in prop::collection::vec((0u64..8, 0u8..4), 1..80), lasting in 0u64..12) {
            let mut book = Book::default();
            let (mut clock, mut told) = (0, BTreeMap::<u64, Vec<Alert>>::new());
            for (pause, what) in steps {
                clock += pause;
                let verdict = match what {
                    0 => Verdict::Clear,
                    1 => Verdict::Unknown,
                    _ => Verdict::Holds,
                };
                let mut changed = if what == 3 { book.tick(at(clock)) } else { Vec::new() };
                changed.extend(observe(&mut book, clock, lasting, verdict));
                changed.into_iter().for_each(|a| told.entry(a.alert).or_default().push(a));
            }
            for states in told.values() {
                let rank = |a: &Alert| match a.state { AlertState::Pending => 0, AlertState::Firing => 1, AlertState::Resolved => 2 };
                prop_assert!(states.windows(2).all(|w| rank(&w[0]) < rank(&w[1])));
                for fired in states.iter().filter_map(|a| a.fired_ms.map(|at| at - a.since_ms)) {
                    prop_assert!(fired >= lasting * 1_000);
                }
            }
        }
    }
}
