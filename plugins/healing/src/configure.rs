//! `heal configure`: shows the settings of healing and where they come from, and sets them, for the system
//! or for one agent.

use std::sync::Arc;

use hms_core::{
    Error, ErrorKind, Result,
    agent::AgentSpec,
    command::{CommandContext, CommandSpec, Format, View, handler},
    config::{Entry, Origin, closest},
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    commands::check_for,
    config::{SECTION, agent_schema},
    engine::Engine,
    ladder,
};

#[derive(Deserialize)]
struct Configure {
    key: Option<String>,
    value: Option<String>,
    agent: Option<String>,
    #[serde(default)]
    unset: bool,
}

/// Registers the command.
pub(crate) fn register(to: &Registrar, engine: &Arc<Engine>) -> Result<()> {
    let spec = CommandSpec::new("heal configure", "Show or set how agents are healed")
        .about("Without a key, lists all settings with their defaults and where they come from. A list is written as JSON, a ladder also as `restart,reset`.")
        .args(
            json!({
                "key": {"type": "string", "description": "a setting, such as verify_window or budget.actions"},
                "value": {"type": "string", "description": "its new value"},
                "agent": {"type": "string", "x-short": "a", "description": "of this agent alone (name or id)"},
                "unset": {"type": "boolean", "default": false, "description": "back to what it is without this setting"}
            }),
            &[],
        )
        .positional(&["key", "value"])
        .writes()
        .view(View::table(
            "No settings.",
            &[
                ("KEY", "/key", Format::Text),
                ("VALUE", "/value", Format::Text),
                ("DEFAULT", "/default", Format::Text),
                ("FROM", "/origin", Format::Text),
                ("DESCRIPTION", "/description", Format::Text),
            ],
        ))
        .example("heal configure verify_window 5s --agent web");
    let engine = engine.clone();
    to.command(spec, handler(move |cx, args| configure(engine.clone(), cx, args)))
}

async fn configure(engine: Arc<Engine>, cx: CommandContext, args: Configure) -> Result<Value> {
    engine.kernel.require_open()?;
    let prefix = format!("{SECTION}.");
    let key = args.key.as_deref().map(|key| key.strip_prefix(&prefix).unwrap_or(key).to_owned());
    if args.value.is_some() && args.unset {
        return Err(Error::argument("unset", "does not go with a value"));
    }
    match (&key, args.value, args.unset) {
        (Some(key), Some(value), _) => set(&engine, &cx, args.agent.as_deref(), key, Some(value)).await?,
        (Some(key), None, true) => set(&engine, &cx, args.agent.as_deref(), key, None).await?,
        (None, _, true) => return Err(Error::argument("key", "is missing: which one is to be unset?")),
        (_, None, false) | (None, Some(_), _) => {}
    }
    let mut entries = list(&engine, args.agent.as_deref())?;
    if let Some(key) = &key {
        let all: Vec<String> = entries.iter().map(name).collect();
        entries.retain(|entry| name(entry) == *key);
        if entries.is_empty() {
            return Err(unknown(key, &all));
        }
    }
    Ok(Value::Array(entries))
}

fn name(entry: &Value) -> String {
    entry["key"].as_str().unwrap_or_default().to_owned()
}

fn unknown(key: &str, all: &[String]) -> Error {
    let e = Error::new(ErrorKind::InvalidArgument, format!("no healing setting `{key}`"));
    match closest(key, all.iter().map(String::as_str)) {
        Some(near) => e.hint(format!("did you mean `{near}`?")),
        None => e.hint(format!("there are: {}", all.join(", "))),
    }
}

/// The settings of the system, or those in force for an agent.
fn list(engine: &Engine, agent: Option<&str>) -> Result<Vec<Value>> {
    let prefix = format!("{SECTION}.");
    let entries: Vec<Entry> = engine.kernel.config().list();
    let of_agent = match agent {
        Some(agent) => Some((engine.kernel.agents().spec(agent)?, agent_schema())),
        None => None,
    };
    let mut rows = Vec::new();
    for entry in entries {
        let Some(key) = entry.key.strip_prefix(&prefix) else { continue };
        let (mut value, mut origin) = (entry.value, origin_text(&entry.origin));
        if let Some((spec, schema)) = &of_agent {
            if property(schema, key).is_none() {
                continue;
            }
            if let Some(own) = value_at(&spec.healing, key) {
                (value, origin) = (own.clone(), "agent".into());
            }
        }
        rows.push(json!({"key": key, "value": value, "default": entry.default, "origin": origin,
            "live": entry.live, "description": entry.description}));
    }
    Ok(rows)
}

fn origin_text(origin: &Origin) -> String {
    match origin {
        Origin::Default => "default".into(),
        Origin::File(line) => format!("config.toml:{line}"),
        Origin::Override => "override".into(),
    }
}

async fn set(
    engine: &Arc<Engine>,
    cx: &CommandContext,
    agent: Option<&str>,
    key: &str,
    text: Option<String>,
) -> Result<()> {
    let text = text.map(|text| if key == "ladder" { as_list(&text) } else { text });
    let Some(agent) = agent else {
        if let (Some(text), "ladder") = (&text, key) {
            let rungs: Vec<String> = serde_json::from_str(text).map_err(|e| Error::argument("value", e))?;
            rungs.iter().try_for_each(|rung| ladder::require(&engine.kernel, rung))?;
        }
        let by = if cx.caller.source.is_empty() { "user" } else { &cx.caller.source };
        engine.kernel.configure(&format!("{SECTION}.{key}"), text.as_deref(), by).await?;
        engine.reload()?;
        return Ok(());
    };
    let mut spec: AgentSpec = (*engine.kernel.agents().spec(agent)?).clone();
    let schema = agent_schema();
    let Some(property) = property(&schema, key) else {
        let all: Vec<String> = list(engine, Some(agent))?.iter().map(name).collect();
        return Err(unknown(key, &all));
    };
    match text {
        Some(text) => put(&mut spec.healing, key, read(property, &text)),
        None => remove(&mut spec.healing, key),
    }
    check_for(engine, &spec.healing)?;
    engine.kernel.agents().update(agent, spec).await.map(drop)
}

/// `restart,reset` as the JSON list that it means.
fn as_list(text: &str) -> String {
    if text.trim_start().starts_with('[') {
        return text.to_owned();
    }
    json!(text.split(',').map(str::trim).filter(|rung| !rung.is_empty()).collect::<Vec<_>>()).to_string()
}

/// What was typed, as the type that the setting has; validation says what does not fit.
fn read(property: &Value, text: &str) -> Value {
    let is_text = property["type"] == "string" || property.get("enum").is_some();
    let parsed = if is_text { None } else { serde_json::from_str(text).ok() };
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The leaf of the schema that a dotted key names.
fn property<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    let found = key.split('.').try_fold(schema, |at, name| at.get("properties")?.get(name))?;
    found.get("properties").is_none().then_some(found)
}

fn value_at<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let mut names = key.split('.');
    let first = map.get(names.next()?)?;
    names.try_fold(first, |at, name| at.get(name))
}

fn put(map: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            map.insert(key.to_owned(), value);
        }
        Some((outer, inner)) => {
            let below = map.entry(outer.to_owned()).or_insert_with(|| json!({}));
            if let Value::Object(below) = below {
                put(below, inner, value);
            }
        }
    }
}

fn remove(map: &mut Map<String, Value>, key: &str) {
    match key.split_once('.') {
        None => {
            map.shift_remove(key);
        }
        Some((outer, inner)) => {
            if let Some(Value::Object(below)) = map.get_mut(outer) {
                remove(below, inner);
                if below.is_empty() {
                    map.shift_remove(outer);
                }
            }
        }
    }
}
