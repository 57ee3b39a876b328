//! What the tests of the agent runtime share: a real kernel on a temporary home, a clock that tests move,
//! and agents of the type `worker` that do what a test tells them and write down what was done to them.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{
        AgentContext, AgentSpec, AgentTypeSpec, Behaviour, BehaviourFactory, Create, ExitReport, Health,
        Issue, Message, Snapshot, Started, Status, Stop,
    },
    clock::{ManualClock, Rng},
    event::{Event, Subscribe, Subscription},
    plugin::{Manifest, Plugin, Registrar},
    schema,
    supervision::{Backoff, Intensity, Restart, RestartPolicy},
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A test that waits longer than this has failed. Real time; nothing is paced by it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `future`, or a failed test that says what it waited for.
pub async fn soon<T>(what: impl Debug, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what:?}"),
    }
}

/// Lets every task of a single-threaded runtime run until it waits for something.
pub async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

// ---- the world ------------------------------------------------------------------------------------

/// What goes wrong with an agent, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    PanicsInStart,
    FailsToStart,
    HangsInStart,
    /// Starts, and says that it is ready only when told.
    StartsPending,
    PanicsInHealth,
    HangsInHealth,
    PanicsInSnapshot,
    PanicsInStop,
    PanicsInFacts,
    HangsInStop,
    HangsInReset,
    HangsInCheck,
    /// Says that it blocks: `brake` is then on a thread of its own.
    Blocks,
}

/// All workers of a test: what is to go wrong, and what happened.
#[derive(Default)]
pub struct World {
    state: Mutex<WorldState>,
    /// Handlers told to `block` wait here.
    pub gate: Gate,
    /// Handlers told to `brake` block their thread here.
    pub brake: Brake,
}

/// Where threads are held until they are let go; for good with [`Brake::release`].
#[derive(Default)]
pub struct Brake {
    /// How many are held, and whether they may go.
    state: Mutex<(usize, bool)>,
    changed: std::sync::Condvar,
}

impl Brake {
    /// Blocks the calling thread.
    pub fn hold(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        let held = self.changed.wait_timeout_while(state, PATIENCE, |state| !state.1);
        held.unwrap_or_else(PoisonError::into_inner).0.0 -= 1;
    }

    pub fn release(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    /// Until that many threads are held. They are not tasks that a test could wait for.
    pub async fn holds(&self, want: usize) {
        let held = async {
            while self.state.lock().unwrap_or_else(PoisonError::into_inner).0 != want {
                tokio::task::yield_now().await;
            }
        };
        soon((want, "threads on the brake"), held).await;
    }
}

pub struct Gate(tokio::sync::Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(tokio::sync::Semaphore::new(0))
    }
}

impl Gate {
    pub fn open(&self, many: usize) {
        self.0.add_permits(many);
    }
}

#[derive(Default)]
struct WorldState {
    faults: HashSet<(String, Fault)>,
    /// `start a`, `stop a`, in order.
    log: Vec<String>,
    /// The lives that are there, by agent.
    live: HashMap<String, Vec<(u64, AgentContext)>>,
    /// An agent that had two lives at once.
    doubled: Option<String>,
}

impl World {
    fn state(&self) -> MutexGuard<'_, WorldState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, agent: &str, fault: Fault) {
        self.state().faults.insert((agent.into(), fault));
    }

    pub fn clear(&self, agent: &str, fault: Fault) {
        self.state().faults.remove(&(agent.to_owned(), fault));
    }

    pub fn has(&self, agent: &str, fault: Fault) -> bool {
        self.state().faults.contains(&(agent.to_owned(), fault))
    }

    /// What happened since the last call.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    pub fn lives(&self, agent: &str) -> usize {
        self.state().live.get(agent).map_or(0, Vec::len)
    }

    /// The first agent that had two lives at once.
    pub fn doubled(&self) -> Option<String> {
        self.state().doubled.clone()
    }

    /// Ends the life of `agent`, as a process ends by itself; whether it had one.
    pub fn end(&self, agent: &str, exit: ExitReport) -> bool {
        let Some((_, cx)) = self.state().live.get_mut(agent).and_then(Vec::pop) else { return false };
        cx.exited(exit);
        true
    }

    pub fn crash(&self, agent: &str) -> bool {
        self.end(agent, ExitReport::failure("crashed"))
    }

    pub fn finish(&self, agent: &str) -> bool {
        self.end(agent, ExitReport { clean: true, reason: "done".into(), code: None, signal: None })
    }

    /// The context of the life of `agent`.
    pub fn cx(&self, agent: &str) -> AgentContext {
        self.state().live.get(agent).and_then(|l| l.last()).expect("the agent lives").1.clone()
    }

    fn begin(&self, cx: &AgentContext, life: u64) {
        let mut state = self.state();
        let name = cx.name();
        state.log.push(format!("start {name}"));
        let live = state.live.entry(name.clone()).or_default();
        live.push((life, cx.clone()));
        if live.len() > 1 {
            state.doubled = Some(name);
        }
    }

    fn stop(&self, agent: &str, life: u64) {
        let mut state = self.state();
        state.log.push(format!("stop {agent}"));
        if let Some(live) = state.live.get_mut(agent) {
            live.retain(|(l, _)| *l != life);
        }
    }
}

static LIFE: AtomicU64 = AtomicU64::new(1);

/// One life of a `worker`. Its state is a number, which `count` adds to.
struct Worker {
    world: Arc<World>,
    life: u64,
    name: OnceLock<String>,
    count: AtomicU64,
}

impl Worker {
    fn name(&self) -> &str {
        self.name.get().map_or("", String::as_str)
    }

    fn trip(&self, fault: Fault) {
        assert!(!self.world.has(self.name(), fault), "told to: {fault:?}");
    }
}

#[async_trait]
impl Behaviour for Worker {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let _ = self.name.set(cx.name());
        self.trip(Fault::PanicsInStart);
        if self.world.has(self.name(), Fault::FailsToStart) {
            return Err(Error::new(ErrorKind::HandlerFailed, "told not to start"));
        }
        if self.world.has(self.name(), Fault::HangsInStart) {
            std::future::pending::<()>().await;
        }
        self.world.begin(cx, self.life);
        let pending = self.world.has(self.name(), Fault::StartsPending);
        Ok(if pending { Started::Pending } else { Started::Ready })
    }

    async fn handle(&self, cx: &AgentContext, message: Message) -> Result<Value> {
        match message.body["do"].as_str().unwrap_or("echo") {
            "count" => Ok((self.count.fetch_add(1, Ordering::SeqCst) + 1).into()),
            "panic" => panic!("told to panic"),
            "brake" => {
                self.world.brake.hold();
                Ok(Value::Null)
            }
            "hang" => std::future::pending().await,
            "block" => {
                self.world.gate.0.acquire().await.expect("the gate is not closed").forget();
                Ok(Value::Null)
            }
            "ask" => {
                let target = message.body["target"].as_str().unwrap_or_default();
                let body = message.body["body"].clone();
                cx.ask(&message, target, body, Duration::from_secs(5)).await
            }
            "fail" => Err(Error::new(ErrorKind::HandlerFailed, "told to fail")),
            _ => Ok(json!({"from": message.source, "body": message.body})),
        }
    }

    async fn health(&self) -> Health {
        self.trip(Fault::PanicsInHealth);
        if self.world.has(self.name(), Fault::HangsInHealth) {
            std::future::pending::<()>().await;
        }
        Health::healthy()
    }

    fn needs_checks(&self) -> bool {
        true
    }

    fn facts(&self) -> Map<String, Value> {
        self.trip(Fault::PanicsInFacts);
        Map::new()
    }

    async fn stop(&self, _how: Stop) -> Result<()> {
        if self.name.get().is_none() {
            return Ok(());
        }
        if self.world.has(self.name(), Fault::HangsInStop) {
            std::future::pending::<()>().await;
        }
        self.world.stop(self.name(), self.life);
        self.trip(Fault::PanicsInStop);
        Ok(())
    }

    async fn check(&self, cx: &AgentContext) -> Result<()> {
        if self.world.has(&cx.name(), Fault::HangsInCheck) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn reset(&self, cx: &AgentContext) -> Result<()> {
        if self.world.has(&cx.name(), Fault::HangsInReset) {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    fn blocks(&self) -> bool {
        self.world.has(self.name(), Fault::Blocks)
    }

    async fn snapshot(&self) -> Option<Snapshot> {
        self.trip(Fault::PanicsInSnapshot);
        let count = self.count.load(Ordering::SeqCst);
        Some(Snapshot { state_version: 1, data: count.to_string().into_bytes() })
    }

    async fn restore(&self, snapshot: Snapshot) -> Result<()> {
        let count = String::from_utf8_lossy(&snapshot.data).parse().unwrap_or(0);
        self.count.store(count, Ordering::SeqCst);
        Ok(())
    }
}

/// Makes workers.
pub struct Workers(pub Arc<World>);

impl BehaviourFactory for Workers {
    fn create(&self, config: &Value) -> Result<Arc<dyn Behaviour>> {
        assert!(config["poison"] != json!(true), "told to panic while it is made");
        Ok(Arc::new(Worker {
            world: self.0.clone(),
            life: LIFE.fetch_add(1, Ordering::Relaxed),
            name: OnceLock::new(),
            count: AtomicU64::new(0),
        }))
    }
}

/// What the type `name` of version `version` is.
pub fn type_spec(name: &str, version: &str) -> AgentTypeSpec {
    AgentTypeSpec {
        name: name.into(),
        version: version.parse().expect("a version"),
        summary: String::new(),
        schema: schema::object(
            json!({
                "speed": {"type": "integer", "minimum": 1, "default": 7},
                "poison": {"type": "boolean"},
            }),
            &[],
        ),
        state_version: 1,
        tunables: Vec::new(),
    }
}

/// The plugin that offers `worker`.
pub struct WorkerPlugin(pub Arc<World>);

impl Plugin for WorkerPlugin {
    fn manifest(&self) -> Manifest {
        Manifest { id: "test.workers", name: "workers", version: "1.0.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        to.agent_type(type_spec("worker", "1.0.0"), Arc::new(Workers(self.0.clone())))
    }
}

// ---- the system -----------------------------------------------------------------------------------

/// A kernel on a temporary home.
pub struct System {
    pub kernel: Kernel,
    pub clock: Arc<ManualClock>,
    pub world: Arc<World>,
    pub home: TempDir,
}

impl System {
    /// With the type `worker`.
    pub async fn open() -> Self {
        let home = TempDir::new().expect("a temporary folder");
        Self::open_at(home, ManualClock::shared()).await
    }

    async fn open_at(home: TempDir, clock: Arc<ManualClock>) -> Self {
        let world = Arc::new(World::default());
        let kernel = describe(vec![Arc::new(WorkerPlugin(world.clone()))], &clock);
        kernel.open(home.path(), home.path()).await.expect("the kernel opens");
        Self { kernel, clock, world, home }
    }

    /// Ends this system and opens another one on its home.
    pub async fn reopen(self) -> Self {
        self.kernel.close(Stop::Graceful(Duration::from_secs(5))).await.expect("the kernel closes");
        Self::open_at(self.home, self.clock).await
    }

    pub async fn create(&self, spec: AgentSpec) -> Value {
        self.kernel.agents().create(spec, Create::default()).await.expect("the agent is created")
    }

    /// Creates a worker of this name.
    pub async fn worker(&self, name: &str) {
        self.create(worker(name)).await;
    }

    pub fn status(&self, agent: &str) -> Status {
        self.kernel.agents().state(agent).expect("the agent is there").status
    }

    pub fn incarnation(&self, agent: &str) -> u64 {
        self.kernel.agents().state(agent).expect("the agent is there").incarnation
    }

    /// Asks `agent` to count one more; the count.
    pub async fn count(&self, agent: &str) -> u64 {
        let answer = self.ask(agent, json!({"do": "count"})).await;
        answer.expect("an answer").as_u64().expect("a number")
    }

    pub async fn ask(&self, agent: &str, body: Value) -> Result<Value> {
        let asked = self.kernel.agents().ask(agent, Message::new("test", body), Duration::from_secs(5));
        soon(("an answer of", agent), asked).await
    }

    /// Follows all events from now on.
    pub fn watch(&self) -> Watch {
        Watch::on(&self.kernel)
    }

    /// The agents that the store knows, by name.
    pub async fn stored(&self) -> Vec<String> {
        let rows = self.kernel.store().read(hms_core::store::agents::list).await.expect("the store reads");
        rows.into_iter().map(|row| row.name).collect()
    }
}

pub fn describe(plugins: Vec<Arc<dyn Plugin>>, clock: &Arc<ManualClock>) -> Kernel {
    Kernel::describe_with(plugins, clock.clone(), Rng::seeded(7)).expect("the plugins register")
}

/// A worker of this name, restarted without limit and without delay.
pub fn worker(name: &str) -> AgentSpec {
    AgentSpec { restart: policy(Restart::Permanent, 0, 0), ..AgentSpec::new(name, "worker", json!({})) }
}

/// At most `max` restarts a minute; `initial_ms` before the second in a row, doubled to at most eight times
/// that; nothing is left to chance.
pub fn policy(policy: Restart, max: u32, initial_ms: u64) -> RestartPolicy {
    RestartPolicy {
        policy,
        intensity: Intensity { max, window: Duration::from_secs(60) },
        backoff: Backoff {
            initial: Duration::from_millis(initial_ms),
            max: Duration::from_millis(initial_ms * 8),
            factor: 2.0,
            jitter: 0.0,
            reset_after: Duration::from_secs(10),
        },
    }
}

/// Whether a health names this problem.
pub fn has_issue(health: &Health, code: &str) -> bool {
    health.issues.iter().any(|Issue { code: c, .. }| c == code)
}

/// Follows events in order.
pub struct Watch {
    subscription: Subscription,
    ahead: Mutex<std::collections::VecDeque<Arc<Event>>>,
}

impl Watch {
    pub fn on(kernel: &Kernel) -> Self {
        let subscribe = Subscribe::to([">"]).queue(1 << 16, hms_core::event::Overflow::DropOldest);
        let subscription = kernel.bus().subscribe(subscribe).expect("a subscription");
        Self { subscription, ahead: Mutex::default() }
    }

    /// The next event that `wanted` wants; the ones before it are passed over.
    pub async fn until(&self, what: impl Debug, wanted: impl Fn(&Event) -> bool) -> Arc<Event> {
        let found = async {
            loop {
                let next = self.ahead.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                match next {
                    Some(event) if wanted(&event) => return event,
                    Some(_) => {}
                    None => {
                        let batch = self.subscription.next_batch(256).await.expect("the bus is open");
                        assert_eq!(batch.lost, 0, "the test lost events");
                        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).extend(batch.events);
                    }
                }
            }
        };
        soon(what, found).await
    }

    /// The next event of `kind` about the agent called `agent`.
    pub async fn event(&self, kind: &str, agent: &str) -> Arc<Event> {
        self.until((kind, agent), |e| e.kind.as_str() == kind && data(e)["agent"] == agent).await
    }

    /// Until the agent called `agent` comes into `status`.
    pub async fn status(&self, agent: &str, status: &str) -> Arc<Event> {
        self.until((agent, status), |e| {
            e.kind.as_str() == "agent.status.changed"
                && data(e)["agent"] == agent
                && data(e)["status"] == status
        })
        .await
    }

    /// What has been published since and was not passed over yet, as `kind agent`.
    pub fn seen(&self) -> Vec<String> {
        let mut events = std::mem::take(&mut *self.ahead.lock().unwrap_or_else(PoisonError::into_inner));
        while let Some(batch) = self.subscription.try_next_batch(256) {
            events.extend(batch.events);
        }
        events.iter().map(|e| format!("{} {}", e.kind, data(e)["agent"].as_str().unwrap_or("-"))).collect()
    }
}

/// The data of an event.
pub fn data(event: &Event) -> &Value {
    event.data.as_json().expect("the event has JSON data")
}
