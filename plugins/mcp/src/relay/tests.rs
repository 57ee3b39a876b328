//! The relay on a virtual clock, against servers that a test plays: one by one what it promises.

mod random;

use std::time::Duration;

use hms_core::clock::{Mono, Rng};
use serde_json::{Value, json};

use super::*;
use crate::jsonrpc::Lines;

/// Both sides of a relay, and a clock.
struct Stage {
    relay: Relay,
    now: Mono,
    from_client: Lines,
    from_server: Lines,
    /// What the client was sent.
    client: Vec<Value>,
    /// What the server was sent, with the life that got it.
    server: Vec<(u64, Value)>,
    raw: (Vec<u8>, Vec<u8>),
    actions: Vec<Action>,
    /// Starts that have not been reported.
    starting: Option<u64>,
    stopping: Option<u64>,
}

const HELLO: &str =
    r#"{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;

fn tools() -> Value {
    json!({"tools": [
        {"name": "read", "annotations": {"readOnlyHint": true}},
        {"name": "set", "annotations": {"idempotentHint": true}},
        {"name": "append", "annotations": {"readOnlyHint": false}},
    ]})
}

impl Stage {
    fn new(settings: Settings) -> Self {
        Self::with_memory(settings, None)
    }

    fn with_memory(settings: Settings, memory: Option<Memory>) -> Self {
        let mut stage = Self {
            relay: Relay::new(settings, Rng::seeded(1), memory),
            now: Duration::from_secs(1),
            from_client: Lines::default(),
            from_server: Lines::default(),
            client: Vec::new(),
            server: Vec::new(),
            raw: (Vec::new(), Vec::new()),
            actions: Vec::new(),
            starting: None,
            stopping: None,
        };
        stage.step(|relay, now, out| relay.open(now, out));
        stage
    }

    /// A server that has been greeted, with its tools known to the client.
    fn ready(settings: Settings) -> Self {
        let mut stage = Self::new(settings);
        stage.start();
        stage.say(json!({"id": "hello", "method": "initialize", "params": serde_json::from_str::<Value>(HELLO).unwrap()}));
        stage.reply(json!({"id": "hello", "result": {"capabilities": {"tools": {}}, "protocolVersion": "2025-06-18"}}));
        stage.say(json!({"method": "notifications/initialized"}));
        stage.say(json!({"id": "list", "method": "tools/list"}));
        stage.reply(json!({"id": "list", "result": tools()}));
        stage.forget();
        stage
    }

    fn forget(&mut self) {
        self.client.clear();
        self.server.clear();
        self.actions.clear();
    }

    fn step(&mut self, tell: impl FnOnce(&mut Relay, Mono, &mut Out)) {
        let mut out = Out::default();
        tell(&mut self.relay, self.now, &mut out);
        self.raw.0.extend_from_slice(&out.client);
        self.raw.1.extend_from_slice(&out.server);
        let life = self.relay.life();
        let lines = |bytes: &mut Vec<u8>| -> Vec<Value> {
            let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            let whole: Vec<u8> = bytes.drain(..end).collect();
            whole
                .split(|b| *b == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap_or(Value::Null))
                .collect()
        };
        self.client.extend(lines(&mut self.raw.0));
        self.server.extend(lines(&mut self.raw.1).into_iter().map(|m| (life, m)));
        for action in &out.actions {
            match action {
                Action::Start { life } => self.starting = Some(*life),
                Action::Stop { life, .. } => self.stopping = Some(*life),
                _ => {}
            }
        }
        self.actions.append(&mut out.actions);
    }

    /// The client says something.
    fn say(&mut self, message: Value) {
        let line = format!("{message}\n");
        let mut lines = std::mem::take(&mut self.from_client);
        self.step(|relay, now, out| lines.feed(line.as_bytes(), |piece| relay.client(now, piece, out)));
        self.from_client = lines;
    }

    fn call(&mut self, id: i64, tool: &str) {
        self.say(json!({"id": id, "method": "tools/call", "params": {"name": tool, "_meta": {"progressToken": id}}}));
    }

    /// The server says something.
    fn reply(&mut self, message: Value) {
        let line = format!("{message}\n");
        let (mut lines, life) = (std::mem::take(&mut self.from_server), self.relay.life());
        self.step(|relay, now, out| lines.feed(line.as_bytes(), |piece| relay.server(now, life, piece, out)));
        self.from_server = lines;
    }

    /// A start that was asked for succeeds.
    fn start(&mut self) {
        let life = self.starting.take().expect("a start was asked for");
        self.from_server = Lines::default();
        self.step(|relay, now, out| relay.started(now, life, 7, out));
    }

    fn exit(&mut self) {
        let life = self.relay.life();
        self.stopping = None;
        let ending = Ending { reason: "exited with code 3".into(), code: Some(3), ..Ending::default() };
        self.step(|relay, now, out| relay.exited(now, life, &ending, out));
    }

    /// Time passes; what is due on the way happens.
    fn pass(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.relay.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let before = (self.relay.deadline(), self.actions.len());
            self.step(|relay, now, out| relay.timer(now, out));
            if before == (self.relay.deadline(), self.actions.len()) {
                break;
            }
        }
        self.now = end;
    }

    /// The server answers the handshake that the relay makes by itself, and its list of tools.
    fn greet(&mut self) {
        for _ in 0..4 {
            let asked: Vec<Value> = self
                .server
                .iter()
                .filter(|(life, _)| *life == self.relay.life())
                .map(|(_, m)| m.clone())
                .collect();
            for message in asked {
                let own = message["id"].as_str().is_some_and(|id| id.starts_with("hms-"));
                match (own, message["method"].as_str()) {
                    (true, Some("initialize")) => self.reply(
                        json!({"id": message["id"], "result": {"capabilities": {"tools": {}}, "protocolVersion": "2025-06-18"}}),
                    ),
                    (true, Some("tools/list")) => self.reply(json!({"id": message["id"], "result": tools()})),
                    _ => {}
                }
            }
        }
        // Late answers to what was answered are no answers of ours any more; they were not shown to the client.
        self.client.retain(|m| !m["id"].as_str().is_some_and(|id| id.starts_with("hms-")));
    }

    fn answers(&self, id: impl Into<Value>) -> Vec<&Value> {
        let id = id.into();
        self.client.iter().filter(|m| m["id"] == id).collect()
    }

    fn sent(&self, method: &str) -> Vec<&Value> {
        self.server.iter().map(|(_, m)| m).filter(|m| m["method"] == method).collect()
    }

    fn calls_sent(&self, id: i64) -> usize {
        self.server.iter().filter(|(_, m)| m["id"] == id && m["method"] == "tools/call").count()
    }
}

fn error_of(message: &Value) -> &str {
    message["error"]["message"].as_str().unwrap_or_else(|| panic!("no error: {message}"))
}

#[test]
fn messages_pass_byte_for_byte_and_in_order() {
    let mut stage = Stage::new(Settings::default());
    stage.start();
    let said = b"{ \"id\":1 , \"method\":\"x\" }\r\n\n{\"method\":\"n\"}\nnonsense\n[{\"id\":2,\"method\":\"y\"}]\n{\"id\":\"s\",\"result\":{}}\n";
    let mut out = Out::default();
    stage.from_client.feed(said, |piece| stage.relay.client(stage.now, piece, &mut out));
    assert_eq!(out.server, said);
    let answers = b"log line\n{\"id\":9,\"method\":\"roots/list\"}\n{\"id\":1, \"result\":1}\n[{\"id\":2,\"result\":2}]\n";
    let mut out = Out::default();
    stage.from_server.feed(answers, |piece| stage.relay.server(stage.now, 1, piece, &mut out));
    assert_eq!(out.client, answers);
    assert_eq!(stage.relay.in_flight(), 0);
}

#[test]
fn an_idle_death_is_not_noticed() {
    let mut stage = Stage::ready(Settings::default());
    stage.exit();
    stage.call(1, "append");
    assert!(stage.server.is_empty(), "nobody is there: {:?}", stage.server);
    stage.start();
    assert_eq!(stage.sent("initialize")[0]["params"], serde_json::from_str::<Value>(HELLO).unwrap());
    assert_eq!(stage.calls_sent(1), 0, "not before the handshake");
    stage.greet();
    let order: Vec<&str> = stage.server.iter().filter_map(|(_, m)| m["method"].as_str()).collect();
    assert_eq!(order, ["initialize", "notifications/initialized", "tools/call", "tools/list"]);
    stage.reply(json!({"id": 1, "result": {}}));
    assert_eq!(stage.client.len(), 1, "{:?}", stage.client);
}

#[test]
fn only_what_may_be_repeated_is_repeated_and_once() {
    let mut stage = Stage::ready(Settings::default());
    for (id, tool) in [(1, "append"), (2, "read"), (3, "set"), (4, "unknown")] {
        stage.call(id, tool);
    }
    stage.exit();
    for id in [1, 4] {
        assert!(error_of(stage.answers(id)[0]).contains("exited with code 3"), "{:?}", stage.client);
    }
    assert!(stage.answers(2).is_empty() && stage.answers(3).is_empty());
    stage.start();
    stage.greet();
    assert_eq!([stage.calls_sent(1), stage.calls_sent(2), stage.calls_sent(3)], [1, 2, 2]);
    stage.exit();
    assert!(error_of(stage.answers(2)[0]).contains("sent twice"), "{:?}", stage.client);
    stage.pass(Duration::from_secs(2));
    stage.start();
    stage.greet();
    assert_eq!(stage.calls_sent(2), 2, "at most once again");
}

#[test]
fn what_the_server_has_not_read_was_not_carried_out() {
    let mut stage = Stage::ready(Settings::default());
    stage.call(1, "append");
    let read = stage.relay.given;
    stage.call(2, "append");
    let ending = Ending { reason: "was ended".into(), read: Some(read), ..Ending::default() };
    stage.step(|relay, now, out| relay.exited(now, 1, &ending, out));
    assert_eq!((stage.answers(1).len(), stage.answers(2).len()), (1, 0));
    stage.start();
    stage.greet();
    assert_eq!(
        (stage.calls_sent(1), stage.calls_sent(2)),
        (1, 2),
        "the second never reached the first server"
    );
    // And that was not its second chance: this server has read it.
    stage.exit();
    assert!(error_of(stage.answers(2)[0]).contains("may have been carried out"), "{:?}", stage.client);
}

#[test]
fn the_end_of_a_line_need_not_be_read() {
    let mut stage = Stage::ready(Settings::default());
    stage.call(1, "append");
    let ending =
        Ending { reason: "was ended".into(), read: Some(stage.relay.given - 1), ..Ending::default() };
    stage.step(|relay, now, out| relay.exited(now, 1, &ending, out));
    assert!(error_of(stage.answers(1)[0]).contains("may have been carried out"), "{:?}", stage.client);
}

#[test]
fn the_user_decides_what_is_repeated() {
    let settings = Settings { resend_tools: ["append".to_owned()].into(), ..Settings::default() };
    let mut stage = Stage::ready(settings);
    stage.call(1, "append");
    stage.exit();
    stage.start();
    stage.greet();
    assert_eq!(stage.calls_sent(1), 2);

    let mut stage = Stage::ready(Settings { resend: Resend::Nothing, ..Settings::default() });
    stage.call(1, "read");
    stage.say(json!({"id": 2, "method": "resources/read", "params": {}}));
    stage.exit();
    assert_eq!((stage.answers(1).len(), stage.answers(2).len()), (1, 1));
}

#[test]
fn a_tool_that_kills_does_not_cost_the_others_their_server() {
    let settings = Settings {
        intensity: hms_core::supervision::Intensity { max: 3, window: Duration::from_secs(60) },
        ..Settings::default()
    };
    let mut stage = Stage::ready(settings);
    for id in 1..=3 {
        stage.call(id, "append");
        stage.exit();
        stage.pass(Duration::from_secs(2));
        stage.start();
        stage.greet();
    }
    stage.call(4, "append");
    assert!(error_of(stage.answers(4)[0]).contains("refused"), "{:?}", stage.client);
    assert_eq!(stage.calls_sent(4), 0);
    stage.call(5, "read");
    stage.reply(json!({"id": 5, "result": {}}));
    assert_eq!(stage.answers(5)[0]["result"], json!({}));
    // The server itself has all of its restarts left.
    for _ in 0..3 {
        stage.exit();
        stage.pass(Duration::from_secs(20));
        stage.start();
        stage.greet();
    }
    stage.pass(Duration::from_secs(60));
    stage.call(6, "append");
    assert_eq!(stage.calls_sent(6), 1, "the window is over");
}

#[test]
fn a_server_that_cannot_live_is_given_up_and_tried_again_later() {
    let mut stage = Stage::new(Settings::default());
    stage.say(json!({"id": 1, "method": "initialize", "params": {}}));
    let mut starts = 0;
    while let Some(life) = stage.starting.take() {
        starts += 1;
        assert!(starts < 20);
        let ending = Ending {
            reason: "exited with code 2".into(),
            last_words: Some("no config".into()),
            ..Ending::default()
        };
        stage.step(|relay, now, out| {
            relay.started(now, life, 1, out);
            relay.exited(now, life, &ending, out);
        });
        stage.pass(Duration::from_secs(6));
    }
    assert_eq!(starts, 6, "the first start and five restarts");
    let error = error_of(stage.answers(1)[0]).to_owned();
    assert!(error.contains("cannot be kept alive") && error.contains("no config"), "{error}");
    stage.say(json!({"id": 2, "method": "initialize", "params": {}}));
    assert!(error_of(stage.answers(2)[0]).contains("cannot be kept alive"));
    stage.say(json!({"method": "notifications/x"}));
    stage.pass(Duration::from_secs(60));
    stage.say(json!({"id": 3, "method": "initialize", "params": {}}));
    stage.start();
    assert_eq!(stage.sent("initialize").last().unwrap()["id"], 3);
}

#[test]
fn a_lost_session_is_said_once() {
    let mut stage = Stage::ready(Settings { stateful: true, ..Settings::default() });
    stage.call(1, "read");
    stage.reply(json!({"id": 1, "result": {}}));
    stage.exit();
    stage.start();
    stage.greet();
    stage.call(2, "read");
    assert!(error_of(stage.answers(2)[0]).contains("session"), "{:?}", stage.client);
    stage.call(3, "read");
    assert_eq!(stage.calls_sent(3), 1);
    // In flight: told at once, not repeated on a fresh session, and not told again.
    stage.exit();
    assert!(error_of(stage.answers(3)[0]).contains("session"));
    stage.start();
    stage.greet();
    stage.call(4, "read");
    assert_eq!(stage.calls_sent(4), 1);
}

fn hang_settings() -> Settings {
    Settings { hang_timeout: Some(Duration::from_secs(8)), ..Settings::default() }
}

#[test]
fn slow_is_told_from_dead() {
    let mut stage = Stage::ready(hang_settings());
    stage.call(1, "read");
    stage.pass(Duration::from_secs(9));
    let probe = stage.sent("ping")[0]["id"].clone();
    stage.reply(json!({"id": probe, "result": {}}));
    assert!(stage.client.is_empty(), "the probe's answer is ours");
    // Progress, and being asked something by the server, are signs of life as well.
    stage.pass(Duration::from_secs(7));
    stage.reply(json!({"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}));
    stage.pass(Duration::from_secs(7));
    assert_eq!(stage.sent("ping").len(), 1);
    stage.reply(json!({"id": 0, "method": "elicitation/create"}));
    stage.pass(Duration::from_secs(100));
    assert_eq!(stage.sent("ping").len(), 1, "who waits for the client is not probed");
    stage.say(json!({"id": 0, "result": {}}));
    stage.pass(Duration::from_secs(20));
    assert_eq!(stage.sent("ping").len(), 2);
    // Computes without answering: more time, but not for ever.
    let mut cpu = Duration::ZERO;
    let mut looks = 0;
    while stage.stopping.is_none() {
        looks += 1;
        assert!(looks < 60, "it is replaced in the end");
        cpu += Duration::from_secs(2);
        stage.step(|relay, now, out| relay.cpu(now, 1, cpu, out));
        stage.pass(Duration::from_secs(2));
    }
    assert!(stage.now > Duration::from_secs(8 * 8));
    stage.exit();
    stage.start();
    stage.greet();
    assert_eq!(stage.calls_sent(1), 2, "a read-only call goes to the next one");
}

#[test]
fn a_dead_server_is_replaced_and_says_why() {
    let mut stage = Stage::ready(hang_settings());
    stage.call(1, "append");
    stage.pass(Duration::from_secs(8));
    stage.step(|relay, now, out| relay.cpu(now, 1, Duration::ZERO, out));
    stage.pass(Duration::from_secs(2));
    assert!(stage.actions.contains(&Action::Measure { life: 1 }));
    stage.step(|relay, now, out| relay.cpu(now, 1, Duration::from_millis(1), out));
    assert_eq!(stage.stopping, Some(1));
    stage.call(2, "read");
    stage.exit();
    assert!(
        error_of(stage.answers(1)[0]).contains("hung (`append` had no answer for 10s"),
        "{:?}",
        stage.client
    );
    stage.start();
    stage.greet();
    assert_eq!((stage.calls_sent(1), stage.calls_sent(2)), (1, 1));
}

#[test]
fn the_clients_deadline_is_learned() {
    let mut stage = Stage::ready(hang_settings());
    stage.call(1, "read");
    stage.pass(Duration::from_secs(5));
    stage.say(json!({"method": "notifications/cancelled", "params": {"requestId": 1, "reason": "Request timed out"}}));
    let probe = stage.sent("ping")[0]["id"].clone();
    stage.reply(json!({"id": probe, "error": {"code": -32601, "message": "no"}}));
    stage.call(2, "read");
    stage.pass(Duration::from_millis(2_600));
    assert_eq!(stage.sent("ping").len(), 2, "well before five seconds");
}

#[test]
fn late_answers_and_equal_ids_of_two_servers_are_kept_apart() {
    let mut stage = Stage::ready(Settings::default());
    stage.reply(json!({"id": 0, "method": "sampling/createMessage", "params": {"a": 1}}));
    stage.exit();
    assert_eq!(stage.client.last().unwrap()["params"]["requestId"], 0, "the client may stop working on it");
    stage.start();
    stage.greet();
    stage.reply(json!({"id": 0, "method": "sampling/createMessage", "params": {"a": 2}}));
    let alias = stage.client.last().unwrap()["id"].clone();
    assert_ne!(alias, json!(0));
    stage.say(json!({"id": 0, "result": {"of": 1}}));
    stage.say(json!({"id": alias, "result": {"of": 2}}));
    let answers: Vec<&Value> =
        stage.server.iter().map(|(_, m)| m).filter(|m| m.get("result").is_some()).collect();
    assert_eq!(answers, [&json!({"id": 0, "result": {"of": 2}})]);
    stage.reply(json!({"id": 0, "method": "roots/list"}));
    assert_eq!(stage.client.last().unwrap()["id"], 0, "the late answer came: the id is free again");
}

#[test]
fn subscriptions_and_levels_survive() {
    let mut stage = Stage::ready(Settings::default());
    for (id, method, params) in [
        (1, "resources/subscribe", json!({"uri": "a"})),
        (2, "resources/subscribe", json!({"uri": "b"})),
        (3, "resources/unsubscribe", json!({"uri": "a"})),
        (4, "logging/setLevel", json!({"level": "debug"})),
    ] {
        stage.say(json!({"id": id, "method": method, "params": params}));
        stage.reply(json!({"id": id, "result": {}}));
    }
    stage.forget();
    stage.exit();
    stage.start();
    stage.greet();
    assert_eq!(stage.sent("logging/setLevel")[0]["params"], json!({"level": "debug"}));
    let subscribed: Vec<&Value> =
        stage.sent("resources/subscribe").into_iter().map(|m| &m["params"]).collect();
    assert_eq!(subscribed, [&json!({"uri": "b"})]);
    assert!(stage.client.is_empty(), "{:?}", stage.client);
}

#[test]
fn changed_tools_are_announced_and_equal_ones_are_not() {
    let mut stage = Stage::ready(Settings::default());
    stage.exit();
    stage.start();
    stage.greet();
    assert!(stage.client.is_empty(), "{:?}", stage.client);
    stage.exit();
    stage.pass(Duration::from_secs(6));
    stage.start();
    let hello = stage.sent("initialize").last().unwrap()["id"].clone();
    stage.reply(
        json!({"id": hello, "result": {"capabilities": {"tools": {}}, "protocolVersion": "2025-06-18"}}),
    );
    let list = stage.sent("tools/list").last().unwrap()["id"].clone();
    stage.reply(json!({"id": list, "result": {"tools": [{"name": "other"}]}}));
    assert_eq!(stage.client, [json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})]);
}

#[test]
fn the_stateless_era_needs_no_handshake_and_no_ping() {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientInfo": {"name": "c"}});
    let mut stage = Stage::new(hang_settings());
    stage.start();
    let with = |mut params: Value| {
        params["_meta"] = meta.clone();
        params
    };
    stage.say(json!({"id": 1, "method": "server/discover", "params": with(json!({}))}));
    stage.reply(json!({"id": 1, "result": {}}));
    stage.say(json!({"id": 2, "method": "tools/list", "params": with(json!({}))}));
    stage.reply(json!({"id": 2, "result": tools()}));
    let listen = with(json!({"notifications": {"toolsListChanged": true}}));
    stage.say(json!({"id": "sub", "method": "subscriptions/listen", "params": listen}));
    let ack = json!({"method": "notifications/subscriptions/acknowledged",
        "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": "sub"}, "notifications": {}}});
    stage.reply(ack.clone());
    stage.forget();
    stage.say(json!({"id": 3, "method": "tools/call", "params": with(json!({"name": "read"}))}));
    stage.exit();
    stage.start();
    let order: Vec<&str> = stage.server.iter().filter_map(|(_, m)| m["method"].as_str()).collect();
    assert_eq!(
        order,
        ["tools/call", "subscriptions/listen", "tools/call", "tools/list"],
        "{:?}",
        stage.server
    );
    let own = stage.server.last().unwrap().1.clone();
    assert_eq!(own["params"]["_meta"], meta, "our own requests carry what the era asks for");
    stage.reply(ack);
    assert!(stage.client.is_empty(), "the client knows that it listens: {:?}", stage.client);
    stage.reply(json!({"id": own["id"], "result": {"tools": []}}));
    assert_eq!(stage.client[0]["method"], "notifications/tools/list_changed");
    assert_eq!(stage.client[0]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "sub");
    stage.pass(Duration::from_secs(12));
    assert!(stage.sent("ping").is_empty() && stage.sent("server/discover").len() == 1, "{:?}", stage.server);
}

#[test]
fn a_slow_start_is_answered_from_memory_and_checked() {
    let memory = Memory {
        hello: serde_json::from_str(HELLO).unwrap(),
        greeting: serde_json::value::to_raw_value(
            &json!({"capabilities": {"tools": {}}, "protocolVersion": "2025-06-18"}),
        )
        .ok(),
        tools: serde_json::value::to_raw_value(&tools()).ok(),
        discovery: None,
    };
    let warm = Settings { warm: true, ..Settings::default() };
    let mut stage = Stage::with_memory(warm.clone(), Some(memory.clone()));
    let hello: Value = serde_json::from_str(HELLO).unwrap();
    stage.say(json!({"id": 1, "method": "initialize", "params": hello}));
    stage.say(json!({"method": "notifications/initialized"}));
    stage.say(json!({"id": 2, "method": "tools/list"}));
    stage.call(3, "read");
    assert_eq!((stage.answers(1).len(), stage.answers(2).len(), stage.answers(3).len()), (1, 1, 0));
    stage.start();
    stage.greet();
    let order: Vec<&str> = stage.server.iter().filter_map(|(_, m)| m["method"].as_str()).collect();
    assert_eq!(order, ["initialize", "notifications/initialized", "tools/call", "tools/list"]);
    assert_eq!(stage.client.len(), 2, "{:?}", stage.client);
    // Another client is not answered with what was said to this one.
    let mut stage = Stage::with_memory(warm, Some(memory));
    stage.say(json!({"id": 1, "method": "initialize", "params": {"protocolVersion": "2024-11-05", "capabilities": {}}}));
    assert!(stage.client.is_empty());
}

#[test]
fn long_lines_are_cut_off_cleanly_when_the_server_dies() {
    let mut stage = Stage::ready(Settings::default());
    stage.call(1, "append");
    let half = format!("{{\"result\":\"{}", "x".repeat(2 << 20));
    let mut lines = Lines::default();
    stage.step(|relay, now, out| lines.feed(half.as_bytes(), |piece| relay.server(now, 1, piece, out)));
    assert!(stage.raw.0.len() > 1 << 20, "it streams");
    stage.exit();
    assert_eq!(stage.client[0], Value::Null, "what was cut off is no JSON, and ends");
    assert!(error_of(stage.answers(1)[0]).contains("exited with code 3"));
    // The other way: the rest of a long request does not reach the next server.
    stage.start();
    stage.greet();
    stage.forget();
    let long = format!(
        "{{\"method\":\"tools/call\",\"params\":{{\"name\":\"append\",\"arguments\":\"{}\"}},\"id\":2}}\n",
        "y".repeat(3 << 20)
    );
    let (head, tail) = long.as_bytes().split_at(2 << 20);
    let mut lines = Lines::default();
    stage.step(|relay, now, out| lines.feed(head, |piece| relay.client(now, piece, out)));
    stage.raw.1.clear();
    stage.exit();
    stage.pass(Duration::from_secs(6));
    stage.start();
    stage.greet();
    stage.step(|relay, now, out| lines.feed(tail, |piece| relay.client(now, piece, out)));
    assert!(error_of(stage.answers(2)[0]).contains("exited with code 3"), "{:?}", stage.client);
    assert!(stage.raw.1.is_empty());
    stage.call(3, "read");
    assert_eq!(stage.calls_sent(3), 1, "and then all is well");
}

#[test]
fn a_batch_is_answered_as_a_batch() {
    let mut stage = Stage::ready(Settings::default());
    stage.say(json!([{"id": 1, "method": "tools/list"}, {"method": "n"}, {"id": 2, "method": "ping"}]));
    stage.exit();
    let batch = stage.client[0].as_array().expect("a batch");
    assert_eq!(batch.iter().map(|m| m["id"].as_i64()).collect::<Vec<_>>(), [Some(1), Some(2)]);
}

#[test]
fn a_batch_is_told_of_a_lost_session_as_well() {
    let mut stage = Stage::ready(Settings { stateful: true, ..Settings::default() });
    stage.call(1, "read");
    stage.reply(json!({"id": 1, "result": {}}));
    stage.exit();
    stage.start();
    stage.greet();
    let call = json!({"id": 2, "method": "tools/call", "params": {"name": "read"}});
    stage.say(json!([call, {"id": 3, "method": "ping"}]));
    let told = stage.client.last().and_then(|m| m.as_array()).expect("a batch");
    assert!(told.len() == 2 && told.iter().all(|m| error_of(m).contains("session")), "{told:?}");
    assert_eq!(stage.calls_sent(2), 0);
}

#[test]
fn memory_is_given_back_when_nobody_is_hurt() {
    let mut stage = Stage::ready(Settings { memory_limit: Some(100), ..Settings::default() });
    stage.call(1, "append");
    stage.step(|relay, _, out| relay.memory(1, 120, out));
    assert_eq!(stage.stopping, None);
    stage.reply(json!({"id": 1, "result": {}}));
    assert_eq!(stage.stopping, Some(1), "as soon as no call is in flight");
    stage.exit();
    stage.start();
    stage.greet();
    stage.call(2, "append");
    stage.step(|relay, _, out| relay.memory(2, 151, out));
    assert_eq!(stage.stopping, Some(2), "half more is too much to wait");
    stage.exit();
    assert!(error_of(stage.answers(2)[0]).contains("memory"));
}

#[test]
fn what_is_halted_waits_a_moment_and_is_then_refused() {
    let mut stage = Stage::ready(Settings::default());
    stage.step(|relay, now, out| relay.halt(now, true, out));
    stage.exit();
    stage.call(1, "read");
    stage.step(|relay, now, out| relay.resume(now, out));
    stage.start();
    stage.greet();
    assert_eq!(stage.calls_sent(1), 1);
    stage.reply(json!({"id": 1, "result": {}}));
    stage.step(|relay, now, out| relay.halt(now, true, out));
    stage.exit();
    stage.call(2, "read");
    stage.pass(Duration::from_secs(11));
    stage.call(3, "read");
    for id in [2, 3] {
        assert!(error_of(stage.answers(id)[0]).contains("on purpose"));
    }
}
