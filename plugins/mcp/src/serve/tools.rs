//! Commands as tools: their names, their schemas, and what a model is told about them.

use std::{collections::BTreeMap, sync::Arc};

use hms_core::command::{CommandSpec, Effect, Runs, View};
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::{Map, Value, json};

/// Items of a streaming command that a tool returns unless asked for another number.
pub(crate) const ITEMS: u64 = 200;
/// Seconds a streaming command may run unless asked for another number.
pub(crate) const SECONDS: u64 = 2;
/// The argument that stands in for a person's yes.
pub(crate) const CONFIRM: &str = "confirm";
/// The key of an argument schema by which a `caller` command says that it needs no terminal and no streams.
const AS_TOOL: &str = "x-tool";

/// A command that is offered as a tool.
pub(crate) struct Offer {
    pub(crate) spec: Arc<CommandSpec>,
    pub(crate) tool: Tool,
}

/// All tools, by name.
pub(crate) struct Catalog {
    pub(crate) offers: BTreeMap<String, Offer>,
}

/// Which commands are offered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choice {
    /// Only those that change nothing.
    pub(crate) read_only: bool,
    /// Only tools whose name fits one of these patterns; empty: all.
    pub(crate) patterns: Vec<String>,
}

impl Catalog {
    /// The tools of these commands. `types` are the agent types with the schemas of their configuration.
    pub(crate) fn new(
        specs: impl IntoIterator<Item = Arc<CommandSpec>>,
        types: &[(String, Value)],
        choice: &Choice,
    ) -> Self {
        let mut specs: Vec<_> = specs.into_iter().filter(|spec| is_offered(spec)).collect();
        // Longest first, so that `agent list` is not taken for a command `agent`.
        specs.sort_by_key(|spec| std::cmp::Reverse(spec.path.len()));
        let words = Words { paths: specs.iter().map(|spec| spec.path.clone()).collect() };
        let mut offers = BTreeMap::new();
        for spec in specs {
            let Some(name) = name_of(&spec.path) else {
                tracing::warn!(command = %spec.path, "no tool can have this name");
                continue;
            };
            if !choice.admits(&name, spec.effect) {
                continue;
            }
            let tool = tool(&name, &spec, types, &words);
            offers.insert(name, Offer { spec, tool });
        }
        Self { offers }
    }

    /// The tools as a client lists them.
    pub(crate) fn tools(&self) -> Vec<Tool> {
        self.offers.values().map(|offer| offer.tool.clone()).collect()
    }
}

impl Choice {
    fn admits(&self, name: &str, effect: Effect) -> bool {
        (!self.read_only || effect == Effect::Read)
            && (self.patterns.is_empty() || self.patterns.iter().any(|p| fits(p, name)))
    }
}

fn is_offered(spec: &CommandSpec) -> bool {
    !spec.hidden && (spec.runs == Runs::Host || spec.args.get(AS_TOOL).and_then(Value::as_bool) == Some(true))
}

/// `agent list` is `agent_list`; an underscore of a word is doubled, so that each name stands for one path.
/// `None` for a path that no tool can be named after.
pub(crate) fn name_of(path: &str) -> Option<String> {
    let name = path.replace('_', "__").replace(' ', "_");
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!name.is_empty() && name.len() <= 128 && name.chars().all(fine)).then_some(name)
}

/// Whether `name` fits a pattern in which `*` stands for any text and `?` for one character.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star was, and how much it stands for: all that ever has to be tried again.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

/// Speaks to a model of tools where a text speaks to a person of commands.
pub(crate) struct Words {
    /// Longest first.
    paths: Vec<String>,
}

impl Words {
    pub(crate) fn of(catalog: &Catalog) -> Self {
        let mut paths: Vec<_> = catalog.offers.values().map(|offer| offer.spec.path.clone()).collect();
        paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
        Self { paths }
    }

    /// The text with `` `agent types` `` as `` `agent_types` ``, and `` `--tail` `` as `` `tail` ``.
    pub(crate) fn for_models(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for (i, part) in text.split('`').enumerate() {
            if i > 0 {
                out.push('`');
            }
            // Every other part is between two backticks.
            if i % 2 == 1 { out.push_str(&self.quoted(part)) } else { out.push_str(part) }
        }
        out
    }

    fn quoted(&self, part: &str) -> String {
        let part = part.trim_start_matches("{program} ").trim_start_matches("codex-hms ");
        if let Some(option) = part.strip_prefix("--")
            && option.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        {
            return option.replace('-', "_");
        }
        for path in &self.paths {
            if let Some(rest) = part.strip_prefix(path.as_str())
                && (rest.is_empty() || rest.starts_with(' '))
                && let Some(name) = name_of(path)
            {
                return format!("{name}{rest}");
            }
        }
        part.to_owned()
    }
}

fn tool(name: &str, spec: &CommandSpec, types: &[(String, Value)], words: &Words) -> Tool {
    let mut tool = Tool::new(name.to_owned(), describe(spec, words), input(spec, types, words))
        .with_title(spec.summary.clone())
        .with_annotations(annotations(spec));
    if let Some(schema) = output(spec) {
        tool = tool.with_raw_output_schema(Arc::new(schema));
    }
    tool
}

/// Commands whose arguments say what is run. HMS runs it outside of whatever holds a client's own commands back, so that
/// a client must not take these for harmless: it asks its user first.
const RUN_PROGRAMS: [&str; 2] = ["agent create", "up"];

/// What a client may assume. A command that says `Write` may be called again with the same effect only if it
/// says so itself, and none says so: the hint is left out.
fn annotations(spec: &CommandSpec) -> ToolAnnotations {
    let reads = spec.effect == Effect::Read;
    let runs = RUN_PROGRAMS.contains(&spec.path.as_str());
    let hints = ToolAnnotations::new().read_only(reads).open_world(runs);
    if reads {
        hints.idempotent(true).destructive(false)
    } else {
        hints.idempotent(false).destructive(runs || spec.effect == Effect::Destructive)
    }
}

fn describe(spec: &CommandSpec, words: &Words) -> String {
    let mut text = format!("{}.", spec.summary.trim_end_matches('.'));
    if !spec.description.is_empty() {
        // Help is for who types; its place is taken by the schema.
        let sentences = spec.description.split_inclusive(". ").filter(|s| !s.contains("--help"));
        text.push(' ');
        text.push_str(&words.for_models(&sentences.collect::<String>()));
    }
    if spec.streams {
        text.push_str(
            " Returns the newest items that came up within `seconds`, and how many older ones were omitted.",
        );
    }
    if let Some(question) = &spec.confirm {
        text.push_str(&format!(" A person must agree: {question}"));
    }
    if spec.effect == Effect::Destructive {
        text.push_str(" This cannot be undone.");
    }
    // Not those that need a terminal or a shell to make sense.
    let typed = ["--json", "--follow", "--watch", "|", "> ", "@"];
    let plain = |line: &&String| !typed.iter().any(|word| line.contains(word));
    if let Some(example) = spec.examples.iter().find(plain) {
        text.push_str(&format!(" As a command line: {example}"));
    }
    text
}

/// The command's own schema as a client can read it: an object, without the keys that only HMS knows.
fn input(spec: &CommandSpec, types: &[(String, Value)], words: &Words) -> JsonObject {
    let mut schema = match clean(&spec.args, words) {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    schema.insert("type".into(), "object".into());
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    let Value::Object(properties) = properties else { return schema };
    if spec.streams {
        properties.shift_remove("follow");
        properties.insert(
            "max_items".into(),
            json!({
                "type": "integer", "minimum": 1, "maximum": 2000, "default": ITEMS,
                "description": "how many items to return at most, the newest",
            }),
        );
        properties.insert(
            "seconds".into(),
            json!({
                "type": "integer", "minimum": 1, "maximum": 60, "default": SECONDS,
                "description": "how long to wait for items at most",
            }),
        );
    }
    if let Some(question) = &spec.confirm {
        properties.insert(
            CONFIRM.into(),
            json!({
                "type": "boolean", "default": false,
                "description": format!("must be true, and only after the user agreed to this: {question}"),
            }),
        );
    }
    if spec.typed_by.is_some()
        && !types.is_empty()
        && let Some(config) = properties.get_mut("config")
    {
        let shapes: Vec<_> = types.iter().map(|(name, schema)| shape(name, schema)).collect();
        config["description"] =
            format!("configuration of the agent, by its type (* is required): {}", shapes.join("; ")).into();
    }
    schema
}

/// One line on what a type wants: `http: {url*, interval}`.
fn shape(name: &str, schema: &Value) -> String {
    let required = |key: &str| {
        schema["required"].as_array().is_some_and(|all| all.iter().any(|r| r.as_str() == Some(key)))
    };
    let keys: Vec<_> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, property)| {
            let list = if property["type"] == "array" { "[]" } else { "" };
            format!("{key}{list}{}", if required(key) { "*" } else { "" })
        })
        .collect();
    format!("{name}: {{{}}}", keys.join(", "))
}

/// A schema without `x-` keys and hidden properties, with HMS's own formats in words, and with texts that
/// name tools instead of commands.
fn clean(schema: &Value, words: &Words) -> Value {
    let Value::Object(from) = schema else { return schema.clone() };
    let mut to = Map::new();
    for (key, value) in from {
        match (key.as_str(), value) {
            (key, _) if key.starts_with("x-") => {}
            ("format", Value::String(format)) if format.starts_with("hms-") => {}
            ("description", Value::String(text)) => {
                to.insert(key.clone(), words.for_models(text).into());
            }
            ("properties" | "$defs" | "definitions" | "patternProperties", Value::Object(named)) => {
                let shown = named.iter().filter(|(_, p)| p.get("x-hidden") != Some(&Value::Bool(true)));
                let shown = shown.map(|(name, p)| (name.clone(), clean(p, words))).collect();
                to.insert(key.clone(), Value::Object(shown));
            }
            ("items" | "additionalProperties" | "not" | "if" | "then" | "else" | "contains", _) => {
                to.insert(key.clone(), clean(value, words));
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(all)) => {
                to.insert(key.clone(), all.iter().map(|s| clean(s, words)).collect());
            }
            _ => {
                to.insert(key.clone(), value.clone());
            }
        }
    }
    if let Some(in_words) = from.get("format").and_then(Value::as_str).and_then(format_in_words) {
        let text = to.get("description").and_then(Value::as_str).unwrap_or_default();
        let text = if text.is_empty() { in_words.to_owned() } else { format!("{text} ({in_words})") };
        to.insert("description".into(), text.into());
    }
    let texts = |all: &Vec<Value>| all.iter().all(Value::is_string);
    if !to.contains_key("type") && to.get("enum").and_then(Value::as_array).is_some_and(texts) {
        to.insert("type".into(), "string".into());
    }
    Value::Object(to)
}

fn format_in_words(format: &str) -> Option<&'static str> {
    match format {
        "hms-duration" | "hms-interval" => Some("a duration such as 500ms, 2s or 1m"),
        "hms-bytes" => Some("a size such as 512KiB or 2GiB"),
        _ => None,
    }
}

/// What is known for sure of a result: that a table is a list, and what a stream is returned as.
fn output(spec: &CommandSpec) -> Option<JsonObject> {
    let list = |key: &str| json!({key: {"type": "array"}});
    let (mut properties, mut required) = match &spec.view {
        _ if spec.streams => (list("items"), vec!["items"]),
        View::Table { rows, .. } if rows.is_empty() => (list("result"), vec!["result"]),
        _ => return None,
    };
    if spec.streams {
        properties["omitted"] =
            json!({"type": "integer", "description": "older items that came up and are not returned"});
        properties["complete"] =
            json!({"type": "boolean", "description": "false: the time was up and more may come"});
        required.extend(["omitted", "complete"]);
    }
    let schema = json!({"type": "object", "properties": properties, "required": required});
    schema.as_object().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(specs: Vec<CommandSpec>, choice: &Choice) -> Catalog {
        let types =
            [("http".to_owned(), json!({"properties": {"url": {}, "headers": {}}, "required": ["url"]}))];
        Catalog::new(specs.into_iter().map(Arc::new), &types, choice)
    }

    #[test]
    fn names_stand_for_one_path_each() {
        assert_eq!(name_of("agent list").as_deref(), Some("agent_list"));
        assert_eq!(name_of("my_tool run").as_deref(), Some("my__tool_run"));
        assert_ne!(name_of("my tool"), name_of("my_tool"));
        for wrong in ["", "büro", "a/b", &"x".repeat(129)] {
            assert_eq!(name_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn patterns_are_globs() {
        for (pattern, name, expected) in [
            ("agent_*", "agent_list", true),
            ("agent_*", "agents", false),
            ("*_status", "heal_status", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("heal_?tatus", "heal_status", true),
            ("heal_?", "heal_", false),
            ("", "x", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_choice_leaves_tools_out() {
        let specs = || {
            vec![
                CommandSpec::new("agent list", "List"),
                CommandSpec::new("agent stop", "Stop").writes(),
                CommandSpec::new("heal status", "Show"),
                CommandSpec::new("agent secret", "Hide").hidden(),
                CommandSpec::new("system run", "Run").caller(),
            ]
        };
        let names = |choice: Choice| catalog(specs(), &choice).offers.into_keys().collect::<Vec<_>>();
        assert_eq!(names(Choice::default()), ["agent_list", "agent_stop", "heal_status"]);
        let reads = Choice { read_only: true, patterns: Vec::new() };
        assert_eq!(names(reads), ["agent_list", "heal_status"]);
        let some = Choice { read_only: false, patterns: vec!["agent_*".into(), "nothing".into()] };
        assert_eq!(names(some), ["agent_list", "agent_stop"]);
    }

    #[test]
    fn a_tool_is_what_its_command_says() {
        let mut spec = CommandSpec::new("agent create", "Create an agent")
            .about("`agent types` lists them; `--dry-run` and `ls` do not matter.")
            .args(
                json!({
                    "type": {"enum": ["http"], "description": "as `agent types` says", "x-short": "t"},
                    "every": {"type": "string", "format": "hms-duration", "x-value": "DURATION"},
                    "x-ray": {"type": "boolean"},
                    "config": {"type": "object"},
                    "yes": {"type": "boolean", "x-hidden": true},
                }),
                &["type"],
            )
            .destructive();
        spec.typed_by = Some("type".into());
        spec.confirm = Some("Go on?".into());
        let types = CommandSpec::new("agent types", "List").view(View::table("none", &[]));
        let logs = CommandSpec::new("agent logs", "Show")
            .args(json!({"follow": {"type": "boolean"}}), &[])
            .streaming();
        let catalog = catalog(vec![spec, types, logs], &Choice::default());

        let create = &catalog.offers["agent_create"].tool;
        let text = create.description.as_deref().expect("a description");
        assert!(
            text.starts_with("Create an agent. `agent_types` lists them; `dry_run` and `ls` do"),
            "{text}"
        );
        assert!(text.contains("A person must agree: Go on?"), "{text}");
        let input = Value::Object(create.input_schema.as_ref().clone());
        assert_eq!(
            input,
            json!({
                "type": "object",
                "properties": {
                    "type": {"enum": ["http"], "description": "as `agent_types` says", "type": "string"},
                    "every": {"type": "string", "description": "a duration such as 500ms, 2s or 1m"},
                    "x-ray": {"type": "boolean"},
                    "config": {"type": "object",
                        "description": "configuration of the agent, by its type (* is required): http: {url*, headers}"},
                    "confirm": {"type": "boolean", "default": false,
                        "description": "must be true, and only after the user agreed to this: Go on?"},
                },
                "required": ["type"],
                "additionalProperties": false,
            })
        );
        let hints = create.annotations.as_ref().expect("annotations");
        assert_eq!((hints.read_only_hint, hints.destructive_hint), (Some(false), Some(true)));
        assert_eq!(hints.open_world_hint, Some(true), "it runs what it is told");
        assert!(create.output_schema.is_none());

        let types = &catalog.offers["agent_types"].tool;
        let hints = types.annotations.as_ref().expect("annotations");
        assert_eq!((hints.read_only_hint, hints.idempotent_hint), (Some(true), Some(true)));
        assert!(types.output_schema.as_ref().is_some_and(|s| s["properties"]["result"]["type"] == "array"));

        let logs = &catalog.offers["agent_logs"].tool;
        assert!(logs.input_schema["properties"]["follow"].is_null());
        assert_eq!(logs.input_schema["properties"]["seconds"]["maximum"], 60);
    }
}
