//! The agent type `http`: watches an HTTP endpoint that somebody else runs.
//!
//! Healthy while it answers with an expected status; degraded when it answers slowly or failed just now;
//! critical when it failed several times in a row. Its status shows `url`, `http_status`, `checked_ms` and
//! `last_error`; it measures `responseTime` (ms) and `errorRate` (0 to 1).

use std::sync::Arc;

use hms_core::{
    Result,
    agent::{AgentTypeSpec, Behaviour, Tunable},
    plugin::Registrar,
    schema,
};
use serde_json::Value;

use crate::{
    endpoint::{self, Endpoint, Target},
    keys::{self, Keys},
    probe::{self, HttpCheck},
};

/// Registers the type.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let properties = keys::merged(probe::http_schema(), endpoint::schema());
    let spec = AgentTypeSpec {
        name: "http".into(),
        version: keys::version(),
        summary: "watches an HTTP endpoint".into(),
        schema: schema::object(properties, &["url"]),
        state_version: 0,
        tunables: vec![
            Tunable {
                name: "http.timeout".into(),
                min: 0.05,
                max: 60.0,
                integer: false,
                summary: "seconds after which an answer is a failure".into(),
            },
            Tunable {
                name: "http.failures".into(),
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
    let check = HttpCheck::from_keys(&keys)?;
    Ok(Arc::new(Endpoint::new(Target::Http(Box::new(check)), &keys)?))
}
