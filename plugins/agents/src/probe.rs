//! Probes: how somebody else's work is found to be well, by running a program, by HTTP or by TCP.
//!
//! A [`Check`] is one question; it is asked as a real process or over a real connection, waits for nothing
//! longer than it is told to, and answers in words that a person can act on ("connection refused",
//! "status 503"). A [`Probe`] is a check with its rhythm. The process type runs its startup, readiness and
//! liveness probes from here; the http and tcp types are built on the same checks.

mod exec;
mod http;
mod record;
mod tcp;

use std::{ffi::OsString, fmt, io, path::PathBuf, sync::Arc, time::Duration};

use hms_core::{Result, clock::SharedClock, duration};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

pub(crate) use self::{http::HttpCheck, record::Record, tcp::TcpCheck};
use crate::keys::{Keys, duration_schema};

/// The shortest time between two runs of one probe.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// The largest compiled pattern, in bytes: each agent may have some.
const LARGEST_PATTERN: usize = 1 << 20;

/// The circumstances in which a check is made.
#[derive(Clone)]
pub(crate) struct ProbeContext {
    /// Measures the timeouts.
    pub(crate) clock: SharedClock,
    /// Working directory of exec checks; `None`: that of the host.
    pub(crate) cwd: Option<PathBuf>,
    /// The whole environment of exec checks. The agent's token in it says whose they are.
    pub(crate) env: Arc<Vec<(OsString, OsString)>>,
}

/// One question: is it well?
#[derive(Debug, Clone)]
pub(crate) enum Check {
    /// A program that exits with 0.
    Exec(Vec<String>),
    /// An HTTP endpoint that answers with an expected status.
    Http(Box<HttpCheck>),
    /// An address that accepts connections.
    Tcp(TcpCheck),
}

impl Check {
    /// Asks. The error says what happened instead: `connection refused`, `status 503`,
    /// `exit code 1: disk full`, `no answer within 1s`.
    ///
    /// Dropping the future ends what it began, a running program with all its descendants included.
    pub(crate) async fn run(&self, cx: &ProbeContext, timeout: Duration) -> Result<(), String> {
        match self {
            Self::Exec(command) => exec::run(command, cx, timeout).await,
            Self::Http(check) => within(&cx.clock, timeout, check.run()).await,
            Self::Tcp(check) => within(&cx.clock, timeout, check.run()).await,
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec(command) => write!(f, "exec {}", command.join(" ")),
            Self::Http(check) => check.fmt(f),
            Self::Tcp(check) => check.fmt(f),
        }
    }
}

/// What a probe goes by.
#[derive(Debug, Clone)]
pub(crate) enum ProbeKind {
    /// A check that is run at intervals.
    Check(Check),
    /// A line of output that matches.
    Log(Pattern),
    /// What the process says on its notify socket.
    Notify,
}

/// A regular expression that a line of output has to match somewhere.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    fn compile(text: &str) -> Result<Self, String> {
        let compiled = RegexBuilder::new(text).size_limit(LARGEST_PATTERN).build();
        compiled.map(Self).map_err(|e| {
            let text = e.to_string();
            let reason = text.lines().last().unwrap_or_default().trim();
            format!("is not a regular expression: {}", reason.strip_prefix("error: ").unwrap_or(reason))
        })
    }

    /// Whether it occurs in `line`.
    pub(crate) fn is_match(&self, line: &str) -> bool {
        self.0.is_match(line)
    }
}

/// A probe: what it goes by, and its rhythm.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// What it goes by.
    pub(crate) kind: ProbeKind,
    /// Time between runs.
    pub(crate) interval: Duration,
    /// A run that takes longer has failed.
    pub(crate) timeout: Duration,
    /// So many failures in a row are believed.
    pub(crate) failures: u32,
    /// So many successes in a row are believed.
    pub(crate) successes: u32,
}

/// The keys of which a probe has exactly one.
const KINDS: [&str; 5] = ["exec", "http", "tcp", "log", "notify"];

impl Probe {
    /// Reads the probe at key `at` of a configuration. `kinds` are those that make sense there.
    ///
    /// # Errors
    /// `invalid-config`, naming the key.
    pub(crate) fn parse(at: &str, value: &Value, kinds: &[&str]) -> Result<Self> {
        let keys = Keys::of(at, value)?;
        let rhythm = ["interval", "timeout", "failures", "successes"];
        keys.only(&[kinds, &rhythm].concat())?;
        let probe = Self {
            kind: Self::kind(&keys, kinds)?,
            interval: keys.duration("interval")?.unwrap_or(Duration::from_secs(1)),
            timeout: keys.duration("timeout")?.unwrap_or(Duration::from_secs(1)),
            failures: keys.count("failures")?.unwrap_or(2),
            successes: keys.count("successes")?.unwrap_or(1),
        };
        if probe.interval < SHORTEST_INTERVAL {
            return Err(keys
                .wrong("interval", format_args!("is shorter than {}", duration::format(SHORTEST_INTERVAL))));
        }
        if probe.timeout.is_zero() {
            return Err(keys.wrong("timeout", "is zero"));
        }
        Ok(probe)
    }

    fn kind(keys: &Keys<'_>, kinds: &[&str]) -> Result<ProbeKind> {
        let given: Vec<&str> = KINDS.into_iter().filter(|kind| keys.get(kind).is_some()).collect();
        let [kind] = given[..] else {
            let problem = if given.is_empty() {
                "says nothing to go by".into()
            } else {
                format!("has {}", given.join(" and "))
            };
            return Err(keys.wrong_itself(problem).hint(format!("give exactly one of {}", kinds.join(", "))));
        };
        let name = keys.name(kind);
        let value = keys.get(kind).unwrap_or(&Value::Null);
        Ok(match kind {
            "exec" => ProbeKind::Check(Check::Exec(exec::command(keys)?)),
            "http" => ProbeKind::Check(Check::Http(Box::new(HttpCheck::parse(&name, value)?))),
            "tcp" => ProbeKind::Check(Check::Tcp(TcpCheck::parse(&name, value)?)),
            "log" => match keys.text("log")? {
                Some(pattern) if !pattern.is_empty() => {
                    ProbeKind::Log(Pattern::compile(pattern).map_err(|problem| keys.wrong("log", problem))?)
                }
                _ => return Err(keys.wrong("log", "is empty")),
            },
            _ => match keys.flag("notify")? {
                Some(true) => ProbeKind::Notify,
                _ => return Err(keys.wrong("notify", "is not true").hint("leave the probe out instead")),
            },
        })
    }
}

/// The schema of a probe of any of `kinds`, as a property that is described by `about`.
pub(crate) fn schema(about: &str, kinds: &[&str]) -> Value {
    let mut properties = Map::new();
    for kind in kinds {
        let property = match *kind {
            "exec" => json!({
                "type": "array", "items": {"type": "string"}, "minItems": 1,
                "description": "program and arguments (no shell) that exit with 0 when all is well"}),
            "http" => json!({
                "type": ["string", "object"], "additionalProperties": false, "required": ["url"],
                "properties": http::schema(),
                "description": "URL that answers with an expected status, or a table with url, expect, headers and socket"}),
            "tcp" => {
                json!({"type": "string", "x-value": "HOST:PORT", "description": "address that accepts connections"})
            }
            "log" => {
                json!({"type": "string", "minLength": 1, "x-value": "REGEX", "description": "regular expression that a line of the output matches"})
            }
            "notify" => {
                json!({"type": "boolean", "const": true, "description": "what the process says by the sd_notify protocol"})
            }
            other => unreachable!("no kind of probe is called {other}"),
        };
        properties.insert((*kind).to_owned(), property);
    }
    properties.insert("interval".into(), duration_schema("time between runs, at least 10ms", "1s"));
    properties.insert("timeout".into(), duration_schema("a run that takes longer has failed", "1s"));
    let count = |about: &str, default: u32| json!({"type": "integer", "minimum": 1, "description": about, "default": default});
    properties.insert("failures".into(), count("failures in a row that are believed", 2));
    properties.insert("successes".into(), count("successes in a row that are believed", 1));
    json!({"type": "object", "additionalProperties": false, "properties": properties, "description": about})
}

/// The schema of the keys that the http type and an http probe have in common.
pub(crate) fn http_schema() -> Value {
    http::schema()
}

/// What `work` answers, or that it did not within `timeout`.
pub(crate) async fn within<T>(
    clock: &SharedClock,
    timeout: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::select! {
        answer = work => answer,
        () = clock.sleep_until(clock.now() + timeout) => Err(no_answer(timeout)),
    }
}

fn no_answer(timeout: Duration) -> String {
    format!("no answer within {}", duration::format(timeout))
}

/// An operating system error in a few words, without its number.
fn plain(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::ConnectionReset => "connection reset".into(),
        io::ErrorKind::HostUnreachable => "host unreachable".into(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".into(),
        io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => {
            let text = e.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_owned()
        }
    }
}

#[cfg(test)]
mod tests;
