//! A home of a test's own, and everything that runs in it ended at the end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, Events, Failure, PATIENCE, child_program, hms_program, processes, text, until};

/// No single command takes longer.
const COMMAND: Duration = Duration::from_secs(90);

/// A fresh home. Dropped, also by a panic, it ends its host and all that carries its token.
pub struct Home {
    dir: TempDir,
    path: PathBuf,
    program: PathBuf,
    child: String,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// A home that nobody has used, in a folder of its own that is empty otherwise.
    pub fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// The same in a folder of the test's choice.
    pub fn below(folder: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hms-test-")
            .tempdir_in(folder)
            .expect("a temporary folder can be made");
        let path = dir.path().canonicalize().expect("it is there").join("home");
        Self { dir, path, program: hms_program(), child: text(&child_program()).to_owned() }
    }

    /// The home's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder for the test's own files; the home is in it.
    pub fn around(&self) -> &Path {
        self.dir.path()
    }

    /// A file beside the home.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program of `src/bin/hms-test-child.rs`, for command lines.
    pub fn child(&self) -> &str {
        &self.child
    }

    /// The command line, for this home. Nothing of the tester's own system shines through.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("HMS_HOME", &self.path).env("NO_COLOR", "1").current_dir(self.dir.path());
        command.env_remove("HMS_AGENT").env_remove("HMS_LOG");
        command
    }

    /// Runs a command line to its end, whatever that is.
    pub fn run(&self, args: &[&str]) -> Answer {
        Answer::of(self.command(args), COMMAND)
    }

    /// Runs a command line that succeeds.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Answer {
        self.run(args).ok()
    }

    /// Runs a command line that succeeds, with `--json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.run(&with_json(args)).ok().json()
    }

    /// Runs a streaming command line that succeeds, with `--json`: one value a line.
    #[track_caller]
    pub fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        let out = self.run(&with_json(args)).ok().out;
        out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    /// Runs a command line that fails.
    #[track_caller]
    pub fn fails(&self, args: &[&str]) -> Failure {
        self.run(&with_json(args)).failure()
    }

    /// `agent create process --name NAME OPTIONS… -- COMMAND…`; its row.
    #[track_caller]
    pub fn create(&self, name: &str, options: &[&str], command: &[&str]) -> Value {
        let mut args = vec!["agent", "create", "process", "--name", name];
        args.extend_from_slice(options);
        args.push("--");
        args.extend_from_slice(command);
        self.json(&args)
    }

    /// The same for a process that lives longer than the command that creates it; its pid.
    #[track_caller]
    pub fn process(&self, name: &str, options: &[&str], command: &[&str]) -> i32 {
        let row = self.create(name, options, command);
        pid_of(&row).unwrap_or_else(|| panic!("no pid in {row}"))
    }

    /// The row of `agent list` for an agent.
    #[track_caller]
    pub fn agent(&self, name: &str) -> Value {
        let rows = self.json(&["agent", "list"]);
        let row = rows.as_array().into_iter().flatten().find(|r| r["name"] == name);
        row.unwrap_or_else(|| panic!("no agent `{name}` in {rows}")).clone()
    }

    /// The pid of an agent, if it has one.
    #[track_caller]
    pub fn pid(&self, name: &str) -> Option<i32> {
        pid_of(&self.agent(name))
    }

    /// Waits until an agent has this status; its row.
    #[track_caller]
    pub fn status(&self, name: &str, status: &str) -> Value {
        let mut last = Value::Null;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let row = self.agent(name);
            if row["status"] == status {
                return row;
            }
            last = if row == last { last } else { row };
            assert!(Instant::now() < deadline, "`{name}` does not become {status}: {last}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The host's pid; there is one.
    #[track_caller]
    pub fn host(&self) -> i32 {
        let status = self.json(&["system", "status"]);
        i32::try_from(status["host"]["pid"].as_i64().unwrap_or_else(|| panic!("no host: {status}")))
            .expect("a pid")
    }

    /// Another terminal with `monitor events --json`.
    pub fn events(&self) -> Events {
        Events::of(self, self.command(&["monitor", "events", "--json"]))
    }

    /// The newest incident of an agent that is closed.
    #[track_caller]
    pub fn closed_incident(&self, agent: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.json(&["heal", "history"]);
            let mine = all.as_array().into_iter().flatten().filter(|i| i["agent"] == agent);
            if let Some(closed) = mine.clone().find(|i| i["state"] == "closed") {
                return closed.clone();
            }
            let (incidents, row) = (mine.collect::<Vec<_>>(), self.json(&["agent", "status", agent]));
            assert!(Instant::now() < deadline, "no incident of `{agent}` is closed: {incidents:#?}\n{row:#}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What carries the home's token.
    pub fn processes(&self) -> Vec<processes::Tagged> {
        processes::of(&self.path)
    }

    /// The processes that carry the token of an agent of this name.
    #[track_caller]
    pub fn processes_of(&self, name: &str) -> Vec<processes::Tagged> {
        let id = self.agent(name)["id"].as_str().unwrap_or_default().to_owned();
        self.processes().into_iter().filter(|t| t.agent == id).collect()
    }

    /// `system stop`; nothing of the home runs after it.
    #[track_caller]
    pub fn stop(&self) {
        self.ok(&["system", "stop"]);
        assert_eq!(self.processes(), [], "`system stop` left processes");
        until("the end of the host", PATIENCE, || processes::hosts(&self.path).is_empty().then_some(()));
    }

    fn end(&self) {
        if processes::hosts(&self.path).is_empty() && self.processes().is_empty() {
            return;
        }
        if let Ok(mut stop) = self.command(&["system", "stop"]).stdout(Stdio::null()).spawn() {
            let begun = Instant::now();
            while matches!(stop.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = stop.kill();
            let _ = stop.wait();
        }
        // What is left, hosts first: they would start the others again.
        for _ in 0..50 {
            let mut left = processes::hosts(&self.path);
            left.extend(self.processes().iter().map(|t| t.pid));
            if left.is_empty() {
                break;
            }
            for pid in left {
                processes::kill(pid);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.path.join("host.log")).unwrap_or_default();
            eprintln!("---- host.log of {} ----\n{log}", self.path.display());
        }
        self.end();
        if let Ok(sockets) = hms_runtime::home::runtime_dir(&self.path) {
            let _ = fs::remove_dir_all(sockets);
        }
    }
}

/// The pid in a row of `agent list`.
fn pid_of(row: &Value) -> Option<i32> {
    row["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
}

/// `--json` goes first: after `--` all is the agent's.
fn with_json<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["--json"], args].concat()
}
