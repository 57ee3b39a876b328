//! Agents one by one: creation and its refusals, messages, faults that stay with whom they belong to, snapshots,
//! dependencies.

mod common;

use std::time::Duration;

use common::{Fault, System, data, has_issue, policy, settle, soon, worker};
use hms_core::{
    Error, ErrorKind, Result,
    agent::{AgentSpec, Create, HealthStatus, Message, RestartRequest, Restarted, Status, Stop},
    supervision::Restart,
};
use serde_json::{Value, json};

const GRACEFUL: Stop = Stop::Graceful(Duration::from_secs(5));

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("an error").kind
}

async fn try_create(system: &System, spec: AgentSpec) -> Result<Value> {
    system.kernel.agents().create(spec, Create::default()).await
}

#[tokio::test]
async fn an_agent_is_created_shown_and_destroyed() {
    let system = System::open().await;
    let watch = system.watch();
    let agents = system.kernel.agents();
    let row = system.create(worker("web")).await;
    assert_eq!(row["name"], "web");
    assert_eq!(row["status"], "running");
    assert_eq!(row["health"], "healthy");
    watch.event("agent.created", "web").await;
    watch.event("agent.started", "web").await;

    let status = agents.status("web").unwrap();
    assert_eq!(status["config"], json!({"speed": 7}), "defaults are filled in");
    assert_eq!(status["incarnation"], 1);
    assert_eq!(agents.status(row["id"].as_str().unwrap()).unwrap(), status, "named by id as well");
    let dir = agents.dir("web").unwrap();
    assert!(dir.is_dir());
    assert_eq!(system.stored().await, ["web"]);

    agents.destroy("web").await.unwrap();
    watch.event("agent.destroyed", "web").await;
    assert_eq!(system.world.take_log(), ["start web", "stop web"]);
    assert!(agents.is_empty() && !dir.exists());
    assert!(system.stored().await.is_empty());
    assert_eq!(kind(agents.status("web")), ErrorKind::NotFound);
    assert_eq!(kind(agents.destroy("web").await), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_name_is_made_up_where_there_is_none() {
    let system = System::open().await;
    let rows = [system.create(worker("")).await, system.create(worker("")).await];
    assert!(rows.iter().all(|r| r["name"].as_str().unwrap().starts_with("worker-")));
    assert_ne!(rows[0]["name"], rows[1]["name"]);
}

#[tokio::test]
async fn ensure_creates_once_and_then_applies_the_difference() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    let ensure = || Create { ensure: true, ..Create::default() };
    let first = agents.create(worker("web"), ensure()).await.unwrap();
    let again = agents.create(worker("web"), ensure()).await.unwrap();
    assert_eq!(first["id"], again["id"]);
    assert_eq!(system.incarnation("web"), 1, "nothing changed, nothing is restarted");

    let mut labelled = worker("web");
    labelled.labels.insert("team".into(), "blue".into());
    agents.create(labelled.clone(), ensure()).await.unwrap();
    assert_eq!(system.incarnation("web"), 1, "a label is no reason for a new life");
    assert_eq!(agents.status("web").unwrap()["labels"]["team"], "blue");

    let faster = AgentSpec { config: json!({"speed": 9}), ..labelled };
    agents.create(faster.clone(), ensure()).await.unwrap();
    assert_eq!(system.incarnation("web"), 2);
    assert_eq!(system.world.take_log(), ["start web", "stop web", "start web"]);

    agents.update("web", AgentSpec { desired: hms_core::agent::Desired::Stopped, ..faster }).await.unwrap();
    assert_eq!(system.status("web"), Status::Stopped);
    assert_eq!(agents.len(), 1);
}

#[tokio::test]
async fn what_is_refused_leaves_nothing() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    system.worker("base").await;
    let dirs = || std::fs::read_dir(system.kernel.dirs().agents.clone()).unwrap().count();
    assert_eq!(dirs(), 1);

    let needs = |name: &str, needs: &str| AgentSpec { depends_on: vec![needs.into()], ..worker(name) };
    let config = |config: Value| AgentSpec { config, ..worker("bad") };
    let refused: Vec<(AgentSpec, ErrorKind, &str)> = vec![
        (worker("No Name"), ErrorKind::InvalidArgument, "`No Name`"),
        (worker(&"x".repeat(64)), ErrorKind::InvalidArgument, "is not a name"),
        (worker("base"), ErrorKind::AlreadyExists, "`base`"),
        (AgentSpec::new("odd", "unheard-of", json!({})), ErrorKind::TypeUnavailable, "`unheard-of`"),
        (config(json!({"speed": 0})), ErrorKind::InvalidConfig, "`speed`"),
        (config(json!({"sped": 1})), ErrorKind::InvalidConfig, "sped"),
        (config(json!({"poison": true})), ErrorKind::Panic, "told to panic"),
        (needs("loner", "nobody"), ErrorKind::InvalidArgument, "`nobody`"),
        (needs("loner", "loner"), ErrorKind::InvalidArgument, "itself"),
        (
            AgentSpec { parent: Some("nobody".into()), ..worker("orphan") },
            ErrorKind::InvalidArgument,
            "`nobody`",
        ),
        (AgentSpec { mailbox: 0, ..worker("deaf") }, ErrorKind::InvalidArgument, "mailbox"),
    ];
    for (spec, want, words) in refused {
        let name = spec.name.clone();
        let Err(e) = try_create(&system, spec).await else { panic!("`{name}` was created") };
        assert_eq!(e.kind, want, "{e}");
        assert!(e.message.contains(words), "{e} does not mention {words}");
    }

    // One that must start, and does not.
    let must_start = || Create { must_start: true, ..Create::default() };
    for fault in [Fault::FailsToStart, Fault::PanicsInStart] {
        system.world.set("stillborn", fault);
        let e = agents.create(worker("stillborn"), must_start()).await.unwrap_err();
        assert!(matches!(e.kind, ErrorKind::HandlerFailed | ErrorKind::Panic), "{e}");
        system.world.clear("stillborn", fault);
    }
    assert_eq!(agents.len(), 1);
    assert_eq!(system.stored().await, ["base"]);
    assert_eq!(dirs(), 1);
    // And the name is free.
    agents.create(worker("stillborn"), must_start()).await.unwrap();
}

#[tokio::test]
async fn a_cycle_is_named_and_changes_nothing() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    let c = AgentSpec { depends_on: vec!["b".into()], ..worker("c") };
    system.worker("a").await;
    system.create(AgentSpec { depends_on: vec!["a".into()], ..worker("b") }).await;
    system.create(c).await;
    let cyclic = AgentSpec { depends_on: vec!["c".into()], ..worker("a") };
    let e = agents.update("a", cyclic.clone()).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidConfig);
    assert!(e.message.contains("a → c → b → a"), "{e}");
    let e = agents.create(cyclic, Create { ensure: true, ..Create::default() }).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidConfig);
    assert!(agents.spec("a").unwrap().depends_on.is_empty());
    // A parent counts as needed, too.
    let e = agents.update("a", AgentSpec { parent: Some("c".into()), ..worker("a") }).await.unwrap_err();
    assert!(e.message.contains("cycle"), "{e}");

    let e = agents.destroy("a").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidState);
    assert!(e.message.contains("`b` needs `a`"), "{e}");
    assert_eq!(system.status("a"), Status::Running);
}

#[tokio::test]
async fn tell_and_ask_reach_the_agent_in_order_and_are_counted_by_edge() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    system.worker("a").await;
    system.worker("b").await;
    for _ in 0..3 {
        agents.tell("a", Message::new("cli", json!({"do": "count"}))).unwrap();
    }
    assert_eq!(system.count("a").await, 4, "what was told before is handled before");
    let answer = system.ask("a", json!({"do": "ask", "target": "b", "body": {"hello": 1}})).await.unwrap();
    let a = agents.id("a").unwrap();
    assert_eq!(answer, json!({"from": a, "body": {"hello": 1}}));
    assert_eq!(agents.status("a").unwrap()["messages"]["from"], json!({"cli": 3, "test": 2}));
    assert_eq!(agents.status("b").unwrap()["messages"]["from"], json!({a: 1}));
    let e = system.ask("a", json!({"do": "fail"})).await.unwrap_err();
    assert_eq!(e, Error::new(ErrorKind::HandlerFailed, "told to fail"));
    assert_eq!(system.incarnation("a"), 1, "an error is an answer, not a failure of the agent");
    assert_eq!(kind(agents.tell("c", Message::new("cli", Value::Null))), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_ask_ends_at_its_deadline() {
    let system = System::open().await;
    let agents = system.kernel.agents().clone();
    system.worker("a").await;
    let ask = |body: Value| {
        let agents = agents.clone();
        tokio::spawn(async move { agents.ask("a", Message::new("t", body), Duration::from_secs(3)).await })
    };
    let blocked = ask(json!({"do": "block"}));
    let behind = ask(json!({"do": "count"}));
    settle().await;
    system.clock.advance(Duration::from_millis(2_999));
    settle().await;
    assert!(!blocked.is_finished() && !behind.is_finished());
    system.clock.advance(Duration::from_millis(1));
    for asked in [blocked, behind] {
        let e = soon("a timeout", asked).await.unwrap().unwrap_err();
        assert_eq!(e.kind, ErrorKind::Timeout);
        assert!(e.message.contains("3s"), "{e}");
    }
    system.world.gate.open(1);
    assert_eq!(system.count("a").await, 1, "the message whose deadline had passed was not handled");
}

#[tokio::test]
async fn a_full_mailbox_refuses_and_counts() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    system.create(AgentSpec { mailbox: 2, ..worker("a") }).await;
    let tell = || agents.tell("a", Message::new("t", json!({"do": "block"})));
    tell().unwrap();
    settle().await; // now in hand
    tell().unwrap();
    tell().unwrap();
    let e = tell().unwrap_err();
    assert_eq!(e.kind, ErrorKind::QueueFull);
    assert!(e.message.contains("`a`"), "{e}");
    assert_eq!(kind(system.ask("a", json!({})).await), ErrorKind::QueueFull);
    let messages = agents.status("a").unwrap()["messages"].clone();
    assert_eq!((&messages["waiting"], &messages["refused"]), (&json!(2), &json!(2)));
    system.world.gate.open(3);
    settle().await;
    assert_eq!(system.count("a").await, 1);
    assert_eq!(agents.status("a").unwrap()["messages"]["waiting"], 0);
}

#[tokio::test]
async fn a_circle_of_asks_is_an_error_and_not_a_deadlock() {
    let system = System::open().await;
    for name in ["a", "b", "c"] {
        system.worker(name).await;
    }
    let then = |target: &str, body: Value| json!({"do": "ask", "target": target, "body": body});
    let e = system.ask("a", then("b", then("c", then("a", json!({}))))).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::WouldDeadlock);
    assert_eq!(kind(system.ask("a", then("a", json!({}))).await), ErrorKind::WouldDeadlock);
    // The same agents in a line are no circle.
    system.ask("a", then("b", then("c", json!({})))).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_is_not_meant_to_run_answers_at_once() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    system.worker("a").await;
    let waiting = {
        let agents = agents.clone();
        let ask = async move {
            agents.ask("a", Message::new("t", json!({"do": "hang"})), Duration::from_secs(9)).await
        };
        tokio::spawn(ask)
    };
    settle().await;
    agents.stop("a", GRACEFUL).await.unwrap();
    assert_eq!(kind(soon("the cancelled ask", waiting).await.unwrap()), ErrorKind::Cancelled);
    let e = system.ask("a", json!({})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidState);
    assert!(e.message.contains("stopped") && e.hint.is_some(), "{e}");
}

#[tokio::test]
async fn a_panic_in_a_handler_is_a_failure_of_that_agent_alone() {
    let system = System::open().await;
    let watch = system.watch();
    system.worker("a").await;
    system.worker("b").await;
    let e = system.ask("a", json!({"do": "panic"})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Panic);
    assert!(e.message.contains("told to panic"), "{e}");
    let exited = watch.event("agent.exited", "a").await;
    assert_eq!(data(&exited)["exit"]["clean"], false);
    watch.event("agent.restarted", "a").await;
    assert_eq!(system.incarnation("a"), 2);
    assert_eq!(system.count("a").await, 1, "it lives again");
    assert_eq!(system.count("b").await, 1);
    assert_eq!(system.incarnation("b"), 1);
    assert_eq!(system.world.doubled(), None);
}

#[tokio::test]
async fn panics_everywhere_else_stay_contained_too() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    system.worker("b").await;

    system.world.set("a", Fault::PanicsInStart);
    let row = system.create(worker("a")).await;
    assert_eq!(row["status"], "failed");
    assert_eq!(row["health"], "critical");
    assert!(row["reason"].as_str().unwrap().contains("told to"), "{row}");
    system.world.clear("a", Fault::PanicsInStart);
    agents.start("a").await.unwrap();

    system.world.set("a", Fault::PanicsInHealth);
    let health = agents.check("a").await.unwrap();
    assert_eq!(health.status, HealthStatus::Critical);
    assert!(has_issue(&health, "health-check"));
    settle().await;
    assert_eq!(system.status("a"), Status::Degraded);
    system.world.clear("a", Fault::PanicsInHealth);
    agents.check("a").await.unwrap();
    settle().await;
    assert_eq!(system.status("a"), Status::Running);

    system.world.set("a", Fault::PanicsInFacts);
    assert_eq!(agents.list().len(), 2);
    system.world.crash("a");
    settle().await;
    assert_eq!(system.status("a"), Status::Running, "the panic did not take the agent's supervision along");
    system.world.clear("a", Fault::PanicsInFacts);

    system.world.set("a", Fault::PanicsInSnapshot);
    agents.stop("a", GRACEFUL).await.unwrap();
    assert_eq!(system.status("a"), Status::Stopped);
    agents.start("a").await.unwrap();
    system.world.clear("a", Fault::PanicsInSnapshot);

    system.world.set("a", Fault::PanicsInStop);
    assert_eq!(kind(agents.stop("a", GRACEFUL).await), ErrorKind::Panic);
    assert_eq!(system.status("a"), Status::Stopped);
    agents.start("a").await.unwrap();
    assert_eq!(kind(agents.restart("a", RestartRequest::default()).await), ErrorKind::Panic);
    assert_eq!(system.status("a"), Status::Failed, "no second life beside one that may still be there");
    agents.start("a").await.unwrap();
    assert_eq!(kind(agents.destroy("a").await), ErrorKind::Panic);
    assert_eq!(system.status("a"), Status::Failed, "it says so, and is still there");
    agents.destroy("a").await.unwrap();

    assert_eq!(agents.len(), 1);
    assert_eq!(system.count("b").await, 1);
    assert_eq!(system.incarnation("b"), 1);
}

#[tokio::test]
async fn what_hangs_fails_by_the_clock() {
    let system = System::open().await;
    let agents = system.kernel.agents().clone();
    let watch = system.watch();
    system.worker("a").await;
    agents.tell("a", Message::new("t", json!({"do": "hang"}))).unwrap();
    agents.tell("a", Message::new("t", json!({"do": "count"}))).unwrap();
    settle().await;
    system.clock.advance(Duration::from_millis(59_999));
    settle().await;
    assert_eq!(system.incarnation("a"), 1);
    system.clock.advance(Duration::from_millis(1));
    let exited = watch.event("agent.exited", "a").await;
    assert!(data(&exited)["exit"]["reason"].as_str().unwrap().contains("1m"), "{:?}", data(&exited));
    watch.event("agent.restarted", "a").await;
    assert_eq!(system.count("a").await, 2, "what waited in the mailbox is handled in the next life");

    // A health check that does not return is a bad sign, too.
    system.world.set("a", Fault::HangsInHealth);
    let check = tokio::spawn({
        let agents = agents.clone();
        async move { agents.check("a").await }
    });
    settle().await;
    system.clock.advance(Duration::from_secs(5));
    let health = soon("the check", check).await.unwrap().unwrap();
    assert!(has_issue(&health, "health-check"), "{health:?}");

    // A start that hangs keeps nobody from creating others.
    system.world.set("slow", Fault::HangsInStart);
    let create = tokio::spawn({
        let agents = agents.clone();
        let how = Create { must_start: true, ..Create::default() };
        async move { agents.create(worker("slow"), how).await }
    });
    settle().await;
    soon("another agent", system.worker("quick")).await;
    system.clock.advance(Duration::from_secs(60));
    assert_eq!(kind(soon("the creation", create).await.unwrap()), ErrorKind::Timeout);
    assert_eq!(system.stored().await, ["a", "quick"]);
}

#[tokio::test]
async fn snapshots_outlive_stops_and_hosts_and_a_reset_forgets_them() {
    let mut system = System::open().await;
    system.worker("a").await;
    assert_eq!(system.count("a").await, 1);
    system.kernel.agents().stop("a", GRACEFUL).await.unwrap();
    system.kernel.agents().start("a").await.unwrap();
    assert_eq!(system.count("a").await, 2);
    system = system.reopen().await;
    settle().await;
    assert_eq!(system.count("a").await, 3);
    assert!(system.incarnation("a") >= 3, "incarnations go on counting");

    let request = RestartRequest { reset: true, reason: "test".into(), ..RestartRequest::default() };
    system.kernel.agents().restart("a", request).await.unwrap();
    assert_eq!(system.count("a").await, 1);
    // A crash has no time for a snapshot: the one before it counts.
    system.kernel.agents().stop("a", GRACEFUL).await.unwrap();
    system.kernel.agents().start("a").await.unwrap();
    assert_eq!(system.count("a").await, 2);
    system.world.crash("a");
    settle().await;
    assert_eq!(system.count("a").await, 2);

    let request = RestartRequest { reset: true, kill: true, ..RestartRequest::default() };
    system.kernel.agents().restart("a", request).await.unwrap();
    system
        .kernel
        .agents()
        .restart("a", RestartRequest { kill: true, ..RestartRequest::default() })
        .await
        .unwrap();
    let system = system.reopen().await;
    settle().await;
    assert_eq!(system.count("a").await, 1, "what was forgotten does not come back with the next host");
}

#[tokio::test]
async fn a_restart_for_an_earlier_life_is_superseded() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    let watch = system.watch();
    system.create(AgentSpec { restart: policy(Restart::Permanent, 0, 100), ..worker("a") }).await;
    let of = |incarnation| RestartRequest {
        reason: "ill".into(),
        by: "healing".into(),
        if_incarnation: Some(incarnation),
        ..RestartRequest::default()
    };
    let done = agents.restart("a", of(1)).await.unwrap();
    assert_eq!(done, Restarted::Done { incarnation: 2 });
    let restarted = watch.event("agent.restarted", "a").await;
    assert_eq!(data(&restarted)["by"], "healing");
    assert_eq!(agents.restart("a", of(1)).await.unwrap(), Restarted::Superseded { incarnation: 2 });
    assert_eq!(system.incarnation("a"), 2);

    // Supervision is at it already: its back-off is not cut short.
    system.world.crash("a");
    settle().await;
    system.world.crash("a");
    watch.status("a", "restarting").await;
    let at = system.incarnation("a");
    assert_eq!(agents.restart("a", of(at)).await.unwrap(), Restarted::Superseded { incarnation: at });
    // Nor is one revived that was stopped or quarantined meanwhile.
    agents.stop("a", GRACEFUL).await.unwrap();
    assert_eq!(agents.restart("a", of(at)).await.unwrap(), Restarted::Superseded { incarnation: at });
    agents.start("a").await.unwrap();
    agents.quarantine("a", "enough").await.unwrap();
    let at = system.incarnation("a");
    assert_eq!(agents.restart("a", of(at)).await.unwrap(), Restarted::Superseded { incarnation: at });
    assert_eq!(system.status("a"), Status::Quarantined);
    // Whoever asks without a diagnosis means it.
    agents.restart("a", RestartRequest::default()).await.unwrap();
    assert_eq!(system.status("a"), Status::Running);
}

#[tokio::test]
async fn dependents_wait_for_readiness_and_go_on_by_themselves() {
    let system = System::open().await;
    let watch = system.watch();
    system.world.set("db", Fault::StartsPending);
    system.worker("db").await;
    let web = system.create(AgentSpec { depends_on: vec!["db".into()], ..worker("web") }).await;
    assert_eq!(web["status"], "waiting");
    assert_eq!(web["health"], "unknown");
    assert_eq!(web["reason"], "waiting for `db`");
    assert_eq!(system.status("db"), Status::Starting);
    system.world.cx("db").ready();
    watch.event("agent.started", "web").await;
    assert_eq!(system.world.take_log(), ["start db", "start web"]);

    // A dependent that fails while its dependency is away waits for it instead of failing on.
    system.kernel.agents().stop("db", GRACEFUL).await.unwrap();
    system.world.crash("web");
    watch.status("web", "waiting").await;
    system.kernel.agents().start("db").await.unwrap();
    settle().await;
    assert_eq!(system.status("web"), Status::Waiting);
    system.world.cx("db").ready();
    watch.event("agent.started", "web").await;
    assert_eq!(system.status("web"), Status::Running);
    // A message sent to one that waits is handled when it runs.
    assert_eq!(system.count("web").await, 1);
}

#[tokio::test]
async fn the_system_ends_dependents_first() {
    let system = System::open().await;
    system.worker("db").await;
    system.create(AgentSpec { depends_on: vec!["db".into()], ..worker("cache") }).await;
    system.create(AgentSpec { depends_on: vec!["cache".into()], ..worker("web") }).await;
    system.create(AgentSpec { parent: Some("web".into()), ..worker("child") }).await;
    system.world.take_log();
    let world = system.world.clone();
    let system = system.reopen().await;
    assert_eq!(world.take_log(), ["stop child", "stop web", "stop cache", "stop db"]);
    settle().await;
    let started = system.world.take_log();
    let at = |name: &str| started.iter().position(|l| *l == format!("start {name}")).unwrap();
    assert!(at("db") < at("cache") && at("cache") < at("web"), "{started:?}");
    assert_eq!(started.len(), 4);
    let names: Vec<Value> = system.kernel.agents().list().into_iter().map(|mut r| r["name"].take()).collect();
    assert_eq!(names, ["db", "cache", "web", "child"], "in the order of creation, also after a restart");
}

#[tokio::test]
async fn a_stop_is_kept_over_restarts_of_the_system() {
    let system = System::open().await;
    system.worker("a").await;
    system.worker("b").await;
    system.kernel.agents().stop("a", GRACEFUL).await.unwrap();
    let system = system.reopen().await;
    settle().await;
    assert_eq!(system.status("a"), Status::Stopped);
    assert_eq!(system.status("b"), Status::Running);
    assert_eq!(system.world.lives("a"), 0);
    system.kernel.agents().start("a").await.unwrap();
    assert_eq!(system.status("a"), Status::Running);
}
