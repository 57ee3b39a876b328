//! A stdio MCP server that does what a call's tool is named, and no more of the protocol than that needs: for the
//! tests of what passes between a client and a server, and of what does not.
//!
//! `hms-test-mcp-raw DIR [--ignore-eof] [--exit CODE]`. `DIR/lives` gets a pid for each life, `DIR/said` every line
//! that came in, `DIR/appended` what `append` wrote. `--exit` is the code when its input ends.

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

struct Server {
    dir: PathBuf,
    stateless: bool,
    hoard: Vec<Vec<u8>>,
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|a| a == name);
    let dir = PathBuf::from(args.first().expect("a folder is needed"));
    note(&dir, "lives", &pid());
    let mut server = Server { dir, stateless: option("--stateless").is_some(), hoard: Vec::new() };
    for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
        note(&server.dir, "said", &String::from_utf8_lossy(&line[..line.len().min(400)]));
        match serde_json::from_slice::<Value>(&line) {
            Ok(Value::Array(batch)) => {
                let answers: Vec<Value> = batch.iter().filter_map(|m| server.answer(m)).collect();
                say(&Value::Array(answers));
            }
            Ok(message) => {
                if let Some(answer) = server.answer(&message) {
                    say(&answer);
                }
            }
            Err(e) => say(
                &json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": e.to_string()}}),
            ),
        }
    }
    while option("--ignore-eof").is_some() {
        thread::park();
    }
    let code = option("--exit").and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(0);
    ExitCode::from(code)
}

impl Server {
    fn answer(&mut self, message: &Value) -> Option<Value> {
        let id = message.get("id")?;
        let params = &message["params"];
        let result = match message["method"].as_str()? {
            "initialize" if self.stateless => Err("there is no initialize any more"),
            "initialize" => Ok(
                json!({"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {"listChanged": true}},
                "serverInfo": {"name": "raw", "version": "1"}}),
            ),
            "server/discover" if self.stateless => Ok(json!({"supportedVersions": ["2026-07-28"]})),
            "ping" if self.stateless => Err("there is no ping any more"),
            "ping" | "resources/subscribe" | "logging/setLevel" => Ok(json!({})),
            "tools/list" => Ok(json!({"tools": self.tools()})),
            "tools/call" => Ok(json!({"content": [{"type": "text", "text": self.call(params)}]})),
            _ => Err("there is no such method"),
        };
        Some(match result {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(why) => json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": why}}),
        })
    }

    fn tools(&self) -> Value {
        let tool = |name: &str, reads: bool| json!({"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": reads}});
        let mut tools =
            vec![tool("who", true), tool("append", false), tool("freeze", true), tool("die", true)];
        if self.dir.join("more-tools").exists() {
            tools.push(tool("more", false));
        }
        Value::Array(tools)
    }

    fn call(&mut self, params: &Value) -> String {
        let args = &params["arguments"];
        let text = args["text"].as_str().unwrap_or_default();
        match params["name"].as_str().unwrap_or_default() {
            "append" => {
                self.vice("die-before");
                note(&self.dir, "appended", text);
                self.vice("die-after");
            }
            "freeze" => self.vice("freeze"),
            "spin" => loop {
                std::hint::spin_loop();
            },
            "die" => self.vice("die"),
            "crash" => {
                eprintln!("out of ideas");
                std::process::exit(3);
            }
            "echo" => return text.to_owned(),
            "big" => return "x".repeat(usize::try_from(args["bytes"].as_u64().unwrap_or(0)).unwrap_or(0)),
            "half" => {
                let mut out = io::stdout().lock();
                let _ = write!(out, "{{\"result\":\"{}", "x".repeat(3 << 20)).and_then(|()| out.flush());
                kill(Signal::KILL);
            }
            "noise" => {
                eprintln!("{text}");
                println!("this is no JSON");
            }
            "ask" => say(
                &json!({"jsonrpc": "2.0", "id": 0, "method": "sampling/createMessage", "params": {"text": text}}),
            ),
            "litter" => {
                let child =
                    Command::new("setsid").args(["--fork", "sleep", "1000"]).stdin(Stdio::null()).status();
                child.expect("setsid is there");
            }
            "nap" => {
                for step in 0..args["steps"].as_u64().unwrap_or(0) {
                    thread::sleep(Duration::from_millis(250));
                    let progress =
                        json!({"progressToken": params["_meta"]["progressToken"], "progress": step});
                    say(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}));
                }
            }
            "hoard" => {
                let bytes = usize::try_from(args["bytes"].as_u64().unwrap_or(0)).unwrap_or(0);
                self.hoard.push(vec![1; bytes]);
            }
            "env" => return env::var(text).unwrap_or_default(),
            "cwd" => return env::current_dir().unwrap_or_default().display().to_string(),
            _ => {}
        }
        pid()
    }

    /// Does it once, if the test left the file for it.
    fn vice(&self, name: &str) {
        if fs::remove_file(self.dir.join(name)).is_ok() {
            kill(if name == "freeze" { Signal::STOP } else { Signal::KILL });
        }
    }
}

fn kill(signal: Signal) {
    kill_process(getpid(), signal).expect("a process may signal itself");
}

fn say(message: &Value) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{message}").and_then(|()| out.flush());
}

fn note(dir: &Path, name: &str, line: &str) {
    let mut file =
        fs::OpenOptions::new().create(true).append(true).open(dir.join(name)).expect("the folder is there");
    file.write_all(format!("{line}\n").as_bytes()).expect("and can be written to");
}

fn pid() -> String {
    getpid().as_raw_nonzero().to_string()
}
