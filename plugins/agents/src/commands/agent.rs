//! `agent list`, `agent create`, `agent status` and `agent types`: what there is, and what can be.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentSpec, AgentTypeSpec, Create, common_schema},
    command::{CommandContext, CommandSpec, Format, View, handler},
    config::closest,
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{check_healing, place, with_caller_env};

pub(super) fn register(to: &Registrar) -> Result<()> {
    let kernel = to.kernel().clone();
    to.command(list_spec(), handler(move |_, args: List| std::future::ready(list(&kernel, &args))))?;
    let kernel = to.kernel().clone();
    to.command(create_spec(), handler(move |cx, args: CreateArgs| create(kernel.clone(), cx, args)))?;
    let kernel = to.kernel().clone();
    to.command(status_spec(), handler(move |_, args: One| std::future::ready(status(&kernel, &args))))?;
    let kernel = to.kernel().clone();
    to.command(types_spec(), handler(move |_, args: Types| std::future::ready(types(&kernel, &args))))
}

/// The columns of a table of agents.
pub(super) const COLUMNS: &[(&str, &str, Format)] = &[
    ("Name", "/name", Format::Text),
    ("Type", "/type", Format::Text),
    ("Status", "/status", Format::State),
    ("Health", "/health", Format::State),
    ("Restarts", "/restarts", Format::Number),
    ("Pid", "/pid", Format::Number),
    ("Since", "/since_ms", Format::Age),
    ("Reason", "/reason", Format::Text),
];

// ---- agent list -------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct List {
    #[serde(rename = "type")]
    kind: Option<String>,
    status: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

fn list_spec() -> CommandSpec {
    CommandSpec::new("agent list", "List the agents")
        .about("Agents in the order of their creation, narrowed by the options that are given.")
        .args(
            json!({
                "type": {"type": "string", "description": "only agents of this type"},
                "status": {
                    "enum": ["waiting", "starting", "running", "degraded", "restarting", "stopped", "failed", "quarantined"],
                    "description": "only agents with this status"
                },
                "labels": {
                    "type": "object", "additionalProperties": {"type": "string"},
                    "description": "only agents with this label"
                }
            }),
            &[],
        )
        .watchable()
        .view(View::table("no agents; `{program} agent create process -- COMMAND` makes one", COLUMNS))
        .example("agent list --status quarantined")
        .example("agent list --label tier=web --json")
}

/// An array of rows: `id`, `name`, `type`, `status`, `health`, `restarts`, `since_ms`; `reason` where the
/// status has one; what the type adds while the agent lives, for processes `pid`.
fn list(kernel: &Kernel, args: &List) -> Result<Value> {
    kernel.require_open()?;
    let specs: BTreeMap<String, Arc<AgentSpec>> = kernel.agents().specs().into_iter().collect();
    if let Some(kind) = &args.kind
        && !specs.values().any(|spec| spec.kind == *kind)
    {
        // Agents may wait for who offers their type; of a type that neither is nor has any, the name is wrong.
        known_type(kernel, kind).map_err(|e| Error { kind: ErrorKind::NotFound, ..e })?;
    }
    let labelled = |row: &Value| {
        let spec = row["id"].as_str().and_then(|id| specs.get(id));
        args.labels.iter().all(|(key, value)| spec.is_some_and(|s| s.labels.get(key) == Some(value)))
    };
    let fits = |row: &Value| {
        args.kind.as_ref().is_none_or(|kind| row["type"] == kind.as_str())
            && args.status.as_ref().is_none_or(|status| row["status"] == status.as_str())
            && labelled(row)
    };
    Ok(kernel.agents().list().into_iter().filter(fits).collect())
}

// ---- agent create -----------------------------------------------------------------------------------

#[derive(Deserialize)]
struct CreateArgs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    ensure: bool,
    /// The keys of a specification, already checked by the command's schema.
    #[serde(flatten)]
    spec: Map<String, Value>,
}

fn create_spec() -> CommandSpec {
    let mut properties = json!({
        "type": {"type": "string", "description": "agent type; `agent types` lists them"},
    });
    if let (Value::Object(all), Value::Object(common)) = (&mut properties, common_schema()) {
        all.extend(common);
        all.insert(
            "config".into(),
            json!({"type": "object", "description": "configuration, as the type's schema wants it"}),
        );
        all.insert(
            "ensure".into(),
            json!({"type": "boolean", "default": false, "description": "update an agent of that name instead of failing"}),
        );
    }
    let mut spec = CommandSpec::new("agent create", "Create an agent and start it")
        .about(
            "The options of the type come from its schema: `agent create TYPE --help` shows them. A process \
             inherits the environment and, unless `--cwd` names another, the working directory of whoever \
             creates it. It keeps that environment for all its lives, with `--ensure` too: what shall change \
             goes into `--var` or `--env-file`, which is read at each start. An agent that cannot be started (unknown type, wrong configuration, missing \
             executable) is not created.",
        )
        .args(properties, &["type"])
        .positional(&["type"])
        .writes()
        .view(View::message("{/name} is {/status|state}"))
        .example("agent create process --name web -- python3 -m http.server")
        .example("agent create process -n worker --restart-policy transient --depends-on web -- ./worker --queue mail")
        .example("agent create http --name api --url http://127.0.0.1:8080/health");
    spec.typed_by = Some("type".into());
    with_caller_env(spec)
}

/// The row of the agent, as `agent list` shows it.
async fn create(kernel: Kernel, cx: CommandContext, args: CreateArgs) -> Result<Value> {
    kernel.require_open()?;
    let kind = known_type(&kernel, &args.kind)?;
    let mut raw = args.spec;
    if raw.get("name").and_then(Value::as_str) == Some("") {
        return Err(Error::argument("name", "is empty").hint("leave it out to have one made up"));
    }
    let mut config = raw.remove("config").unwrap_or_else(|| json!({}));
    if let Some(cwd) = &cx.caller.cwd {
        place::anchor(&kind.schema, &mut config, Path::new(cwd));
    }
    raw.insert("type".into(), args.kind.into());
    raw.insert("config".into(), config);
    let spec = AgentSpec::from_json(Value::Object(raw))?;
    if args.ensure && spec.name.is_empty() {
        return Err(Error::argument("ensure", "needs a name").hint("say which agent is meant: --name NAME"));
    }
    check_healing(&kernel, &spec.healing).await.map_err(|e| e.context("argument `healing`"))?;
    let how = Create { env: cx.caller.env, must_start: true, ensure: args.ensure, ..Create::default() };
    kernel.agents().create(spec, how).await
}

/// The type called `name`, or an error that says which ones there are.
pub(super) fn known_type(kernel: &Kernel, name: &str) -> Result<Arc<AgentTypeSpec>> {
    kernel.types().get(name).map_err(|e| {
        let types = kernel.types().list();
        let near = closest(name, types.iter().map(|t| t.name.as_str()));
        let known = types.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ");
        match near {
            Some(near) => {
                Error::new(e.kind, e.message).hint(format!("did you mean `{near}`? available types: {known}"))
            }
            None => Error::new(e.kind, e.message).hint(format!("available types: {known}")),
        }
    })
}

// ---- agent status -----------------------------------------------------------------------------------

#[derive(Deserialize)]
struct One {
    agent: String,
}

fn status_spec() -> CommandSpec {
    let fields = [
        ("Name", "/name", Format::Text),
        ("Id", "/id", Format::Text),
        ("Type", "/type", Format::Text),
        ("Status", "/status", Format::State),
        ("Reason", "/reason", Format::Text),
        ("Since", "/since_ms", Format::Age),
        ("Health", "/health", Format::State),
        ("Pid", "/pid", Format::Number),
        ("Restarts", "/restarts", Format::Number),
        ("Incarnation", "/incarnation", Format::Number),
        ("Last exit", "/last_exit/reason", Format::Text),
        ("Desired", "/desired", Format::State),
        ("Restart", "/restart/policy", Format::Text),
        ("Depends on", "/depends_on", Format::Text),
        ("Parent", "/parent", Format::Text),
        ("Labels", "/labels", Format::Text),
        ("Config", "/config", Format::Text),
    ];
    let issues = [
        ("Severity", "/severity", Format::State),
        ("Code", "/code", Format::Text),
        ("Message", "/message", Format::Text),
    ];
    let tools = [
        ("Tool", "/tool", Format::Text),
        ("Calls", "/calls", Format::Number),
        ("Errors", "/errors", Format::Number),
        ("p50", "/p50_ms", Format::Millis),
        ("p99", "/p99_ms", Format::Millis),
        ("Last call", "/last_ms", Format::Age),
    ];
    CommandSpec::new("agent status", "Show everything about one agent")
        .args(json!({"agent": {"type": "string", "description": "name or id"}}), &["agent"])
        .positional(&["agent"])
        .watchable()
        .view(
            View::record(&fields)
                .with("Issues", View::table_at("/issues", "none", &issues))
                // Of types that tell one tool's calls from another's.
                .with("Tools", View::table_at("/tools", "", &tools)),
        )
        .example("agent status web")
}

/// The row of `agent list` and: `issues`, `incarnation`, `last_exit`, `depends_on`, `parent`, `labels`,
/// `desired`, `restart`, `config`, `messages` (`waiting`, `refused`, and `from`: source to count).
fn status(kernel: &Kernel, args: &One) -> Result<Value> {
    kernel.require_open()?;
    kernel.agents().status(&args.agent)
}

// ---- agent types ------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Types {
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn types_spec() -> CommandSpec {
    let columns = [
        ("Type", "/name", Format::Text),
        ("Version", "/version", Format::Text),
        ("Agents", "/agents", Format::Number),
        ("Summary", "/summary", Format::Text),
    ];
    CommandSpec::new("agent types", "List the agent types, with their schemas in JSON")
        .args(json!({"type": {"type": "string", "description": "only this type"}}), &[])
        .positional(&["type"])
        .view(View::table("no agent types", &columns))
        .example("agent types process --json")
}

/// An array of types: `name`, `version`, `summary`, `schema` (of the configuration), `state_version`,
/// `tunables`, and `agents`, how many there are.
fn types(kernel: &Kernel, args: &Types) -> Result<Value> {
    let wanted = match &args.kind {
        Some(name) => vec![known_type(kernel, name).map_err(|e| Error { kind: ErrorKind::NotFound, ..e })?],
        None => kernel.types().list(),
    };
    let specs = kernel.agents().specs();
    let row = |kind: Arc<AgentTypeSpec>| {
        let mut row = json!(*kind);
        row["agents"] = specs.iter().filter(|(_, spec)| spec.kind == kind.name).count().into();
        row
    };
    Ok(wanted.into_iter().map(row).collect())
}
