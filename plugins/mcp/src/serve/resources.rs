//! Health, agents and incidents as resources: where they are, and what they say.

use std::sync::Arc;

use hms_core::{
    Error, ErrorKind, Result,
    command::{Caller, Update},
};
use rmcp::{
    ErrorData,
    model::{Resource, ResourceContents, ResourceTemplate},
};
use serde_json::{Value, json};

use super::{
    link::{Heard, Link},
    tools::Words,
};

/// Incidents that `hms://incidents` shows.
const RECENT: u64 = 50;
/// Incidents among which one is looked for by its id.
const KNOWN: u64 = 10_000;
/// Lines of each stream that a log resource shows.
const LINES: u64 = 200;
/// Bytes of a log resource: the newest.
const LOG_BYTES: usize = 256 << 10;
/// Incidents that are listed as resources of their own.
const LISTED: usize = 20;

const JSON: &str = "application/json";

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// How well the system is.
    Health,
    /// All agents.
    Agents,
    /// One agent, by name.
    Agent(String),
    /// What it printed.
    Logs(String),
    /// The newest incidents.
    Incidents,
    /// One incident, by id.
    Incident(String),
}

impl Place {
    pub(crate) fn uri(&self) -> String {
        match self {
            Self::Health => "hms://health".into(),
            Self::Agents => "hms://agents".into(),
            Self::Agent(name) => format!("hms://agents/{name}"),
            Self::Logs(name) => format!("hms://agents/{name}/logs"),
            Self::Incidents => "hms://incidents".into(),
            Self::Incident(id) => format!("hms://incidents/{id}"),
        }
    }

    /// The place that a URI names. Names of agents and incidents need no escapes, so that a URI is one spelling.
    pub(crate) fn parse(uri: &str) -> Option<Self> {
        let path = uri.strip_prefix("hms://")?;
        let named = |name: &str| !name.is_empty() && !name.contains(|c: char| c == '%' || c.is_whitespace());
        let parts: Vec<_> = path.split('/').collect();
        match parts[..] {
            ["health"] => Some(Self::Health),
            ["agents"] => Some(Self::Agents),
            ["agents", name] if named(name) => Some(Self::Agent(name.into())),
            ["agents", name, "logs"] if named(name) => Some(Self::Logs(name.into())),
            ["incidents"] => Some(Self::Incidents),
            ["incidents", id] if named(id) => Some(Self::Incident(id.into())),
            _ => None,
        }
    }

    /// As a client lists it.
    fn resource(&self) -> Resource {
        let (name, title, about) = match self {
            Self::Health => (
                "health".into(),
                "Health of the system".into(),
                "Which agents are ill, who suffers from whom, what is being healed and which alerts fire",
            ),
            Self::Agents => ("agents".into(), "Agents".into(), "All agents with status and health"),
            Self::Agent(name) => {
                (format!("agent-{name}"), format!("Agent {name}"), "Everything about one agent")
            }
            Self::Logs(name) => (
                format!("logs-{name}"),
                format!("Output of {name}"),
                "The newest lines that an agent printed",
            ),
            Self::Incidents => {
                ("incidents".into(), "Incidents".into(), "The newest incidents and what was done about them")
            }
            Self::Incident(id) => (
                format!("incident-{id}"),
                format!("Incident {id}"),
                "One incident with every step of healing",
            ),
        };
        Resource::new(self.uri(), name).with_title(title).with_description(about).with_mime_type(self.mime())
    }

    fn mime(&self) -> &'static str {
        if matches!(self, Self::Logs(_)) { "text/plain" } else { JSON }
    }
}

/// The resources that need a name.
pub(crate) fn templates() -> Vec<ResourceTemplate> {
    let template = |uri: &str, name: &str, title: &str, about: &str, mime: &str| {
        ResourceTemplate::new(uri, name).with_title(title).with_description(about).with_mime_type(mime)
    };
    vec![
        template("hms://agents/{name}", "agent", "Agent", "Everything about one agent", JSON),
        template(
            "hms://agents/{name}/logs",
            "logs",
            "Output of an agent",
            "The newest lines that an agent printed",
            "text/plain",
        ),
        template(
            "hms://incidents/{id}",
            "incident",
            "Incident",
            "One incident with every step of healing",
            JSON,
        ),
    ]
}

/// The resources there are. Without a host: those that always are, because listing must not start one.
pub(crate) async fn list(link: &Link) -> Vec<Resource> {
    let mut all = vec![Place::Health, Place::Agents, Place::Incidents];
    if let Ok(Some(_)) = link.client_if_running().await {
        all.extend(agent_names(link).await.into_iter().map(Place::Agent));
        let newest = incidents(link, LISTED as u64).await.unwrap_or_default();
        all.extend(newest.iter().filter_map(|i| Some(Place::Incident(i["id"].as_str()?.into()))));
    }
    all.iter().map(Place::resource).collect()
}

/// The names of all agents; none where they cannot be had.
pub(crate) async fn agent_names(link: &Link) -> Vec<String> {
    let agents = ask(link, "agent list", json!({})).await.unwrap_or_default();
    let names = agents.as_array().into_iter().flatten().filter_map(|a| Some(a["name"].as_str()?.to_owned()));
    names.collect()
}

/// The ids of the newest incidents.
pub(crate) async fn incident_ids(link: &Link) -> Vec<String> {
    let newest = incidents(link, RECENT).await.unwrap_or_default();
    newest.iter().filter_map(|i| Some(i["id"].as_str()?.to_owned())).collect()
}

/// The names of all agent types.
pub(crate) async fn type_names(link: &Link) -> Vec<String> {
    let types = ask(link, "agent types", json!({})).await.unwrap_or_default();
    let names = types.as_array().into_iter().flatten().filter_map(|t| Some(t["name"].as_str()?.to_owned()));
    names.collect()
}

/// What a resource says.
pub(crate) async fn read(link: &Link, uri: &str, words: &Arc<Words>) -> Result<ResourceContents, ErrorData> {
    let missing = |why: String| ErrorData::resource_not_found(why, Some(json!({"uri": uri})));
    let place = Place::parse(uri).ok_or_else(|| missing(format!("there is no resource {uri}")))?;
    let text = say(link, &place).await.map_err(|e| match e.kind {
        ErrorKind::NotFound => missing(e.message),
        _ => ErrorData::internal_error(words.for_models(&e.to_string()), Some(json!({"uri": uri}))),
    })?;
    Ok(ResourceContents::text(text, uri).with_mime_type(place.mime()))
}

async fn say(link: &Link, place: &Place) -> Result<String> {
    let value = match place {
        Place::Health => ask(link, "monitor health", json!({})).await?,
        Place::Agents => ask(link, "agent list", json!({})).await?,
        Place::Agent(name) => ask(link, "agent status", json!({"agent": name})).await?,
        Place::Logs(name) => return logs(link, name).await,
        Place::Incidents => Value::Array(incidents(link, RECENT).await?),
        Place::Incident(id) => {
            let known = incidents(link, KNOWN).await?;
            let found = known.into_iter().find(|i| i["id"].as_str() == Some(id));
            found.ok_or_else(|| Error::not_found("incident", id))?
        }
    };
    Ok(value.to_string())
}

async fn incidents(link: &Link, limit: u64) -> Result<Vec<Value>> {
    match ask(link, "heal history", json!({"limit": limit})).await? {
        Value::Array(all) => Ok(all),
        _ => Err(Error::new(ErrorKind::Protocol, "the history of healing is no list")),
    }
}

/// The newest lines, each with its stream.
async fn logs(link: &Link, agent: &str) -> Result<String> {
    let mut text = String::new();
    let hear = |heard| match heard {
        Heard::Update(Update::Item { value }) => {
            let stream = value["stream"].as_str().unwrap_or_default();
            match value["line"].as_str() {
                Some(line) => text.push_str(&format!("{stream}: {line}\n")),
                None => text.push_str(&format!("{stream}: ({} bytes were rotated away)\n", value["gap"])),
            }
            if text.len() > 2 * LOG_BYTES {
                keep_newest(&mut text);
            }
        }
        Heard::Update(_) => {}
        Heard::Again => text.clear(),
    };
    let args = json!({"agent": agent, "tail": LINES});
    link.run("agent logs", true, args, caller(), hear).await?;
    keep_newest(&mut text);
    Ok(text)
}

/// Cuts whole lines off the beginning until the text is short enough.
fn keep_newest(text: &mut String) {
    let Some(mut from) = text.len().checked_sub(LOG_BYTES).filter(|&from| from > 0) else { return };
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let from = text[from..].find('\n').map_or(from, |newline| from + newline + 1);
    // A single line longer than all there is room for keeps its end.
    let from = if from < text.len() { from } else { text.len() - text.len().min(LOG_BYTES) };
    let from = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    text.drain(..from);
}

/// Runs a command that reads.
pub(crate) async fn ask(link: &Link, path: &str, args: Value) -> Result<Value> {
    link.run(path, true, args, caller(), |_| {}).await
}

pub(crate) fn caller() -> Caller {
    Caller { source: "mcp".into(), ..Caller::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_and_places_are_one() {
        for place in [
            Place::Health,
            Place::Agents,
            Place::Agent("web.1".into()),
            Place::Logs("web".into()),
            Place::Incidents,
            Place::Incident("k3".into()),
        ] {
            assert_eq!(Place::parse(&place.uri()), Some(place));
        }
        for wrong in
            ["hms://", "hms://agents/", "hms://agents/a/b", "hms://x", "file:///health", "hms://agents/a b"]
        {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_long_log_loses_its_oldest_lines() {
        let mut text: String = (0..40_000).map(|i| format!("stdout: line {i}\n")).collect();
        keep_newest(&mut text);
        assert!(text.len() <= LOG_BYTES && text.len() > LOG_BYTES - 64);
        assert!(text.starts_with("stdout: line ") && text.ends_with("line 39999\n"));

        let mut one = format!("{}\n", "ä".repeat(LOG_BYTES));
        keep_newest(&mut one);
        assert!(one.len() <= LOG_BYTES && one.ends_with("ä\n"), "{}", one.len());
    }
}
