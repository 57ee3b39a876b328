//! The agent type `tcp`: watches an address that somebody else listens on.
//!
//! Healthy while it accepts connections; degraded when that takes long or failed just now; critical when it
//! failed several times in a row. Its status shows `address`, `checked_ms` and `last_error`; it measures
//! `responseTime` (ms until connected) and `errorRate` (0 to 1).

use std::sync::Arc;

use hms_core::{
    Result,
    agent::{AgentTypeSpec, Behaviour, Tunable},
    plugin::Registrar,
    schema,
};
use serde_json::{Value, json};

use crate::{
    endpoint::{self, Endpoint, Target},
    keys::{self, Keys},
    probe::TcpCheck,
};

/// Registers the type.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let address = json!({"address": {"type": "string", "x-value": "HOST:PORT", "description": "address to connect to"}});
    let spec = AgentTypeSpec {
        name: "tcp".into(),
        version: keys::version(),
        summary: "watches an address that accepts connections".into(),
        schema: schema::object(keys::merged(address, endpoint::schema()), &["address"]),
        state_version: 0,
        tunables: vec![
            Tunable {
                name: "tcp.timeout".into(),
                min: 0.05,
                max: 60.0,
                integer: false,
                summary: "seconds after which an unanswered connection is a failure".into(),
            },
            Tunable {
                name: "tcp.failures".into(),
                min: 1.0,
                max: 10.0,
                integer: true,
                summary: "failures in a row that make it critical".into(),
            },
        ],
    };
    to.agent_type(spec, Arc::new(create))
}

fn create(config: &Value) -> Result<Arc<dyn Behaviour>> {
    let keys = Keys::of("", config)?;
    let address = keys.get("address").ok_or_else(|| keys.wrong("address", "is missing"))?;
    let check = TcpCheck::parse("address", address)?;
    Ok(Arc::new(Endpoint::new(Target::Tcp(check), &keys)?))
}
