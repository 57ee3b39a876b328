//! What stands between an MCP client and a stdio server: added latency of a call, added start, memory. One server,
//! which does nothing (`tests/mcp/bench/server.rs`), bare, behind `codex-hms mcp wrap`, and behind the proxies that
//! people use today, all in one run and in turns. Those proxies speak HTTP to the client, so that their figures
//! hold what that costs: `codex-hms mcp pool` is their like.
//!
//! | file | what |
//! | --- | --- |
//! | `stdio`, `http` | the clients |
//! | `peers` | the proxies of others |
//! | `tree` | the memory of processes |
//! | `report` | the table, and the same as JSON |

mod http;
mod peers;
mod report;
mod stdio;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use self::{report::Measured, stdio::Pipes, tree::Memory};
use crate::{Outcome, root};

type Any = Box<dyn std::error::Error>;

/// Calls are made in turns of so many.
const TURN: usize = 50;
/// Not measured, before the first turn: a compiler at run time may need them.
const WARM: usize = 500;
/// After so long nothing is left to do of a start: also what ours does after a second is done.
const SETTLE: Duration = Duration::from_millis(1500);
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const USAGE: &str = "cargo xtask bench mcp [options]
  --calls N         calls of each (5000)
  --starts N        starts of each (25)
  --bytes N         length of the text of a call and of its answer (2)
  --profile NAME    how codex-hms is built (dist)
  --program PATH    measure this codex-hms as it is, and build none; may be repeated, to compare
  --without-peers   ours alone, with nothing to install
  --json            print JSON";

/// A way to the server.
trait Way {
    /// Sends a request and waits for its answer; how long that took.
    fn ask(&mut self, id: usize, message: &str) -> Result<Duration, Any>;
    /// Says that the handshake is done.
    fn initialized(&mut self) -> Result<(), Any>;
    /// The process that was started.
    fn pid(&self) -> u32;
}

/// One to be measured.
struct Contender {
    name: String,
    /// Starts it; returns as soon as `initialize` is answered.
    begin: Box<dyn Fn() -> Result<Box<dyn Way>, Any>>,
}

struct Options {
    calls: usize,
    starts: usize,
    bytes: usize,
    profile: String,
    programs: Vec<PathBuf>,
    peers: bool,
    json: bool,
}

pub(super) fn run(args: &[String]) -> Outcome {
    let options = Options::parse(args)?;
    let programs = match options.programs.is_empty() {
        true => vec![build(&options.profile)?],
        false => options.programs.clone(),
    };
    let (server, dir) = (server()?, tempfile::tempdir()?);
    let line = vec![server.display().to_string(), options.bytes.to_string()];
    let mut contenders = ours(&line, &programs, &dir.path().join("home"));
    if options.peers {
        contenders.extend(peers::all(&line)?);
    }
    let starts = starts(&contenders, options.starts)?;
    let mut measured = calls(&contenders, &options, &server)?;
    for (measured, starts) in measured.iter_mut().zip(starts) {
        measured.starts = starts;
    }
    match options.json {
        true => println!("{:#}", report::json(&measured, &options)),
        false => print!("{}", report::table(&measured, &options)),
    }
    Ok(())
}

impl Options {
    fn parse(args: &[String]) -> Result<Self, Any> {
        let profile = "dist".to_owned();
        let mut options = Self {
            calls: 5000,
            starts: 25,
            bytes: 2,
            profile,
            programs: Vec::new(),
            peers: true,
            json: false,
        };
        let mut words = args.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} takes a value\n\n{USAGE}"));
            match word.as_str() {
                "--calls" => options.calls = value()?.parse()?,
                "--starts" => options.starts = value()?.parse()?,
                "--bytes" => options.bytes = value()?.parse()?,
                "--profile" => value()?.clone_into(&mut options.profile),
                "--program" => options.programs.push(fs::canonicalize(value()?)?),
                "--without-peers" => options.peers = false,
                "--json" => options.json = true,
                _ => return Err(format!("there is no {word}\n\n{USAGE}").into()),
            }
        }
        Ok(options)
    }
}

/// The bare server, and ours before it.
fn ours(server: &[String], programs: &[PathBuf], home: &Path) -> Vec<Contender> {
    let command = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("HMS_HOME", home);
        command
    };
    let bare = server.to_vec();
    let begin = move || Ok(Box::new(Pipes::begin(with(Command::new(&bare[0]), &bare[1..]))?) as Box<dyn Way>);
    let mut all = vec![Contender { name: "bare".into(), begin: Box::new(begin) }];
    for (n, program) in programs.iter().enumerate() {
        let number = if programs.len() > 1 { format!(" #{}", n + 1) } else { String::new() };
        let (line, make) = (server.to_vec(), command(program, &["mcp", "wrap", "--host", "never", "--"]));
        let begin = move || Ok(Box::new(Pipes::begin(with(copy(&make), &line))?) as Box<dyn Way>);
        all.push(Contender { name: format!("codex-hms mcp wrap{number}"), begin: Box::new(begin) });
        let (line, make) = (server.to_vec(), command(program, &["mcp", "pool", "--host", "never"]));
        all.push(peers::contender(&format!("codex-hms mcp pool{number}"), "/mcp", move |port| {
            let listen = format!("127.0.0.1:{port}");
            let made =
                with(copy(&make), &["--token".into(), "none".into(), "--listen".into(), listen, "--".into()]);
            with(made, &line)
        }));
    }
    all
}

/// A command cannot be cloned.
fn copy(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    copy
}

fn with(mut command: Command, args: &[String]) -> Command {
    command.args(args);
    command
}

/// From the start of the process to the answer of `initialize`, in turns.
fn starts(contenders: &[Contender], rounds: usize) -> Result<Vec<Vec<Duration>>, Any> {
    let mut times = vec![Vec::new(); contenders.len()];
    // The first round fills the page cache and does not count.
    for round in 0..=rounds {
        for (contender, times) in contenders.iter().zip(&mut times) {
            let begun = Instant::now();
            let way = (contender.begin)().map_err(|e| format!("{}: {e}", contender.name))?;
            let took = begun.elapsed();
            // At rest before it ends, so that its end costs the next one nothing.
            thread::sleep(Duration::from_millis(20));
            drop(way);
            if round > 0 {
                times.push(took);
            }
        }
    }
    Ok(times)
}

/// The calls of all, in turns, and their memory before and after.
fn calls(contenders: &[Contender], options: &Options, server: &Path) -> Result<Vec<Measured>, Any> {
    let mut running = Vec::new();
    for contender in contenders {
        let mut way = (contender.begin)()?;
        way.initialized()?;
        running.push((way, Measured::new(contender.name.clone())));
    }
    thread::sleep(SETTLE);
    for (way, measured) in &mut running {
        measured.memory_at_rest = Memory::beside(server, way.pid());
    }
    let call = |way: &mut Box<dyn Way>, id: usize| way.ask(id, &call(id, options.bytes));
    for (way, _) in &mut running {
        (1..=WARM).try_for_each(|id| call(way, id).map(drop))?;
    }
    for turn in 0..options.calls.div_ceil(TURN) {
        for (way, measured) in &mut running {
            let first = WARM + turn * TURN + 1;
            let times = (first..first + TURN).map(|id| call(way, id)).collect::<Result<Vec<_>, Any>>();
            measured.turns.push(times.map_err(|e| format!("{}: {e}", measured.name))?);
        }
    }
    for (way, measured) in &mut running {
        measured.memory_after = Memory::beside(server, way.pid());
    }
    Ok(running.into_iter().map(|(_, measured)| measured).collect())
}

fn hello() -> String {
    r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#.into()
}

fn call(id: usize, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{text}"}}}}}}"#
    )
}

/// Whether what was read holds the whole answer of a request.
fn is_answer(text: &str, id: usize) -> bool {
    (text.ends_with('\n') || text.ends_with('}'))
        && text.contains("\"result\"")
        && text.contains(&format!("\"id\":{id}"))
}

fn build(profile: &str) -> Result<PathBuf, Any> {
    let args = ["build", "--quiet", "--package", "codex-hms", "--profile", profile];
    let status = Command::new(env!("CARGO")).args(args).current_dir(root()).status()?;
    if !status.success() {
        return Err("codex-hms does not build".into());
    }
    let folder = if profile == "dev" { "debug" } else { profile };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(folder).join("codex-hms"))
}

/// The server, compiled by itself so that it starts with nothing but what it needs.
fn server() -> Result<PathBuf, Any> {
    let (source, folder) = (root().join("tests/mcp/bench/server.rs"), root().join("target/bench"));
    fs::create_dir_all(&folder)?;
    let program = folder.join("mcp-server");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status =
        Command::new(rustc).args(["-O", "--edition", "2024", "-o"]).arg(&program).arg(&source).status()?;
    if status.success() { Ok(fs::canonicalize(program)?) } else { Err("the server does not compile".into()) }
}
