//! Verification: whether an agent is well again, and stays so over a window.
//!
//! A pure state machine: facts and times go in, what to do next comes out. Who drives it (`healer.rs`) reads
//! the agent's state, runs the checks it asks for and sleeps until it wants to be asked again.
//!
//! An agent is verified when it is ready and well by `ready_timeout` and then stays so for `verify_window`
//! without an exit, the last look being an active check where the agent has one. Until `ready_timeout` it may
//! fall ill and recover: one that takes its time to start is not to be restarted for that. An exit is
//! supervision's business: it begins the verification again. While supervision restarts the agent, or it waits
//! for a dependency or its type, the clock of readiness stands still (and other, generous bounds hold).

use std::time::Duration;

use hms_core::{agent::Status, clock::Mono, duration};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// To be ready and well, once started.
    pub ready: Duration,
    /// To stay well.
    pub window: Duration,
    /// For supervision to restart it.
    pub supervision: Duration,
    /// To be waiting for something else.
    pub waiting: Duration,
    /// Between two checks.
    pub check_every: Duration,
    /// Exits that are too many; zero: no limit.
    pub max_exits: u32,
}

/// What is known of the agent now.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Where it is in its life.
    pub status: Status,
    /// Why, or what ails it.
    pub reason: String,
    /// Which life.
    pub incarnation: u64,
    /// Whether its health is good enough, and nothing it was healed for is still going on.
    pub well: bool,
    /// Whether it has an active check.
    pub checkable: bool,
    /// Exits since the incident was opened.
    pub exits: u64,
    /// The last life that is known to have ended.
    pub ended: Option<u64>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    /// Run a health check, and tell [`Verification::checked`].
    Check,
    /// Ask again at this time, or when something happens.
    Wait(Mono),
    /// It is over.
    Done(Verdict),
}

/// The end of a verification.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It is well. The number of exits that this takes into account.
    Verified {
        /// See [`Facts::exits`].
        exits: u64,
    },
    /// It is not; why.
    Failed(String),
    /// Somebody took it out of service; why.
    Quarantined(String),
    /// There is nothing to verify: it waits for something else, or does not run; which.
    Parked(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A life ended and supervision has not begun the next one.
    Supervised,
    /// It waits for something else.
    Waiting,
    /// It does not run, and nobody said why.
    Stopped,
    /// It is starting, or not well yet.
    Recovering,
    /// It is well.
    Well,
}

/// A verification under way.
#[derive(Debug)]
pub(crate) struct Verification {
    limits: Limits,
    stage: Option<Stage>,
    /// Since when it is in this stage.
    since: Mono,
    /// By when it has to be ready and well, in this life.
    ready_by: Option<Mono>,
    exits: u64,
    /// Exits during this verification.
    failures: u64,
    incarnation: u64,
    checked: Option<Mono>,
    /// What a check found wrong in the window.
    complaint: Option<String>,
}

impl Verification {
    /// Begins now, with these facts.
    pub(crate) fn new(limits: Limits, facts: &Facts) -> Self {
        Self {
            limits,
            stage: None,
            since: Mono::ZERO,
            ready_by: None,
            exits: facts.exits,
            failures: 0,
            incarnation: facts.incarnation,
            checked: None,
            complaint: None,
        }
    }

    /// What to do at `now`, given `facts`.
    pub(crate) fn step(&mut self, now: Mono, facts: &Facts) -> Next {
        match facts.status {
            Status::Quarantined => return Next::Done(Verdict::Quarantined(facts.reason.clone())),
            Status::Failed => return Next::Done(Verdict::Failed(facts.reason.clone())),
            _ => {}
        }
        if let Some(verdict) = self.count_exits(facts) {
            return Next::Done(verdict);
        }
        let stage = stage(facts);
        let alive = matches!(stage, Stage::Recovering | Stage::Well);
        let ready_by = alive.then(|| self.ready_by.unwrap_or_else(|| now.saturating_add(self.limits.ready)));
        self.ready_by = ready_by;
        let late = ready_by.is_some_and(|by| now >= by);
        let was_well = self.stage == Some(Stage::Well);
        let complaint = self.complaint.take().filter(|_| was_well);
        if late && was_well && (stage == Stage::Recovering || complaint.is_some()) {
            let why = complaint.unwrap_or_else(|| facts.reason.clone());
            return Next::Done(Verdict::Failed(format!("it did not stay well: {why}")));
        }
        if self.stage != Some(stage) || complaint.is_some() {
            (self.stage, self.since, self.checked) = (Some(stage), now, None);
        }
        if stage == Stage::Well { self.in_window(now, facts) } else { self.out_of_window(stage, now, facts) }
    }

    /// A check was done at `now`; `complaint` says what was wrong.
    pub(crate) fn checked(&mut self, now: Mono, complaint: Option<String>) {
        self.checked = Some(now);
        if self.stage == Some(Stage::Well) {
            self.complaint = complaint;
        }
    }

    /// How much of the window is over at `now`, 0–1.
    pub(crate) fn fraction(&self, now: Mono) -> f64 {
        if self.stage != Some(Stage::Well) {
            return 0.0;
        }
        let window = self.limits.window.as_secs_f64();
        if window == 0.0 { 1.0 } else { (now.saturating_sub(self.since).as_secs_f64() / window).min(1.0) }
    }

    /// Another life begins everything again; too many of them are a failure.
    fn count_exits(&mut self, facts: &Facts) -> Option<Verdict> {
        let more = facts.exits.saturating_sub(self.exits);
        if more > 0 || facts.incarnation != self.incarnation {
            (self.exits, self.incarnation) = (facts.exits, facts.incarnation);
            (self.stage, self.ready_by) = (None, None);
        }
        self.failures += more;
        let max = u64::from(self.limits.max_exits);
        (max > 0 && self.failures >= max).then(|| {
            Verdict::Failed(format!(
                "it ended {} times while it was verified: {}",
                self.failures, facts.reason
            ))
        })
    }

    fn in_window(&mut self, now: Mono, facts: &Facts) -> Next {
        let end = self.since + self.limits.window;
        if !facts.checkable {
            let verified = Next::Done(Verdict::Verified { exits: self.exits });
            return if now >= end { verified } else { Next::Wait(end) };
        }
        match self.checked {
            Some(at) if at >= end => Next::Done(Verdict::Verified { exits: self.exits }),
            _ if now >= end => Next::Check,
            at => {
                let due = at.unwrap_or(self.since) + self.limits.check_every;
                if now >= due { Next::Check } else { Next::Wait(due.min(end)) }
            }
        }
    }

    fn out_of_window(&mut self, stage: Stage, now: Mono, facts: &Facts) -> Next {
        let (limit, what) = match stage {
            Stage::Supervised => (self.limits.supervision, "supervision did not start it again"),
            Stage::Waiting => (self.limits.waiting, "it waits"),
            Stage::Stopped => (self.limits.waiting, "it does not run"),
            Stage::Recovering | Stage::Well => (self.limits.ready, "it did not become ready and well"),
        };
        let end = match (stage, self.ready_by) {
            (Stage::Recovering, Some(by)) => by,
            _ => self.since.saturating_add(limit),
        };
        if now >= end {
            let because = if facts.reason.is_empty() { String::new() } else { format!(": {}", facts.reason) };
            let why = format!("{what} within {}{because}", duration::format(limit));
            return Next::Done(match stage {
                Stage::Waiting | Stage::Stopped => Verdict::Parked(format!("{what}{because}")),
                Stage::Supervised | Stage::Recovering | Stage::Well => Verdict::Failed(why),
            });
        }
        let ready = matches!(facts.status, Status::Running | Status::Degraded);
        if stage == Stage::Recovering && ready && facts.checkable {
            // What is known of its health may be older than what was done about it.
            let due = self.checked.map_or(now, |at| at + self.limits.check_every);
            return if now >= due { Next::Check } else { Next::Wait(due.min(end)) };
        }
        Next::Wait(end)
    }
}

fn stage(facts: &Facts) -> Stage {
    match facts.status {
        _ if facts.ended.is_some_and(|ended| ended >= facts.incarnation) && facts.status.is_live() => {
            Stage::Supervised
        }
        Status::Restarting | Status::Failed | Status::Quarantined => Stage::Supervised,
        Status::Waiting => Stage::Waiting,
        Status::Stopped => Stage::Stopped,
        Status::Starting => Stage::Recovering,
        Status::Running | Status::Degraded => {
            if facts.well {
                Stage::Well
            } else {
                Stage::Recovering
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn limits() -> Limits {
        Limits {
            ready: MS(1_000),
            window: MS(200),
            supervision: MS(5_000),
            waiting: MS(2_000),
            check_every: MS(50),
            max_exits: 0,
        }
    }

    fn running() -> Facts {
        Facts {
            status: Status::Running,
            reason: String::new(),
            incarnation: 2,
            well: true,
            checkable: false,
            exits: 0,
            ended: None,
        }
    }

    fn verified(exits: u64) -> Next {
        Next::Done(Verdict::Verified { exits })
    }

    fn why(next: Next) -> String {
        match next {
            Next::Done(Verdict::Failed(why) | Verdict::Parked(why) | Verdict::Quarantined(why)) => why,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn well_over_the_window_is_verified() {
        let mut v = Verification::new(limits(), &running());
        assert_eq!(v.step(MS(10), &running()), Next::Wait(MS(210)));
        assert_eq!(v.step(MS(209), &running()), Next::Wait(MS(210)));
        assert!((v.fraction(MS(110)) - 0.5).abs() < 1e-9);
        assert_eq!(v.step(MS(210), &running()), verified(0));
    }

    #[test]
    fn what_can_be_checked_is_checked_to_the_end() {
        let facts = Facts { checkable: true, ..running() };
        let mut v = Verification::new(limits(), &facts);
        assert_eq!(v.step(MS(0), &facts), Next::Wait(MS(50)));
        assert_eq!(v.step(MS(50), &facts), Next::Check);
        v.checked(MS(60), None);
        assert_eq!(v.step(MS(60), &facts), Next::Wait(MS(110)));
        assert_eq!(v.step(MS(205), &facts), Next::Check);
        v.checked(MS(199), None);
        assert_eq!(v.step(MS(206), &facts), Next::Check, "a check from before the end is not the last look");
        v.checked(MS(207), Some("no answer".into()));
        assert_eq!(v.step(MS(207), &facts), Next::Wait(MS(257)), "there is time: the window begins again");
        assert_eq!(v.step(MS(1_010), &facts), Next::Check);
        v.checked(MS(1_020), Some("no answer".into()));
        assert_eq!(why(v.step(MS(1_020), &facts)), "it did not stay well: no answer");
    }

    #[test]
    fn an_exit_begins_it_again() {
        let mut v = Verification::new(limits(), &running());
        v.step(MS(0), &running());
        // The exit is known before the state shows it.
        let gone = Facts { exits: 1, ended: Some(2), ..running() };
        assert_eq!(v.step(MS(190), &gone), Next::Wait(MS(5_190)));
        let again = Facts { exits: 1, ended: Some(2), incarnation: 3, ..running() };
        assert_eq!(v.step(MS(300), &again), Next::Wait(MS(500)));
        assert_eq!(v.step(MS(500), &again), verified(1));
    }

    #[test]
    fn too_many_exits_fail_it_where_a_limit_is_set() {
        let facts = running();
        let mut v = Verification::new(Limits { max_exits: 2, ..limits() }, &facts);
        let exited =
            |exits| Facts { exits, reason: "exit code 3".into(), incarnation: 2 + exits, ..running() };
        assert!(matches!(v.step(MS(10), &exited(1)), Next::Wait(_)));
        assert_eq!(why(v.step(MS(20), &exited(2))), "it ended 2 times while it was verified: exit code 3");
    }

    #[test]
    fn every_stage_is_bounded() {
        for (status, at, words) in [
            (Status::Starting, 1_000, "it did not become ready and well within 1s: slow"),
            (Status::Restarting, 5_000, "supervision did not start it again within 5s: slow"),
            (Status::Waiting, 2_000, "it waits: slow"),
            (Status::Stopped, 2_000, "it does not run: slow"),
        ] {
            let facts = Facts { status, well: false, reason: "slow".into(), ..running() };
            let mut v = Verification::new(limits(), &facts);
            assert_eq!(v.step(MS(0), &facts), Next::Wait(MS(at)), "{status:?}");
            assert_eq!(why(v.step(MS(at), &facts)), words);
        }
    }

    #[test]
    fn an_old_opinion_of_its_health_is_asked_again() {
        let ill = Facts { status: Status::Degraded, well: false, checkable: true, ..running() };
        let mut v = Verification::new(limits(), &ill);
        assert_eq!(v.step(MS(0), &ill), Next::Check);
        v.checked(MS(0), None);
        assert_eq!(v.step(MS(1), &ill), Next::Wait(MS(50)));
        assert_eq!(v.step(MS(2), &Facts { checkable: true, ..running() }), Next::Wait(MS(52)));
    }

    #[test]
    fn recovery_has_one_deadline_a_life() {
        let ill = Facts { status: Status::Degraded, well: false, reason: "slow".into(), ..running() };
        let mut v = Verification::new(limits(), &running());
        assert_eq!(v.step(MS(0), &running()), Next::Wait(MS(200)));
        assert_eq!(v.step(MS(100), &ill), Next::Wait(MS(1_000)));
        assert_eq!(v.step(MS(900), &running()), Next::Wait(MS(1_100)));
        assert_eq!(why(v.step(MS(1_050), &ill)), "it did not stay well: slow");
    }

    fn facts() -> impl Strategy<Value = Facts> {
        let status = prop_oneof![
            4 => Just(Status::Running), 1 => Just(Status::Degraded), 1 => Just(Status::Starting),
            1 => Just(Status::Restarting), 1 => Just(Status::Waiting), 1 => Just(Status::Stopped)
        ];
        (status, prop::bool::weighted(0.8), 0u64..2).prop_map(|(status, well, exits)| Facts {
            status,
            well,
            exits,
            ..running()
        })
    }

    proptest! {
        /// Verified means: at every look during the last window it was well, in the same life, and it ends in
        /// bounded time whatever happens.
        #[test]
        fn verified_means_well_all_the_time(looks in prop::collection::vec((1u64..120, facts()), 1..200)) {
            let mut v = Verification::new(limits(), &running());
            let (mut now, mut exits, mut well_since) = (0u64, 0u64, None::<u64>);
            for (gap, look) in looks {
                now += gap;
                exits += look.exits;
                let facts = Facts { exits, incarnation: 2 + exits, ..look.clone() };
                let well = facts.well && matches!(facts.status, Status::Running | Status::Degraded);
                if look.exits > 0 || !well {
                    well_since = None;
                }
                if well && well_since.is_none() {
                    well_since = Some(now);
                }
                match v.step(MS(now), &facts) {
                    Next::Done(Verdict::Verified { .. }) => {
                        prop_assert!(well_since.is_some_and(|since| now - since >= 200));
                        break;
                    }
                    Next::Done(_) => break,
                    Next::Wait(until) => prop_assert!(until > MS(now) && until <= MS(now + 5_000)),
                    Next::Check => prop_assert!(false, "there is nothing to check"),
                }
            }
        }
    }
}
