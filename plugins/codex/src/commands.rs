//! The commands `codex install`, `uninstall`, `status`, `doctor`, `shim` and `hook`. All run in the process that asks.

use std::{path::PathBuf, sync::atomic::Ordering};

use hms_core::{
    Error, Result,
    command::{CommandContext, CommandSpec, Format, View, handler},
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    backup::Records,
    clients::{self, Client},
    doctor,
    hook::{self, Hook},
    install::{self, Choices, Site},
    places::{Hms, Places},
    shim,
};

/// What `codex doctor` ends with when something is ill.
const ILL: i32 = 1;

/// Registers the commands.
///
/// # Errors
/// When a path is taken.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    to.command(install_spec(), handler(|cx, args: Install| async move { install(cx, args).await }))?;
    to.command(uninstall_spec(), handler(|cx, args: Uninstall| async move { uninstall(cx, args).await }))?;
    to.command(status_spec(), handler(|cx, args: Where| async move { status(cx, args).await }))?;
    to.command(doctor_spec(), handler(|cx, args: Where| async move { examine(cx, args).await }))?;
    to.command(shim_spec(), handler(|cx, args: Shim| async move { make_shim(cx, args).await }))?;
    to.command(hook_spec(), handler(|cx, args: Hook| async move { hook::run(cx, args).await }))
}

fn client_property(default: &str) -> Value {
    json!({"type": "string", "enum": clients::names(), "default": default, "x-value": "CLIENT",
        "description": "whose configuration; all: of every client that is found on this machine"})
}

fn config_property() -> Value {
    json!({"type": "string", "x-value": "FILE", "description": "this configuration file instead of the client's own"})
}

fn host_property() -> Value {
    json!({"type": "string", "enum": ["auto", "never"],
        "description": "auto: a host is started when there is none, so that servers and sessions are always seen; never (the default, until said otherwise once): one that runs is told"})
}

fn site(cx: &CommandContext, starts_host: Option<bool>) -> Result<Site> {
    let (surroundings, places) = (cx.surroundings()?, Places::of(&cx.caller)?);
    let hms = Hms::of(surroundings, &places, starts_host)?;
    Ok(Site { hms, records: Records::of(&surroundings.home), places })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::internal(format!("a command of the organ `codex` ended: {e}")))?
}

/// Of several clients one that fails does not keep the others from being done; alone, it is the error.
fn for_each(clients: &[&'static Client], work: impl Fn(&'static Client) -> Result<Value>) -> Result<Value> {
    let mut rows = Vec::new();
    for client in clients {
        match work(client) {
            Ok(row) => rows.push(row),
            Err(e) if clients.len() > 1 => {
                rows.push(json!({"client": client.id, "title": client.title, "changed": false, "how": "failed", "notes": [e.to_string()]}));
            }
            Err(e) => return Err(e),
        }
    }
    let flat = |key: &str| -> Vec<Value> {
        let all =
            rows.iter().flat_map(|row| row[key].as_array().into_iter().flatten().map(move |v| (row, v)));
        all.map(|(row, v)| match v {
            Value::String(text) => format!("{}: {text}", row["client"].as_str().unwrap_or_default()).into(),
            other => other.clone(),
        })
        .collect()
    };
    let diff: String = rows.iter().filter_map(|row| row["diff"].as_str()).collect();
    Ok(json!({
        "notes": flat("notes"),
        "left": flat("left"),
        "servers": flat("servers"),
        "diff": diff,
        "clients": rows,
    }))
}

/// The lists of a row as texts, for a table's cells.
fn joined(mut result: Value) -> Value {
    for row in result["clients"].as_array_mut().into_iter().flatten() {
        for key in ["wrapped", "already", "unwrapped"] {
            let names = row[key]
                .as_array()
                .map(|all| all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
            row[format!("{key}_names")] = names.unwrap_or_default().into();
        }
    }
    result
}

// ---- install ------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Install {
    client: String,
    #[serde(default)]
    wrap: Option<bool>,
    #[serde(default)]
    plugin: Option<bool>,
    #[serde(default)]
    server: Vec<String>,
    #[serde(default)]
    config: Option<PathBuf>,
    #[serde(default)]
    trust_hooks: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    host: Option<String>,
}

fn install_spec() -> CommandSpec {
    CommandSpec::new("codex install", "Put HMS into Codex or another MCP client")
        .about(
            "Codex gets a plugin: the MCP server `hms`, hooks that tell the host of sessions and tools, and a skill; other \
             clients get the server. With --wrap, or --server, servers that are in the configuration already run behind \
             `mcp wrap` from then on and survive crashes and hangs; what is wrapped once stays so until --no-wrap.\n\n\
             Comments, order and everything else in the file stay as they are, byte for byte; a copy is kept, and \
             `codex uninstall` puts it back. Codex asks for your trust before it runs the plugin's hooks (/hooks in a \
             session); --trust-hooks gives it here.",
        )
        .args(
            json!({
                "client": client_property("codex"),
                "wrap": {"type": "boolean", "description": "wrap the stdio servers that the configuration declares; --no-wrap: unwrap them"},
                "plugin": {"type": "boolean", "description": "add the plugin (other clients: the server `hms`), which is the default; --no-plugin: remove it"},
                "server": {"type": "array", "items": {"type": "string", "minLength": 1}, "x-value": "NAME",
                    "description": "wrap only this server (may be repeated)"},
                "config": config_property(),
                "trust_hooks": {"type": "boolean", "default": false, "description": "trust the plugin's hooks, as /hooks in a session does"},
                "dry_run": {"type": "boolean", "default": false, "description": "show what would change, and change nothing"},
                "host": host_property(),
            }),
            &[],
        )
        .caller()
        .writes()
        .view(changes_view(&[("Wrapped", "/wrapped_names", Format::Text), ("Already", "/already_names", Format::Text), ("Unwrapped", "/unwrapped_names", Format::Text)]))
        .example("codex install --wrap")
        .example("codex install --wrap --dry-run")
        .example("codex install --client claude-code --server github")
}

fn changes_view(more: &[(&str, &str, Format)]) -> View {
    let first = [
        ("Client", "/title", Format::Text),
        ("File", "/file", Format::Text),
        ("Changed", "/changed", Format::Text),
    ];
    let last = [("Copy", "/backup", Format::Text)];
    let columns: Vec<_> = first.iter().chain(more).chain(&last).copied().collect();
    let left =
        View::table_at("/left", "", &[("Server", "/server", Format::Text), ("Why", "/why", Format::Text)]);
    View::record(&[])
        .with("Clients", View::table_at("/clients", "no client was found on this machine", &columns))
        .with("Left as they are", left)
        .with("Changes", View::text("/diff"))
        .with("Notes", View::text("/notes"))
}

async fn install(cx: CommandContext, args: Install) -> Result<Value> {
    let site = site(&cx, args.host.as_deref().map(|host| host == "auto"))?;
    let choices = Choices {
        wrap: args.wrap,
        plugin: args.plugin,
        servers: args.server,
        config: args.config,
        trust: args.trust_hooks,
        dry_run: args.dry_run,
    };
    blocking(move || {
        let clients = clients::chosen(&args.client, &site.places)?;
        one_file(&clients, choices.config.is_some())?;
        let mut done = for_each(&clients, |client| install::install(&site, client, &choices))?;
        // The change itself is told only where it is asked for.
        if !choices.dry_run {
            done["diff"] = Value::Null;
        }
        if done["notes"] == json!([]) {
            done["notes"] = Value::Null;
        }
        Ok(joined(done))
    })
    .await
}

fn one_file(clients: &[&Client], named: bool) -> Result<()> {
    if named && clients.len() != 1 {
        return Err(Error::argument("config", "it is one client's file: name the client with --client"));
    }
    Ok(())
}

// ---- uninstall ----------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Uninstall {
    client: String,
    #[serde(default)]
    config: Option<PathBuf>,
    #[serde(default)]
    dry_run: bool,
}

fn uninstall_spec() -> CommandSpec {
    CommandSpec::new("codex uninstall", "Take HMS out of Codex or another MCP client")
        .about(
            "A file that nobody changed since is put back byte for byte; of one that was changed only what HMS added is taken \
             out, and servers get their own command lines back. The plugin's files go too.",
        )
        .args(
            json!({
                "client": client_property("codex"),
                "config": config_property(),
                "dry_run": {"type": "boolean", "default": false, "description": "show what would change, and change nothing"},
            }),
            &[],
        )
        .caller()
        .writes()
        .view(changes_view(&[("How", "/how", Format::Text)]))
        .example("codex uninstall")
        .example("codex uninstall --client all --dry-run")
}

async fn uninstall(cx: CommandContext, args: Uninstall) -> Result<Value> {
    let site = site(&cx, None)?;
    blocking(move || {
        let clients = clients::chosen(&args.client, &site.places)?;
        one_file(&clients, args.config.is_some())?;
        let config = args.config.as_deref();
        let mut done = for_each(&clients, |client| install::uninstall(&site, client, config, args.dry_run))?;
        if !args.dry_run {
            done["diff"] = Value::Null;
        }
        if done["notes"] == json!([]) {
            done["notes"] = Value::Null;
        }
        Ok(done)
    })
    .await
}

// ---- status and doctor --------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Where {
    client: String,
    #[serde(default)]
    config: Option<PathBuf>,
}

fn status_spec() -> CommandSpec {
    let clients = View::table_at(
        "/clients",
        "no client was found on this machine",
        &[
            ("Client", "/title", Format::Text),
            ("File", "/file", Format::Text),
            ("Plugin", "/plugin", Format::Text),
            ("Installed", "/installed_ms", Format::Age),
        ],
    );
    let servers = View::table_at(
        "/servers",
        "none",
        &[
            ("Client", "/client", Format::Text),
            ("Server", "/server", Format::Text),
            ("Project", "/scope", Format::Text),
            ("Transport", "/transport", Format::Text),
            ("Guarded", "/guarded", Format::Text),
        ],
    );
    CommandSpec::new("codex status", "Show what HMS does inside Codex and other MCP clients")
        .args(json!({"client": client_property("all"), "config": config_property()}), &[])
        .caller()
        .view(
            View::record(&[])
                .with("Clients", clients)
                .with("Servers", servers)
                .with("Notes", View::text("/notes")),
        )
        .example("codex status")
}

async fn status(cx: CommandContext, args: Where) -> Result<Value> {
    let site = site(&cx, None)?;
    blocking(move || {
        let clients = clients::chosen(&args.client, &site.places)?;
        one_file(&clients, args.config.is_some())?;
        let mut found = for_each(&clients, |client| install::status(&site, client, args.config.as_deref()))?;
        if let Some(found) = found.as_object_mut() {
            found.retain(|key, value| {
                !matches!(key.as_str(), "diff" | "left") && (key != "notes" || *value != json!([]))
            });
            found.entry("notes").or_insert(Value::Null);
        }
        Ok(found)
    })
    .await
}

fn doctor_spec() -> CommandSpec {
    let findings = View::table_at(
        "/findings",
        "none",
        &[
            ("Severity", "/severity", Format::State),
            ("Client", "/client", Format::Text),
            ("Server", "/server", Format::Text),
            ("Pid", "/pid", Format::Number),
            ("Found", "/found", Format::Text),
            ("What to do", "/remedy", Format::Text),
        ],
    );
    CommandSpec::new("codex doctor", "Find MCP servers that are dead, hung, duplicated or orphaned, and say what to do")
        .about(
            "Looks at the clients' configurations, at their processes, and at the host if one runs; it changes nothing, and no \
             server is sent a byte. Ends with 1 when something is ill (critical or warning), so that scripts can ask.",
        )
        .args(json!({"client": client_property("all"), "config": config_property()}), &[])
        .caller()
        .view(
            View::record(&[("Verdict", "/verdict", Format::Text), ("Sessions", "/sessions", Format::Number), ("Servers", "/servers", Format::Number)])
                .with("Findings", findings),
        )
        .example("codex doctor")
        .example("codex doctor --json")
}

async fn examine(cx: CommandContext, args: Where) -> Result<Value> {
    let surroundings = cx.surroundings()?;
    let site = site(&cx, None)?;
    let clients = clients::chosen(&args.client, &site.places)?;
    let found = doctor::run(surroundings, site, clients).await?;
    if found["ill"] == true {
        surroundings.exit_code.store(ILL, Ordering::Release);
    }
    Ok(found)
}

// ---- shim and hook ------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Shim {
    #[serde(default)]
    dir: Option<PathBuf>,
    #[serde(default)]
    remove: bool,
}

fn shim_spec() -> CommandSpec {
    CommandSpec::new("codex shim", "Make `codex hms …` work, by a shim before the real codex on PATH")
        .about(
            "The shim hands `codex hms …` to codex-hms and everything else to the real codex, which it finds on PATH at each \
             start: arguments, signals, exit codes and the terminal are the real one's.",
        )
        .args(
            json!({
                "dir": {"type": "string", "x-value": "DIR", "description": "the folder to put it in; it must come before the real codex on PATH"},
                "remove": {"type": "boolean", "default": false, "description": "remove it"},
            }),
            &[],
        )
        .caller()
        .writes()
        .view(
            View::record(&[("Shim", "/shim", Format::Text), ("Real codex", "/real", Format::Text), ("Removed", "/removed", Format::Text)])
                .with("Notes", View::text("/notes")),
        )
        .example("codex shim")
        .example("codex shim --dir ~/bin")
}

async fn make_shim(cx: CommandContext, args: Shim) -> Result<Value> {
    let site = site(&cx, None)?;
    let dir = args.dir;
    blocking(move || {
        if args.remove {
            shim::remove(&site.places, dir.as_deref())
        } else {
            shim::make(&site.places, &site.hms, dir.as_deref())
        }
    })
    .await
}

fn hook_spec() -> CommandSpec {
    let mut spec = CommandSpec::new("codex hook", "Tell the host what happens in a session (Codex runs this)")
        .about(
            "Reads a hook's input from standard input, or with --notify what Codex tells of a completed turn from the last \
             argument, and publishes codex.session.started, codex.session.ended, codex.tool.started, codex.tool.finished, \
             codex.tool.failed, codex.subagent.started, codex.subagent.stopped, codex.turn.completed or \
             codex.turn.interrupted. Prints nothing, takes a moment at most, and never fails a session. Prompts, arguments and \
             results of tools are not passed on.",
        )
        .args(
            json!({
                "notify": {"type": "boolean", "default": false, "description": "called as Codex's `notify`"},
                "host": host_property(),
                "program": {"type": "array", "items": {"type": "string"}, "default": [], "x-value": "PROGRAM",
                    "description": "with --notify: the program that is to be told as well, and what Codex tells"},
            }),
            &[],
        )
        .caller()
        .view(View::text(""));
    spec.trailing = Some("program".into());
    spec
}
