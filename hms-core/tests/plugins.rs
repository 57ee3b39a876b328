//! The one door into the registries: what a plugin registers is there, in order, and goes with it.

mod common;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use common::{PATIENCE, System, Watch, Workers, World, describe, settle, soon, type_spec, worker};
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentSpec, Create, Message, Status, Stop},
    clock::{ManualClock, Rng},
    command::{Caller, CommandContext, CommandSpec, handler},
    plugin::{Manifest, Plugin, Registrar},
    service::{Service, ServiceSpec},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const GRACEFUL: Stop = Stop::Graceful(Duration::from_secs(5));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    RegisterFails,
    RegisterPanics,
    InitializeFails,
    InitializePanics,
    ShutdownPanics,
}

type Log = Arc<Mutex<Vec<String>>>;

/// Registers a command, a service and an agent type, each named after it.
struct Part {
    id: &'static str,
    depends_on: &'static [&'static str],
    trouble: Trouble,
    version: &'static str,
    kind: &'static str,
    world: Arc<World>,
    log: Log,
}

impl Part {
    fn new(id: &'static str, log: &Log) -> Self {
        Self {
            id,
            depends_on: &[],
            trouble: Trouble::None,
            version: "1.0.0",
            kind: id,
            world: Arc::default(),
            log: log.clone(),
        }
    }

    fn with(self, trouble: Trouble) -> Self {
        Self { trouble, ..self }
    }

    fn after(self, depends_on: &'static [&'static str]) -> Self {
        Self { depends_on, ..self }
    }

    fn say(&self, what: &str) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what} {}", self.id));
    }
}

struct Echo;

#[async_trait]
impl Service for Echo {
    async fn call(&self, method: &str, args: Value) -> Result<Value> {
        Ok(json!({"method": method, "args": args}))
    }
}

#[async_trait]
impl Plugin for Part {
    fn manifest(&self) -> Manifest {
        let (id, depends_on) = (self.id, self.depends_on);
        Manifest { id, name: id, version: "1.0.0", depends_on, ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        let say_hello = handler(|_, _: Value| async { Ok(json!("hello")) });
        let any = CommandSpec {
            args: json!(true),
            ..CommandSpec::new(&format!("{} hello", self.id), "says hello")
        };
        to.command(any, say_hello)?;
        to.service(ServiceSpec::new(&format!("{}.echo", self.id), "1.2.0", "echoes"), Arc::new(Echo))?;
        to.agent_type(type_spec(self.kind, self.version), Arc::new(Workers(self.world.clone())))?;
        match self.trouble {
            Trouble::RegisterFails => Err(Error::new(ErrorKind::HandlerFailed, "told to fail")),
            Trouble::RegisterPanics => panic!("told to panic"),
            _ => Ok(()),
        }
    }

    async fn initialize(&self, _kernel: &Kernel) -> Result<()> {
        self.say("begin");
        match self.trouble {
            Trouble::InitializeFails => Err(Error::new(ErrorKind::HandlerFailed, "told to fail")),
            Trouble::InitializePanics => panic!("told to panic"),
            _ => Ok(()),
        }
    }

    async fn shutdown(&self) -> Result<()> {
        self.say("end");
        assert_ne!(self.trouble, Trouble::ShutdownPanics, "told to panic");
        Ok(())
    }
}

fn said(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap_or_else(PoisonError::into_inner))
}

/// How much of the plugin `id` is in the registries: command, service and type.
fn there(kernel: &Kernel, id: &str) -> [bool; 3] {
    [
        kernel.commands().get(&format!("{id} hello")).is_ok(),
        kernel.services().find(&format!("{id}.echo")).is_ok(),
        kernel.types().get(id).is_ok(),
    ]
}

fn listed(kernel: &Kernel) -> Vec<String> {
    let list = kernel.plugins().list();
    list.iter().map(|p| format!("{} {}", p["id"].as_str().unwrap(), p["stage"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn what_a_plugin_registers_is_there_and_goes_with_it() {
    let system = System::open().await;
    let (kernel, log) = (&system.kernel, Log::default());
    kernel.add_plugin(Arc::new(Part::new("one", &log))).await.unwrap();
    assert_eq!(there(kernel, "one"), [true; 3]);
    let (cx, _canceller) = CommandContext::new(Caller::default(), None);
    assert_eq!(kernel.commands().get("one hello").unwrap().run(cx, Value::Null).await.unwrap(), "hello");
    let echo = kernel.services().lookup("one.echo", &"^1.1".parse().unwrap()).unwrap();
    let answer = echo.call("any", json!(1), PATIENCE).await.unwrap();
    assert_eq!(answer, json!({"method": "any", "args": 1}));
    let Err(miss) = kernel.services().lookup("one.echo", &"^2".parse().unwrap()) else {
        panic!("no 2 is there")
    };
    assert!(miss.message.contains("1.2.0"), "{miss}");

    kernel.plugins().remove(kernel, "one").await.unwrap();
    assert_eq!(there(kernel, "one"), [false; 3]);
    assert_eq!(said(&log), ["begin one", "end one"]);
    let e = kernel.plugins().remove(kernel, "one").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound);
    // One that panics on its way out is out all the same.
    kernel.add_plugin(Arc::new(Part::new("two", &log).with(Trouble::ShutdownPanics))).await.unwrap();
    assert_eq!(kernel.plugins().remove(kernel, "two").await.unwrap_err().kind, ErrorKind::Panic);
    assert_eq!(there(kernel, "two"), [false; 3]);
}

#[tokio::test]
async fn a_second_plugin_of_one_id_is_an_error() {
    let log = Log::default();
    let twice: Vec<Arc<dyn Plugin>> =
        vec![Arc::new(Part::new("one", &log)), Arc::new(Part::new("one", &log))];
    let e = Kernel::describe_with(twice, ManualClock::shared(), Rng::seeded(1)).err().expect("an error");
    assert_eq!(e.kind, ErrorKind::AlreadyExists);
    assert!(e.message.contains("`one`"), "{e}");

    let system = System::open().await;
    system.kernel.add_plugin(Arc::new(Part::new("one", &log))).await.unwrap();
    let e = system.kernel.add_plugin(Arc::new(Part::new("one", &log))).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::AlreadyExists);
    assert_eq!(there(&system.kernel, "one"), [true; 3], "the first one is not touched");
    assert_eq!(said(&log), ["begin one"]);
}

#[tokio::test]
async fn dependencies_begin_first_and_end_last() {
    let (home, log) = (TempDir::new().unwrap(), Log::default());
    let plugins: Vec<Arc<dyn Plugin>> = vec![
        Arc::new(Part::new("a", &log).after(&["c"])),
        Arc::new(Part::new("b", &log).after(&["a", "c"])),
        Arc::new(Part::new("c", &log)),
    ];
    let kernel = describe(plugins, &ManualClock::shared());
    kernel.open(home.path(), home.path()).await.unwrap();
    assert_eq!(said(&log), ["begin c", "begin a", "begin b"]);
    let e = kernel.plugins().remove(&kernel, "c").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidState);
    assert!(e.message.contains("needs plugin `c`"), "{e}");
    assert_eq!(there(&kernel, "c"), [true; 3]);
    kernel.close(GRACEFUL).await.unwrap();
    assert_eq!(said(&log), ["end b", "end a", "end c"]);
    assert_eq!(there(&kernel, "b"), [false; 3]);
}

#[tokio::test]
async fn a_missing_dependency_or_a_cycle_is_named() {
    let (home, log) = (TempDir::new().unwrap(), Log::default());
    let kernel = describe(vec![Arc::new(Part::new("a", &log).after(&["absent"]))], &ManualClock::shared());
    let e = kernel.open(home.path(), home.path()).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::InvalidConfig);
    assert!(e.message.contains("`a`") && e.message.contains("`absent`"), "{e}");

    let home = TempDir::new().unwrap();
    let plugins: Vec<Arc<dyn Plugin>> =
        vec![Arc::new(Part::new("a", &log).after(&["b"])), Arc::new(Part::new("b", &log).after(&["a"]))];
    let kernel = describe(plugins, &ManualClock::shared());
    let e = kernel.open(home.path(), home.path()).await.unwrap_err();
    assert!(e.message.contains("cycle"), "{e}");

    let system = System::open().await;
    let late = || Arc::new(Part::new("late", &log).after(&["absent"]));
    let e = system.kernel.add_plugin(late()).await.unwrap_err();
    assert!(e.message.contains("`absent`"), "{e}");
    assert_eq!(there(&system.kernel, "late"), [false; 3]);
    assert_eq!(listed(&system.kernel), ["test.workers active"]);
    // Nothing of it keeps others out.
    system.kernel.add_plugin(Arc::new(Part::new("absent", &log))).await.unwrap();
    system.kernel.add_plugin(late()).await.unwrap();
    assert_eq!(said(&log), ["begin absent", "begin late"]);
}

#[tokio::test]
async fn one_that_fails_leaves_nothing_and_may_come_again() {
    let system = System::open().await;
    let (kernel, log) = (&system.kernel, Log::default());
    for (trouble, kind) in [
        (Trouble::RegisterFails, ErrorKind::HandlerFailed),
        (Trouble::RegisterPanics, ErrorKind::Panic),
        (Trouble::InitializeFails, ErrorKind::HandlerFailed),
        (Trouble::InitializePanics, ErrorKind::Panic),
    ] {
        let e = kernel.add_plugin(Arc::new(Part::new("bad", &log).with(trouble))).await.unwrap_err();
        assert_eq!(e.kind, kind, "{trouble:?}: {e}");
        assert!(e.message.contains("plugin `bad`"), "{e}");
        assert_eq!(there(kernel, "bad"), [false; 3], "{trouble:?}");
        assert_eq!(listed(kernel), ["test.workers active"], "{trouble:?}");
    }
    // What is refused half way through takes the first half along.
    kernel.add_plugin(Arc::new(Part::new("one", &log))).await.unwrap();
    let other_version = Part { version: "2.0.0", kind: "one", ..Part::new("rival", &log) };
    let e = kernel.add_plugin(Arc::new(other_version)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::VersionMismatch);
    assert!(e.message.contains("1.0.0") && e.message.contains("2.0.0"), "{e}");
    assert_eq!(there(kernel, "rival"), [false; 3]);
    kernel.add_plugin(Arc::new(Part::new("bad", &log))).await.unwrap();
    assert_eq!(there(kernel, "bad"), [true; 3]);
}

#[tokio::test]
async fn a_system_that_cannot_begin_ends_what_has_begun() {
    let (home, log) = (TempDir::new().unwrap(), Log::default());
    let plugins: Vec<Arc<dyn Plugin>> =
        vec![Arc::new(Part::new("a", &log)), Arc::new(Part::new("b", &log).with(Trouble::InitializeFails))];
    let kernel = describe(plugins, &ManualClock::shared());
    let e = kernel.open(home.path(), home.path()).await.unwrap_err();
    assert_eq!(e.message, "plugin `b`: told to fail");
    assert_eq!(said(&log), ["begin a", "begin b", "end a"]);
    // The home is free for the next one.
    let kernel = describe(vec![Arc::new(Part::new("a", &log))], &ManualClock::shared());
    soon("the next system", kernel.open(home.path(), home.path())).await.unwrap();
    kernel.close(GRACEFUL).await.unwrap();
}

#[tokio::test]
async fn agents_wait_while_their_plugin_is_away_and_resume_with_their_state() {
    let system = System::open().await;
    let (kernel, agents, log) = (&system.kernel, system.kernel.agents(), Log::default());
    let watch = Watch::on(kernel);
    let part = |world: &Arc<World>| Part { world: world.clone(), ..Part::new("kind", &log) };
    let first = Arc::new(World::default());
    kernel.add_plugin(Arc::new(part(&first))).await.unwrap();
    agents.create(AgentSpec { kind: "kind".into(), ..worker("a") }, Create::default()).await.unwrap();
    system.worker("bystander").await;
    assert_eq!(system.count("a").await, 1);

    kernel.plugins().remove(kernel, "kind").await.unwrap();
    watch.status("a", "waiting").await;
    settle().await;
    let state = agents.state("a").unwrap();
    assert_eq!(state.reason.as_deref(), Some("type_unavailable"));
    assert_eq!(state.health.status.as_str(), "unknown");
    assert_eq!(first.take_log(), ["start a", "stop a"], "its life ended with its plugin");
    assert_eq!(system.incarnation("bystander"), 1);
    // A message that comes meanwhile is kept.
    agents.tell("a", Message::new("t", json!({"do": "count"}))).unwrap();
    let missing = agents.create(AgentSpec { kind: "kind".into(), ..worker("b") }, Create::default()).await;
    assert_eq!(missing.unwrap_err().kind, ErrorKind::TypeUnavailable);

    let second = Arc::new(World::default());
    kernel.add_plugin(Arc::new(part(&second))).await.unwrap();
    watch.event("agent.started", "a").await;
    assert_eq!(system.count("a").await, 3);
    assert_eq!(second.take_log(), ["start a"]);
    assert!(agents.state("a").unwrap().last_exit.is_none(), "none of this was a failure");
}

#[tokio::test]
async fn a_standby_provider_takes_over() {
    let system = System::open().await;
    let (kernel, log) = (&system.kernel, Log::default());
    let watch = Watch::on(kernel);
    let worlds: [Arc<World>; 2] = Default::default();
    for (id, world) in ["first", "second"].into_iter().zip(&worlds) {
        let part = Part { kind: "kind", world: world.clone(), ..Part::new(id, &log) };
        kernel.add_plugin(Arc::new(part)).await.unwrap();
    }
    system.create(AgentSpec { kind: "kind".into(), ..worker("a") }).await;
    assert_eq!(system.count("a").await, 1);
    watch.event("agent.started", "a").await;
    kernel.plugins().remove(kernel, "first").await.unwrap();
    watch.event("agent.started", "a").await;
    assert_eq!(worlds[0].take_log(), ["start a", "stop a"]);
    assert_eq!(worlds[1].take_log(), ["start a"]);
    assert_eq!(system.count("a").await, 2);
    assert_eq!(system.status("a"), Status::Running);
    // A standby that goes is not missed.
    let third = Part { kind: "kind", ..Part::new("third", &log) };
    kernel.add_plugin(Arc::new(third)).await.unwrap();
    kernel.plugins().remove(kernel, "third").await.unwrap();
    settle().await;
    assert_eq!(system.incarnation("a"), 2);
}
