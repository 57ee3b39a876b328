//! The build driver: `cargo xtask <task>`. One file a task; this one only finds it.

mod bench;
mod docs;
mod header;
mod npm;
mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What a task returns: an error is shown, and ends the driver with 1.
type Outcome = Result<(), Box<dyn std::error::Error>>;

struct Task {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Outcome,
}

const TASKS: &[Task] = &[
    Task { name: "test", about: "run every check and test, or the named steps", run: test::run },
    Task {
        name: "header",
        about: "write include/hms.h; with --check, fail when it is stale",
        run: header::run,
    },
    Task { name: "docs", about: "write docs/cli.md; with --check, fail when it is stale", run: docs::run },
    Task { name: "npm", about: "pack the npm packages into target/npm", run: npm::run },
    Task { name: "bench", about: "measure: respawn, mcp", run: bench::run },
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = args.split_first() else { return usage("a task is needed") };
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        return usage(&format!("there is no task `{name}`"));
    };
    match (task.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask {name}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("xtask: {problem}\n\nUsage: cargo xtask <task> [options]\n");
    for task in TASKS {
        eprintln!("  {:<10} {}", task.name, task.about);
    }
    ExitCode::from(2)
}

/// The root of the workspace.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}
