//! Services: an id, a semver version, methods with JSON in and out, callable by any peer.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, ErrorKind, Result,
    blocking::{self, Blocking, Hung},
    owner::Owner,
};

/// What a service is, without what answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Dotted id: `hms.metrics`.
    pub id: String,
    /// Its version.
    pub version: Version,
    /// One line.
    #[serde(default)]
    pub summary: String,
    /// Services it needs, with the versions that do.
    #[serde(default)]
    pub depends_on: BTreeMap<String, VersionReq>,
    /// Methods: name to what it does and the JSON Schema of its argument.
    #[serde(default)]
    pub methods: BTreeMap<String, MethodSpec>,
}

/// A method of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct MethodSpec {
    /// One line.
    #[serde(default)]
    pub summary: String,
    /// JSON Schema of the argument; `true` accepts anything.
    #[serde(default = "anything")]
    pub args: Value,
}

fn anything() -> Value {
    Value::Bool(true)
}

impl ServiceSpec {
    /// A service without methods yet.
    ///
    /// # Panics
    /// When `version` is not semver: built-in services only.
    pub fn new(id: &str, version: &str, summary: &str) -> Self {
        Self {
            id: id.into(),
            version: Version::parse(version).expect("a built-in service's version is semver"),
            summary: summary.into(),
            depends_on: BTreeMap::new(),
            methods: BTreeMap::new(),
        }
    }

    /// Adds a method that accepts any argument.
    #[must_use]
    pub fn method(mut self, name: &str, summary: &str) -> Self {
        self.methods.insert(name.into(), MethodSpec { summary: summary.into(), args: anything() });
        self
    }
}

/// What answers the calls of a service.
#[async_trait]
pub trait Service: Send + Sync {
    /// Answers one call. Runs concurrently with others.
    async fn call(&self, method: &str, args: Value) -> Result<Value>;

    /// Whether a call may block its thread: sleep, lock, wait, compute for long. Each call then runs on a thread
    /// of its own, at most 16 at a time. False, for what only awaits, costs nothing.
    fn blocks(&self) -> bool {
        false
    }
}

#[derive(Clone)]
struct Entry {
    spec: Arc<ServiceSpec>,
    owner: Owner,
    service: Arc<dyn Service>,
    /// Where it runs, if it blocks.
    threads: Option<(Blocking, Hung)>,
}

/// A found service; it stays callable by who holds it, and fails once its owner is gone.
#[derive(Clone)]
pub struct ServiceRef {
    spec: Arc<ServiceSpec>,
    service: Arc<dyn Service>,
    threads: Option<(Blocking, Hung)>,
}

impl ServiceRef {
    /// What it is.
    pub fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// Calls `method`; fails with `timeout` when there is no answer within `deadline`.
    pub async fn call(&self, method: &str, args: Value, deadline: Duration) -> Result<Value> {
        if !self.spec.methods.is_empty() && !self.spec.methods.contains_key(method) {
            let known = self.spec.methods.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(Error::not_found(&format!("method of service `{}`", self.spec.id), method)
                .hint(format!("it has: {known}")));
        }
        let called = async {
            let Some((threads, hung)) = &self.threads else { return self.service.call(method, args).await };
            let (service, method) = (self.service.clone(), method.to_owned());
            threads.run(hung, async move { service.call(&method, args).await }).await?
        };
        match tokio::time::timeout(deadline, called).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("service `{}` did not answer `{method}` within {deadline:?}", self.spec.id),
            )),
        }
    }
}

/// The services of the system. Several versions of one id may be there.
#[derive(Default)]
pub struct Services {
    by_id: RwLock<BTreeMap<String, Vec<Entry>>>,
}

impl Services {
    /// Registers a service. The same id and version twice is an error.
    pub fn register(&self, owner: Owner, spec: ServiceSpec, service: Arc<dyn Service>) -> Result<()> {
        // Asked before the lock is taken: it is a guest's answer.
        let threads = service.blocks().then(|| (Blocking::new(blocking::CALLS), Hung::default()));
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let entries = by_id.entry(spec.id.clone()).or_default();
        if let Some(there) = entries.iter().find(|e| e.spec.version == spec.version) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("service `{}` {} is already registered by {}", spec.id, spec.version, there.owner),
            ));
        }
        entries.push(Entry { spec: Arc::new(spec), owner, service, threads });
        entries.sort_by(|a, b| b.spec.version.cmp(&a.spec.version));
        Ok(())
    }

    /// The highest version of `id` that `requirement` allows. A miss says why.
    pub fn lookup(&self, id: &str, requirement: &VersionReq) -> Result<ServiceRef> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let missing = |why: String| Error::new(ErrorKind::ServiceUnavailable, why);
        let Some(entries) = by_id.get(id) else {
            return Err(missing(format!("no service `{id}` is registered")));
        };
        entries
            .iter()
            .find(|e| requirement.matches(&e.spec.version))
            .map(|e| ServiceRef {
                spec: e.spec.clone(),
                service: e.service.clone(),
                threads: e.threads.clone(),
            })
            .ok_or_else(|| {
                let have = entries.iter().map(|e| e.spec.version.to_string()).collect::<Vec<_>>().join(", ");
                missing(format!("service `{id}` {requirement} is not there; registered: {have}"))
            })
    }

    /// Any version of `id`.
    pub fn find(&self, id: &str) -> Result<ServiceRef> {
        self.lookup(id, &VersionReq::STAR)
    }

    /// All services, by id and descending version, with their owner.
    pub fn list(&self) -> Vec<(Arc<ServiceSpec>, Owner)> {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.values().flatten().map(|e| (e.spec.clone(), e.owner.clone())).collect()
    }

    /// Removes every version of `id` that `owner` registered.
    pub fn unregister(&self, owner: &Owner, id: &str) -> Result<()> {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let entries = by_id.get_mut(id).ok_or_else(|| Error::not_found("service", id))?;
        let before = entries.len();
        entries.retain(|e| e.owner != *owner);
        let removed = entries.len() < before;
        if entries.is_empty() {
            by_id.remove(id);
        }
        if removed { Ok(()) } else { Err(Error::not_found("service of this owner", id)) }
    }

    /// Removes what `owner` registered.
    pub fn remove_owner(&self, owner: &Owner) {
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        by_id.values_mut().for_each(|entries| entries.retain(|e| e.owner != *owner));
        by_id.retain(|_, entries| !entries.is_empty());
    }
}
