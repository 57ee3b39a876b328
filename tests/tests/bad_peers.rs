//! Peers that misbehave: one that stops reading, one that asks and never listens, many that talk nonsense,
//! and a host that hangs. None of them costs another one anything, nor the host its memory.
//!
//! What the protocol says of each message is in `protocol.rs`; here it is about who else suffers.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use hms_core::{ErrorKind, peer::Client};
use hms_runtime::runtime::Runtime;
use hms_tests::{Home, PATIENCE, processes, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long another one may wait meanwhile.
const ANSWER: Duration = Duration::from_secs(2);
/// What a host may take for peers that do not read: their queues, which are bounded.
const ROOM: u64 = 96 << 20;

#[test]
fn a_subscriber_that_stops_reading_costs_a_bounded_queue() {
    let home = Home::new();
    home.process("web", &[], &["sleep", "1000"]);
    let host = home.host();
    let mut silent = Peer::greet(&home);
    silent.call("event.subscribe", json!({"subscription": 1, "patterns": ["test.>"], "capacity": 4096}));
    let mut reader = home.events();

    let before = processes::memory(host);
    let mut publisher = Peer::greet(&home);
    // Ten times what the queue takes.
    let (payload, count) = ("x".repeat(1 << 10), 40_000u32);
    for n in 0..count {
        publisher.send("event.publish", json!({"type": "test.flood", "data": {"n": n, "payload": payload}}));
        if n % 5_000 == 0 {
            let took = home.ok(&["agent", "list"]).took;
            assert!(took < ANSWER, "`agent list` took {took:?} beside a flood");
        }
        // Answers must be read, or the host stops reading us: that is its back-pressure, and another test.
        publisher.drain();
    }
    publisher.call("command.list", json!({}));
    let grown = processes::memory(host).saturating_sub(before);
    println!("{count} events of 1 KiB at a peer that does not read: the host grew by {} MB", grown >> 20);
    assert!(grown < ROOM, "the host grew by {} MB", grown >> 20);

    // Who reads is served, and told what it missed by not reading fast enough; the last one arrives.
    reader.wait("the last event", PATIENCE, |e| e["type"] == "test.flood" && e["data"]["n"] == count - 1);
    assert_eq!(home.host(), host);

    // When the silent one goes, nothing of it stays.
    let mine = |home: &Home| {
        let info = home.json(&["system", "info"]);
        let all = info["events"]["subscriptions"].as_array().cloned().unwrap_or_default();
        all.iter().filter(|s| s["patterns"] == json!(["test.>"])).count()
    };
    assert_eq!(mine(&home), 1);
    drop(silent);
    until("its subscription is gone", PATIENCE, || (mine(&home) == 0).then_some(()));
    home.stop();
}

#[test]
fn a_frozen_terminal_delays_nobody() {
    let home = Home::new();
    let frozen = home.events();
    assert!(processes::signal(frozen.pid(), Signal::STOP));
    // A storm for it to miss.
    let options = ["--restart-intensity-max", "0", "--restart-backoff-initial", "0s"];
    for n in 0..5 {
        home.create(&format!("crasher-{n}"), &options, &["sh", "-c", "exit 1"]);
    }
    let mut other = home.events();
    for _ in 0..20 {
        let restarted = other.of_agent("agent.restarted", "crasher-3");
        assert!(restarted["data"]["took_ms"].as_f64().is_some_and(|ms| ms < 1000.0), "{restarted}");
        let took = home.ok(&["agent", "list"]).took;
        assert!(took < ANSWER, "{took:?}");
    }
    // Stopped while it was frozen, the system is not started again by a terminal that thaws.
    home.stop();
    assert!(processes::signal(frozen.pid(), Signal::CONT));
    let mut frozen = frozen;
    until("the thawed terminal ends", PATIENCE, || (!frozen.lives()).then_some(()));
    assert!(processes::hosts(home.path()).is_empty() && home.processes().is_empty());
}

#[test]
fn who_asks_and_never_listens_is_not_listened_to() {
    let home = Home::new();
    home.ok(&["agent", "list"]);
    let host = home.host();
    let before = processes::memory(host);
    let mut deaf = Peer::greet(&home);
    deaf.stream.set_write_timeout(Some(Duration::from_millis(500))).expect("it is a socket");
    // `command.list` answers with a hundred times what is asked. At some point the host reads no more.
    let mut asked = 0u64;
    while deaf.try_send("command.list", json!({})).is_ok() {
        asked += 1;
        assert!(asked < 200_000, "the host takes requests without end from a peer that reads no answers");
    }
    let grown = processes::memory(host).saturating_sub(before);
    println!("{asked} requests were taken; the host grew by {} MB", grown >> 20);
    assert!(grown < ROOM, "the host grew by {} MB", grown >> 20);
    let took = home.ok(&["agent", "list"]).took;
    assert!(took < ANSWER, "{took:?}");
    home.stop();
}

#[test]
fn nonsense_from_many_is_no_ones_trouble() {
    let home = Home::new();
    let child = home.process("web", &[], &["sleep", "1000"]);
    let host = home.host();
    let nonsense: [&[u8]; 7] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0xff; 64],
        &[0; 64],
        b"\x02\x00\x00\x00{]",
        b"\x10\x00\x00\x00half a fra",
        b"\x02\x00\x00\x00[]",
        b"",
    ];
    let begun = Instant::now();
    for round in 0..60 {
        let mut stream = UnixStream::connect(socket(&home)).expect("the host listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
        let _ = stream.write_all(nonsense[round % nonsense.len()]); // cut off in the midst of it, perhaps
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
    }
    // A thousand who connect, say nothing, and stay.
    let idle: Vec<UnixStream> = (0..1000).map_while(|_| UnixStream::connect(socket(&home)).ok()).collect();
    assert_eq!(idle.len(), 1000, "after {:?}", begun.elapsed());
    let took = home.ok(&["agent", "list"]).took;
    assert!(took < ANSWER, "{took:?} beside a thousand idle peers");
    drop(idle);
    assert_eq!((home.host(), home.pid("web")), (host, Some(child)));
    // They leave no descriptors behind.
    let open = || std::fs::read_dir(format!("/proc/{host}/fd")).map_or(0, Iterator::count);
    until("their descriptors are closed", PATIENCE, || (open() < 100).then_some(()));
    home.stop();
}

#[test]
fn a_host_that_hangs_is_told_and_can_be_replaced() {
    let home = Home::new();
    let child = home.process("web", &[], &["sleep", "1000"]);
    let host = home.host();
    let mut attach =
        hms_runtime::attach(home.path(), "test", Some(&hms_tests::hms_program())).expect("a home");
    let runtime = Runtime::acquire().expect("a runtime");
    // Whoever is attached already must not wait for ever either.
    attach.deadline = Duration::from_secs(4);
    let attached = runtime.block_on(Client::attach(attach.clone())).expect("there is a host");
    assert!(processes::signal(host, Signal::STOP));
    until("the host to stop", PATIENCE, || processes::is_stopped(host).then_some(()));
    let Err(e) = runtime.block_on(attached.request("command.list", json!(null))) else {
        panic!("a stopped host answered")
    };
    assert_eq!(e.message, format!("the host (pid {host}) does not answer within 4s"));
    drop(attached);

    attach.deadline = Duration::from_millis(500);
    let Err(e) = runtime.block_on(Client::attach(attach)) else { panic!("it attached to a stopped host") };
    assert_eq!(e.kind, ErrorKind::HostUnavailable, "{e}");
    assert!(e.message.contains(&format!("(pid {host})")) && e.message.contains("does not answer"), "{e}");
    assert!(e.hint.as_deref().is_some_and(|h| h.contains("kill -9")), "{e}");

    // What the hint says, works.
    processes::kill(host);
    assert_eq!(home.pid("web"), Some(child));
    assert_ne!(home.host(), host);
    home.stop();
}

/// The least that a peer needs, in frames of its own making.
struct Peer {
    stream: UnixStream,
    next: u64,
}

impl Peer {
    fn greet(home: &Home) -> Self {
        let stream = UnixStream::connect(socket(home)).expect("the host listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
        let mut peer = Self { stream, next: 1 };
        peer.call("hello", json!({"protocol": {"major": 1, "minor": 0}}));
        peer
    }

    fn send(&mut self, method: &str, params: Value) -> u64 {
        self.try_send(method, params).expect("the host reads")
    }

    fn try_send(&mut self, method: &str, params: Value) -> std::io::Result<u64> {
        let id = self.next;
        self.next += 1;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let length = u32::try_from(message.len()).expect("tests send little").to_le_bytes();
        self.stream.write_all(&[&length, message.as_bytes()].concat())?;
        Ok(id)
    }

    /// Asks, and waits for the answer.
    fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        loop {
            let mut length = [0; 4];
            self.stream.read_exact(&mut length).expect("the host answers");
            let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
            self.stream.read_exact(&mut bytes).expect("the whole frame");
            let message: Value = serde_json::from_slice(&bytes).expect("a frame is JSON");
            if message["id"] == id {
                assert!(message["error"].is_null(), "{message}");
                return message;
            }
        }
    }

    /// Throws away what came so far, in whole frames.
    fn drain(&mut self) {
        while rustix::io::ioctl_fionread(&self.stream).is_ok_and(|there| there >= 4) {
            let mut length = [0; 4];
            self.stream.read_exact(&mut length).expect("it is there");
            let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
            self.stream.read_exact(&mut bytes).expect("the whole frame");
        }
    }
}

fn socket(home: &Home) -> std::path::PathBuf {
    hms_runtime::home::runtime_dir(home.path()).expect("a home").join(hms_core::peer::SOCKET)
}
