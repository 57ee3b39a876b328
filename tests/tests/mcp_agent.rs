//! A wrapped MCP server as an agent of the host: the real program between a client and a real server.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use hms_tests::{Home, PATIENCE, mcp_program, processes, text, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// An MCP client that wraps its server.
struct Client {
    wrapper: Child,
    says: ChildStdin,
    hears: BufReader<ChildStdout>,
    asked: u64,
}

impl Client {
    /// Starts `mcp wrap OPTIONS… -- sh -c 'echo …; exec hms-test-mcp DIR'` and greets the server.
    fn of(home: &Home, options: &[&str]) -> Self {
        let folder = home.file("server");
        std::fs::create_dir_all(&folder).expect("a folder can be made");
        let script = format!("echo hello from life $$ >&2; exec {} {}", text(&mcp_program()), text(&folder));
        let mut args = vec!["mcp", "wrap"];
        args.extend_from_slice(options);
        args.extend_from_slice(&["--", "sh", "-c", &script]);
        let mut wrapper = home
            .command(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(home.file("wrapper.err")).expect("it can be made"))
            .spawn()
            .expect("the program under test can be started");
        let says = wrapper.stdin.take().expect("it is piped");
        let hears = BufReader::new(wrapper.stdout.take().expect("it is piped"));
        let mut client = Self { wrapper, says, hears, asked: 0 };
        let info = json!({"name": "test", "version": "1"});
        client.ask(
            "initialize",
            json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info}),
        );
        client.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        client.ask("tools/list", json!({}));
        client
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.says, "{message}").expect("the wrapper reads");
    }

    /// The answer to a request.
    #[track_caller]
    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.asked += 1;
        let id = self.asked;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        loop {
            let mut line = String::new();
            self.hears.read_line(&mut line).expect("the wrapper can be read");
            assert!(!line.is_empty(), "the wrapper ended instead of answering `{method}`");
            let message: Value = serde_json::from_str(&line).expect("a line is a message");
            if message["id"] == id {
                return message;
            }
        }
    }

    #[track_caller]
    fn call(&mut self, tool: &str) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": {"text": "x"}}))
    }

    /// The process that answers now.
    #[track_caller]
    fn server(&mut self) -> i32 {
        let answer = self.call("whoami");
        let said =
            answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        said.rsplit(' ').next().and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{said}"))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.wrapper.id()).expect("a pid")
    }

    /// The client goes.
    fn leave(mut self) {
        drop(self.says);
        let status = self.wrapper.wait().expect("it can be waited for");
        assert!(status.success(), "{status}");
    }
}

fn agent_of(home: &Home) -> Value {
    home.json(&["agent", "status", "mcp-srv"])
}

#[track_caller]
fn until_agent(home: &Home, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    until(what, PATIENCE, || {
        let answer = home.run(&["agent", "status", "mcp-srv", "--json"]);
        (answer.code == Some(0)).then(|| answer.json()).filter(&fits)
    })
}

fn gone(home: &Home) {
    until("the agent is gone", PATIENCE, || {
        home.json(&["agent", "list"]).as_array().is_some_and(Vec::is_empty).then_some(())
    });
}

#[test]
fn a_wrapped_server_is_an_agent_that_is_healed_and_goes_with_its_client() {
    let home = Home::new();
    home.ok(&["agent", "list"]); // a host
    let mut client = Client::of(&home, &["--name", "srv"]);
    let pid = client.server();
    let status = until_agent(&home, "its call is shown", |s| s["tools"][0]["calls"] == 1);
    assert_eq!(
        (&status["type"], &status["status"], &status["pid"]),
        (&json!("mcp-server"), &json!("running"), &json!(pid))
    );
    assert_eq!((&status["health"], &status["wrapper_pid"]), (&json!("healthy"), &json!(client.pid())));
    assert_eq!(status["tools"][0]["tool"], "whoami");
    assert!(status["tools"][0]["p50_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{status}");

    // It is killed: the client's next call works, and the host tells what happened.
    let mut events = home.events();
    assert!(processes::kill(pid));
    let second = client.server();
    assert_ne!(second, pid);
    let exited = events.of_agent("agent.exited", "mcp-srv");
    assert_eq!(exited["data"]["exit"]["signal"], 9, "{exited}");
    let restarted = events.of_agent("agent.restarted", "mcp-srv");
    assert_eq!(
        (&restarted["data"]["by"], &restarted["data"]["pid"]),
        (&json!("supervision"), &json!(second))
    );
    let incident = home.closed_incident("mcp-srv");
    assert_eq!(
        (&incident["outcome"], &incident["steps"][0]["rung"]),
        (&json!("verified"), &json!(0)),
        "{incident}"
    );
    let row = home.agent("mcp-srv");
    assert_eq!(
        (&row["restarts"], &row["pid"], &row["health"]),
        (&json!(1), &json!(second), &json!("healthy"))
    );

    // Somebody has it healed: another server, and the call that comes meanwhile waits for it.
    let trigger = std::thread::spawn({
        let mut command = home.command(&["heal", "trigger", "mcp-srv"]);
        move || command.output().expect("it can be run")
    });
    until("it is replaced", PATIENCE, || (!processes::lives(second)).then_some(()));
    let third = client.server();
    assert_ne!(third, second);
    let healed = trigger.join().expect("it does not panic");
    assert!(healed.status.success(), "{healed:?}");
    assert_eq!(
        (&home.agent("mcp-srv")["pid"], &home.agent("mcp-srv")["restarts"]),
        (&json!(third), &json!(2))
    );

    // What the server said on its standard error.
    let logs = home.json_lines(&["agent", "logs", "mcp-srv", "--stream", "stderr"]);
    let hellos: Vec<&str> =
        logs.iter().filter_map(|l| l["line"].as_str()).filter(|l| l.starts_with("hello")).collect();
    assert_eq!(hellos.len(), 3, "one a life: {logs:?}");

    client.leave();
    gone(&home);
    let history = home.json(&["heal", "history"]);
    assert_eq!(history.as_array().map(Vec::len), Some(2), "its history stays: {history}");
    assert!(!processes::lives(third), "nothing is left of the server");
}

#[test]
fn the_server_is_stopped_and_started_as_an_agent_is() {
    let home = Home::new();
    home.ok(&["agent", "list"]);
    let mut client = Client::of(&home, &["--name", "srv"]);
    let pid = client.server();
    until_agent(&home, "it is shown", |s| s["pid"] == pid);
    home.ok(&["agent", "stop", "mcp-srv"]);
    assert!(!processes::lives(pid));
    assert_eq!(agent_of(&home)["status"], "stopped");
    // A call waits a while, and is refused in words.
    let refused = client.call("whoami");
    let message = refused["error"]["message"].as_str().unwrap_or_else(|| panic!("{refused}"));
    assert!(message.contains("stopped on purpose"), "{message}");
    home.ok(&["agent", "start", "mcp-srv"]);
    let pid = client.server();
    assert_eq!(home.status("mcp-srv", "running")["pid"], pid);
    home.ok(&["agent", "restart", "mcp-srv"]);
    let after = client.server();
    assert_ne!(after, pid);
    assert_eq!(home.agent("mcp-srv")["pid"], after);
    // Destroyed, it is the client's alone again.
    home.ok(&["agent", "destroy", "mcp-srv", "--yes"]);
    client.server();
    gone(&home);
    client.leave();
}

#[test]
fn a_host_that_dies_costs_neither_the_server_nor_the_agent() {
    let home = Home::new();
    home.ok(&["agent", "list"]);
    let mut client = Client::of(&home, &["--name", "srv"]);
    let first = client.server();
    assert!(processes::kill(first));
    let pid = client.server();
    let before = until_agent(&home, "its restart is shown", |s| s["restarts"] == 1 && s["pid"] == pid);

    let host = home.host();
    assert!(processes::kill(host));
    until("the host is dead", PATIENCE, || (!processes::lives(host)).then_some(()));
    assert_eq!(client.server(), pid, "nobody notices");
    let after = until_agent(&home, "it is back", |s| s["status"] == "running");
    let of = |s: &Value| (s["id"].clone(), s["pid"].clone(), s["restarts"].clone(), s["incarnation"].clone());
    assert_eq!(of(&after), of(&before));
    assert_eq!(home.json(&["agent", "list"]).as_array().map(Vec::len), Some(1));
    assert!(
        after["tools"][0]["calls"].as_u64().is_some_and(|calls| calls >= 3),
        "the wrapper remembers: {after}"
    );

    // Stopped on purpose: the server goes on, and no wrapper starts another host.
    home.ok(&["system", "stop"]);
    assert_eq!(client.server(), pid);
    assert!(processes::hosts(home.path()).is_empty());
    // Killed while no host is there to hear of it: the next one is told.
    assert!(processes::kill(pid));
    let pid = client.server();
    let after = until_agent(&home, "it is told", |s| s["status"] == "running" && s["pid"] == pid);
    assert_eq!(after["restarts"], 2);
    client.leave();
    gone(&home);
}

#[test]
fn a_wrapper_that_is_killed_leaves_no_agent_behind() {
    let home = Home::new();
    home.ok(&["agent", "list"]);
    let mut client = Client::of(&home, &["--name", "srv"]);
    let pid = client.server();
    until_agent(&home, "it is shown", |s| s["pid"] == pid);
    assert!(processes::kill(client.pid()));
    client.wrapper.wait().expect("it can be waited for");
    gone(&home);
    // Also where no host is there to see it.
    let mut client = Client::of(&home, &["--name", "srv"]);
    let pid = client.server();
    until_agent(&home, "it is shown", |s| s["pid"] == pid);
    let host = home.host();
    assert!(processes::kill(host) && processes::kill(client.pid()));
    client.wrapper.wait().expect("it can be waited for");
    until("the host is dead", PATIENCE, || (!processes::lives(host)).then_some(()));
    gone(&home);
}

#[test]
fn a_host_is_started_only_where_that_is_wanted() {
    let home = Home::new();
    for presence in ["if-running", "never"] {
        let mut client = Client::of(&home, &["--name", "srv", "--host", presence]);
        client.server();
        assert!(processes::hosts(home.path()).is_empty(), "{presence}");
        assert!(!home.path().exists(), "{presence}: a home was made");
        client.leave();
    }
    let mut client = Client::of(&home, &["--name", "srv", "--host", "auto"]);
    client.server();
    until("a host", PATIENCE, || (!processes::hosts(home.path()).is_empty()).then_some(()));
    let pid = client.server();
    until_agent(&home, "it is shown", |s| s["pid"] == pid);
    // It races for the next one, too.
    let host = home.host();
    assert!(processes::kill(host));
    until("another host", PATIENCE, || {
        processes::hosts(home.path()).iter().any(|pid| *pid != host).then_some(())
    });
    until_agent(&home, "it is back", |s| s["status"] == "running" && s["pid"] == pid);
    // `never` is never.
    let mut other = Client::of(&home, &["--name", "other", "--host", "never"]);
    other.server();
    assert_eq!(home.json(&["agent", "list"]).as_array().map(Vec::len), Some(1));
    other.leave();
    client.leave();
}

#[test]
fn a_host_that_hangs_slows_no_call_and_learns_of_all_later() {
    const CALLS: u64 = 3000;
    let home = Home::new();
    home.ok(&["agent", "list"]);
    let mut client = Client::of(&home, &["--name", "srv"]);
    until_agent(&home, "it is shown", |s| s["status"] == "running");
    let host = home.host();
    assert!(processes::signal(host, Signal::STOP));
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..CALLS {
        let begun = Instant::now();
        client.call("whoami");
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    // The claim: the host is not on the way. A wait for it would last for as long as it hangs.
    assert!(took[took.len() / 2] < Duration::from_millis(20), "the median: {:?}", took[took.len() / 2]);
    assert!(took[took.len() - 1] < Duration::from_secs(5), "the longest: {:?}", took[took.len() - 1]);
    let pid = client.server();
    assert!(processes::kill(pid));
    let pid = client.server();
    assert!(processes::signal(host, Signal::CONT));
    let calls = CALLS + 2;
    let status =
        until_agent(&home, "it hears of all calls", |s| s["tools"][0]["calls"] == calls && s["pid"] == pid);
    assert_eq!((&status["restarts"], &status["counts"]["facts_lost"]), (&json!(1), &json!(0)), "{status}");
    client.leave();
}

#[test]
fn a_server_that_cannot_be_kept_alive_is_a_quarantined_agent() {
    let home = Home::new();
    home.ok(&["agent", "list"]);
    let mut client = Client::of(&home, &["--name", "srv", "--max-restarts", "1"]);
    let pid = client.server();
    until_agent(&home, "it is shown", |s| s["pid"] == pid);
    // Without a call in flight, which would be blamed instead.
    assert!(processes::kill(pid));
    let next = until_agent(&home, "its restart is shown", |s| s["restarts"] == 1 && s["server"] == "up");
    assert!(processes::kill(i32::try_from(next["pid"].as_i64().expect("a pid")).expect("a pid")));
    let row = home.status("mcp-srv", "quarantined");
    assert!(row["reason"].as_str().is_some_and(|why| why.contains("cannot be kept alive")), "{row}");
    let refused = client.call("whoami");
    assert!(refused["error"]["message"].is_string(), "{refused}");
    home.ok(&["agent", "start", "mcp-srv"]);
    let pid = client.server();
    assert_eq!(home.status("mcp-srv", "running")["pid"], pid);
    client.leave();
}
