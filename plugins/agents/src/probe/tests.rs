//! Probes against real servers and real programs.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use hms_core::{
    clock::{ManualClock, SystemClock},
    os::{ProcessId, Token},
    schema::Schema,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, UnixListener, UnixSocket},
};

use super::*;

/// Long enough for a machine that is busy with something else.
const LONG: Duration = Duration::from_secs(30);

fn context(clock: SharedClock) -> ProbeContext {
    let token = Token::new("/nowhere/home", "abcd", 1);
    let env = vec![("PATH".into(), std::env::var_os("PATH").unwrap_or_default()), token.to_env()];
    ProbeContext { clock, cwd: None, env: Arc::new(env) }
}

fn check(value: Value) -> Check {
    match Probe::parse("liveness", &value, &KINDS).unwrap().kind {
        ProbeKind::Check(check) => check,
        other => panic!("{other:?} is no check"),
    }
}

async fn ask(value: Value, timeout: Duration) -> Result<(), String> {
    check(value).run(&context(SystemClock::shared()), timeout).await
}

fn sh(script: &str) -> Value {
    json!({"exec": ["sh", "-c", script]})
}

/// Serves one connection with `answer` and returns what was asked.
async fn one_answer(listener: TcpListener, answer: &'static [u8]) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let asked = read_head(&mut stream).await;
    stream.write_all(answer).await.unwrap();
    asked
}

async fn read_head(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn probes_are_read_with_their_rhythm() {
    let value =
        json!({"exec": ["true"], "interval": "250ms", "timeout": "2s", "failures": 3, "successes": 2});
    let probe = Probe::parse("liveness", &value, &KINDS).unwrap();
    assert_eq!((probe.interval, probe.timeout), (Duration::from_millis(250), Duration::from_secs(2)));
    assert_eq!((probe.failures, probe.successes), (3, 2));
    let plain = Probe::parse("liveness", &json!({"tcp": "[::1]:80"}), &KINDS).unwrap();
    assert_eq!(
        (plain.interval, plain.timeout, plain.failures, plain.successes),
        (LONG / 30, LONG / 30, 2, 1)
    );
    let ProbeKind::Check(address) = plain.kind else { panic!("no check") };
    assert_eq!(address.to_string(), "[::1]:80");
    let ProbeKind::Log(pattern) =
        Probe::parse("readiness", &json!({"log": r"port \d+$"}), &KINDS).unwrap().kind
    else {
        panic!("no pattern")
    };
    assert!(pattern.is_match("listening on port 80") && !pattern.is_match("port x"));
}

#[test]
fn wrong_probes_name_the_key() {
    for (value, problem) in [
        (json!({}), "`liveness`: says nothing to go by (give exactly one of exec, http, tcp, log, notify)"),
        (json!({"exec": ["true"], "tcp": "x:1"}), "`liveness`: has exec and tcp"),
        (json!({"exec": "true"}), "`liveness.exec`: is not a list of texts"),
        (json!({"exec": []}), "`liveness.exec`: names no program"),
        (json!({"exec": ["a\0"]}), "`liveness.exec`: contains a NUL"),
        (json!({"tcp": "80"}), "`liveness.tcp`: `80` is not an address"),
        (json!({"tcp": "::1:80"}), "`liveness.tcp`: `::1:80` is not an address"),
        (json!({"tcp": "x:0"}), "`liveness.tcp`: `x:0` is not an address"),
        (json!({"log": "("}), "`liveness.log`: is not a regular expression: unclosed group"),
        (json!({"notify": false}), "`liveness.notify`: is not true"),
        (json!({"exec": ["true"], "intervall": "1s"}), "`liveness.intervall`: is not known here"),
        (
            json!({"exec": ["true"], "interval": "1"}),
            "`liveness.interval`: `1` is not a duration (write it as",
        ),
        (json!({"exec": ["true"], "interval": "9ms"}), "`liveness.interval`: is shorter than 10ms"),
        (json!({"exec": ["true"], "timeout": "0"}), "`liveness.timeout`: is zero"),
        (json!({"exec": ["true"], "failures": 0}), "`liveness.failures`: is not a whole number from 1 on"),
        (json!("true"), "`liveness`: is not an object"),
    ] {
        let error = Probe::parse("liveness", &value, &KINDS).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{value}: {error}");
    }
    let misplaced =
        Probe::parse("liveness", &json!({"log": "x"}), &["exec", "http", "tcp"]).unwrap_err().to_string();
    assert!(
        misplaced.starts_with("`liveness.log`: is not known here (known: exec, http, tcp,"),
        "{misplaced}"
    );
}

#[test]
fn the_schema_takes_what_the_parser_takes() {
    let schema = Schema::compile(&schema("how", &KINDS)).unwrap();
    for good in [
        json!({"exec": ["true"], "interval": "1s"}),
        json!({"http": "http://x/"}),
        json!({"http": {"url": "http://x/", "expect": [200, "300-302"], "headers": {"a": "b"}, "socket": "/s"}}),
        json!({"tcp": "x:1", "failures": 1}),
        json!({"log": "x"}),
        json!({"notify": true}),
    ] {
        assert_eq!(schema.problems(&good), [], "{good}");
        Probe::parse("x", &good, &KINDS).unwrap();
    }
    for bad in
        [json!({"exec": []}), json!({"http": {"expect": 200}}), json!({"what": 1}), json!({"notify": false})]
    {
        assert!(!schema.problems(&bad).is_empty(), "{bad}");
    }
}

/// An address that is taken and not listened on, so that nobody else can listen on it either.
fn deaf() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[tokio::test]
async fn tcp_checks_connect() {
    let (socket, address) = deaf();
    assert_eq!(ask(json!({"tcp": address}), LONG).await, Err("connection refused".into()));
    let _listener = socket.listen(8).unwrap();
    assert_eq!(ask(json!({"tcp": address}), LONG).await, Ok(()));
}

#[tokio::test]
async fn http_checks_ask_properly_and_judge_the_status() {
    let (server, address) = listener().await;
    let url = format!("http://{address}/health?deep=1");
    let asked = async { one_answer(server, b"HTTP/1.1 204 No Content\r\n\r\n").await };
    let value = json!({"http": {"url": url, "headers": {"authorization": "Bearer x"}}});
    let (asked, answer) = tokio::join!(asked, ask(value, LONG));
    assert_eq!(answer, Ok(()));
    assert!(asked.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{asked}");
    let lower = asked.to_lowercase();
    for header in
        [format!("host: {address}\r\n"), "authorization: bearer x\r\n".into(), "user-agent: hms/".into()]
    {
        assert!(lower.contains(&header), "{header} is not in {asked}");
    }

    let answers: [(&[u8], Value, Result<(), &str>); 5] = [
        (b"HTTP/1.1 503 Unavailable\r\ncontent-length: 4\r\n\r\ndown", Value::Null, Err("status 503")),
        (b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n", json!("500-599"), Ok(())),
        (b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n", json!([200]), Err("status 302")),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Value::Null, Err("the answer is not HTTP")),
        (b"", Value::Null, Err("the connection was closed before an answer came")),
    ];
    for (answer, expect, outcome) in answers {
        let (server, address) = listener().await;
        let value = json!({"http": {"url": format!("http://{address}"), "expect": expect}});
        let (_, said) = tokio::join!(one_answer(server, answer), ask(value, LONG));
        assert_eq!(said, outcome.map_err(str::to_owned), "{}", String::from_utf8_lossy(answer));
    }
}

#[tokio::test]
async fn http_checks_wait_no_longer_than_told() {
    let (server, address) = listener().await;
    let value = json!({"http": format!("http://{address}/")});
    let silent = async {
        let (stream, _) = server.accept().await.unwrap();
        std::future::pending::<()>().await;
        drop(stream);
    };
    tokio::select! {
        () = silent => unreachable!("it is silent"),
        answer = ask(value, Duration::from_millis(50)) => assert_eq!(answer, Err("no answer within 50ms".into())),
    }
    let (_socket, address) = deaf();
    let refused = ask(json!({"http": format!("http://{address}/")}), LONG).await;
    assert_eq!(refused, Err("connection refused".into()));
}

#[tokio::test]
async fn http_checks_reach_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let server = UnixListener::bind(&path).unwrap();
    let value = json!({"http": {"url": "http://localhost/ping", "socket": path}});
    let serve = async {
        let (mut stream, _) = server.accept().await.unwrap();
        let asked = read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        asked
    };
    let (asked, answer) = tokio::join!(serve, ask(value, LONG));
    assert_eq!(answer, Ok(()));
    assert!(asked.starts_with("GET /ping "), "{asked}");
    // A socket that is there and not listened on. (One that was just closed may live on for a moment in a
    // child that another test is starting.)
    let path = folder.path().join("deaf.sock");
    let deaf = UnixSocket::new_stream().unwrap();
    deaf.bind(&path).unwrap();
    let gone = ask(json!({"http": {"url": "http://localhost/", "socket": path}}), LONG).await.unwrap_err();
    assert!(gone.ends_with("deaf.sock: connection refused"), "{gone}");
}

#[tokio::test]
async fn exec_checks_say_how_the_program_ended() {
    assert_eq!(ask(sh("exit 0"), LONG).await, Ok(()));
    assert_eq!(ask(sh("echo ignored; echo; exit 4"), LONG).await, Err("exit code 4".into()));
    let said = ask(sh("printf '\\n  disk \\033[1mfull \\nmore\\n' >&2; exit 1"), LONG).await;
    assert_eq!(said, Err("exit code 1: disk [1mfull".into()));
    assert_eq!(ask(sh("kill -KILL $$"), LONG).await, Err("killed by SIGKILL".into()));
    let missing = ask(json!({"exec": ["no-such-program-here"]}), LONG).await.unwrap_err();
    assert!(missing.starts_with("program 'no-such-program-here' was not found"), "{missing}");
}

#[tokio::test]
async fn exec_checks_run_where_and_as_they_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut cx = context(SystemClock::shared());
    let token = Token::new("/nowhere/home", "abcd", 1);
    let env =
        [("PATH".into(), std::env::var_os("PATH").unwrap()), ("WHO".into(), "me".into()), token.to_env()];
    cx.env = Arc::new(env.to_vec());
    cx.cwd = Some(folder.path().to_owned());
    let script = "echo \"$PWD $WHO $HMS_AGENT ${HOME-unset}\" >&2; exit 1";
    let said = check(sh(script)).run(&cx, LONG).await.unwrap_err();
    let start = format!(
        "exit code 1: {} me /nowhere/home/abcd.probe/",
        folder.path().canonicalize().unwrap().display()
    );
    assert!(said.starts_with(&start) && said.ends_with(" unset"), "{said}");
}

#[tokio::test]
async fn a_flood_of_output_neither_blocks_nor_grows() {
    let said = ask(sh("yes 0123456789 | head -c 3000000 >&2; exit 3"), LONG).await;
    assert_eq!(said, Err("exit code 3: 0123456789".into()));
}

/// Waits until `path` holds `count` complete lines, and reads them as pids.
async fn pids(path: &Path, count: usize) -> Vec<ProcessId> {
    await_some(|| {
        let text = std::fs::read_to_string(path).ok()?;
        let pids: Vec<i32> =
            text.split_inclusive('\n').filter_map(|l| l.strip_suffix('\n')?.parse().ok()).collect();
        (pids.len() == count).then(|| pids.into_iter().filter_map(ProcessId::of).collect())
    })
    .await
}

async fn await_some<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, look).await.expect("an answer in time")
}

/// Leaves a child in its group and one in a session of its own, then hangs.
const HANGS: &str =
    "echo $$ > pids; sleep 1000 & echo $! >> pids; setsid sh -c 'echo $$ >> pids; exec sleep 1000' & wait";

fn hanging(folder: &Path, clock: SharedClock) -> impl Future<Output = Result<(), String>> + Send + 'static {
    let mut cx = context(clock);
    cx.cwd = Some(folder.to_owned());
    async move { check(sh(HANGS)).run(&cx, Duration::from_secs(1)).await }
}

#[tokio::test]
async fn a_hanging_program_is_killed_with_its_descendants() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::shared());
    let run = tokio::spawn(hanging(folder.path(), clock.clone()));
    let alive = pids(&folder.path().join("pids"), 3).await;
    assert!(alive.len() == 3 && alive.iter().all(ProcessId::is_alive));
    clock.advance(Duration::from_secs(1));
    assert_eq!(run.await.unwrap(), Err("no answer within 1s".into()));
    assert!(!alive.iter().any(ProcessId::is_alive), "{alive:?}");
}

#[tokio::test]
async fn a_check_that_is_given_up_leaves_nothing_behind() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::shared());
    let run = tokio::spawn(hanging(folder.path(), clock));
    let alive = pids(&folder.path().join("pids"), 3).await;
    run.abort();
    await_some(|| (!alive.iter().any(ProcessId::is_alive)).then_some(())).await;
}

#[tokio::test]
async fn what_a_finished_program_leaves_behind_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mut cx = context(SystemClock::shared());
    cx.cwd = Some(folder.path().to_owned());
    let outcome = check(sh("sleep 1000 & echo $! > pids; exit 0")).run(&cx, LONG).await;
    assert_eq!(outcome, Ok(()));
    let pid = std::fs::read_to_string(folder.path().join("pids")).unwrap();
    let left = ProcessId::of(pid.trim().parse().unwrap());
    assert!(left.is_none_or(|id| !id.is_alive()));
}
