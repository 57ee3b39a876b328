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

use std::{ffi::OsString, fmt, io, path::PathBuf, time::Duration};

use hms_core::{Error, ErrorKind, Result, agent::AgentContext, clock::SharedClock, duration};
use serde_json::{Map, Value, json};

pub(crate) use self::{
    http::HttpCheck,
    record::{Attempt, Record},
    tcp::TcpCheck,
};
use crate::keys::{Keys, duration_schema};

/// The shortest time between two runs of one probe.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// The circumstances in which a check is made.
#[derive(Clone)]
pub(crate) struct ProbeContext {
    /// Measures the timeouts.
    pub(crate) clock: SharedClock,
    /// The home, as the tokens of its processes have it.
    pub(crate) home: PathBuf,
    /// The agent's id.
    pub(crate) agent: String,
    /// The agent's folder.
    pub(crate) dir: PathBuf,
    /// Working directory of exec checks.
    pub(crate) cwd: Option<PathBuf>,
    /// Whether exec checks begin with an empty environment instead of this process's.
    pub(crate) clear_env: bool,
    /// Variables of exec checks.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// User and group of exec checks.
    pub(crate) user: Option<(u32, u32)>,
}

impl ProbeContext {
    /// The circumstances of an agent; its own working directory, environment and user are for its type to
    /// fill in.
    pub(crate) fn new(cx: &AgentContext) -> Self {
        Self {
            clock: cx.kernel().clock().clone(),
            home: cx.kernel().dirs().home.clone(),
            agent: cx.id().to_owned(),
            dir: cx.dir().to_owned(),
            cwd: None,
            clear_env: false,
            env: Vec::new(),
            user: None,
        }
    }
}

/// One question: is it well?
#[derive(Debug, Clone)]
pub(crate) enum Check {
    /// A program that exits with 0.
    Exec(Vec<String>),
    /// An HTTP endpoint that answers with an expected status.
    Http(HttpCheck),
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
    /// A line of output that contains this text.
    Log(String),
    /// What the process says on its notify socket.
    Notify,
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
            kind: Self::kind(at, &keys, kinds)?,
            interval: keys.duration("interval")?.unwrap_or(Duration::from_secs(1)),
            timeout: keys.duration("timeout")?.unwrap_or(Duration::from_secs(1)),
            failures: keys.count("failures")?.unwrap_or(2),
            successes: keys.count("successes")?.unwrap_or(1),
        };
        if probe.interval < SHORTEST_INTERVAL {
            return Err(keys.wrong("interval", format_args!("is shorter than {}", duration::format(SHORTEST_INTERVAL))));
        }
        if probe.timeout.is_zero() {
            return Err(keys.wrong("timeout", "is zero"));
        }
        Ok(probe)
    }

    fn kind(at: &str, keys: &Keys<'_>, kinds: &[&str]) -> Result<ProbeKind> {
        let given: Vec<&str> = KINDS.into_iter().filter(|kind| keys.get(kind).is_some()).collect();
        let [kind] = given[..] else {
            let problem = if given.is_empty() { "says nothing to go by".into() } else { format!("has {}", given.join(" and ")) };
            let error = Error::new(ErrorKind::InvalidConfig, format!("`{at}`: {problem}"));
            return Err(error.hint(format!("give exactly one of {}", kinds.join(", "))));
        };
        let name = format!("{at}.{kind}");
        let value = keys.get(kind).unwrap_or(&Value::Null);
        Ok(match kind {
            "exec" => ProbeKind::Check(Check::Exec(exec::command(keys)?)),
            "http" => ProbeKind::Check(Check::Http(HttpCheck::parse(&name, value)?)),
            "tcp" => ProbeKind::Check(Check::Tcp(TcpCheck::parse(&name, value)?)),
            "log" => match keys.text("log")? {
                Some(pattern) if !pattern.is_empty() => ProbeKind::Log(pattern.to_owned()),
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
            "tcp" => json!({"type": "string", "x-value": "HOST:PORT", "description": "address that accepts connections"}),
            "log" => json!({"type": "string", "minLength": 1, "x-value": "TEXT", "description": "text that a line of the output contains"}),
            "notify" => json!({"const": true, "description": "what the process says by the sd_notify protocol"}),
            other => unreachable!("no kind of probe is called {other}"),
        };
        properties.insert((*kind).to_owned(), property);
    }
    properties.insert("interval".into(), duration_schema("time between runs, at least 100ms", "1s"));
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
