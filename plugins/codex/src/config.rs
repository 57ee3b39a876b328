//! The section `codex` of the configuration.

use hms_core::{config::Section, schema::object};
use serde::Deserialize;
use serde_json::json;

/// The section's name.
pub(crate) const SECTION: &str = "codex";

/// What it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Config {
    /// Failed calls in a row after which a server's agent is healed; 0: never.
    pub(crate) heal_after: u32,
}

/// The section, for the manifest.
pub(crate) fn section() -> Section {
    let properties = json!({
        "heal_after": {"type": "integer", "minimum": 0, "maximum": 1000, "default": 2, "x-live": true,
            "description": "calls of one MCP server that fail in a row, as a session of Codex sees it, after which the agent of that server is healed; 0: never"},
    });
    Section { name: SECTION.into(), schema: object(properties, &[]) }
}
