//! A program that supervises a process of its own: the system lives in this process and ends with it.
//!
//! It starts a process, kills it the hard way, and waits until the healing is verified; nothing here restarts
//! anything, and nothing polls.

use std::time::Duration;

use hms_runtime::{Error, ErrorKind, EventStream, Open, Result, System};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<()> {
    let system = System::open(Open::Private { home: None }).await?;
    let outcome = supervise(&system).await;
    // Also when something failed: what was started ends here.
    system.close(false).await?;
    outcome
}

async fn supervise(system: &System) -> Result<()> {
    // Subscribed first, so that nothing is missed.
    let mut closed = system.subscribe(vec!["heal.incident.closed".into()], None, 64, None).await?;

    let agent = json!({
        "type": "process",
        "name": "worker",
        "config": {"command": ["sleep", "1000"]},
        "healing": {"verify_window": "500ms"},
    });
    let worker = run(system, "agent create", agent).await?;
    println!("worker runs as pid {}", worker["pid"]);

    let pid = worker["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.ok_or_else(|| Error::internal("a running process has a pid"))?;
    kill_process(pid, Signal::KILL).map_err(|e| Error::io("killing the worker", &e.into()))?;

    let incident = tokio::time::timeout(Duration::from_secs(30), next(&mut closed))
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, "the worker was not healed within 30s"))??;
    println!("incident: {}", incident["cause"].as_str().unwrap_or("?"));
    println!("healed by {}", incident["steps"][0]["action"].as_str().unwrap_or("?"));
    println!("outcome: {}", incident["outcome"].as_str().unwrap_or("?"));

    let worker = run(system, "agent status", json!({"agent": "worker"})).await?;
    println!("worker runs as pid {} after {} restart", worker["pid"], worker["restarts"]);
    Ok(())
}

/// Runs a command; what it says meanwhile is of no interest here.
async fn run(system: &System, path: &str, args: Value) -> Result<Value> {
    system.run(path, args, Default::default(), |_| {}).await
}

/// The next incident that is told of.
async fn next(events: &mut EventStream) -> Result<Value> {
    while let Some((batch, _lost)) = events.next_batch(1).await {
        if let Some(data) = batch.first().and_then(|event| event.data.as_json()) {
            return Ok(data["incident"].clone());
        }
    }
    Err(Error::internal("the system ended meanwhile"))
}
