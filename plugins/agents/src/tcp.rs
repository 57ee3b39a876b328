//! The agent type `tcp`: watches an address that somebody else listens on.
//!
//! Healthy while it accepts connections; degraded when that takes long or failed just now; critical when it
//! failed several times in a row. Its status shows `address`, `checked_ms` and `last_error`; it measures
//! `responseTime` (ms until connected) and `errorRate` (0 to 1).

use hms_core::{Result, plugin::Registrar};
use serde_json::json;

use crate::{
    endpoint::{self, Kind, Target},
    probe::TcpCheck,
};

/// Registers the type.
pub(crate) fn register(to: &Registrar) -> Result<()> {
    let address = json!({"type": "string", "x-value": "HOST:PORT", "description": "address to connect to"});
    endpoint::register(
        to,
        Kind {
            name: "tcp",
            summary: "watches an address that accepts connections",
            properties: json!({"address": address}),
            required: "address",
            timeout: "seconds after which an unanswered connection is a failure",
            target: |keys| {
                let address = keys.get("address").ok_or_else(|| keys.wrong("address", "is missing"))?;
                Ok(Target::Tcp(TcpCheck::parse("address", address)?))
            },
        },
    )
}
