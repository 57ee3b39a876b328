//! Metrics: sampled, recorded, told in steps, kept for a while, and still there after a restart.

mod common;

use common::{SOON, System, critical, s};
use hms_core::{ErrorKind, clock::Clock};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Moves time on by a second at a time, and each time waits for the sample of that second.
async fn sample(system: &System, agent: &str, times: usize) {
    for _ in 0..times {
        let before = newest(system, agent).await;
        system.clock.advance(s(1));
        let wait = async {
            while newest(system, agent).await == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("a sample");
    }
}

/// The time of the newest sample of the agent that has reached the store.
async fn newest(system: &System, agent: &str) -> Option<u64> {
    let told = system.call("query", json!({"name": "restarts", "since_ms": 0})).await.unwrap();
    let series = told["series"].as_array().unwrap().iter().find(|r| r["agent"] == agent)?;
    series["points"].as_array().unwrap().last()?[0].as_u64()
}

const EVERY_SECOND: &str = "[monitoring]\nsample_interval = \"1s\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_sampled_and_their_history_is_told() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), EVERY_SECOND).await.unwrap();
    let web = system.quiet("web").await;
    system.quiet("db").await;
    for n in 1..=4 {
        *web.measures.lock().unwrap() =
            vec![("cpuUsage", f64::from(n)), ("memoryUsage", 1e9), ("threads", f64::NAN)];
        sample(&system, "web", 1).await;
    }
    let latest = system.call("latest", json!({"agent": "web"})).await.unwrap();
    let names: Vec<&str> = latest.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cpuUsage", "memoryUsage", "restarts", "health"], "what is no number is left out");
    assert_eq!(
        (&latest[0]["value"], &latest[0]["unit"], &latest[0]["time_ms"]),
        (&json!(4.0), &json!("cores"), &json!(4_000))
    );

    let query = json!({"name": "cpuUsage", "agent": "web", "since_ms": 2_000, "until_ms": 3_000});
    let (memory, store) = (system.call("query", query.clone()).await.unwrap(), {
        // Of all agents, so that the store is asked.
        system.call("query", json!({"name": "cpuUsage", "since_ms": 2_000, "until_ms": 3_000})).await.unwrap()
    });
    assert_eq!(memory, store, "memory and store agree");
    let series = &memory["series"][0];
    assert_eq!(series["points"], json!([[2_000, 2.0], [3_000, 3.0]]));
    assert_eq!(
        (&series["label"], &series["min"], &series["avg"], &series["max"], &series["last"]),
        (&json!("web cpuUsage"), &json!(2.0), &json!(2.5), &json!(3.0), &json!(3.0))
    );

    let steps = system
        .run("monitor metrics", json!({"name": "cpuUsage", "agent": "web", "step": "2s"}))
        .await
        .unwrap();
    assert_eq!(steps["step_ms"], 2_000);
    assert_eq!(
        steps["series"][0]["points"],
        json!([[0, 1.0, 1.0, 1.0], [2_000, 2.5, 2.0, 3.0], [4_000, 4.0, 4.0, 4.0]])
    );
    let all = system.run("monitor metrics", json!({})).await.unwrap();
    let labels: Vec<&str> =
        all["series"].as_array().unwrap().iter().map(|r| r["label"].as_str().unwrap()).collect();
    assert!(labels.contains(&"db health") && labels.contains(&"web memoryUsage"), "{labels:?}");

    let names = system.call("names", Value::Null).await.unwrap();
    let agents =
        |name: &str| names.as_array().unwrap().iter().find(|r| r["name"] == name).unwrap()["agents"].clone();
    assert_eq!(
        (agents("health"), agents("cpuUsage"), agents("responseTime")),
        (json!(2), json!(1), json!(0))
    );
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_give_response_times_and_error_rates() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "[monitoring]\nsample_interval = \"1d\"\n").await.unwrap();
    let web = system.checked("web", Some(s(1))).await;
    web.gate.send_replace(false);
    let first = system.first_check(&web).await;
    // A check of 500 ms that finds it ill, and those of no time after it that find it well.
    let health = system.listen(&["agent.health.updated"]);
    system.clock.advance((first + common::ms(500)).saturating_sub(system.clock.now()));
    let (least, since_start) = (500.0, system.clock.now().as_secs_f64() * 1e3);
    *web.health.lock().unwrap() = critical();
    web.gate.send_replace(true);
    health.until(|_, data| data["health"]["status"] == "critical").await;
    *web.health.lock().unwrap() = hms_core::agent::Health::healthy();
    system.clock.advance(s(1));
    health.until(|_, data| data["health"]["status"] == "healthy").await;
    let most = (web.checks.borrow().len() + 1) as f64;
    system.clock.advance(s(86_400));
    let wait = async {
        loop {
            let rows = system.call("latest", json!({"agent": "web"})).await.unwrap();
            let of = |name: &str| {
                rows.as_array().unwrap().iter().find(|r| r["name"] == name).and_then(|r| r["value"].as_f64())
            };
            if let (Some(took), Some(errors)) = (of("responseTime"), of("errorRate")) {
                return (took, errors);
            }
            tokio::task::yield_now().await;
        }
    };
    let (took, errors) = tokio::time::timeout(SOON, wait).await.expect("a sample");
    // One check more may have been over by the time of the sample.
    assert!((least / most..=since_start).contains(&took), "{took}");
    assert!((1.0 / most..=1.0).contains(&errors), "{errors} of {most}");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_record_their_own() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    system.quiet("web").await;
    system.clock.advance(s(3));
    for value in [1.5, 2.5] {
        let done = system
            .call("record", json!({"name": "queue.length", "agent": "web", "value": value}))
            .await
            .unwrap();
        assert_eq!(done["time_ms"], 3_000);
    }
    let told = system.call("query", json!({"name": "queue.length", "since_ms": 0})).await.unwrap();
    assert_eq!(told["series"][0]["points"], json!([[3_000, 1.5], [3_000, 2.5]]));

    for (method, args, kind, words) in [
        (
            "record",
            json!({"name": "a b", "agent": "web", "value": 1}),
            ErrorKind::InvalidArgument,
            "`a b` is not a metric's name",
        ),
        (
            "record",
            json!({"name": "a", "agent": "nobody", "value": 1}),
            ErrorKind::NotFound,
            "no agent `nobody`",
        ),
        ("record", json!({"name": "a", "agent": "web"}), ErrorKind::InvalidArgument, "missing field `value`"),
        ("query", json!({"nmae": "a"}), ErrorKind::InvalidArgument, "unknown field `nmae`"),
        (
            "query",
            json!({"name": "cpuUse"}),
            ErrorKind::NotFound,
            "no metric `cpuUse` (there are: cpuUsage, ",
        ),
        ("query", json!({"since_ms": 9_000}), ErrorKind::InvalidArgument, "after the end"),
        ("query", json!({"step": "often"}), ErrorKind::InvalidArgument, "is not a duration"),
        ("forget", json!({}), ErrorKind::NotFound, "it has: latest, names, query, record"),
    ] {
        let e = system.call(method, args.clone()).await.unwrap_err();
        assert_eq!(e.kind, kind, "{method} {args}: {e}");
        assert!(e.to_string().contains(words), "{method} {args}: {e}");
    }
    for n in 0..64 {
        let _ = system.call("record", json!({"name": format!("m{n}"), "agent": "web", "value": 1})).await;
    }
    let e = system.call("record", json!({"name": "more", "agent": "web", "value": 1})).await.unwrap_err();
    assert!(e.message.contains("has 64 metrics already"), "{e}");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_are_kept_for_their_time_and_over_restarts() {
    let home = TempDir::new().unwrap();
    let config = format!("{EVERY_SECOND}retention = \"5s\"\n");
    let system = System::open(home.path(), &config).await.unwrap();
    let web = system.quiet("web").await;
    *web.measures.lock().unwrap() = vec![("cpuUsage", 1.0)];
    sample(&system, "web", 9).await;
    let ask = json!({"name": "cpuUsage", "since_ms": 0});
    let times = |told: &Value| -> Vec<u64> {
        told["series"][0]["points"].as_array().unwrap().iter().map(|p| p[0].as_u64().unwrap()).collect()
    };
    let told = system.call("query", ask.clone()).await.unwrap();
    assert_eq!(
        times(&told),
        [4_000, 5_000, 6_000, 7_000, 8_000, 9_000],
        "five seconds back from the last sample"
    );
    let id = system.id("web");
    let clock = system.detach().await;

    let system = System::open_with(home.path(), &config, clock, Vec::new()).await.unwrap();
    assert_eq!(times(&system.call("query", ask.clone()).await.unwrap())[0], 4_000);
    system.kernel.agents().destroy("web").await.unwrap();
    let told = system.call("query", ask).await.unwrap();
    assert_eq!(
        (&told["series"][0]["agent"], times(&told).len()),
        (&json!(id), 6),
        "history outlives its agent"
    );
    system.close().await;
}
