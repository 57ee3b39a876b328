//! What this process offers to a system: services, commands and agent types of its own.
//!
//! In a private system they go straight into the kernel, each in the name of an owner of its own; in a shared one
//! they are leased from the host, again at each next one. Either way they are there until the registration ends.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use hms_core::{
    Error, ErrorKind, Kernel, Result,
    agent::{AgentTypeSpec, BehaviourFactory},
    command::{CommandSpec, Handler},
    event::EventDraft,
    owner::Owner,
    peer::Offered,
    schema::Schema,
    service::{Service, ServiceSpec},
};
use serde_json::json;

use crate::system::{Place, System};

/// Something that is offered. It ends when this is dropped, or before.
pub struct Registration {
    of: Of,
    ended: AtomicBool,
}

enum Of {
    Here { place: Weak<Place>, owner: Owner },
    Elsewhere(Offered),
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Registration {
    fn here(place: &Arc<Place>, register: impl FnOnce(&Kernel, Owner) -> Result<()>) -> Result<Self> {
        let Place::Here { kernel, .. } = &**place else {
            let what = "a shared system takes no agent types from a program that is attached";
            return Err(Error::new(ErrorKind::NotSupported, what).hint("open a private system"));
        };
        let owner = Owner::plugin(format!("libhms.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        register(kernel, owner.clone())?;
        let of = Of::Here { place: Arc::downgrade(place), owner };
        Ok(Self { of, ended: AtomicBool::new(false) })
    }

    fn elsewhere(offered: Offered) -> Self {
        Self { of: Of::Elsewhere(offered), ended: AtomicBool::new(false) }
    }

    /// Takes it back. Calls under way go on; agents of a type wait for another provider of it. Does not wait, and
    /// may be called again.
    pub fn end(&self) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.of {
            Of::Elsewhere(offered) => offered.end(),
            Of::Here { place, owner } => {
                if let Some(place) = place.upgrade()
                    && let Place::Here { kernel, .. } = &*place
                {
                    kernel.remove_owner(owner);
                }
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.end();
    }
}

impl System {
    /// Offers a service.
    ///
    /// Errors: `already-exists` when the id and version are taken; `host-unavailable`.
    pub async fn offer_service(&self, spec: ServiceSpec, service: Arc<dyn Service>) -> Result<Registration> {
        if let Some(client) = self.client() {
            return client.offer_service(spec, service).await.map(Registration::elsewhere);
        }
        Registration::here(self.place(), |kernel, owner| kernel.services().register(owner, spec, service))
    }

    /// Offers a command, which runs in this process.
    ///
    /// Errors: `already-exists` when the path is taken; `invalid-config` for a schema that is none;
    /// `host-unavailable`.
    pub async fn offer_command(&self, spec: CommandSpec, handler: Handler) -> Result<Registration> {
        if let Some(client) = self.client() {
            return client.offer_command(spec, handler).await.map(Registration::elsewhere);
        }
        Schema::compile(&spec.args).map_err(|e| e.context(format!("command `{}`", spec.path)))?;
        Registration::here(self.place(), |kernel, owner| {
            let event =
                EventDraft::json("command.registered", json!({"path": spec.path})).source("/commands");
            kernel.commands().register(owner, spec, handler)?;
            kernel.publish(event);
            Ok(())
        })
    }

    /// Offers an agent type; agents that wait for it start.
    ///
    /// Errors: `version-mismatch` when another version of it is offered; `invalid-config` for a schema that is
    /// none; `not-supported` in a shared system.
    pub async fn offer_type(
        &self,
        spec: AgentTypeSpec,
        factory: Arc<dyn BehaviourFactory>,
    ) -> Result<Registration> {
        Schema::compile(&spec.schema).map_err(|e| e.context(format!("agent type `{}`", spec.name)))?;
        Registration::here(self.place(), |kernel, owner| {
            kernel.types().register(owner, spec, factory)?;
            // Each agent that waits for it looks again.
            for (id, _) in kernel.agents().specs() {
                let _ = kernel.agents().recheck(&id);
            }
            Ok(())
        })
    }
}
