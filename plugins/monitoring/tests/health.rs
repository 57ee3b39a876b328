//! The health of the system: the worst that counts, who suffers from whom, and what is announced.

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use common::{System, critical, degraded, s};
use hms_core::{
    ErrorKind, Result,
    agent::{AgentSpec, Health, Stop},
    clock::ManualClock,
    event::EventDraft,
    plugin::{Manifest, Plugin, Registrar},
    service::{Service, ServiceSpec},
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Stands where the organ of healing will.
struct Healer;

#[async_trait]
impl Plugin for Healer {
    fn manifest(&self) -> Manifest {
        Manifest { id: "test.healer", name: "Healer", version: "1.0.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        let spec =
            ServiceSpec::new("hms.healing", "1.0.0", "for a test").method("active", "what is being healed");
        to.service(spec, Arc::new(Active { kernel: to.kernel().clone() }))
    }
}

struct Active {
    kernel: hms_core::Kernel,
}

#[async_trait]
impl Service for Active {
    async fn call(&self, _method: &str, _args: Value) -> Result<Value> {
        let id = self.kernel.agents().id("db")?;
        Ok(json!([{"id": "inc-1", "agent": "db", "agent_id": id, "state": "open"}]))
    }
}

fn component<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["components"].as_array().unwrap().iter().find(|c| c["agent"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_ill_is_told_from_who_suffers() {
    let home = TempDir::new().unwrap();
    let more: Vec<Arc<dyn Plugin>> = vec![Arc::new(Healer)];
    let system = System::open_with(home.path(), "", ManualClock::shared(), more).await.unwrap();
    let db = system.quiet("db").await;
    let mut api = AgentSpec::new("api", "lab", json!({"key": "api"}));
    api.depends_on = vec!["db".into()];
    system.create(api).await;
    let mut web = AgentSpec::new("web", "lab", json!({"key": "web"}));
    web.depends_on = vec![system.id("api")];
    system.create(web).await;
    let other = system.quiet("other").await;

    let heard = system.listen(&["system.health.changed"]);
    system.clock.advance(s(5));
    db.says(critical());
    let data = heard.until(|_, data| data["status"] == "critical").await;
    assert_eq!((&data["previous"], &data["since_ms"]), (&json!("healthy"), &json!(5_000)));
    assert_eq!(data["counts"], json!({"healthy": 3, "degraded": 0, "critical": 1, "unknown": 0}));

    let report = system.run("monitor health", json!({})).await.unwrap();
    assert_eq!((&report["status"], &report["since_ms"]), (&json!("critical"), &json!(5_000)));
    assert_eq!(report["counts"], json!({"healthy": 3, "degraded": 0, "critical": 1, "unknown": 0}));
    let db_row = component(&report, "db");
    assert_eq!((&db_row["health"], &db_row["status"]), (&json!("critical"), &json!("degraded")));
    assert_eq!((&db_row["type"], &db_row["restarts"]), (&json!("lab"), &json!(0)));
    assert_eq!(db_row["issues"], json!([{"code": "test", "message": "it is ill", "severity": "critical"}]));
    assert_eq!(db_row["checked_ms"], Value::Null, "nobody had to ask it");
    for (name, from) in
        [("db", json!([])), ("api", json!(["db"])), ("web", json!(["db"])), ("other", json!([]))]
    {
        assert_eq!(component(&report, name)["suffers_from"], from, "{name}");
    }
    assert_eq!(report["healing"][0]["id"], "inc-1");

    let one = system.run("monitor health", json!({"agent": "other"})).await.unwrap();
    assert_eq!((&one["status"], &one["healing"]), (&json!("healthy"), &json!([])));
    assert_eq!(one["components"].as_array().unwrap().len(), 1);

    let health = system.listen(&["agent.health.updated"]);
    other.says(degraded());
    health.until(|_, data| data["agent"] == "other").await;
    db.says(Health::healthy());
    assert_eq!(heard.until(|_, data| data["status"] == "degraded").await["previous"], "critical");
    other.says(Health::healthy());
    heard.until(|_, data| data["status"] == "healthy").await;
    assert!(heard.is_silent());
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_meant_to_run_does_not_count() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let empty = system.run("monitor health", json!({})).await.unwrap();
    assert_eq!(
        (&empty["status"], &empty["components"], &empty["healing"]),
        (&json!("healthy"), &json!([]), &json!([]))
    );
    let heard = system.listen(&["system.health.changed"]);
    let web = system.quiet("web").await;
    web.says(critical());
    heard.until(|_, data| data["status"] == "critical").await;
    system.kernel.agents().stop("web", Stop::Kill).await.unwrap();
    heard.until(|_, data| data["status"] == "healthy").await;
    let report = system.run("monitor health", json!({})).await.unwrap();
    assert_eq!((&report["status"], &report["counts"]["unknown"]), (&json!("healthy"), &json!(1)));
    let e = system.run("monitor health", json!({"agent": "wbe"})).await.unwrap_err();
    assert_eq!((e.kind, e.message.as_str()), (ErrorKind::NotFound, "no agent `wbe`"));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_tell_when_they_were() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let probe = system.checked("web", Some(s(1))).await;
    system.first_check(&probe).await;
    system.clock.advance(s(1));
    probe.checked(2).await;
    let report = system.run("monitor health", json!({"agent": "web"})).await.unwrap();
    let checked = report["components"][0]["checked_ms"].as_u64().expect("the first check is over");
    let now = hms_core::clock::Clock::wall_ms(&*system.clock);
    assert!((1..=now).contains(&checked), "{checked} of {now}");
    system.close().await;
}

/// On one thread, so that a burst of events finds nobody who takes them.
#[tokio::test]
async fn after_a_loss_of_events_the_picture_is_true_again() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let db = system.quiet("db").await;
    let heard = system.listen(&["system.health.changed"]);
    // Events are believed, even about an agent that is not there; who looks knows better.
    let ghost = || {
        let data = json!({"agent": "ghost", "status": "failed", "health": {"status": "critical"}});
        system.kernel.publish(EventDraft::json("agent.status.changed", data).subject("ghost"));
    };
    ghost();
    heard.until(|_, data| data["status"] == "critical").await;
    (0..5_000).for_each(|_| ghost());
    heard.until(|_, data| data["status"] == "healthy").await;
    db.says(critical());
    heard.until(|_, data| data["status"] == "critical").await;
    system.close().await;
}
