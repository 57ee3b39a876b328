//! The registry of agent types.
//!
//! The first provider of a type is active; further ones of the same version stand by and take over when
//! it goes. A provider with another version is an error.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;

use super::behaviour::{AgentTypeSpec, Behaviour, BehaviourFactory};
use crate::{Error, ErrorKind, Result, contain::contained_sync, owner::Owner, schema::LazySchema};

#[derive(Clone)]
struct Provider {
    /// Which registration this is: a provider that went and came back is another one.
    registration: u64,
    spec: Arc<AgentTypeSpec>,
    owner: Owner,
    schema: Arc<LazySchema>,
    factory: Arc<dyn BehaviourFactory>,
}

/// The agent types of the system.
#[derive(Default)]
pub struct AgentTypes {
    by_name: RwLock<BTreeMap<String, Vec<Provider>>>,
    registered: AtomicU64,
}

impl AgentTypes {
    /// Registers a provider of a type.
    pub fn register(
        &self,
        owner: Owner,
        spec: AgentTypeSpec,
        factory: Arc<dyn BehaviourFactory>,
    ) -> Result<()> {
        let schema = Arc::new(LazySchema::new(spec.schema.clone()));
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let providers = by_name.entry(spec.name.clone()).or_default();
        if let Some(active) = providers.first()
            && active.spec.version != spec.version
        {
            return Err(Error::new(
                ErrorKind::VersionMismatch,
                format!(
                    "agent type `{}` is offered as {} by {}, not as {}",
                    spec.name, active.spec.version, active.owner, spec.version
                ),
            ));
        }
        if providers.iter().any(|p| p.owner == owner) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("agent type `{}` is already registered by {owner}", spec.name),
            ));
        }
        let registration = self.registered.fetch_add(1, Ordering::Relaxed);
        providers.push(Provider { registration, spec: Arc::new(spec), owner, schema, factory });
        Ok(())
    }

    /// What type `name` is.
    pub fn get(&self, name: &str) -> Result<Arc<AgentTypeSpec>> {
        self.provider(name).map(|p| p.spec)
    }

    /// Whether `owner` is the active provider of type `name`.
    pub fn is_offered_by(&self, name: &str, owner: &Owner) -> bool {
        self.provider(name).is_ok_and(|p| p.owner == *owner)
    }

    /// All types, by name.
    pub fn list(&self) -> Vec<Arc<AgentTypeSpec>> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.values().filter_map(|p| p.first()).map(|p| p.spec.clone()).collect()
    }

    /// Fills defaults into a configuration of type `name` and validates it; errors name the key.
    pub fn check(&self, name: &str, config: &mut Value) -> Result<()> {
        let provider = self.provider(name)?;
        provider.schema.get()?.check(
            &format!("configuration of type `{name}`"),
            ErrorKind::InvalidConfig,
            config,
        )
    }

    /// A behaviour of type `name`.
    pub fn create(&self, name: &str, config: &Value) -> Result<Arc<dyn Behaviour>> {
        self.create_registered(name, config).map(|(_, behaviour)| behaviour)
    }

    /// A behaviour of type `name`, and the registration it comes from. A factory that panics fails.
    pub(super) fn create_registered(&self, name: &str, config: &Value) -> Result<(u64, Arc<dyn Behaviour>)> {
        let provider = self.provider(name)?;
        let behaviour = contained_sync(|| provider.factory.create(config)).and_then(|made| made)?;
        Ok((provider.registration, behaviour))
    }

    /// Whether type `name` is still offered by this registration, actively or standing by.
    pub(super) fn is_registered(&self, name: &str, registration: u64) -> bool {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.get(name).is_some_and(|p| p.iter().any(|p| p.registration == registration))
    }

    /// Removes what `owner` registered; whether there was anything.
    pub fn remove_owner(&self, owner: &Owner) -> bool {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        by_name.retain(|_, providers| {
            let before = providers.len();
            providers.retain(|p| p.owner != *owner);
            any |= providers.len() < before;
            !providers.is_empty()
        });
        any
    }

    fn provider(&self, name: &str) -> Result<Provider> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.get(name).and_then(|p| p.first()).cloned().ok_or_else(|| {
            let known = by_name.keys().cloned().collect::<Vec<_>>().join(", ");
            Error::new(ErrorKind::TypeUnavailable, format!("no running process offers agent type `{name}`"))
                .hint(format!("available types: {known}"))
        })
    }
}
