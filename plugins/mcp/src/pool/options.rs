//! What may be said to `mcp pool`: on the command line, in the section `mcp` of the configuration, and in the
//! `mcpServers` of the JSON files that MCP clients have.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Kernel, Result, bytesize, config::Config, config::Section, duration, schema::object,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::hosted::Share;
use crate::{agent::Presence, relay::Settings};

/// The arguments of the command, as its schema lets them through.
#[derive(Debug, Deserialize)]
pub(super) struct Args {
    #[serde(default)]
    pub(super) command: Vec<String>,
    pub(super) name: Option<String>,
    pub(super) listen: SocketAddr,
    #[serde(default)]
    pub(super) expose: bool,
    pub(super) token: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    #[serde(default)]
    pub(super) allow_host: Vec<String>,
    #[serde(default)]
    pub(super) allow_origin: Vec<String>,
    pub(super) config: Option<PathBuf>,
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) header: Vec<String>,
    #[serde(with = "duration::text")]
    pub(super) wait: Duration,
    pub(super) share: String,
    #[serde(default)]
    pub(super) stateful: bool,
    #[serde(default)]
    pub(super) retry: Vec<String>,
    #[serde(default, with = "duration::option")]
    pub(super) hang_timeout: Option<Duration>,
    #[serde(default, with = "bytesize::option")]
    pub(super) memory_limit: Option<u64>,
    pub(super) host: Presence,
    pub(super) max_servers: usize,
    pub(super) max_sessions: usize,
    #[serde(with = "bytesize::text")]
    pub(super) max_body: u64,
    #[serde(with = "duration::text")]
    pub(super) idle: Duration,
    #[serde(with = "duration::text")]
    pub(super) session_idle: Duration,
    #[serde(default, with = "duration::option")]
    pub(super) poll_after: Option<Duration>,
}

/// The properties of [`Args`].
pub(super) fn properties() -> Value {
    let duration = |default: Option<&str>, text: &str| {
        let mut schema =
            json!({"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": text});
        if let Some(default) = default {
            schema["default"] = default.into();
        }
        schema
    };
    let list = |value: &str, text: &str| json!({"type": "array", "items": {"type": "string"}, "x-value": value, "description": text});
    json!({
        "command": list("COMMAND", "the server's command line, after --"),
        "name": {"type": "string", "x-value": "NAME", "pattern": "^[A-Za-z0-9_.-]+$", "description": "name of the server (default: of its program)"},
        "listen": {"type": "string", "x-value": "ADDRESS", "default": "127.0.0.1:7437", "description": "address to listen at; port 0 takes a free one"},
        "expose": {"type": "boolean", "description": "allow an address that other machines reach"},
        "token": {"type": "string", "x-value": "TOKEN", "x-secret": true, "description": "what clients send as Authorization: Bearer (default: $HMS_MCP_TOKEN, else that of --token-file; `none` for no token)"},
        "token_file": {"type": "string", "x-value": "FILE", "description": "where the token is kept; one is made up and printed when there is none (default: mcp-pool.token in the home)"},
        "allow_host": list("NAME", "a further name that requests may be for (repeatable)"),
        "allow_origin": list("ORIGIN", "a web page's origin that may ask, such as https://example.com (repeatable)"),
        "config": {"type": "string", "x-value": "FILE", "description": "serve the `mcpServers` of this JSON file"},
        "url": {"type": "string", "x-value": "URL", "description": "stand in front of this MCP server on HTTP instead of a command"},
        "header": {"type": "array", "items": {"type": "string"}, "x-secret": true, "x-value": "HEADER", "description": "with --url: `Name: value` to send to the server (repeatable)"},
        "wait": duration(Some("10s"), "with --url: how long a request waits for a server that is away"),
        "share": {"type": "string", "enum": ["auto", "never", "always"], "default": "auto", "description": "whether sessions share a process: where it is certain what belongs to whom, never, always"},
        "stateful": {"type": "boolean", "description": "the server holds a session: it is not stopped while a client has one, and a restart is not hidden"},
        "retry": list("TOOL", "a tool whose calls may be sent a second time when the server dies (repeatable)"),
        "hang_timeout": duration(None, "how long a call may take before the server is probed (default 45s)"),
        "memory_limit": {"type": "string", "format": "hms-bytes", "x-value": "SIZE", "description": "restart a server whose processes hold more memory"},
        "host": {"enum": ["if-running", "auto", "never"], "default": "if-running", "description": "whether servers are shown as agents: of a host that runs, now or later; of one that is started if need be; of none"},
        "max_servers": {"type": "integer", "minimum": 1, "default": 16, "x-value": "N", "description": "server processes at the same time"},
        "max_sessions": {"type": "integer", "minimum": 1, "default": 256, "x-value": "N", "description": "sessions at the same time"},
        "max_body": {"type": "string", "format": "hms-bytes", "default": "64MiB", "x-value": "SIZE", "description": "largest request"},
        "idle": duration(Some("10m"), "stop a server nobody has used for this long; the next request starts it again"),
        "session_idle": duration(Some("1h"), "forget a session nobody has used for this long"),
        "poll_after": duration(None, "hang up on calls that take longer and let clients of 2025-11-25 come back for the answer (default: never)"),
    })
}

/// A server to put behind the pool.
#[derive(Debug, Clone)]
pub(super) struct ServerSpec {
    /// Its name, which is its path when there are several.
    pub(super) name: String,
    /// How it is reached.
    pub(super) reach: Reach,
}

/// How a server is reached.
#[derive(Debug, Clone)]
pub(super) enum Reach {
    /// By starting it.
    Command {
        /// Program and arguments.
        command: Vec<OsString>,
        /// Variables beside those that the pool has itself.
        env: Vec<(OsString, OsString)>,
        /// Its working directory.
        cwd: Option<PathBuf>,
        /// Whether its clients share it.
        share: Share,
        /// How it is supervised.
        settings: Box<Settings>,
    },
    /// At this address, with these headers.
    Url(String, Vec<String>),
}

/// A server in the configuration or in a client's JSON file.
#[derive(Debug, Deserialize)]
struct Entry {
    command: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    share: Option<String>,
    stateful: Option<bool>,
    #[serde(default)]
    disabled: bool,
}

/// The section `mcp` of the configuration.
pub(super) fn section() -> Section {
    let text = |text: &str| json!({"type": "string", "description": text});
    let map = |text: &str| json!({"type": "object", "additionalProperties": {"type": "string"}, "description": text});
    let server = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "command": text("the program to start"),
            "args": {"type": "array", "items": {"type": "string"}, "description": "its arguments"},
            "env": map("variables to set for it"),
            "cwd": text("its working directory"),
            "url": text("the http:// address of a server that runs already, instead of a program"),
            "headers": map("with url: headers to send to it"),
            "share": {"type": "string", "enum": ["auto", "never", "always"], "description": "whether sessions share a process"},
            "stateful": {"type": "boolean", "description": "it holds a session"},
            "disabled": {"type": "boolean", "description": "leave it out"},
        },
    });
    let servers = json!({"type": "object", "additionalProperties": server, "description": "servers of `mcp pool`, by name"});
    Section { name: "mcp".into(), schema: object(json!({ "servers": servers }), &[]) }
}

/// The servers that are meant.
///
/// # Errors
/// When none is, when more than one way is used, or when a file cannot be read.
pub(super) fn servers(args: &Args, kernel: &Kernel, home: &Path) -> Result<Vec<ServerSpec>> {
    let ways = [!args.command.is_empty(), args.url.is_some(), args.config.is_some()];
    if ways.iter().filter(|w| **w).count() > 1 {
        return Err(Error::argument("command", "a command after --, --url and --config exclude one another"));
    }
    if !args.command.is_empty() {
        let program = Path::new(&args.command[0]).file_stem().map(|s| s.to_string_lossy().into_owned());
        let name = args.name.clone().or(program).unwrap_or_else(|| "server".into());
        let command = args.command.iter().map(Into::into).collect();
        let (share, settings) = (share(&args.share), settings(args, &name, args.stateful));
        let reach =
            Reach::Command { command, env: Vec::new(), cwd: None, share, settings: Box::new(settings) };
        return Ok(vec![ServerSpec { name, reach }]);
    }
    if let Some(url) = &args.url {
        let name = args.name.clone().unwrap_or_else(|| "server".into());
        return Ok(vec![ServerSpec { name, reach: Reach::Url(url.clone(), args.header.clone()) }]);
    }
    let (entries, origin) = match &args.config {
        Some(file) => (of_client_file(file)?, file.display().to_string()),
        None => of_configuration(kernel, home)?,
    };
    let mut specs = Vec::new();
    for (name, entry) in entries.into_iter().filter(|(_, e)| !e.disabled) {
        if args.name.as_ref().is_none_or(|only| *only == name) {
            specs.push(spec(args, name, entry, &origin)?);
        }
    }
    if specs.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("there is no server to serve in {origin}"),
        )
        .hint("give a command after --, --url, --config FILE, or [mcp.servers.NAME] in the configuration"));
    }
    Ok(specs)
}

fn spec(args: &Args, name: String, entry: Entry, origin: &str) -> Result<ServerSpec> {
    let wrong =
        |what: &str| Error::new(ErrorKind::InvalidConfig, format!("{origin}: server `{name}` {what}"));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(wrong("has a name that is no part of a URL (letters, digits, _ . - are)"));
    }
    let reach = match (entry.command, entry.url) {
        (Some(program), None) => {
            let command = std::iter::once(program).chain(entry.args).map(Into::into).collect();
            let env = entry.env.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
            let share = share(entry.share.as_deref().unwrap_or(&args.share));
            let settings = settings(args, &name, entry.stateful.unwrap_or(args.stateful));
            Reach::Command { command, env, cwd: entry.cwd, share, settings: Box::new(settings) }
        }
        (None, Some(url)) => {
            Reach::Url(url, entry.headers.into_iter().map(|(n, v)| format!("{n}: {v}")).collect())
        }
        _ => return Err(wrong("must have either `command` or `url`")),
    };
    Ok(ServerSpec { name, reach })
}

fn of_client_file(file: &Path) -> Result<BTreeMap<String, Entry>> {
    #[derive(Deserialize)]
    struct File {
        #[serde(rename = "mcpServers")]
        servers: BTreeMap<String, Entry>,
    }
    let text = fs::read_to_string(file).map_err(|e| Error::io(file.display(), &e))?;
    let parsed: File = serde_json::from_str(&text)
        .map_err(|e| Error::new(ErrorKind::InvalidConfig, format!("{}: {e}", file.display())))?;
    Ok(parsed.servers)
}

fn of_configuration(kernel: &Kernel, home: &Path) -> Result<(BTreeMap<String, Entry>, String)> {
    #[derive(Deserialize)]
    struct Mcp {
        #[serde(default)]
        servers: BTreeMap<String, Entry>,
    }
    let path = home.join("config.toml");
    let sections = kernel.plugins().manifests().into_iter().flat_map(|m| m.sections).collect();
    let mcp: Mcp = Config::load(&path, sections)?.section("mcp")?;
    Ok((mcp.servers, path.display().to_string()))
}

fn share(text: &str) -> Share {
    match text {
        "never" => Share::Never,
        "always" => Share::Always,
        _ => Share::Auto,
    }
}

fn settings(args: &Args, name: &str, stateful: bool) -> Settings {
    let base = Settings::default();
    Settings {
        name: name.into(),
        stateful,
        resend_tools: args.retry.iter().cloned().collect::<BTreeSet<_>>(),
        hang_timeout: args.hang_timeout.or(base.hang_timeout),
        memory_limit: args.memory_limit,
        ..base
    }
}
