//! `mcp serve`: by raw messages, by the official SDKs of Python and TypeScript, and by the conformance suite.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use hms_tests::{
    Home, PATIENCE, hms_program,
    install::{self, NodeModules},
    until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// A client that speaks by hand. Ends its server when dropped.
struct Client {
    child: Child,
    lines: Receiver<Value>,
    /// Read and not asked for yet: notifications, requests, answers to other requests.
    kept: VecDeque<Value>,
    next: u64,
}

impl Client {
    /// Begins a session with these options and capabilities.
    fn new(home: &Home, options: &[&str], capabilities: Value) -> Self {
        let mut args = vec!["mcp", "serve"];
        args.extend_from_slice(options);
        let mut child = home
            .command(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the command line starts");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (tx, lines) = channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let message = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
                if tx.send(message).is_err() {
                    break;
                }
            }
        });
        let mut client = Self { child, lines, kept: VecDeque::new(), next: 1 };
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
            "clientInfo": {"name": "by-hand", "version": "1"}});
        let answer = client.ask("initialize", hello);
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client
    }

    fn send(&mut self, message: &Value) {
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{message}").expect("it reads");
    }

    fn begin(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    /// The first message, kept or to come, that `fits`.
    #[track_caller]
    fn wait(&mut self, what: &str, within: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.kept.iter().position(&fits) {
            return self.kept.remove(at).expect("it is there");
        }
        let end = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(message) if fits(&message) => return message,
                Ok(message) => self.kept.push_back(message),
                Err(RecvTimeoutError::Timeout) => panic!("{what}: not within {within:?}: {:?}", self.kept),
                Err(RecvTimeoutError::Disconnected) => panic!("{what}: the server has gone: {:?}", self.kept),
            }
        }
    }

    #[track_caller]
    fn answer(&mut self, id: u64) -> Value {
        self.wait("an answer", PATIENCE, |m| m["id"] == id && m.get("method").is_none())
    }

    #[track_caller]
    fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin(method, params);
        self.answer(id)
    }

    #[track_caller]
    fn notified(&mut self, method: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait(method, PATIENCE, |m| m["method"] == method && fits(&m["params"]))
    }

    /// A tool's result, whatever it is.
    #[track_caller]
    fn result(&mut self, tool: &str, arguments: Value) -> Value {
        let answer = self.ask("tools/call", json!({"name": tool, "arguments": arguments}));
        assert!(answer["result"].is_object(), "{tool}: {answer}");
        answer["result"].clone()
    }

    /// The structured content of a tool that succeeds.
    #[track_caller]
    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let result = self.result(tool, arguments);
        assert_eq!(result["isError"], false, "{tool}: {result}");
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        assert_eq!(serde_json::from_str::<Value>(text).ok().as_ref(), Some(&result["structuredContent"]));
        result["structuredContent"].clone()
    }

    /// The text of a tool that fails.
    #[track_caller]
    fn fails(&mut self, tool: &str, arguments: Value) -> String {
        let result = self.result(tool, arguments);
        assert_eq!(result["isError"], true, "{tool}: {result}");
        result["content"][0]["text"].as_str().unwrap_or_default().to_owned()
    }

    fn tools(&mut self) -> Vec<String> {
        let answer = self.ask("tools/list", json!({}));
        let tools = answer["result"]["tools"].as_array().expect("a list").clone();
        tools.iter().map(|t| t["name"].as_str().expect("a name").to_owned()).collect()
    }

    fn host_pid(&mut self) -> i32 {
        let status = self.call("system_status", json!({}));
        status["host"]["pid"].as_i64().unwrap_or_else(|| panic!("no host in {status}")) as i32
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it can be killed");
}

#[test]
fn what_is_made_by_a_tool_is_healed_and_told() {
    let home = Home::new();
    let mut client = Client::new(&home, &[], json!({}));
    let config = json!({"command": [home.child(), "sleep"]});
    client.call("agent_create", json!({"type": "process", "name": "web", "config": config}));
    client.notified("notifications/resources/list_changed", |_| true);
    let pid = client.call("agent_status", json!({"agent": "web"}))["pid"].as_i64().expect("a pid");

    for uri in ["hms://incidents", "hms://agents/web", "hms://health"] {
        assert!(client.ask("resources/subscribe", json!({"uri": uri})).get("error").is_none());
    }
    kill(pid as i32);
    for uri in ["hms://incidents", "hms://agents/web"] {
        client.notified("notifications/resources/updated", |p| p["uri"] == uri);
    }
    let history = client.call("heal_history", json!({"agent": "web", "wait": true}));
    assert_eq!(history["result"][0]["outcome"], "verified", "{history}");
    let id = history["result"][0]["id"].as_str().expect("an id");
    let read = client.ask("resources/read", json!({"uri": format!("hms://incidents/{id}")}));
    let text = read["result"]["contents"][0]["text"].as_str().expect("a text");
    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON")["agent"], "web");

    let trigger =
        json!({"name": "heal_trigger", "arguments": {"agent": "web"}, "_meta": {"progressToken": "p"}});
    let healed = client.ask("tools/call", trigger);
    assert_eq!(healed["result"]["structuredContent"]["outcome"], "verified", "{healed}");
    client.notified("notifications/progress", |p| p["progressToken"] == "p");
    client.call("agent_destroy", json!({"agents": ["web"]}));
    let gone = client.ask("resources/read", json!({"uri": "hms://agents/web"}));
    assert_eq!(gone["error"]["code"], -32002, "{gone}");
}

#[test]
fn errors_say_what_to_do() {
    let home = Home::new();
    let mut client = Client::new(&home, &[], json!({}));
    assert!(client.fails("agent_status", json!({"agent": "nobody"})).starts_with("not-found: "));
    let text = client.fails("agent_status", json!({}));
    assert!(text.starts_with("invalid-argument: ") && text.contains("agent"), "{text}");
    let unknown = client.ask("tools/call", json!({"name": "no_such", "arguments": {}}));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    let unknown = client.ask("prompts/get", json!({"name": "no-such"}));
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    let unknown = client.ask("no/such", json!({}));
    assert_eq!(unknown["error"]["code"], -32601, "{unknown}");
    // What is no message at all ends nothing.
    client.child.stdin.as_mut().expect("it is piped").write_all(b"{nonsense\n\n").expect("it reads");
    assert_eq!(client.call("agent_list", json!({})), json!({"result": []}));
}

#[test]
fn a_killed_host_is_not_noticed_by_who_reads() {
    let home = Home::new();
    let mut client = Client::new(&home, &[], json!({}));
    client.call(
        "agent_create",
        json!({"type": "process", "name": "web",
        "config": {"command": [home.child(), "sleep"]}}),
    );
    let pid = client.call("agent_status", json!({"agent": "web"}))["pid"].clone();
    client.ask("resources/subscribe", json!({"uri": "hms://agents/web"}));

    // Between two calls.
    let first = client.host_pid();
    kill(first);
    assert_eq!(client.call("agent_list", json!({}))["result"][0]["pid"], pid);
    let second = client.host_pid();
    assert_ne!(first, second);

    // Under a call that reads: it is answered by the next host.
    let arguments = json!({"patterns": ["test.never"], "seconds": 3});
    let events = client.begin("tools/call", json!({"name": "monitor_events", "arguments": arguments}));
    subscribed(&home, "test.never", true);
    kill(second);
    let answer = client.answer(events);
    assert_eq!(answer["result"]["structuredContent"], json!({"items": [], "omitted": 0, "complete": false}));
    assert_eq!(client.call("agent_status", json!({"agent": "web"}))["pid"], pid, "agents outlive the host");

    // Under one that changes something: nobody knows, and it says so.
    let third = client.host_pid();
    let healing = client.begin(
        "tools/call",
        json!({"name": "heal_trigger", "arguments": {"agent": "web"},
        "_meta": {"progressToken": 1}}),
    );
    client.notified("notifications/progress", |p| p["progressToken"] == 1);
    kill(third);
    let answer = client.answer(healing);
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let text = answer["result"]["content"][0]["text"].to_string();
    assert!(text.contains("host-unavailable") && text.contains("may or may not"), "{text}");

    // And changes are told of by each new host. The agent may be between two lives.
    let pid =
        until("a pid", PATIENCE, || client.call("agent_status", json!({"agent": "web"}))["pid"].as_i64());
    client.kept.clear();
    kill(pid as i32);
    client.notified("notifications/resources/updated", |p| p["uri"] == "hms://agents/web");
}

/// Waits until somebody is (or nobody is any more) subscribed to `pattern`.
#[track_caller]
fn subscribed(home: &Home, pattern: &str, expected: bool) {
    until("a subscription", PATIENCE, || {
        let info = home.json(&["system", "info"]).to_string();
        (info.contains(pattern) == expected).then_some(())
    });
}

#[test]
fn a_cancelled_call_cancels_its_command() {
    let home = Home::new();
    let mut client = Client::new(&home, &[], json!({}));
    let arguments = json!({"patterns": ["test.cancelled"], "seconds": 60});
    let id = client.begin("tools/call", json!({"name": "monitor_events", "arguments": arguments}));
    subscribed(&home, "test.cancelled", true);
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}));
    subscribed(&home, "test.cancelled", false);
    client.call("agent_list", json!({}));
    assert!(client.kept.iter().all(|m| m["id"] != id), "a cancelled call is not answered");
}

#[test]
fn tools_are_chosen_and_follow_the_registry() {
    let home = Home::new();
    let mut reader =
        Client::new(&home, &["--read-only", "--tools", "agent_*", "--tools", "heal_*"], json!({}));
    let tools = reader.tools();
    assert!(tools.contains(&"agent_list".into()) && tools.contains(&"heal_history".into()), "{tools:?}");
    assert!(!tools.iter().any(|t| t == "agent_stop" || t == "system_info"), "{tools:?}");
    let refused = reader.ask("tools/call", json!({"name": "agent_stop", "arguments": {"agents": ["x"]}}));
    assert_eq!(refused["error"]["code"], -32602, "{refused}");

    let mut client = Client::new(&home, &[], json!({}));
    client.call("agent_list", json!({}));
    let before = client.tools();
    let socket = client.call("system_info", json!({}))["host"]["socket"].as_str().expect("a path").to_owned();
    let mut peer = UnixStream::connect(socket).expect("the host listens");
    let spec = json!({"path": "build now", "summary": "Build the project", "runs": "host",
        "args": {"type": "object", "properties": {}}, "view": {"as": "text", "pointer": ""}});
    for (id, method, params) in
        [(1, "hello", json!({"protocol": {"major": 1, "minor": 0}})), (2, "command.register", spec)]
    {
        let frame = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        peer.write_all(&(frame.len() as u32).to_le_bytes()).expect("it reads");
        peer.write_all(frame.as_bytes()).expect("it reads");
        let mut length = [0; 4];
        peer.read_exact(&mut length).expect("it answers");
        let mut answer = vec![0; u32::from_le_bytes(length) as usize];
        peer.read_exact(&mut answer).expect("it answers");
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert!(answer.get("error").is_none(), "{answer}");
    }
    client.notified("notifications/tools/list_changed", |_| true);
    assert!(client.tools().contains(&"build_now".into()));
    drop(peer);
    client.notified("notifications/tools/list_changed", |_| true);
    assert_eq!(client.tools(), before);
}

#[test]
fn what_ends_the_system_needs_a_yes_and_ends_it() {
    let home = Home::new();
    let mut client = Client::new(&home, &[], json!({"elicitation": {}}));
    client.call(
        "agent_create",
        json!({"type": "process", "name": "web",
        "config": {"command": [home.child(), "sleep"]}}),
    );
    for (action, content, refused) in
        [("decline", json!(null), true), ("accept", json!({"confirm": true}), false)]
    {
        let id = client.begin("tools/call", json!({"name": "system_reset", "arguments": {}}));
        let question = client.wait("a question", PATIENCE, |m| m["method"] == "elicitation/create");
        let result = json!({"action": action, "content": content});
        client.send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result}));
        assert_eq!(client.answer(id)["result"]["isError"], refused);
    }
    // Nobody starts it again but who needs it.
    assert_eq!(client.call("system_status", json!({}))["state"], "stopped");
    assert_eq!(client.call("agent_list", json!({})), json!({"result": []}));
    assert_eq!(client.call("system_status", json!({}))["state"], "running");
    assert_eq!(client.call("system_stop", json!({}))["stopped"], true);

    let mut plain = Client::new(&home, &[], json!({}));
    assert!(
        plain.fails("system_reset", json!({})).contains("confirm"),
        "a model must say that the user agreed"
    );
    plain.call("system_reset", json!({"confirm": true}));
}

#[test]
fn it_ends_with_its_client() {
    let home = Home::new();
    let mut client = Client::new(&home, &[], json!({}));
    client.call("agent_list", json!({}));
    drop(client.child.stdin.take());
    let ended = until("the end", Duration::from_secs(5), || client.child.try_wait().expect("a child"));
    assert!(ended.success(), "{ended}");

    let mut client = Client::new(&home, &[], json!({}));
    let pid = Pid::from_raw(client.child.id() as i32).expect("a pid");
    kill_process(pid, Signal::TERM).expect("it can be told");
    let ended = until("the end", Duration::from_secs(5), || client.child.try_wait().expect("a child"));
    assert_eq!(ended.code(), Some(143), "{ended}");
}

// ---- over HTTP, and by official clients ------------------------------------------------------------

/// `mcp serve --listen`; its address and token. Ends when dropped.
struct Listening {
    child: Child,
    address: String,
    token: String,
}

impl Listening {
    fn new(home: &Home, options: &[&str]) -> Self {
        let mut args = vec!["mcp", "serve", "--listen", "127.0.0.1:0"];
        args.extend_from_slice(options);
        let mut child = home.command(&args).stderr(Stdio::piped()).spawn().expect("the command line starts");
        let mut line = String::new();
        let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
        said.read_line(&mut line).expect("it speaks");
        let (url, token) = line.trim().split_once(", token ").unwrap_or((line.trim(), ""));
        let address = url.trim_start_matches("listening at http://").trim_end_matches("/mcp");
        Self { child, address: address.to_owned(), token: token.to_owned() }
    }

    fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// The status of one request.
    fn status(&self, path: &str, headers: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        let host = &self.address;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n")
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn http_wants_the_token() {
    let home = Home::new();
    let server = Listening::new(&home, &[]);
    assert_eq!(server.status("/", ""), "404");
    assert_eq!(server.status("/mcp", ""), "401");
    assert_eq!(server.status("/mcp", "Authorization: Bearer wrong\r\n"), "401");
    // Let in, and told that this is no way to begin a session.
    let header = format!("Authorization: Bearer {}\r\n", server.token);
    assert!(!["401", "404"].contains(&server.status("/mcp", &header).as_str()));
    let foreign = home.fails(&["mcp", "serve", "--listen", "0.0.0.0:0", "--token", "none"]);
    assert!(foreign.message.contains("token"), "{foreign:?}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mcp/serve")
}

/// Runs a client to its end; what it said last, as JSON.
#[track_caller]
fn run_client(home: &Home, command: &mut Command) -> Value {
    let done = command.env("HMS_HOME", home.path()).output().expect("the client starts");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}{err}");
    serde_json::from_str(out.trim().lines().last().unwrap_or_default())
        .unwrap_or_else(|e| panic!("{e}: {out}{err}"))
}

#[test]
fn the_python_sdk_heals_in_both_eras() {
    let python = install::python_sdk();
    for (mode, version) in [("legacy", "2025-11-25"), ("auto", "2026-07-28")] {
        let home = Home::new();
        let mut command = Command::new(&python);
        command.args(["-W", "ignore"]).arg(folder().join("client.py")).arg(mode).arg(hms_program());
        let said = run_client(&home, &mut command);
        assert_eq!(said["version"], version, "{said}");
    }
}

#[test]
fn the_typescript_sdk_heals_over_stdio_and_http() {
    let modules = NodeModules::of("serve");
    let (program, client) = (modules.node(), modules.script(&folder().join("client.mjs")));

    let home = Home::new();
    let said = run_client(&home, Command::new(&program).arg(&client).arg(hms_program()));
    assert!(said["read"].as_u64() >= Some(10), "{said}");

    let home = Home::new();
    let server = Listening::new(&home, &[]);
    let mut command = Command::new(&program);
    command.arg(&client).args([server.url(), server.token.clone()]);
    let said = run_client(&home, &mut command);
    assert!(said["read"].as_u64() >= Some(10), "{said}");
}

/// Scenarios of the suite that need nothing of the everything-server's own. All others call its `test_*` tools
/// and prompts, read its `test://` resources, or want the deprecated capability of logging.
const GENERIC: [&str; 8] = [
    "server-initialize",
    "ping",
    "completion-complete",
    "tools-list",
    "server-sse-multiple-streams",
    "resources-list",
    "prompts-list",
    "dns-rebinding-protection",
];

#[test]
fn the_conformance_suite_passes_where_it_is_generic() {
    let modules = NodeModules::of("serve");
    let home = Home::new();
    let server = Listening::new(&home, &["--token", "none"]);
    for scenario in GENERIC {
        let done = Command::new(modules.node())
            .arg(modules.file("@modelcontextprotocol/conformance/dist/index.js"))
            .args(["server", "--url", &server.url(), "--scenario", scenario])
            .current_dir(home.around())
            .output()
            .expect("node starts");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && !said.contains(" 0 passed"), "{scenario}: {said}");
    }
}
