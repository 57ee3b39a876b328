//! Supervision on a moved clock: what follows an exit, when, with whom, and where it ends.

mod common;

use std::time::Duration;

use common::{Fault, System, Watch, data, policy, settle, worker};
use hms_core::{
    agent::{AgentSpec, Desired, HealthStatus, RestartRequest, Status, Stop},
    supervision::{Intensity, Restart, Strategy},
};
use proptest::{prelude::*, strategy::Strategy as Generator};

const GRACEFUL: Stop = Stop::Graceful(Duration::from_secs(5));

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn child(name: &str, parent: &str) -> AgentSpec {
    AgentSpec { parent: Some(parent.into()), ..worker(name) }
}

/// Crashes `agent`, and asserts that it is back after exactly `delay`.
async fn crash_and_wait(system: &System, agent: &str, delay: u64) {
    let life = system.incarnation(agent);
    assert!(system.world.crash(agent), "`{agent}` lives");
    settle().await;
    if delay > 0 {
        assert_eq!(system.status(agent), Status::Restarting);
        assert_eq!(system.kernel.agents().state(agent).unwrap().health.status, HealthStatus::Critical);
        system.clock.advance(ms(delay) - Duration::from_micros(1));
        settle().await;
        assert_eq!(system.incarnation(agent), life, "`{agent}` is back before {delay} ms");
        system.clock.advance(Duration::from_micros(1));
        settle().await;
    }
    assert_eq!(system.incarnation(agent), life + 1, "`{agent}` is not back after {delay} ms");
    assert_eq!(system.status(agent), Status::Running);
}

#[tokio::test]
async fn the_first_restart_is_immediate_and_the_next_ones_back_off() {
    let system = System::open().await;
    let watch = system.watch();
    system.create(AgentSpec { restart: policy(Restart::Permanent, 0, 100), ..worker("a") }).await;
    for delay in [0, 100, 200, 400, 800, 800, 800] {
        crash_and_wait(&system, "a", delay).await;
        let exited = watch.event("agent.exited", "a").await;
        assert_eq!(data(&exited)["next"], "restart");
        assert_eq!(data(&exited)["exit"]["reason"], "crashed");
        let restarted = watch.event("agent.restarted", "a").await;
        assert_eq!(data(&restarted)["by"], "supervision");
        assert_eq!(data(&restarted)["cause"], "crashed");
    }
    let state = system.kernel.agents().state("a").unwrap();
    assert_eq!((state.restarts, state.incarnation), (7, 8));
    assert_eq!(state.last_exit.unwrap().reason, "crashed");
    assert_eq!(system.world.doubled(), None);
}

#[tokio::test]
async fn backoff_starts_over_after_sustained_health() {
    let system = System::open().await;
    system.create(AgentSpec { restart: policy(Restart::Permanent, 0, 100), ..worker("a") }).await;
    for _ in 0..3 {
        crash_and_wait(&system, "a", 0).await;
        // After an immediate restart as after a delayed one, health must last before it counts.
        system.clock.advance(ms(9_999));
        crash_and_wait(&system, "a", 100).await;
        system.clock.advance(ms(10_000));
        crash_and_wait(&system, "a", 0).await;
        system.clock.advance(ms(10_000));
    }
    // Illness meanwhile is no sustained health.
    crash_and_wait(&system, "a", 0).await;
    system.clock.advance(ms(6_000));
    system.world.set("a", Fault::PanicsInHealth);
    system.kernel.agents().check("a").await.unwrap();
    system.world.clear("a", Fault::PanicsInHealth);
    system.kernel.agents().check("a").await.unwrap();
    settle().await;
    assert_eq!(system.status("a"), Status::Running);
    system.clock.advance(ms(6_000));
    crash_and_wait(&system, "a", 100).await;
}

#[tokio::test]
async fn a_start_that_fails_counts_as_an_exit() {
    let system = System::open().await;
    system.create(AgentSpec { restart: policy(Restart::Permanent, 4, 100), ..worker("a") }).await;
    system.world.set("a", Fault::FailsToStart);
    system.world.crash("a");
    settle().await;
    assert_eq!(system.status("a"), Status::Restarting);
    system.clock.advance(ms(100));
    settle().await;
    system.world.clear("a", Fault::FailsToStart);
    system.clock.advance(ms(200));
    settle().await;
    assert_eq!(system.status("a"), Status::Running);
    assert_eq!(system.incarnation("a"), 4, "two of them never began");
    system.world.set("a", Fault::FailsToStart);
    system.world.crash("a");
    settle().await;
    system.clock.advance(ms(400));
    settle().await;
    assert_eq!(system.status("a"), Status::Quarantined);
    assert_eq!(system.world.lives("a"), 0);
}

#[tokio::test]
async fn too_many_restarts_end_in_quarantine_which_is_kept_until_somebody_starts_it() {
    let mut system = System::open().await;
    let watch = system.watch();
    let mut spec = worker("a");
    spec.restart.intensity = Intensity { max: 3, window: Duration::from_secs(60) };
    system.create(spec).await;
    // Those outside the window do not count.
    crash_and_wait(&system, "a", 0).await;
    system.clock.advance(Duration::from_secs(60));
    for _ in 0..3 {
        crash_and_wait(&system, "a", 0).await;
    }
    system.world.crash("a");
    let escalated = watch.event("agent.escalated", "a").await;
    assert!(data(&escalated)["reason"].as_str().unwrap().contains("3 restarts within 1m"), "{escalated:?}");
    let quarantined = watch.event("agent.quarantined", "a").await;
    assert!(data(&quarantined)["reason"].as_str().unwrap().contains("crashed"));
    assert_eq!(system.status("a"), Status::Quarantined);
    assert_eq!(system.kernel.agents().state("a").unwrap().health.status, HealthStatus::Critical);
    system.clock.advance(Duration::from_secs(3_600));
    settle().await;
    assert_eq!(system.world.lives("a"), 0, "nothing but a person starts it");

    system = system.reopen().await;
    settle().await;
    let state = system.kernel.agents().state("a").unwrap();
    assert_eq!(state.status, Status::Quarantined);
    assert!(state.reason.unwrap().contains("crashed"));
    assert_eq!(state.restarts, 4);
    system.kernel.agents().start("a").await.unwrap();
    assert_eq!(system.status("a"), Status::Running);
    for _ in 0..3 {
        crash_and_wait(&system, "a", 0).await;
    }
    let system = system.reopen().await;
    settle().await;
    assert_eq!(system.status("a"), Status::Running, "the start cleared the quarantine for good");
}

#[tokio::test]
async fn a_job_that_is_done_stays_done() {
    let system = System::open().await;
    let watch = system.watch();
    system.create(AgentSpec { restart: policy(Restart::Transient, 0, 0), ..worker("job") }).await;
    system.create(AgentSpec { restart: policy(Restart::Temporary, 0, 0), ..worker("once") }).await;
    system.create(AgentSpec { restart: policy(Restart::Temporary, 0, 0), ..worker("shot") }).await;
    crash_and_wait(&system, "job", 0).await;
    watch.event("agent.restarted", "job").await;
    system.world.finish("job");
    system.world.finish("once");
    system.world.crash("shot");
    for name in ["job", "once", "shot"] {
        let exited = watch.event("agent.exited", name).await;
        assert_eq!(data(&exited)["next"], "none");
    }
    settle().await;
    let expect = [("job", Status::Stopped), ("once", Status::Stopped), ("shot", Status::Failed)];
    for (name, status) in expect {
        assert_eq!(system.status(name), status, "{name}");
    }
    // A job that is done is not done again because the host is another one.
    let system = system.reopen().await;
    settle().await;
    for (name, _) in expect {
        assert_eq!(system.world.lives(name), 0, "{name}");
        system.kernel.agents().start(name).await.unwrap();
        assert_eq!(system.status(name), Status::Running, "{name}");
    }
}

#[tokio::test]
async fn a_clean_end_of_a_permanent_agent_is_followed_by_a_restart() {
    let system = System::open().await;
    system.worker("a").await;
    system.world.finish("a");
    settle().await;
    assert_eq!((system.status("a"), system.incarnation("a")), (Status::Running, 2));
}

#[tokio::test]
async fn a_stop_during_backoff_is_a_stop() {
    let system = System::open().await;
    system.create(AgentSpec { restart: policy(Restart::Permanent, 0, 100), ..worker("a") }).await;
    crash_and_wait(&system, "a", 0).await;
    system.world.crash("a");
    settle().await;
    assert_eq!(system.status("a"), Status::Restarting);
    system.kernel.agents().stop("a", GRACEFUL).await.unwrap();
    system.clock.advance(Duration::from_secs(60));
    settle().await;
    assert_eq!((system.status("a"), system.world.lives("a")), (Status::Stopped, 0));
    // And a start is not held up by what was.
    system.kernel.agents().start("a").await.unwrap();
    crash_and_wait(&system, "a", 0).await;
}

// ---- groups ---------------------------------------------------------------------------------------

/// `top` with the strategy over `a`, `b`, `c`.
async fn group(strategy: Strategy) -> (System, Watch) {
    let system = System::open().await;
    system.create(AgentSpec { strategy, ..worker("top") }).await;
    for name in ["a", "b", "c"] {
        system.create(child(name, "top")).await;
    }
    system.world.take_log();
    let watch = system.watch();
    (system, watch)
}

async fn group_restarted(watch: &Watch, parent: &str) -> serde_json::Value {
    let event = watch.event("agent.group.restarted", parent).await;
    settle().await;
    data(&event)["members"].clone()
}

#[tokio::test]
async fn one_for_one_leaves_the_others_alone() {
    let (system, watch) = group(Strategy::OneForOne).await;
    system.world.crash("b");
    watch.event("agent.restarted", "b").await;
    assert_eq!(system.world.take_log(), ["start b"]);
}

#[tokio::test]
async fn one_for_all_stops_backwards_and_starts_forwards() {
    let (system, watch) = group(Strategy::OneForAll).await;
    system.world.crash("b");
    assert_eq!(group_restarted(&watch, "top").await, serde_json::json!(["a", "b", "c"]));
    assert_eq!(system.world.take_log(), ["stop c", "stop a", "start a", "start b", "start c"]);
    for name in ["a", "b", "c"] {
        let state = system.kernel.agents().state(name).unwrap();
        assert_eq!((state.status, state.incarnation), (Status::Running, 2), "{name}");
    }
    assert_eq!(system.incarnation("top"), 1);
}

#[tokio::test]
async fn rest_for_one_takes_those_after_it() {
    let (system, watch) = group(Strategy::RestForOne).await;
    system.world.crash("b");
    assert_eq!(group_restarted(&watch, "top").await, serde_json::json!(["b", "c"]));
    assert_eq!(system.world.take_log(), ["stop c", "start b", "start c"]);
    assert_eq!(system.incarnation("a"), 1);
}

#[tokio::test]
async fn a_group_restart_includes_what_is_below_its_members() {
    let (system, watch) = group(Strategy::OneForAll).await;
    system.create(child("under-c", "c")).await;
    system.world.take_log();
    system.world.crash("a");
    group_restarted(&watch, "top").await;
    assert_eq!(
        system.world.take_log(),
        ["stop under-c", "stop c", "stop b", "start a", "start b", "start c", "start under-c"]
    );
}

#[tokio::test]
async fn a_group_restart_revives_nobody_who_is_meant_not_to_run() {
    let (system, watch) = group(Strategy::OneForAll).await;
    let agents = system.kernel.agents();
    let once = AgentSpec { restart: policy(Restart::Transient, 0, 0), ..child("once", "top") };
    system.create(once).await;
    system.world.set("gate", Fault::StartsPending);
    system.worker("gate").await;
    system.create(AgentSpec { depends_on: vec!["gate".into()], ..child("late", "top") }).await;
    agents.stop("a", GRACEFUL).await.unwrap();
    agents.quarantine("b", "enough").await.unwrap();
    system.world.finish("once");
    settle().await;
    system.world.take_log();
    system.world.crash("c");
    group_restarted(&watch, "top").await;
    assert_eq!(system.world.take_log(), ["start c"]);
    let status = |name| system.status(name);
    assert_eq!(status("a"), Status::Stopped);
    assert_eq!(status("b"), Status::Quarantined);
    assert_eq!(status("once"), Status::Stopped);
    assert_eq!(status("late"), Status::Waiting);
    system.world.cx("gate").ready();
    settle().await;
    assert_eq!(status("late"), Status::Running, "what waited still goes on by itself");
}

#[tokio::test]
async fn a_group_backs_off_like_its_failing_member() {
    let system = System::open().await;
    let watch = system.watch();
    let restart = policy(Restart::Permanent, 0, 100);
    system.create(AgentSpec { strategy: Strategy::OneForAll, ..worker("top") }).await;
    for name in ["a", "b"] {
        system.create(AgentSpec { restart, ..child(name, "top") }).await;
    }
    system.world.crash("a");
    group_restarted(&watch, "top").await;
    system.world.take_log();
    system.world.crash("a");
    settle().await;
    assert_eq!(system.status("a"), Status::Restarting);
    assert_eq!(system.status("b"), Status::Running, "the others work on until it is time");
    system.clock.advance(ms(99));
    settle().await;
    assert!(system.world.take_log().is_empty());
    system.clock.advance(ms(1));
    group_restarted(&watch, "top").await;
    assert_eq!(system.world.take_log(), ["stop b", "start a", "start b"]);
}

fn at_most(max: u32, spec: AgentSpec) -> AgentSpec {
    let mut spec = spec;
    spec.restart.intensity = Intensity { max, window: Duration::from_secs(60) };
    spec
}

#[tokio::test]
async fn a_child_that_fails_too_often_has_its_whole_group_restarted_and_counts_anew() {
    let system = System::open().await;
    let watch = system.watch();
    system.create(at_most(2, worker("top"))).await;
    system.create(at_most(1, child("a", "top"))).await;
    system.create(at_most(1, child("b", "top"))).await;
    for _ in 0..2 {
        crash_and_wait(&system, "a", 0).await;
        system.world.take_log();
        system.world.crash("a");
        let escalated = watch.event("agent.escalated", "a").await;
        assert_eq!(data(&escalated)["to"], "top");
        group_restarted(&watch, "top").await;
        assert_eq!(system.world.take_log(), ["stop b", "start a", "start b"]);
        assert_eq!((system.status("a"), system.status("b")), (Status::Running, Status::Running));
    }
    // The parent's own limit is reached, and it has no parent: the tree is ill.
    crash_and_wait(&system, "a", 0).await;
    system.world.crash("a");
    watch.event("agent.escalated", "top").await;
    watch.event("agent.quarantined", "top").await;
    for name in ["a", "b", "top"] {
        assert_eq!(system.status(name), Status::Quarantined, "{name}");
        assert_eq!(system.world.lives(name), 0, "{name}");
    }
    assert_eq!(
        system.world.take_log(),
        ["start a", "stop b", "stop top"],
        "children end before their parent"
    );

    // A person starts them again, and all counts begin anew.
    for name in ["top", "a", "b"] {
        system.kernel.agents().start(name).await.unwrap();
    }
    crash_and_wait(&system, "a", 0).await;
    system.world.crash("a");
    group_restarted(&watch, "top").await;
    assert_eq!(system.status("a"), Status::Running);
}

#[tokio::test]
async fn an_escalation_that_reaches_the_grandparent_restarts_its_whole_tree() {
    let system = System::open().await;
    let watch = system.watch();
    system.create(at_most(1, worker("root"))).await;
    system.create(at_most(1, child("mid", "root"))).await;
    system.create(child("other", "root")).await;
    system.create(at_most(1, child("leaf", "mid"))).await;
    let escalate_once = async || {
        crash_and_wait(&system, "leaf", 0).await;
        system.world.take_log();
        system.world.crash("leaf");
        watch.event("agent.escalated", "leaf").await;
    };
    escalate_once().await;
    group_restarted(&watch, "mid").await;
    assert_eq!(system.world.take_log(), ["start leaf"]);

    escalate_once().await;
    let escalated = watch.event("agent.escalated", "mid").await;
    assert_eq!(data(&escalated)["to"], "root");
    group_restarted(&watch, "root").await;
    assert_eq!(system.world.take_log(), ["stop other", "stop mid", "start mid", "start leaf", "start other"]);
    for name in ["root", "mid", "leaf", "other"] {
        assert_eq!(system.status(name), Status::Running, "{name}");
    }

    // `mid` counts anew, `root` does not.
    escalate_once().await;
    group_restarted(&watch, "mid").await;
    escalate_once().await;
    watch.event("agent.quarantined", "root").await;
    for name in ["root", "mid", "leaf", "other"] {
        assert_eq!((system.status(name), system.world.lives(name)), (Status::Quarantined, 0), "{name}");
    }
    let system = system.reopen().await;
    settle().await;
    assert_eq!(system.status("leaf"), Status::Quarantined);
    assert_eq!(system.world.lives("root"), 0);
}

#[tokio::test]
async fn stopping_a_parent_stops_its_children_first() {
    let (system, _) = group(Strategy::OneForOne).await;
    system.kernel.agents().stop("top", GRACEFUL).await.unwrap();
    assert_eq!(system.world.take_log(), ["stop c", "stop b", "stop a", "stop top"]);
    assert_eq!(system.status("b"), Status::Stopped);
}

// ---- any sequence ---------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Destroy(usize),
    Start(usize),
    Stop(usize),
    Crash(usize),
    Finish(usize),
    Restart(usize),
    Heal(usize),
    Quarantine(usize),
    Break(usize, Fault),
    Mend(usize, Fault),
    Advance(u64),
    /// Lets what was begun go on, or not: the next step then meets it half done.
    Settle,
}

/// `root` over `a` (one-for-all) and `b`; `c` and `d` below `a`; `e` needs `b`.
const NAMES: [&str; 6] = ["root", "a", "b", "c", "d", "e"];

fn spec(which: usize) -> AgentSpec {
    let mut spec = worker(NAMES[which]);
    spec.restart = policy(Restart::Permanent, 3, 100);
    match NAMES[which] {
        "a" => (spec.parent, spec.strategy) = (Some("root".into()), Strategy::OneForAll),
        "b" => (spec.parent, spec.restart.policy) = (Some("root".into()), Restart::Transient),
        "c" | "d" => spec.parent = Some("a".into()),
        "e" => spec.depends_on = vec!["b".into()],
        _ => spec.strategy = Strategy::RestForOne,
    }
    spec
}

fn step() -> impl Generator<Value = Step> {
    let who = || 0..NAMES.len();
    let fault =
        || prop_oneof![Just(Fault::FailsToStart), Just(Fault::PanicsInStart), Just(Fault::StartsPending)];
    prop_oneof![
        3 => who().prop_map(Step::Create),
        1 => who().prop_map(Step::Destroy),
        2 => who().prop_map(Step::Start),
        2 => who().prop_map(Step::Stop),
        8 => who().prop_map(Step::Crash),
        1 => who().prop_map(Step::Finish),
        2 => who().prop_map(Step::Restart),
        2 => who().prop_map(Step::Heal),
        1 => who().prop_map(Step::Quarantine),
        1 => (who(), fault()).prop_map(|(w, f)| Step::Break(w, f)),
        2 => (who(), fault()).prop_map(|(w, f)| Step::Mend(w, f)),
        4 => (1u64..1_500).prop_map(Step::Advance),
        6 => Just(Step::Settle),
    ]
}

/// Takes a step without waiting for what it leads to.
fn take(system: &System, step: Step) {
    let agents = system.kernel.agents().clone();
    let world = system.world.clone();
    let background = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| drop(tokio::spawn(work));
    match step {
        Step::Create(w) => background(Box::pin(async move {
            let _ = agents.create(spec(w), Default::default()).await;
        })),
        Step::Destroy(w) => background(Box::pin(async move {
            let _ = agents.destroy(NAMES[w]).await;
        })),
        Step::Start(w) => background(Box::pin(async move {
            let _ = agents.start(NAMES[w]).await;
        })),
        Step::Stop(w) => background(Box::pin(async move {
            let _ = agents.stop(NAMES[w], GRACEFUL).await;
        })),
        Step::Crash(w) => drop(world.crash(NAMES[w])),
        Step::Finish(w) => drop(world.finish(NAMES[w])),
        Step::Restart(w) => background(Box::pin(async move {
            let _ = agents.restart(NAMES[w], RestartRequest::default()).await;
        })),
        Step::Heal(w) => background(Box::pin(async move {
            let Ok(state) = agents.state(NAMES[w]) else { return };
            let if_incarnation = Some(state.incarnation);
            let _ = agents.restart(NAMES[w], RestartRequest { if_incarnation, ..Default::default() }).await;
        })),
        Step::Quarantine(w) => background(Box::pin(async move {
            let _ = agents.quarantine(NAMES[w], "a test").await;
        })),
        Step::Break(w, fault) => world.set(NAMES[w], fault),
        Step::Mend(w, fault) => world.clear(NAMES[w], fault),
        Step::Advance(by) => system.clock.advance(ms(by)),
        Step::Settle => {}
    }
}

/// Waits until nothing happens any more, whatever the store's thread still has to do.
async fn quiet(system: &System) {
    for _ in 0..3 {
        settle().await;
        // A write behind all that is queued: whoever waits for the store goes on after it.
        system.kernel.store().write(|_| Ok(())).await.expect("the store writes");
        settle().await;
    }
}

/// What is known of each agent fits together, and fits what it is meant to be.
fn check_end(system: &System) -> Result<(), TestCaseError> {
    for (id, spec) in system.kernel.agents().specs() {
        let (name, state) = (&spec.name, system.kernel.agents().state(&id).expect("it is listed"));
        let lives = system.world.lives(name);
        prop_assert_eq!(lives, usize::from(state.status.is_live()), "{} is {:?}", name, state);
        if spec.desired == Desired::Stopped {
            prop_assert!(
                !state.status.is_live() && state.status != Status::Restarting,
                "{}: {:?}",
                name,
                state
            );
        } else {
            // It runs, or there is a reason: it waits for another, failed too often, or its job is done.
            prop_assert!(state.status.is_live() || state.reason.is_some(), "{}: {:?}", name, state);
            prop_assert!(state.status != Status::Restarting, "{} is stuck: {:?}", name, state);
            if state.status == Status::Waiting {
                let needed = &spec.depends_on[0];
                let ready = matches!(system.status(needed), Status::Running | Status::Degraded);
                prop_assert!(!ready, "{} waits for {}, which is ready", name, needed);
            }
            if state.status == Status::Stopped {
                prop_assert!(state.reason.as_deref().is_some_and(|r| r.starts_with("ended")), "{:?}", state);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever people, healing and crashes do at the same time: no agent ever has two lives at once, none is
    /// left between two lives, and in the end each is what it is meant to be.
    #[test]
    fn no_sequence_makes_two_lives_of_one_or_leaves_one_undecided(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let system = System::open().await;
            for which in 0..NAMES.len() {
                system.create(spec(which)).await;
            }
            for step in steps {
                let settles = matches!(step, Step::Settle);
                take(&system, step);
                if settles {
                    settle().await;
                }
                prop_assert_eq!(system.world.doubled(), None);
            }
            quiet(&system).await;
            // From here on everything can start. Long enough for every back-off, the parents' included.
            for name in NAMES {
                system.world.clear(name, Fault::FailsToStart);
                system.world.clear(name, Fault::PanicsInStart);
            }
            for _ in 0..40 {
                system.clock.advance(Duration::from_secs(1));
                settle().await;
            }
            quiet(&system).await;
            prop_assert_eq!(system.world.doubled(), None);
            check_end(&system)?;

            // And all of them can be made to run.
            for name in NAMES {
                system.world.clear(name, Fault::StartsPending);
            }
            let agents = system.kernel.agents();
            for (id, _) in agents.specs() {
                agents.restart(&id, RestartRequest::default()).await.expect("it starts");
            }
            quiet(&system).await;
            prop_assert_eq!(system.world.doubled(), None);
            for (id, spec) in agents.specs() {
                let needs_nobody_absent = spec.depends_on.iter().all(|d| agents.state(d).is_ok());
                prop_assert!(needs_nobody_absent);
                prop_assert_eq!(agents.state(&id).unwrap().status, Status::Running, "{}", spec.name);
            }
            soon_closed(system).await;
            Ok(())
        })?;
    }
}

async fn soon_closed(system: System) {
    common::soon("the end", system.kernel.close(GRACEFUL)).await.expect("the system closes");
    for name in NAMES {
        assert_eq!(system.world.lives(name), 0, "`{name}` outlives the system");
    }
}
