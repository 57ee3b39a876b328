//! `mcp wrap` as a client has it: a process with three pipes, and behind it a server that dies, hangs and leaks.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use hms_tests::{PATIENCE, hms_program, processes, text, until};
use serde_json::{Value, json};

/// A client, its wrapper and a folder.
struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    dir: tempfile::TempDir,
    next: i64,
    /// What was not the answer that was waited for.
    aside: Vec<Value>,
}

impl Client {
    fn new(options: &[&str], server: &[&str]) -> Self {
        Self::within(tempfile::tempdir().expect("a folder"), options, server)
    }

    fn within(dir: tempfile::TempDir, options: &[&str], server: &[&str]) -> Self {
        let mut command = Command::new(hms_program());
        command
            .args(["mcp", "wrap", "--host", "never"])
            .args(options)
            .arg("--")
            .arg(server_program())
            .arg(dir.path());
        command
            .args(server)
            .env("HMS_HOME", dir.path().join("home"))
            .env("XDG_CACHE_HOME", dir.path().join("cache"));
        command.env_remove("HMS_AGENT").current_dir(dir.path());
        let stderr = fs::File::create(dir.path().join("stderr")).expect("a file");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).spawn().expect("it starts");
        let (stdin, stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("a pipe")));
        Self { child, stdin, stdout, dir, next: 0, aside: Vec::new() }
    }

    /// With its handshake done, and the tools known.
    fn greeted(options: &[&str], server: &[&str]) -> Self {
        let mut client = Self::new(options, server);
        client.greet();
        client.ok("tools/list", json!({}));
        client
    }

    fn greet(&mut self) {
        let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        self.ok("initialize", hello);
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    }

    fn send(&mut self, message: &Value) {
        self.write(format!("{message}\n").as_bytes());
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("it is open").write_all(bytes).expect("the wrapper reads");
    }

    fn read(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.stdout.read_line(&mut line).expect("UTF-8") > 0).then_some(line)
    }

    fn request(&mut self, method: &str, params: Value) -> i64 {
        self.next += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}));
        self.next
    }

    fn answer(&mut self, id: i64) -> Value {
        loop {
            let line = self.read().expect("an answer before the end");
            match serde_json::from_str::<Value>(&line) {
                Ok(message) if message["id"] == id && message.get("method").is_none() => return message,
                Ok(message) => self.aside.push(message),
                Err(_) => self.aside.push(Value::from(line.len())),
            }
        }
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params);
        self.answer(id)
    }

    fn ok(&mut self, method: &str, params: Value) -> Value {
        let answer = self.ask(method, params);
        assert!(answer.get("result").is_some(), "{method}: {answer}");
        answer["result"].clone()
    }

    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments}))
    }

    /// The text that a call answers.
    fn says(&mut self, tool: &str, arguments: Value) -> String {
        let answer = self.call(tool, arguments);
        let text = answer["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("{tool}: {answer}")).to_owned()
    }

    fn fails(&mut self, tool: &str, arguments: Value) -> String {
        let answer = self.call(tool, arguments);
        answer["error"]["message"].as_str().unwrap_or_else(|| panic!("{tool}: {answer}")).to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.file(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The pid of the server that runs.
    fn server(&self) -> i32 {
        self.lines("lives").last().expect("it has lived").parse().expect("a pid")
    }

    /// Kills the server, and waits until it is dead: while it dies, the kernel may still take a call from its
    /// pipe for it, and then nobody can tell that it was not carried out.
    fn kill_server(&self) {
        let server = self.server();
        processes::kill(server);
        until("the server's death", PATIENCE, || (!processes::lives(server)).then_some(()));
    }

    fn touch(&self, name: &str) {
        fs::write(self.file(name), "").expect("the folder is there");
    }

    /// All that runs for this client but the wrapper: server, guard, litter.
    fn others(&self) -> Vec<i32> {
        let realm = self.file("home/mcp-wrap");
        let tagged = processes::of(&realm).into_iter().map(|t| t.pid);
        tagged.chain(guards(&realm)).collect()
    }

    fn close(mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        self.stdin = None;
        let status = self.child.wait().expect("it ends");
        let took = begun.elapsed();
        self.nothing_is_left();
        (status, took)
    }

    fn nothing_is_left(&self) {
        until("the end of everything", Duration::from_secs(10), || self.others().is_empty().then_some(()));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- stderr ----\n{}", fs::read_to_string(self.file("stderr")).unwrap_or_default());
        }
    }
}

fn server_program() -> PathBuf {
    let wrapper = hms_tests::child_program();
    wrapper.with_file_name("hms-test-mcp-raw")
}

fn guards(realm: &Path) -> Vec<i32> {
    let is_guard = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        words.any(|w| w == b"guard") && words.any(|w| w == text(realm).as_bytes()) && processes::lives(*pid)
    };
    let pids = fs::read_dir("/proc").expect("it is there").flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(is_guard).collect()
}

#[test]
fn it_is_not_there_as_long_as_all_is_well() {
    let mut client = Client::greeted(&[], &["--exit", "7"]);
    assert_eq!(client.says("echo", json!({"text": "ü\u{1}\"\\\n"})), "ü\u{1}\"\\\n");
    assert_eq!(client.says("cwd", json!({})), text(&client.dir.path().canonicalize().expect("a folder")));
    assert_eq!(client.says("env", json!({"text": "PATH"})), std::env::var("PATH").unwrap_or_default());
    let error = client.ask("x/unknown", json!({"a": [1]}));
    assert_eq!(error["error"]["code"], -32601);
    client.says("noise", json!({"text": "a word on stderr"}));
    assert_eq!(
        client.aside,
        [json!("this is no JSON\n".len())],
        "what the server says passes, whatever it is"
    );
    until("the server's stderr", PATIENCE, || {
        client.lines("stderr").contains(&"a word on stderr".to_owned()).then_some(())
    });
    client.send(&json!([{"jsonrpc": "2.0", "id": "a", "method": "ping"}, {"jsonrpc": "2.0", "id": "b", "method": "ping"}]));
    let batch: Value = serde_json::from_str(&client.read().expect("a batch")).expect("JSON");
    assert_eq!(batch.as_array().map(Vec::len), Some(2));
    client.write(b"{broken\n");
    let refused: Value = serde_json::from_str(&client.read().expect("the server's answer")).expect("JSON");
    assert_eq!(refused["error"]["code"], -32700, "the server refuses it, not we");
    let (status, _) = client.close();
    assert_eq!(status.code(), Some(7), "the server's own exit code");
}

#[test]
fn many_megabytes_stream_both_ways() {
    let mut client = Client::greeted(&[], &[]);
    let long = "y".repeat(24 << 20);
    assert_eq!(client.says("echo", json!({"text": long})).len(), long.len());
    assert_eq!(client.says("big", json!({"bytes": 24 << 20})).len(), 24 << 20);
    let memory = processes::memory(i32::try_from(client.child.id()).expect("a pid"));
    assert!(memory < 96 << 20, "the wrapper holds {memory} bytes");
}

#[test]
fn a_crash_is_healed_and_the_next_call_works() {
    let mut client = Client::greeted(&[], &[]);
    let before = client.says("who", json!({}));
    client.kill_server();
    let after = client.says("who", json!({}));
    assert_ne!(before, after);
    let error = client.fails("crash", json!({}));
    assert!(error.contains("exited with code 3") && error.contains("out of ideas"), "{error}");
    assert_ne!(client.says("who", json!({})), after);
    client.touch("die");
    client.says("die", json!({}));
    assert_eq!(client.lines("lives").len(), 4, "a read-only call was sent again");
    let said = client.lines("said");
    let greetings = said.iter().filter(|l| l.contains("\"initialize\"")).count();
    assert_eq!((greetings, said.iter().filter(|l| l.contains("notifications/initialized")).count()), (4, 4));
    assert!(client.aside.is_empty(), "{:?}", client.aside);
    client.close();
}

#[test]
fn appends_are_never_made_twice_and_reads_never_lost() {
    let mut client = Client::greeted(&["--max-restarts", "0"], &[]);
    let mut seed = 7u64;
    for round in 0..60 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match seed >> 61 {
            0 | 1 => client.touch("die-before"),
            2 | 3 => client.touch("die-after"),
            4 => client.touch("die"),
            _ => {}
        }
        let text = format!("round {round}");
        let answer = client.call("append", json!({"text": text}));
        let written = client.lines("appended").iter().filter(|l| **l == text).count();
        let asked = answer.get("result").is_some();
        assert!(written == 1 || (written == 0 && !asked), "{text}: {written} times, {answer}");
        client.says("die", json!({}));
    }
    client.close();
}

#[test]
fn a_frozen_server_is_replaced_and_a_slow_one_is_not() {
    let mut client = Client::greeted(&["--hang-timeout", "1s"], &[]);
    let begun = Instant::now();
    client.ask(
        "tools/call",
        json!({"name": "nap", "arguments": {"steps": 12}, "_meta": {"progressToken": "t"}}),
    );
    assert!(begun.elapsed() >= Duration::from_secs(3));
    assert_eq!(client.lines("lives").len(), 1, "it made progress");
    assert_eq!(client.aside.len(), 12);
    client.touch("freeze");
    client.says("freeze", json!({}));
    assert_eq!(client.lines("lives").len(), 2);
    client.close();
}

#[test]
fn nothing_outlives_the_client() {
    for way in ["eof", "term", "kill", "stopped"] {
        let mut client = Client::greeted(&[], &["--ignore-eof"]);
        client.says("litter", json!({}));
        until("server, litter and guard", PATIENCE, || (client.others().len() == 3).then_some(()));
        let pid = i32::try_from(client.child.id()).expect("a pid");
        let begun = Instant::now();
        match way {
            "eof" => client.stdin = None,
            "term" => assert!(processes::signal(pid, rustix::process::Signal::TERM)),
            "kill" => assert!(processes::kill(pid)),
            _ => {
                processes::signal(client.server(), rustix::process::Signal::STOP);
                client.stdin = None;
            }
        }
        until("the end of the tree", PATIENCE, || client.others().is_empty().then_some(()));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "{way}: {took:?}; unloaded it is below one second");
        let status = client.child.wait().expect("it ends");
        if way == "term" {
            assert_eq!(status.code(), Some(128 + 15));
        }
    }
}

#[test]
fn a_server_that_cannot_live_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let wrap = |command: &[&str]| {
        let mut wrap = Command::new(hms_program());
        wrap.args(["mcp", "wrap", "--host", "never", "--max-restarts", "2", "--"]).args(command);
        wrap.env("HMS_HOME", dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        wrap.spawn().expect("it starts")
    };
    let mut child = wrap(&["sh", "-c", "echo 'no key is set' >&2; exit 4"]);
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin
        .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{}}\n")
        .expect("it reads");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("an answer");
    assert!(line.contains("cannot be kept alive") && line.contains("no key is set"), "{line}");
    drop(stdin);
    child.wait().expect("it ends");
    let mut missing = wrap(&["no-such-program-anywhere"]);
    let mut error = String::new();
    missing.stderr.take().expect("a pipe").read_to_string(&mut error).expect("text");
    assert!(
        !missing.wait().expect("it ends").success() && error.contains("no-such-program-anywhere"),
        "{error}"
    );
}

#[test]
fn a_lost_session_is_named() {
    let mut client = Client::greeted(&["--stateful"], &[]);
    client.says("who", json!({}));
    client.kill_server();
    until("the next life", PATIENCE, || (client.lines("lives").len() == 2).then_some(()));
    let error = client.fails("who", json!({}));
    assert!(error.contains("session") && error.contains("SIGKILL"), "{error}");
    client.says("who", json!({}));
    client.close();
}

#[test]
fn late_answers_do_not_reach_the_next_server() {
    let mut client = Client::greeted(&[], &[]);
    client.says("ask", json!({"text": "first"}));
    client.kill_server();
    client.says("ask", json!({"text": "second"}));
    let asked: Vec<Value> =
        client.aside.iter().filter(|m| m["method"] == "sampling/createMessage").cloned().collect();
    assert_eq!(asked.len(), 2);
    assert_ne!(asked[0]["id"], asked[1]["id"], "both are open at the client");
    for question in &asked {
        client.send(
            &json!({"jsonrpc": "2.0", "id": question["id"], "result": {"to": question["params"]["text"]}}),
        );
    }
    client.says("who", json!({}));
    let said = client.lines("said");
    let answers: Vec<&String> = said.iter().filter(|l| l.contains("\"to\"")).collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].contains("second") && answers[0].contains("\"id\":0"), "{answers:?}");
    client.close();
}

#[test]
fn changed_tools_are_announced() {
    let mut client = Client::greeted(&[], &[]);
    client.touch("more-tools");
    client.kill_server();
    client.says("who", json!({}));
    client.says("who", json!({}));
    assert_eq!(client.aside, [json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})]);
    client.close();
}

#[test]
fn a_half_written_answer_ends_and_is_answered() {
    let mut client = Client::greeted(&[], &[]);
    let error = client.fails("half", json!({}));
    assert!(error.contains("SIGKILL"), "{error}");
    assert_eq!(client.aside.len(), 1, "the half line, ended");
    client.says("who", json!({}));
    client.close();
}

#[test]
fn memory_is_limited() {
    let mut client = Client::greeted(&["--memory-limit", "64MiB"], &[]);
    let before = client.says("hoard", json!({"bytes": 80 << 20}));
    until("a new life", PATIENCE, || (client.lines("lives").len() == 2).then_some(()));
    assert_ne!(client.says("who", json!({})), before);
    client.close();
}

#[test]
fn the_second_start_is_answered_from_memory() {
    let mut client = Client::greeted(&["--warm"], &[]);
    let cache = client.file("cache/hms/mcp");
    until("the memory", PATIENCE, || {
        let files: Vec<_> = fs::read_dir(&cache).ok()?.flatten().collect();
        fs::read_to_string(files.first()?.path()).ok()?.contains("\"who\"").then_some(())
    });
    client.stdin = None;
    client.child.wait().expect("it ends");
    // The same command line in the same place, and a server that has changed and is stopped at once.
    client.touch("more-tools");
    let dir = std::mem::replace(&mut client.dir, tempfile::tempdir().expect("a folder"));
    let mut second = Client::within(dir, &["--warm"], &[]);
    second.greet();
    let tools = second.ok("tools/list", json!({}));
    let first_seen = tools["tools"].as_array().map(Vec::len);
    second.says("who", json!({}));
    second.says("who", json!({}));
    let told = second.aside.iter().any(|m| m["method"] == "notifications/tools/list_changed");
    assert!(first_seen == Some(5) || (first_seen == Some(4) && told), "{first_seen:?} {:?}", second.aside);
    second.close();
}

#[test]
fn the_stateless_era_is_kept_alive_without_ping() {
    let mut client = Client::new(&["--hang-timeout", "1s"], &["--stateless"]);
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    client.ok("server/discover", json!({"_meta": meta}));
    client.ok("tools/list", json!({"_meta": meta}));
    client.touch("freeze");
    let answer = client.ask("tools/call", json!({"name": "freeze", "_meta": meta}));
    assert!(answer.get("result").is_some(), "{answer}");
    assert_eq!(client.lines("lives").len(), 2);
    let said = client.lines("said");
    assert!(!said.iter().any(|l| l.contains("\"ping\"") || l.contains("\"initialize\"")), "{said:?}");
    client.close();
}

#[test]
fn noise_from_the_client_is_the_servers_to_refuse() {
    let mut client = Client::greeted(&[], &[]);
    let mut seed = 1u64;
    let mut noise = Vec::new();
    for _ in 0..200_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        noise.push(match seed % 9 {
            0 => b'{',
            1 => b'"',
            2 => b'}',
            3 => b'\n',
            4 => b'[',
            _ => (seed >> 32) as u8,
        });
    }
    noise.push(b'\n');
    let mut stdin = client.stdin.take().expect("it is open");
    let writer = thread::spawn(move || {
        stdin.write_all(&noise).expect("the wrapper reads");
        stdin
    });
    let id = 4_000_000;
    // What comes meanwhile is read, or both sides would wait for each other.
    let mut refused = 0;
    let stdin = loop {
        if writer.is_finished() {
            break writer.join().expect("it has written");
        }
        client.read().expect("the server refuses it");
        refused += 1;
    };
    client.stdin = Some(stdin);
    client.next = id;
    client.says("who", json!({}));
    assert!(refused > 100 && client.lines("lives").len() == 1, "{refused}");
    client.close();
}
