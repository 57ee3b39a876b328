//! What stands between an MCP client and a stdio server: added latency of a call, added start, memory. One server
//! (`hms-test-mcp`), bare, behind `codex-hms mcp wrap`, and behind the proxies that people use today, all in one
//! run and in turns. Those proxies speak HTTP to the client: their figures hold what that costs.
//!
//! `cargo xtask bench mcp [--calls N] [--starts N] [--ours]`; `--ours` leaves the others out (nothing is installed).

mod http;
mod tree;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use super::Sample;
use crate::{Outcome, root};

type Any = Box<dyn std::error::Error>;

/// Calls are made in turns of so many.
const TURN: usize = 250;
/// What is asked: the smallest request that a server answers.
const PING: &str = r#""method":"ping""#;
const HELLO: &str = r#""method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A way to the server.
trait Way {
    /// Sends a request and waits for its answer.
    fn ask(&mut self, id: usize, what: &str) -> Result<(), Any>;
    /// Says that the handshake is done.
    fn initialized(&mut self) -> Result<(), Any>;
    /// The process that was started.
    fn pid(&self) -> u32;
}

/// How to begin: until `initialize` is answered.
struct Contender {
    name: &'static str,
    begin: Box<dyn Fn() -> Result<Box<dyn Way>, Any>>,
}

pub(super) fn run(args: &[String]) -> Outcome {
    let number = |name: &str, default: usize| -> Result<usize, Any> {
        match args.iter().position(|a| a == name) {
            Some(at) => Ok(args.get(at + 1).ok_or_else(|| format!("{name} takes a number"))?.parse()?),
            None => Ok(default),
        }
    };
    let (calls, starts) = (number("--calls", 5_000)?, number("--starts", 15)?);
    build()?;
    let dir = tempfile::tempdir()?;
    let mut contenders = ours(dir.path());
    if !args.iter().any(|a| a == "--ours") {
        contenders.extend(others(dir.path())?);
    }
    let mut begun = vec![Vec::new(); contenders.len()];
    for _ in 0..starts {
        for (contender, times) in contenders.iter().zip(&mut begun) {
            let at = Instant::now();
            let way = (contender.begin)()?;
            times.push(at.elapsed());
            drop(way);
        }
    }
    let mut ways = contenders.iter().map(|c| (c.begin)()).collect::<Result<Vec<_>, Any>>()?;
    for way in &mut ways {
        way.initialized()?;
        (0..TURN).try_for_each(|id| way.ask(id, PING))?; // warm
    }
    let mut called = vec![Vec::new(); ways.len()];
    for turn in 0..calls.div_ceil(TURN) {
        for (way, times) in ways.iter_mut().zip(&mut called) {
            for n in 0..TURN {
                let at = Instant::now();
                way.ask(TURN * (turn + 1) + n, PING)?;
                times.push(at.elapsed());
            }
        }
    }
    let memory: Vec<_> = ways.iter().map(|way| tree::beside_the_server(way.pid())).collect();
    report(&contenders, begun, called, &memory);
    Ok(())
}

fn report(
    contenders: &[Contender],
    begun: Vec<Vec<Duration>>,
    called: Vec<Vec<Duration>>,
    memory: &[tree::Memory],
) {
    let (begun, called): (Vec<Sample>, Vec<Sample>) =
        (begun.into_iter().map(Sample::new).collect(), called.into_iter().map(Sample::new).collect());
    println!(
        "{:<22} {:>9} {:>9} {:>9} {:>9} {:>7}   {:>9} {:>9}   {:>9} {:>9}",
        "", "p50 call", "p99", "added", "p99", "ratio", "start", "added", "resident", "Pss"
    );
    for (n, contender) in contenders.iter().enumerate() {
        let (call, start) = (&called[n], &begun[n]);
        let micros = |d: Duration| d.as_secs_f64() * 1e6;
        let over = |part: f64| micros(call.quantile(part)) - micros(called[0].quantile(part));
        let ratio = micros(call.quantile(0.5)) / micros(called[0].quantile(0.5));
        let millis = |s: &Sample| s.quantile(0.5).as_secs_f64() * 1e3;
        println!(
            "{:<22} {:>6.1} µs {:>6.1} µs {:>6.1} µs {:>6.1} µs {ratio:>6.2}x   {:>6.1} ms {:>6.1} ms   {:>5.1} MiB {:>5.1} MiB",
            contender.name,
            micros(call.quantile(0.5)),
            micros(call.quantile(0.99)),
            over(0.5),
            over(0.99),
            millis(start),
            millis(start) - millis(&begun[0]),
            memory[n].resident as f64 / 1024.0,
            memory[n].proportional as f64 / 1024.0,
        );
        for (name, resident) in &memory[n].each {
            println!("{:<22} {name}: {:.1} MiB resident", "", *resident as f64 / 1024.0);
        }
    }
}

fn build() -> Outcome {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "-p", "codex-hms", "-p", "hms-tests", "--bins"])
        .current_dir(root())
        .status()?;
    if status.success() { Ok(()) } else { Err("codex-hms and the server do not build".into()) }
}

fn released(name: &str) -> String {
    root().join("target/release").join(name).display().to_string()
}

/// The server's command line.
fn server(dir: &Path) -> Vec<String> {
    vec![released("hms-test-mcp"), dir.display().to_string()]
}

fn ours(dir: &Path) -> Vec<Contender> {
    let bare = server(dir);
    let home = dir.join("home");
    let wrapped: Vec<String> = [released("codex-hms"), "mcp".into(), "wrap".into(), "--".into()]
        .into_iter()
        .chain(server(dir))
        .collect();
    let begin = |command: Vec<String>| -> Box<dyn Fn() -> Result<Box<dyn Way>, Any>> {
        let home = home.clone();
        Box::new(move || Ok(Box::new(Stdio3::begin(&command, &home)?) as Box<dyn Way>))
    };
    vec![
        Contender { name: "bare", begin: begin(bare) },
        Contender { name: "codex-hms mcp wrap", begin: begin(wrapped) },
    ]
}

/// The proxies of others, installed below `target/`.
fn others(dir: &Path) -> Result<Vec<Contender>, Any> {
    let to = root().join("target/bench/mcp");
    fs::create_dir_all(&to)?;
    let node = to.join("node_modules/.bin");
    if !node.join("supergateway").exists() || !node.join("mcp-proxy").exists() {
        install(
            Command::new("npm")
                .args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"])
                .arg(&to)
                .args(["mcp-proxy", "supergateway"]),
        )?;
    }
    let python = to.join("venv");
    if !python.join("bin/mcp-proxy").exists() {
        install(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
        install(Command::new(python.join("bin/pip")).args(["install", "--quiet", "mcp-proxy"]))?;
    }
    let words = |program: PathBuf, rest: &[&str]| -> Vec<String> {
        std::iter::once(program.display().to_string()).chain(rest.iter().map(|w| (*w).to_owned())).collect()
    };
    let line = server(dir).join(" ");
    let begin = |command: Vec<String>| -> Box<dyn Fn() -> Result<Box<dyn Way>, Any>> {
        Box::new(move || Ok(Box::new(http::Http::begin(&command)?) as Box<dyn Way>))
    };
    let direct = server(dir);
    let direct: Vec<&str> = direct.iter().map(String::as_str).collect();
    let npm = words(
        node.join("mcp-proxy"),
        &[&["--port", http::PORT, "--host", "127.0.0.1", "--"], direct.as_slice()].concat(),
    );
    let pypi = words(
        python.join("bin/mcp-proxy"),
        &[&["--port", http::PORT, "--host", "127.0.0.1", "--"], direct.as_slice()].concat(),
    );
    let gateway = words(
        node.join("supergateway"),
        &[
            "--stdio",
            &line,
            "--outputTransport",
            "streamableHttp",
            "--stateful",
            "--port",
            http::PORT,
            "--logLevel",
            "none",
        ],
    );
    Ok(vec![
        Contender { name: "mcp-proxy (npm)", begin: begin(npm) },
        Contender { name: "mcp-proxy (PyPI)", begin: begin(pypi) },
        Contender { name: "supergateway (npm)", begin: begin(gateway) },
    ])
}

fn install(command: &mut Command) -> Outcome {
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}

/// A server, or what stands before it, on pipes.
struct Stdio3 {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    line: String,
}

impl Stdio3 {
    fn begin(command: &[String], home: &Path) -> Result<Self, Any> {
        let (program, args) = command.split_first().ok_or("no command")?;
        let mut child = Command::new(program)
            .args(args)
            .env("HMS_HOME", home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().ok_or("no pipe")?);
        let mut way = Self { child, stdin, stdout: BufReader::new(stdout), line: String::new() };
        way.ask(0, HELLO)?;
        Ok(way)
    }
}

impl Way for Stdio3 {
    fn ask(&mut self, id: usize, what: &str) -> Result<(), Any> {
        let stdin = self.stdin.as_mut().ok_or("closed")?;
        stdin.write_all(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},{what}}}\n").as_bytes())?;
        self.line.clear();
        self.stdout.read_line(&mut self.line)?;
        if self.line.contains("\"result\"") { Ok(()) } else { Err(self.line.clone().into()) }
    }

    fn initialized(&mut self) -> Result<(), Any> {
        let stdin = self.stdin.as_mut().ok_or("closed")?;
        Ok(stdin.write_all(format!("{INITIALIZED}\n").as_bytes())?)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Stdio3 {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}
