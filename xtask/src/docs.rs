//! `cargo xtask docs`: the command reference, written from the command registry.

use std::fs;

use hms_core::Kernel;

use crate::{Outcome, root};

/// Writes `docs/cli.md`; with `--check`, fails when it is stale.
pub(crate) fn run(args: &[String]) -> Outcome {
    let kernel = Kernel::describe(hms_runtime::organs())?;
    let text = hms_runtime::cli::parser("codex-hms", env!("CARGO_PKG_VERSION"), &kernel).reference_markdown();
    let path = root().join("docs/cli.md");
    match args {
        [] => Ok(fs::write(path, text)?),
        [check] if check == "--check" => {
            if fs::read_to_string(&path).unwrap_or_default() == text {
                Ok(())
            } else {
                Err("docs/cli.md is stale: run `cargo xtask docs`".into())
            }
        }
        _ => Err("docs takes --check or nothing".into()),
    }
}
