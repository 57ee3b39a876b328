//! `cargo xtask test`: everything that must hold, in the order in which it fails fastest. Nothing is skipped: a
//! missing tool is installed by `.ci/run`, and here an error.

use std::{process::Command, time::Instant};

use crate::{Outcome, root};

/// A step: its name, its command, and variables for it.
struct Step {
    name: &'static str,
    command: &'static [&'static str],
    vars: &'static [(&'static str, &'static str)],
}

const fn step(name: &'static str, command: &'static [&'static str]) -> Step {
    Step { name, command, vars: &[] }
}

const STEPS: [Step; 7] = [
    step("format", &["cargo", "fmt", "--all", "--check"]),
    step("header", &["cargo", "xtask", "header", "--check"]),
    step("build", &["cargo", "build", "--workspace", "--all-targets"]),
    step("clippy", &["cargo", "clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    step("test", &["cargo", "test", "--workspace", "--no-fail-fast"]),
    step("docs", &["cargo", "xtask", "docs", "--check"]),
    Step {
        name: "loom",
        command: &[
            "cargo",
            "test",
            "--package",
            "hms-queue",
            "--lib",
            "--release",
            "--target-dir",
            "target/loom",
        ],
        vars: &[("RUSTFLAGS", "--cfg loom")],
    },
];

/// Runs all steps, or those that are named.
pub(crate) fn run(args: &[String]) -> Outcome {
    if let Some(unknown) = args.iter().find(|a| !STEPS.iter().any(|s| s.name == **a)) {
        let names = STEPS.map(|s| s.name).join(", ");
        return Err(format!("there is no step `{unknown}`; there are: {names}").into());
    }
    for step in STEPS.iter().filter(|s| args.is_empty() || args.iter().any(|a| a == s.name)) {
        let begun = Instant::now();
        eprintln!("==> {}: {}", step.name, step.command.join(" "));
        let status = Command::new(step.command[0])
            .args(&step.command[1..])
            .envs(step.vars.iter().copied())
            .current_dir(root())
            .status()?;
        if !status.success() {
            return Err(format!("{} failed ({status})", step.name).into());
        }
        eprintln!("==> {}: passed in {:.0} s", step.name, begun.elapsed().as_secs_f64());
    }
    Ok(())
}
