//! The clients of MCP that are known: where their configuration is, and how their processes are called.

use std::path::PathBuf;

use hms_core::{Error, Result};

use crate::{
    edit::Format,
    places::{Places, settled},
};

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    /// As `--client` names it.
    pub(crate) id: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// How it writes its servers down.
    pub(crate) format: Format,
    /// The names that its processes go by.
    pub(crate) processes: &'static [&'static str],
    file: fn(&Places) -> PathBuf,
}

/// `mcpServers`, as nearly everybody has it.
const COMMON: Format = Format::Json("mcpServers");

/// All of them.
pub(crate) static CLIENTS: [Client; 8] = [
    Client {
        id: "codex",
        title: "Codex",
        format: Format::Toml,
        processes: &["codex"],
        file: |places| places.codex.join("config.toml"),
    },
    Client {
        id: "claude-code",
        title: "Claude Code",
        format: COMMON,
        processes: &["claude"],
        file: |places| places.claude.join(".claude.json"),
    },
    Client {
        id: "claude-project",
        title: "Claude Code, this project",
        format: COMMON,
        processes: &[],
        file: |places| places.cwd.join(".mcp.json"),
    },
    Client {
        id: "claude-desktop",
        title: "Claude Desktop",
        format: COMMON,
        processes: &["claude-desktop"],
        file: |places| desktop(places).join("claude_desktop_config.json"),
    },
    Client {
        id: "cursor",
        title: "Cursor",
        format: COMMON,
        processes: &["cursor"],
        file: |places| places.user.join(".cursor/mcp.json"),
    },
    Client {
        id: "vscode",
        title: "VS Code",
        format: Format::Json("servers"),
        processes: &["code"],
        file: |places| {
            let folder = if cfg!(target_os = "macos") {
                places.user.join("Library/Application Support")
            } else {
                places.config.clone()
            };
            folder.join("Code/User/mcp.json")
        },
    },
    Client {
        id: "windsurf",
        title: "Windsurf",
        format: COMMON,
        processes: &["windsurf"],
        file: |places| places.user.join(".codeium/windsurf/mcp_config.json"),
    },
    Client {
        id: "gemini",
        title: "Gemini CLI",
        format: COMMON,
        processes: &["gemini"],
        file: |places| places.user.join(".gemini/settings.json"),
    },
];

fn desktop(places: &Places) -> PathBuf {
    if cfg!(target_os = "macos") {
        places.user.join("Library/Application Support/Claude")
    } else {
        places.config.join("Claude")
    }
}

impl Client {
    /// Its configuration.
    pub(crate) fn file(&self, places: &Places) -> PathBuf {
        settled(&(self.file)(places))
    }

    /// Whether it is Codex, which has plugins.
    pub(crate) fn is_codex(&self) -> bool {
        self.format == Format::Toml
    }

    /// Whether there is anything of it on this machine.
    pub(crate) fn is_here(&self, places: &Places) -> bool {
        let file = self.file(places);
        file.exists() || (self.is_codex() && (places.codex.is_dir() || places.real_codex().is_some()))
    }
}

/// The names for `--client`, `all` last.
pub(crate) fn names() -> Vec<&'static str> {
    CLIENTS.iter().map(|client| client.id).chain(["all"]).collect()
}

/// The clients that `name` means; `all`: those that are here.
///
/// # Errors
/// `not-found` for a name that is none.
pub(crate) fn chosen(name: &str, places: &Places) -> Result<Vec<&'static Client>> {
    if name == "all" {
        return Ok(CLIENTS.iter().filter(|client| client.is_here(places)).collect());
    }
    let known = CLIENTS.iter().find(|client| client.id == name);
    known
        .map(|client| vec![client])
        .ok_or_else(|| Error::not_found("client", name).hint(format!("there are: {}", names().join(", "))))
}
