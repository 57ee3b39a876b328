//! The plugin for Codex: a marketplace in a folder, with one plugin in it, and the copy that Codex loads.
//!
//! ```text
//! CODEX_HOME/hms/marketplace/.agents/plugins/marketplace.json
//!                            plugins/hms/.codex-plugin/plugin.json  .mcp.json  hooks/  skills/
//! CODEX_HOME/plugins/cache/hms/hms/<version>/                        the copy
//! ```
//!
//! `codex plugin add hms@hms` makes the same copy; it is made here so that Codex need not be at hand.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hms_core::{Error, Result, os};
use serde_json::{Value, json};

use crate::places::{Hms, text_of};

/// `PLUGIN@MARKETPLACE`.
pub(crate) const ID: &str = "hms@hms";
/// The version of what is installed.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The MCP server's name.
pub(crate) const SERVER: &str = "hms";

const SKILL: &str = include_str!("../skill/SKILL.md");

/// Seconds that Codex gives a hook; it takes itself far less.
const TIMEOUT: u64 = 2;

/// The plugin's files in a `CODEX_HOME`.
#[derive(Debug, Clone)]
pub(crate) struct PluginFiles {
    codex: PathBuf,
}

impl PluginFiles {
    /// Those of this `CODEX_HOME`.
    pub(crate) fn of(codex: &Path) -> Self {
        Self { codex: codex.to_owned() }
    }

    /// The marketplace's folder.
    pub(crate) fn marketplace(&self) -> PathBuf {
        self.codex.join("hms/marketplace")
    }

    fn source(&self) -> PathBuf {
        self.marketplace().join("plugins/hms")
    }

    fn copies(&self) -> PathBuf {
        self.codex.join("plugins/cache/hms/hms")
    }

    /// The copy that Codex loads.
    pub(crate) fn copy(&self) -> PathBuf {
        self.copies().join(VERSION)
    }

    /// Writes everything.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn write(&self, hms: &Hms) -> Result<()> {
        let files = files(hms)?;
        let manifest = self.marketplace().join(".agents/plugins/marketplace.json");
        put(&manifest, &pretty(&marketplace()))?;
        for root in [self.source(), self.copy()] {
            for (name, text) in &files {
                put(&root.join(name), text)?;
            }
        }
        // Codex takes the highest version that it finds.
        for old in fs::read_dir(self.copies()).into_iter().flatten().flatten() {
            if old.path() != self.copy() {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        Ok(())
    }

    /// Removes everything, and folders that are empty then.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(crate) fn remove(&self) -> Result<bool> {
        let mut removed = false;
        for folder in [self.marketplace(), self.copies(), self.codex.join("plugins/data/hms-hms")] {
            match fs::remove_dir_all(&folder) {
                Ok(()) => removed = true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(format!("cannot remove {}", folder.display()), &e)),
            }
        }
        for folder in ["hms", "plugins/cache/hms", "plugins/cache", "plugins/data", "plugins"] {
            // Somebody else's plugins keep it.
            let _ = fs::remove_dir(self.codex.join(folder));
        }
        Ok(removed)
    }

    /// Whether anything of it is there.
    pub(crate) fn is_there(&self) -> bool {
        self.copies().exists() || self.marketplace().exists()
    }

    /// The versions of the copies, and whether this version's is as it would be written now.
    pub(crate) fn copied(&self, hms: &Hms) -> (Vec<String>, bool) {
        let names = fs::read_dir(self.copies()).into_iter().flatten().flatten();
        let versions = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let same = files(hms).is_ok_and(|files| {
            files
                .iter()
                .all(|(name, text)| fs::read_to_string(self.copy().join(name)).is_ok_and(|t| t == *text))
        });
        (versions, same)
    }

    /// The program that the copy's server runs, as it is written there.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        let text = fs::read(self.copy().join(".mcp.json")).ok()?;
        let servers: Value = serde_json::from_slice(&text).ok()?;
        servers["mcpServers"][SERVER]["command"].as_str().map(PathBuf::from)
    }
}

fn marketplace() -> Value {
    json!({
        "name": "hms",
        "interface": {"displayName": "HMS"},
        "plugins": [{
            "name": "hms",
            "source": {"source": "local", "path": "./plugins/hms"},
            "policy": {"installation": "AVAILABLE", "authentication": "ON_INSTALL"},
            "category": "Developer Tools",
        }],
    })
}

/// The files of the plugin, by name.
fn files(hms: &Hms) -> Result<Vec<(&'static str, String)>> {
    let plugin = json!({
        "name": "hms",
        "version": VERSION,
        "description": "Keeps MCP servers alive, and lets Codex ask what is ill and heal it",
        "skills": "./skills/",
        "mcpServers": "./.mcp.json",
        "hooks": "./hooks/hooks.json",
        "interface": {
            "displayName": "HMS",
            "shortDescription": "MCP servers that never die",
            "category": "Developer Tools",
        },
    });
    let servers = json!({"mcpServers": {SERVER: server(hms)?}});
    Ok(vec![
        (".codex-plugin/plugin.json", pretty(&plugin)),
        (".mcp.json", pretty(&servers)),
        ("hooks/hooks.json", pretty(&hooks(hms)?)),
        ("skills/hms/SKILL.md", SKILL.to_owned()),
    ])
}

/// The entry of `mcp serve` in a client's configuration.
///
/// # Errors
/// `invalid-argument` when a path is no text.
pub(crate) fn server(hms: &Hms) -> Result<Value> {
    let mut entry = json!({"command": hms.program()?, "args": ["mcp", "serve"]});
    if let Some(home) = &hms.home {
        // Clients clear the environment of their servers.
        entry["env"] = json!({"HMS_HOME": text_of(home)?});
    }
    Ok(entry)
}

/// Session and tool events. Those that Codex need not wait for are `async`; it would end before some of them had
/// run, so that the end of a tool and of the session are not.
fn hooks(hms: &Hms) -> Result<Value> {
    let words = hook_words(hms)?.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    // A hook that ends with 2 takes a tool's result from the model, and a program of another version, or with no home
    // to be found, ends so: whatever becomes of the hook, it is the session's success.
    let command = format!("{words} || :");
    let run = |waits: bool| {
        let mut hook = json!({"type": "command", "command": command, "timeout": TIMEOUT});
        if !waits {
            hook["async"] = true.into();
        }
        hook
    };
    let always = |waits: bool| json!([{"hooks": [run(waits)]}]);
    let of_servers = |waits: bool| json!([{"matcher": "mcp__.*", "hooks": [run(waits)]}]);
    Ok(json!({"hooks": {
        "SessionStart": always(false),
        "PreToolUse": of_servers(false),
        "PostToolUse": of_servers(true),
        "SubagentStart": always(false),
        "SubagentStop": always(false),
        "Interrupt": always(true),
        "SessionEnd": always(true),
    }}))
}

/// The words of a hook's command.
///
/// # Errors
/// `invalid-argument` when a path is no text.
pub(crate) fn hook_words(hms: &Hms) -> Result<Vec<String>> {
    let mut words = hms.words()?;
    words.extend(["codex", "hook"].map(String::from));
    if hms.starts_host() {
        words.extend(["--host", "auto"].map(String::from));
    }
    Ok(words)
}

/// A word as a POSIX shell reads it back.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn pretty(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn put(file: &Path, text: &str) -> Result<()> {
    let failed = |e: &io::Error| Error::io(format!("cannot write {}", file.display()), e);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(|e| failed(&e))?;
    }
    os::files::write_private(file, text.as_bytes()).map_err(|e| failed(&e))
}
