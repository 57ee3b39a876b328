//! The commands `heal status`, `heal trigger` and `heal history`; `heal configure` has a file of its own.

use std::{sync::Arc, time::Duration};

use hms_core::{
    Error, ErrorKind, Result,
    command::{CommandContext, CommandSpec, Format, View, handler},
    duration,
    event::Subscribe,
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    config::Settings,
    configure,
    engine::Engine,
    incident::{Incident, Outcome, Phase},
    ladder,
    service::DEFAULT_LIMIT,
};

/// Registers the commands.
pub(crate) fn register(to: &Registrar, engine: &Arc<Engine>) -> Result<()> {
    let e = engine.clone();
    to.command(status_spec(), handler(move |_, _: Nothing| ready(status(&e))))?;
    let e = engine.clone();
    to.command(trigger_spec(), handler(move |cx, args: Trigger| trigger(e.clone(), cx, args)))?;
    let e = engine.clone();
    to.command(history_spec(), handler(move |cx, args: History| history(e.clone(), cx, args)))?;
    configure::register(to, engine)
}

#[derive(Deserialize)]
struct Nothing {}

async fn ready(result: Result<Value>) -> Result<Value> {
    result
}

// ---- heal status ------------------------------------------------------------------------------

fn status_spec() -> CommandSpec {
    let open = View::table_at(
        "/open",
        "No open incidents.",
        &[
            ("AGENT", "/agent", Format::Text),
            ("PHASE", "/phase", Format::State),
            ("PROGRESS", "/progress", Format::Number),
            ("CAUSE", "/cause", Format::Text),
            ("TIMES", "/occurrences", Format::Number),
            ("OPENED", "/opened_ms", Format::Age),
        ],
    );
    let budget = View::table_at(
        "/budget",
        "Nothing was done lately.",
        &[
            ("AGENT", "/agent", Format::Text),
            ("USED", "/used", Format::Number),
            ("OF", "/limit", Format::Number),
            ("WITHIN", "/window_ms", Format::Millis),
        ],
    );
    CommandSpec::new("heal status", "Show open incidents and what budgets are used")
        .watchable()
        .view(
            View::record(&[
                ("Enabled", "/enabled", Format::Text),
                ("Ladder", "/ladder", Format::Text),
                ("Acting", "/acting", Format::Number),
                ("At once", "/concurrency", Format::Number),
            ])
            .with("Open incidents", open)
            .with("Budgets", budget),
        )
        .example("heal status --watch")
}

fn status(engine: &Engine) -> Result<Value> {
    let config = engine.config()?;
    Ok(json!({
        "enabled": config.settings.enabled,
        "ladder": config.settings.ladder,
        "strategies": ladder::names(&engine.kernel),
        "acting": engine.gate.inside(),
        "concurrency": engine.gate.limit(),
        "open": engine.active(),
        "budget": engine.budgets(),
    }))
}

// ---- heal trigger -----------------------------------------------------------------------------

#[derive(Deserialize)]
struct Trigger {
    agent: String,
    reason: Option<String>,
    rung: Option<String>,
    wait: bool,
    #[serde(with = "duration::text")]
    timeout: Duration,
}

fn trigger_spec() -> CommandSpec {
    CommandSpec::new("heal trigger", "Heal an agent now, and verify that it helped")
        .about("Opens an incident for the agent, or joins the open one, and waits for its outcome. Fails unless the outcome is `verified`.")
        .args(
            json!({
                "agent": {"type": "string", "description": "name or id of the agent"},
                "reason": {"type": "string", "description": "why, for history"},
                "rung": {"type": "string", "description": "only this strategy (restart, reset, command, quarantine, …) instead of the ladder"},
                "wait": {"type": "boolean", "default": true, "description": "wait for the outcome"},
                "timeout": {"type": "string", "format": "hms-duration", "x-value": "DURATION", "default": "5m", "description": "how long to wait; healing goes on"}
            }),
            &["agent"],
        )
        .positional(&["agent"])
        .writes()
        .view(View::message("{/agent}: {/outcome} ({/state}, incident {/id})"))
        .example("heal trigger web --reason \"slow since the upgrade\"")
}

async fn trigger(engine: Arc<Engine>, cx: CommandContext, args: Trigger) -> Result<Value> {
    engine.kernel.require_open()?;
    let (case, _) = engine.trigger(&args.agent, args.reason, args.rung)?;
    if !args.wait {
        engine.kernel.store().flush().await?; // what is answered is kept
        return Ok(json!(case.incident()));
    }
    let clock = engine.kernel.clock().clone();
    let until = clock.now() + args.timeout;
    let mut news = case.follow();
    let incident = loop {
        let incident = news.borrow_and_update().clone();
        if incident.is_closed() {
            break incident;
        }
        cx.progress(f64::from(incident.progress) / 100.0, doing(&incident));
        tokio::select! {
            changed = news.changed() => changed.map_err(|_| Error::internal("an incident ended without an outcome"))?,
            () = cx.cancelled() => {
                return Err(Error::new(ErrorKind::Cancelled, format!("no longer waiting; incident {} goes on", incident.id)));
            }
            () = clock.sleep_until(until) => {
                let why = format!("agent `{}` was not healed within {}", incident.agent, duration::format(args.timeout));
                return Err(Error::new(ErrorKind::Timeout, why).hint("incident goes on: see `heal status`"));
            }
        }
    };
    // What is answered is kept.
    engine.kernel.store().flush().await?;
    if incident.outcome == Some(Outcome::Verified) {
        return Ok(json!(incident));
    }
    let outcome = json!(incident.outcome);
    let why = incident.reason.as_deref().unwrap_or(&incident.cause);
    let message = format!(
        "healing of agent `{}` was not verified but {}: {why}",
        incident.agent,
        outcome.as_str().unwrap_or("ended")
    );
    Err(Error::new(ErrorKind::HandlerFailed, message)
        .hint(format!("`heal history {}` shows the steps", incident.agent)))
}

/// What is going on, for a progress line.
fn doing(incident: &Incident) -> String {
    let action = incident.steps.last().map_or("healing", |step| step.action.as_str());
    match incident.phase {
        Some(Phase::Verifying) => format!("{}: verifying after {action}", incident.agent),
        Some(Phase::Healing) | None => format!("{}: {action}", incident.agent),
    }
}

// ---- heal history -----------------------------------------------------------------------------

/// How soon an incident begins after its cause, with much to spare.
const NOTICED: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct History {
    agent: Option<String>,
    limit: Option<usize>,
    wait: bool,
    #[serde(with = "duration::text")]
    timeout: Duration,
}

fn history_spec() -> CommandSpec {
    CommandSpec::new("heal history", "Show incidents, newest first")
        .about("With --wait shows them once none is open any more. Where none is open yet, one has a second to begin, so that what happened just before is not missed.")
        .args(
            json!({
                "agent": {"type": "string", "description": "name or id of an agent (also of one that was destroyed)"},
                "limit": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": DEFAULT_LIMIT, "x-short": "n", "x-value": "N", "description": "how many at most"},
                "wait": {"type": "boolean", "default": false, "description": "wait until no incident is open"},
                "timeout": {"type": "string", "format": "hms-duration", "x-value": "DURATION", "default": "30s", "description": "how long to wait; healing goes on"}
            }),
            &[],
        )
        .positional(&["agent"])
        .watchable()
        .view(View::table(
            "No incidents.",
            &[
                ("OPENED", "/opened_ms", Format::Time),
                ("AGENT", "/agent", Format::Text),
                ("CAUSE", "/cause", Format::Text),
                ("TIMES", "/occurrences", Format::Number),
                ("STATE", "/state", Format::State),
                ("OUTCOME", "/outcome", Format::State),
                ("REASON", "/reason", Format::Text),
            ],
        ))
        .example("heal history web --limit 5")
        .example("heal history --wait")
}

async fn history(engine: Arc<Engine>, cx: CommandContext, args: History) -> Result<Value> {
    engine.kernel.require_open()?;
    if args.wait {
        // A name that nobody knows is told at once.
        engine.history(args.agent.as_deref(), 1).await?;
        settle(&engine, &cx, args.agent.as_deref(), args.timeout).await?;
    }
    Ok(json!(engine.history(args.agent.as_deref(), args.limit.unwrap_or(DEFAULT_LIMIT)).await?))
}

/// Waits until no incident (of `agent`, if one is named) is open.
async fn settle(
    engine: &Arc<Engine>,
    cx: &CommandContext,
    agent: Option<&str>,
    timeout: Duration,
) -> Result<()> {
    // Before the first look, so that nothing is missed in between.
    let changes = engine.kernel.bus().subscribe(Subscribe::to(["heal.incident.>"]))?;
    let clock = engine.kernel.clock().clone();
    let now = clock.now();
    let until = now + timeout;
    let mut begins_until = until.min(now + NOTICED);
    loop {
        let open = engine.active_of(agent).into_iter().next();
        let now = clock.now();
        match &open {
            None if now >= begins_until => return Ok(()),
            Some(incident) if now >= until => {
                let why = format!(
                    "the incident of agent `{}` is still open after {}",
                    incident.agent,
                    duration::format(timeout)
                );
                return Err(Error::new(ErrorKind::Timeout, why).hint("incident goes on: see `heal status`"));
            }
            Some(incident) => {
                begins_until = now;
                cx.progress(f64::from(incident.progress) / 100.0, doing(incident));
            }
            None => {}
        }
        tokio::select! {
            _ = changes.next_batch(64) => {}
            () = clock.sleep_until(if open.is_some() { until } else { begins_until }) => {}
            () = cx.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "no longer waiting; healing goes on")),
        }
    }
}

/// Checks an agent's `healing` map against what is configured and registered now; the settings it makes.
pub(crate) fn check_for(engine: &Engine, healing: &Map<String, Value>) -> Result<Settings> {
    let settings = engine.config()?.settings.with(healing)?;
    if healing.contains_key("ladder") {
        for rung in &settings.ladder {
            ladder::require(&engine.kernel, rung).map_err(|e| {
                Error { kind: ErrorKind::InvalidConfig, ..e }.context("healing settings: `ladder`")
            })?;
        }
    }
    Ok(settings)
}
