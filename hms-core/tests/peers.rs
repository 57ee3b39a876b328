//! Peers at a real host: commands, events over the host's restarts, leases, agents that a peer runs, and peers
//! that misbehave.

mod common;
#[path = "common/peer.rs"]
mod peer;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use common::{Watch, data, describe, has_issue, soon, worker};
use hms_core::{
    Error, ErrorKind,
    agent::{Create, HealthStatus, Message, Status, Stop},
    clock::ManualClock,
    command::{Caller, CommandSpec, Update},
    event::EventDraft,
    host::Host,
    peer::{Client, Connection, MAX_FRAME, RemoteSubscription, SOCKET},
};
use peer::{GRACEFUL, RawPeer, Runs, Side, attach, client, remote};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
};

// ---- commands and greetings -----------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_says_what_it_does_and_ends_when_nobody_wants_it() {
    let home = TempDir::new().unwrap();
    let mut side = Side::open(home.path()).await;
    let client = client(home.path()).await;
    let run = |path: &'static str, args: Value| {
        let client = client.clone();
        async move {
            let mut items = Vec::new();
            let outcome = client
                .run(path, args, Caller::default(), |update| match update {
                    Update::Item { value } => items.push(value),
                    Update::Progress { message, .. } => items.push(message.into()),
                    Update::Resume { .. } => {}
                })
                .await;
            (items, outcome)
        }
    };
    let (items, outcome) = soon("the count", run("slow count", json!({"to": 500}))).await;
    assert_eq!(outcome.unwrap(), json!({"counted": 500}));
    assert_eq!(items[0], "begins");
    assert_eq!(items[1..], (1..=500).map(Value::from).collect::<Vec<_>>());

    for (path, args, kind, words) in [
        ("slow count", json!({"to": -1}), ErrorKind::InvalidArgument, "`to`"),
        ("slow count", json!({}), ErrorKind::InvalidArgument, "to"),
        ("slow walk", json!({}), ErrorKind::NotFound, "`slow walk`"),
    ] {
        let (items, outcome) = soon(path, run(path, args)).await;
        let e = outcome.unwrap_err();
        assert_eq!((e.kind, items.len()), (kind, 0), "{e}");
        assert!(e.message.contains(words), "{e}");
    }

    // Cancelled by its caller.
    let (began, mut begins) = mpsc::unbounded_channel();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move {
            client.run("slow wait", json!({}), Caller::default(), |u| drop(began.send(u))).await
        })
    };
    soon("the command's first word", begins.recv()).await.unwrap();
    waiting.abort();
    soon("the end of the command", side.cancelled.wait_for(|n| *n == 1)).await.unwrap();

    // And by its caller's death.
    let raw = RawPeer::greet(home.path()).await;
    let (told, mut tells) = mpsc::unbounded_channel();
    *raw.runs.told.lock().unwrap() = Some(told);
    let connection = raw.connection.clone();
    let asked = tokio::spawn(async move {
        connection.request("command.run", json!({"call": 9, "path": "slow wait"})).await
    });
    let (method, params) = soon("an update", tells.recv()).await.unwrap();
    assert_eq!((method.as_str(), &params["call"]), ("command.update", &json!(9)));
    raw.die();
    soon("the end of the other", side.cancelled.wait_for(|n| *n == 2)).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap_err().kind, ErrorKind::HostUnavailable);
    side.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greetings_agree_on_a_version_or_say_what_to_do() {
    let home = TempDir::new().unwrap();
    let nobody = Client::attach(attach(home.path())).await.err().expect("there is no host");
    assert_eq!(nobody.kind, ErrorKind::HostUnavailable);
    assert!(nobody.hint.is_some());

    let side = Side::open(home.path()).await;
    let stream = UnixStream::connect(home.path().join(SOCKET)).await.unwrap();
    let (read, write) = stream.into_split();
    let newer = Connection::start(read, write, Arc::new(Runs::default()));
    let e = soon("a refusal", newer.request("command.list", Value::Null)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Protocol);
    assert!(e.message.contains("before `hello`"), "{e}");
    let e = soon("a refusal", newer.request("hello", json!({"protocol": {"major": 99}}))).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::VersionMismatch);
    assert!(e.message.contains("99") && e.hint.unwrap().contains("system restart"), "{}", e.message);
    let e = soon("a refusal", newer.request("agent.tell", json!({}))).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Protocol, "what was not agreed on is not served");

    let raw = RawPeer::greet(home.path()).await;
    let e = raw.ask("agent.dance", json!({})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Protocol);
    assert!(e.message.contains("`agent.dance`"), "{e}");
    let e = raw.ask("agent.tell", json!({"target": 7})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidArgument);

    // A second host on the same home changes nothing.
    let second = describe(Vec::new(), &ManualClock::shared());
    let e = Host::open(second, home.path(), home.path()).await.err().expect("the home is taken");
    assert_eq!(e.kind, ErrorKind::HomeBusy);
    raw.ask("command.list", Value::Null).await.unwrap();
    side.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_cannot_listen_gives_the_home_back() {
    let home = TempDir::new().unwrap();
    let kernel = describe(Vec::new(), &ManualClock::shared());
    let nowhere = home.path().join("nowhere");
    std::fs::write(&nowhere, "").unwrap();
    let e = Host::open(kernel.clone(), home.path(), &nowhere).await.err().expect("no folder");
    assert_eq!(e.kind, ErrorKind::Io);
    assert!(e.message.contains("nowhere"), "{e}");
    drop(kernel);
    Side::open(home.path()).await.close().await;
}

// ---- events ---------------------------------------------------------------------------------------

async fn publish(side: &Side, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let draft = EventDraft::json("journal.test", json!({"n": n}));
        side.kernel().bus().publish_journaled(draft).await.expect("it is kept");
    }
}

/// Reads until `last` came; all numbers, in the order they came.
async fn read_to(subscription: &mut RemoteSubscription, last: u64) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let batch = soon(("event", last), subscription.next_batch(64)).await.expect("there is more");
        assert_eq!(batch.lost_before, 0);
        numbers.extend(batch.items.iter().map(|e| data(e)["n"].as_u64().expect("a number")));
    }
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_over_the_next_host_without_a_gap() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    publish(&side, 0..300).await;
    let client = client(home.path()).await;
    let subscribe = |after| client.subscribe(vec!["journal.>".into()], None, 4096, after);
    let mut from_the_beginning = subscribe(Some(0)).await.unwrap();
    assert_eq!(read_to(&mut from_the_beginning, 299).await, (0..300).collect::<Vec<_>>());
    let mut live = subscribe(None).await.unwrap();
    publish(&side, 300..310).await;
    assert_eq!(read_to(&mut live, 309).await, (300..310).collect::<Vec<_>>());

    // What is published while the host ends reaches the peer from this host or from the next.
    publish(&side, 310..320).await;
    soon("the host's end", side.host.close(Stop::Detach)).await.unwrap();
    let side = Side::open(home.path()).await;
    publish(&side, 320..330).await;
    assert_eq!(read_to(&mut from_the_beginning, 329).await, (300..330).collect::<Vec<_>>());
    assert_eq!(read_to(&mut live, 329).await, (310..330).collect::<Vec<_>>());

    // A filter that is none is refused, and does not harm the others.
    let bad = client.subscribe(vec!["journal.>".into()], Some("data.n >".into()), 16, None).await;
    assert_eq!(bad.err().expect("no filter").kind, ErrorKind::InvalidArgument);
    let mut even =
        client.subscribe(vec!["journal.>".into()], Some("data.n % 2 == 0".into()), 64, None).await.unwrap();
    publish(&side, 330..341).await;
    assert_eq!(read_to(&mut even, 340).await, [330, 332, 334, 336, 338, 340]);
    drop(even);
    assert_eq!(read_to(&mut live, 340).await, (330..341).collect::<Vec<_>>());

    // A host that is stopped is not waited for.
    side.close().await;
    let over = soon("the end", client.over()).await;
    assert_eq!(over.kind, ErrorKind::HostUnavailable);
    while let Some(batch) = soon("the end of the events", live.next_batch(64)).await {
        assert!(batch.items.iter().all(|e| e.kind.as_str() == "journal.test"));
    }
    assert!(client.request("command.list", Value::Null).await.is_err());
}

// ---- leases ---------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_offers_goes_with_it() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let (raw, client) = (RawPeer::greet(home.path()).await, client(home.path()).await);
    raw.ask("service.register", json!({"id": "peer.echo", "version": "1.4.0"})).await.unwrap();
    let spec = CommandSpec { args: json!(true), ..CommandSpec::new("peer hello", "says hello") };
    raw.ask("command.register", json!(spec)).await.unwrap();
    let call = |version: &'static str| {
        let params =
            json!({"id": "peer.echo", "version": version, "method": "m", "args": [1], "deadline_ms": 20_000});
        let client = client.clone();
        async move { soon("a call", client.request("service.call", params)).await }
    };
    assert_eq!(call("^1").await.unwrap(), json!({"method": "m", "args": [1], "version": "1.4.0"}));
    let miss = call("^2").await.unwrap_err();
    assert_eq!(miss.kind, ErrorKind::ServiceUnavailable);
    assert!(miss.message.contains("1.4.0"), "{miss}");
    let hello = client.run("peer hello", json!({"a": 1}), Caller::default(), |_| {}).await.unwrap();
    assert_eq!(hello, json!({"from": "the peer", "args": {"a": 1}}));
    // The name is taken, for others too.
    let other = RawPeer::greet(home.path()).await;
    let e = other.ask("service.register", json!({"id": "peer.echo", "version": "1.4.0"})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::AlreadyExists);
    let e = other.ask("service.unregister", json!({"id": "peer.echo"})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound, "what is another's cannot be taken back");

    // A call under way fails as soon as the peer is gone, not at its deadline.
    raw.runs.never_answers.store(true, Ordering::SeqCst);
    let mut swallowed = raw.runs.swallowed.subscribe();
    let (calling, commanding) = (tokio::spawn(call("^1")), {
        let client = client.clone();
        tokio::spawn(async move { client.run("peer hello", json!({}), Caller::default(), |_| {}).await })
    });
    soon("the calls", swallowed.wait_for(|n| *n == 2)).await.unwrap();
    let connection = raw.connection.clone();
    raw.die();
    assert_eq!(calling.await.unwrap().unwrap_err().kind, ErrorKind::ServiceUnavailable);
    assert!(soon("the command", commanding).await.unwrap().is_err());
    soon("the peer's end", connection.ended()).await;

    // The host notices by itself; a name that is free again can be had.
    soon("the lease's end", async {
        while other.ask("service.register", json!({"id": "peer.echo", "version": "1.4.0"})).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let e = client.run("peer hello", json!({}), Caller::default(), |_| {}).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound);
    assert!(call("^1").await.is_ok(), "the next provider answers");
    side.close().await;
}

// ---- agents that a peer runs ----------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_runs_agents_that_the_host_supervises() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let watch = Watch::on(side.kernel());
    let agents = side.kernel().agents();
    let raw = RawPeer::greet(home.path()).await;
    assert_eq!(side.create(remote("a")).await.unwrap_err().kind, ErrorKind::TypeUnavailable);
    raw.offer("1.0.0").await.unwrap();
    let row = side.create(remote("a")).await.unwrap();
    assert_eq!(row["status"], "running");
    let id = row["id"].as_str().unwrap().to_owned();
    assert_eq!(side.ask("a", json!({})).await.unwrap(), 1);
    assert_eq!(side.ask("a", json!({"do": "fail"})).await.unwrap_err().message, "told to fail");
    assert_eq!(raw.runs.take_log(), ["start a 1"]);

    // Health, asked for and reported.
    assert!(agents.needs_checks("a"));
    assert_eq!(soon("a check", agents.check("a")).await.unwrap().status, HealthStatus::Healthy);
    let ill = json!({"status": "degraded", "issues": [{"code": "slow", "message": "so slow", "severity": "degraded"}]});
    *raw.runs.health.lock().unwrap() = ill.clone();
    assert!(has_issue(&soon("a check", agents.check("a")).await.unwrap(), "slow"));
    watch.status("a", "degraded").await;
    let report = |incarnation: u64, what: Value| {
        let mut params = json!({"id": id, "incarnation": incarnation});
        params.as_object_mut().unwrap().append(what.clone().as_object_mut().unwrap());
        params
    };
    raw.ask("agent.report", report(1, json!({"health": {"status": "healthy"}}))).await.unwrap();
    watch.status("a", "running").await;
    // What is not a health is a bad sign; what is not a report is refused.
    *raw.runs.health.lock().unwrap() = json!({"status": "great"});
    assert!(has_issue(&soon("a check", agents.check("a")).await.unwrap(), "health-check"));
    *raw.runs.health.lock().unwrap() = json!({"status": "healthy"});
    assert_eq!(soon("a check", agents.check("a")).await.unwrap().status, HealthStatus::Healthy);
    for nonsense in [
        report(1, json!({})),
        report(1, json!({"exited": 3})),
        json!({"id": "nobody", "incarnation": 1, "ready": true}),
    ] {
        assert!(raw.ask("agent.report", nonsense.clone()).await.is_err(), "{nonsense}");
    }

    // It crashes in the peer: supervision starts it again there.
    side.ask("a", json!({"do": "save"})).await.unwrap();
    side.ask("a", json!({"do": "crash"})).await.ok();
    let restarted = watch.event("agent.restarted", "a").await;
    assert_eq!(data(&restarted)["incarnation"], 2);
    assert_eq!(data(&restarted)["cause"], "crashed in the peer");
    assert_eq!(raw.runs.take_log(), ["start a 2"]);
    assert_eq!(side.ask("a", json!({})).await.unwrap(), 2, "it goes on with what it saved");
    // A late word of the first life is of no consequence.
    raw.ask("agent.report", report(1, json!({"exited": {"clean": false, "reason": "late"}}))).await.unwrap();
    assert_eq!(side.ask("a", json!({})).await.unwrap(), 3);
    assert_eq!(agents.state("a").unwrap().incarnation, 2);

    // Stop, and start from the snapshot it was asked for.
    agents.stop("a", GRACEFUL).await.unwrap();
    agents.start("a").await.unwrap();
    assert_eq!(side.ask("a", json!({})).await.unwrap(), 4);
    assert_eq!(raw.runs.take_log(), ["stop graceful", "start a 3"]);

    // One that starts, and is ready later. Notifications keep their order.
    raw.runs.starts_pending.store(true, Ordering::SeqCst);
    let row = side.create(remote("late")).await.unwrap();
    assert_eq!(row["status"], "starting");
    for what in [json!({"ready": false}), json!({"ready": true}), json!({"health": ill})] {
        let mut params = json!({"id": row["id"], "incarnation": 1});
        params.as_object_mut().unwrap().append(what.clone().as_object_mut().unwrap());
        raw.connection.notify("agent.report", params).await.unwrap();
    }
    watch.status("late", "running").await;
    watch.status("late", "degraded").await;
    raw.runs.starts_pending.store(false, Ordering::SeqCst);

    // One that does not start leaves nothing where it must.
    raw.runs.refuses_to_start.store(true, Ordering::SeqCst);
    let how = Create { must_start: true, ..Create::default() };
    let e = soon("a creation", agents.create(remote("never"), how)).await.unwrap_err();
    assert_eq!(e, Error::new(ErrorKind::HandlerFailed, "told not to start"));
    assert_eq!(agents.len(), 2);

    // Others have no say in it.
    let stranger = RawPeer::greet(home.path()).await;
    let e = stranger.ask("agent.report", report(3, json!({"exited": {"clean": false, "reason": "x"}}))).await;
    assert_eq!(e.unwrap_err().kind, ErrorKind::PermissionDenied);
    let e = stranger.ask("agent.save", json!({"id": id, "snapshot": Runs::snapshot(99)})).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::PermissionDenied);
    agents.destroy("a").await.unwrap();
    side.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_outlive_the_peer_that_runs_them() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let watch = Watch::on(side.kernel());
    let agents = side.kernel().agents();
    let first = RawPeer::greet(home.path()).await;
    first.offer("1.0.0").await.unwrap();
    side.create(remote("a")).await.unwrap();
    for _ in 0..2 {
        side.ask("a", json!({})).await.unwrap();
    }
    side.ask("a", json!({"do": "save"})).await.unwrap();
    side.ask("a", json!({})).await.unwrap();

    first.die();
    watch.status("a", "waiting").await;
    watch.event("agent.health.updated", "a").await;
    let state = agents.state("a").unwrap();
    assert_eq!(state.reason.as_deref(), Some("type_unavailable"));
    assert_eq!(state.health.status, HealthStatus::Unknown);
    assert!(state.last_exit.is_none() && state.restarts == 0, "it did not fail: {state:?}");
    assert_eq!(soon("a check", agents.check("a")).await.unwrap().status, HealthStatus::Unknown);
    // What is sent meanwhile waits for the next provider.
    agents.tell("a", Message::new("t", json!({}))).unwrap();

    let second = RawPeer::greet(home.path()).await;
    second.offer("1.0.0").await.unwrap();
    watch.event("agent.started", "a").await;
    assert_eq!(side.ask("a", json!({})).await.unwrap(), 4, "two were saved, one waited, and this one");
    assert_eq!(second.runs.take_log(), ["start a 2"]);

    // A third stands by; one of another version is refused, and so is the same peer again.
    let third = RawPeer::greet(home.path()).await;
    third.offer("1.0.0").await.unwrap();
    assert!(third.runs.lives().is_empty());
    let e = third.offer("1.0.0").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::AlreadyExists);
    let other = RawPeer::greet(home.path()).await;
    let e = other.offer("1.1.0").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::VersionMismatch);
    assert!(e.message.contains("1.0.0") && e.message.contains("1.1.0"), "{e}");
    let e =
        other.ask("type.register", json!({"name": "odd", "version": "1.0.0", "schema": {"type": 3}})).await;
    assert!(e.unwrap_err().message.contains("`odd`"));

    side.ask("a", json!({"do": "save"})).await.unwrap();
    second.die();
    watch.event("agent.started", "a").await;
    assert_eq!(third.runs.take_log(), ["start a 3"]);
    assert_eq!(side.ask("a", json!({})).await.unwrap(), 5);

    // One that dies while it is asked: the asker learns it, and the agent has not failed.
    third.runs.never_answers.store(true, Ordering::SeqCst);
    let mut swallowed = third.runs.swallowed.subscribe();
    let asking = {
        let agents = agents.clone();
        let ask = async move { agents.ask("a", Message::new("t", json!({})), Duration::from_secs(60)).await };
        tokio::spawn(ask)
    };
    let checking = {
        let agents = agents.clone();
        tokio::spawn(async move { agents.check("a").await })
    };
    soon("both questions", swallowed.wait_for(|n| *n == 2)).await.unwrap();
    third.die();
    assert!(soon("the ask", asking).await.unwrap().is_err());
    assert_eq!(soon("the check", checking).await.unwrap().unwrap().status, HealthStatus::Unknown);
    watch.status("a", "waiting").await;
    assert_eq!(agents.state("a").unwrap().restarts, 0);

    // One that dies while it starts it.
    let fourth = RawPeer::greet(home.path()).await;
    fourth.runs.never_answers.store(true, Ordering::SeqCst);
    let mut swallowed = fourth.runs.swallowed.subscribe();
    fourth.offer("1.0.0").await.unwrap();
    soon("the start", swallowed.wait_for(|n| *n == 1)).await.unwrap();
    fourth.die();
    let fifth = RawPeer::greet(home.path()).await;
    soon("an offer", async {
        // The host may still know the fourth: of the same version, so the fifth at worst stands by.
        fifth.offer("1.0.0").await.unwrap();
    })
    .await;
    watch.event("agent.started", "a").await;
    assert_eq!(side.ask("a", json!({})).await.unwrap(), 5);
    assert!(agents.state("a").unwrap().last_exit.is_none());

    // And over the host: the agent is there, waits, and goes on.
    agents.stop("a", GRACEFUL).await.unwrap();
    agents.start("a").await.unwrap();
    side.close().await;
    let side = Side::open(home.path()).await;
    let watch = Watch::on(side.kernel());
    let sixth = RawPeer::greet(home.path()).await;
    sixth.offer("1.0.0").await.unwrap();
    watch.event("agent.started", "a").await;
    assert_eq!(side.ask("a", json!({})).await.unwrap(), 6);
    side.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_may_ask_its_own_agents_as_often_as_it_likes() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let raw = RawPeer::greet(home.path()).await;
    raw.offer("1.0.0").await.unwrap();
    side.create(remote("a")).await.unwrap();
    // More than are worked on at a time: the answers of the agent come over the same connection.
    let asks: Vec<_> = (0..200)
        .map(|_| {
            let connection = raw.connection.clone();
            let params =
                json!({"target": "a", "message": {"source": "peer", "body": {}}, "deadline_ms": 60_000});
            tokio::spawn(async move { connection.request("agent.ask", params).await })
        })
        .collect();
    let mut answers = Vec::new();
    for ask in asks {
        answers.push(soon("an answer", ask).await.unwrap().unwrap().as_u64().unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, (1..=200).collect::<Vec<_>>());
    assert_eq!(side.kernel().agents().status("a").unwrap()["messages"]["from"]["peer"], 200);
    side.close().await;
}

// ---- peers that misbehave -------------------------------------------------------------------------

fn frame(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes(), bytes].concat()
}

/// Waits until the host has cut a connection off, reading whatever it says before.
async fn cut_off(mut stream: UnixStream) {
    let mut rest = Vec::new();
    // Reset counts as well: what we wrote was not read to the end.
    let _ = soon("being cut off", stream.read_to_end(&mut rest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_hurts_only_who_sends_it() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    side.create(worker("a")).await.unwrap();
    let client = client(home.path()).await;
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let fatal: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        (MAX_FRAME as u32 + 1).to_le_bytes().to_vec(),
        frame(b"not json"),
        frame(b"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"hello\"}"),
        frame(b"[1,2,3]"),
        frame(&deep),
        frame(b"\xff\xfe\x00{}"),
    ];
    let half: Vec<Vec<u8>> = vec![
        vec![7],
        10_000u32.to_le_bytes().to_vec(),
        [&10_000u32.to_le_bytes()[..], b"{\"jsonrpc\":"].concat(),
        (MAX_FRAME as u32).to_le_bytes().to_vec(),
    ];
    let socket = home.path().join(SOCKET);
    let open = async |bytes: Vec<u8>| {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        stream
    };
    let mut idle = Vec::new();
    for bytes in half {
        idle.push(open(bytes).await);
    }
    let mut bad = Vec::new();
    for bytes in fatal {
        bad.push(open(bytes).await);
    }
    // Words that are well formed and make no sense: answers to nothing, notifications of nothing.
    let mut noisy = open(frame(b"{\"jsonrpc\":\"2.0\",\"id\":77,\"result\":null}")).await;
    for n in 0..2_000 {
        let line =
            format!("{{\"jsonrpc\":\"2.0\",\"method\":\"command.cancel\",\"params\":{{\"call\":{n}}}}}");
        noisy.write_all(&frame(line.as_bytes())).await.unwrap();
    }
    let params = || json!({"target": "a", "message": {"source": "good", "body": {"do": "count"}}});
    for n in 1..=50 {
        let answer = soon("an answer", client.request("agent.ask", params())).await.unwrap();
        assert_eq!(answer, n);
    }
    for stream in bad {
        cut_off(stream).await;
    }
    // Those that ended in the middle are let go of when they do.
    drop(idle);
    noisy.write_all(&frame(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"command.list\"}")).await.unwrap();
    let mut length = [0; 4];
    soon("an answer to the noisy one", noisy.read_exact(&mut length)).await.unwrap();
    assert_eq!(soon("an answer", client.request("agent.ask", params())).await.unwrap(), 51);
    assert_eq!(side.status("a"), Status::Running);
    side.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_slows_nobody() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let good = client(home.path()).await;
    let mut events = good.subscribe(vec!["journal.>".into()], None, 1 << 16, Some(0)).await.unwrap();

    let mut deaf = UnixStream::connect(home.path().join(SOCKET)).await.unwrap();
    let say = |text: Value| frame(text.to_string().as_bytes());
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "hello", "params": {"protocol": {"major": 1}}});
    let subscribe = json!({"jsonrpc": "2.0", "id": 2, "method": "event.subscribe",
        "params": {"subscription": 1, "patterns": [">"], "capacity": 64}});
    let run = json!({"jsonrpc": "2.0", "id": 3, "method": "command.run",
        "params": {"call": 1, "path": "slow count", "args": {"to": 1_000_000}}});
    deaf.write_all(&say(hello)).await.unwrap();
    // Greeted before it goes deaf: requests run side by side.
    let mut length = [0; 4];
    soon("a greeting", deaf.read_exact(&mut length)).await.unwrap();
    deaf.write_all(&say(subscribe)).await.unwrap();
    soon("its subscription", async {
        while side.kernel().bus().subscription_count() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    deaf.write_all(&say(run)).await.unwrap();

    // Far more than its socket and its queues hold.
    let padding = "x".repeat(4_096);
    let many = 4_000u64;
    for n in 0..many {
        side.kernel().publish(EventDraft::json("journal.test", json!({"n": n, "padding": padding})));
    }
    assert_eq!(read_to(&mut events, many - 1).await.len() as u64, many);
    let stats = side.kernel().bus().stats();
    let lost: u64 = stats.subscriptions.iter().map(|s| s.lost).sum();
    assert!(lost > 0, "the deaf one lost events, and they were counted: {stats:?}");
    for _ in 0..50 {
        soon("an answer", good.request("type.list", Value::Null)).await.unwrap();
    }
    drop(deaf);
    soon("the deaf one's subscription to end", async {
        while side.kernel().bus().subscription_count() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    side.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_hangs_holds_up_nobody_else() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let hung = RawPeer::greet(home.path()).await;
    hung.runs.never_answers.store(true, Ordering::SeqCst);
    let mut swallowed = hung.runs.swallowed.subscribe();
    hung.offer("1.0.0").await.unwrap();
    let creating = {
        let agents = side.kernel().agents().clone();
        tokio::spawn(async move { agents.create(remote("a"), Create::default()).await })
    };
    soon("the start", swallowed.wait_for(|n| *n == 1)).await.unwrap();
    side.create(worker("b")).await.unwrap();
    assert_eq!(side.ask("b", json!({"do": "count"})).await.unwrap(), 1);
    // The host's patience with a start is its clock's.
    side.clock.advance(Duration::from_secs(60));
    let row = soon("the creation", creating).await.unwrap().unwrap();
    assert_eq!(row["status"], "failed", "{row}");
    soon("the kill", swallowed.wait_for(|n| *n == 2)).await.unwrap();
    hung.die();
    side.close().await;
}
