//! `agent start`, `stop`, `restart`, `destroy` and `send`: what is done to agents that are there.
//!
//! Several agents are acted upon in the order of their dependencies. An error about one does not keep the
//! others from it; all errors are told at the end.

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{Message, RestartRequest, STOP_DEADLINE, Stop},
    command::{CommandContext, CommandSpec, Format, View, handler},
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{agent::COLUMNS, duration, order, row, source};

pub(super) fn register(to: &Registrar) -> Result<()> {
    let kernel = to.kernel().clone();
    let start = move |cx, args: Many| many(kernel.clone(), cx, args, Act::Start);
    to.command(start_spec(), handler(start))?;
    let kernel = to.kernel().clone();
    let stop = move |cx, args: Many| many(kernel.clone(), cx, args, Act::Stop);
    to.command(stop_spec(), handler(stop))?;
    let kernel = to.kernel().clone();
    let restart = move |cx, args: Many| many(kernel.clone(), cx, args, Act::Restart);
    to.command(restart_spec(), handler(restart))?;
    let kernel = to.kernel().clone();
    let destroy = move |cx, args: Many| many(kernel.clone(), cx, args, Act::Destroy);
    to.command(destroy_spec(), handler(destroy))?;
    let kernel = to.kernel().clone();
    to.command(send_spec(), handler(move |cx, args: Send| send(kernel.clone(), cx, args)))
}

#[derive(Deserialize)]
struct Many {
    agents: Vec<String>,
    #[serde(default)]
    kill: bool,
    #[serde(default)]
    reset: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Start,
    Stop,
    Restart,
    Destroy,
}

fn agents_property() -> Value {
    json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "names or ids"})
}

fn start_spec() -> CommandSpec {
    CommandSpec::new("agent start", "Start agents that are stopped, failed or quarantined")
        .about(
            "An agent that runs already is left alone. One whose dependencies are not ready waits for them.",
        )
        .args(json!({"agents": agents_property()}), &["agents"])
        .positional(&["agents"])
        .writes()
        .view(View::table("nothing to start", COLUMNS))
        .example("agent start web worker")
}

fn stop_spec() -> CommandSpec {
    CommandSpec::new("agent stop", "Stop agents; they stay stopped until they are started")
        .about("The children of an agent are stopped before it. Nothing that a stopped process started survives it.")
        .args(
            json!({
                "agents": agents_property(),
                "kill": {"type": "boolean", "default": false, "description": "end it at once instead of asking first"}
            }),
            &["agents"],
        )
        .positional(&["agents"])
        .writes()
        .view(View::table("nothing to stop", COLUMNS))
        .example("agent stop worker")
}

fn restart_spec() -> CommandSpec {
    CommandSpec::new("agent restart", "Restart agents")
        .args(
            json!({
                "agents": agents_property(),
                "reset": {"type": "boolean", "default": false, "description": "forget kept state first"},
                "kill": {"type": "boolean", "default": false, "description": "end it at once instead of asking first"}
            }),
            &["agents"],
        )
        .positional(&["agents"])
        .writes()
        .view(View::table("nothing to restart", COLUMNS))
        .example("agent restart web --kill")
}

fn destroy_spec() -> CommandSpec {
    CommandSpec::new("agent destroy", "End agents and forget them, their output and their state")
        .about("An agent that others depend on is not destroyed unless they are destroyed with it.")
        .args(json!({"agents": agents_property()}), &["agents"])
        .positional(&["agents"])
        .destructive()
        .view(View::table(
            "nothing to destroy",
            &[
                ("Destroyed", "/name", Format::Text),
                ("Type", "/type", Format::Text),
                ("Id", "/id", Format::Text),
            ],
        ))
        .example("agent destroy web worker")
}

/// An array of the agents' rows, as `agent list` shows them; after `destroy` those from before it.
async fn many(kernel: Kernel, cx: CommandContext, args: Many, act: Act) -> Result<Value> {
    kernel.require_open()?;
    let mut names = order::sorted(&kernel, &args.agents);
    if matches!(act, Act::Stop | Act::Destroy) {
        names.reverse();
    }
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (at, name) in names.iter().enumerate() {
        if cx.is_cancelled() {
            failures
                .push((name.clone(), Error::new(ErrorKind::Cancelled, "cancelled before it was its turn")));
            continue;
        }
        if names.len() > 1 {
            cx.progress(at as f64 / names.len() as f64, format!("{} `{name}`", act.doing()));
        }
        match one(&kernel, &cx, name, &args, act).await {
            Ok(row) => rows.push(row),
            Err(e) => failures.push((name.clone(), e)),
        }
    }
    match failures.len() {
        0 => Ok(Value::Array(rows)),
        1 if names.len() == 1 => Err(failures.remove(0).1),
        _ => Err(together(act, &rows, failures)),
    }
}

async fn one(kernel: &Kernel, cx: &CommandContext, name: &str, args: &Many, act: Act) -> Result<Value> {
    let agents = kernel.agents();
    match act {
        Act::Start => agents.start(name).await,
        Act::Stop => {
            agents.stop(name, if args.kill { Stop::Kill } else { Stop::Graceful(STOP_DEADLINE) }).await
        }
        Act::Destroy => agents.destroy(name).await,
        Act::Restart => {
            let request = RestartRequest {
                reason: format!("asked for by {}", source(cx)),
                by: "user".into(),
                reset: args.reset,
                kill: args.kill,
                if_incarnation: None,
            };
            agents.restart(name, request).await?;
            row(kernel, name)
        }
    }
}

/// One error out of several, which says what was done nevertheless.
fn together(act: Act, rows: &[Value], failures: Vec<(String, Error)>) -> Error {
    let total = rows.len() + failures.len();
    let each: Vec<String> = failures.iter().map(|(name, e)| format!("`{name}`: {}", e.message)).collect();
    let mut message =
        format!("{} of {total} agents were not {}: {}", failures.len(), act.done(), each.join("; "));
    if !rows.is_empty() {
        let names: Vec<&str> = rows.iter().filter_map(|r| r["name"].as_str()).collect();
        message.push_str(&format!("; {}: {}", act.done(), names.join(", ")));
    }
    let (_, first) = &failures[0];
    Error { kind: first.kind, message, hint: first.hint.clone() }
}

impl Act {
    fn doing(self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Stop => "stopping",
            Self::Restart => "restarting",
            Self::Destroy => "destroying",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Stop => "stopped",
            Self::Restart => "restarted",
            Self::Destroy => "destroyed",
        }
    }
}

// ---- agent send -------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Send {
    agent: String,
    message: Value,
    #[serde(default)]
    ask: bool,
    #[serde(with = "hms_core::duration::text")]
    timeout: std::time::Duration,
}

fn send_spec() -> CommandSpec {
    CommandSpec::new("agent send", "Send a message to an agent")
        .about("Without `--ask` this returns as soon as the message waits in the agent's mailbox.")
        .args(
            json!({
                "agent": {"type": "string", "description": "name or id"},
                "message": {"x-value": "JSON", "description": "the message; what is not JSON is a text"},
                "ask": {"type": "boolean", "default": false, "description": "wait for the answer and show it"},
                "timeout": duration("how long to wait for the answer", "30s")
            }),
            &["agent", "message"],
        )
        .positional(&["agent", "message"])
        .writes()
        .view(View::record(&[("Agent", "/agent", Format::Text), ("Answer", "/answer", Format::Text)]))
        .example(r#"agent send backup '{"beat": true}'"#)
        .example(r#"agent send counter '{"get": "total"}' --ask --timeout 2s"#)
}

/// `agent`, `sent` (true), and with `ask` the `answer`.
async fn send(kernel: Kernel, cx: CommandContext, args: Send) -> Result<Value> {
    kernel.require_open()?;
    let message = Message::new(source(&cx), args.message);
    if !args.ask {
        kernel.agents().tell(&args.agent, message)?;
        return Ok(json!({"agent": args.agent, "sent": true}));
    }
    tokio::select! {
        answer = kernel.agents().ask(&args.agent, message, args.timeout) => {
            Ok(json!({"agent": args.agent, "sent": true, "answer": answer?}))
        }
        () = cx.cancelled() => {
            Err(Error::new(ErrorKind::Cancelled, format!("cancelled while `{}` was about to answer", args.agent)))
        }
    }
}
