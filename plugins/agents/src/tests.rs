//! The agent types, each in a real kernel on a home of its own.

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use hms_core::{
    ErrorKind, Kernel, Result,
    agent::{AgentSpec, AgentState, Create, HealthStatus, Message, Status, Stop},
    clock::{ManualClock, Rng, SharedClock, SystemClock},
    event::Subscribe,
    plugin::{Manifest, Plugin, Registrar},
    supervision::Strategy,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

const LONG: Duration = Duration::from_secs(30);

/// The types of this crate that need no other part of it.
struct Types;

#[async_trait::async_trait]
impl Plugin for Types {
    fn manifest(&self) -> Manifest {
        Manifest { id: "test.types", name: "Types", version: "1.0.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        crate::http::register(to)?;
        crate::tcp::register(to)?;
        crate::heartbeat::register(to)?;
        crate::host::register(to)?;
        crate::group::register(to)
    }
}

async fn open(home: &Path, clock: SharedClock) -> Kernel {
    let kernel = Kernel::describe_with(vec![Arc::new(Types)], clock, Rng::from_os()).unwrap();
    let runtime = home.join("run");
    std::fs::create_dir_all(&runtime).unwrap();
    kernel.open(home, &runtime).await.unwrap();
    kernel
}

async fn create(kernel: &Kernel, name: &str, kind: &str, config: Value) -> Result<Value> {
    let how = Create { must_start: true, ..Create::default() };
    kernel.agents().create(AgentSpec::new(name, kind, config), how).await
}

/// Waits, by events, until the agent's state is as wanted.
async fn until(kernel: &Kernel, name: &str, wanted: impl Fn(&AgentState) -> bool) -> AgentState {
    let events = kernel.bus().subscribe(Subscribe::to(["agent.>"])).unwrap();
    let wait = async {
        loop {
            let state = kernel.agents().state(name).unwrap();
            if wanted(&state) {
                return state;
            }
            events.next_batch(64).await.expect("the bus is open");
        }
    };
    let Ok(state) = tokio::time::timeout(LONG, wait).await else {
        panic!("`{name}` is still {:?}", kernel.agents().state(name));
    };
    state
}

fn is(status: Status, health: HealthStatus) -> impl Fn(&AgentState) -> bool {
    move |state| state.status == status && state.health.status == health
}

async fn check(kernel: &Kernel, name: &str) -> (HealthStatus, String) {
    let health = kernel.agents().check(name).await.unwrap();
    (health.status, health.issues.first().map(|issue| issue.message.clone()).unwrap_or_default())
}

fn measured(kernel: &Kernel, agent: &str, name: &str) -> Option<f64> {
    kernel.agents().measure(agent).unwrap().into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// Answers every request with the status that `status` holds.
async fn serve(status: Arc<AtomicU16>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            let status = status.load(Ordering::SeqCst);
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn http_agents_watch_an_endpoint() {
    let home = tempfile::tempdir().unwrap();
    let kernel = open(home.path(), SystemClock::shared()).await;
    let status = Arc::new(AtomicU16::new(200));
    let url = serve(status.clone()).await;
    create(&kernel, "api", "http", json!({"url": url})).await.unwrap();
    until(&kernel, "api", is(Status::Running, HealthStatus::Healthy)).await;
    assert!(kernel.agents().needs_checks("api"));
    let row = kernel.agents().status("api").unwrap();
    assert_eq!(
        (&row["url"], &row["http_status"], &row["last_error"]),
        (&json!(url), &json!(200), &Value::Null)
    );
    assert!(measured(&kernel, "api", "responseTime").is_some_and(|ms| ms > 0.0));
    assert_eq!(measured(&kernel, "api", "errorRate"), Some(0.0));

    status.store(503, Ordering::SeqCst);
    assert_eq!(check(&kernel, "api").await, (HealthStatus::Degraded, format!("{url}: status 503")));
    assert_eq!(check(&kernel, "api").await, (HealthStatus::Critical, format!("{url}: status 503")));
    until(&kernel, "api", is(Status::Degraded, HealthStatus::Critical)).await;
    assert_eq!(measured(&kernel, "api", "errorRate"), Some(2.0 / 3.0));
    assert_eq!(kernel.agents().status("api").unwrap()["http_status"], 503);

    status.store(204, Ordering::SeqCst);
    assert_eq!(check(&kernel, "api").await.0, HealthStatus::Healthy);
    until(&kernel, "api", is(Status::Running, HealthStatus::Healthy)).await;
    kernel.close(Stop::Graceful(LONG)).await.unwrap();
}

#[tokio::test]
async fn endpoints_that_are_down_are_ready_and_ill() {
    let home = tempfile::tempdir().unwrap();
    let kernel = open(home.path(), SystemClock::shared()).await;
    // Taken and not listened on, so that nobody else can listen on it either.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    create(&kernel, "db", "tcp", json!({"address": address, "failures": 1})).await.unwrap();
    let state = until(&kernel, "db", is(Status::Degraded, HealthStatus::Critical)).await;
    assert_eq!(state.health.issues[0].code, "check");
    assert_eq!(
        check(&kernel, "db").await,
        (HealthStatus::Critical, format!("{address}: connection refused"))
    );
    assert_eq!(kernel.agents().status("db").unwrap()["last_error"], "connection refused");

    let _listener = socket.listen(8).unwrap();
    assert_eq!(check(&kernel, "db").await.0, HealthStatus::Healthy);
    until(&kernel, "db", is(Status::Running, HealthStatus::Healthy)).await;
    assert_eq!(measured(&kernel, "db", "errorRate"), Some(2.0 / 3.0));
    kernel.close(Stop::Graceful(LONG)).await.unwrap();
}

#[tokio::test]
async fn wrong_configurations_say_why_and_leave_nothing() {
    let home = tempfile::tempdir().unwrap();
    let kernel = open(home.path(), SystemClock::shared()).await;
    for (kind, config, problem) in [
        ("http", json!({}), "url"),
        ("http", json!({"url": "https://x/"}), "`url`: `https://x/` needs TLS"),
        ("http", json!({"url": "http://x/", "expect": "ok"}), "`expect`: `ok` is not a status"),
        ("http", json!({"url": "http://x/", "timeout": "soon"}), "`timeout`: `soon` is not a duration"),
        ("http", json!({"url": "http://x/", "slow": "5s"}), "`slow`: is not shorter than `timeout`"),
        ("http", json!({"url": "http://x/", "uri": "x"}), "uri"),
        ("tcp", json!({"address": "80"}), "`address`: `80` is not an address"),
        ("heartbeat", json!({"interval": "0"}), "`interval`: is zero"),
        ("host", json!({"cpu": 95}), "`cpu`"),
        ("group", json!({"members": []}), "members"),
    ] {
        let error = create(&kernel, "x", kind, config.clone()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidConfig, "{kind} {config}: {error}");
        assert!(error.message.contains(problem), "{kind} {config}: {error}");
    }
    assert!(kernel.agents().is_empty());
    kernel.close(Stop::Graceful(LONG)).await.unwrap();
}

async fn beat(kernel: &Kernel, body: Value) -> Result<Value> {
    kernel.agents().ask("job", Message::new("test", body), LONG).await
}

#[tokio::test]
async fn missing_heartbeats_are_critical_and_the_next_one_heals() {
    let (home, clock) = (tempfile::tempdir().unwrap(), ManualClock::shared());
    let kernel = open(home.path(), clock.clone()).await;
    create(&kernel, "job", "heartbeat", json!({"interval": "10s", "grace": "1s"})).await.unwrap();
    until(&kernel, "job", is(Status::Running, HealthStatus::Unknown)).await;
    assert!(!kernel.agents().needs_checks("job"));

    // By message: each beat moves the time on.
    assert_eq!(beat(&kernel, json!({"beat": true})).await.unwrap(), json!({"beats": 1, "due_ms": 11_000}));
    until(&kernel, "job", is(Status::Running, HealthStatus::Healthy)).await;
    clock.advance(Duration::from_secs(10));
    beat(&kernel, json!({"beat": true, "status": "copying"})).await.unwrap();
    clock.advance(Duration::from_millis(10_999));
    assert_eq!(check(&kernel, "job").await.0, HealthStatus::Healthy);
    clock.advance(Duration::from_millis(1));
    let late = until(&kernel, "job", is(Status::Degraded, HealthStatus::Critical)).await;
    assert_eq!(late.health.issues[0].message, "no beat within 11s, after 2");
    beat(&kernel, json!({"beat": true})).await.unwrap();
    until(&kernel, "job", is(Status::Running, HealthStatus::Healthy)).await;

    // It may say that it is ill.
    beat(&kernel, json!({"beat": true, "healthy": false, "status": "no space"})).await.unwrap();
    let ill = until(&kernel, "job", is(Status::Degraded, HealthStatus::Critical)).await;
    assert_eq!(ill.health.issues[0].message, "it reports that it is ill: no space");

    // By its socket.
    let row = kernel.agents().status("job").unwrap();
    assert_eq!((&row["beats"], &row["said"]), (&json!(4), &json!("no space")));
    let socket = row["notify_socket"].as_str().unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    let say = |text: &str| sender.send_to(text.as_bytes(), socket).map(drop).unwrap();
    say("STATUS=only talk");
    say("WATCHDOG=1\nSTATUS=done");
    until(&kernel, "job", is(Status::Running, HealthStatus::Healthy)).await;
    let row = kernel.agents().status("job").unwrap();
    assert_eq!((&row["beats"], &row["said"]), (&json!(5), &json!("done")));
    say("WATCHDOG=trigger");
    until(&kernel, "job", is(Status::Degraded, HealthStatus::Critical)).await;
    say("WATCHDOG_USEC=2000000\nWATCHDOG=1");
    until(&kernel, "job", is(Status::Running, HealthStatus::Healthy)).await;
    clock.advance(Duration::from_secs(3));
    let late = until(&kernel, "job", is(Status::Degraded, HealthStatus::Critical)).await;
    assert_eq!(late.health.issues[0].message, "no beat within 3s, after 6");

    for wrong in [json!({}), json!({"beat": false}), json!({"beat": true, "stat": 1}), json!("beat")] {
        let error = beat(&kernel, wrong.clone()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{wrong}: {error}");
    }
    assert_eq!(measured(&kernel, "job", "beats"), Some(6.0));
    let socket = socket.to_owned();
    kernel.agents().stop("job", Stop::Graceful(LONG)).await.unwrap();
    assert!(!Path::new(&socket).exists());
    kernel.close(Stop::Graceful(LONG)).await.unwrap();
}

#[tokio::test]
async fn heartbeats_outlive_the_host_and_get_a_fresh_interval() {
    let (home, clock) = (tempfile::tempdir().unwrap(), ManualClock::shared());
    let kernel = open(home.path(), clock.clone()).await;
    create(&kernel, "job", "heartbeat", json!({"interval": "10s", "grace": "0s"})).await.unwrap();
    for _ in 0..3 {
        clock.advance(Duration::from_secs(1));
        beat(&kernel, json!({"beat": true, "status": "copying"})).await.unwrap();
    }
    let socket = kernel.agents().status("job").unwrap()["notify_socket"].as_str().unwrap().to_owned();
    kernel.close(Stop::Detach).await.unwrap();
    drop(kernel);
    assert!(Path::new(&socket).exists());

    clock.advance(Duration::from_secs(100));
    let kernel = open(home.path(), clock.clone()).await;
    until(&kernel, "job", is(Status::Running, HealthStatus::Unknown)).await;
    let row = kernel.agents().status("job").unwrap();
    assert_eq!(
        (&row["beats"], &row["last_beat_ms"], &row["said"]),
        (&json!(3), &json!(3_000), &json!("copying"))
    );
    assert_eq!(row["notify_socket"], socket);
    clock.advance(Duration::from_millis(9_999));
    assert_eq!(check(&kernel, "job").await.0, HealthStatus::Unknown);
    clock.advance(Duration::from_millis(1));
    let late = until(&kernel, "job", is(Status::Degraded, HealthStatus::Critical)).await;
    assert_eq!(late.health.issues[0].message, "no beat within 10s, after 3");
    UnixDatagram::unbound().unwrap().send_to(b"READY=1", &socket).unwrap();
    until(&kernel, "job", is(Status::Running, HealthStatus::Healthy)).await;
    kernel.close(Stop::Graceful(LONG)).await.unwrap();
}

#[tokio::test]
async fn host_agents_measure_this_machine() {
    let home = tempfile::tempdir().unwrap();
    let kernel = open(home.path(), SystemClock::shared()).await;
    create(&kernel, "machine", "host", json!({"memory": 0.000_001, "load": 100_000})).await.unwrap();
    let state = until(&kernel, "machine", |s| s.status == Status::Degraded).await;
    assert!(state.health.issues.iter().any(|issue| issue.code == "memory"), "{:?}", state.health);
    for (name, most) in [
        ("cpuUsage", 1.0),
        ("memoryRatio", 1.0),
        ("diskRatio", 1.0),
        ("memoryUsage", 1e18),
        ("diskUsage", 1e18),
    ] {
        assert!(measured(&kernel, "machine", name).is_some_and(|v| (0.0..=most).contains(&v)), "{name}");
    }
    assert!(measured(&kernel, "machine", "load1").is_some());
    assert!(
        kernel.agents().status("machine").unwrap()["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0)
    );

    create(&kernel, "lost", "host", json!({"path": "/nowhere/at/all"})).await.unwrap();
    let state = until(&kernel, "lost", |s| s.status == Status::Degraded).await;
    assert!(
        state.health.issues.iter().any(|issue| issue.message.contains("/nowhere/at/all")),
        "{:?}",
        state.health
    );
    kernel.close(Stop::Graceful(LONG)).await.unwrap();
}

#[tokio::test]
async fn groups_hold_children() {
    let home = tempfile::tempdir().unwrap();
    let kernel = open(home.path(), SystemClock::shared()).await;
    let mut group = AgentSpec::new("stack", "group", json!({}));
    group.strategy = Strategy::OneForAll;
    kernel.agents().create(group, Create { must_start: true, ..Create::default() }).await.unwrap();
    until(&kernel, "stack", is(Status::Running, HealthStatus::Healthy)).await;
    let mut child = AgentSpec::new("job", "heartbeat", json!({}));
    child.parent = Some("stack".into());
    kernel.agents().create(child, Create { must_start: true, ..Create::default() }).await.unwrap();
    let refused = kernel.agents().destroy("stack").await.unwrap_err();
    assert!(refused.message.contains("`job`"), "{refused}");
    kernel.agents().stop("stack", Stop::Graceful(LONG)).await.unwrap();
    until(&kernel, "job", |s| s.status == Status::Stopped).await;
    kernel.close(Stop::Graceful(LONG)).await.unwrap();
}
