//! Agents that do not do as they are told: those that do not stop, those whose calls never return, those that
//! block the thread they run on. They delay nobody else, and nothing waits for them for ever.

mod common;

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Wake, Waker},
    time::Duration,
};

use async_trait::async_trait;
use common::{Fault, PATIENCE, System, World, data, policy, settle, soon, worker};
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentSpec, Create, HealthStatus, Message, RestartRequest, Status, Stop},
    event::Subscribe,
    owner::Owner,
    service::{Service, ServiceSpec},
    supervision::Restart,
};
use serde_json::{Value, json};

const GRACEFUL: Stop = Stop::Graceful(Duration::from_secs(5));

/// The grace of a destroy or an update with the margin, and then the time that force may take.
const GIVEN_UP: [Duration; 2] = [Duration::from_secs(40), Duration::from_secs(30)];

fn background<F>(system: &System, act: impl FnOnce(Kernel) -> F) -> tokio::task::JoinHandle<Result<Value>>
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    tokio::spawn(act(system.kernel.clone()))
}

async fn pass(system: &System, times: &[Duration]) {
    for time in times {
        // What is meant, and a snapshot, are written on the store's thread before a stop.
        for _ in 0..4 {
            settle().await;
            let _ = system.kernel.store().write(|_| Ok(())).await;
        }
        settle().await;
        system.clock.advance(*time);
    }
    settle().await;
}

fn is_leaving(what: &Result<Value>) -> bool {
    let refused = what.as_ref().expect_err("it is leaving");
    refused.kind == ErrorKind::InvalidState
        && refused.message.contains("agent `stubborn` is being destroyed")
        && refused.hint.is_some()
}

#[tokio::test]
async fn one_that_does_not_stop_delays_no_other_change() {
    let system = System::open().await;
    let watch = system.watch();
    let agents = system.kernel.agents();
    system.worker("stubborn").await;
    system.worker("other").await;
    system.world.set("stubborn", Fault::HangsInStop);
    let destroyed = background(&system, async |k| k.agents().destroy("stubborn").await);
    settle().await;

    // The clock does not move: none of these waits for it.
    soon("a creation", system.worker("quick")).await;
    let faster = AgentSpec { config: json!({"speed": 9}), ..worker("other") };
    soon("an update", agents.update("other", faster.clone())).await.unwrap();
    soon("a stop", agents.stop("other", GRACEFUL)).await.unwrap();
    soon("a destroy", agents.destroy("quick")).await.unwrap();

    // Meanwhile nothing can come to need it, take its name, or call it back.
    let needs = |name: &str| AgentSpec { depends_on: vec!["stubborn".into()], ..worker(name) };
    let create = async |spec, ensure| {
        soon("a refusal", agents.create(spec, Create { ensure, ..Create::default() })).await
    };
    assert!(is_leaving(&create(worker("stubborn"), false).await));
    assert!(is_leaving(&create(worker("stubborn"), true).await));
    assert!(is_leaving(&create(needs("late"), false).await));
    let below = AgentSpec { parent: Some("stubborn".into()), ..worker("late") };
    assert!(is_leaving(&create(below, false).await));
    assert!(is_leaving(&soon("a refusal", agents.update("other", needs("other"))).await));
    assert!(is_leaving(&soon("a refusal", agents.update("stubborn", worker("stubborn"))).await));
    assert!(is_leaving(&soon("a refusal", agents.start("stubborn")).await));
    assert!(is_leaving(&soon("a refusal", agents.stop("stubborn", GRACEFUL)).await));
    assert!(is_leaving(&soon("a refusal", agents.destroy("stubborn")).await));
    assert_eq!(agents.status("stubborn").unwrap()["leaving"], true);
    assert!(!destroyed.is_finished());

    // What does not end is abandoned, is said to be, and is no more leaving.
    pass(&system, &GIVEN_UP).await;
    let e = soon("the destroy", destroyed).await.unwrap().unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout);
    let abandoned = watch.event("agent.abandoned", "stubborn").await;
    assert_eq!(data(&abandoned)["incarnation"], 1);
    assert_eq!(data(&abandoned)["abandoned"], 1);
    let status = agents.status("stubborn").unwrap();
    assert_eq!((&status["status"], &status["abandoned"]), (&json!("failed"), &json!(1)));
    assert_eq!(status.get("leaving"), None);
    soon("the second destroy", agents.destroy("stubborn")).await.unwrap();
    system.create(worker("stubborn")).await;
    assert_eq!(system.stored().await, ["other", "stubborn"]);
}

#[tokio::test]
async fn an_update_that_waits_for_a_stop_delays_nobody_and_keeps_what_it_needs() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    for name in ["old", "new", "free"] {
        system.worker(name).await;
    }
    let needs = |needed: &str, speed: u64| AgentSpec {
        depends_on: vec![needed.into()],
        config: json!({"speed": speed}),
        ..worker("stubborn")
    };
    system.create(needs("old", 1)).await;
    system.world.set("stubborn", Fault::HangsInStop);
    let spec = needs("new", 2);
    let updated = background(&system, async |k| k.agents().update("stubborn", spec).await);
    settle().await;
    soon("a creation", system.worker("quick")).await;
    soon("a destroy", agents.destroy("free")).await.unwrap();
    for needed in ["old", "new"] {
        let e = soon("a refusal", agents.destroy(needed)).await.unwrap_err();
        assert!(e.message.contains(&format!("`stubborn` needs `{needed}`")), "{e}");
    }
    let back = AgentSpec { depends_on: vec!["stubborn".into()], ..worker("old") };
    let e = soon("a refusal", agents.update("old", back)).await.unwrap_err();
    assert!(e.message.contains("cycle"), "it may still go back to what it was: {e}");

    pass(&system, &GIVEN_UP).await;
    assert_eq!(soon("the update", updated).await.unwrap().unwrap_err().kind, ErrorKind::Timeout);
    assert_eq!(agents.spec("stubborn").unwrap().depends_on, ["old"], "an error changes nothing");
    assert_eq!(
        system.status("stubborn"),
        Status::Failed,
        "no second life beside one that may still be there"
    );
    assert_eq!(system.world.lives("stubborn"), 1);
    soon("a destroy", agents.destroy("new")).await.unwrap();
}

#[tokio::test]
async fn two_that_destroy_one_agent_and_its_ensured_successor_do_not_meet() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    system.worker("a").await;
    let first = background(&system, async |k| k.agents().destroy("a").await);
    let second = background(&system, async |k| k.agents().destroy("a").await);
    let ensured = background(&system, async |k| {
        let how = Create { ensure: true, ..Create::default() };
        k.agents().create(AgentSpec { config: json!({"speed": 3}), ..worker("a") }, how).await
    });
    let (first, second) = (soon("a", first).await.unwrap(), soon("b", second).await.unwrap());
    assert_eq!([&first, &second].iter().filter(|r| r.is_ok()).count(), 1, "{first:?} {second:?}");
    let refused = first.err().or(second.err()).unwrap();
    assert!(matches!(refused.kind, ErrorKind::NotFound | ErrorKind::InvalidState), "{refused}");
    // The ensured one was refused, or is there.
    match soon("the ensured", ensured).await.unwrap() {
        Ok(_) => assert_eq!(agents.spec("a").unwrap().config, json!({"speed": 3})),
        Err(e) => assert_eq!(e.kind, ErrorKind::InvalidState, "{e}"),
    }
    assert_eq!(system.world.doubled(), None);
}

#[tokio::test]
async fn a_stop_that_never_returns_is_given_up_and_the_agent_goes_on() {
    let system = System::open().await;
    let watch = system.watch();
    let agents = system.kernel.agents();
    system.worker("a").await;
    system.world.set("a", Fault::HangsInStop);
    let stopped = background(&system, async |k| k.agents().stop("a", GRACEFUL).await);
    pass(&system, &[Duration::from_secs(34)]).await;
    assert!(!stopped.is_finished(), "its grace and the margin are not over");
    pass(&system, &[Duration::from_secs(1), Duration::from_secs(30)]).await;
    let e = soon("the stop", stopped).await.unwrap().unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout);
    assert!(e.message.contains("its stop took longer"), "{e}");
    watch.event("agent.abandoned", "a").await;
    assert_eq!(system.status("a"), Status::Stopped);
    let reason = agents.state("a").unwrap().reason.unwrap();
    assert!(reason.contains("could not be ended"), "{reason}");

    // One that fails, and then does not end, is no reason for a second life either.
    system.world.clear("a", Fault::HangsInStop);
    agents.start("a").await.unwrap();
    system.world.set("a", Fault::HangsInStop);
    assert_eq!(system.ask("a", json!({"do": "panic"})).await.unwrap_err().kind, ErrorKind::Panic);
    let life = system.incarnation("a");
    pass(&system, &[Duration::from_secs(30)]).await;
    watch.event("agent.abandoned", "a").await;
    assert_eq!((system.status("a"), system.incarnation("a")), (Status::Failed, life));
    assert_eq!(agents.status("a").unwrap()["abandoned"], 2);
    // Nor is who heals it: only who starts it says that nothing of it is left.
    let healing = RestartRequest { if_incarnation: Some(life), kill: true, ..RestartRequest::default() };
    let e = soon("a refusal", agents.restart("a", healing)).await.unwrap_err();
    assert_eq!((e.kind, system.incarnation("a")), (ErrorKind::InvalidState, life), "{e}");
    system.world.clear("a", Fault::HangsInStop);
    agents.start("a").await.unwrap();
    assert_eq!(system.count("a").await, 1);
}

#[tokio::test]
async fn a_stop_that_never_returns_does_not_keep_the_system_from_ending() {
    let system = System::open().await;
    system.worker("db").await;
    system.create(AgentSpec { depends_on: vec!["db".into()], ..worker("web") }).await;
    system.world.set("web", Fault::HangsInStop);
    system.world.take_log();
    let kernel = system.kernel.clone();
    let ended = tokio::spawn(async move { kernel.close(GRACEFUL).await });
    pass(&system, &[Duration::from_secs(35), Duration::from_secs(30)]).await;
    soon("the end", ended).await.unwrap().unwrap();
    assert_eq!(system.world.take_log(), ["stop db"], "the others are ended");
}

#[tokio::test]
async fn a_check_and_a_reset_that_never_return_are_given_up() {
    let system = System::open().await;
    let agents = system.kernel.agents();
    system.worker("a").await;
    system.world.set("a", Fault::HangsInCheck);
    let faster = AgentSpec { config: json!({"speed": 9}), ..worker("a") };
    let updated = background(&system, async |k| k.agents().update("a", faster).await);
    settle().await;
    soon("a creation", system.worker("b")).await;
    pass(&system, &[Duration::from_secs(60)]).await;
    let e = soon("the update", updated).await.unwrap().unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout);
    assert!(e.message.contains("its check"), "{e}");
    assert_eq!((system.status("a"), system.incarnation("a")), (Status::Running, 1), "nothing changed");

    system.world.set("a", Fault::HangsInReset);
    let restarted = background(&system, async |k| {
        let request = RestartRequest { reset: true, ..RestartRequest::default() };
        k.agents().restart("a", request).await.map(|_| Value::Null)
    });
    pass(&system, &[Duration::from_secs(60)]).await;
    let e = soon("the restart", restarted).await.unwrap().unwrap_err();
    assert!(e.message.contains("its reset"), "{e}");
    assert_eq!(system.status("a"), Status::Failed);
    agents.start("a").await.unwrap();
    let destroyed = background(&system, async |k| k.agents().destroy("a").await);
    pass(&system, &[Duration::from_secs(60)]).await;
    soon("the destroy", destroyed).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_holds_up_nobody_else() {
    // On one thread, so that one on it would be the end of everything.
    let system = System::open().await;
    let agents = system.kernel.agents();
    system.world.set("sleeper", Fault::Blocks);
    system.worker("sleeper").await;
    system.worker("other").await;
    let asked = background(&system, async |k| {
        k.agents().ask("sleeper", Message::new("t", json!({"do": "brake"})), PATIENCE).await
    });
    system.world.brake.holds(1).await;
    assert_eq!(system.count("other").await, 1);
    agents.tell("sleeper", Message::new("t", json!({"do": "count"}))).unwrap();
    settle().await;
    assert_eq!(agents.status("sleeper").unwrap()["messages"]["waiting"], 1, "one message at a time");
    system.world.brake.release();
    soon("the answer", asked).await.unwrap().unwrap();
    assert_eq!(system.count("sleeper").await, 2);
    assert_eq!(system.incarnation("sleeper"), 1);
    // Panics and errors are what they are elsewhere.
    assert_eq!(system.ask("sleeper", json!({"do": "fail"})).await, Err(told_to_fail()));
    assert_eq!(system.ask("sleeper", json!({"do": "panic"})).await.unwrap_err().kind, ErrorKind::Panic);
    assert_eq!(system.count("sleeper").await, 1, "in its next life");
}

/// A service that blocks its thread until the brake is released.
struct Slow(Arc<World>);

#[async_trait]
impl Service for Slow {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        match method {
            "brake" => self.0.brake.hold(),
            "panic" => panic!("told to panic"),
            _ => {}
        }
        Ok(args)
    }

    fn blocks(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_service_that_blocks_its_thread_holds_up_nobody_else() {
    let system = System::open().await;
    system.worker("other").await;
    let services = system.kernel.services();
    let spec = ServiceSpec::new("test.slow", "1.0.0", "blocks");
    services.register(Owner::plugin("test"), spec, Arc::new(Slow(system.world.clone()))).unwrap();
    let slow = services.find("test.slow").unwrap();
    let held = tokio::spawn({
        let slow = slow.clone();
        async move { slow.call("brake", json!(1), PATIENCE).await }
    });
    system.world.brake.holds(1).await;
    assert_eq!(system.count("other").await, 1);
    assert_eq!(slow.call("echo", json!(2), PATIENCE).await, Ok(json!(2)), "calls run side by side");
    let e = slow.call("brake", json!(3), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout);
    assert_eq!(slow.call("panic", Value::Null, PATIENCE).await.unwrap_err().kind, ErrorKind::Panic);
    system.world.brake.release();
    assert_eq!(soon("the answer", held).await.unwrap(), Ok(json!(1)));
}

fn told_to_fail() -> Error {
    Error::new(ErrorKind::HandlerFailed, "told to fail")
}

#[tokio::test]
async fn an_agent_of_which_too_many_calls_hang_is_quarantined() {
    let system = System::open().await;
    let watch = system.watch();
    let agents = system.kernel.agents();
    system.world.set("a", Fault::Blocks);
    system.worker("a").await;
    for hung in 1..=3 {
        agents.tell("a", Message::new("t", json!({"do": "brake"}))).unwrap();
        system.world.brake.holds(hung).await;
        system.clock.advance(Duration::from_secs(60));
        if hung < 3 {
            let restarted = watch.event("agent.restarted", "a").await;
            assert!(data(&restarted)["cause"].as_str().unwrap().contains("1m"), "{restarted:?}");
            assert_eq!(agents.status("a").unwrap()["hung_calls"], hung);
        }
    }
    let quarantined = watch.event("agent.quarantined", "a").await;
    let why = data(&quarantined)["reason"].as_str().unwrap().to_owned();
    assert!(why.contains("3 of its calls have not returned"), "{why}");
    assert_eq!((system.status("a"), system.world.lives("a")), (Status::Quarantined, 0));
    let e = soon("a refusal", agents.start("a")).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidState, "{e}");
    assert_eq!(system.status("a"), Status::Quarantined);

    system.world.brake.release();
    system.world.brake.holds(0).await;
    let back = async {
        while agents.start("a").await.is_err() {
            tokio::task::yield_now().await; // the threads end on their own
        }
    };
    soon("the start", back).await;
    assert_eq!(system.count("a").await, 1);
    assert_eq!(agents.status("a").unwrap().get("hung_calls"), None);
}

/// Looks at an agent in the very moment in which an event about it is queued, on the publisher's thread.
struct Look {
    kernel: Kernel,
    seen: Mutex<Vec<(Status, HealthStatus)>>,
}

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        if let Ok(state) = self.kernel.agents().state("a") {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((state.status, state.health.status));
        }
    }
}

#[tokio::test]
async fn status_and_health_change_as_one() {
    let system = System::open().await;
    let look = Arc::new(Look { kernel: system.kernel.clone(), seen: Mutex::default() });
    let waker = Waker::from(look.clone());
    let subscribe = || Subscribe::to(["agent.status.changed"]);
    let subscription = system.kernel.bus().subscribe(subscribe()).unwrap();
    let seen_after = async |act: &str| {
        while subscription.try_next_batch(64).is_some() {}
        // Nobody polls it again: the first event that is queued wakes it, and that alone.
        let mut next = pin!(subscription.next_batch(1));
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        match act {
            "create" => {
                let restart = policy(Restart::Permanent, 0, 100);
                drop(system.create(AgentSpec { restart, ..worker("a") }).await);
            }
            "crash" => assert!(system.world.crash("a")),
            _ => drop(system.kernel.agents().stop("a", GRACEFUL).await.unwrap()),
        }
        settle().await;
        std::mem::take(&mut *look.seen.lock().unwrap_or_else(PoisonError::into_inner))
    };
    assert_eq!(seen_after("create").await, [(Status::Running, HealthStatus::Healthy)]);
    system.world.set("a", Fault::FailsToStart);
    assert_eq!(seen_after("crash").await, [(Status::Restarting, HealthStatus::Critical)]);
    assert_eq!(seen_after("stop").await, [(Status::Stopped, HealthStatus::Unknown)]);
}
