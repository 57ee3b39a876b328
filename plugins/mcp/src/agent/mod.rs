//! A wrapped server as an agent of the host: the type `mcp-server`, and the link to the process that wraps it.

use hms_core::{Result, plugin::Registrar};

/// Registers what this room offers.
pub(crate) fn register(_to: &Registrar) -> Result<()> {
    Ok(())
}
