//! The demonstration: real processes that crash, hang and leak, healed and verified before your eyes.

use std::{collections::BTreeMap, time::Duration};

use hms_core::{
    Error, ErrorKind, Result,
    command::{CommandContext, Format, View},
    duration,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    EventStream, Open, System,
    system_plugin::{ASK, caller},
    terminal::Terminal,
    view::{Redraw, Style, render},
};

#[derive(Deserialize)]
pub(crate) struct Demo {
    rounds: u64,
    #[serde(with = "duration::text")]
    timeout: Duration,
}

/// What each faulty process does, in the words of the table.
const FAULTS: [(&str, &str); 3] = [
    ("crasher", "exits with code 3 after a second"),
    ("hanger", "stops itself (SIGSTOP) after a second"),
    ("leaker", "allocates memory without end"),
];

/// One agent each: name and the arguments of `agent create`.
fn agents() -> [Value; 4] {
    let verify = json!({"verify_window": "600ms"});
    let often = json!({"interval": "250ms"});
    [
        json!({"name": "steady", "config": {"command": ["sh", "-c", "while :; do echo tick; sleep 1; done"]}}),
        json!({"name": "crasher", "healing": verify,
            "config": {"command": ["sh", "-c", "echo up; sleep 1; echo 'something is wrong' >&2; exit 3"]}}),
        json!({"name": "hanger", "healing": verify, "health": often,
        "config": {
            "command": ["sh", "-c", "(sleep 1; kill -STOP $$) & while :; do echo tick; sleep 0.1; done"],
            "hang": {"log_silence": "600ms"},
        }}),
        json!({"name": "leaker", "healing": verify, "health": often,
        "config": {
            "command": ["sh", "-c", "sleep 1; x=0123456789abcdef; while [ ${#x} -lt 80000000 ]; do x=$x$x; sleep 0.05; done; while :; do sleep 1; done"],
            "memory_limit": "64MB",
        }}),
    ]
}

/// How its result is shown.
pub(crate) fn view() -> View {
    let incidents = View::table_at(
        "/incidents",
        "none",
        &[
            ("AGENT", "/agent", Format::Text),
            ("CAUSE", "/cause", Format::Text),
            ("HEALED BY", "/steps/0/action", Format::Text),
            ("OUTCOME", "/outcome", Format::State),
        ],
    );
    View::record(&[("Faults healed", "/healed", Format::Text), ("Verified", "/verified", Format::Text)])
        .with("Incidents", incidents)
}

/// Runs the demonstration. An error when a healing was not verified, or not all were in time.
pub(crate) async fn run(cx: CommandContext, args: Demo) -> Result<Value> {
    let around = cx.surroundings()?.clone();
    let terminal = Terminal::open(around.stdio)?;
    let style = if around.terminal {
        Style::terminal(&around.program, crate::cli::now_ms(), terminal.size().0, around.color)
    } else {
        Style::plain(&around.program, crate::cli::now_ms())
    };
    let system = System::open(Open::Private { home: None }).await?;
    let mut stage = Stage {
        system: system.clone(),
        terminal,
        style,
        redraw: Redraw::new(around.terminal),
        tells: !around.terminal && !around.json,
        log: Vec::new(),
        verified: BTreeMap::new(),
    };
    let outcome = tokio::select! {
        outcome = stage.play(args.rounds) => outcome,
        () = tokio::time::sleep(args.timeout) => Err(Error::new(
            ErrorKind::Timeout,
            format!("not every fault was healed within {}", duration::format(args.timeout)),
        )),
        () = cx.cancelled() => Err(Error::new(ErrorKind::Cancelled, "the demonstration was ended")),
    };
    let summary = stage.summary().await;
    let closed = system.close(false).await;
    outcome?;
    closed?;
    summary
}

struct Stage {
    system: System,
    terminal: Terminal,
    style: Style,
    redraw: Redraw,
    /// Whether to print what happens line by line: neither redrawn in place nor JSON.
    tells: bool,
    log: Vec<String>,
    /// Verified healings, by agent.
    verified: BTreeMap<String, u64>,
}

impl Stage {
    async fn play(&mut self, rounds: u64) -> Result<()> {
        let mut events = self
            .system
            .subscribe(
                vec!["heal.>".into(), "agent.exited".into(), "agent.restarted".into()],
                None,
                4096,
                None,
            )
            .await?;
        for mut agent in agents() {
            agent["type"] = "process".into();
            // A demonstration is short: restarts are neither delayed nor counted.
            agent["restart"] = json!({"intensity": {"max": 0}, "backoff": {"initial": "0"}});
            self.ask("agent create", agent).await?;
        }
        while FAULTS.iter().any(|(name, _)| self.verified.get(*name).copied().unwrap_or(0) < rounds) {
            self.draw().await?;
            self.wait(&mut events).await?;
        }
        self.draw().await
    }

    /// Takes what happens within a quarter of a second.
    async fn wait(&mut self, events: &mut EventStream) -> Result<()> {
        let Ok(batch) = tokio::time::timeout(Duration::from_millis(250), events.next_batch(256)).await else {
            return Ok(());
        };
        let Some((batch, _)) = batch else {
            return Err(Error::internal("the system ended during its demonstration"));
        };
        for event in batch {
            let Some(data) = event.data.as_json() else { continue };
            let agent = data["agent"].as_str().unwrap_or("?").to_owned();
            let line = match &*event.kind {
                "agent.exited" => format!("{agent}: {}", data["exit"]["reason"].as_str().unwrap_or("ended")),
                "agent.restarted" => format!(
                    "{agent}: new pid {} after {:.1} ms ({})",
                    data["pid"],
                    data["took_ms"].as_f64().unwrap_or(0.0),
                    data["by"].as_str().unwrap_or("?")
                ),
                "heal.incident.opened" => {
                    format!("{agent}: incident: {}", data["incident"]["cause"].as_str().unwrap_or("?"))
                }
                "heal.incident.closed" => {
                    let outcome = data["incident"]["outcome"].as_str().unwrap_or("?");
                    if outcome != "verified" {
                        let why = format!("healing of `{agent}` ended as {outcome}");
                        return Err(Error::new(ErrorKind::HandlerFailed, why));
                    }
                    *self.verified.entry(agent.clone()).or_default() += 1;
                    format!("{agent}: healed and verified")
                }
                _ => continue,
            };
            if self.tells {
                let _ = self.terminal.write(&format!("{line}\n"));
            }
            self.log.push(line);
        }
        Ok(())
    }

    async fn draw(&mut self) -> Result<()> {
        if !self.style.terminal {
            return Ok(());
        }
        self.style.now_ms = crate::cli::now_ms();
        let list = self.ask("agent list", json!({})).await?;
        let view = View::table(
            "",
            &[
                ("AGENT", "/name", Format::Text),
                ("PID", "/pid", Format::Text),
                ("STATUS", "/status", Format::State),
                ("HEALTH", "/health", Format::State),
                ("RESTARTS", "/restarts", Format::Number),
                ("SINCE", "/since_ms", Format::Age),
            ],
        );
        let mut frame = String::from("Four real processes. One is well; the others:\n");
        for (name, what) in FAULTS {
            frame.push_str(&format!("  {name:8} {what}\n"));
        }
        frame.push('\n');
        frame.push_str(&render(&view, &list, &self.style));
        frame.push('\n');
        for line in self.log.iter().rev().take(10).rev() {
            frame.push_str(&format!("  {line}\n"));
        }
        let (columns, rows) = self.terminal.size();
        self.terminal
            .write(&self.redraw.frame(&frame, columns, rows))
            .map_err(|_| Error::new(ErrorKind::Cancelled, "nobody watches"))
    }

    /// What was healed: closed incidents only, since the crasher goes on crashing.
    async fn summary(&mut self) -> Result<Value> {
        let Value::Array(mut incidents) = self.ask("heal history", json!({})).await? else {
            return Err(Error::internal("`heal history` did not answer with an array"));
        };
        incidents.retain(|i| i["state"] == "closed");
        let verified = incidents.iter().filter(|i| i["outcome"] == "verified").count();
        Ok(json!({"healed": incidents.len(), "verified": verified, "incidents": incidents}))
    }

    async fn ask(&self, path: &str, args: Value) -> Result<Value> {
        tokio::time::timeout(ASK * 4, self.system.run(path, args, caller("demo"), |_| {}))
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, format!("`{path}` did not answer"))))
    }
}
