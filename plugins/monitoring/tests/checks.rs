//! When agents are checked: soon, regularly, never twice at a time, and only those that need it.

mod common;

use std::sync::{Arc, atomic::Ordering};

use common::{Lab, SOON, System, critical, ms, open_kernel, s};
use hms_core::{
    agent::{AgentSpec, Create, Health, HealthStatus, RestartRequest, Stop},
    clock::{Clock, SystemClock},
    plugin::Plugin,
};
use serde_json::json;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_agent_is_checked_soon() {
    let home = TempDir::new().unwrap();
    let lab = Lab::default();
    let plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(lab.clone())];
    let kernel = open_kernel(home.path(), "", SystemClock::shared(), plugins).await.unwrap();
    let mut spec = AgentSpec::new("web", "lab", json!({"key": "web", "checks": true}));
    spec.health.interval = Some(s(3600));
    kernel.agents().create(spec, Create::default()).await.unwrap();
    lab.probe("web").checked(1).await;
    kernel.close(Stop::Kill).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_checked_at_its_interval() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let probe = system.checked("web", Some(ms(300))).await;
    system.first_check(&probe).await;
    // What the scheduler hears of the agent's start may ask for another check soon. After that:
    for _ in 0..3 {
        let seen = probe.checks.borrow().len();
        system.clock.advance(ms(300));
        probe.checked(seen + 1).await;
    }
    let mut began = probe.checks.borrow().clone();
    assert_eq!(began.last(), Some(&system.clock.now()));
    for round in began.len() + 1..began.len() + 7 {
        // Not a moment early: nothing is due one millisecond before, and all is when it has passed.
        let due = began[round - 2] + ms(300);
        system.clock.advance((due - ms(1)).saturating_sub(system.clock.now()));
        system.clock.advance(due.saturating_sub(system.clock.now()));
        began = probe.checked(round).await;
        assert_eq!(began[round - 1], due, "round {round}");
    }
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_interval_is_the_configured_one_and_changes_live() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "[monitoring]\ninterval = \"10m\"\n").await.unwrap();
    let probe = system.checked("web", None).await;
    let first = system.first_check(&probe).await;
    system.clock.advance((first + s(10)).saturating_sub(system.clock.now()));
    let now = system.clock.now();
    system.kernel.configure("monitoring.interval", Some("5s"), "test").await.unwrap();
    let second = probe.checked(2).await[1];
    assert_eq!(second, now, "it is overdue by the new interval");
    system.clock.advance(s(5));
    assert_eq!(probe.checked(3).await[2], now + s(5));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_never_checked_twice_at_a_time() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let witness = system.checked("witness", Some(ms(100))).await;
    let mut spec = AgentSpec::new("slow", "lab", json!({"key": "slow", "checks": true}));
    spec.health.interval = Some(ms(100));
    spec.health.timeout = s(3600);
    let slow = system.lab.probe("slow");
    slow.gate.send_replace(false);
    system.create(spec).await;
    system.first_check(&slow).await;
    system.first_check(&witness).await;
    // Many intervals pass and it even begins a new life, while the first check is not done.
    let request = RestartRequest { reason: "test".into(), by: "test".into(), ..RestartRequest::default() };
    system.kernel.agents().restart("slow", request).await.unwrap();
    for _ in 0..10 {
        let seen = witness.checks.borrow().len();
        system.clock.advance(ms(200));
        witness.checked(seen + 1).await;
    }
    assert_eq!(slow.checks.borrow().len(), 1);
    slow.gate.send_replace(true);
    slow.checked(2).await;
    for n in 3..6 {
        system.clock.advance(ms(100));
        slow.checked(n).await;
    }
    assert_eq!(slow.most_at_once(), 1);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_running_checks_is_bounded() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "[monitoring]\nconcurrency = 2\n").await.unwrap();
    let mut probes = Vec::new();
    for n in 0..6 {
        let name = format!("agent-{n}");
        system.lab.probe(&name).gate.send_replace(false);
        probes.push(system.checked(&name, Some(s(3600))).await);
    }
    // The gates open when two checks stand at theirs.
    let time_goes_on = async {
        while system.lab.running.load(Ordering::SeqCst) < 2 {
            system.clock.advance(ms(500));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, time_goes_on).await.expect("two checks");
    for probe in &probes {
        probe.gate.send_replace(true);
    }
    for probe in &probes {
        system.first_check(probe).await;
    }
    assert_eq!(system.lab.most.load(Ordering::SeqCst), 2);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_are_checked_that_need_it_and_live() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let quiet = system.quiet("quiet").await;
    let gone = system.checked("gone", Some(ms(100))).await;
    let stopped = system.checked("stopped", Some(ms(100))).await;
    let witness = system.checked("witness", Some(ms(100))).await;
    for probe in [&gone, &stopped, &witness] {
        system.first_check(probe).await;
    }
    system.kernel.agents().destroy("gone").await.unwrap();
    system.kernel.agents().stop("stopped", Stop::Kill).await.unwrap();
    let (gone_at, stopped_at) = (gone.checks.borrow().len(), stopped.checks.borrow().len());
    for _ in 0..5 {
        let seen = witness.checks.borrow().len();
        system.clock.advance(ms(200));
        witness.checked(seen + 1).await;
    }
    assert_eq!((quiet.checks.borrow().len(), gone.checks.borrow().len()), (0, gone_at));
    assert_eq!(stopped.checks.borrow().len(), stopped_at);
    system.kernel.agents().start("stopped").await.unwrap();
    tokio::time::timeout(SOON, async {
        // The scheduler hears of the start whenever it does: time goes on until then.
        while stopped.checks.borrow().len() == stopped_at {
            system.clock.advance(ms(100));
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("checked again after its start");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_check_finds_becomes_the_agents_health() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let probe = system.checked("web", Some(ms(100))).await;
    *probe.health.lock().unwrap() = critical();
    let heard = system.listen(&["agent.health.updated"]);
    system.first_check(&probe).await;
    let data = heard.until(|_, data| data["health"]["status"] == "critical").await;
    assert_eq!((&data["agent"], &data["health"]["issues"][0]["code"]), (&json!("web"), &json!("test")));
    assert_eq!(system.kernel.agents().state("web").unwrap().health.status, HealthStatus::Critical);
    *probe.health.lock().unwrap() = Health::healthy();
    system.clock.advance(ms(100));
    heard.until(|_, data| data["health"]["status"] == "healthy").await;
    system.close().await;
}
