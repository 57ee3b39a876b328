//! The agent type `group`: does nothing but supervise its children.
//!
//! Its children are the agents that name it as their `parent`; how they are restarted together is the
//! `strategy` of its specification, how often its own restart policy. The kernel does both, so there is
//! nothing to configure here and nothing that could be ill.

use std::sync::Arc;

use async_trait::async_trait;
use hms_core::{
    Result,
    agent::{AgentContext, AgentTypeSpec, Behaviour, Started},
    plugin::Registrar,
    schema,
};
use serde_json::{Value, json};

use crate::keys;

/// Registers the type.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let spec = AgentTypeSpec {
        name: "group".into(),
        version: keys::version(),
        summary: "supervises the agents that name it as their parent".into(),
        schema: schema::object(json!({}), &[]),
        state_version: 0,
        tunables: Vec::new(),
    };
    let create = |_: &Value| -> Result<Arc<dyn Behaviour>> { Ok(Arc::new(Group)) };
    to.agent_type(spec, Arc::new(create))
}

struct Group;

#[async_trait]
impl Behaviour for Group {
    async fn start(&self, _cx: &AgentContext) -> Result<Started> {
        Ok(Started::Ready)
    }
}
