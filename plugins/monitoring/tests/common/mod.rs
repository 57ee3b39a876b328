//! A real kernel with this organ, a clock that tests move, and agents whose health tests decide.
#![allow(dead_code)] // each test file uses its part

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Kernel, Result,
    agent::{
        AgentContext, AgentSpec, AgentTypeSpec, Behaviour, Create, Health, Issue, Measurement, Started, Stop,
    },
    clock::{ManualClock, Mono, Rng, SharedClock},
    command::{Caller, CommandContext},
    event::{Subscribe, Subscription},
    plugin::{Manifest, Plugin, Registrar},
};
use hms_monitoring::Monitoring;
use serde_json::{Value, json};
use tokio::sync::watch;

/// No test waits longer for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What a test decides about one agent, and sees of it.
pub(crate) struct Probe {
    pub(crate) health: Mutex<Health>,
    pub(crate) measures: Mutex<Vec<(&'static str, f64)>>,
    /// When each check began.
    pub(crate) checks: watch::Sender<Vec<Mono>>,
    /// While false, checks wait.
    pub(crate) gate: watch::Sender<bool>,
    running: AtomicUsize,
    most: AtomicUsize,
    cx: Mutex<Option<AgentContext>>,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            health: Mutex::new(Health::healthy()),
            measures: Mutex::default(),
            checks: watch::Sender::default(),
            gate: watch::Sender::new(true),
            running: AtomicUsize::default(),
            most: AtomicUsize::default(),
            cx: Mutex::default(),
        }
    }
}

impl Probe {
    /// Waits until there were `n` checks; when they began.
    pub(crate) async fn checked(&self, n: usize) -> Vec<Mono> {
        let mut checks = self.checks.subscribe();
        let seen = tokio::time::timeout(SOON, checks.wait_for(|c| c.len() >= n)).await;
        seen.unwrap_or_else(|_| panic!("no {n} checks: {:?}", self.checks.borrow())).unwrap().clone()
    }

    /// How many checks of this agent ran at once, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// The agent says how it is, without being asked.
    pub(crate) fn says(&self, health: Health) {
        self.cx.lock().unwrap().as_ref().expect("it runs").health(health);
    }

    pub(crate) fn cx(&self) -> AgentContext {
        self.cx.lock().unwrap().clone().expect("it runs")
    }
}

pub(crate) fn critical() -> Health {
    Health::of(vec![Issue::critical("test", "it is ill")])
}

pub(crate) fn degraded() -> Health {
    Health::of(vec![Issue::degraded("test", "it is not quite well")])
}

/// A plugin like any user's: it offers the agent type `lab`.
#[derive(Clone, Default)]
pub(crate) struct Lab {
    probes: Arc<Mutex<HashMap<String, Arc<Probe>>>>,
    pub(crate) running: Arc<AtomicUsize>,
    pub(crate) most: Arc<AtomicUsize>,
}

impl Lab {
    pub(crate) fn probe(&self, key: &str) -> Arc<Probe> {
        self.probes.lock().unwrap().entry(key.into()).or_default().clone()
    }
}

struct Agent {
    lab: Lab,
    probe: Arc<Probe>,
    checks: bool,
    clock: Mutex<Option<Kernel>>,
}

struct Count<'a>(&'a Agent);

impl<'a> Count<'a> {
    fn new(agent: &'a Agent) -> Self {
        for (running, most) in
            [(&agent.probe.running, &agent.probe.most), (&*agent.lab.running, &*agent.lab.most)]
        {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
        Self(agent)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.probe.running.fetch_sub(1, Ordering::SeqCst);
        self.0.lab.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Behaviour for Agent {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        *self.probe.cx.lock().unwrap() = Some(cx.clone());
        *self.clock.lock().unwrap() = Some(cx.kernel().clone());
        Ok(Started::Ready)
    }

    async fn health(&self) -> Health {
        let _count = Count::new(self);
        let now = self.clock.lock().unwrap().as_ref().map(|k| k.clock().now()).unwrap_or_default();
        self.probe.checks.send_modify(|c| c.push(now));
        let mut gate = self.probe.gate.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
        self.probe.health.lock().unwrap().clone()
    }

    fn needs_checks(&self) -> bool {
        self.checks
    }

    fn measure(&self) -> Vec<Measurement> {
        self.probe.measures.lock().unwrap().iter().map(|(name, value)| ((*name).into(), *value)).collect()
    }

    async fn stop(&self, _how: Stop) -> Result<()> {
        *self.probe.cx.lock().unwrap() = None;
        *self.clock.lock().unwrap() = None;
        Ok(())
    }
}

#[async_trait]
impl Plugin for Lab {
    fn manifest(&self) -> Manifest {
        Manifest { id: "test.lab", name: "Lab", version: "1.0.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        let spec = AgentTypeSpec {
            name: "lab".into(),
            version: semver::Version::new(1, 0, 0),
            summary: String::new(),
            schema: json!({"type": "object", "properties": {"key": {"type": "string"}, "checks": {"type": "boolean"}}}),
            state_version: 0,
            tunables: Vec::new(),
        };
        let lab = self.clone();
        to.agent_type(
            spec,
            Arc::new(move |config: &Value| {
                let probe = lab.probe(config["key"].as_str().unwrap_or_default());
                let checks = config["checks"].as_bool().unwrap_or(false);
                let agent = Agent { lab: lab.clone(), probe, checks, clock: Mutex::default() };
                Ok(Arc::new(agent) as Arc<dyn Behaviour>)
            }),
        )
    }
}

/// A kernel with this organ and `plugins`, on `home`.
pub(crate) async fn open_kernel(
    home: &Path,
    config: &str,
    clock: SharedClock,
    plugins: Vec<Arc<dyn Plugin>>,
) -> Result<Kernel> {
    std::fs::write(home.join("config.toml"), config).unwrap();
    let monitoring: Arc<dyn Plugin> = Arc::new(Monitoring::new());
    let plugins = std::iter::once(monitoring).chain(plugins).collect();
    let kernel = Kernel::describe_with(plugins, clock, Rng::seeded(7))?;
    kernel.open(home, home).await?;
    Ok(kernel)
}

/// A running system.
pub(crate) struct System {
    pub(crate) kernel: Kernel,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) lab: Lab,
}

impl System {
    /// A system on `home` whose configuration is `config`.
    pub(crate) async fn open(home: &Path, config: &str) -> Result<Self> {
        Self::open_with(home, config, ManualClock::shared(), Vec::new()).await
    }

    pub(crate) async fn open_with(
        home: &Path,
        config: &str,
        clock: Arc<ManualClock>,
        more: Vec<Arc<dyn Plugin>>,
    ) -> Result<Self> {
        let lab = Lab::default();
        let mut plugins: Vec<Arc<dyn Plugin>> = vec![Arc::new(lab.clone())];
        plugins.extend(more);
        let kernel = open_kernel(home, config, clock.clone(), plugins).await?;
        Ok(Self { kernel, clock, lab })
    }

    /// A system in which nobody offers the type of its agents yet: they wait, and their health is unknown.
    pub(crate) async fn open_without_lab(home: &Path, config: &str, clock: Arc<ManualClock>) -> Result<Self> {
        let kernel = open_kernel(home, config, clock.clone(), Vec::new()).await?;
        Ok(Self { kernel, clock, lab: Lab::default() })
    }

    /// Ends as a host does that is upgraded: its agents are let go of.
    pub(crate) async fn detach(self) -> Arc<ManualClock> {
        self.kernel.close(Stop::Detach).await.unwrap();
        self.clock
    }

    pub(crate) async fn close(self) {
        self.kernel.close(Stop::Kill).await.unwrap();
    }

    /// An agent that tells its health by itself.
    pub(crate) async fn quiet(&self, name: &str) -> Arc<Probe> {
        self.create(AgentSpec::new(name, "lab", json!({"key": name}))).await
    }

    /// An agent that has to be asked, this often.
    pub(crate) async fn checked(&self, name: &str, interval: Option<Duration>) -> Arc<Probe> {
        let mut spec = AgentSpec::new(name, "lab", json!({"key": name, "checks": true}));
        spec.health.interval = interval;
        self.create(spec).await
    }

    pub(crate) async fn create(&self, spec: AgentSpec) -> Arc<Probe> {
        let probe = self.lab.probe(&spec.name);
        self.kernel.agents().create(spec, Create { must_start: true, ..Create::default() }).await.unwrap();
        probe
    }

    pub(crate) fn id(&self, name: &str) -> String {
        self.kernel.agents().id(name).unwrap()
    }

    /// Lets time go on until the agent is checked for the first time: the scheduler hears of it whenever it
    /// does, and leaves the moment to chance. When that check began.
    pub(crate) async fn first_check(&self, probe: &Probe) -> Mono {
        let time_goes_on = async {
            while probe.checks.borrow().is_empty() {
                self.clock.advance(ms(10));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, time_goes_on).await.expect("a first check");
        probe.checks.borrow()[0]
    }

    /// Runs a command as any front end does.
    pub(crate) async fn run(&self, path: &str, args: Value) -> Result<Value> {
        let (cx, _canceller) = CommandContext::new(Caller::default(), None);
        self.kernel.commands().get(path)?.run(cx, args).await
    }

    pub(crate) async fn call(&self, method: &str, args: Value) -> Result<Value> {
        self.kernel.services().find("hms.metrics")?.call(method, args, SOON).await
    }

    /// Events of these kinds from now on.
    pub(crate) fn listen(&self, patterns: &[&str]) -> Heard {
        let request = Subscribe::to(patterns.iter().map(ToString::to_string));
        Heard(self.kernel.bus().subscribe(request).unwrap())
    }
}

/// Events, one by one.
pub(crate) struct Heard(Subscription);

impl Heard {
    /// The kind and the data of the next event.
    pub(crate) async fn next(&self) -> (String, Value) {
        let batch = tokio::time::timeout(SOON, self.0.next_batch(1))
            .await
            .expect("an event")
            .expect("the bus is open");
        let event = &batch.events[0];
        (event.kind.as_str().to_owned(), event.data.as_json().unwrap().clone())
    }

    /// The data of the next event, which must be of this kind.
    pub(crate) async fn expect(&self, kind: &str) -> Value {
        let (found, data) = self.next().await;
        assert_eq!(found, kind, "{data}");
        data
    }

    /// The data of the next event for which `wanted` is true; others are passed over.
    pub(crate) async fn until(&self, wanted: impl Fn(&str, &Value) -> bool) -> Value {
        loop {
            let (kind, data) = self.next().await;
            if wanted(&kind, &data) {
                return data;
            }
        }
    }

    /// Whether nothing happened.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.try_next_batch(1).is_none()
    }
}
