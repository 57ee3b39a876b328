//! `codex-hms mcp pool` as clients see it: who is kept apart, what is shared, what is bounded, what survives.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hms_tests::{
    Home, PATIENCE, free_port,
    mcp_http::{McpClient, Pool},
    processes::lives,
    text, until,
};
use serde_json::{Value, json};

const VERSION: &str = "2025-11-25";

fn server() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("mcp/pool/server.py")
}

fn pool(home: &Home, options: &[&str]) -> Pool {
    pool_of(home, options, &[])
}

fn pool_of(home: &Home, options: &[&str], server_options: &[&str]) -> Pool {
    let server = server();
    Pool::start(home, &[options, &["--", "python3", text(&server)], server_options].concat())
}

fn open(pool: &Pool) -> McpClient {
    pool.client().open(VERSION, json!({}))
}

fn asking(pool: &Pool) -> McpClient {
    pool.client().open(VERSION, json!({ "elicitation": {} }))
}

#[test]
fn clients_share_a_process_and_see_only_their_own() {
    let home = Home::new();
    let pool = pool(&home, &[]);
    let (one, two) = (open(&pool), open(&pool));
    assert_eq!(one.result(json!(1), "whoami", ""), two.result(json!(1), "whoami", ""));
    // The same id and the same progress token, at the same time.
    let (first, second) = (home.file("first"), home.file("second"));
    let mut waiting = [one.call(json!(7), "wait", text(&first)), two.call(json!(7), "wait", text(&second))];
    for (reply, file) in waiting.iter_mut().zip([&first, &second]) {
        let (_, progress) = reply.message().expect("progress");
        assert_eq!(progress["params"], json!({ "progressToken": 7, "progress": text(file) }));
    }
    // Client 1 cancels *its* request 7.
    let cancelled =
        json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 7 } });
    assert_eq!(one.post(&cancelled).status, 202);
    let [cancelled, going_on] = waiting;
    assert!(cancelled.messages().is_empty(), "a cancelled request has no answer");
    fs::write(&second, "").unwrap();
    let answer = going_on.answer();
    assert_eq!(
        (&answer["id"], &answer["result"]["content"][0]["text"]),
        (&json!(7), &json!(format!("waited for {}", text(&second))))
    );
    let status = pool.status();
    assert_eq!(
        (&status["processes"], &status["sessions"], &status["in_flight"]),
        (&json!(1), &json!(2), &json!(0))
    );
}

#[test]
fn questions_find_who_they_are_for_and_then_clients_get_processes_of_their_own() {
    let home = Home::new();
    let pool = pool(&home, &[]);
    let (one, two) = (asking(&pool), asking(&pool));
    let shared = one.result(json!(1), "whoami", "");
    assert_eq!(two.result(json!(1), "whoami", ""), shared);
    let mut asked = one.call(json!(2), "ask", "who are you");
    let (_, question) = asked.message().expect("a question");
    assert_eq!(question["method"], "elicitation/create");
    // The other client can neither answer it nor, while client 1 has its turn, be mistaken for it.
    let answer = |who: &str| json!({ "jsonrpc": "2.0", "id": question["id"], "result": { "action": "accept", "content": { "who": who } } });
    assert_eq!(two.post(&answer("two")).status, 202);
    let held = two.call(json!(3), "echo", "after");
    assert_eq!(one.post(&answer("one")).status, 202);
    let said = asked.answer();
    assert!(said["result"]["content"][0]["text"].as_str().unwrap().contains("\"one\""), "{said}");
    assert_eq!(held.answer()["result"]["content"][0]["text"], "after");
    // This server asks: the next client that can be asked is not put with the others.
    let three = asking(&pool);
    assert_ne!(three.result(json!(1), "whoami", ""), shared);
    let deaf = open(&pool);
    assert_eq!(deaf.result(json!(1), "whoami", ""), open(&pool).result(json!(1), "whoami", ""));
}

#[test]
fn sharing_is_a_choice() {
    let home = Home::new();
    let pid = |client: McpClient| client.result(json!(1), "whoami", "");
    let never = pool(&home, &["--share", "never"]);
    assert_ne!(pid(open(&never)), pid(open(&never)));
    let auto = pool(&home, &[]);
    let with_roots = || auto.client().open(VERSION, json!({ "roots": {} }));
    assert_ne!(pid(with_roots()), pid(with_roots()), "what it learns of one's folders is not another's");
    assert_ne!(pid(open(&auto)), pid(auto.client().open("2025-06-18", json!({}))), "another protocol");
    let always = pool(&home, &["--share", "always"]);
    let with_roots = || always.client().open(VERSION, json!({ "roots": {} }));
    assert_eq!(pid(with_roots()), pid(with_roots()));
    let tasks = pool_of(&home, &[], &["--tasks"]);
    let first = pid(open(&tasks));
    assert_ne!(first, pid(open(&tasks)), "whose a task is cannot be told");
}

#[test]
fn a_crash_with_calls_of_several_clients_is_told_to_each_and_survived_by_all() {
    let home = Home::new();
    let pool = pool(&home, &[]);
    let clients: Vec<McpClient> = (0..4).map(|_| open(&pool)).collect();
    let before = clients[0].result(json!(1), "whoami", "");
    let never = home.file("never");
    let mut waiting: Vec<_> = clients.iter().map(|c| c.call(json!(5), "wait", text(&never))).collect();
    for reply in &mut waiting {
        assert!(reply.message().is_some(), "it is in flight");
    }
    let killer = clients[0].call(json!(6), "die", "").answer();
    assert!(killer["error"]["message"].is_string() && killer["id"] == 6, "{killer}");
    for reply in waiting {
        let answer = reply.answer();
        assert_eq!(answer["id"], 5);
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
    for client in &clients {
        let now = client.result(json!(7), "whoami", "");
        assert_ne!(now, before, "the session goes on with a new process");
    }
    assert_eq!(pool.status()["processes"], 1);
}

#[test]
fn an_idle_server_is_stopped_and_comes_back_for_the_same_session() {
    let home = Home::new();
    let pool = pool(&home, &["--idle", "300ms"]);
    let client = open(&pool);
    let before: i32 = client.result(json!(1), "whoami", "").parse().unwrap();
    until("the idle server is gone", PATIENCE, || (!lives(before)).then_some(()));
    assert_eq!(pool.status()["sessions"], 1);
    let after: i32 = client.result(json!(2), "whoami", "").parse().unwrap();
    assert_ne!(before, after);
    let stateful = pool_stateful(&home);
    let client = open(&stateful);
    let before = client.result(json!(1), "whoami", "");
    let pid: i32 = before.parse().unwrap();
    hms_tests::while_it_holds("a stateful server stays", Duration::from_secs(1), || lives(pid));
    assert_eq!(client.send("DELETE", &[], None).status, 200);
    until("without clients it is stopped", PATIENCE, || (!lives(pid)).then_some(()));
}

fn pool_stateful(home: &Home) -> Pool {
    pool(home, &["--idle", "300ms", "--stateful"])
}

#[test]
fn nothing_is_left_when_the_pool_ends_or_is_killed() {
    let home = Home::new();
    for kill in [false, true] {
        let mut pool = pool(&home, &["--share", "never"]);
        let pids: Vec<i32> =
            (0..3).map(|_| open(&pool).result(json!(1), "whoami", "").parse().unwrap()).collect();
        if kill {
            let pid = rustix::process::Pid::from_raw(pool.pid() as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        } else {
            pool.stop();
        }
        until("every server is gone", PATIENCE, || pids.iter().all(|p| !lives(*p)).then_some(()));
    }
}

#[test]
fn only_who_knows_the_token_and_is_no_web_page_comes_in() {
    let home = Home::new();
    let file = home.file("token");
    let pool = pool(&home, &["--token-file", text(&file)]);
    let token = fs::read_to_string(&file).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
    assert_eq!((mode & 0o777, token.trim().len()), (0o600, 48));
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": VERSION, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } });
    let bare = McpClient { headers: Vec::new(), ..pool.client() };
    let status = |headers: &[(&str, &str)]| bare.send("POST", headers, Some(&initialize.to_string())).status;
    let bearer = format!("Bearer {}", token.trim());
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("Authorization", "Bearer wrong")]), 401);
    assert_eq!(status(&[("Authorization", &bearer), ("Host", "evil.example")]), 403);
    assert_eq!(status(&[("Authorization", &bearer), ("Origin", "https://evil.example")]), 403);
    assert_eq!(status(&[("Authorization", &bearer), ("Accept", "text/html")]), 406);
    assert_eq!(status(&[("Authorization", &bearer), ("Content-Type", "text/plain")]), 415);
    assert_eq!(status(&[("Authorization", &bearer), ("Origin", "http://localhost:5173")]), 200);
    let exposed = home.run(&["mcp", "pool", "--listen", "0.0.0.0:0", "--", "python3", "x.py"]);
    assert!(exposed.err.contains("--expose"), "{}", exposed.err);
}

#[test]
fn a_session_is_known_by_its_secret_alone_and_ends_when_told() {
    let home = Home::new();
    let pool = pool(&home, &["--max-body", "64KiB"]);
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    assert_eq!(pool.client().post(&list).status, 400);
    let with = |session: &str| {
        let mut client = pool.client();
        client.headers.push(("Mcp-Session-Id".into(), session.into()));
        client
    };
    assert_eq!(with("0123456789").post(&list).status, 404);
    let client = open(&pool);
    let again = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {} });
    assert_eq!(client.post(&again).status, 400);
    assert_eq!(client.send("POST", &[], Some("{")).json()["error"]["code"], -32700);
    assert_eq!(client.send("POST", &[], Some("[]")).json()["error"]["code"], -32600);
    assert_eq!(client.send("POST", &[], Some(&format!("[{list}]"))).status, 400, "2025-11-25 has no batches");
    let large =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "x": "y".repeat(70_000) } });
    assert_eq!(client.post(&large).status, 413);
    assert_eq!(client.send("PUT", &[], None).status, 405);
    assert_eq!(client.send("DELETE", &[], None).status, 200);
    assert_eq!(client.post(&list).status, 404);
    let batch = pool.client().open("2025-03-26", json!({}));
    let two =
        json!([list, { "jsonrpc": "2.0", "id": "b", "method": "ping" }, { "jsonrpc": "2.0", "method": "x" }]);
    let mut ids: Vec<String> = batch
        .send("POST", &[], Some(&two.to_string()))
        .messages()
        .iter()
        .map(|m| m["id"].to_string())
        .collect();
    ids.sort();
    assert_eq!(ids, ["\"b\"", "1"]);
}

#[test]
fn what_may_be_held_is_bounded() {
    let home = Home::new();
    let pool = pool(&home, &["--share", "never", "--max-servers", "2", "--max-sessions", "3"]);
    let clients: Vec<McpClient> = (0..3).map(|_| open(&pool)).collect();
    // The third needed a place: the server that was idle for longest has made it, and its client goes on.
    let pids: Vec<String> = clients.iter().map(|c| c.result(json!(1), "whoami", "")).collect();
    assert_eq!(pids.len(), 3);
    assert!(pool.status()["processes"].as_u64().unwrap() <= 2);
    let fourth = json!({ "jsonrpc": "2.0", "id": 9, "method": "initialize", "params": {
        "protocolVersion": VERSION, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } });
    let refused = pool.client().post(&fourth);
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("--max-sessions"));
    // While all places are busy, nobody is thrown out.
    let file = home.file("go");
    let mut busy: Vec<_> = clients[..2].iter().map(|c| c.call(json!(2), "wait", text(&file))).collect();
    busy.iter_mut().for_each(|b| assert!(b.message().is_some()));
    let refused = clients[2].call(json!(2), "whoami", "");
    assert_eq!(refused.status, 503);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("busy"));
    fs::write(&file, "").unwrap();
    for reply in busy {
        assert!(reply.answer()["result"].is_object());
    }
    assert_eq!(clients[2].call(json!(3), "whoami", "").status, 200);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let home = Home::new();
    let pool = pool(&home, &[]);
    let (slow, quick) = (open(&pool), open(&pool));
    // Some 40 MB for a client that reads none of it.
    let unread = slow.call(json!(1), "slow", "40000");
    for n in 0..20 {
        assert_eq!(quick.result(json!(n), "echo", "here"), "here");
    }
    until("the slow call is over", PATIENCE, || (pool.status()["in_flight"] == 0).then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", pool.pid())).unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    assert!(peak < 128 << 10, "the pool took {peak} kB");
    drop(unread);
    assert_eq!(slow.result(json!(2), "echo", "still here"), "still here");
}

#[test]
fn a_broken_stream_is_come_back_to() {
    let home = Home::new();
    let pool = pool(&home, &["--poll-after", "100ms"]);
    let client = open(&pool);
    let file = home.file("go");
    let mut reply = client.call(json!(1), "wait", text(&file));
    let (primed, data) = reply.event().expect("an event to come back with");
    assert!(!primed.is_empty() && data.is_empty());
    let (seen, _) = reply.message().expect("progress");
    assert!(reply.message().is_none(), "the pool hangs up on a long call");
    fs::write(&file, "").unwrap();
    let back = |id: &str| client.send("GET", &[("Last-Event-ID", id)], None);
    let missed = back(&primed).messages();
    assert_eq!(missed.len(), 2, "the progress, and the answer: {missed:?}");
    let rest = back(&seen).messages();
    assert_eq!((rest.len(), &rest[0]["id"]), (1, &json!(1)));
    for unknown in ["77-1", "x", "1-999"] {
        assert_eq!(back(unknown).status, 400, "{unknown}");
    }
    let other = open(&pool);
    assert_eq!(other.send("GET", &[("Last-Event-ID", &seen)], None).status, 400, "another's stream");
}

#[test]
fn where_a_host_runs_its_servers_are_agents_of_it() {
    let home = Home::new();
    home.run(&["agent", "list"]).ok(); // starts the host
    let pool = pool(&home, &["--name", "shared", "--idle", "2s"]);
    let client = open(&pool);
    let pid = client.result(json!(1), "whoami", "");
    let agents = || home.run(&["agent", "list", "--json"]).ok().json();
    let shown = || agents().as_array()?.iter().find(|a| a["name"] == "mcp-shared").cloned();
    until("the server is an agent", PATIENCE, || {
        shown().filter(|a| a["pid"] == pid.parse::<i32>().unwrap_or(-1))
    });
    home.run(&["agent", "restart", "mcp-shared"]).ok();
    until("another process serves the same session", PATIENCE, || {
        let answer = client.call(json!(2), "whoami", "").answer();
        answer["result"]["content"][0]["text"].as_str().filter(|now| *now != pid).map(drop)
    });
    until("it goes when it is idle", PATIENCE, || shown().is_none().then_some(()));
}

/// A server of 2026-07-28 is asked without a session; one that is not says so in a way that clients understand.
#[test]
fn a_server_with_sessions_alone_lets_a_newer_client_fall_back() {
    let home = Home::new();
    let pool = pool(&home, &[]);
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {} });
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": meta } });
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/list")];
    let reply = pool.client().send("POST", &headers, Some(&list.to_string()));
    assert_eq!(reply.status, 400);
    let body = reply.json();
    assert!(![-32020, -32021, -32022].contains(&body["error"]["code"].as_i64().unwrap()), "{body}");
    let mismatch = pool.client().send("POST", &headers[..1], Some(&list.to_string()));
    assert_eq!((mismatch.status, &mismatch.json()["error"]["code"]), (400, &json!(-32020)));
    assert_eq!(open(&pool).result(json!(1), "echo", "hi"), "hi");
}

/// An MCP server on HTTP: a pool, which is killed as rudely as anything.
struct Upstream {
    home: Home,
    port: u16,
    child: Option<Child>,
}

impl Upstream {
    fn start() -> Self {
        let mut upstream = Self { home: Home::new(), port: free_port(), child: None };
        upstream.up();
        upstream
    }

    fn up(&mut self) {
        let (server, listen) = (server(), format!("127.0.0.1:{}", self.port));
        let mut command: Command = self.home.command(&[
            "mcp",
            "pool",
            "--listen",
            &listen,
            "--token",
            "none",
            "--",
            "python3",
            text(&server),
        ]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn in_front_of_an_http_server_outages_do_not_pass() {
    let mut upstream = Upstream::start();
    let home = Home::new();
    let url = format!("http://127.0.0.1:{}/mcp", upstream.port);
    let pool = Pool::start(&home, &["--url", &url, "--wait", "30s"]);
    let client = open(&pool);
    let before = client.result(json!(1), "whoami", "");
    // Away: what was not sent waits, whatever it is.
    upstream.kill();
    let waiting = std::thread::spawn({
        let client = client.clone();
        move || client.result(json!(2), "count", "")
    });
    until("the pool notices", PATIENCE, || (pool.status()["reachable"] == false).then_some(()));
    upstream.up();
    assert_eq!(waiting.join().unwrap(), "1", "in the new server, once");
    assert_ne!(client.result(json!(3), "whoami", ""), before, "the session was opened anew");
    // In flight: it may have been carried out, so it is not sent again.
    let file = home.file("never");
    let mut lost = client.call(json!(4), "wait", text(&file));
    assert!(lost.message().is_some());
    upstream.kill();
    upstream.up();
    let sent: Vec<Value> = std::iter::from_fn(|| lost.message().map(|(_, m)| m)).collect();
    assert!(sent.is_empty(), "{sent:?}");
    assert_eq!(client.result(json!(5), "count", ""), "1");
}

#[test]
fn several_servers_come_from_a_client_s_file_or_the_configuration() {
    let home = Home::new();
    let server = server();
    let entry = json!({ "command": "python3", "args": [text(&server)], "env": { "X": "1" } });
    let file = home.file("mcp.json");
    let off = json!({ "command": "nothing-of-the-kind", "disabled": true });
    fs::write(&file, json!({ "mcpServers": { "one": entry, "two": entry, "off": off } }).to_string())
        .unwrap();
    let pool = Pool::start(&home, &["--config", text(&file)]);
    let at = |path: &str| McpClient { path: path.into(), ..pool.client() };
    let pid = |path: &str| at(path).open(VERSION, json!({})).result(json!(1), "whoami", "");
    assert_ne!(pid("/one/mcp"), pid("/two/mcp"));
    assert_eq!(at("/off/mcp").post(&json!({})).status, 404);
    drop(pool);
    fs::create_dir_all(home.path()).unwrap();
    let section = format!("[mcp.servers.three]\ncommand = \"python3\"\nargs = [\"{}\"]\n", text(&server));
    fs::write(home.path().join("config.toml"), section).unwrap();
    let pool = Pool::start(&home, &[]);
    assert!(open(&pool).result(json!(1), "whoami", "").parse::<i32>().is_ok());
    fs::write(home.path().join("config.toml"), "[mcp.servers.three]\ncomand = \"x\"\n").unwrap();
    let wrong = home.run(&["mcp", "pool"]);
    assert!(wrong.err.contains("mcp.servers.three") && wrong.err.contains("comand"), "{}", wrong.err);
}

#[test]
fn a_server_that_cannot_be_started_is_an_error_that_says_so() {
    let home = Home::new();
    let pool = Pool::start(&home, &["--", "there-is-no-such-program"]);
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": VERSION, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } } });
    let reply = pool.client().post(&initialize);
    assert_eq!(reply.status, 502);
    let body = reply.json();
    assert!(
        body["id"] == 1 && body["error"]["message"].as_str().unwrap().contains("there-is-no-such-program"),
        "{body}"
    );
    assert_eq!(pool.status()["sessions"], 0);
}
