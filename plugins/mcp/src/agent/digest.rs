//! Facts made into reports, on the wrapper's side: bounded whatever happens while no host listens.

use std::collections::{BTreeMap, VecDeque};

use hms_core::agent::ExitReport;

use super::report::{Counts, Exit, Order, Phase, Report, Server, ToolCalls};
use crate::relay::Fact;

/// Tools told apart; the calls of further ones are counted together.
const TOOLS: usize = 64;
/// What further tools are called.
const OTHERS: &str = "(others)";
/// Latencies kept of one tool between two reports: the newest.
const SAMPLES: usize = 64;
/// Exits kept until a host has heard of them: the newest.
const EXITS: usize = 16;
/// Lines of output kept between two reports, and their bytes: the newest.
const LINES: usize = 512;
const LINE_BYTES: usize = 256 << 10;
/// A longer line is cut.
const LINE: usize = 8 << 10;

/// What is to be reported.
#[derive(Debug, Default)]
pub(super) struct Digest {
    server: Server,
    /// Lives before the present numbering: a server that was closed counts its lives from 1 again.
    base: u64,
    /// The last life that an order ended: its exit is no news.
    ordered_end: u64,
    exits: VecDeque<Exit>,
    tools: BTreeMap<String, Tool>,
    counts: Counts,
    last_trouble: Option<String>,
    stderr: VecDeque<String>,
    stderr_bytes: usize,
    done: u64,
    /// The number of the order to stop that is being carried out.
    stopping: u64,
    due: Due,
}

/// When the next report is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Due {
    /// There is nothing to report.
    #[default]
    Never,
    /// Soon: together with what comes meanwhile.
    Soon,
    /// At once.
    Now,
}

#[derive(Debug, Default)]
struct Tool {
    calls: u64,
    errors: u64,
    took_us: VecDeque<u32>,
    news: bool,
}

impl Digest {
    /// Takes what happened, and how much before it is not known any more.
    pub(super) fn take(&mut self, facts: Vec<Fact>, lost: u64) {
        self.counts.facts_lost += lost;
        for fact in facts {
            self.take_one(fact);
        }
    }

    fn take_one(&mut self, fact: Fact) {
        self.due = self.due.max(if fact.is_pressing() { Due::Now } else { Due::Soon });
        match fact {
            Fact::Started { life, pid, .. } => {
                if self.base + life <= self.server.life {
                    self.base = self.server.life;
                }
                let life = self.base + life;
                let closed = self.server.closed;
                self.server =
                    Server { phase: Phase::Starting, life, pid: Some(pid), closed, ..Server::default() };
            }
            Fact::Ready { life, took } if self.base + life == self.server.life => {
                self.server.phase = Phase::Up;
                self.server.start_ms = Some(took.as_secs_f64() * 1e3);
            }
            Fact::Ready { .. } => {}
            Fact::Exited { life, reason, code, signal, .. } => {
                self.exited(self.base + life, reason, code, signal)
            }
            Fact::Call { tool, took, ok } => {
                let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                self.called(tool, micros, ok);
            }
            Fact::Hang { tools, waited } => {
                self.counts.hangs += 1;
                let waited = hms_core::duration::format(waited);
                self.last_trouble = Some(format!("no answer within {waited}: {}", tools.join(", ")));
            }
            Fact::MemoryOver { used, limit } => {
                self.counts.memory_over += 1;
                let (used, limit) = (hms_core::bytesize::format(used), hms_core::bytesize::format(limit));
                self.last_trouble = Some(format!("used {used} of memory and may use {limit}"));
            }
            Fact::LostSession { .. } => self.counts.lost_sessions += 1,
            Fact::Refused { tool } => {
                self.counts.refused += 1;
                self.last_trouble = Some(format!("`{tool}` ended the server too often and is refused"));
            }
            Fact::GaveUp { reason, .. } => {
                self.server.phase = Phase::GaveUp;
                self.server.pid = None;
                self.server.reason = Some(reason);
            }
            Fact::Halted => self.halted(),
            Fact::ToolsChanged => self.counts.tools_changed += 1,
            Fact::Stderr { line } => self.printed(line),
            Fact::Closed => {
                self.server.phase = Phase::Idle;
                self.server.pid = None;
                self.server.reason = None;
                self.server.closed = self.server.life;
            }
        }
    }

    fn exited(&mut self, life: u64, reason: String, code: Option<i32>, signal: Option<i32>) {
        if life == self.server.life && self.server.phase != Phase::Stopped {
            self.server.phase = Phase::Down;
            self.server.pid = None;
            self.server.reason = Some(reason.clone());
        }
        if life <= self.ordered_end {
            return;
        }
        if self.exits.len() == EXITS {
            self.exits.pop_front();
        }
        self.exits.push_back(Exit { life, exit: ExitReport { clean: false, reason, code, signal } });
    }

    fn called(&mut self, tool: String, took_us: u32, ok: bool) {
        let known = self.tools.len() < TOOLS || self.tools.contains_key(&tool);
        let tool = self.tools.entry(if known { tool } else { OTHERS.into() }).or_default();
        tool.calls += 1;
        tool.errors += u64::from(!ok);
        tool.news = true;
        if tool.took_us.len() == SAMPLES {
            tool.took_us.pop_front();
        }
        tool.took_us.push_back(took_us);
    }

    fn printed(&mut self, mut line: String) {
        if line.len() > LINE {
            let cut = (0..=LINE).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
            line.truncate(cut);
        }
        self.stderr_bytes += line.len();
        self.stderr.push_back(line);
        while self.stderr.len() > LINES || self.stderr_bytes > LINE_BYTES {
            let Some(oldest) = self.stderr.pop_front() else { break };
            self.stderr_bytes -= oldest.len();
            self.counts.lines_lost += 1;
        }
    }

    /// An order is on its way to the server. A stop is done when the relay says so.
    pub(super) fn ordered(&mut self, number: u64, order: Order) {
        match order {
            Order::Stop { .. } => self.stopping = number,
            Order::Start => {
                self.done = self.done.max(number);
                self.due = Due::Now;
            }
        }
    }

    fn halted(&mut self) {
        self.done = self.done.max(self.stopping);
        self.ordered_end = self.server.life;
        self.exits.clear();
        self.server.phase = Phase::Stopped;
        self.server.pid = None;
        self.server.reason = None;
    }

    /// Another host counts its orders from 1.
    pub(super) fn begin_session(&mut self) {
        (self.done, self.stopping) = (0, 0);
        self.tools.values_mut().for_each(|tool| tool.news = true);
    }

    /// Nothing more will come.
    pub(super) fn closing(&mut self) -> Report {
        Report { closed: true, ..self.report() }
    }

    /// Whether an order ended the server.
    pub(super) fn is_stopped(&self) -> bool {
        self.server.phase == Phase::Stopped
    }

    /// When the next report is due.
    pub(super) fn due(&self) -> Due {
        self.due
    }

    /// The report that is due. Exits stay until [`Digest::heard`].
    pub(super) fn report(&mut self) -> Report {
        self.due = Due::Never;
        self.stderr_bytes = 0;
        let tools = self.tools.iter_mut().filter_map(|(name, tool)| {
            std::mem::take(&mut tool.news).then(|| ToolCalls {
                tool: name.clone(),
                calls: tool.calls,
                errors: tool.errors,
                took_us: tool.took_us.drain(..).collect(),
            })
        });
        let tools = tools.collect();
        Report {
            server: self.server.clone(),
            exits: self.exits.iter().cloned().collect(),
            tools,
            counts: self.counts,
            last_trouble: self.last_trouble.clone(),
            stderr: self.stderr.drain(..).collect(),
            done: self.done,
            closed: false,
        }
    }

    /// A host has heard of the exits up to this life.
    pub(super) fn heard(&mut self, life: u64) {
        self.exits.retain(|exit| exit.life > life);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn started(life: u64) -> Fact {
        Fact::Started { life, pid: 100 + life as i32, cause: None }
    }

    fn exited(life: u64) -> Fact {
        let reason = "was ended by signal SIGKILL".to_owned();
        Fact::Exited { life, reason, code: None, signal: Some(9), failed: 0, again: 0 }
    }

    fn call(tool: &str, ok: bool) -> Fact {
        Fact::Call { tool: tool.into(), took: Duration::from_micros(7), ok }
    }

    #[test]
    fn lives_are_told_until_they_are_heard_of() {
        let mut digest = Digest::default();
        assert_eq!(digest.due(), Due::Never);
        digest.take(vec![started(1), Fact::Ready { life: 1, took: Duration::from_millis(3) }], 0);
        let report = digest.report();
        assert_eq!(
            (report.server.phase, report.server.pid, report.server.start_ms),
            (Phase::Up, Some(101), Some(3.0))
        );
        digest.take(vec![exited(1), started(2), exited(2)], 0);
        assert_eq!(digest.due(), Due::Now);
        let report = digest.report();
        assert_eq!((report.server.phase, report.server.life), (Phase::Down, 2));
        let lives = |report: &Report| report.exits.iter().map(|e| e.life).collect::<Vec<_>>();
        assert_eq!(lives(&report), [1, 2]);
        digest.heard(1);
        assert_eq!(lives(&digest.report()), [2], "what the host did not acknowledge is told again");
    }

    #[test]
    fn a_server_that_was_closed_goes_on_counting() {
        let mut digest = Digest::default();
        digest.take(vec![started(1), exited(1), started(2), Fact::Closed, started(1)], 0);
        let server = digest.report().server;
        assert_eq!((server.life, server.closed), (3, 2));
        digest.take(vec![exited(1)], 0);
        assert_eq!(digest.report().exits.last().map(|e| e.life), Some(3));
    }

    #[test]
    fn an_ordered_end_is_no_exit() {
        let mut digest = Digest::default();
        digest.take(vec![started(1)], 0);
        digest.ordered(1, Order::Stop { kill: false });
        assert_eq!(digest.report().done, 0);
        digest.take(vec![exited(1), Fact::Halted], 0);
        let report = digest.report();
        assert_eq!((report.server.phase, report.exits.len(), report.done), (Phase::Stopped, 0, 1));
        assert!(digest.is_stopped());
        digest.ordered(2, Order::Start);
        assert_eq!((digest.due(), digest.report().done), (Due::Now, 2));
        digest.take(vec![started(2)], 0);
        assert_eq!(digest.report().server.phase, Phase::Starting);
    }

    #[test]
    fn calls_are_counted_and_samples_told_once() {
        let mut digest = Digest::default();
        digest.take((0..100).map(|n| call("echo", n % 10 != 0)).collect(), 0);
        assert_eq!(digest.due(), Due::Soon);
        let report = digest.report();
        let echo = &report.tools[0];
        assert_eq!((echo.calls, echo.errors, echo.took_us.len()), (100, 10, SAMPLES));
        assert!(digest.report().tools.is_empty(), "no news");
        digest.begin_session();
        let report = digest.report();
        assert_eq!(
            (report.tools[0].calls, report.tools[0].took_us.len()),
            (100, 0),
            "another host hears of all tools"
        );
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut digest = Digest::default();
        for n in 0..10_000u64 {
            let facts = vec![
                started(n + 1),
                exited(n + 1),
                call(&format!("tool-{n}"), true),
                Fact::Stderr { line: "é".repeat(10_000) },
            ];
            digest.take(facts, 1);
        }
        assert!(digest.tools.len() <= TOOLS + 1 && digest.exits.len() == EXITS);
        let report = digest.report();
        let bytes: usize = report.stderr.iter().map(String::len).sum();
        assert!(bytes <= LINE_BYTES && report.stderr.iter().all(|line| line.len() <= LINE), "{bytes}");
        assert_eq!(report.counts.lines_lost + report.stderr.len() as u64, 10_000);
        assert_eq!(report.counts.facts_lost, 10_000);
        assert_eq!(report.tools.iter().map(|t| t.calls).sum::<u64>(), 10_000);
    }
}
