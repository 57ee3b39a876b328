//! The configuration of a `process` agent, and its schema.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

use hms_core::{
    Error, ErrorKind, Result,
    os::exit::{Limit, Signal},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::probe::{self, Check, Probe, ProbeKind};

/// What may decide about readiness.
const GATES: [&str; 5] = ["exec", "http", "tcp", "log", "notify"];
/// What can be asked again and again. For the heartbeat protocol there is `watchdog`.
const QUESTIONS: [&str; 3] = ["exec", "http", "tcp"];

/// What a child's environment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EnvBase {
    /// The environment of whoever created the agent.
    #[default]
    Inherit,
    /// Nothing.
    Clean,
}

/// What a child reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StdinKind {
    /// `/dev/null`.
    #[default]
    Null,
    /// A FIFO that `agent send` writes lines to.
    Fifo,
}

/// How a process is asked to end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StopConfig {
    pub(crate) signal: String,
    #[serde(with = "hms_core::duration::text")]
    pub(crate) timeout: Duration,
}

impl Default for StopConfig {
    fn default() -> Self {
        Self { signal: "SIGTERM".into(), timeout: Duration::from_secs(10) }
    }
}

/// Signs of a hang that need no cooperation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HangConfig {
    #[serde(with = "hms_core::duration::option")]
    pub(crate) cpu_idle: Option<Duration>,
    #[serde(with = "hms_core::duration::option")]
    pub(crate) log_silence: Option<Duration>,
}

/// How much output is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogConfig {
    #[serde(with = "hms_core::bytesize::text")]
    pub(crate) max_size: u64,
    pub(crate) keep: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { max_size: 10_000_000, keep: 3 }
    }
}

/// The configuration of a `process` agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) cwd: Option<PathBuf>,
    #[serde(default)]
    pub(crate) env: EnvBase,
    #[serde(default)]
    pub(crate) vars: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) env_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    limits: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) stdin: StdinKind,
    #[serde(default)]
    pub(crate) stop: StopConfig,
    #[serde(default = "zero")]
    pub(crate) success_codes: Vec<i32>,
    #[serde(skip)]
    pub(crate) startup: Option<Probe>,
    #[serde(skip)]
    pub(crate) readiness: Option<Probe>,
    #[serde(skip)]
    pub(crate) liveness: Option<Probe>,
    #[serde(default, with = "hms_core::duration::option")]
    pub(crate) watchdog: Option<Duration>,
    #[serde(default, with = "hms_core::bytesize::option")]
    pub(crate) memory_limit: Option<u64>,
    #[serde(default)]
    pub(crate) hang: HangConfig,
    #[serde(default)]
    pub(crate) logs: LogConfig,
    #[serde(default = "ready_timeout", with = "hms_core::duration::text")]
    pub(crate) ready_timeout: Duration,
}

fn zero() -> Vec<i32> {
    vec![0]
}

fn ready_timeout() -> Duration {
    Duration::from_secs(60)
}

impl Config {
    /// Reads a configuration that fits the schema, and checks what the schema cannot say.
    pub(crate) fn read(value: &Value) -> Result<Self> {
        let bad =
            |e: String| Error::new(ErrorKind::InvalidConfig, format!("configuration of type `process`: {e}"));
        let mut plain = value.clone();
        let mut probe = |at: &str, kinds: &[&str]| -> Result<Option<Probe>> {
            let given = plain.as_object_mut().and_then(|o| o.remove(at));
            given.map(|value| Probe::parse(at, &value, kinds)).transpose()
        };
        let startup = probe("startup", &GATES)?;
        let readiness = probe("readiness", &GATES)?;
        let liveness = probe("liveness", &QUESTIONS)?;
        let config: Self = serde_json::from_value(plain).map_err(|e| bad(e.to_string()))?;
        let config = Self { startup, readiness, liveness, ..config };
        if config.command.first().is_none_or(String::is_empty) {
            return Err(bad("`command` is empty".into()).hint("put the command after `--`"));
        }
        config.stop_signal()?;
        config.parsed_limits()?;
        Ok(config)
    }

    /// The signal that asks the process to end.
    pub(crate) fn stop_signal(&self) -> Result<Signal> {
        self.stop
            .signal
            .parse()
            .map_err(|e| Error::new(ErrorKind::InvalidConfig, format!("`stop.signal`: {e}")))
    }

    /// The resource limits.
    pub(crate) fn parsed_limits(&self) -> Result<Vec<(Limit, u64, u64)>> {
        let bad =
            |name: &str, why: String| Error::new(ErrorKind::InvalidConfig, format!("`limits.{name}`: {why}"));
        self.limits
            .iter()
            .map(|(name, value)| {
                let limit: Limit = name.parse().map_err(|e: String| bad(name, e))?;
                let amount = match value {
                    Value::String(s) if s == "unlimited" => u64::MAX,
                    Value::String(s) => hms_core::bytesize::parse(s).map_err(|e| bad(name, e.message))?,
                    Value::Number(n) => {
                        n.as_u64().ok_or_else(|| bad(name, "is not a whole number".into()))?
                    }
                    _ => return Err(bad(name, "is neither a number, a size nor `unlimited`".into())),
                };
                Ok((limit, amount, amount))
            })
            .collect()
    }

    /// Whether the process speaks the sd_notify protocol with us.
    pub(crate) fn notifies(&self) -> bool {
        let by_notify = |p: &Option<Probe>| p.as_ref().is_some_and(|p| matches!(p.kind, ProbeKind::Notify));
        self.watchdog.is_some() || by_notify(&self.startup) || by_notify(&self.readiness)
    }

    /// Whether any probe runs a program.
    pub(crate) fn probes_by_exec(&self) -> bool {
        let by_exec = |p: &Probe| matches!(p.kind, ProbeKind::Check(Check::Exec(_)));
        [&self.startup, &self.readiness, &self.liveness].into_iter().flatten().any(by_exec)
    }

    /// The command's arguments after the program.
    pub(crate) fn args(&self) -> Vec<OsString> {
        self.command[1..].iter().map(OsString::from).collect()
    }
}

/// The schema of the configuration.
pub(crate) fn schema() -> Value {
    let probe = |about: &str, kinds: &[&str]| probe::schema(about, kinds);
    let mut schema = hms_core::schema::object(
        json!({
            "command": {"type": "array", "items": {"type": "string"}, "minItems": 1, "x-value": "COMMAND",
                "description": "program and arguments; no shell is involved"},
            "cwd": {"type": "string", "x-value": "DIR", "description": "working directory"},
            "env": {"enum": ["inherit", "clean"], "default": "inherit",
                "description": "what the environment begins with: that of whoever creates the agent, or nothing"},
            "vars": {"type": "object", "x-secret": true, "additionalProperties": {"type": "string"}, "description": "environment variables to set"},
            "env_file": {"type": "string", "x-value": "FILE", "description": "file of NAME=value lines, read at each start"},
            "user": {"type": "string", "description": "run as this user (name, uid or uid:gid); needs the right to"},
            "limits": {"type": "object", "description": "resource limits: open_files, processes, address_space, core, cpu, data, file_size, locked_memory, stack"},
            "stdin": {"enum": ["null", "fifo"], "default": "null",
                "description": "what it reads: nothing, or the lines that `agent send` writes"},
            "stop": {"type": "object", "additionalProperties": false, "properties": {
                "signal": {"type": "string", "description": "signal that asks it to end (default SIGTERM)"},
                "timeout": {"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": "time to end before it is killed (default 10s)"}},
                "description": "how it is stopped"},
            "success_codes": {"type": "array", "items": {"type": "integer"}, "description": "exit codes that are a success (default 0)"},
            "startup": probe("passes once the slow start is over; before, nothing else is probed", &GATES),
            "readiness": probe("passes when it does its work; dependents wait for it", &GATES),
            "liveness": probe("asked at each health check; failing means that it is ill", &QUESTIONS),
            "watchdog": {"type": "string", "format": "hms-duration", "x-value": "DURATION",
                "description": "it must send WATCHDOG=1 (sd_notify) at least this often"},
            "memory_limit": {"type": "string", "format": "hms-bytes", "x-value": "SIZE", "description": "more resident memory (with its descendants) is an illness"},
            "hang": {"type": "object", "additionalProperties": false, "properties": {
                "cpu_idle": {"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": "no CPU time used for this long is a hang"},
                "log_silence": {"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": "nothing printed for this long is a hang"}},
                "description": "signs of a hang that need no cooperation"},
            "logs": {"type": "object", "additionalProperties": false, "properties": {
                "max_size": {"type": "string", "format": "hms-bytes", "x-value": "SIZE", "description": "size at which output is archived (default 10MB)"},
                "keep": {"type": "integer", "minimum": 1, "maximum": 100, "description": "archives kept of each stream (default 3)"}},
                "description": "how much output is kept"},
            "ready_timeout": {"type": "string", "format": "hms-duration", "x-value": "DURATION", "default": "1m",
                "description": "not ready after this long is a failed start"},
        }),
        &["command"],
    );
    schema["x-trailing"] = "command".into();
    schema
}
