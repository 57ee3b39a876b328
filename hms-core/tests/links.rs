//! The link between a client and its hosts: silence, subscriptions over the death of a host, and what travels
//! with requests. The hosts here speak the protocol by hand, so that they can misbehave.

mod common;
#[path = "common/peer.rs"]
mod peer;

use std::{
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use common::soon;
use hms_core::{
    Error, ErrorKind, Result,
    command::{Caller, CommandSpec, Update},
    peer::{Attach, Client, Connection, PeerHandler, SOCKET},
};
use peer::{RawPeer, Side, attach, client};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
};

/// What a host of the tests does with what it is asked.
struct Answers {
    /// The journal's sequence that it tells of at a subscription; none: as an older host.
    sequence: Option<u64>,
    /// Answers nothing but `hello` while this is set.
    silent: watch::Receiver<bool>,
    asked: mpsc::UnboundedSender<(String, Value)>,
}

#[async_trait]
impl PeerHandler for Answers {
    async fn request(&self, _peer: &Arc<Connection>, method: &str, params: Value) -> Result<Value> {
        let _ = self.asked.send((method.to_owned(), params.clone()));
        if method == "hello" {
            return Ok(json!({"protocol": {"major": 1, "minor": 0}, "host": {"pid": 1}}));
        }
        let _ = self.silent.clone().wait_for(|silent| !silent).await;
        match method {
            "event.subscribe" => Ok(self.sequence.map_or(Value::Null, |s| json!({"sequence": s}))),
            "fail" => Err(Error::new(ErrorKind::HandlerFailed, "told to fail")),
            _ => Ok(params),
        }
    }
}

/// A host at the socket of `home`.
struct FakeHost {
    accepting: tokio::task::JoinHandle<()>,
    connections: Arc<Mutex<Vec<Arc<Connection>>>>,
    silent: watch::Sender<bool>,
    asked: mpsc::UnboundedReceiver<(String, Value)>,
}

impl FakeHost {
    fn start(home: &Path, sequence: Option<u64>) -> Self {
        let listener = UnixListener::bind(home.join(SOCKET)).unwrap();
        let (silent, listens) = watch::channel(false);
        let (tell, asked) = mpsc::unbounded_channel();
        let connections: Arc<Mutex<Vec<Arc<Connection>>>> = Arc::default();
        let all = connections.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answers = Answers { sequence, silent: listens.clone(), asked: tell.clone() };
                let (read, write) = stream.into_split();
                all.lock().unwrap().push(Connection::start(read, write, Arc::new(answers)));
            }
        });
        Self { accepting, connections, silent, asked }
    }

    /// The params of the next request of `method`.
    async fn next(&mut self, method: &str) -> Value {
        soon(method.to_owned(), async {
            loop {
                let (asked, params) = self.asked.recv().await.unwrap();
                if asked == method {
                    return params;
                }
            }
        })
        .await
    }

    async fn die(self, home: &Path) {
        self.accepting.abort();
        let _ = self.accepting.await;
        std::fs::remove_file(home.join(SOCKET)).unwrap();
        self.connections.lock().unwrap().iter().for_each(|c| c.close());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_falls_silent_is_told_of_and_not_waited_for() {
    let home = TempDir::new().unwrap();
    // A listener that answers the greeting, and then reads nothing any more, as a stopped process does.
    let listener = UnixListener::bind(home.path().join(SOCKET)).unwrap();
    let host = tokio::spawn(async move {
        let mut stopped = Vec::new();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).await.unwrap();
        let mut hello = vec![0; u32::from_le_bytes(length) as usize];
        stream.read_exact(&mut hello).await.unwrap();
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"host": {"pid": 1}}}).to_string();
        stream.write_all(&u32::try_from(answer.len()).unwrap().to_le_bytes()).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        stopped.push(stream);
        while let Ok((stream, _)) = listener.accept().await {
            stopped.push(stream);
        }
    });
    let short = Attach { deadline: Duration::from_millis(600), ..attach(home.path()) };
    let client = Client::attach(short).await.unwrap();
    let e = soon("the end of the wait", client.request("command.list", Value::Null)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::HostUnavailable);
    let pid = std::process::id();
    assert_eq!(e.message, format!("the host (pid {pid}) does not answer within 600ms"));
    assert!(e.hint.as_deref().is_some_and(|hint| hint.contains("kill -9")), "{e}");
    // And there is no other one.
    let over = soon("the end", client.over()).await;
    assert!(over.message.contains("does not answer within"), "{over}");
    host.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_busy_or_quiet_is_not_taken_for_a_hung_one() {
    let home = TempDir::new().unwrap();
    let host = FakeHost::start(home.path(), None);
    let short = Attach { deadline: Duration::from_secs(1), ..attach(home.path()) };
    let client = Client::attach(short).await.unwrap();
    host.silent.send_replace(true);
    // All that a host takes in at a time, and more: who asks whether it is there does not queue behind it.
    let asks: Vec<_> = (0..1200)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.request("echo", json!({"n": n})).await })
        })
        .collect();
    // Longer than a hung one is given.
    tokio::time::sleep(Duration::from_secs(3)).await;
    host.silent.send_replace(false);
    for (n, ask) in asks.into_iter().enumerate() {
        assert_eq!(soon("an answer", ask).await.unwrap().unwrap(), json!({"n": n}));
    }
    assert_eq!(host.connections.lock().unwrap().len(), 1, "the link was lost");
    host.die(home.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_comes_to_nothing_leaves_no_connection() {
    let home = TempDir::new().unwrap();
    let listener = UnixListener::bind(home.path().join(SOCKET)).unwrap();
    // One that never answers, and one that does not want us.
    for refuses in [false, true] {
        let short = Attach { deadline: Duration::from_millis(300), ..attach(home.path()) };
        let attaching = tokio::spawn(async move { Client::attach(short).await.map(drop) });
        let (mut stream, _) = soon("a peer", listener.accept()).await.unwrap();
        if refuses {
            let error = json!({"code": -32000, "message": "no", "data": Error::new(ErrorKind::VersionMismatch, "no")});
            let answer = json!({"jsonrpc": "2.0", "id": 1, "error": error}).to_string();
            stream.write_all(&u32::try_from(answer.len()).unwrap().to_le_bytes()).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        let e = soon("the end of the attempt", attaching).await.unwrap().unwrap_err();
        let kind = if refuses { ErrorKind::VersionMismatch } else { ErrorKind::HostUnavailable };
        assert_eq!(e.kind, kind, "{e}");
        let mut greeting = Vec::new();
        soon("the end of the connection", stream.read_to_end(&mut greeting)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_says_nothing_of_itself_is_no_panic() {
    let home = TempDir::new().unwrap();
    let listener = UnixListener::bind(home.path().join(SOCKET)).unwrap();
    let attaching = tokio::spawn(Client::attach(attach(home.path())));
    let (mut stream, _) = soon("a peer", listener.accept()).await.unwrap();
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": "hello"}).to_string();
    stream.write_all(&u32::try_from(answer.len()).unwrap().to_le_bytes()).await.unwrap();
    stream.write_all(answer.as_bytes()).await.unwrap();
    let client = soon("the link", attaching).await.expect("no panic").unwrap();
    assert_eq!(client.host().as_deref(), Some(&Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_are_issued_once_on_each_host_and_tell_of_gaps() {
    let home = TempDir::new().unwrap();
    let mut host = FakeHost::start(home.path(), Some(41));
    let client = client(home.path()).await;
    let subscribe = |pattern: &str| {
        let (client, patterns) = (client.clone(), vec![pattern.to_owned()]);
        async move { client.subscribe(patterns, None, 16, None).await }
    };
    let mut kept = subscribe("agent.>").await.unwrap();
    let mut fleeting = subscribe("monitor.>").await.unwrap();
    let numbers = [host.next("event.subscribe").await, host.next("event.subscribe").await];
    host.die(home.path()).await;

    // Asked for while there is no host: it must wait for the next one, and be issued there once.
    let late = tokio::spawn(subscribe("heal.>"));
    let mut host = FakeHost::start(home.path(), None);
    let _late = soon("a subscription", late).await.unwrap().unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(host.next("event.subscribe").await);
    }
    seen.sort_by_key(|params| params["subscription"].as_u64());
    for (renewed, first) in seen.iter().zip(&numbers) {
        assert_eq!(renewed["subscription"], first["subscription"]);
        assert_eq!(renewed["after_sequence"], 41, "from where it was subscribed");
    }
    assert_eq!((&seen[2]["patterns"], &seen[2]["after_sequence"]), (&json!(["heal.>"]), &Value::Null));
    client.request("echo", Value::Null).await.unwrap();
    while let Ok((method, params)) = host.asked.try_recv() {
        assert_ne!(method, "event.subscribe", "twice: {params}");
    }

    // What is journaled is read again; of the rest some is missing, and nobody knows how much.
    let batch = soon("the gap", fleeting.next_batch(8)).await.unwrap();
    assert_eq!((batch.items.len(), batch.lost_before), (0, 1));
    host.die(home.path()).await;
    let host = FakeHost::start(home.path(), None);
    // Of the late one nothing is known, since that host told no sequence.
    let mut late = _late;
    let batch = soon("the gap", late.next_batch(8)).await.unwrap();
    assert_eq!((batch.items.len(), batch.lost_before), (0, 1));
    let nothing = tokio::time::timeout(Duration::from_millis(50), kept.next_batch(8)).await;
    assert!(nothing.is_err(), "a gap where there is none: {nothing:?}");
    host.die(home.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_about_no_request_has_the_id_null() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let mut stream = UnixStream::connect(home.path().join(SOCKET)).await.unwrap();
    stream.write_all(&[2, 0, 0, 0, b'{', b']']).await.unwrap();
    let mut answer = Vec::new();
    soon("the refusal", stream.read_to_end(&mut answer)).await.unwrap();
    let text = String::from_utf8(answer[4..].to_vec()).unwrap();
    assert!(text.contains(r#""id":null"#) && text.contains(r#""error""#), "{text}");
    side.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_learns_which_version_is_asked_and_that_nobody_waits_any_more() {
    let home = TempDir::new().unwrap();
    let side = Side::open(home.path()).await;
    let (raw, client) = (RawPeer::greet(home.path()).await, client(home.path()).await);
    let (told, mut tells) = mpsc::unbounded_channel();
    *raw.runs.told.lock().unwrap() = Some(told);
    for version in ["1.4.0", "2.0.0"] {
        raw.ask("service.register", json!({"id": "peer.echo", "version": version})).await.unwrap();
    }
    for (wanted, version) in [("^1", "1.4.0"), ("^2", "2.0.0")] {
        let call = json!({"id": "peer.echo", "version": wanted, "method": "m"});
        let answer = soon("a call", client.request("service.call", call)).await.unwrap();
        assert_eq!(answer["version"], version);
    }

    let spec = CommandSpec { args: json!(true), ..CommandSpec::new("peer wait", "waits") };
    raw.ask("command.register", json!(spec)).await.unwrap();
    raw.runs.never_answers.store(true, Ordering::SeqCst);
    let mut swallowed = raw.runs.swallowed.subscribe();
    let run = {
        let client = client.clone();
        tokio::spawn(
            async move { client.run("peer wait", json!({}), Caller::default(), |_: Update| {}).await },
        )
    };
    soon("the command", swallowed.wait_for(|n| *n == 1)).await.unwrap();
    run.abort();
    let (method, params) = soon("the cancellation", tells.recv()).await.unwrap();
    assert_eq!(method, "command.cancel");
    assert!(params["call"].is_u64(), "{params}");
    side.close().await;
}
