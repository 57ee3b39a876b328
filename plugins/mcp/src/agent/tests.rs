//! Both sides of the link, over a real socket and a real host, with facts that the tests tell.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use hms_core::{
    Kernel, Result,
    agent::{AgentState, HealthStatus, RestartRequest, Restarted, Status, Stop},
    command::{CommandContext, Update},
    event::{Subscribe, Subscription},
    host::Host,
    os::identity::ProcessId,
    peer::Attach,
    plugin::{Manifest, Plugin, Registrar},
    supervision::Intensity,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{Described, Order, Presence, host::ATTACH, link, uplink::Orders};
use crate::relay::{Fact, Reporter, facts};

/// No step takes longer on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// This room alone.
struct Room;

#[async_trait]
impl Plugin for Room {
    fn manifest(&self) -> Manifest {
        Manifest { id: "hms.mcp", name: "MCP", version: "0.1.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        super::register(to)
    }
}

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn runtime(&self) -> std::path::PathBuf {
        self.0.path().join("run")
    }

    async fn host(&self) -> Host {
        hms_core::os::files::create_private_dir(&self.runtime()).unwrap();
        let kernel = Kernel::describe(vec![Arc::new(Room)]).unwrap();
        Host::open(kernel, &self.0.path().join("home"), &self.runtime()).await.unwrap()
    }

    fn wrap(&self, name: &str) -> Wrapped {
        let attach =
            Attach { runtime_dir: self.runtime(), name: "test".into(), start: None, deadline: PATIENCE };
        let described = Described {
            by: "wrap",
            name: name.into(),
            command: ["srv", "--token", "s3cret"].map(str::to_owned).to_vec(),
            labels: [("client".to_owned(), "test".to_owned())].into(),
            options: Map::new(),
            budget: Intensity { max: 5, window: Duration::from_secs(60) },
        };
        let (reporter, facts) = facts();
        let orders = link(attach, Presence::IfRunning, described, facts);
        Wrapped { reporter, orders }
    }
}

struct Wrapped {
    reporter: Reporter,
    orders: Orders,
}

impl Wrapped {
    fn up(&self, life: u64) {
        self.reporter.tell(Fact::Started { life, pid: pid(), cause: None });
        self.reporter.tell(Fact::Ready { life, took: Duration::from_millis(5) });
    }

    fn down(&self, life: u64) {
        let reason = format!("life {life} was ended by signal SIGKILL");
        self.reporter.tell(Fact::Exited { life, reason, code: None, signal: Some(9), failed: 0, again: 0 });
    }

    async fn order(&mut self) -> Order {
        tokio::time::timeout(PATIENCE, self.orders.next()).await.expect("an order comes")
    }
}

fn pid() -> i32 {
    std::process::id() as i32
}

/// Ends a host as `system stop` and `system restart` do.
async fn end(host: Host, how: Stop) {
    host.close(how).await.unwrap();
}

async fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = there() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

async fn state(host: &Host, name: &str, what: &str, fits: impl Fn(&AgentState) -> bool) -> AgentState {
    let agents = host.kernel().agents();
    until(&format!("`{name}` {what}"), || agents.state(name).ok().filter(|s| fits(s))).await
}

async fn running(host: &Host, name: &str) -> AgentState {
    state(host, name, "runs", |s| s.status == Status::Running).await
}

async fn gone(host: &Host, name: &str) {
    until(&format!("`{name}` goes"), || host.kernel().agents().state(name).is_err().then_some(())).await;
}

async fn event(events: &Subscription, kind: &str) -> Value {
    let next = async {
        loop {
            let batch = events.next_batch(1).await.expect("events go on");
            if let Some(event) = batch.events.iter().find(|e| e.kind == kind) {
                return event.to_json()["data"].clone();
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("no {kind}"))
}

#[tokio::test]
async fn a_wrapped_server_is_an_agent_with_its_calls_and_goes_with_its_link() {
    let home = Home::new();
    let wrapped = home.wrap("Files");
    wrapped.up(1);
    wrapped.reporter.tell(Fact::Call { tool: "read".into(), took: Duration::from_millis(7), ok: true });
    // The host comes later than the wrapper.
    let host = home.host().await;
    let state = running(&host, "mcp-files").await;
    assert_eq!((state.restarts, state.health.status), (0, HealthStatus::Healthy));
    for n in 0..99 {
        wrapped.reporter.tell(Fact::Call { tool: "read".into(), took: Duration::from_millis(7), ok: n > 0 });
    }
    let agents = host.kernel().agents();
    let status =
        until("100 calls", || agents.status("mcp-files").ok().filter(|s| s["tools"][0]["calls"] == 100))
            .await;
    assert_eq!(status["config"]["command"], json!(["srv", "--token", "(hidden)"]));
    assert_eq!((&status["labels"]["client"], &status["pid"]), (&json!("test"), &json!(pid())));
    assert_eq!((&status["tools"][0]["p50_ms"], &status["tools"][0]["errors"]), (&json!(7.0), &json!(1)));
    let measured = agents.measure("mcp-files").unwrap();
    let of = |name: &str| measured.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
    assert_eq!((of("tool.read.p99_ms"), of("responseTime")), (Some(7.0), Some(7.0)));
    assert!(of("memoryUsage").is_some_and(|bytes| bytes > 1e5), "{measured:?}");
    drop(wrapped);
    gone(&host, "mcp-files").await;
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn ends_of_the_server_are_restarts_of_the_agent() {
    let home = Home::new();
    let host = home.host().await;
    let wrapped = home.wrap("srv");
    wrapped.up(1);
    let begun = running(&host, "mcp-srv").await;
    let events = host.kernel().bus().subscribe(Subscribe::to(["agent.>"])).unwrap();
    wrapped.down(1);
    wrapped.up(2);
    let exited = event(&events, "agent.exited").await;
    assert_eq!((&exited["exit"]["signal"], &exited["next"]), (&json!(9), &json!("restart")));
    let restarted = event(&events, "agent.restarted").await;
    assert_eq!((&restarted["by"], &restarted["pid"]), (&json!("supervision"), &json!(pid())), "{restarted}");
    let after = state(&host, "mcp-srv", "was restarted", |s| s.restarts == 1).await;
    assert_eq!(after.incarnation, begun.incarnation + 1);
    // Several between two reports are told one by one.
    for life in 2..=4 {
        wrapped.down(life);
        wrapped.reporter.tell(Fact::Started { life: life + 1, pid: pid(), cause: None });
    }
    wrapped.up(5);
    let after = state(&host, "mcp-srv", "was restarted thrice", |s| s.restarts == 4).await;
    assert_eq!(after.last_exit.unwrap().reason, "life 4 was ended by signal SIGKILL");
    let health = state(&host, "mcp-srv", "is unstable", |s| s.health.status == HealthStatus::Degraded).await;
    assert_eq!(health.health.issues[0].code, "unstable");
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn what_was_before_the_first_host_is_counted_and_what_just_happened_told() {
    let home = Home::new();
    let wrapped = home.wrap("srv");
    for life in 1..=3 {
        wrapped.up(life);
        wrapped.down(life);
    }
    let host = home.host().await;
    state(&host, "mcp-srv", "tells the last end", |s| s.restarts == 3 && s.last_exit.is_some()).await;
    wrapped.up(4);
    let state = running(&host, "mcp-srv").await;
    assert_eq!(
        (state.restarts, state.last_exit.unwrap().reason.as_str()),
        (3, "life 3 was ended by signal SIGKILL")
    );
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn a_slow_restart_is_a_start_that_is_waited_for() {
    let home = Home::new();
    let host = home.host().await;
    let wrapped = home.wrap("srv");
    wrapped.up(1);
    running(&host, "mcp-srv").await;
    wrapped.down(1);
    state(&host, "mcp-srv", "waits for the wrapper's back-off", |s| s.status == Status::Starting).await;
    wrapped.up(2);
    let state = running(&host, "mcp-srv").await;
    assert_eq!((state.restarts, state.health.status), (1, HealthStatus::Healthy));
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn what_is_asked_of_the_agent_the_wrapper_does() {
    let home = Home::new();
    let host = home.host().await;
    let mut wrapped = home.wrap("srv");
    wrapped.up(1);
    running(&host, "mcp-srv").await;
    let agents = host.kernel().agents().clone();
    let request = RestartRequest { reason: "test".into(), by: "user".into(), ..RestartRequest::default() };
    let restart = tokio::spawn(async move { agents.restart("mcp-srv", request).await });
    let stop = wrapped.order().await;
    assert_eq!(stop, Order::Stop { kill: false });
    wrapped.down(1);
    wrapped.reporter.tell(Fact::Halted);
    let start = wrapped.order().await;
    assert_eq!(start, Order::Start);
    wrapped.up(2);
    assert!(matches!(restart.await.unwrap().unwrap(), Restarted::Done { .. }));
    let state_now = running(&host, "mcp-srv").await;
    assert_eq!(state_now.restarts, 1, "one restart, and the ordered end is no exit");
    // Stopped, it stays so, over a host's end too.
    let agents = host.kernel().agents().clone();
    let stopping = tokio::spawn(async move { agents.stop("mcp-srv", Stop::Kill).await });
    let stop = wrapped.order().await;
    assert_eq!(stop, Order::Stop { kill: true });
    wrapped.reporter.tell(Fact::Halted);
    stopping.await.unwrap().unwrap();
    end(host, Stop::Detach).await;
    let host = home.host().await;
    state(&host, "mcp-srv", "is still stopped", |s| s.status == Status::Stopped).await;
    // Somebody destroys it: the server goes on for its client.
    host.kernel().agents().destroy("mcp-srv").await.unwrap();
    assert_eq!(wrapped.order().await, Order::Start);
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn a_wrapper_that_gives_up_has_a_quarantined_agent_until_it_tries_again() {
    let home = Home::new();
    let host = home.host().await;
    let mut wrapped = home.wrap("srv");
    wrapped.up(1);
    running(&host, "mcp-srv").await;
    wrapped.down(1);
    wrapped.reporter.tell(Fact::GaveUp { reason: "too often".into(), again_in: Duration::from_secs(60) });
    let quarantined = state(&host, "mcp-srv", "is quarantined", |s| s.status == Status::Quarantined).await;
    assert_eq!((quarantined.reason.as_deref(), quarantined.restarts), (Some("too often"), 0));
    wrapped.up(2);
    running(&host, "mcp-srv").await;
    // Given up again, and started by somebody: that is an order.
    wrapped.down(2);
    wrapped.reporter.tell(Fact::GaveUp { reason: "again".into(), again_in: Duration::from_secs(60) });
    state(&host, "mcp-srv", "is quarantined", |s| s.status == Status::Quarantined).await;
    let agents = host.kernel().agents().clone();
    let starting = tokio::spawn(async move { agents.start("mcp-srv").await });
    let start = wrapped.order().await;
    assert_eq!(start, Order::Start);
    wrapped.up(3);
    starting.await.unwrap().unwrap();
    running(&host, "mcp-srv").await;
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn the_next_host_goes_on_with_the_same_agent() {
    let home = Home::new();
    let host = home.host().await;
    let mut wrapped = home.wrap("srv");
    wrapped.up(1);
    running(&host, "mcp-srv").await;
    wrapped.down(1);
    wrapped.up(2);
    let before =
        state(&host, "mcp-srv", "was restarted", |s| s.restarts == 1 && s.status == Status::Running).await;
    let id = host.kernel().agents().id("mcp-srv").unwrap();
    // An orderly end of the host is none of the server's.
    end(host, Stop::Graceful(Duration::from_secs(5))).await;
    let host = home.host().await;
    let after = running(&host, "mcp-srv").await;
    assert_eq!((after.restarts, after.incarnation), (1, before.incarnation));
    assert_eq!(host.kernel().agents().id("mcp-srv").unwrap(), id);
    assert_eq!(host.kernel().agents().len(), 1);
    end(host, Stop::Detach).await;
    // What happened while there was no host is told to the next one.
    wrapped.down(2);
    wrapped.up(3);
    let host = home.host().await;
    let after =
        state(&host, "mcp-srv", "was restarted", |s| s.restarts == 2 && s.status == Status::Running).await;
    assert_eq!(after.last_exit.unwrap().reason, "life 2 was ended by signal SIGKILL");
    let order = tokio::time::timeout(Duration::from_millis(50), wrapped.orders.next()).await;
    assert!(order.is_err(), "nothing was ordered");
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn idle_servers_are_well_and_their_next_start_is_no_restart() {
    let home = Home::new();
    let host = home.host().await;
    let wrapped = home.wrap("srv");
    running(&host, "mcp-srv").await;
    wrapped.up(1);
    let agents = host.kernel().agents();
    until("a pid", || agents.status("mcp-srv").ok().filter(|s| s["pid"] == pid())).await;
    wrapped.reporter.tell(Fact::Closed);
    until("idle", || agents.status("mcp-srv").ok().filter(|s| s["server"] == "idle")).await;
    wrapped.up(1);
    until("its second life", || agents.status("mcp-srv").ok().filter(|s| s["life"] == 2)).await;
    assert_eq!(running(&host, "mcp-srv").await.restarts, 0);
    wrapped.down(1);
    wrapped.up(2);
    state(&host, "mcp-srv", "was restarted", |s| s.restarts == 1).await;
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn names_are_unique_and_free_again() {
    let home = Home::new();
    let host = home.host().await;
    let (first, second) = (home.wrap("mcp-git"), home.wrap("git"));
    running(&host, "mcp-git").await;
    running(&host, "mcp-git-2").await;
    drop((first, second));
    gone(&host, "mcp-git").await;
    gone(&host, "mcp-git-2").await;
    let _third = home.wrap("git");
    running(&host, "mcp-git").await;
    end(host, Stop::Kill).await;
}

/// Attaches as a wrapper whose process is `pid`; the command's future is dropped with the task.
fn attach_by_hand(kernel: &Kernel, pid: i32) -> tokio::task::JoinHandle<()> {
    let (tx, mut updates) = mpsc::channel::<Update>(16);
    let (cx, canceller) = CommandContext::new(hms_core::command::Caller::default(), Some(tx));
    let wrapper = json!({
        "link": "by-hand", "name": "hand", "by": "wrap", "process": ProcessId::of(pid).unwrap().to_line(),
        "command": ["srv"], "labels": {}, "options": {}, "budget": {"max": 5, "window": "1m"},
        "report": {"server": {"phase": "up", "life": 1, "pid": pid, "reason": null, "start_ms": null},
            "counts": {"hangs": 0, "memory_over": 0, "lost_sessions": 0, "refused": 0, "tools_changed": 0,
                "facts_lost": 0, "lines_lost": 0}},
    });
    let command = kernel.commands().get(ATTACH).unwrap();
    tokio::spawn(async move {
        let _canceller = canceller;
        let attached = command.run(cx, json!({"wrapper": wrapper}));
        let drain = async { while updates.recv().await.is_some() {} };
        let (outcome, ()) = tokio::join!(attached, drain);
        outcome.unwrap();
    })
}

#[tokio::test]
async fn an_agent_waits_for_its_wrapper_and_goes_with_its_process() {
    let home = Home::new();
    let host = home.host().await;
    let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let pid = process.id() as i32;
    let attached = attach_by_hand(host.kernel(), pid);
    running(&host, "mcp-hand").await;
    // The connection breaks, and the process is still there.
    attached.abort();
    let waiting = state(&host, "mcp-hand", "waits", |s| s.status == Status::Waiting).await;
    assert_eq!(waiting.health.status, HealthStatus::Unknown);
    let attached = attach_by_hand(host.kernel(), pid);
    running(&host, "mcp-hand").await;
    attached.abort();
    state(&host, "mcp-hand", "waits", |s| s.status == Status::Waiting).await;
    process.kill().unwrap();
    process.wait().unwrap();
    gone(&host, "mcp-hand").await;
    // And where it ended while no host was there, the next one finds out.
    let mut process = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let attached = attach_by_hand(host.kernel(), process.id() as i32);
    running(&host, "mcp-hand").await;
    end(host, Stop::Detach).await;
    attached.abort();
    process.kill().unwrap();
    process.wait().unwrap();
    let host = home.host().await;
    gone(&host, "mcp-hand").await;
    end(host, Stop::Kill).await;
}

#[tokio::test]
async fn nobody_but_a_wrapper_makes_such_an_agent() {
    let home = Home::new();
    let host = home.host().await;
    let spec = hms_core::agent::AgentSpec::new("mine", super::KIND, json!({}));
    let e = host.kernel().agents().create(spec, Default::default()).await.unwrap_err();
    assert_eq!(e.kind, hms_core::ErrorKind::InvalidConfig);
    end(host, Stop::Kill).await;
}
