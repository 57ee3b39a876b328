//! `codex hook`: what Codex runs when something happens in a session. It tells the host, if there is one.
//!
//! Codex waits for some of its hooks, so that this one has a moment and no more; and what a hook prints or ends with
//! means something to Codex, so that it prints nothing and never fails. Prompts, arguments and results of tools are
//! not passed on, only who, where and what.

use std::{
    io::{self, Read},
    process::{Command, Stdio},
    time::Duration,
};

use hms_core::{
    Error, Result,
    command::{CommandContext, Surroundings},
    peer::{Attach, Client},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// How long telling the host may take.
const MOMENT: Duration = Duration::from_millis(300);
/// How long it may take to start one, where that is allowed and Codex does not wait.
const START: Duration = Duration::from_secs(2);
/// What is read of a hook's input; a tool's result may be of any size.
const INPUT: u64 = 8 << 20;
/// The longest text in an event, in characters.
const TEXT: usize = 512;

/// The arguments of `codex hook`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Hook {
    /// Called by `notify`, with the news as its last argument.
    #[serde(default)]
    notify: bool,
    /// Whether a host may be started.
    #[serde(default)]
    host: Option<String>,
    /// The program that `notify` named before, and the news.
    #[serde(default)]
    program: Vec<String>,
}

/// What is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct News {
    /// The event's type.
    pub(crate) kind: &'static str,
    /// Whom it is about, if anyone: a server.
    pub(crate) subject: Option<String>,
    /// Its data.
    pub(crate) data: Value,
}

/// Takes what happened and tells the host.
///
/// # Errors
/// Only when the command runs in a host, where it does not belong.
pub(crate) async fn run(cx: CommandContext, hook: Hook) -> Result<Value> {
    let surroundings = cx.surroundings()?;
    let news = if hook.notify { notified(hook.program) } else { asked(surroundings).await };
    if let Some(news) = news {
        let may_start = hook.host.as_deref() == Some("auto") && news.kind == "codex.session.started";
        let limit = if may_start { START } else { MOMENT };
        // There may be no host, and it may be busy: neither is Codex's concern.
        if let Ok(Err(e)) = tokio::time::timeout(limit, tell(surroundings, &news, may_start, limit)).await {
            tracing::debug!(error = %e, kind = news.kind, "the host was not told");
        }
    }
    Ok(Value::Null)
}

async fn tell(surroundings: &Surroundings, news: &News, may_start: bool, limit: Duration) -> Result<()> {
    let start = surroundings.attach.start.clone().filter(|_| may_start);
    let attach = Attach { start, deadline: limit, name: "codex hook".into(), ..surroundings.attach.clone() };
    let client = Client::attach(attach).await?;
    let params = json!({
        "type": news.kind, "subject": news.subject, "source": "/clients/codex", "data": news.data,
    });
    client.request("event.publish", params).await.map(drop)
}

/// What `notify` was told; the program that was told before us is told as well, first.
fn notified(mut program: Vec<String>) -> Option<News> {
    let text = program.pop()?;
    if let Some((name, args)) = program.split_first() {
        let quiet = Stdio::null;
        // As Codex runs it: nobody waits for it, or hears it.
        let spawned =
            Command::new(name).args(args).arg(&text).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
        if let Err(e) = spawned {
            tracing::debug!(error = %e, program = name, "the program that notify named does not start");
        }
    }
    turn(&serde_json::from_str(&text).ok()?)
}

async fn asked(surroundings: &Surroundings) -> Option<News> {
    let input = surroundings.stdio[0];
    let text = tokio::task::spawn_blocking(move || read(input)).await.ok()?.ok()?;
    news(&serde_json::from_slice(&text).ok()?)
}

fn read(input: i32) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = if input == 0 {
        taken(&mut io::stdin().lock(), &mut text)
    } else {
        std::fs::File::open(format!("/dev/fd/{input}")).and_then(|mut file| taken(&mut file, &mut text))
    };
    read.map(|()| text).map_err(|e| Error::io("the hook's input", &e))
}

/// Keeps what is read, within bounds, and takes the rest too: who writes it must not meet a broken pipe.
fn taken(from: &mut impl Read, text: &mut Vec<u8>) -> io::Result<()> {
    from.by_ref().take(INPUT).read_to_end(text)?;
    io::copy(from, &mut io::sink()).map(drop)
}

/// The news in a hook's input; `None` when it is not known, or of no interest.
pub(crate) fn news(input: &Value) -> Option<News> {
    let mut data = Data::of(input);
    let kind = match input["hook_event_name"].as_str()? {
        "SessionStart" => {
            data.text("source", &input["source"]);
            "codex.session.started"
        }
        "SessionEnd" => {
            data.text("reason", &input["reason"]);
            "codex.session.ended"
        }
        "PreToolUse" => {
            data.tool(input);
            data.text("transcript", &input["transcript_path"]);
            "codex.tool.started"
        }
        "PostToolUse" => {
            data.tool(input);
            let response = &input["tool_response"];
            let failed = ["isError", "is_error"].iter().any(|key| response[key] == json!(true));
            if failed {
                data.put("kind", "reported".into());
                data.put("error", "the tool reported an error".into());
            }
            if failed { "codex.tool.failed" } else { "codex.tool.finished" }
        }
        "SubagentStart" => {
            data.agent(input);
            "codex.subagent.started"
        }
        "SubagentStop" => {
            data.agent(input);
            "codex.subagent.stopped"
        }
        "Interrupt" => "codex.turn.interrupted",
        _ => return None,
    };
    Some(data.news(kind))
}

/// The news in what `notify` is given.
fn turn(input: &Value) -> Option<News> {
    if input["type"] != json!("agent-turn-complete") {
        return None;
    }
    let mut data = Data::default();
    data.text("session", &input["thread-id"]);
    data.text("turn", &input["turn-id"]);
    data.text("cwd", &input["cwd"]);
    data.text("client", &input["client"]);
    Some(data.news("codex.turn.completed"))
}

#[derive(Default)]
struct Data(Map<String, Value>);

impl Data {
    fn of(input: &Value) -> Self {
        let mut data = Self::default();
        for (name, key) in [
            ("session", "session_id"),
            ("turn", "turn_id"),
            ("cwd", "cwd"),
            ("model", "model"),
            ("mode", "permission_mode"),
        ] {
            data.text(name, &input[key]);
        }
        data
    }

    fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    fn text(&mut self, name: &str, value: &Value) {
        if let Some(text) = value.as_str() {
            self.put(name, clip(text).into());
        }
    }

    fn tool(&mut self, input: &Value) {
        self.text("tool_use", &input["tool_use_id"]);
        let name = input["tool_name"].as_str().unwrap_or_default();
        match server_and_tool(name) {
            Some((server, tool)) => {
                self.put("server", clip(server).into());
                self.put("tool", clip(tool).into());
            }
            None => self.put("tool", clip(name).into()),
        }
    }

    fn agent(&mut self, input: &Value) {
        self.text("subagent", &input["agent_id"]);
        self.text("subagent_type", &input["agent_type"]);
    }

    fn news(self, kind: &'static str) -> News {
        let subject = self.0.get("server").and_then(Value::as_str).map(str::to_owned);
        News { kind, subject, data: Value::Object(self.0) }
    }
}

/// `mcp__SERVER__TOOL`, taken apart.
fn server_and_tool(name: &str) -> Option<(&str, &str)> {
    let (server, tool) = name.strip_prefix("mcp__")?.split_once("__")?;
    (!server.is_empty() && !tool.is_empty()).then_some((server, tool))
}

fn clip(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(event: &str) -> Value {
        json!({
            "session_id": "s1", "turn_id": "t1", "cwd": "/work", "model": "m", "permission_mode": "default",
            "transcript_path": "/t.jsonl", "hook_event_name": event,
        })
    }

    #[test]
    fn a_tool_is_told_without_what_it_was_given_and_gave() {
        let mut told = input("PostToolUse");
        told["tool_name"] = "mcp__git__commit__all".into();
        told["tool_use_id"] = "c0".into();
        told["tool_input"] = json!({"password": "hunter2"});
        told["tool_response"] = json!({"content": [{"type": "text", "text": "hunter2"}]});
        let told = news(&told).expect("it is known");
        assert_eq!((told.kind, told.subject.as_deref()), ("codex.tool.finished", Some("git")));
        let data = json!({
            "session": "s1", "turn": "t1", "cwd": "/work", "model": "m", "mode": "default",
            "tool_use": "c0", "server": "git", "tool": "commit__all",
        });
        assert_eq!(told.data, data);
    }

    #[test]
    fn an_error_in_a_result_is_a_failure() {
        let mut told = input("PostToolUse");
        told["tool_name"] = "mcp__git__log".into();
        told["tool_response"] = json!({"content": [], "isError": true});
        assert_eq!(news(&told).map(|news| news.kind), Some("codex.tool.failed"));
    }

    #[test]
    fn every_hook_of_the_plugin_is_known_and_nothing_else_is() {
        for (event, kind) in [
            ("SessionStart", "codex.session.started"),
            ("SessionEnd", "codex.session.ended"),
            ("PreToolUse", "codex.tool.started"),
            ("SubagentStart", "codex.subagent.started"),
            ("SubagentStop", "codex.subagent.stopped"),
            ("Interrupt", "codex.turn.interrupted"),
        ] {
            assert_eq!(news(&input(event)).map(|news| news.kind), Some(kind), "{event}");
        }
        for other in [input("UserPromptSubmit"), json!({}), json!(3), json!({"hook_event_name": 1})] {
            assert_eq!(news(&other), None, "{other}");
        }
    }

    #[test]
    fn an_input_is_taken_to_its_end_whatever_its_size() {
        let long = vec![b' '; usize::try_from(INPUT).expect("it fits") + 12_345];
        let (mut from, mut text) = (&long[..], Vec::new());
        taken(&mut from, &mut text).expect("it is read");
        assert_eq!((from.len(), text.len() as u64), (0, INPUT));
    }

    #[test]
    fn texts_are_bounded() {
        let mut told = input("SessionStart");
        told["cwd"] = "ä".repeat(10 * TEXT).into();
        let cwd = news(&told).expect("it is known").data["cwd"].as_str().map(|cwd| cwd.chars().count());
        assert_eq!(cwd, Some(TEXT));
    }

    #[test]
    fn a_completed_turn_is_told_without_its_words() {
        let told = json!({
            "type": "agent-turn-complete", "thread-id": "s1", "turn-id": "t1", "cwd": "/w", "client": "codex_exec",
            "input-messages": ["secret"], "last-assistant-message": "secret",
        });
        let news = notified(vec![told.to_string()]).expect("it is known");
        assert_eq!(news.data, json!({"session": "s1", "turn": "t1", "cwd": "/w", "client": "codex_exec"}));
        assert_eq!(notified(vec!["no JSON".into()]), None);
        assert_eq!(notified(Vec::new()), None);
    }

    #[test]
    fn names_of_tools_are_taken_apart() {
        assert_eq!(server_and_tool("mcp__a__b"), Some(("a", "b")));
        for other in ["Bash", "mcp__a", "mcp____b", "mcp__a__"] {
            assert_eq!(server_and_tool(other), None, "{other}");
        }
    }
}
