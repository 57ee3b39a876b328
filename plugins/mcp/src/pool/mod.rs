//! `mcp pool`: many clients over HTTP, few servers.

use hms_core::{Result, plugin::Registrar};

/// Registers what this room offers.
pub(crate) fn register(_to: &Registrar) -> Result<()> {
    Ok(())
}
