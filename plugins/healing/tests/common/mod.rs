//! A laboratory: a real kernel on a manual clock, with agents that fall ill, crash and recover as told.
#![allow(dead_code)] // Each test file uses its part.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hms_core::{
    Kernel, Result,
    agent::{
        AgentContext, AgentSpec, AgentState, AgentTypeSpec, Behaviour, Create, ExitReport, Health, Issue,
        Started, Stop,
    },
    clock::{Clock, ManualClock, Rng},
    command::{Caller, CommandContext},
    event::{Subscribe, Subscription},
    owner::Owner,
    plugin::{Manifest, Plugin, Registrar},
    service::{Service, ServiceSpec},
};
use hms_healing::{HealingPlugin, Incident, Outcome, PREFIX};
use serde_json::{Value, json};

/// How long a test waits, in real time, before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a test decides about an agent, and what it saw of it.
#[derive(Default)]
pub(crate) struct Patient {
    /// Lives up to this number are ill as soon as they start.
    pub(crate) ill_until: AtomicU64,
    /// Lives up to this number never become ready.
    pub(crate) stuck_until: AtomicU64,
    /// Whether it has an active check.
    pub(crate) checkable: std::sync::atomic::AtomicBool,
    /// Health checks so far.
    pub(crate) checks: AtomicU64,
    /// Lives so far.
    pub(crate) lives: AtomicU64,
    /// Stops without asking first.
    pub(crate) kills: AtomicU64,
    /// Times its state was forgotten.
    pub(crate) resets: AtomicU64,
    health: Mutex<Health>,
    cx: Mutex<Option<AgentContext>>,
}

impl Patient {
    fn cx(&self) -> AgentContext {
        self.cx.lock().unwrap_or_else(PoisonError::into_inner).clone().expect("it has been started")
    }

    /// Its present life ends.
    pub(crate) fn crash(&self, reason: &str) {
        self.cx().exited(ExitReport::failure(reason));
    }

    /// Its present life ends as it should.
    pub(crate) fn finish(&self) {
        self.cx().exited(ExitReport { clean: true, ..ExitReport::failure("exit code 0") });
    }

    /// It feels like this from now on, and says so.
    pub(crate) fn feels(&self, health: Health) {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) = health.clone();
        self.cx().health(health);
    }
}

/// A critical health.
pub(crate) fn ill(code: &str) -> Health {
    Health::of(vec![Issue::critical(code, format!("{code} is wrong"))])
}

struct Body(Arc<Patient>);

#[async_trait]
impl Behaviour for Body {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let life = self.0.lives.fetch_add(1, Ordering::SeqCst) + 1;
        *self.0.cx.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.clone());
        let health =
            if life <= self.0.ill_until.load(Ordering::SeqCst) { ill("broken") } else { Health::healthy() };
        *self.0.health.lock().unwrap_or_else(PoisonError::into_inner) = health.clone();
        if life <= self.0.stuck_until.load(Ordering::SeqCst) {
            return Ok(Started::Pending);
        }
        cx.health(health);
        Ok(Started::Ready)
    }

    async fn health(&self) -> Health {
        self.0.checks.fetch_add(1, Ordering::SeqCst);
        self.0.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn needs_checks(&self) -> bool {
        self.0.checkable.load(Ordering::SeqCst)
    }

    async fn stop(&self, how: Stop) -> Result<()> {
        if how == Stop::Kill {
            self.0.kills.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn reset(&self, _cx: &AgentContext) -> Result<()> {
        self.0.resets.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The agents of a laboratory, by name. They outlive a kernel, so that another one may find them.
pub(crate) type Ward = Arc<Mutex<BTreeMap<String, Arc<Patient>>>>;

struct LabPlugin(Ward);

#[async_trait]
impl Plugin for LabPlugin {
    fn manifest(&self) -> Manifest {
        Manifest { id: "test.lab", name: "Laboratory", version: "1.0.0", ..Manifest::default() }
    }

    fn register(&self, to: &Registrar) -> Result<()> {
        let ward = self.0.clone();
        let spec = AgentTypeSpec {
            name: "patient".into(),
            version: semver::Version::new(1, 0, 0),
            summary: String::new(),
            schema: json!({"type": "object", "properties": {"who": {"type": "string"}}}),
            state_version: 1,
            tunables: Vec::new(),
        };
        let factory = move |config: &Value| -> Result<Arc<dyn Behaviour>> {
            let who = config["who"].as_str().unwrap_or_default().to_owned();
            let mut ward = ward.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(Arc::new(Body(ward.entry(who).or_default().clone())))
        };
        to.agent_type(spec, Arc::new(factory))
    }
}

/// A system under test.
pub(crate) struct Lab {
    pub(crate) kernel: Kernel,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) ward: Ward,
    pub(crate) events: Subscription,
}

impl Lab {
    /// A system on `home`, with `config.toml` as given.
    pub(crate) async fn open(home: &Path, ward: &Ward, config: &str) -> Self {
        Self::open_at(home, ward, config, Duration::ZERO).await
    }

    /// The same, on a clock that stands at `now`.
    pub(crate) async fn open_at(home: &Path, ward: &Ward, config: &str, now: Duration) -> Self {
        if !config.is_empty() {
            std::fs::write(home.join("config.toml"), config).expect("the configuration is written");
        }
        let clock = ManualClock::shared();
        clock.advance(now);
        let plugins: Vec<Arc<dyn Plugin>> = vec![HealingPlugin::new(), Arc::new(LabPlugin(ward.clone()))];
        let kernel =
            Kernel::describe_with(plugins, clock.clone(), Rng::seeded(7)).expect("the plugins register");
        let events = kernel.bus().subscribe(Subscribe::to(["heal.>"])).expect("the pattern is sound");
        kernel.open(home, &home.join("run")).await.expect("the kernel opens");
        Self { kernel, clock, ward: ward.clone(), events }
    }

    /// Creates an agent; what of its specification differs from the default is in `more`.
    pub(crate) async fn admit(&self, name: &str, more: Value) -> Arc<Patient> {
        let mut spec = json!({"name": name, "type": "patient", "config": {"who": name}});
        spec.as_object_mut().expect("it is one").extend(more.as_object().cloned().unwrap_or_default());
        let spec = AgentSpec::from_json(spec).expect("the specification is sound");
        self.kernel.agents().create(spec, Create::default()).await.expect("the agent is created");
        self.patient(name)
    }

    pub(crate) fn patient(&self, name: &str) -> Arc<Patient> {
        self.ward.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default().clone()
    }

    pub(crate) fn state(&self, name: &str) -> AgentState {
        self.kernel.agents().state(name).expect("the agent exists")
    }

    pub(crate) async fn history(&self) -> Vec<Incident> {
        let history = self.command("heal history", json!({})).await.expect("there is a history");
        serde_json::from_value(history).expect("they are incidents")
    }

    pub(crate) async fn command(&self, path: &str, args: Value) -> Result<Value> {
        let (cx, _alive) = CommandContext::new(Caller::default(), None);
        self.kernel.commands().get(path)?.run(cx, args).await
    }

    pub(crate) async fn call(&self, method: &str, args: Value) -> Result<Value> {
        self.kernel.services().find("hms.healing")?.call(method, args, PATIENCE).await
    }

    /// Lets time pass in small steps until `done`; what the steps wake has room to run in between.
    pub(crate) async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        self.pass(Duration::from_millis(50), what, &mut done).await;
    }

    /// The same in steps of a millisecond, where real processes take part.
    pub(crate) async fn slowly_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        self.pass(Duration::from_millis(1), what, &mut done).await;
    }

    async fn pass(&self, step: Duration, what: &str, done: &mut dyn FnMut() -> bool) {
        let began = Instant::now();
        loop {
            // Tasks that are ready run first, so that a check is not ahead of what it checks.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            if done() {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "this never happened: {what}");
            self.clock.advance(step);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Drives a future while time passes.
    pub(crate) async fn drive<T>(&self, future: impl Future<Output = T>) -> T {
        let time = async {
            loop {
                self.clock.advance(Duration::from_millis(50));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            outcome = future => outcome,
            () = time => unreachable!("time does not end"),
            () = tokio::time::sleep(PATIENCE) => panic!("this took too long"),
        }
    }

    /// Incidents that are open now.
    pub(crate) async fn active(&self) -> Vec<Incident> {
        serde_json::from_value(self.call("active", json!({})).await.expect("it answers"))
            .expect("they are incidents")
    }

    /// Lets time pass until the next incident is closed.
    pub(crate) async fn closed(&self) -> Incident {
        self.closed_by(Duration::from_millis(50)).await
    }

    /// The same in steps of `step`.
    pub(crate) async fn closed_by(&self, step: Duration) -> Incident {
        let mut found = None;
        self.pass(step, "an incident is closed", &mut || {
            while found.is_none()
                && let Some(batch) = self.events.try_next_batch(1)
            {
                for event in batch.events.iter().filter(|e| e.kind == "heal.incident.closed") {
                    let data = event.data.as_json().expect("it is JSON");
                    found = serde_json::from_value::<Incident>(data["incident"].clone()).ok();
                }
            }
            found.is_some()
        })
        .await;
        found.expect("it was found")
    }

    /// The kinds of the events of healing so far.
    pub(crate) fn told(&self) -> Vec<String> {
        let mut kinds = Vec::new();
        while let Some(batch) = self.events.try_next_batch(256) {
            kinds.extend(batch.events.iter().map(|e| e.kind.to_string()));
        }
        kinds
    }

    /// Lets this much time pass.
    pub(crate) async fn pass_time(&self, time: Duration) {
        let end = self.clock.now() + time;
        self.until("time passes", || self.clock.now() >= end).await;
    }

    /// Registers a strategy that answers with `f`.
    pub(crate) fn strategy(&self, name: &str, f: impl Fn(Value) -> Result<Value> + Send + Sync + 'static) {
        struct Custom<F>(F);
        #[async_trait]
        impl<F: Fn(Value) -> Result<Value> + Send + Sync> Service for Custom<F> {
            async fn call(&self, _method: &str, args: Value) -> Result<Value> {
                (self.0)(args)
            }
        }
        let spec =
            ServiceSpec::new(&format!("{PREFIX}{name}"), "1.0.0", "a test's").method("apply", "a test's");
        let owner = Owner::plugin("test.strategies");
        self.kernel.services().register(owner, spec, Arc::new(Custom(f))).expect("the name is free");
    }

    pub(crate) async fn close(self, how: Stop) {
        self.kernel.close(how).await.expect("the kernel closes");
    }
}

/// What was done in an incident: `rung action`.
pub(crate) fn actions(incident: &Incident) -> Vec<String> {
    incident.steps.iter().map(|s| format!("{} {}", s.rung, s.action)).collect()
}

/// Whether it ended as it should, with the last step the only one that helped.
pub(crate) fn assert_verified(incident: &Incident) {
    assert_eq!(incident.outcome, Some(Outcome::Verified), "{incident:#?}");
    let verified: Vec<bool> = incident.steps.iter().map(|s| s.verified).collect();
    let (last, rest) = verified.split_last().expect("there is a step");
    assert!(*last && !rest.contains(&true), "{incident:#?}");
    assert!(
        incident.steps.iter().all(|s| s.finished_ms.is_some_and(|end| end >= s.started_ms)),
        "{incident:#?}"
    );
    assert_eq!(incident.progress, 100);
}
