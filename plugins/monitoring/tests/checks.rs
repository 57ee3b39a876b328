//! When agents are checked: soon, regularly, never twice at a time, and only those that need it.

mod common;

use common::{SOON, System, critical, ms, s};
use hms_core::agent::{AgentSpec, HealthStatus, RestartRequest};
use serde_json::json;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_agent_is_checked_soon_and_then_at_its_interval() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let probe = system.checked("web", Some(ms(300))).await;
    system.clock.advance(ms(300));
    let mut began = probe.checked(1).await;
    assert!(began[0] <= ms(300), "within the interval, at a time left to chance");
    for round in 2..8 {
        // Not a moment early: nothing is due one millisecond before, and all is when it has passed.
        let due = began[round - 2] + ms(300);
        system.clock.advance(due - ms(1) - hms_core::clock::Clock::now(&*system.clock));
        system.clock.advance(ms(1));
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
    system.clock.advance(s(1));
    let first = probe.checked(1).await[0];
    system.clock.advance(s(10));
    system.kernel.configure("monitoring.interval", Some("5s"), "test").await.unwrap();
    let second = probe.checked(2).await[1];
    assert_eq!(second, s(11), "it is overdue by the new interval: now");
    system.clock.advance(s(5));
    assert_eq!(probe.checked(3).await[2], s(16));
    assert!(first <= s(1));
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
    system.clock.advance(s(1));
    slow.checked(1).await;
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
    system.clock.advance(s(1));
    // The gates open when two checks stand at theirs.
    let mut begun = system.lab.begun.subscribe();
    tokio::time::timeout(SOON, begun.wait_for(|n| *n >= 2)).await.expect("two checks").unwrap();
    for probe in &probes {
        probe.gate.send_replace(true);
    }
    for probe in &probes {
        probe.checked(1).await;
    }
    assert_eq!(system.lab.most.load(std::sync::atomic::Ordering::SeqCst), 2);
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
    system.clock.advance(ms(100));
    gone.checked(1).await;
    stopped.checked(1).await;
    system.kernel.agents().destroy("gone").await.unwrap();
    let graceful = hms_core::agent::Stop::Graceful(s(1));
    system.kernel.agents().stop("stopped", graceful).await.unwrap();
    let (gone_at, stopped_at) = (gone.checks.borrow().len(), stopped.checks.borrow().len());
    for n in 2..6 {
        system.clock.advance(ms(100));
        witness.checked(n).await;
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
    system.clock.advance(ms(100));
    let data = heard.until(|_, data| data["health"]["status"] == "critical").await;
    assert_eq!((&data["agent"], &data["health"]["issues"][0]["code"]), (&json!("web"), &json!("test")));
    assert_eq!(system.kernel.agents().state("web").unwrap().health.status, HealthStatus::Critical);
    *probe.health.lock().unwrap() = hms_core::agent::Health::healthy();
    system.clock.advance(ms(100));
    heard.until(|_, data| data["health"]["status"] == "healthy").await;
    system.close().await;
}
