//! Another terminal: `monitor events --json`, left running.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Home, PATIENCE, until};

/// Events as they come in from another process. Ends that process when dropped.
pub struct Events {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
}

impl Events {
    /// Begins to watch, and returns once the host has taken the subscription: what happens from here on is
    /// seen.
    pub(crate) fn of(home: &Home, mut command: Command) -> Self {
        let (before, said) = (subscriptions(home), home.file("events.err"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&said).expect("it can be made"))
            .spawn()
            .expect("the program under test can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let (tx, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event =
                    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: not a line of JSON: {line}"));
                if tx.send(event).is_err() {
                    break;
                }
            }
        });
        let mut events = Self { child, lines, seen: Vec::new() };
        until("a subscription of `monitor events`", PATIENCE, || {
            assert!(
                events.lives(),
                "`monitor events` ended: {}",
                fs::read_to_string(&said).unwrap_or_default()
            );
            (subscriptions(home) > before).then_some(())
        });
        events
    }

    /// The next event (also of those already seen while waiting for others) that fits. Panics, naming
    /// `what`, after `within`.
    #[track_caller]
    pub fn wait(&mut self, what: &str, within: Duration, mut fits: impl FnMut(&Value) -> bool) -> Value {
        if let Some(at) = self.seen.iter().position(&mut fits) {
            return self.seen.remove(at);
        }
        let until = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) if fits(&event) => return event,
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{what}: not within {within:?}; seen: {:#?}", self.brief())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{what}: the events ended; seen: {:#?}", self.brief())
                }
            }
        }
    }

    /// The next event of this type about this agent.
    #[track_caller]
    pub fn of_agent(&mut self, kind: &str, agent: &str) -> Value {
        self.wait(&format!("`{kind}` of `{agent}`"), PATIENCE, |e| {
            e["type"] == kind && (e["data"]["agent"] == agent || e["data"]["incident"]["agent"] == agent)
        })
    }

    /// That other process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Whether that other process still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn brief(&self) -> Vec<String> {
        self.seen.iter().map(|e| format!("{} {}", e["type"].as_str().unwrap_or("?"), e["data"])).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn subscriptions(home: &Home) -> usize {
    home.json(&["system", "info"])["events"]["subscriptions"].as_array().map_or(0, Vec::len)
}
