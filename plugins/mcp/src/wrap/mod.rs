//! `mcp wrap`: one client, one server.

use hms_core::{Result, plugin::Registrar};

/// Registers what this room offers.
pub(crate) fn register(_to: &Registrar) -> Result<()> {
    Ok(())
}
