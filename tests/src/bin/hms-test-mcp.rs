//! A real MCP server on stdio with every vice a server can have, for the tests that put clients in front of it.
//!
//! `hms-test-mcp DIR [--litter] [--ignore-eof] [--pace MICROS] [--modern]`. What it does is written into `DIR`, one line each, so that a
//! test sees it without asking the client: `lives` (a pid for each life), `litter` (pids of grandchildren in
//! sessions of their own), `calls` (`<life> <tool> <argument>`), `appended` (what `append` wrote).
//! A vice that shows once is a file that the next call of its tool takes away: `die-before`, `die-after`
//! (its work is done), `stop` (SIGSTOP to itself). `start-after` holds milliseconds that a start takes.
//! With `--pace`, `echo` and `append` take so long before their work and as long again after it, so that what
//! comes from outside finds them at either; with `--modern` it speaks 2026-07-28 as well.

use std::{
    env, fs,
    io::{self, BufRead, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((dir, options)) if options.iter().any(|o| o == "--idle") => idle(Path::new(dir)),
        Some((dir, options)) => serve(Path::new(dir), options),
        None => Err(io::Error::other("a folder is needed: hms-test-mcp DIR [--litter] [--ignore-eof]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("hms-test-mcp: {e}");
            ExitCode::FAILURE
        }
    }
}

/// One life.
struct Server {
    dir: PathBuf,
    life: usize,
    pace: Duration,
    modern: bool,
}

fn serve(dir: &Path, options: &[String]) -> io::Result<()> {
    note(dir, "lives", &pid())?;
    let life = fs::read_to_string(dir.join("lives"))?.lines().count();
    if options.iter().any(|o| o == "--litter") {
        litter(dir)?;
    }
    if let Ok(millis) = fs::read_to_string(dir.join("start-after")) {
        thread::sleep(Duration::from_millis(millis.trim().parse().unwrap_or(0)));
    }
    let pace = options.iter().skip_while(|o| *o != "--pace").nth(1).and_then(|micros| micros.parse().ok());
    let server = Server {
        dir: dir.to_owned(),
        life,
        pace: Duration::from_micros(pace.unwrap_or(0)),
        modern: options.iter().any(|o| o == "--modern"),
    };
    for line in io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let Some(id) = message.get("id").filter(|_| message["method"].is_string()) else { continue };
        let reply = match server.answer(&message) {
            Ok(mut result) => {
                if server.modern && is_modern(&message) {
                    // What 2026-07-28 wants in every result, or in one of those here.
                    result["resultType"] = "complete".into();
                    result["ttlMs"] = 0.into();
                    result["cacheScope"] = "private".into();
                }
                json!({"jsonrpc": "2.0", "id": id, "result": result})
            }
            Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
        };
        say(&reply)?;
    }
    if options.iter().any(|o| o == "--ignore-eof") {
        forever();
    }
    Ok(())
}

impl Server {
    fn answer(&self, message: &Value) -> Result<Value, Value> {
        let params = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "initialize" => Ok(json!({
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "hms-test-mcp", "version": "1"},
            })),
            "server/discover" if self.modern => Ok(json!({
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "hms-test-mcp", "version": "1"},
            })),
            "ping" => Ok(json!({})),
            "tools/list" => Ok(json!({"tools": tools()})),
            "tools/call" => self
                .call(params)
                .map(|text| json!({"content": [{"type": "text", "text": text}]}))
                .map_err(|e| json!({"code": -32603, "message": e.to_string()})),
            other => Err(json!({"code": -32601, "message": format!("there is no {other}")})),
        }
    }

    fn call(&self, params: &Value) -> io::Result<String> {
        let tool = params["name"].as_str().unwrap_or_default();
        let text = params["arguments"]["text"].as_str().unwrap_or_default();
        note(&self.dir, "calls", &format!("{} {tool} {text}", self.life))?;
        match tool {
            "whoami" => Ok(format!("life {} pid {}", self.life, pid())),
            "flaky" => {
                self.vices("die-before");
                Ok(format!("survived in life {}", self.life))
            }
            "echo" => {
                thread::sleep(self.pace * 2);
                Ok(text.to_owned())
            }
            "append" => {
                self.vices("die-before");
                thread::sleep(self.pace);
                note(&self.dir, "appended", text)?;
                self.vices("die-after");
                thread::sleep(self.pace);
                Ok(format!("appended {text}"))
            }
            "nap" => {
                self.nap(text.parse().unwrap_or(0), &params["_meta"]["progressToken"])?;
                Ok(format!("woke in life {}", self.life))
            }
            _ => Err(io::Error::other(format!("there is no tool {tool}"))),
        }
    }

    /// Dies or stops here, if the test left the file for it.
    fn vices(&self, death: &str) {
        let takes = |name: &str| fs::remove_file(self.dir.join(name)).is_ok();
        if takes(death) {
            let _ = kill_process(getpid(), Signal::KILL);
        }
        if takes("stop") {
            let _ = kill_process(getpid(), Signal::STOP);
        }
    }

    /// Takes its time, and says how far it is.
    fn nap(&self, millis: u64, token: &Value) -> io::Result<()> {
        const STEP: u64 = 100;
        for done in 0..millis.div_ceil(STEP) {
            thread::sleep(Duration::from_millis(STEP));
            if !token.is_null() {
                let params = json!({"progressToken": token, "progress": done * STEP, "total": millis});
                say(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))?;
            }
        }
        Ok(())
    }
}

/// Whether a request is of 2026-07-28 or later: each names its version.
fn is_modern(message: &Value) -> bool {
    message["params"]["_meta"].get("io.modelcontextprotocol/protocolVersion").is_some()
}

fn tools() -> Value {
    let text = json!({"type": "object", "properties": {"text": {"type": "string"}}});
    let reads = json!({"readOnlyHint": true});
    let writes = json!({"readOnlyHint": false, "idempotentHint": false});
    json!([
        {"name": "whoami", "description": "Which life answers", "inputSchema": text, "annotations": reads},
        {"name": "flaky", "description": "Dies once", "inputSchema": text, "annotations": reads},
        {"name": "nap", "description": "Takes its time", "inputSchema": text, "annotations": reads},
        {"name": "echo", "description": "Says what it was told", "inputSchema": text, "annotations": reads},
        {"name": "append", "description": "Adds a line", "inputSchema": text, "annotations": writes},
    ])
}

/// Leaves a grandchild in a session of its own, whose parent is gone.
fn litter(dir: &Path) -> io::Result<()> {
    let this = env::current_exe()?;
    Command::new("setsid").arg("--fork").arg(this).arg(dir).arg("--idle").stdin(Stdio::null()).status()?;
    let of_this_life = fs::read_to_string(dir.join("lives"))?.lines().count();
    while fs::read_to_string(dir.join("litter")).unwrap_or_default().lines().count() < of_this_life {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn idle(dir: &Path) -> io::Result<()> {
    note(dir, "litter", &pid())?;
    forever()
}

fn forever() -> ! {
    loop {
        thread::park();
    }
}

fn say(message: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{message}")?;
    out.flush()
}

/// Adds a line to a file; lines of two lives do not mix.
fn note(dir: &Path, name: &str, line: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(dir.join(name))?;
    file.write_all(format!("{line}\n").as_bytes())
}

fn pid() -> String {
    getpid().as_raw_nonzero().to_string()
}
