//! What the host knows of one wrapped server: calls by tool, how well it is, and the lives that are still to be
//! told. Pure: time comes in.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hms_core::{
    agent::{Health, Issue, Measurement},
    clock::Mono,
    duration,
    supervision::Intensity,
};
use serde_json::{Map, Value, json};

use super::report::{Counts, Phase, Report, Server, ToolCalls};

/// Latencies of a tool that its percentiles are of: the newest.
const SAMPLES: usize = 256;
/// Tools with series of their own among the metrics: the ones called most.
const MEASURED: usize = 12;
/// Trouble within this time degrades health.
const RECENT: Duration = Duration::from_secs(60);
/// Fewer calls within that time prove nothing.
const ENOUGH: u64 = 10;
/// More of them failed than this: degraded.
const FAILING: f64 = 0.5;
/// So few ends are no sign of instability, however small the wrapper's budget.
const FEW: usize = 3;
/// Ends that are remembered.
const ENDS: usize = 64;

/// What is known of a server.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) server: Server,
    pub(super) counts: Counts,
    last_trouble: Option<String>,
    tools: BTreeMap<String, Tool>,
    /// Calls and failures over the last while.
    window: VecDeque<Calls>,
    /// When it last hung or used too much memory.
    troubled: Option<Mono>,
    /// When lives ended, of late.
    ended: VecDeque<Mono>,
    /// Since the last measurement.
    unmeasured: Calls,
    unmeasured_us: u64,
    unmeasured_samples: u64,
    /// Whether a report was taken: counts of the first one are history, not news.
    begun: bool,
    /// How many restarts the wrapper allows within a window; 0: any number.
    budget: Intensity,
}

#[derive(Debug, Default, Clone, Copy)]
struct Calls {
    at: Mono,
    calls: u64,
    errors: u64,
}

#[derive(Debug, Default)]
struct Tool {
    calls: u64,
    errors: u64,
    last_ms: Option<u64>,
    took_us: VecDeque<u32>,
}

impl Tool {
    /// The latency in milliseconds that this part of the calls (0–1) does not exceed.
    fn percentile(&self, part: f64) -> Option<f64> {
        let mut sorted: Vec<u32> = self.took_us.iter().copied().collect();
        sorted.sort_unstable();
        let at = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(at.saturating_sub(1)).map(|us| f64::from(*us) / 1e3)
    }
}

impl Book {
    /// An empty one, of a server whose wrapper gives up beyond `budget`.
    pub(super) fn new(budget: Intensity) -> Self {
        Self { budget, ..Self::default() }
    }

    /// Takes a report. `wall_ms` is when, for people.
    pub(super) fn take(&mut self, report: &Report, now: Mono, wall_ms: u64) {
        let news = self.begun;
        self.begun = true;
        let before = std::mem::replace(&mut self.counts, report.counts);
        if news && (before.hangs, before.memory_over) != (self.counts.hangs, self.counts.memory_over) {
            self.troubled = Some(now);
        }
        self.last_trouble.clone_from(&report.last_trouble);
        self.server = report.server.clone();
        let mut calls = Calls { at: now, ..Calls::default() };
        for told in &report.tools {
            self.called(told, news, wall_ms, &mut calls);
        }
        if calls.calls > 0 {
            self.unmeasured.calls += calls.calls;
            self.unmeasured.errors += calls.errors;
            match self.window.back_mut() {
                // One entry a second: a busy server reports ten times as often.
                Some(last) if now.saturating_sub(last.at) < Duration::from_secs(1) => {
                    last.calls += calls.calls;
                    last.errors += calls.errors;
                }
                _ => self.window.push_back(calls),
            }
        }
        self.forget(now);
    }

    fn called(&mut self, told: &ToolCalls, news: bool, wall_ms: u64, sum: &mut Calls) {
        let tool = self.tools.entry(told.tool.clone()).or_default();
        if news {
            sum.calls += told.calls.saturating_sub(tool.calls);
            sum.errors += told.errors.saturating_sub(tool.errors);
        }
        if told.calls > tool.calls && (news || !told.took_us.is_empty()) {
            tool.last_ms = Some(wall_ms);
        }
        (tool.calls, tool.errors) = (told.calls, told.errors);
        self.unmeasured_us += told.took_us.iter().copied().map(u64::from).sum::<u64>();
        self.unmeasured_samples += told.took_us.len() as u64;
        tool.took_us.extend(&told.took_us);
        let surplus = tool.took_us.len().saturating_sub(SAMPLES);
        tool.took_us.drain(..surplus);
    }

    /// A life ended without being told to.
    pub(super) fn ended(&mut self, now: Mono) {
        self.ended.push_back(now);
        self.forget(now);
    }

    /// Somebody starts it on purpose: the wrapper counts its restarts anew, and so do we.
    pub(super) fn forgive(&mut self) {
        self.ended.clear();
        self.troubled = None;
    }

    fn forget(&mut self, now: Mono) {
        let old = |at: Mono| now.saturating_sub(at) > RECENT;
        while self.window.front().is_some_and(|calls| old(calls.at)) {
            self.window.pop_front();
        }
        let window = self.budget.window;
        while self.ended.len() > ENDS || self.ended.front().is_some_and(|at| now.saturating_sub(*at) > window)
        {
            self.ended.pop_front();
        }
        self.troubled = self.troubled.filter(|at| !old(*at));
    }

    /// How well it is.
    pub(super) fn verdict(&mut self, now: Mono) -> Health {
        self.forget(now);
        let mut issues = Vec::new();
        match self.server.phase {
            Phase::GaveUp => issues.push(Issue::critical("gave-up", self.why("it cannot be kept alive"))),
            Phase::Down => issues.push(Issue::degraded("exited", self.why("it ended and is started again"))),
            Phase::Stopped => return Health::unknown(),
            Phase::Idle | Phase::Starting | Phase::Up => {}
        }
        let recent = duration::format(RECENT);
        let (ends, max) = (self.ended.len(), self.budget.max as usize);
        if ends > 1 {
            let within = duration::format(self.budget.window);
            issues.push(if max > 0 && ends >= max.max(FEW) {
                Issue::critical(
                    "unstable",
                    format!("it ended {ends} times within {within}, and is given up beyond {max}"),
                )
            } else {
                Issue::degraded("unstable", format!("it ended {ends} times within {within}"))
            });
        }
        if self.troubled.is_some() {
            let what = self.last_trouble.as_deref().unwrap_or("it hung");
            issues.push(Issue::degraded("trouble", format!("it was replaced within {recent}: {what}")));
        }
        let (calls, errors) = self.window.iter().fold((0, 0), |(c, e), w| (c + w.calls, e + w.errors));
        if calls >= ENOUGH && errors as f64 > FAILING * calls as f64 {
            issues.push(Issue::degraded(
                "error-rate",
                format!("{errors} of {calls} calls within {recent} failed"),
            ));
        }
        Health::of(issues)
    }

    fn why(&self, what: &str) -> String {
        match &self.server.reason {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        }
    }

    /// What every list of agents shows.
    pub(super) fn facts(&self, into: &mut Map<String, Value>) {
        if let Some(pid) = self.server.pid {
            into.insert("pid".into(), pid.into());
        }
        into.insert("server".into(), self.server.phase.as_str().into());
        let (calls, errors) = self.tools.values().fold((0, 0), |(c, e), t| (c + t.calls, e + t.errors));
        into.insert("calls".into(), calls.into());
        into.insert("errors".into(), errors.into());
    }

    /// What only its own status shows.
    pub(super) fn details(&self, into: &mut Map<String, Value>) {
        let tools = self.tools.iter().map(|(name, tool)| {
            json!({
                "tool": name, "calls": tool.calls, "errors": tool.errors,
                "p50_ms": tool.percentile(0.50), "p99_ms": tool.percentile(0.99), "last_ms": tool.last_ms,
            })
        });
        into.insert("tools".into(), tools.collect());
        into.insert("life".into(), self.server.life.into());
        into.insert("start_ms".into(), json!(self.server.start_ms));
        into.insert("counts".into(), json!(self.counts));
        into.insert("last_trouble".into(), json!(self.last_trouble));
    }

    /// Measurements of the calls since the last time, and the latency of the tools that are called most.
    pub(super) fn measure(&mut self) -> Vec<Measurement> {
        let mut all: Vec<Measurement> = Vec::new();
        let calls = std::mem::take(&mut self.unmeasured);
        if calls.calls > 0 {
            all.push(("errorRate".into(), calls.errors as f64 / calls.calls as f64));
        }
        let (us, samples) =
            (std::mem::take(&mut self.unmeasured_us), std::mem::take(&mut self.unmeasured_samples));
        if samples > 0 {
            all.push(("responseTime".into(), us as f64 / samples as f64 / 1e3));
        }
        let mut tools: Vec<(&String, &Tool)> =
            self.tools.iter().filter(|(_, t)| !t.took_us.is_empty()).collect();
        tools.sort_by_key(|(_, tool)| std::cmp::Reverse(tool.calls));
        for (name, tool) in tools.into_iter().take(MEASURED) {
            // A metric's name is made of letters, digits, `_`, `.` and `-`.
            let fits =
                |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' };
            let name: String = name.chars().map(fits).take(64).collect();
            let p50 = tool.percentile(0.50).map(|ms| (format!("tool.{name}.p50_ms").into(), ms));
            let p99 = tool.percentile(0.99).map(|ms| (format!("tool.{name}.p99_ms").into(), ms));
            all.extend(p50.into_iter().chain(p99));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use hms_core::agent::HealthStatus;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn up() -> Report {
        let server = Server { phase: Phase::Up, life: 1, pid: Some(7), ..Server::default() };
        Report { server, ..Report::default() }
    }

    fn calls(tool: &str, calls: u64, errors: u64, took_us: Vec<u32>) -> Report {
        Report { tools: vec![ToolCalls { tool: tool.into(), calls, errors, took_us }], ..up() }
    }

    #[test]
    fn percentiles_are_of_the_newest_calls() {
        let mut book = Book::default();
        book.take(&up(), Mono::ZERO, 1);
        book.take(&calls("echo", 1000, 0, vec![1_000_000; 1000]), SECOND, 2);
        book.take(&calls("echo", 1256, 3, (1..=256).map(|n| n * 1000).collect()), SECOND * 2, 3);
        let mut details = Map::new();
        book.details(&mut details);
        let echo = &details["tools"][0];
        assert_eq!((&echo["calls"], &echo["errors"], &echo["last_ms"]), (&json!(1256), &json!(3), &json!(3)));
        assert_eq!((&echo["p50_ms"], &echo["p99_ms"]), (&json!(128.0), &json!(254.0)));
        let measured = book.measure();
        let of = |name: &str| measured.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        assert_eq!(of("tool.echo.p50_ms"), Some(128.0));
        assert_eq!(of("errorRate"), Some(3.0 / 1256.0));
        assert!(of("responseTime").is_some_and(|ms| ms > 100.0));
        assert!(!book.measure().iter().any(|(name, _)| name == "errorRate"), "nothing was called since");
    }

    #[test]
    fn health_follows_trouble_and_forgets_it() {
        let mut book = Book::default();
        let mut hung = up();
        hung.counts.hangs = 3;
        book.take(&hung, Mono::ZERO, 1);
        assert_eq!(book.verdict(Mono::ZERO), Health::healthy(), "hangs of before are history");
        hung.counts.hangs = 4;
        hung.last_trouble = Some("no answer within 5s: nap".into());
        book.take(&hung, SECOND, 1);
        let health = book.verdict(SECOND);
        assert_eq!(health.status, HealthStatus::Degraded);
        assert!(health.issues[0].message.contains("nap"), "{health:?}");
        assert_eq!(book.verdict(SECOND + RECENT + SECOND), Health::healthy());
    }

    #[test]
    fn many_ends_are_critical_and_one_is_not() {
        let mut book = Book::new(Intensity { max: 5, window: RECENT });
        book.take(&up(), Mono::ZERO, 1);
        book.ended(SECOND);
        assert_eq!(book.verdict(SECOND).status, HealthStatus::Healthy, "supervision has answered it");
        book.ended(SECOND * 2);
        assert_eq!(book.verdict(SECOND * 2).status, HealthStatus::Degraded);
        (0..3).for_each(|n| book.ended(SECOND * (3 + n)));
        assert_eq!(book.verdict(SECOND * 6).status, HealthStatus::Critical);
        assert_eq!(book.verdict(SECOND * 6 + RECENT * 2).status, HealthStatus::Healthy);
    }

    #[test]
    fn failing_calls_degrade_when_there_are_enough() {
        let mut book = Book::default();
        book.take(&calls("x", 100, 100, vec![]), Mono::ZERO, 1);
        assert_eq!(book.verdict(Mono::ZERO).status, HealthStatus::Healthy, "failures of before are history");
        book.take(&calls("x", 109, 109, vec![]), SECOND, 1);
        assert_eq!(book.verdict(SECOND).status, HealthStatus::Healthy, "too few");
        book.take(&calls("x", 110, 110, vec![]), SECOND, 1);
        assert_eq!(book.verdict(SECOND).issues[0].code, "error-rate");
        book.take(&calls("x", 130, 110, vec![]), SECOND * 2, 1);
        assert_eq!(book.verdict(SECOND * 2).status, HealthStatus::Healthy, "most work");
    }

    #[test]
    fn where_the_server_is_decides_first() {
        let mut book = Book::default();
        for (phase, status) in [
            (Phase::Up, HealthStatus::Healthy),
            (Phase::Idle, HealthStatus::Healthy),
            (Phase::Down, HealthStatus::Degraded),
            (Phase::GaveUp, HealthStatus::Critical),
            (Phase::Stopped, HealthStatus::Unknown),
        ] {
            let server = Server { phase, reason: Some("why".into()), ..Server::default() };
            book.take(&Report { server, ..Report::default() }, Mono::ZERO, 1);
            assert_eq!(book.verdict(Mono::ZERO).status, status, "{phase:?}");
        }
    }
}
