//! A peer written from `docs/protocol.md` alone: the standard library's socket, and JSON. What this file
//! knows of HMS is what that page says; should one of them be wrong, this fails.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use hms_tests::{Home, PATIENCE, until};
use serde_json::{Value, json};

const MAX_FRAME: u32 = 16 << 20;

/// A conversation with the host.
struct Raw {
    stream: UnixStream,
    next: u64,
    /// What came while something else was waited for.
    seen: Vec<Value>,
}

impl Raw {
    /// Connects, and says nothing yet.
    fn connect(home: &Home) -> Self {
        // Starts a host where there is none.
        home.ok(&["agent", "list"]);
        let socket = home.json(&["system", "status"])["host"]["socket"].as_str().map(PathBuf::from);
        let stream =
            UnixStream::connect(socket.expect("`system status` names the socket")).expect("a host listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
        Self { stream, next: 1, seen: Vec::new() }
    }

    /// Connects and says hello.
    fn greet(home: &Home) -> Self {
        let mut raw = Self::connect(home);
        raw.call("hello", json!({"protocol": {"major": 1, "minor": 0}})).expect("the host speaks 1.0");
        raw
    }

    fn send(&mut self, message: &Value) {
        let bytes = message.to_string().into_bytes();
        let length = u32::try_from(bytes.len()).expect("tests send little");
        self.raw(&[&length.to_le_bytes()[..], &bytes].concat());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the host reads");
    }

    /// The next message; `None` at the end of the conversation.
    fn read(&mut self) -> Option<Value> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            outcome => outcome.expect("the host answers in time"),
        }
        let length = u32::from_le_bytes(length);
        assert!(length <= MAX_FRAME, "a frame of {length} bytes");
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes).expect("the whole frame");
        let message: Value = serde_json::from_slice(&bytes).expect("a frame is JSON");
        assert_eq!(message["jsonrpc"], "2.0", "{message}");
        Some(message)
    }

    /// The first message, of those seen or yet to come, that fits.
    #[track_caller]
    fn wait(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.seen.iter().position(&fits) {
            return self.seen.remove(at);
        }
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let message = self
                .read()
                .unwrap_or_else(|| panic!("{what}: the conversation ended; seen: {:#?}", self.seen));
            if fits(&message) {
                return message;
            }
            self.seen.push(message);
        }
        panic!("{what}: not within {PATIENCE:?}; seen: {:#?}", self.seen);
    }

    /// Sends a request; its id.
    fn ask(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    /// The answer to a request: its result, or its error.
    #[track_caller]
    fn answer(&mut self, id: u64) -> Result<Value, Value> {
        let mut answer = self.wait("an answer", |m| m["id"] == id && m["method"].is_null());
        match answer.get_mut("error") {
            Some(error) => Err(error.take()),
            None => Ok(answer.get_mut("result").expect("an answer has a result or an error").take()),
        }
    }

    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.ask(method, params);
        self.answer(id)
    }

    fn notify(&mut self, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    /// The next notification of a method: its params.
    #[track_caller]
    fn notified(&mut self, method: &str) -> Value {
        self.wait(method, |m| m["method"] == method && m["id"].is_null())["params"].take()
    }

    /// Answers the host's next request of a method; what it asked.
    #[track_caller]
    fn serve(&mut self, method: &str, result: Value) -> Value {
        let mut request = self.wait(method, |m| m["method"] == method && m["id"].is_u64());
        self.send(&json!({"jsonrpc": "2.0", "id": request["id"], "result": result}));
        request["params"].take()
    }

    /// The host says why, in an error that belongs to no request, and closes.
    #[track_caller]
    fn cut_off(mut self, word: &str) {
        let last = self.wait("why it is cut off", |m| m["error"].is_object());
        assert_eq!(last.get("id"), Some(&Value::Null), "{last}");
        fails(Err(last["error"].clone()), -32600, "protocol", word);
        assert_eq!(self.read(), None, "the host closes");
    }
}

/// It is an error of this code and kind, and its message has this word.
#[track_caller]
fn fails(outcome: Result<Value, Value>, code: i64, kind: &str, word: &str) -> Value {
    let error = outcome.expect_err(word);
    assert_eq!((error["code"].as_i64(), error["data"]["kind"].as_str()), (Some(code), Some(kind)), "{error}");
    assert_eq!(error["message"], error["data"]["message"]);
    assert!(error["message"].as_str().is_some_and(|m| m.contains(word)), "`{word}` is not in {error}");
    error
}

#[test]
fn a_peer_says_hello_and_runs_commands() {
    let home = Home::new();
    let mut peer = Raw::connect(&home);

    fails(peer.call("command.list", json!({})), -32600, "protocol", "before `hello`");
    let error = fails(
        peer.call("hello", json!({"protocol": {"major": 2, "minor": 0}})),
        -32000,
        "version-mismatch",
        "the host speaks protocol 1",
    );
    assert!(error["data"]["hint"].as_str().is_some_and(|h| h.contains("the host is older")), "{error}");
    let error = fails(peer.call("hello", json!({"protocol": {"major": 0}})), -32000, "version-mismatch", "1");
    assert!(error["data"]["hint"].as_str().is_some_and(|h| h.contains("this program is older")), "{error}");
    fails(peer.call("hello", json!({})), -32602, "invalid-argument", "protocol");

    // After all that the conversation goes on.
    let hello = json!({"protocol": {"major": 1, "minor": 7}, "client": {"name": "test"}, "later": true});
    let hello = peer.call("hello", hello).expect("a greater minor is fine");
    assert_eq!(hello["protocol"], json!({"major": 1, "minor": 0}));
    for feature in ["commands", "events", "services", "agents", "journal"] {
        assert!(hello["features"].as_array().is_some_and(|f| f.contains(&json!(feature))), "{hello}");
    }
    assert_eq!(hello["host"]["pid"], home.host());
    assert_eq!(hello["host"]["home"], home.path().to_str().expect("it is text"));

    let list = peer.call("command.list", json!({})).expect("commands are listed");
    let spec =
        list.as_array().into_iter().flatten().find(|c| c["path"] == "agent list").expect("it is there");
    assert_eq!((&spec["runs"], &spec["effect"]), (&json!("host"), &json!("read")));

    let run = |call: u64, path: &str, args: Value| json!({"call": call, "path": path, "args": args});
    assert_eq!(peer.call("command.run", json!({"call": 1, "path": "agent list"})), Ok(json!([])));
    let create = json!({"type": "process", "name": "web", "config": {"command": [home.child(), "sleep"]}});
    let made = peer.call("command.run", run(2, "agent create", create)).expect("it is created");
    assert_eq!(made["pid"], home.pid("web").expect("it runs"));

    fails(peer.call("command.run", run(3, "agent fly", json!({}))), -32000, "not-found", "`agent fly`");
    fails(peer.call("command.run", run(4, "agent status", json!({}))), -32602, "invalid-argument", "`agent`");
    fails(peer.call("command.run", run(5, "system run", json!({}))), -32000, "not-supported", "process");
    fails(peer.call("command.run", json!({"path": "agent list"})), -32602, "invalid-argument", "call");
    fails(peer.call("agent.fly", json!({})), -32600, "protocol", "no method `agent.fly`");
    home.stop();
}

#[test]
fn a_run_tells_what_it_does_and_can_be_cancelled() {
    let home = Home::new();
    home.process("counter", &[], &[home.child(), "count", "10"]);
    let mut peer = Raw::greet(&home);

    let args = json!({"agent": "counter", "stream": "stdout", "since_offset": 0, "follow": true});
    let follow = peer.ask("command.run", json!({"call": 7, "path": "agent logs", "args": args}));
    let mut lines = Vec::new();
    while lines.len() < 20 {
        let update = peer.notified("command.update");
        assert_eq!(update["call"], 7);
        if update["update"]["kind"] == "item" {
            lines.push(update["update"]["value"]["line"].as_str().unwrap_or_default().to_owned());
        }
    }
    let want: Vec<String> = (1..=20).map(|n| n.to_string()).collect();
    assert_eq!(lines, want);

    // Requests run side by side: this one is answered while the other goes on.
    assert!(peer.call("type.list", json!({})).is_ok());
    peer.notify("command.cancel", json!({"call": 7}));
    let _ = peer.answer(follow);
    // Nothing comes after the answer.
    let settled = peer.call("command.list", json!({}));
    assert!(settled.is_ok());
    let after = peer.read_for_a_moment();
    assert!(after.is_none(), "{after:?}");
    home.stop();
}

impl Raw {
    /// A message that should not come: the counter of that test prints every 10 ms.
    fn read_for_a_moment(&mut self) -> Option<Value> {
        self.stream.set_read_timeout(Some(Duration::from_millis(300))).expect("it is a socket");
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            other => Some(json!(format!("{other:?} {byte:?}"))),
        }
    }
}

#[test]
fn events_go_out_come_in_and_are_read_again() {
    let home = Home::new();
    let mut peer = Raw::greet(&home);
    let subscribe = |number: u64, patterns: &[&str], after: Option<u64>| json!({"subscription": number, "patterns": patterns, "after_sequence": after});

    let filter = json!({"subscription": 1, "patterns": ["build.*"], "filter": "data.ok == true"});
    assert!(peer.call("event.subscribe", filter).expect("it fits")["sequence"].is_u64());
    for ok in [false, true] {
        let publish = json!({"type": "build.done", "subject": "main", "data": {"ok": ok}});
        let published = peer.call("event.publish", publish).expect("it is published");
        assert!(published["id"].is_string() && published["sequence"].is_null(), "{published}");
    }
    let batch = peer.notified("event.batch");
    assert_eq!((&batch["subscription"], &batch["lost"]), (&json!(1), &json!(0)));
    let event = &batch["events"][0];
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(
        (&event["type"], &event["subject"], &event["data"]["ok"]),
        (&json!("build.done"), &json!("main"), &json!(true))
    );
    assert!(event["source"].as_str().is_some_and(|s| s.starts_with("/peers/")), "{event}");

    // What is durable has a sequence, and is there for who comes later.
    let publish = json!({"type": "build.kept", "source": "/test", "data": 1, "durable": true});
    let kept = peer.call("event.publish", publish).expect("it is kept");
    let sequence = kept["sequence"].as_u64().expect("it has a sequence");
    let mut later = Raw::greet(&home);
    later.call("event.subscribe", subscribe(1, &["build.>"], Some(0))).expect("there is a journal");
    let event = later.notified("event.batch")["events"][0].take();
    assert_eq!((&event["id"], &event["source"]), (&kept["id"], &json!("/test")));
    assert_eq!(event["sequence"].as_str().and_then(|s| s.parse().ok()), Some(sequence));

    // And after that sequence there is nothing, until something new.
    later.call("event.unsubscribe", json!({"subscription": 1})).expect("it was subscribed");
    later.call("event.subscribe", subscribe(2, &["build.>"], Some(sequence))).expect("there is a journal");
    peer.call("event.publish", json!({"type": "build.last"})).expect("it is published");
    let batch = later.notified("event.batch");
    assert_eq!((&batch["subscription"], &batch["events"][0]["type"]), (&json!(2), &json!("build.last")));

    fails(peer.call("event.publish", json!({"type": "a..b"})), -32602, "invalid-argument", "a..b");
    let faulty = json!({"subscription": 9, "patterns": ["a"], "filter": "1 +"});
    fails(peer.call("event.subscribe", faulty), -32602, "invalid-argument", "filter");
    home.stop();
}

#[test]
fn events_that_fill_more_than_a_frame_come_in_parts() {
    let home = Home::new();
    let (mut peer, mut publisher) = (Raw::greet(&home), Raw::greet(&home));
    let subscribe = json!({"subscription": 1, "patterns": ["big"], "after_sequence": 0});
    // Kept first, so that they are all there at once when somebody subscribes.
    let data = "x".repeat(3 << 20);
    for _ in 0..8 {
        publisher
            .call("event.publish", json!({"type": "big", "data": data, "durable": true}))
            .expect("it fits a frame");
    }
    peer.call("event.subscribe", subscribe).expect("there is a journal");
    let mut events = 0;
    while events < 8 {
        let batch = peer.notified("event.batch");
        assert_eq!(batch["lost"], 0);
        events += batch["events"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(events, 8);
    home.stop();
}

#[test]
fn a_peer_offers_a_service_as_long_as_it_is_there() {
    let home = Home::new();
    let (mut adder, mut caller) = (Raw::greet(&home), Raw::greet(&home));
    let spec = json!({"id": "test.adder", "version": "1.2.0", "methods": {"add": {"summary": "adds"}}});
    assert_eq!(adder.call("service.register", spec.clone()), Ok(Value::Null));
    fails(caller.call("service.register", spec), -32000, "already-exists", "test.adder");
    let services = caller.call("service.list", json!({})).expect("services are listed");
    let listed = services.as_array().into_iter().flatten().find(|s| s["spec"]["id"] == "test.adder");
    assert_eq!(listed.expect("it is listed")["owner"]["kind"], "peer");

    let call = |args: Value| json!({"id": "test.adder", "version": "^1.1", "method": "add", "args": args});
    let id = caller.ask("service.call", call(json!([1, 2])));
    let asked = adder.serve("service.invoke", json!(3));
    assert_eq!(asked, json!({"id": "test.adder", "version": "1.2.0", "method": "add", "args": [1, 2]}));
    assert_eq!(caller.answer(id), Ok(json!(3)));

    // Its own failure arrives as it is.
    let id = caller.ask("service.call", call(json!(["one"])));
    let request = adder.wait("service.invoke", |m| m["method"] == "service.invoke");
    let data = json!({"kind": "invalid-argument", "message": "`one` is no number", "hint": "count again"});
    let error = json!({"code": -32602, "message": "`one` is no number", "data": data});
    adder.send(&json!({"jsonrpc": "2.0", "id": request["id"], "error": error}));
    assert_eq!(fails(caller.answer(id), -32602, "invalid-argument", "`one`")["data"]["hint"], "count again");

    let unknown = json!({"id": "test.adder", "method": "subtract"});
    fails(caller.call("service.call", unknown), -32000, "not-found", "subtract");
    let newer = json!({"id": "test.adder", "version": "^2", "method": "add"});
    fails(caller.call("service.call", newer), -32000, "service-unavailable", "1.2.0");
    let hurried = json!({"id": "test.adder", "method": "add", "deadline_ms": 50});
    fails(caller.call("service.call", hurried), -32000, "timeout", "50ms");

    // Under way when its peer goes: it fails at once, and the lease is gone.
    let id = caller.ask("service.call", call(json!([])));
    adder.wait("service.invoke", |m| m["method"] == "service.invoke" && m["params"]["args"] == json!([]));
    drop(adder);
    fails(caller.answer(id), -32000, "service-unavailable", "gone");
    until("the lease is gone", PATIENCE, || {
        let error = caller.call("service.call", call(json!([1]))).expect_err("nobody answers");
        (error["message"] == "no service `test.adder` is registered").then_some(())
    });
    home.stop();
}

#[test]
fn a_command_of_a_peer_is_everybodys() {
    let home = Home::new();
    let mut peer = Raw::greet(&home);
    let spec = json!({
        "path": "greet", "summary": "Greet somebody", "runs": "host",
        "args": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": false},
        "view": {"as": "text", "pointer": "/text"},
    });
    peer.call("command.register", spec).expect("the path is free");
    let mut other = Raw::greet(&home);
    let run = |args: Value| json!({"call": 1, "path": "greet", "args": args, "caller": {"source": "test"}});
    fails(other.call("command.run", run(json!({}))), -32602, "invalid-argument", "`name`");
    let id = other.ask("command.run", run(json!({"name": "you"})));
    let asked = peer.serve("command.invoke", json!({"text": "hello, you"}));
    assert_eq!((&asked["path"], &asked["args"]["name"]), (&json!("greet"), &json!("you")));
    assert_eq!(asked["caller"]["source"], "test");
    assert_eq!(other.answer(id), Ok(json!({"text": "hello, you"})));
    peer.call("command.unregister", json!({"id": "greet"})).expect("it is its own");
    fails(other.call("command.run", run(json!({"name": "you"}))), -32000, "not-found", "`greet`");
    home.stop();
}

#[test]
fn a_peer_runs_agents_and_another_goes_on_with_them() {
    let home = Home::new();
    let mut peer = Raw::greet(&home);
    let spec = json!({"name": "tally", "version": "1.0.0", "state_version": 3, "schema": {"type": "object"}});
    peer.call("type.register", spec.clone()).expect("the name is free");

    let create = json!({"call": 1, "path": "agent create", "args": {"type": "tally", "name": "t", "config": {"from": 5}}});
    let id = peer.ask("command.run", create);
    let begun = peer.serve("agent.start", json!({"ready": true}));
    assert_eq!(
        (&begun["name"], &begun["config"]["from"], &begun["snapshot"]),
        (&json!("t"), &json!(5), &Value::Null)
    );
    let agent = peer.answer(id).expect("it is created")["id"].clone();
    assert_eq!((&begun["id"], &begun["incarnation"]), (&agent, &json!(1)));

    let mut other = Raw::greet(&home);
    let ask = json!({"target": "t", "message": {"source": "test", "body": {"get": "total"}}});
    let id = other.ask("agent.ask", ask);
    let handled = peer.serve("agent.handle", json!(41));
    assert_eq!(handled["message"]["body"], json!({"get": "total"}));
    assert_eq!(other.answer(id), Ok(json!(41)));

    // It ends by itself, and is started again.
    let exited = json!({"clean": false, "reason": "tripped"});
    peer.call("agent.report", json!({"id": agent, "incarnation": 1, "exited": exited}))
        .expect("it is its own");
    let again = peer.serve("agent.start", json!({"ready": true}));
    assert_eq!(again["incarnation"], 2);
    fails(
        other.call("agent.report", json!({"id": agent, "incarnation": 2, "ready": true})),
        -32000,
        "permission-denied",
        "`tally`",
    );

    // Reports in a row keep their order as notifications.
    let health = |status: &str| {
        let issue = json!({"code": "slow", "message": "answers late", "severity": status});
        json!({"id": agent, "incarnation": 2, "health": {"status": status, "issues": [issue]}})
    };
    peer.notify("agent.report", health("critical"));
    peer.notify("agent.report", health("degraded"));
    home.status("t", "degraded");
    assert_eq!(home.agent("t")["health"], "degraded");

    // What it saved is there for the next one that offers its type.
    let snapshot = json!({"state_version": 3, "data": "NDE="});
    peer.call("agent.save", json!({"id": agent, "snapshot": snapshot})).expect("it is kept");
    drop(peer);
    let row = home.status("t", "waiting");
    assert_eq!(row["reason"], "type_unavailable", "{row}");
    other.call("type.register", spec).expect("nobody offers it");
    let resumed = other.serve("agent.start", json!({"ready": true}));
    assert_eq!((&resumed["id"], &resumed["snapshot"]), (&agent, &snapshot));
    home.status("t", "running");
    drop(other);
    home.status("t", "waiting");
    home.stop();
}

#[test]
fn who_breaks_the_protocol_is_cut_off_and_nobody_else() {
    let home = Home::new();
    let mut bystander = Raw::greet(&home);

    let mut peer = Raw::greet(&home);
    peer.raw(&(MAX_FRAME + 1).to_le_bytes());
    peer.cut_off("longer than");

    let mut peer = Raw::connect(&home);
    peer.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    peer.cut_off("longer than");

    for garbage in [&b"\x00\xff\xfe{"[..], b"[]", b"\"hello\"", b"{\"id\":1,\"method\":\"hello\"}"] {
        let mut peer = Raw::greet(&home);
        let length = u32::try_from(garbage.len()).expect("it is short");
        peer.raw(&[&length.to_le_bytes()[..], garbage].concat());
        peer.cut_off("not a JSON-RPC 2.0 message");
    }
    let mut peer = Raw::greet(&home);
    peer.send(&json!({"jsonrpc": "2.0", "id": "one", "method": "command.list"}));
    peer.cut_off("not a JSON-RPC 2.0 message");

    // In the middle of a frame.
    let mut peer = Raw::greet(&home);
    peer.raw(&[100, 0, 0, 0, b'{']);
    peer.stream.shutdown(std::net::Shutdown::Write).expect("it is a socket");
    peer.cut_off("in the middle of a frame");

    // A stray answer, an unknown notification and an unknown member are no reason.
    let mut peer = Raw::greet(&home);
    peer.send(&json!({"jsonrpc": "2.0", "id": 99, "result": 1}));
    peer.notify("weather.changed", json!({"rain": true}));
    assert!(peer.call("command.list", json!({"colour": "red"})).is_ok());

    assert!(bystander.call("command.list", json!({})).is_ok(), "others are not concerned");
    home.stop();
}

#[test]
fn the_host_says_that_it_stops() {
    let home = Home::new();
    let mut peer = Raw::greet(&home);
    let mut other = Raw::greet(&home);
    let host = home.host();
    assert_eq!(other.call("host.shutdown", json!({"detach": true})).expect("it ends")["pid"], host);
    assert_eq!(peer.notified("host.stopping"), json!({"restart": true}));
    assert_eq!(peer.read(), None, "the host closes");

    let mut peer = Raw::greet(&home);
    assert_ne!(home.host(), host);
    home.ok(&["system", "stop"]);
    assert_eq!(peer.notified("host.stopping"), json!({"restart": false}));
    assert_eq!(peer.read(), None, "the host closes");
}
