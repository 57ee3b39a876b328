//! The `system …` commands, and those of the command line itself: completions, man pages, the demonstration.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    command::{Caller, CommandContext, CommandSpec, Format, View, handler},
    os::{
        files::HomeLock,
        token::Incarnations,
        tree::{self, KillTree},
    },
    peer::{Attach, Client, SOCKET},
    plugin::{Manifest, Plugin, Registrar},
    store,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{argv::SHELLS, cli, demo, home, host, unit};

/// Registers the commands that concern the system as a whole.
pub(crate) struct SystemPlugin;

#[async_trait]
impl Plugin for SystemPlugin {
    fn manifest(&self) -> Manifest {
        Manifest {
            id: "hms.system",
            name: "System",
            version: env!("CARGO_PKG_VERSION"),
            ..Manifest::default()
        }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        register_host_commands(to)?;
        register_life_cycle(to)?;
        register_command_line(to)
    }
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
struct Configure {
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    unset: bool,
}

fn register_host_commands(to: &Registrar) -> Result<()> {
    let kernel = to.kernel().clone();
    to.command(
        CommandSpec::new("system info", "Show what the running host says of itself").view(View::record(&[
            ("Host", "/host/pid", Format::Text),
            ("Agents", "/agents/total", Format::Number),
        ])),
        handler(move |_, _: Nothing| {
            let kernel = kernel.clone();
            async move { info(&kernel) }
        }),
    )?;
    let kernel = to.kernel().clone();
    to.command(
        CommandSpec::new("system configure", "Show or change the configuration")
            .about("Without arguments shows every key with its value, default and origin. With KEY shows one; with KEY and VALUE changes it: validated, written to config.toml with comments kept, applied at once where that is safe.")
            .args(
                json!({
                    "key": {"type": "string", "description": "dotted key, such as monitoring.interval"},
                    "value": {"type": "string", "description": "new value, as in TOML; text needs no quotes"},
                    "unset": {"type": "boolean", "default": false, "description": "go back to the default"},
                }),
                &[],
            )
            .positional(&["key", "value"])
            .writes()
            .view(View::table_at("/entries", "no keys", &[
                ("KEY", "/key", Format::Text),
                ("VALUE", "/value", Format::Text),
                ("DEFAULT", "/default", Format::Text),
                ("ORIGIN", "/origin", Format::Text),
                ("APPLIES", "/applies", Format::Text),
                ("MEANING", "/description", Format::Text),
            ]))
            .example("system configure monitoring.interval 10s"),
        handler(move |cx, args: Configure| {
            let kernel = kernel.clone();
            async move { configure(&kernel, &cx, args).await }
        }),
    )
}

fn info(kernel: &Kernel) -> Result<Value> {
    let agents = kernel.agents().list();
    let mut by_status = serde_json::Map::new();
    for agent in &agents {
        let count = by_status.entry(agent["status"].as_str().unwrap_or("?")).or_insert(json!(0));
        *count = json!(count.as_u64().unwrap_or(0) + 1);
    }
    let usage = hms_core::os::process::usage(std::process::id() as i32);
    let store = kernel.store().stats();
    let bus = kernel.bus().stats();
    Ok(json!({
        "state": "running",
        "home": kernel.dirs().home,
        "host": {
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "started_ms": kernel.started_ms(),
            "socket": kernel.dirs().runtime.join(SOCKET),
            "memory_bytes": usage.map(|u| u.rss_bytes),
        },
        "agents": {"total": agents.len(), "by_status": by_status},
        "plugins": kernel.plugins().list(),
        "store": {"queued": store.queued, "dropped": store.dropped, "lost": store.lost, "failing": store.failing,
            // One that is over is history, which the log keeps.
            "last_error": store.last_error.filter(|_| store.failing).map(|e| e.message)},
        "events": {"published": bus.published, "subscriptions": bus.subscriptions},
    }))
}

async fn configure(kernel: &Kernel, cx: &CommandContext, args: Configure) -> Result<Value> {
    let mut changed = None;
    match (&args.key, &args.value) {
        (None, _) if args.unset => {
            return Err(Error::argument("key", "is missing: which one shall go back to its default"));
        }
        (Some(key), None) if args.unset => {
            changed = Some(kernel.configure(key, None, &cx.caller.source).await?)
        }
        (Some(_), Some(_)) if args.unset => return Err(Error::argument("unset", "does not go with a value")),
        (Some(key), Some(value)) => {
            changed = Some(kernel.configure(key, Some(value), &cx.caller.source).await?)
        }
        _ => {}
    }
    let config = kernel.config();
    if let Some(key) = &args.key {
        config.value(key).map(drop).or_else(|e| {
            // A whole section may be asked for.
            if config.get(key).is_some() { Ok(()) } else { Err(e) }
        })?;
    }
    let wanted = |key: &str| args.key.as_ref().is_none_or(|k| k == key || key.starts_with(&format!("{k}.")));
    let entries: Vec<Value> = config
        .list()
        .into_iter()
        .filter(|e| wanted(&e.key))
        .map(|e| {
            let mut row = json!(e);
            row["applies"] = if e.live { "at once" } else { "after a restart" }.into();
            row["origin"] = match e.origin {
                hms_core::config::Origin::Default => "default".into(),
                hms_core::config::Origin::File(line) => format!("config.toml:{line}").into(),
                hms_core::config::Origin::Override => "override".into(),
            };
            row
        })
        .collect();
    Ok(json!({"changed": changed, "entries": entries}))
}

fn register_life_cycle(to: &Registrar) -> Result<()> {
    to.command(
        CommandSpec::new("system run", "Be the host of the home until asked to end")
            .about("Ctrl-C stops the agents; SIGTERM and SIGHUP let them go on, to be adopted by the next host. Other commands start a host by themselves when they need one.")
            .args(json!({"detached": {"type": "boolean", "default": false, "x-hidden": true,
                "description": "leave the terminal, and tell on standard output when ready"}}), &[])
            .caller()
            .writes(),
        handler(host::run),
    )?;
    to.command(
        CommandSpec::new("system status", "Show whether a host runs, and how it is")
            .caller()
            .as_tool()
            .watchable()
            .view(
                View::record(&[
                    ("State", "/state", Format::State),
                    ("Home", "/home", Format::Text),
                    ("Host pid", "/host/pid", Format::Text),
                    ("Version", "/host/version", Format::Text),
                    ("Started", "/host/started_ms", Format::Age),
                    ("Memory", "/host/memory_bytes", Format::Bytes),
                    ("Agents", "/agents/total", Format::Text),
                    ("Events", "/events/published", Format::Text),
                    ("Store", "/store/last_error", Format::Text),
                ])
                .with(
                    "Plugins",
                    View::table_at(
                        "/plugins",
                        "none",
                        &[
                            ("ID", "/id", Format::Text),
                            ("VERSION", "/version", Format::Text),
                            ("STAGE", "/stage", Format::State),
                            ("PROBLEM", "/problem", Format::Text),
                        ],
                    ),
                ),
            ),
        handler(|cx: CommandContext, _: Nothing| async move {
            let around = cx.surroundings()?;
            match attach_if_running(&around.attach).await? {
                Some(client) => {
                    let mut info = client.run("system info", json!({}), cx.caller.clone(), |_| {}).await?;
                    // For whoever looks into the host: `system info` has it.
                    if let Some(events) = info["events"].as_object_mut() {
                        events.remove("subscriptions");
                    }
                    Ok(info)
                }
                None => Ok(json!({"state": "stopped", "home": around.home, "host": null})),
            }
        }),
    )?;
    to.command(
        CommandSpec::new("system stop", "Stop all agents and the host")
            .caller()
            .as_tool()
            .destructive()
            .view(View::message("{/message}")),
        handler(|cx: CommandContext, _: Nothing| async move {
            let around = cx.surroundings()?;
            let client = match attach_if_running(&around.attach).await? {
                // A killed host's agents run on: the next host adopts them, and stops them as they should be.
                None if has_survivors(around.home.clone()).await? => {
                    Some(Client::attach(around.attach.clone()).await?)
                }
                running => running,
            };
            match client {
                Some(client) => {
                    let answer = client.shut_down_host(false).await?;
                    Ok(json!({"stopped": true, "pid": answer["pid"], "message": "stopped"}))
                }
                None => Ok(json!({"stopped": false, "message": "no host runs for this home"})),
            }
        }),
    )?;
    to.command(
        CommandSpec::new("system restart", "Replace the host; agents go on")
            .about("The new host adopts what runs: processes keep their pids. Use it after an upgrade.")
            .caller()
            .as_tool()
            .writes()
            .view(View::message("{/message}")),
        handler(|cx: CommandContext, _: Nothing| async move {
            let around = cx.surroundings()?;
            if let Some(client) = attach_if_running(&around.attach).await? {
                client.shut_down_host(true).await?;
            }
            home::prepare(Some(&around.home))?;
            let client = Client::attach(around.attach.clone()).await?;
            let pid = client.host().map(|h| h["pid"].clone()).unwrap_or_default();
            Ok(json!({"pid": pid, "message": format!("host {pid} runs")}))
        }),
    )?;
    let mut reset = CommandSpec::new("system reset", "Erase all agents, history and metrics of the home")
        .about("Stops the agents and the host, moves the database into backups/ and removes the agents' files. The configuration stays.")
        .caller()
        .destructive()
        .args(json!({"yes": {"type": "boolean", "default": false, "x-hidden": true, "description": "do not ask"}}), &[])
        .as_tool()
        .view(View::message("{/message}"));
    reset.confirm = Some("This stops all agents and erases their definitions, output, history and metrics (a backup of the database is kept). Go on?".into());
    to.command(reset, handler(|cx: CommandContext, _: Value| async move { erase(&cx).await }))?;
    to.command(
        CommandSpec::new("system install", "Install a systemd user unit that keeps the host running")
            .about("Writes hms.service for the systemd of this user: the host is started at login and started again whenever it ends, and agents outlive it.")
            .args(
                json!({
                    "print": {"type": "boolean", "default": false, "description": "print the unit instead of writing it"},
                    "enable": {"type": "boolean", "default": false, "description": "enable and start it with systemctl"},
                    "remove": {"type": "boolean", "default": false, "description": "remove it again"},
                }),
                &[],
            )
            .caller()
            .writes()
            .view(View::text("/text")),
        handler(unit::install),
    )
}

/// Attaches to the home's host if there is one.
async fn attach_if_running(attach: &Attach) -> Result<Option<Client>> {
    match Client::attach(Attach { start: None, ..attach.clone() }).await {
        Ok(client) => Ok(Some(client)),
        Err(e) if e.kind == ErrorKind::HostUnavailable => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether processes of the home's agents run.
async fn has_survivors(home: PathBuf) -> Result<bool> {
    tokio::task::spawn_blocking(move || !tree::scan(&home).is_empty())
        .await
        .map_err(|e| Error::internal(format!("looking for processes: {e}")))
}

/// Ends what a killed host left behind. Without a host, because the database may be what keeps one from
/// starting.
async fn end_survivors(home: PathBuf) -> Result<()> {
    let end = move || {
        let all = KillTree {
            home: &home,
            agent: None,
            incarnations: Incarnations::All,
            leader: None,
            cgroup: None,
        };
        tree::kill_trees(&[all]).survived.len()
    };
    match tokio::task::spawn_blocking(end)
        .await
        .map_err(|e| Error::internal(format!("ending processes: {e}")))?
    {
        0 => Ok(()),
        left => Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("{left} processes of the home could not be ended"),
        )),
    }
}

async fn erase(cx: &CommandContext) -> Result<Value> {
    let around = cx.surroundings()?;
    if let Some(client) = attach_if_running(&around.attach).await? {
        cx.progress(None, "stopping the agents");
        client.shut_down_host(false).await?;
    }
    if !around.home.exists() {
        return Ok(json!({"backup": null, "message": "there is nothing to erase"}));
    }
    let path = around.home.join("lock");
    let lock = HomeLock::try_acquire(&path).map_err(|e| Error::io(path.display(), &e))?;
    let _lock = lock.ok_or_else(|| {
        Error::new(ErrorKind::HomeBusy, "another process owns the home").hint("stop it first")
    })?;
    end_survivors(around.home.clone()).await?;
    let backup = store::reset(&around.home, cli::now_ms())?;
    let agents = around.home.join("agents");
    match std::fs::remove_dir_all(&agents) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(agents.display(), &e)),
        _ => {}
    }
    let message = match &backup {
        Some(path) => format!("erased; the database is kept as {}", path.display()),
        None => "erased; there was no database".into(),
    };
    Ok(json!({"backup": backup, "message": message}))
}

#[derive(Deserialize)]
struct ShellArg {
    shell: String,
}

#[derive(Deserialize)]
struct ManArgs {
    #[serde(default)]
    dir: Option<PathBuf>,
}

fn register_command_line(to: &Registrar) -> Result<()> {
    let kernel = to.kernel().clone();
    to.command(
        CommandSpec::new("completions", "Print a completion script for a shell")
            .args(json!({"shell": {"enum": SHELLS, "description": "the shell"}}), &["shell"])
            .positional(&["shell"])
            .caller()
            .view(View::text("/text"))
            .example("completions bash > ~/.local/share/bash-completion/completions/codex-hms"),
        handler(move |cx: CommandContext, args: ShellArg| {
            let kernel = kernel.clone();
            async move {
                let parser = cli::parser(&cx.surroundings()?.program, env!("CARGO_PKG_VERSION"), &kernel);
                Ok(json!({"text": parser.completions(&args.shell)?}))
            }
        }),
    )?;
    let kernel = to.kernel().clone();
    to.command(
        CommandSpec::new("man", "Print the man page, or write all pages to a folder")
            .args(json!({"dir": {"type": "string", "x-value": "DIR", "description": "folder to write the pages to"}}), &[])
            .positional(&["dir"])
            .caller()
            .view(View::text("/text")),
        handler(move |cx: CommandContext, args: ManArgs| {
            let kernel = kernel.clone();
            async move {
                let parser = cli::parser(&cx.surroundings()?.program, env!("CARGO_PKG_VERSION"), &kernel);
                let pages = parser.man_page()?;
                let Some(dir) = args.dir else {
                    return Ok(json!({"text": pages.last().map(|(_, text)| text.clone())}));
                };
                let io = |e: std::io::Error| Error::io(dir.display(), &e);
                std::fs::create_dir_all(&dir).map_err(io)?;
                for (name, text) in &pages {
                    std::fs::write(dir.join(name), text).map_err(io)?;
                }
                Ok(json!({"text": format!("wrote {} pages to {}", pages.len(), dir.display())}))
            }
        }),
    )?;
    to.command(
        CommandSpec::new("demo", "Watch real processes crash, hang and leak, and be healed")
            .about("Starts a private system with four processes: one that crashes, one that hangs, one that leaks memory and one that is well. Ends by itself when every fault has been healed and verified.")
            .args(
                json!({
                    "rounds": {"type": "integer", "minimum": 1, "maximum": 100, "default": 1, "description": "faults of each kind to heal"},
                    "timeout": {"type": "string", "x-value": "DURATION", "default": "90s", "description": "give up after this long"},
                }),
                &[],
            )
            .caller()
            .writes()
            .view(demo::view()),
        handler(demo::run),
    )
}

/// The identity of who runs a command for the system's own sake.
pub(crate) fn caller(source: &str) -> Caller {
    Caller { source: source.into(), ..Caller::default() }
}

pub(crate) const ASK: Duration = Duration::from_secs(5);
