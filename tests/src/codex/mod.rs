//! The real Codex, from npm, in a home of its own, with a scripted model on the loopback.
//!
//! Everything that a session starts is ended with it: Codex by its pid, servers by what they wrote down.

mod install;
mod model;
mod server;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

pub use install::{codex_launcher, codex_program, new_node};
pub use model::{Model, Output, Say, Seen};
pub use server::{Handle, Server};

use crate::{processes, text};

/// No session takes longer.
const SESSION: Duration = Duration::from_secs(60);

/// A `CODEX_HOME` of a test's own, an empty folder to work in, and a model.
pub struct Codex {
    dir: TempDir,
    model: Model,
}

impl Codex {
    /// Codex with this model and these servers (and other tables), given as TOML.
    pub fn new(model: Model, servers: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("hms-codex-").tempdir().expect("a folder can be made");
        for folder in ["codex", "work", "user"] {
            fs::create_dir(dir.path().join(folder)).expect("it is empty");
        }
        let this = Self { dir, model };
        this.configure(servers);
        this
    }

    /// The same user in the same folder, with another model and configuration.
    pub fn again(&mut self, model: Model, servers: &str) {
        self.model = model;
        self.configure(servers);
    }

    fn configure(&self, servers: &str) {
        let url = self.model.url();
        let config = format!(
            "model = \"scripted\"\n\
             model_provider = \"scripted\"\n\
             approval_policy = \"never\"\n\
             sandbox_mode = \"danger-full-access\"\n\
             check_for_update_on_startup = false\n\n\
             [model_providers.scripted]\n\
             name = \"scripted\"\n\
             base_url = \"{url}\"\n\
             wire_api = \"responses\"\n\
             requires_openai_auth = false\n\
             supports_websockets = false\n\
             request_max_retries = 0\n\
             stream_max_retries = 0\n\n\
             [analytics]\n\
             enabled = false\n\n\
             [otel]\n\
             exporter = \"none\"\n\
             metrics_exporter = \"none\"\n\n\
             {servers}"
        );
        fs::write(self.config(), config).expect("the folder is ours");
    }

    /// `CODEX_HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("codex")
    }

    /// `CODEX_HOME/config.toml`.
    pub fn config(&self) -> PathBuf {
        self.home().join("config.toml")
    }

    /// The folder that Codex works in.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A command with an environment of its own: this `CODEX_HOME`, and no way out to the network.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path().join("user"))
            .env("CODEX_HOME", self.home())
            .env("NO_COLOR", "1")
            .current_dir(self.work());
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env(proxy, "http://127.0.0.1:9");
        }
        command.env("NO_PROXY", "127.0.0.1,localhost").env("no_proxy", "127.0.0.1,localhost");
        command
    }

    /// The arguments of a session that asks nobody.
    pub fn exec_args(&self) -> [&'static str; 4] {
        ["exec", "--json", "--skip-git-repo-check", "go"]
    }

    /// Starts a session.
    pub fn start(&self) -> Session {
        let mut command = self.command(&codex_program());
        command.args(self.exec_args());
        Session::of(command)
    }

    /// Runs a session to its end; what the model saw.
    #[track_caller]
    pub fn run(&self) -> Seen {
        self.start().finish();
        self.model.seen()
    }
}

/// A running session. Dropped, it is killed.
pub struct Session {
    child: Child,
    lines: mpsc::Receiver<String>,
    events: Vec<Value>,
}

impl Session {
    /// A session by a command line of the caller's.
    pub fn of(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
        let (tell, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let err = BufReader::new(child.stderr.take().expect("it is piped"));
        let from_out = tell.clone();
        thread::spawn(move || out.lines().map_while(Result::ok).for_each(|l| drop(from_out.send(l))));
        thread::spawn(move || err.lines().map_while(Result::ok).for_each(|l| drop(tell.send(l))));
        Self { child, lines, events: Vec::new() }
    }

    /// Codex's pid.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// kill -9; it is gone when this returns.
    pub fn kill(mut self) {
        processes::kill(self.pid());
        let _ = self.child.wait();
    }

    /// Waits for its end, which must be a good one; the events that it printed.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Value> {
        let deadline = Instant::now() + SESSION;
        let mut said = String::new();
        // Not by the end of the output: what a session leaves behind holds that open.
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                break status;
            }
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => take(&line, &mut self.events, &mut said),
                Err(mpsc::RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(10)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            assert!(Instant::now() < deadline, "the session does not end:\n{said}");
        };
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
            take(&line, &mut self.events, &mut said);
        }
        assert!(status.success(), "codex ended with {status}:\n{said}");
        std::mem::take(&mut self.events)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn take(line: &str, events: &mut Vec<Value>, said: &mut String) {
    said.push_str(line);
    said.push('\n');
    events.extend(serde_json::from_str::<Value>(line).ok());
}

/// A TOML array of strings.
pub fn toml_list<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    // A JSON array of strings is a TOML one.
    serde_json::to_string(&words).expect("texts")
}

/// The table of a server in Codex's configuration.
pub fn server_table(name: &str, command: &[String], options: &str) -> String {
    let (program, args) = command.split_first().expect("a program");
    let (program, args) = (toml_list(&[program]), toml_list(args));
    let program = program.trim_matches(['[', ']']);
    format!("[mcp_servers.{name}]\ncommand = {program}\nargs = {args}\n{options}\n\n")
}

/// `codex-hms mcp wrap OPTIONS -- COMMAND`.
pub fn wrapped(options: &[&str], command: Vec<String>) -> Vec<String> {
    let hms = crate::hms_program();
    let start = [text(&hms), "mcp", "wrap"];
    let words = start.iter().chain(options).chain(&["--"]).map(|word| (*word).to_owned());
    words.chain(command).collect()
}
