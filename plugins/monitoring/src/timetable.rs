//! Which check is due when: a queue of times, pure, with at most one running check an agent.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use hms_core::clock::Mono;

#[derive(Debug, Clone, Copy)]
enum Turn {
    /// Waits for its time.
    Due(Mono),
    /// Runs; and shall run again by then, should somebody have asked for it meanwhile.
    Running { again: Option<Mono> },
}

#[derive(Debug)]
struct Entry {
    turn: Turn,
    /// When the last check began.
    began: Option<Mono>,
}

/// The times of all checks.
#[derive(Debug, Default)]
pub(crate) struct Timetable {
    entries: HashMap<Arc<str>, Entry>,
    due: BTreeSet<(Mono, Arc<str>)>,
}

impl Timetable {
    /// A check of `agent` is due at `at`, unless one is due earlier. While one runs, it is the next.
    pub(crate) fn request(&mut self, agent: &str, at: Mono) {
        let Some((id, entry)) = self.entries.get_key_value(agent) else {
            let id: Arc<str> = agent.into();
            self.due.insert((at, id.clone()));
            self.entries.insert(id, Entry { turn: Turn::Due(at), began: None });
            return;
        };
        match entry.turn {
            Turn::Due(before) if before <= at => {}
            Turn::Due(_) => self.move_to(&id.clone(), at),
            Turn::Running { again } => {
                let again = Some(again.map_or(at, |before| before.min(at)));
                self.set(agent, Turn::Running { again });
            }
        }
    }

    /// A check of `agent` that waits is due `interval` after the last one began, but not before `now`; one
    /// that never ran, after `interval` at the latest.
    pub(crate) fn replan(&mut self, agent: &str, now: Mono, interval: Duration) {
        let Some((id, entry)) = self.entries.get_key_value(agent) else { return };
        let Turn::Due(before) = entry.turn else { return };
        let at = match entry.began {
            Some(began) => (began + interval).max(now),
            None => before.min(now + interval),
        };
        self.move_to(&id.clone(), at);
    }

    fn move_to(&mut self, id: &Arc<str>, at: Mono) {
        if let Some(Entry { turn: Turn::Due(before), .. }) = self.entries.get(id) {
            self.due.remove(&(*before, id.clone()));
        }
        self.due.insert((at, id.clone()));
        self.set(id, Turn::Due(at));
    }

    fn set(&mut self, agent: &str, turn: Turn) {
        if let Some(entry) = self.entries.get_mut(agent) {
            entry.turn = turn;
        }
    }

    /// The next check that is due at `now`; it runs from here on.
    pub(crate) fn begin(&mut self, now: Mono) -> Option<Arc<str>> {
        let (at, _) = self.due.first()?;
        if *at > now {
            return None;
        }
        let (_, id) = self.due.pop_first()?;
        let entry = self.entries.get_mut(&id)?;
        entry.turn = Turn::Running { again: None };
        entry.began = Some(now);
        Some(id)
    }

    /// The running check of `agent` ended. The next one is due `interval` after it began, or when somebody
    /// asked for one meanwhile, but not before `now`; without an interval there is no next one.
    pub(crate) fn end(&mut self, agent: &str, now: Mono, interval: Option<Duration>) {
        let Some((id, entry)) = self.entries.get_key_value(agent) else { return };
        let Turn::Running { again } = entry.turn else { return };
        let (id, began) = (id.clone(), entry.began.unwrap_or(now));
        match interval {
            None => {
                self.entries.remove(agent);
            }
            Some(interval) => {
                let regular = began + interval;
                let at = again.map_or(regular, |again| again.min(regular)).max(now);
                self.due.insert((at, id));
                self.set(agent, Turn::Due(at));
            }
        }
    }

    /// Forgets a check that waits. One that runs is forgotten by its end.
    pub(crate) fn cancel(&mut self, agent: &str) {
        if let Some(Entry { turn: Turn::Due(at), .. }) = self.entries.get(agent) {
            self.due.remove(&(*at, agent.into()));
            self.entries.remove(agent);
        }
    }

    /// When the next check is due.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Whom it knows.
    pub(crate) fn agents(&self) -> Vec<Arc<str>> {
        self.entries.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn checks_are_regular_and_not_early() {
        let mut table = Timetable::default();
        table.request("a", s(1));
        table.request("a", s(5));
        assert_eq!((table.next(), table.begin(s(0))), (Some(s(1)), None));
        assert_eq!(table.begin(s(2)).as_deref(), Some("a"));
        assert_eq!((table.next(), table.begin(s(99))), (None, None), "never twice at a time");
        table.end("a", s(3), Some(s(30)));
        assert_eq!(table.next(), Some(s(32)), "counted from the beginning of the last");
        table.begin(s(32)).unwrap();
        table.end("a", s(90), Some(s(30)));
        assert_eq!(table.next(), Some(s(90)), "one that took too long is followed at once");
    }

    #[test]
    fn a_request_during_a_check_is_not_lost() {
        let mut table = Timetable::default();
        table.request("a", s(0));
        table.begin(s(0)).unwrap();
        table.request("a", s(2));
        table.end("a", s(1), Some(s(30)));
        assert_eq!(table.next(), Some(s(2)));
    }

    #[test]
    fn plans_follow_the_interval() {
        let mut table = Timetable::default();
        table.request("a", s(0));
        table.begin(s(0)).unwrap();
        table.end("a", s(0), Some(s(30)));
        table.replan("a", s(4), s(10));
        assert_eq!(table.next(), Some(s(10)));
        table.replan("a", s(5), s(60));
        assert_eq!(table.next(), Some(s(60)));
        table.replan("a", s(20), s(10));
        assert_eq!(table.next(), Some(s(20)), "overdue means now");
        table.cancel("a");
        assert_eq!((table.next(), table.agents().len()), (None, 0));
    }

    proptest! {
        /// Whatever happens: no agent runs twice, the queue and the entries agree, none is forgotten.
        #[test]
        fn the_table_is_sound(steps in prop::collection::vec((0u8..5, 0u8..4, 0u64..20), 1..200)) {
            let (mut table, mut running, mut now) = (Timetable::default(), HashSet::<Arc<str>>::new(), s(0));
            for (what, who, time) in steps {
                let agent = format!("agent-{who}");
                match what {
                    0 => table.request(&agent, now + s(time)),
                    1 => {
                        now += s(time);
                        if let Some(id) = table.begin(now) {
                            prop_assert!(running.insert(id), "it runs already");
                        }
                    }
                    2 => {
                        if running.remove(agent.as_str()) {
                            table.end(&agent, now, (time > 5).then(|| s(time)));
                        }
                    }
                    3 => table.replan(&agent, now, s(time)),
                    _ => table.cancel(&agent),
                }
                let waiting = table.entries.values().filter(|e| matches!(e.turn, Turn::Due(_))).count();
                prop_assert_eq!(waiting, table.due.len());
                prop_assert_eq!(table.entries.len() - waiting, running.len());
            }
        }
    }
}
