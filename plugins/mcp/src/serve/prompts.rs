//! What a model is told: how to use HMS, and two tasks a user may start by name.

use rmcp::{
    ErrorData,
    model::{
        CompletionInfo, GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage, Reference, Role,
    },
};
use serde_json::json;

use super::{
    link::Link,
    resources::{agent_names, ask, incident_ids, type_names},
};

/// The instructions of the server.
pub(crate) const INSTRUCTIONS: &str = "\
HMS keeps processes and other moving parts (\"agents\") alive: it restarts what crashes, heals what is ill and \
verifies that it helped.
1. What is wrong? Call `monitor_health`: who is ill, why, and who only suffers from whom. `agent_status` tells all \
about one agent, `agent_logs` what it printed.
2. What happened? `heal_history` lists incidents with every step of healing; `monitor_events` with `since_sequence` \
replays events; `monitor_alerts` and `monitor_metrics` tell of limits and trends.
3. HMS heals by itself. Look at `heal_status` before you act: an open incident is being worked on.
4. To heal now, call `heal_trigger` with the agent and a `reason`. It waits for verification; with `wait`: false it \
returns at once, and the incident shows the outcome.
5. To keep a new process alive, call `agent_create` with `type`: \"process\", a `name` and \
`config`: {\"command\": [\"program\", \"argument\"]}.
6. Prefer `agent_restart` and `heal_trigger` to anything destructive. `agent_destroy`, `down`, `system_stop` and \
`system_reset` end or erase things: ask the user first.
7. Agents are named by name or id. Durations are texts such as 500ms, 2s or 1m; fields that end in `_ms` are \
milliseconds, times since 1970.
8. A tool is a command of `codex-hms`: `agent_list` is `codex-hms agent list`. An error says its kind, what happened \
and what to do.
9. The resources hms://health, hms://agents and hms://incidents hold the same as text; subscribe to be told when they \
change.
10. The host of HMS is started when it is needed. When it dies, agents live on and the next call finds the next host.";

/// The prompts, as a client lists them.
pub(crate) fn list() -> Vec<Prompt> {
    let argument = |name: &str, about: &str, required: bool| {
        PromptArgument::new(name).with_description(about).with_required(required)
    };
    vec![
        Prompt::new(
            "diagnose",
            Some("Find out what is ill and why, and heal it"),
            Some(vec![argument("agent", "one agent; without it the whole system", false)]),
        )
        .with_title("Diagnose"),
        Prompt::new(
            "keep-alive",
            Some("Have HMS keep a program alive"),
            Some(vec![
                argument("command", "the command line of the program, or the URL of the endpoint", true),
                argument("type", "the agent type: process unless said otherwise", false),
                argument("name", "a name for it", false),
            ]),
        )
        .with_title("Keep alive"),
    ]
}

/// One prompt with its arguments filled in, and with what the system says right now.
pub(crate) async fn get(
    link: &Link,
    name: &str,
    arguments: Option<&JsonObject>,
) -> Result<GetPromptResult, ErrorData> {
    let argument = |key: &str| arguments.and_then(|all| all.get(key)).and_then(|v| v.as_str());
    match name {
        "diagnose" => Ok(diagnose(link, argument("agent")).await),
        "keep-alive" => {
            let command = argument("command")
                .ok_or_else(|| ErrorData::invalid_params("the argument `command` is missing", None))?;
            Ok(keep_alive(command, argument("type"), argument("name")))
        }
        _ => Err(ErrorData::invalid_params(format!("there is no prompt `{name}`"), None)),
    }
}

async fn diagnose(link: &Link, agent: Option<&str>) -> GetPromptResult {
    let about = agent.map_or_else(|| json!({}), |agent| json!({"agent": agent}));
    let health = match ask(link, "monitor health", about.clone()).await {
        Ok(health) => health.to_string(),
        Err(e) => format!("could not be had: {e}"),
    };
    let mut recent = about;
    recent["limit"] = 5.into();
    let incidents = match ask(link, "heal history", recent).await {
        Ok(incidents) => incidents.to_string(),
        Err(e) => format!("could not be had: {e}"),
    };
    let what = agent.map_or_else(|| "the system".into(), |agent| format!("the agent `{agent}`"));
    let text = format!(
        "Diagnose {what} with the tools of HMS.\n\n\
         Health now: {health}\n\nThe newest incidents: {incidents}\n\n\
         1. If all is healthy and no incident is open, say so in one sentence and stop.\n\
         2. For each agent that is ill, and not merely suffers from another: read `agent_status` and `agent_logs` \
         (both streams), and its incidents in `heal_history`.\n\
         3. Name the cause, with the line of the log or the issue that shows it.\n\
         4. If healing has not been tried or its cause is gone, call `heal_trigger` with a reason, and check that the \
         outcome is `verified`. If healing cannot help (a wrong configuration, a missing file), say what to change \
         instead.\n\
         5. End with a short report: cause, what was done, how it is now."
    );
    GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)])
        .with_description(format!("Diagnose {what}"))
}

fn keep_alive(command: &str, kind: Option<&str>, name: Option<&str>) -> GetPromptResult {
    let kind = kind.unwrap_or("process");
    let name = name.map_or_else(|| "a short name of your choice".into(), |name| format!("the name `{name}`"));
    let text = format!(
        "Have HMS keep this alive: {command}\n\n\
         1. Look at `agent_list`: if it is there already, say so and stop.\n\
         2. Look at `agent_types` for what the type `{kind}` can be told, such as a health probe.\n\
         3. Call `agent_create` with the type `{kind}`, {name}, and a `config` that fits.\n\
         4. Check with `agent_status` that it runs and is healthy; if not, read `agent_logs` and correct it."
    );
    GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)])
        .with_description("Have HMS keep a program alive")
}

/// What an argument of a prompt or a resource template may be.
pub(crate) async fn complete(link: &Link, of: &Reference, argument: &str, begun: &str) -> CompletionInfo {
    let uri = of.as_resource_uri();
    let all = match (of.as_prompt_name(), argument) {
        (Some("diagnose"), "agent") => agent_names(link).await,
        (Some("keep-alive"), "type") => type_names(link).await,
        (None, "name") if uri.is_some_and(|uri| uri.starts_with("hms://agents/")) => agent_names(link).await,
        (None, "id") if uri.is_some_and(|uri| uri.starts_with("hms://incidents/")) => {
            incident_ids(link).await
        }
        _ => Vec::new(),
    };
    let mut fitting: Vec<_> = all.into_iter().filter(|name| name.starts_with(begun)).collect();
    let total = fitting.len();
    fitting.truncate(CompletionInfo::MAX_VALUES);
    let more = total > fitting.len();
    CompletionInfo::with_pagination(fitting, Some(total as u32), more).unwrap_or_default()
}
