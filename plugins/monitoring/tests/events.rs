//! `monitor events`: each item a CloudEvents object, live or from the journal, until somebody ends it.

mod common;

use common::{SOON, System, critical};
use hms_core::{
    ErrorKind, Result,
    command::{Caller, Canceller, CommandContext, Update},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};

struct Running {
    updates: mpsc::Receiver<Update>,
    canceller: Canceller,
    outcome: JoinHandle<Result<Value>>,
}

fn start(system: &System, args: Value, room: usize) -> Running {
    let (tx, updates) = mpsc::channel(room);
    let (cx, canceller) = CommandContext::new(Caller::default(), Some(tx));
    let command = system.kernel.commands().get("monitor events").unwrap();
    let outcome = tokio::spawn(async move { command.run(cx, args).await });
    Running { updates, canceller, outcome }
}

impl Running {
    async fn update(&mut self) -> Option<Update> {
        tokio::time::timeout(SOON, self.updates.recv()).await.expect("an update")
    }

    async fn item(&mut self) -> Value {
        loop {
            match self.update().await.expect("an item") {
                Update::Item { value } => return value,
                Update::Resume { .. } => {}
                other @ Update::Progress { .. } => panic!("{other:?}"),
            }
        }
    }

    async fn ended(self) -> Result<Value> {
        tokio::time::timeout(SOON, self.outcome).await.expect("it ends").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_is_told_first_and_what_happens_then() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let web = system.quiet("web").await;
    let mut running = start(
        &system,
        json!({"patterns": ["agent.created", "agent.health.*"], "since_sequence": 0, "limit": 3}),
        16,
    );
    let created = running.item().await;
    assert_eq!((&created["specversion"], &created["type"]), (&json!("1.0"), &json!("agent.created")));
    assert_eq!((&created["subject"], &created["data"]["agent"]), (&json!(system.id("web")), &json!("web")));
    assert!(created["time"].is_string() && created["id"].is_string() && created["sequence"].is_string());
    assert_eq!(running.item().await["data"]["health"]["status"], "healthy");
    web.says(critical());
    assert_eq!(running.item().await["data"]["health"]["status"], "critical");
    assert_eq!(running.ended().await.unwrap(), Value::Null, "it ends at its limit");
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_chooses_and_cancelling_ends() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    system.quiet("web").await;
    system.quiet("db").await;
    let mut running = start(
        &system,
        json!({"patterns": ["agent.>"], "filter": "data.agent == 'db'", "since_sequence": 0}),
        16,
    );
    for _ in 0..3 {
        assert_eq!(running.item().await["data"]["agent"], "db");
    }
    running.canceller.cancel();
    assert_eq!(running.ended().await.unwrap(), Value::Null);
    assert!(
        system.kernel.bus().stats().subscriptions.iter().all(|s| s.patterns != ["agent.>"]),
        "nothing is left behind"
    );

    for (args, words) in [
        (json!({"patterns": ["agent..x"]}), "agent..x"),
        (json!({"filter": "data.agent ==="}), "filter"),
        (json!({"limit": 0}), "`limit`"),
    ] {
        let e = start(&system, args.clone(), 1).ended().await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::InvalidArgument, "{args}: {e}");
        assert!(e.message.contains(words), "{args}: {e}");
    }
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_are_told_beside_the_events() {
    let home = TempDir::new().unwrap();
    let system = System::open(home.path(), "").await.unwrap();
    let mut running = start(&system, json!({"patterns": ["test.>"]}), 1);
    let publish = |n: usize| {
        let _ = system.kernel.publish(hms_core::event::EventDraft::json("test.tick", json!({"n": n})));
    };
    // The reader takes one and stops reading; more than fits its queue follow.
    let wait = async {
        while system.kernel.bus().stats().subscriptions.iter().all(|s| s.patterns != ["test.>"]) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, wait).await.expect("subscribed");
    (0..6_000).for_each(publish);
    let (mut items, mut last) = (0, 0);
    while last != 5_999 {
        match running.update().await.unwrap() {
            Update::Item { value } => {
                assert_eq!(value["type"], "test.tick");
                last = value["data"]["n"].as_u64().unwrap();
                items += 1;
            }
            Update::Progress { message, .. } => assert!(message.contains("events were lost"), "{message}"),
            Update::Resume { .. } => {}
        }
    }
    assert!((1..6_000).contains(&items), "{items}");
    drop(running.updates);
    publish(6_000);
    let outcome =
        tokio::time::timeout(SOON, running.outcome).await.expect("it ends with its reader").unwrap();
    assert_eq!(outcome.unwrap(), Value::Null);
    system.close().await;
}
