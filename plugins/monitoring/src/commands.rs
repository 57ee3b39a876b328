//! The commands `monitor health`, `monitor metrics`, `monitor alerts` and `monitor events`.

use std::{sync::Arc, time::Duration};

use hms_core::{
    Kernel, Result,
    command::{CommandContext, CommandSpec, Format, View, handler},
    event::{Batch, Subscribe, Subscription},
    plugin::Registrar,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{metrics::Query, state::Shared, system};

/// How long healing may take to say what it is doing.
const HEALING_ANSWERS: Duration = Duration::from_secs(2);

/// What `monitor metrics` shows of a named metric.
const ONE_METRIC: Duration = Duration::from_secs(3600);

/// What `monitor metrics` shows of all metrics.
const ALL_METRICS: Duration = Duration::from_secs(600);

/// Events that may wait for a reader that is slow.
const EVENTS_WAIT: usize = 4096;

/// Registers the commands.
pub(crate) fn register(to: &Registrar, shared: &Arc<Shared>) -> Result<()> {
    let with = |shared: &Arc<Shared>| (to.kernel().clone(), shared.clone());

    let (kernel, state) = with(shared);
    to.command(
        health_spec(),
        handler(move |_cx, args: HealthArgs| {
            let (kernel, state) = (kernel.clone(), state.clone());
            async move { health(&kernel, &state, args).await }
        }),
    )?;
    let (kernel, state) = with(shared);
    to.command(
        metrics_spec(),
        handler(move |_cx, args: MetricsArgs| {
            let (kernel, state) = (kernel.clone(), state.clone());
            async move { metrics(&kernel, &state, args).await }
        }),
    )?;
    let (kernel, state) = with(shared);
    to.command(
        alerts_spec(),
        handler(move |_cx, args: AlertsArgs| {
            let (kernel, state) = (kernel.clone(), state.clone());
            async move { alerts(&kernel, &state, args).await }
        }),
    )?;
    let kernel = to.kernel().clone();
    to.command(
        events_spec(),
        handler(move |cx, args: EventsArgs| {
            let kernel = kernel.clone();
            async move { events(&kernel, &cx, args).await }
        }),
    )
}

// ---- monitor health ---------------------------------------------------------------------------

#[derive(Deserialize)]
struct HealthArgs {
    agent: Option<String>,
}

fn health_spec() -> CommandSpec {
    let components = View::table_at(
        "/components",
        "no agents",
        &[
            ("AGENT", "/agent", Format::Text),
            ("TYPE", "/type", Format::Text),
            ("STATUS", "/status", Format::State),
            ("HEALTH", "/health", Format::State),
            ("SUFFERS FROM", "/suffers_from", Format::Text),
            ("ISSUE", "/issues/0/message", Format::Text),
            ("CHECKED", "/checked_ms", Format::Age),
            ("RESTARTS", "/restarts", Format::Number),
        ],
    );
    let healing = View::table_at(
        "/healing",
        "nothing is being healed",
        &[
            ("INCIDENT", "/id", Format::Text),
            ("AGENT", "/agent", Format::Text),
            ("PHASE", "/phase", Format::State),
            ("CAUSE", "/cause", Format::Text),
            ("OPENED", "/opened_ms", Format::Age),
        ],
    );
    let view = View::record(&[
        ("Health", "/status", Format::State),
        ("Since", "/since_ms", Format::Age),
        ("Healthy", "/counts/healthy", Format::Number),
        ("Degraded", "/counts/degraded", Format::Number),
        ("Critical", "/counts/critical", Format::Number),
        ("Unknown", "/counts/unknown", Format::Number),
    ])
    .with("Components", components)
    .with("Healing", healing);
    CommandSpec::new("monitor health", "Show how well the system is, and who is ill or suffers from whom")
        .about(
            "The health of the system is the worst health of the agents that are meant to run. A component \
             that is well itself but needs an ill one is listed with whom it suffers from. With AGENT: that \
             agent alone.",
        )
        .args(json!({"agent": {"type": "string", "description": "an agent, by id or name"}}), &[])
        .positional(&["agent"])
        .watchable()
        .view(view)
        .example("monitor health")
        .example("monitor health web --json")
}

async fn health(kernel: &Kernel, shared: &Shared, args: HealthArgs) -> Result<Value> {
    kernel.require_open()?;
    let mut report = system::report(kernel, shared, args.agent.as_deref())?;
    let mut healing = active_incidents(kernel).await;
    if args.agent.is_some() {
        let id = &report["components"][0]["id"];
        healing.retain(|incident| incident["agent_id"] == *id);
    }
    report["healing"] = Value::Array(healing);
    Ok(report)
}

/// What is being healed, if there is an organ that heals. Health is told without it too.
async fn active_incidents(kernel: &Kernel) -> Vec<Value> {
    let Ok(healing) = kernel.services().find("hms.healing") else { return Vec::new() };
    match healing.call("active", json!({}), HEALING_ANSWERS).await {
        Ok(Value::Array(incidents)) => incidents,
        Ok(other) => {
            tracing::warn!(answer = %other, "`hms.healing` answered `active` with something that is no list");
            Vec::new()
        }
        Err(e) => {
            tracing::warn!(error = %e, "`hms.healing` does not say what it is healing");
            Vec::new()
        }
    }
}

// ---- monitor metrics --------------------------------------------------------------------------

#[derive(Deserialize)]
struct MetricsArgs {
    name: Option<String>,
    agent: Option<String>,
    #[serde(default, with = "hms_core::duration::option")]
    since: Option<Duration>,
    #[serde(default, with = "hms_core::duration::option")]
    step: Option<Duration>,
}

fn metrics_spec() -> CommandSpec {
    let duration = |about: &str| json!({"type": "string", "format": "hms-duration", "x-value": "DURATION", "description": about});
    CommandSpec::new("monitor metrics", "Show metrics over time, of one agent or all")
        .about(
            "Well-known metrics: responseTime (ms), errorRate (0-1), cpuUsage (cores), memoryUsage (bytes), \
             threads, restarts, health (1 or 0). Agents and plugins may record their own.\n\n\
             A point is [time_ms, value], or with a step [time_ms, avg, min, max]. A series of more than \
             5000 samples is told in steps that fit.",
        )
        .args(
            json!({
                "name": {"type": "string", "description": "the metric; all when missing"},
                "agent": {"type": "string", "x-short": "a", "description": "an agent, by id or name; all when missing"},
                "since": duration("how far back (default 1h for one metric, 10m for all)"),
                "step": duration("the mean, least and greatest value of each span this long"),
            }),
            &[],
        )
        .positional(&["name"])
        .watchable()
        .view(View::Series { rows: "/series".into(), name: "/label".into(), points: "/points".into() })
        .example("monitor metrics --agent web")
        .example("monitor metrics memoryUsage --since 24h --step 10m")
}

async fn metrics(kernel: &Kernel, shared: &Shared, args: MetricsArgs) -> Result<Value> {
    kernel.require_open()?;
    let since = args.since.unwrap_or(if args.name.is_some() { ONE_METRIC } else { ALL_METRICS });
    let until_ms = kernel.clock().wall_ms();
    let since_ms = until_ms.saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let query = Query {
        name: args.name,
        agent: args.agent,
        since_ms: Some(since_ms),
        until_ms: Some(until_ms),
        step: args.step,
    };
    shared.metrics.query(kernel, query).await
}

// ---- monitor alerts ---------------------------------------------------------------------------

#[derive(Deserialize)]
struct AlertsArgs {
    #[serde(default)]
    all: bool,
    agent: Option<String>,
    limit: usize,
}

fn alerts_spec() -> CommandSpec {
    let view = View::table(
        "no alerts",
        &[
            ("STATE", "/state", Format::State),
            ("SEVERITY", "/severity", Format::State),
            ("ALERT", "/rule", Format::Text),
            ("AGENT", "/agent", Format::Text),
            ("SINCE", "/since_ms", Format::Age),
            ("RESOLVED", "/resolved_ms", Format::Age),
            ("CONDITION", "/condition", Format::Text),
            ("VALUE", "/value", Format::Number),
        ],
    );
    CommandSpec::new("monitor alerts", "Show alerts that are pending or firing")
        .about(
            "Rules are [[monitoring.alerts]] in the configuration: a name, the agents (a glob), a condition \
             (metric with op and threshold, or health, or status), for how long, and a severity.\n\n\
             Built in are agent-critical (critical for 10s) and agent-quarantined; monitoring.default_alerts \
             switches them off, and a rule of the same name replaces one.",
        )
        .args(
            json!({
                "all": {"type": "boolean", "default": false, "description": "also those that were resolved, newest first"},
                "agent": {"type": "string", "x-short": "a", "description": "of one agent, by id or name"},
                "limit": {"type": "integer", "minimum": 1, "maximum": 5000, "default": 100, "x-short": "n",
                    "description": "how many resolved ones"},
            }),
            &[],
        )
        .watchable()
        .view(view)
        .example("monitor alerts")
        .example("monitor alerts --all --agent web")
}

async fn alerts(kernel: &Kernel, shared: &Shared, args: AlertsArgs) -> Result<Value> {
    kernel.require_open()?;
    let agent = args.agent.map(|a| kernel.agents().id(&a)).transpose()?;
    let mut alerts = shared.alerts.open();
    alerts.retain(|alert| agent.as_ref().is_none_or(|id| *id == alert.id));
    if args.all {
        alerts.extend(shared.alerts.resolved(kernel, agent, args.limit).await?);
    }
    Ok(json!(alerts))
}

// ---- monitor events ---------------------------------------------------------------------------

#[derive(Deserialize)]
struct EventsArgs {
    #[serde(default)]
    patterns: Vec<String>,
    filter: Option<String>,
    since_sequence: Option<u64>,
    limit: Option<u64>,
}

fn events_spec() -> CommandSpec {
    CommandSpec::new("monitor events", "Show events as they happen, and those that are kept")
        .about(
            "A pattern is a dotted name in which * stands for one part and a final > for all further parts: \
             agent.health.updated, agent.*.updated, heal.>. Without patterns: all events.\n\n\
             With --json, one CloudEvents object a line. Runs until it is interrupted, or until --limit.",
        )
        .args(
            json!({
                "patterns": {"type": "array", "items": {"type": "string"}, "description": "names of events, with * and >"},
                "filter": {"type": "string", "x-value": "CEL", "description": "a condition, such as data.agent == 'web'"},
                "since_sequence": {"type": "integer", "minimum": 0, "x-value": "N",
                    "description": "first those that are kept with a sequence above this (0: all that are kept)"},
                "limit": {"type": "integer", "minimum": 1, "x-short": "n", "description": "end after so many"},
            }),
            &[],
        )
        .positional(&["patterns"])
        .streaming()
        .view(View::message("{/time}  {/type}  {/subject}  {/data}"))
        .example("monitor events --json")
        .example("monitor events 'agent.>' 'heal.>' --filter \"data.agent == 'web'\"")
        .example("monitor events --since-sequence 0 --limit 10")
}

async fn events(kernel: &Kernel, cx: &CommandContext, args: EventsArgs) -> Result<Value> {
    kernel.require_open()?;
    // Before the subscription, so that no event is between the two.
    let known = kernel.bus().stats().next_sequence.map(|next| next - 1);
    let mut request =
        Subscribe::to(if args.patterns.is_empty() { vec![">".to_owned()] } else { args.patterns });
    request.filter = args.filter;
    request.after_sequence = args.since_sequence;
    request.capacity = EVENTS_WAIT;
    let subscription = kernel.bus().subscribe(request)?;
    let work = async {
        if let (None, Some(known)) = (args.since_sequence, known) {
            cx.resume_with(json!({"since_sequence": known})).await;
        }
        pass_on(&subscription, cx, args.limit.unwrap_or(u64::MAX)).await
    };
    tokio::select! {
        () = cx.cancelled() => Ok(Value::Null),
        ended = work => ended.map(|()| Value::Null),
    }
}

/// Emits events until `limit`, the end of the bus, or of the caller.
async fn pass_on(subscription: &Subscription, cx: &CommandContext, limit: u64) -> Result<()> {
    let mut left = limit;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(256);
        let Some(batch) = subscription.next_batch(most).await else {
            return subscription.error().map_or(Ok(()), Err);
        };
        tell_losses(cx, &batch);
        for event in &batch.events {
            if cx.emit(event.to_json()).await.is_err() {
                return Ok(());
            }
            left -= 1;
        }
        if let (Some(sequence), true) = (batch.events.iter().filter_map(|e| e.sequence).max(), left > 0) {
            let mut from_here = json!({"since_sequence": sequence});
            if limit != u64::MAX {
                from_here["limit"] = left.into();
            }
            cx.resume_with(from_here).await;
        }
    }
    Ok(())
}

/// Losses are told beside the events, so that each item is an event.
fn tell_losses(cx: &CommandContext, batch: &Batch) {
    if batch.lost > 0 {
        cx.progress(None, format!("{} events were lost: they came faster than they were read", batch.lost));
    }
    if let Some(sequence) = batch.pruned_through {
        cx.progress(None, format!("events up to sequence {sequence} are not kept any more"));
    }
}
