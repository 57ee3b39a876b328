//! The options of `mcp wrap`, and what they come to.

use std::{collections::BTreeSet, ffi::OsString, fs::File, path::PathBuf, time::Duration};

use hms_core::{
    Error, Result, bytesize,
    clock::Rng,
    command::{CommandSpec, Surroundings},
    duration,
    supervision::Intensity,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    agent::{Presence, name_of},
    relay::{Resend, Settings},
    server::{Launch, Program},
};

const ABOUT: &str = "\
Stands between an MCP client and its stdio server: write it in front of the server's command where the client \
starts it. Messages pass as they are. When the server crashes or hangs it is replaced, its handshake replayed, \
and the client does not notice, but for an error of a call that could not be repeated safely.

A call in flight is sent again only when its tool is annotated read-only or idempotent, or --retry names it, and \
once at most. A server that hangs is told from one that is slow by a probe. When the client goes, however it goes, \
the server and all that it started are gone within a second.

The server gets the environment and folder of the client, plus the variable HMS_AGENT, by which its processes are \
found wherever they went.";

#[derive(Deserialize)]
pub(super) struct Args {
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) host: Presence,
    #[serde(default)]
    retry: Vec<String>,
    stateful: bool,
    hang_timeout: String,
    #[serde(default)]
    memory_limit: Option<String>,
    max_restarts: u32,
    #[serde(with = "duration::text")]
    within: Duration,
    #[serde(with = "duration::text")]
    start_timeout: Duration,
    #[serde(with = "duration::text")]
    grace: Duration,
    warm: bool,
    silent: bool,
}

/// The command.
pub(super) fn spec() -> CommandSpec {
    let time = |default: &str, what: &str| json!({"type": "string", "x-value": "DURATION", "default": default, "description": what});
    let mut spec = CommandSpec::new("mcp wrap", "Keep a stdio MCP server alive for the client that starts it")
        .about(ABOUT)
        .args(
            json!({
                "command": {"type": "array", "items": {"type": "string"}, "minItems": 1, "x-value": "COMMAND",
                    "description": "the server's program and its arguments"},
                "name": {"type": "string", "x-value": "NAME", "description": "what the server is called in errors and, where a host runs, as an agent"},
                "host": {"enum": ["if-running", "auto", "never"], "default": "if-running",
                    "description": "whether the server is shown as an agent: of a host that runs, now or later; of one that is started if need be; of none"},
                "retry": {"type": "array", "items": {"type": "string"}, "x-value": "TOOL",
                    "description": "send calls of this tool again, once, when the server dies; `all`: of every tool; `none`: nothing at all. May be repeated"},
                "stateful": {"type": "boolean", "default": false,
                    "description": "the server holds a session (a browser, a debugger): the first call after a restart fails and says that the session is lost"},
                "hang_timeout": time("45s", "probe the server when a call has had no answer and no progress for so long; choose it below the client's own; `0` never"),
                "memory_limit": {"type": "string", "x-value": "SIZE",
                    "description": "replace the server when its processes hold more, as soon as no call is in flight; at once when it is half more"},
                "max_restarts": {"type": "integer", "minimum": 0, "maximum": 1000, "default": 5,
                    "description": "restarts within --within, by each tool that ends the server and by the server itself, before requests get an error; 0 for no limit"},
                "within": time("1m", "the window of --max-restarts; a request after it tries the server again"),
                "start_timeout": time("2m", "how long a server that was restarted may take to answer `initialize`"),
                "grace": time("500ms", "how long the server may take to end by itself when the client goes"),
                "warm": {"type": "boolean", "default": false,
                    "description": "answer `initialize` and `tools/list` from the last known answers while the server comes up"},
                "silent": {"type": "boolean", "default": false, "description": "write no remarks to standard error"},
            }),
            &["command"],
        )
        .caller()
        .writes()
        .example("mcp wrap -- npx -y @modelcontextprotocol/server-everything")
        .example("mcp wrap --stateful --hang-timeout 20s --memory-limit 1GiB -- npx -y @playwright/mcp")
        .example("mcp wrap --retry search --retry fetch --warm -- uvx some-server");
    spec.args["x-homeless"] = true.into();
    spec.trailing = Some("command".into());
    spec
}

/// What the options come to.
pub(super) fn launch(args: &Args, around: &Surroundings, stderr: File) -> Result<Launch> {
    let hang = duration::parse(&args.hang_timeout).map_err(|e| e.context("hang_timeout"))?;
    let memory_limit =
        args.memory_limit.as_deref().map(bytesize::parse).transpose()?.filter(|limit| *limit > 0);
    if args.within.is_zero() {
        return Err(Error::argument("within", "is zero, so that nothing would ever be too much"));
    }
    let (resend, resend_tools) = resend(&args.retry)?;
    let settings = Settings {
        name: args.name.clone().unwrap_or_else(|| name_of(&args.command)),
        stateful: args.stateful,
        resend,
        resend_tools,
        hang_timeout: Some(hang).filter(|hang| !hang.is_zero()),
        memory_limit,
        intensity: Intensity { max: args.max_restarts, window: args.within },
        start_timeout: args.start_timeout,
        warm: args.warm,
        ..Settings::default()
    };
    let program = Program {
        command: args.command.iter().map(OsString::from).collect(),
        env: Vec::new(),
        cwd: None,
        realm: around.home.join("mcp-wrap"),
        id: Rng::from_os().token(12),
    };
    Ok(Launch {
        program,
        settings,
        hms: around.attach.start.as_ref().map(|start| start.program.clone()),
        memory_file: args.warm.then(|| memory_file(&args.command, around)),
        grace: args.grace,
        reporter: None,
        stderr: Some(stderr),
        remarks: !args.silent,
    })
}

fn resend(words: &[String]) -> Result<(Resend, BTreeSet<String>)> {
    let has = |word: &str| words.iter().any(|w| w == word);
    match (has("all"), has("none")) {
        (true, true) => Err(Error::argument("retry", "cannot be both `all` and `none`")),
        (_, true) if words.len() > 1 => Err(Error::argument("retry", "is `none`, and names tools as well")),
        (true, false) => Ok((Resend::All, BTreeSet::new())),
        (false, true) => Ok((Resend::Nothing, BTreeSet::new())),
        (false, false) => Ok((Resend::Annotated, words.iter().cloned().collect())),
    }
}

/// Where the last answers of this very command line, started here, are kept: the user's cache, else the home.
fn memory_file(command: &[String], around: &Surroundings) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .map_or_else(|| around.home.join("cache"), |cache| cache.join("hms"));
    let here = std::env::current_dir().unwrap_or_default();
    let text = json!([command, here.display().to_string()]).to_string();
    folder.join("mcp").join(format!("{:016x}.json", fnv(text.as_bytes())))
}

/// FNV-1a, 64 bits: stable between versions, unlike the hash of the standard library.
fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
