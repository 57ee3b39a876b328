//! Incidents on a real kernel: what opens one, what joins it, how it ends.

mod common;

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use common::{Lab, Ward, actions, assert_verified, ill};
use hms_core::{
    agent::{Health, Issue, Status, Stop},
    clock::Clock,
    event::EventDraft,
};
use hms_healing::{Outcome, StepResult};
use serde_json::json;

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is a temporary folder")
}

#[tokio::test]
async fn a_crash_is_restarted_by_supervision_and_verified() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({})).await;
    let before = lab.clock.now();
    web.crash("killed by SIGKILL");
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!(actions(&incident), ["0 supervision"]);
    assert_eq!((incident.cause.as_str(), incident.cause_code.as_str()), ("killed by SIGKILL", "exited"));
    assert_eq!(
        (incident.agent.as_str(), incident.kind.as_str(), incident.occurrences),
        ("web", "patient", 1)
    );
    assert!(lab.clock.now() - before >= Duration::from_secs(2), "it was watched over the whole window");
    assert_eq!(lab.state("web").restarts, 1);
    assert_eq!(lab.history().await, [incident]);
    assert!(lab.active().await.is_empty());
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn what_hangs_is_killed_restarted_and_checked_to_the_end() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({"health": {"interval": "200ms"}})).await;
    web.checkable.store(true, SeqCst);
    web.feels(ill("liveness"));
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!(actions(&incident), ["1 restart"]);
    assert_eq!((incident.cause_code.as_str(), incident.cause.as_str()), ("liveness", "liveness is wrong"));
    assert_eq!((web.kills.load(SeqCst), web.lives.load(SeqCst)), (1, 2));
    assert!(web.checks.load(SeqCst) >= 5, "it was checked during the window: {}", web.checks.load(SeqCst));
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn what_listens_is_asked_to_end() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({})).await;
    web.feels(ill("memory-limit"));
    assert_verified(&lab.closed().await);
    assert_eq!((web.kills.load(SeqCst), web.lives.load(SeqCst)), (0, 2));
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn what_never_gets_well_climbs_the_ladder_and_is_escalated_once() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({})).await;
    web.ill_until.store(u64::MAX, SeqCst);
    web.feels(ill("broken"));
    let incident = lab.closed().await;
    assert_eq!(actions(&incident), ["1 restart", "2 restart", "3 reset", "4 quarantine"]);
    assert_eq!(incident.outcome, Some(Outcome::Escalated));
    assert_eq!(incident.steps[3].result, Some(StepResult::Contained));
    assert!(incident.reason.as_deref().is_some_and(|r| r.contains("broken is wrong")), "{incident:#?}");
    assert_eq!((web.resets.load(SeqCst), web.lives.load(SeqCst)), (1, 4));
    lab.until("it is in quarantine", || lab.state("web").status == Status::Quarantined).await;
    lab.pass_time(Duration::from_secs(5)).await;
    assert_eq!(lab.history().await.len(), 1, "its illness is known");
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn the_events_tell_the_story() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "[healing]\nladder = [\"restart\"]\n").await;
    let web = lab.admit("web", json!({})).await;
    web.ill_until.store(u64::MAX, SeqCst);
    web.feels(ill("broken"));
    let mut told = Vec::new();
    lab.until("the incident is closed", || {
        told.extend(lab.told().into_iter().filter(|kind| kind != "heal.progress"));
        told.iter().any(|kind| kind == "heal.incident.closed")
    })
    .await;
    let expected = [
        "heal.incident.opened",
        "heal.step.started",
        "heal.step.finished",
        "heal.step.started",
        "heal.step.finished",
        "heal.escalated",
        "heal.incident.closed",
    ];
    assert_eq!(told, expected);
    let incident = &lab.history().await[0];
    assert_eq!(actions(incident), ["1 restart", "2 escalate"]);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn what_never_becomes_ready_is_healed_by_the_next_rung() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({"healing": {"ready_timeout": "3s"}})).await;
    web.stuck_until.store(2, SeqCst);
    web.feels(ill("broken"));
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!(actions(&incident), ["1 restart", "2 restart"]);
    let why = incident.steps[0].detail.as_deref();
    assert_eq!(why, Some("it did not become ready and well within 3s"));
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn a_storm_is_one_incident_that_is_verified_when_it_is_over() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let restart = json!({"intensity": {"max": 0}, "backoff": {"initial": "0s"}});
    let web = lab.admit("web", json!({"restart": restart})).await;
    for round in 1..=200u64 {
        web.crash("exit code 3");
        lab.until("it is started again", || web.lives.load(SeqCst) > round).await;
    }
    let stormy = lab.active().await;
    assert_eq!(stormy.len(), 1);
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!((incident.occurrences, incident.steps.len()), (200, 1));
    assert_eq!(incident.id, stormy[0].id);
    assert_eq!(lab.history().await, [incident]);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn exits_climb_where_a_limit_is_set() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let restart = json!({"intensity": {"max": 0}, "backoff": {"initial": "0s"}});
    let healing = json!({"max_exits": 2, "ladder": ["reset"]});
    let web = lab.admit("web", json!({"restart": restart, "healing": healing})).await;
    for round in 1..=3u64 {
        web.crash("exit code 3");
        lab.until("it is started again", || web.lives.load(SeqCst) > round).await;
    }
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!(actions(&incident), ["0 supervision", "1 reset"]);
    assert_eq!(web.resets.load(SeqCst), 1);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn what_supervision_gives_up_is_escalated_at_once() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let restart = json!({"intensity": {"max": 1}, "backoff": {"initial": "0s"}});
    let web = lab.admit("web", json!({"restart": restart})).await;
    web.crash("exit code 3");
    lab.until("it is started again", || web.lives.load(SeqCst) == 2).await;
    web.crash("exit code 3");
    let incident = lab.closed().await;
    assert_eq!(actions(&incident), ["0 supervision", "0 quarantine"]);
    assert_eq!((incident.outcome, incident.occurrences), (Some(Outcome::Escalated), 2));
    assert_eq!(incident.steps[1].result, Some(StepResult::Contained));
    lab.pass_time(Duration::from_secs(5)).await;
    assert_eq!(lab.history().await.len(), 1);

    // Asked for, it is taken out of quarantine.
    let healed =
        lab.drive(lab.command("heal trigger", json!({"agent": "web"}))).await.expect("it is verified");
    assert_eq!(healed["steps"][0]["action"], "restart");
    assert_eq!(lab.state("web").status, Status::Running);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn a_decision_of_the_user_cancels() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    for (name, end) in [
        ("stopped", "the agent was stopped"),
        ("destroyed", "the agent was destroyed"),
        ("done", "its work is done: exit code 0"),
    ] {
        let patient = lab.admit(name, json!({"restart": {"policy": "transient"}})).await;
        patient.crash("exit code 3");
        lab.until("it is started again", || patient.lives.load(SeqCst) == 2).await;
        match name {
            "stopped" => drop(lab.kernel.agents().stop(name, Stop::Kill).await.expect("it stops")),
            "destroyed" => drop(lab.kernel.agents().destroy(name).await.expect("it goes")),
            _ => patient.finish(),
        }
        let incident = lab.closed().await;
        assert_eq!((incident.agent.as_str(), incident.outcome), (name, Some(Outcome::Cancelled)));
        assert_eq!(incident.reason.as_deref(), Some(end));
    }
    assert_eq!(lab.patient("stopped").lives.load(SeqCst), 2, "nothing started it again");
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn an_alert_has_to_be_resolved() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    lab.admit("web", json!({"healing": {"ready_timeout": "4s"}})).await;
    let id = lab.kernel.agents().id("web").expect("it exists");
    let alert = |kind: &str| {
        let data = json!({"rule": "memory", "agent": "web", "id": id, "value": 9.0});
        let _ = lab.kernel.publish(EventDraft::json(kind, data).subject(id.as_str()));
    };
    alert("alert.firing");
    lab.until("the first restart did not help", || lab.patient("web").lives.load(SeqCst) == 3).await;
    alert("alert.firing");
    alert("alert.resolved");
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!((incident.cause_code.as_str(), incident.occurrences), ("alert", 2));
    assert!(
        incident.steps[0].detail.as_deref().is_some_and(|d| d.ends_with("alert `memory` still fires")),
        "{incident:#?}"
    );
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn who_suffers_from_another_is_left_alone() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let db = lab.admit("db", json!({})).await;
    let web = lab.admit("web", json!({"depends_on": ["db"]})).await;
    db.ill_until.store(2, SeqCst);
    db.feels(ill("broken"));
    web.feels(ill("no-database"));
    lab.until("the database is well", || db.lives.load(SeqCst) == 3).await;
    web.feels(Health::healthy());
    let (first, second) = (lab.closed().await, lab.closed().await);
    let (of_db, of_web) = if first.agent == "db" { (first, second) } else { (second, first) };
    assert_verified(&of_db);
    assert_verified(&of_web);
    assert_eq!(actions(&of_web), ["0 wait"], "{of_web:#?}");
    assert_eq!(web.lives.load(SeqCst), 1, "restarting it would not have helped");
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn degraded_counts_where_it_is_asked_for() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let slow = Health::of(vec![Issue::degraded("slow", "it is slow")]);
    let patient = lab.admit("patient", json!({"healing": {"degraded_after": "10s"}})).await;
    let other = lab.admit("other", json!({})).await;
    other.feels(slow.clone());
    patient.feels(slow.clone());
    lab.pass_time(Duration::from_secs(6)).await;
    patient.feels(Health::healthy());
    lab.pass_time(Duration::from_secs(1)).await;
    patient.feels(slow);
    lab.pass_time(Duration::from_secs(8)).await;
    assert!(lab.history().await.is_empty(), "it was not degraded for so long");
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!((incident.agent.as_str(), incident.cause_code.as_str()), ("patient", "slow"));
    assert_eq!((patient.lives.load(SeqCst), other.lives.load(SeqCst)), (2, 1));
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn a_temporary_agent_is_not_restarted_against_its_policy() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let job = lab.admit("job", json!({"restart": {"policy": "temporary"}})).await;
    job.crash("exit code 3");
    let incident = lab.closed().await;
    assert_eq!(incident.outcome, Some(Outcome::Escalated));
    assert!(
        incident.reason.as_deref().is_some_and(|r| r.contains("`temporary` allows no restart")),
        "{incident:#?}"
    );
    assert_eq!(job.lives.load(SeqCst), 1);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn what_is_switched_off_opens_nothing() {
    let home = home();
    let lab = Lab::open(home.path(), &Ward::default(), "").await;
    let web = lab.admit("web", json!({"healing": {"enabled": false}})).await;
    web.crash("exit code 3");
    lab.until("it is started again", || web.lives.load(SeqCst) == 2).await;
    web.feels(ill("broken"));
    lab.pass_time(Duration::from_secs(3)).await;
    assert!(lab.history().await.is_empty());
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn an_open_incident_outlives_its_host() {
    let (home, ward) = (home(), Ward::default());
    let lab = Lab::open(home.path(), &ward, "").await;
    let web = lab.admit("web", json!({})).await;
    web.stuck_until.store(2, SeqCst);
    web.feels(ill("broken"));
    lab.until("it is being healed", || web.lives.load(SeqCst) == 2).await;
    lab.until("the step was told", || lab.told().iter().any(|kind| kind == "heal.step.started")).await;
    let before = lab.active().await;
    let now = lab.clock.now();
    lab.close(Stop::Graceful(Duration::from_secs(1))).await;

    let lab = Lab::open_at(home.path(), &ward, "", now + Duration::from_secs(1)).await;
    let incident = lab.closed().await;
    assert_verified(&incident);
    assert_eq!(incident.id, before[0].id);
    assert_eq!(actions(&incident), ["1 restart", "0 resume"]);
    assert_eq!(incident.steps[0].result, Some(StepResult::Interrupted));
    let status = lab.command("heal status", json!({})).await.expect("it answers");
    assert_eq!(status["budget"][0]["used"], 1, "what the last host did counts: {status}");
    assert_eq!(lab.history().await.len(), 1);
    lab.close(Stop::Kill).await;
}

#[tokio::test]
async fn quarantine_is_not_a_new_incident_for_the_next_host() {
    let (home, ward) = (home(), Ward::default());
    let lab = Lab::open(home.path(), &ward, "[healing]\nladder = [\"quarantine\"]\n").await;
    let web = lab.admit("web", json!({})).await;
    web.feels(ill("broken"));
    assert_eq!(lab.closed().await.outcome, Some(Outcome::Escalated));
    lab.close(Stop::Kill).await;
    let lab = Lab::open(home.path(), &ward, "").await;
    lab.until("it is in quarantine still", || lab.state("web").status == Status::Quarantined).await;
    lab.pass_time(Duration::from_secs(40)).await;
    assert_eq!(lab.history().await.len(), 1);
    lab.close(Stop::Kill).await;
}
