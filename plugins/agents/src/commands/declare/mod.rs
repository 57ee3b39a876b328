//! `up` and `down`: agents declared in a file.
//!
//! ```toml
//! [project]
//! name = "shop"                       # otherwise the file itself is the project
//!
//! [agents.db]
//! type = "process"
//! command = ["postgres", "-D", "data"]
//! readiness = { tcp = "127.0.0.1:5432" }
//!
//! [agents.web]
//! type = "process"
//! command = ["./server"]
//! depends_on = ["db"]
//! restart = { policy = "permanent", intensity = { max = 5, window = "1m" } }
//! health = { interval = "2s" }
//! liveness = { http = "http://127.0.0.1:8080/health" }
//! ```
//!
//! A table's keys are those of every agent (`hms_core::agent::common_schema`) and those of its type's
//! schema, side by side; a key of the type may also stand under `config`. Relative paths count from the
//! file's folder. Agents carry the label `hms.project`, which is how a later `up` and `down` find them.

mod apply;
mod check;
mod file;
mod plan;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    command::{CommandContext, CommandSpec, Format, View, handler},
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use self::{apply::Outcome, file::File};
use super::{duration, ready::Watch, with_caller_env};

pub(super) fn register(to: &Registrar) -> Result<()> {
    // One declaration is applied at a time: the difference must still be one when it is applied.
    let turn = Arc::new(Mutex::new(()));
    let (kernel, mine) = (to.kernel().clone(), turn.clone());
    to.command(up_spec(), handler(move |cx, args: Up| up(kernel.clone(), mine.clone(), cx, args)))?;
    let kernel = to.kernel().clone();
    to.command(down_spec(), handler(move |cx, args: Down| down(kernel.clone(), turn.clone(), cx, args)))
}

const COLUMNS: &[(&str, &str, Format)] = &[
    ("Agent", "/agent", Format::Text),
    ("Change", "/change", Format::State),
    ("Status", "/status", Format::State),
    ("Health", "/health", Format::State),
    ("Pid", "/pid", Format::Number),
];

#[derive(Deserialize)]
struct Up {
    file: String,
    check: bool,
    wait: bool,
    #[serde(with = "hms_core::duration::text")]
    timeout: Duration,
}

fn up_spec() -> CommandSpec {
    let spec = CommandSpec::new("up", "Make the agents what a file declares")
        .about(
            "Creates what is new, updates what changed, removes what the file declared earlier and declares \
             no longer, and leaves the rest alone; what is needed comes first. Everything is validated \
             before anything is changed. Processes inherit the environment of whoever creates them, and \
             keep it: a second `up` from another shell restarts nothing. What shall change goes into `vars` or \
             an `env_file`, which is read at each start.",
        )
        .args(
            json!({
                "file": {"type": "string", "default": "hms.toml", "x-value": "FILE", "description": "the declaration"},
                "check": {"type": "boolean", "default": false, "description": "validate, say what would be done, and change nothing"},
                "wait": {"type": "boolean", "default": false, "description": "wait until all agents are ready"},
                "timeout": duration("how long to wait", "1m")
            }),
            &[],
        )
        .positional(&["file"])
        .writes()
        .view(View::table_at("/agents", "no agents are declared", COLUMNS))
        .example("up")
        .example("up services.toml --check")
        .example("up --wait --timeout 30s");
    with_caller_env(spec)
}

/// `file`, `project`, `applied` (false with `check`: then the lists say what would be done), `created`,
/// `updated`, `unchanged`, `removed` (names, in the order it was done) and `agents`: `agent`, `change`,
/// `status`, `health`, `pid`.
async fn up(kernel: Kernel, turn: Arc<Mutex<()>>, cx: CommandContext, args: Up) -> Result<Value> {
    kernel.require_open()?;
    let path = locate(&cx, &args.file)?;
    let shown = path.display().to_string();
    let _turn = turn.lock().await;
    let (file, problems) = aside(move || File::read(&path)).await?;
    let specs = check::check(&kernel, &file, problems, cx.caller.env.as_ref()).await?;
    let names: Vec<String> = specs
        .iter()
        .filter(|s| s.desired == hms_core::agent::Desired::Running)
        .map(|s| s.name.clone())
        .collect();
    let plan = plan::plan(&kernel, &file.project, specs).map_err(|e| e.context(&shown))?;
    if args.check {
        return Ok(Outcome::of_plan(&plan).json(&kernel, &shown, &file.project, false));
    }
    let watch = args.wait.then(|| Watch::new(&kernel)).transpose()?;
    let outcome = apply::apply(&kernel, &cx, plan).await.into_result(&shown)?;
    drop(_turn);
    if let Some(watch) = watch {
        watch.ready(&cx, &names, args.timeout).await?;
    }
    Ok(outcome.json(&kernel, &shown, &file.project, true))
}

#[derive(Deserialize)]
struct Down {
    file: String,
    project: Option<String>,
}

fn down_spec() -> CommandSpec {
    CommandSpec::new("down", "End the agents that `up` declared")
        .about("Dependents end before what they need. Agents that were created otherwise are left alone.")
        .args(
            json!({
                "file": {"type": "string", "default": "hms.toml", "x-value": "FILE", "description": "the declaration; it may be gone"},
                "project": {"type": "string", "x-value": "NAME", "description": "end this project, whatever the file says"}
            }),
            &[],
        )
        .positional(&["file"])
        .destructive()
        .view(View::table_at("/agents", "no agents to end", &COLUMNS[..2]))
        .example("down")
        .example("down --project shop")
}

/// As `up`, with everything in `removed`.
async fn down(kernel: Kernel, turn: Arc<Mutex<()>>, cx: CommandContext, args: Down) -> Result<Value> {
    kernel.require_open()?;
    let _turn = turn.lock().await;
    // With nothing to end: whether that is right, or a typing error.
    let (shown, project, missing) = match args.project {
        Some(project) => {
            let missing = Error::not_found("project", &project)
                .hint("`{program} agent status NAME` shows an agent's project, the label `hms.project`");
            (format!("project `{project}`"), project, Some(missing))
        }
        None => {
            let path = locate(&cx, &args.file)?;
            let (shown, unnamed) = (path.display().to_string(), file::unnamed_project(&path));
            // The project is all that matters here: agents end whatever else is wrong with the file.
            match aside(move || File::read(&path)).await {
                Ok((file, _)) => (shown, file.project, None),
                Err(e) if e.kind == ErrorKind::NotFound => (shown, unnamed, Some(e)),
                Err(e) => return Err(e.hint("`{program} down --project NAME` does not read the file")),
            }
        }
    };
    let names = plan::members(&kernel, &project);
    if names.is_empty()
        && let Some(missing) = missing
    {
        return Err(missing);
    }
    plan::refuse_needed(&kernel, &project, &names, &Default::default())?;
    let outcome = apply::remove(&kernel, &cx, names).await.into_result(&shown)?;
    Ok(outcome.json(&kernel, &shown, &project, true))
}

/// The file that a caller means.
fn locate(cx: &CommandContext, file: &str) -> Result<PathBuf> {
    let path = Path::new(file);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    match &cx.caller.cwd {
        Some(cwd) => Ok(Path::new(cwd).join(path)),
        None => Err(Error::argument(
            "file",
            format_args!("`{file}` is relative, and the caller has no working directory"),
        )
        .hint("write the whole path")),
    }
}

/// Reads files away from the threads that drive tasks.
async fn aside<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(read).await.map_err(|e| Error::internal(format!("reading a file: {e}")))?
}
