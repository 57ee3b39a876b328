//! The program from outside: what it is made of, what it does with signals, and how it exits.
#![cfg(target_os = "linux")]

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(60);

/// A home of its own, whose host ends with the test.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn command(&self) -> Command {
        // Whoever runs the tests may ignore signals (a shell's `&` does); what is tested must not inherit that.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT,TERM").arg(env!("CARGO_BIN_EXE_codex-hms"));
        command.env("HMS_HOME", self.0.path()).env_remove("HMS_LOG").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command().args(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A host in the foreground, once it listens.
    fn host(&self, prepare: impl FnOnce(&mut Command)) -> Child {
        let mut command = self.command();
        command.args(["system", "run"]).env("HMS_LOG", "info").stdout(Stdio::null()).stderr(Stdio::piped());
        prepare(&mut command);
        let mut host = command.spawn().unwrap();
        let mut log = BufReader::new(host.stderr.take().unwrap()).lines().map_while(Result::ok);
        assert!(log.any(|line| line.contains("the host listens")), "the host did not come up");
        thread::spawn(move || log.for_each(drop));
        host
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.run(&["system", "stop", "--yes"]);
    }
}

fn send(signal: i32, child: &Child) {
    // SAFETY: a child that was not waited for, so that the pid is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
}

/// Waits for the end of a child that must come.
fn ended(mut child: Child) -> ExitStatus {
    let pid = child.id() as libc::pid_t;
    let (done, when) = std::sync::mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        let _ = done.send(());
        status
    });
    if when.recv_timeout(DEADLINE).is_err() {
        // SAFETY: the waiter still waits, so that the pid is the child's.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        panic!("it did not end within {DEADLINE:?}");
    }
    waiter.join().unwrap().unwrap()
}

#[test]
fn it_stands_on_the_c_abi_alone() {
    let output =
        Command::new(env!("CARGO")).args(["metadata", "--format-version=1", "--no-deps"]).output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "codex-hms").unwrap();
    let dependencies = package["dependencies"].as_array().unwrap();
    let local: Vec<_> = dependencies.iter().filter(|d| !d["path"].is_null()).map(|d| &d["name"]).collect();
    assert_eq!(local, ["hms-ffi"]);
}

#[test]
fn version_help_and_mistakes_have_their_exit_codes() {
    let home = Home::new();
    let version = home.run(&["--version"]);
    assert!(version.status.success());
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("codex-hms ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let wrong = home.run(&["frobnicate"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(wrong.stdout.is_empty() && String::from_utf8_lossy(&wrong.stderr).contains("frobnicate"));
    let not_utf8 = home.command().arg(OsStr::from_bytes(b"ag\xff")).output().unwrap();
    assert_eq!(not_utf8.status.code(), Some(2));
}

#[test]
fn a_closed_output_ends_it_quietly() {
    let home = Home::new();
    let mut child =
        home.command().arg("--help").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!((ended(child).code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_signal_ends_what_follows_with_the_code_of_the_signal() {
    let home = Home::new();
    for (signal, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let events = ["monitor", "events", "--json"];
        let mut child = home.command().args(events).stdout(Stdio::piped()).spawn().unwrap();
        // It follows when it prints an event; each agent that is created makes some.
        let name = format!("agent-{signal}");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (seen, first) = std::sync::mpsc::channel();
        thread::spawn(move || {
            if lines.next().is_some_and(|line| line.is_ok()) {
                let _ = seen.send(());
            }
            lines.for_each(drop);
        });
        let deadline = Instant::now() + DEADLINE;
        while first.recv_timeout(Duration::from_millis(100)).is_err() {
            assert!(Instant::now() < deadline, "no event was printed");
            home.json(&["agent", "create", "process", "--name", &name, "--ensure", "--json", "--", "true"]);
            assert!(home.run(&["agent", "destroy", &name, "--yes"]).status.success());
        }
        send(signal, &child);
        assert_eq!(ended(child).code(), Some(code), "signal {signal}");
    }
}

#[test]
fn a_signal_that_the_parent_ignores_stays_ignored() {
    let home = Home::new();
    let host = home.host(|command| {
        // SAFETY: signal(2) is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                Ok(())
            });
        }
    });
    send(libc::SIGHUP, &host);
    // It still answers, and ends by a signal that is not ignored.
    assert_eq!(home.json(&["system", "status", "--json"])["host"]["pid"], host.id());
    send(libc::SIGTERM, &host);
    ended(host);
}

/// The first SIGINT waits for an agent that does not want to stop; the second does not.
#[test]
fn a_second_interrupt_ends_it_at_once() {
    let home = Home::new();
    let host = home.host(|_| {});
    let fifo = home.0.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = format!("trap '' TERM; echo ready > '{}'; while :; do sleep 1; done", fifo.display());
    let create = ["agent", "create", "process", "--name", "stubborn", "--json", "--", "sh", "-c", &script];
    let agent = home.json(&create);
    assert_eq!(std::fs::read_to_string(&fifo).unwrap(), "ready\n");

    let (host_pid, agent_pid) = (host.id() as libc::pid_t, agent["pid"].as_i64().unwrap() as libc::pid_t);
    let (done, when) = std::sync::mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = ended(host);
        let _ = done.send(());
        status
    });
    let start = Instant::now();
    // Again and again, as two that come at once are one to the process.
    while when.recv_timeout(Duration::from_millis(50)).is_err() && start.elapsed() < DEADLINE {
        // SAFETY: the waiter has not told that it is reaped; at worst it is gone just now.
        unsafe { libc::kill(host_pid, libc::SIGINT) };
    }
    let took = start.elapsed();
    // SAFETY: the group of the agent, which was left behind.
    unsafe { libc::kill(-agent_pid, libc::SIGKILL) };
    assert_eq!(waiter.join().unwrap().code(), Some(130));
    // The agent may take 10 s to stop.
    assert!(took < Duration::from_secs(8), "{took:?}");
}
