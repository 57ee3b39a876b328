//! `agent logs`.

use hms_core::ErrorKind;
use serde_json::json;

use super::*;

async fn shell(system: &System, name: &str, script: &str) {
    let args = json!({
        "type": "process", "name": name, "restart": {"policy": "temporary"},
        "config": {"command": ["sh", "-c", script]},
    });
    system.run("agent create", args).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_shown_by_stream_tail_and_offset() {
    let system = System::open().await;
    shell(&system, "talker", "echo one; echo two; echo three; echo oops >&2; printf half; exec sleep 300")
        .await;
    // The last thing it prints before it sleeps has no end of line: follow up to the others.
    let mut seen = system.lines("talker", 4).await;
    seen.sort();
    assert_eq!(seen, ["one", "oops", "three", "two"]);
    system.run("agent stop", json!({"agents": ["talker"]})).await.unwrap();

    let all = system.stream("agent logs", json!({"agent": "talker"})).all().await;
    let texts: Vec<_> =
        all.iter().map(|i| (i["stream"].as_str().unwrap(), i["line"].as_str().unwrap())).collect();
    assert_eq!(
        texts,
        [("stdout", "one"), ("stdout", "two"), ("stdout", "three"), ("stdout", "half"), ("stderr", "oops")]
    );

    let tail =
        system.stream("agent logs", json!({"agent": "talker", "tail": 2, "stream": "stdout"})).all().await;
    assert_eq!(tail.iter().map(|i| &i["line"]).collect::<Vec<_>>(), ["three", "half"]);
    let offset = tail[0]["offset"].as_u64().unwrap();
    assert_eq!(offset, 8);
    let since = json!({"agent": "talker", "since_offset": offset, "stream": "stdout"});
    assert_eq!(system.stream("agent logs", since).all().await, tail);
    assert!(system.stream("agent logs", json!({"agent": "talker", "tail": 0})).all().await.is_empty());

    let e = system.fails("agent logs", json!({"agent": "talker", "since_offset": 3})).await;
    assert!(e.message.contains("`since_offset`") && e.hint.unwrap().contains("--stream"), "{}", e.message);
    assert_eq!(system.fails("agent logs", json!({"agent": "nobody"})).await.kind, ErrorKind::NotFound);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_said() {
    let system = System::open().await;
    shell(&system, "talker", "echo late; exec sleep 300").await;
    system.lines("talker", 1).await;
    system.run("agent stop", json!({"agents": ["talker"]})).await.unwrap();
    // What an archive that retention removed leaves behind: the stream now begins later.
    let dir = system.kernel.agents().dir("talker").unwrap();
    std::fs::remove_file(dir.join("stdout.log")).unwrap();
    std::fs::write(dir.join(format!("stdout.{:020}.log", 1000)), "kept\n").unwrap();
    let items = system
        .stream("agent logs", json!({"agent": "talker", "stream": "stdout", "since_offset": 40}))
        .all()
        .await;
    assert_eq!(
        items,
        [
            json!({"stream": "stdout", "gap": 960, "line": null}),
            json!({"stream": "stdout", "offset": 1000, "line": "kept"}),
        ]
    );
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_goes_on_until_the_agent_is_destroyed() {
    let system = System::open().await;
    let args = json!({"type": "process", "name": "echo", "config": {"command": ["cat"], "stdin": "fifo"}});
    system.run("agent create", args).await.unwrap();
    system.until("echo", "running").await;
    let mut logs = system.stream("agent logs", json!({"agent": "echo", "follow": true}));
    for text in ["first", "second"] {
        system.run("agent send", json!({"agent": "echo", "message": text})).await.unwrap();
        let item = logs.item().await.unwrap();
        assert_eq!((item["line"].as_str(), item["stream"].as_str()), (Some(text), Some("stdout")));
    }
    system.run("agent destroy", json!({"agents": ["echo"]})).await.unwrap();
    assert_eq!(logs.item().await, None);
    assert_eq!(logs.outcome.await.unwrap().unwrap(), Value::Null);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_has_what_its_creator_had() {
    let system = System::open().await;
    shell(&system, "curious", "echo \"$GREETING\"; pwd; exec sleep 300").await;
    let here = system.work.path().canonicalize().unwrap();
    assert_eq!(system.lines("curious", 2).await, ["hello from the caller", here.to_str().unwrap()]);
    system.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_prints_nothing_has_no_logs() {
    let system = System::open().await;
    system.run("agent create", json!({"type": "group", "name": "team"})).await.unwrap();
    let e = system.fails("agent logs", json!({"agent": "team"})).await;
    assert_eq!(e.kind, ErrorKind::NotSupported);
    assert!(e.message.contains("`team`") && e.message.contains("`group`"), "{e}");
    system.close().await;
}
