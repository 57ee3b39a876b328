//! Groups in trouble: several members that fail at once, failures far apart, and parents that change while a
//! child of theirs has failed.

mod common;

use std::time::Duration;

use common::{System, Watch, data, policy, settle, worker};
use hms_core::{
    agent::{AgentSpec, Status, Stop},
    supervision::{Intensity, Restart, Strategy},
};

fn child(name: &str, parent: &str) -> AgentSpec {
    AgentSpec { parent: Some(parent.into()), ..worker(name) }
}

fn at_most(max: u32, mut spec: AgentSpec) -> AgentSpec {
    spec.restart.intensity = Intensity { max, window: Duration::from_secs(60) };
    spec
}

/// Waits until nothing happens any more. Members that live are stopped with a snapshot, each of which is a write
/// on the store's thread.
async fn quiet(system: &System) {
    for _ in 0..6 {
        settle().await;
        system.kernel.store().write(|_| Ok(())).await.expect("the store writes");
    }
    settle().await;
}

fn group_restarts(watch: &Watch) -> usize {
    watch.seen().iter().filter(|e| e.starts_with("agent.group.restarted")).count()
}

#[tokio::test]
async fn children_that_are_killed_together_restart_their_group_once() {
    for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
        let system = System::open().await;
        system.create(AgentSpec { strategy, ..worker("top") }).await;
        for name in ["a", "b", "c"] {
            system.create(child(name, "top")).await;
        }
        system.world.take_log();
        let watch = system.watch();
        for name in ["a", "b", "c"] {
            assert!(system.world.crash(name));
        }
        quiet(&system).await;
        assert_eq!(system.world.take_log(), ["start a", "start b", "start c"], "{strategy:?}");
        assert_eq!(group_restarts(&watch), 1, "{strategy:?}");
        for name in ["a", "b", "c"] {
            assert_eq!((system.status(name), system.incarnation(name)), (Status::Running, 2), "{name}");
        }
        // Those that fail after it are restarted again.
        system.world.crash("b");
        quiet(&system).await;
        assert_eq!(group_restarts(&watch), 1, "{strategy:?}");
        assert_eq!(system.incarnation("b"), 3);
    }
}

/// `a` fails once more than it may: its parent's group is restarted, or will be.
async fn escalate(system: &System, watch: &Watch) {
    for _ in 0..2 {
        assert!(system.world.crash("a"));
        quiet(system).await;
    }
    watch.event("agent.escalated", "a").await;
    quiet(system).await;
}

/// `top`, which backs off for 100 ms, over `a`, which may fail once.
async fn backing_off() -> (System, Watch) {
    let system = System::open().await;
    let watch = system.watch();
    let top = AgentSpec { restart: policy(Restart::Permanent, 0, 100), ..worker("top") };
    system.create(top).await;
    system.create(at_most(1, child("a", "top"))).await;
    system.create(child("b", "top")).await;
    (system, watch)
}

#[tokio::test]
async fn sustained_health_of_a_group_starts_its_backoff_over() {
    let (system, watch) = backing_off().await;
    escalate(&system, &watch).await;
    assert_eq!(system.status("a"), Status::Running, "the first is immediate");
    for _ in 0..3 {
        system.clock.advance(Duration::from_secs(10));
        escalate(&system, &watch).await;
        assert_eq!(system.status("a"), Status::Running, "the group was well for long enough");
    }
    system.clock.advance(Duration::from_secs(9));
    escalate(&system, &watch).await;
    assert_eq!(system.status("a"), Status::Restarting);
    system.clock.advance(Duration::from_millis(100));
    quiet(&system).await;
    assert_eq!(system.status("a"), Status::Running);
    // A sibling that is ill meanwhile: the group is not well.
    system.clock.advance(Duration::from_secs(5));
    system.world.crash("b");
    quiet(&system).await;
    system.clock.advance(Duration::from_secs(5));
    escalate(&system, &watch).await;
    assert_eq!(system.status("a"), Status::Restarting);
}

#[tokio::test]
async fn a_failed_child_whose_parent_is_taken_away_is_quarantined() {
    let (system, watch) = backing_off().await;
    escalate(&system, &watch).await;
    escalate(&system, &watch).await;
    assert_eq!(system.status("a"), Status::Restarting, "its group backs off");
    let agents = system.kernel.agents();
    agents.update("a", at_most(1, worker("a"))).await.unwrap();
    agents.destroy("b").await.unwrap();
    agents.destroy("top").await.unwrap();
    system.clock.advance(Duration::from_millis(100));
    let quarantined = watch.event("agent.quarantined", "a").await;
    assert!(data(&quarantined)["reason"].as_str().unwrap().contains("1 restarts within"), "{quarantined:?}");
    quiet(&system).await;
    assert_eq!((system.status("a"), system.world.lives("a")), (Status::Quarantined, 0));
    agents.start("a").await.unwrap();
    assert_eq!(system.status("a"), Status::Running);
}

#[tokio::test]
async fn a_failed_child_with_another_parent_is_restarted_by_that_one() {
    let (system, watch) = backing_off().await;
    system.worker("other").await;
    system.create(child("c", "other")).await;
    escalate(&system, &watch).await;
    escalate(&system, &watch).await;
    let b = system.incarnation("b");
    system.kernel.agents().update("a", at_most(1, child("a", "other"))).await.unwrap();
    system.clock.advance(Duration::from_millis(100));
    watch.event("agent.group.restarted", "other").await;
    quiet(&system).await;
    assert_eq!(system.status("a"), Status::Running);
    assert_eq!(system.incarnation("c"), 2, "its new siblings share its fate");
    assert_eq!(system.incarnation("b"), b, "its former ones do not any more");
}

#[tokio::test]
async fn a_failed_child_that_is_stopped_while_its_group_backs_off_stays_stopped() {
    let (system, watch) = backing_off().await;
    escalate(&system, &watch).await;
    escalate(&system, &watch).await;
    system.kernel.agents().stop("a", Stop::Graceful(Duration::from_secs(5))).await.unwrap();
    let b = system.incarnation("b");
    system.clock.advance(Duration::from_secs(1));
    quiet(&system).await;
    assert_eq!((system.status("a"), system.world.lives("a")), (Status::Stopped, 0));
    assert_eq!(system.incarnation("b"), b, "nobody is due for a restart");
}
