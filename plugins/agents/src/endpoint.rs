//! What the types `http` and `tcp` have in common: an endpoint that somebody else runs, asked now and then.
//!
//! The first check is made at once, and the agent is ready with its result, whatever that is; afterwards the
//! endpoint is asked at each health check. Nothing runs in between.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hms_core::{
    Result,
    agent::{AgentContext, AgentTypeSpec, Behaviour, Health, Measurement, Started, Stop, Tunable},
    clock::SharedClock,
    plugin::Registrar,
    schema,
};
use serde_json::{Map, Value, json};

use crate::{
    keys::{self, Keys, duration_schema},
    probe::{HttpCheck, Record, TcpCheck, within},
    task::Task,
};

/// What is asked.
pub(crate) enum Target {
    Http(Box<HttpCheck>),
    Tcp(TcpCheck),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(check) => check.fmt(f),
            Self::Tcp(check) => check.fmt(f),
        }
    }
}

/// The behaviour of an agent that watches an endpoint.
struct Endpoint {
    inner: Arc<Inner>,
    life: Mutex<Option<Life>>,
}

struct Life {
    clock: SharedClock,
    _first: Task,
}

struct Inner {
    target: Target,
    timeout: Duration,
    record: Record,
    /// The last HTTP status; 0: none.
    status: AtomicU16,
}

/// What is different about a type of endpoint.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    /// Its own properties; those of all endpoints are added.
    pub(crate) properties: Value,
    /// The one of them that must be given.
    pub(crate) required: &'static str,
    /// What a timeout means.
    pub(crate) timeout: &'static str,
    /// What a configuration asks.
    pub(crate) target: fn(&Keys<'_>) -> Result<Target>,
}

/// Registers a type of endpoint.
pub(crate) fn register(to: &Registrar, kind: Kind) -> Result<()> {
    let tunable = |name: &str, min, max, integer, summary: &str| Tunable {
        name: format!("{}.{name}", kind.name),
        min,
        max,
        integer,
        summary: summary.into(),
    };
    let spec = AgentTypeSpec {
        name: kind.name.into(),
        version: keys::version(),
        summary: kind.summary.into(),
        schema: schema::object(keys::merged(kind.properties, common()), &[kind.required]),
        state_version: 0,
        tunables: vec![
            tunable("timeout", 0.05, 60.0, false, kind.timeout),
            tunable("failures", 1.0, 10.0, true, "failures in a row that make it critical"),
        ],
    };
    let factory = move |config: &Value| -> Result<Arc<dyn Behaviour>> {
        let keys = Keys::of("", config)?;
        Ok(Arc::new(Endpoint::new((kind.target)(&keys)?, &keys)?))
    };
    to.agent_type(spec, Arc::new(factory))
}

/// The properties that all endpoints have.
fn common() -> Value {
    json!({
        "timeout": duration_schema("an answer that takes longer is a failure", "2s"),
        "slow": {"type": "string", "x-value": "DURATION", "description": "an answer that takes longer degrades it"},
        "failures": {"type": "integer", "minimum": 1, "default": 2,
            "description": "failures in a row that make it critical; fewer degrade it"},
    })
}

impl Endpoint {
    /// An endpoint with the common part of its configuration.
    fn new(target: Target, keys: &Keys<'_>) -> Result<Self> {
        let timeout = keys.duration("timeout")?.unwrap_or(Duration::from_secs(2));
        if timeout.is_zero() {
            return Err(keys.wrong("timeout", "is zero"));
        }
        let slow = keys.duration("slow")?;
        if slow.is_some_and(|slow| slow >= timeout) {
            return Err(keys.wrong("slow", "is not shorter than `timeout`"));
        }
        let record = Record::new(keys.count("failures")?.unwrap_or(2), slow);
        let inner = Inner { target, timeout, record, status: AtomicU16::new(0) };
        Ok(Self { inner: Arc::new(inner), life: Mutex::default() })
    }

    fn clock(&self) -> Option<SharedClock> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.as_ref().map(|life| life.clock.clone())
    }
}

impl Inner {
    async fn check(&self, clock: &SharedClock) -> Health {
        let attempt = self.record.attempt(clock);
        let outcome = match &self.target {
            Target::Tcp(check) => within(clock, self.timeout, check.run()).await,
            Target::Http(check) => match within(clock, self.timeout, check.fetch()).await {
                Ok(status) => {
                    self.status.store(status, Ordering::Relaxed);
                    check.judge(status)
                }
                Err(error) => {
                    self.status.store(0, Ordering::Relaxed);
                    Err(error)
                }
            },
        };
        attempt.finish(outcome);
        self.record.health(&self.target.to_string())
    }
}

#[async_trait]
impl Behaviour for Endpoint {
    async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let clock = cx.kernel().clock().clone();
        let (inner, its_clock) = (self.inner.clone(), clock.clone());
        let first = Task::first_check(cx, async move { inner.check(&its_clock).await });
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(Life { clock, _first: first });
        Ok(Started::Pending)
    }

    async fn health(&self) -> Health {
        match self.clock() {
            Some(clock) => self.inner.check(&clock).await,
            None => Health::unknown(),
        }
    }

    fn needs_checks(&self) -> bool {
        true
    }

    fn facts(&self) -> Map<String, Value> {
        let mut facts = Map::new();
        match &self.inner.target {
            Target::Http(check) => {
                facts.insert("url".into(), check.to_string().into());
                let status = self.inner.status.load(Ordering::Relaxed);
                facts.insert("http_status".into(), if status == 0 { Value::Null } else { status.into() });
            }
            Target::Tcp(check) => {
                facts.insert("address".into(), check.to_string().into());
            }
        }
        self.inner.record.facts(&mut facts);
        facts
    }

    fn measure(&self) -> Vec<Measurement> {
        self.inner.record.measure().into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    async fn stop(&self, _how: Stop) -> Result<()> {
        drop(self.life.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }
}
