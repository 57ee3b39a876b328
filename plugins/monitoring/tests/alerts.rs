//! Alerts: pending, firing, resolved; remembered over restarts; and rules that make no sense.

mod common;

use common::{System, critical, degraded, s};
use hms_core::{ErrorKind, agent::Health, clock::ManualClock};
use serde_json::{Value, json};
use tempfile::TempDir;

const ILL: &str = r#"
[monitoring]
default_alerts = false
[[monitoring.alerts]]
name = "ill"
agent = "web*"
health = "degraded"
for = "30s"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_is_pending_then_fires_then_is_resolved() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), ILL).await.unwrap();
    let (web, db) = (system.quiet("web-1").await, system.quiet("db").await);
    let heard = system.listen(&["alert.>"]);
    db.says(critical());
    system.clock.advance(s(1));
    web.says(degraded());
    let pending = heard.expect("alert.pending").await;
    assert_eq!(
        (&pending["rule"], &pending["agent"], &pending["id"]),
        (&json!("ill"), &json!("web-1"), &json!(system.id("web-1")))
    );
    assert_eq!(
        (&pending["value"], &pending["since_ms"], &pending["fired_ms"]),
        (&json!("degraded"), &json!(1_000), &Value::Null)
    );
    let listed = system.run("monitor alerts", json!({})).await.unwrap();
    assert_eq!(listed, json!([pending]));

    system.clock.advance(s(30));
    let firing = heard.expect("alert.firing").await;
    assert_eq!(
        (&firing["state"], &firing["fired_ms"], &firing["severity"]),
        (&json!("firing"), &json!(31_000), &json!("warning"))
    );
    assert_eq!(firing["condition"], "health is degraded for 30s");
    system.clock.advance(s(9));
    web.says(Health::healthy());
    let resolved = heard.expect("alert.resolved").await;
    assert_eq!((&resolved["alert"], &resolved["resolved_ms"]), (&pending["alert"], &json!(40_000)));
    assert_eq!(system.run("monitor alerts", json!({})).await.unwrap(), json!([]));
    assert_eq!(system.run("monitor alerts", json!({"all": true})).await.unwrap(), json!([resolved]));
    assert_eq!(system.run("monitor alerts", json!({"all": true, "agent": "db"})).await.unwrap(), json!([]));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clears_in_time_does_not_fire_and_leaves_no_history() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), ILL).await.unwrap();
    let web = system.quiet("web").await;
    let heard = system.listen(&["alert.>"]);
    web.says(degraded());
    heard.expect("alert.pending").await;
    system.clock.advance(s(29));
    web.says(Health::healthy());
    assert_eq!(heard.expect("alert.resolved").await["fired_ms"], Value::Null);
    system.clock.advance(s(3600));
    web.says(critical());
    heard.expect("alert.pending").await;
    system.kernel.agents().destroy("web").await.unwrap();
    heard.expect("alert.resolved").await;
    assert_eq!(system.run("monitor alerts", json!({"all": true})).await.unwrap(), json!([]));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_rules_tell_of_critical_and_quarantined_agents() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let web = system.quiet("web").await;
    system.quiet("db").await;
    let heard = system.listen(&["alert.>"]);
    web.says(critical());
    assert_eq!(heard.expect("alert.pending").await["rule"], "agent-critical");
    system.clock.advance(s(10));
    assert_eq!(heard.expect("alert.firing").await["agent"], "web");
    system.kernel.agents().quarantine("db", "for a test").await.unwrap();
    let quarantined = heard.expect("alert.firing").await;
    assert_eq!(
        (&quarantined["rule"], &quarantined["agent"], &quarantined["severity"]),
        (&json!("agent-quarantined"), &json!("db"), &json!("critical"))
    );
    // One alert tells of a quarantine, not two: the one of being critical gives way.
    system.kernel.agents().quarantine("web", "for a test").await.unwrap();
    let mut told = [heard.next().await, heard.next().await];
    told.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!((told[0].0.as_str(), &told[0].1["rule"]), ("alert.firing", &json!("agent-quarantined")));
    assert_eq!((told[1].0.as_str(), &told[1].1["rule"]), ("alert.resolved", &json!("agent-critical")));

    // Switched off live, they are resolved and come no more.
    system.kernel.configure("monitoring.default_alerts", Some("false"), "test").await.unwrap();
    heard.expect("alert.resolved").await;
    heard.expect("alert.resolved").await;
    assert_eq!(system.run("monitor alerts", json!({})).await.unwrap(), json!([]));
    system.kernel.agents().start("web").await.unwrap();
    let health = system.listen(&["agent.health.updated", "system.health.changed"]);
    system.lab.probe("web").says(critical());
    health.until(|_, data| data["health"]["status"] == "critical").await;
    system.clock.advance(s(60));
    // Switched on again, the first word is pending: nothing was said in between.
    system.kernel.configure("monitoring.default_alerts", Some("true"), "test").await.unwrap();
    heard.until(|kind, data| kind == "alert.pending" && data["agent"] == "web").await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_beyond_a_threshold_alert() {
    let home = TempDir::new().unwrap();
    let config = r#"
[monitoring]
default_alerts = false
sample_interval = "1s"
[[monitoring.alerts]]
name = "hot"
metric = "cpuUsage"
op = ">="
threshold = 0.9
for = "2s"
severity = "critical"
[[monitoring.alerts]]
name = "queue"
metric = "queue.length"
op = ">"
threshold = 10
"#;
    let system = System::open(home.path(), config).await.unwrap();
    let web = system.quiet("web").await;
    let heard = system.listen(&["alert.>"]);
    *web.measures.lock().unwrap() = vec![("cpuUsage", 0.95)];
    system.clock.advance(s(1));
    let pending = heard.expect("alert.pending").await;
    assert_eq!((&pending["rule"], &pending["value"]), (&json!("hot"), &json!(0.95)));
    system.clock.advance(s(2));
    assert_eq!(heard.expect("alert.firing").await["condition"], "cpuUsage >= 0.9 for 2s");
    *web.measures.lock().unwrap() = vec![("cpuUsage", 0.1)];
    system.clock.advance(s(1));
    assert_eq!(heard.until(|kind, _| kind == "alert.resolved").await["value"], 0.1);
    // What somebody records is judged at once.
    system.call("record", json!({"name": "queue.length", "agent": "web", "value": 11})).await.unwrap();
    assert_eq!(heard.expect("alert.firing").await["rule"], "queue");
    system.call("record", json!({"name": "queue.length", "agent": "web", "value": 10})).await.unwrap();
    heard.expect("alert.resolved").await;
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_firing_alert_survives_the_host() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), ILL).await.unwrap();
    let web = system.quiet("web").await;
    let heard = system.listen(&["alert.>"]);
    web.says(degraded());
    heard.expect("alert.pending").await;
    system.clock.advance(s(30));
    let firing = heard.expect("alert.firing").await;
    let clock = system.detach().await;

    let system = System::open_without_lab(home.path(), ILL, clock).await.unwrap();
    let heard = system.listen(&["alert.>", "agent.status.changed"]);
    system.clock.advance(s(60));
    let listed = system.run("monitor alerts", json!({})).await.unwrap();
    assert_eq!(listed, json!([firing]), "nobody knows how the agent is: the alert goes on");
    // Its type comes back and it turns out to be well in its new life.
    system.kernel.add_plugin(std::sync::Arc::new(system.lab.clone())).await.unwrap();
    let resolved = heard.until(|kind, _| kind == "alert.resolved").await;
    assert_eq!((&resolved["alert"], &resolved["fired_ms"]), (&firing["alert"], &firing["fired_ms"]));
    system.close().await;

    let system = System::open_with(home.path(), ILL, ManualClock::shared(), Vec::new()).await.unwrap();
    let listed = system.run("monitor alerts", json!({"all": true})).await.unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["state"]), (1, &json!("resolved")));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alert_whose_rule_or_condition_changed_is_resolved() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), &ILL.replace("30s", "0s")).await.unwrap();
    let web = system.quiet("web").await;
    let heard = system.listen(&["alert.>"]);
    web.says(degraded());
    heard.expect("alert.firing").await;
    let clock = system.detach().await;
    let config = ILL.replace("degraded", "critical");
    // The new host hears nothing of the old one's rule but its alert.
    let system = System::open_with(home.path(), &config, clock, Vec::new()).await.unwrap();
    let journal = hms_core::event::Subscribe::to(["alert.>"]).after(0);
    let journal = system.kernel.bus().subscribe(journal).unwrap();
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let batch = tokio::time::timeout(common::SOON, journal.next_batch(1)).await.unwrap().unwrap();
        kinds.extend(batch.events.iter().map(|e| e.kind.as_str().to_owned()));
    }
    assert_eq!(kinds, ["alert.firing", "alert.resolved"]);
    assert_eq!(system.run("monitor alerts", json!({})).await.unwrap(), json!([]));
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_settings_are_refused_in_words() {
    let rule = |body: &str| format!("[[monitoring.alerts]]\nname = \"x\"\n{body}\n");
    for (config, words) in [
        (
            "[monitoring]\ninterval = \"50ms\"\n".to_owned(),
            "config.toml:2:12: monitoring.interval: `50ms` is shorter than 100ms",
        ),
        (
            "[monitoring]\nintervall = \"1s\"\n".to_owned(),
            "config.toml:2:1: unknown key `monitoring.intervall`",
        ),
        ("[monitoring]\nretention = \"a day\"\n".to_owned(), "`a day` is not a duration"),
        (rule(""), "`metric` is missing, or `health` is missing, or `status` is missing"),
        (rule("metric = \"cpuUsage\""), "monitoring.alerts.0: `op` is missing"),
        (rule("health = \"healthy\""), "monitoring.alerts.0.health: \"healthy\" is not one of"),
        (rule("health = \"critical\"\nfor = \"soon\""), "monitoring.alerts.0.for: `soon` is not a duration"),
        (rule("health = \"critical\"\nmetrics = 1"), "unknown key `metrics`"),
        (rule("health = \"critical\"\nmetric = \"a\"\nop = \">\"\nthreshold = 1"), "monitoring.alerts.0"),
        (
            format!("{}{}", rule("health = \"critical\""), rule("health = \"degraded\"")),
            "there are two alerts called `x`",
        ),
    ] {
        let home = TempDir::new().unwrap();
        let Err(e) = System::open(home.path(), &config).await else { panic!("accepted: {config}") };
        assert_eq!(e.kind, ErrorKind::InvalidConfig, "{config}: {e}");
        assert!(e.to_string().contains(words), "{config}: {e}");
    }
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let e = system.kernel.configure("monitoring.interval", Some("10ms"), "test").await.unwrap_err();
    assert_eq!(
        (e.kind, e.message.as_str()),
        (ErrorKind::InvalidArgument, "monitoring.interval: `10ms` is shorter than 100ms")
    );
    system.close().await;
}
