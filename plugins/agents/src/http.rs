//! The agent type `http`: watches an HTTP endpoint that somebody else runs.
//!
//! Healthy while it answers with an expected status; degraded when it answers slowly or failed just now;
//! critical when it failed several times in a row. Its status shows `url`, `http_status`, `checked_ms` and
//! `last_error`; it measures `responseTime` (ms) and `errorRate` (0 to 1).

use hms_core::{Result, plugin::Registrar};

use crate::{
    endpoint::{self, Kind, Target},
    probe::{self, HttpCheck},
};

/// Registers the type.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    endpoint::register(
        to,
        Kind {
            name: "http",
            summary: "watches an HTTP endpoint",
            properties: probe::http_schema(),
            required: "url",
            timeout: "seconds after which an answer is a failure",
            target: |keys| Ok(Target::Http(Box::new(HttpCheck::from_keys(keys)?))),
        },
    )
}
