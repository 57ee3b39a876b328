//! Runs the examples, as they are built, and reads what they print.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

/// What an example prints. Each has a deadline of its own for whatever it waits for.
fn output(name: &str) -> Vec<String> {
    let test = std::env::current_exe().expect("a test knows where it is");
    let built = test.ancestors().nth(2).map(PathBuf::from).expect("it is in the target folder");
    let program = built.join("examples").join(name);
    assert!(program.is_file(), "{} is not there: cargo build -p hms-examples --examples", program.display());
    let out =
        Command::new(&program).stdin(Stdio::null()).env_remove("HMS_AGENT").output().expect("it can be run");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{name}: {}: {}{}", out.status, text(&out.stdout), text(&out.stderr));
    text(&out.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn supervise_kills_its_worker_and_sees_the_healing_verified() {
    let lines = output("supervise");
    let [first, cause, by, outcome, second] = lines.as_slice() else { panic!("five lines: {lines:#?}") };
    assert_eq!(cause, "incident: killed by SIGKILL");
    assert_eq!(by, "healed by supervision");
    assert_eq!(outcome, "outcome: verified");
    let pid = |line: &str| line.split(' ').nth(4).and_then(|pid| pid.parse::<u32>().ok()).expect("a pid");
    assert_ne!(pid(first), pid(second), "a new process: {lines:#?}");
    assert!(second.ends_with("after 1 restart"), "{second}");
    for line in [first, second] {
        let pid = pid(line);
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        assert_ne!(comm.trim(), "sleep", "pid {pid} outlived the example");
    }
}

#[test]
fn own_agent_counts_remembers_and_refuses() {
    assert_eq!(
        output("own_agent"),
        [
            "sum begins at 30",
            "with 12 more it is 42",
            "after a restart it is 42",
            "refused: `sum` does not take that: unknown variant `subtract`, expected `add` or `total`",
        ]
    );
}
