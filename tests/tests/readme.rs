//! The README is run: its first two commands are what they say, and its tour works as written.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use hms_tests::{Home, PATIENCE, free_port, hms_program, processes, until};
use serde_json::Value;

/// The whole tour; a person takes five minutes.
const TOUR: Duration = Duration::from_secs(120);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the project").to_owned()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("there is a README")
}

/// The `sh` blocks of a text, in order; only those after this line, when one is given.
fn blocks<'t>(text: &'t str, after: Option<&str>) -> Vec<&'t str> {
    let open = after.map_or_else(|| "```sh\n".to_owned(), |line| format!("{line}\n```sh\n"));
    let found = text.split(&open).skip(1);
    found.map(|rest| rest.split_once("```").expect("a block has an end").0).collect()
}

#[test]
fn the_first_command_demonstrates_and_ends_by_itself() {
    let readme = readme();
    let first = blocks(&readme, None)[0].trim();
    let args: Vec<&str> = first
        .strip_prefix("cargo run --package codex-hms -- ")
        .unwrap_or_else(|| panic!("not the program under test: {first}"))
        .split(' ')
        .collect();

    let home = Home::new();
    let shown = home.ok(&args).out;
    for words in ["crasher: exit code", "hanger: incident", "leaker: incident", "healed and verified"] {
        assert!(shown.contains(words), "`{words}` is not in: {shown}");
    }
    let (told, incidents) =
        shown.split_once("\nIncidents\n").unwrap_or_else(|| panic!("no summary: {shown}"));
    let incidents: Vec<&str> = incidents.lines().skip(1).filter(|line| !line.is_empty()).collect();
    for agent in ["crasher", "hanger", "leaker"] {
        assert!(incidents.iter().any(|row| row.starts_with(agent)), "`{agent}` is not in: {shown}");
    }
    assert!(incidents.iter().all(|row| row.ends_with(" verified")), "{shown}");
    let count = incidents.len().to_string();
    assert_eq!(row(told, &["Faults", "healed"]), [count.as_str()], "{shown}");
    assert_eq!(row(told, &["Verified"]), [count.as_str()], "{shown}");
    assert!(!shown.contains('\x1b'), "colours without a terminal: {shown}");
    // It uses a home of its own, and leaves the user's alone.
    assert_eq!((home.processes(), processes::hosts(home.path())), (vec![], vec![]));
}

#[test]
fn the_second_command_is_what_ci_runs() {
    let readme = readme();
    let second = blocks(&readme, None)[1].trim();
    assert_eq!(second, ".ci/run");
    let script = root().join(second);
    assert_ne!(fs::metadata(&script).expect("it is there").permissions().mode() & 0o111, 0, "it can be run");
    let script = fs::read_to_string(script).expect("it is text");
    assert!(script.starts_with("#!/usr/bin/env bash"), "{script}");
    assert!(script.lines().any(|line| line == "set -euo pipefail"), "a failure is a failure: {script}");
    let last = script.lines().rfind(|line| !line.is_empty()).expect("it does something");
    assert_eq!(last, "cargo xtask test", "it ends with all tests");
}

#[test]
fn links_lead_somewhere() {
    let root = root();
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root.join(folder)).expect("there is documentation");
        pages
            .extend(entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "md")));
    }
    let mut followed = 0;
    for page in pages {
        let text = fs::read_to_string(&page).expect("it is text");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            let target = page.parent().expect("it is in a folder").join(path);
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            followed += 1;
        }
    }
    assert!(followed > 10, "only {followed} links were found");
}

/// What the tour printed, block by block, and what was so after each.
struct Tour {
    printed: Vec<String>,
    /// `agent list --json`
    agents: Vec<Value>,
    /// `system status --json`
    status: Vec<Value>,
}

/// Runs the tour as it is written, in one shell, but on ports that are free here.
fn run(home: &Home, blocks: &[&str]) -> Tour {
    let mut script = String::from("set -euo pipefail\n");
    for (n, block) in blocks.iter().enumerate() {
        script.push_str(block);
        if n + 1 < blocks.len() {
            script.push_str(&format!("codex-hms --json agent list >agents-{n}.json\n"));
            script.push_str(&format!("codex-hms --json system status >status-{n}.json\n"));
        }
        script.push_str("echo ======\n");
    }
    for port in ["8471", "8472"] {
        assert!(script.contains(port), "the tour does not use port {port} any more");
        script = script.replace(port, &free_port().to_string());
    }
    let program = hms_program();
    let path = std::env::var("PATH").expect("there is a PATH");
    let path = format!("{}:{path}", program.parent().expect("it is in a folder").display());
    let out = fs::File::create(home.file("out")).expect("the folder is ours");
    let mut shell = Command::new("bash")
        .args(["-c", &script])
        .current_dir(home.around())
        .env("HMS_HOME", home.path())
        .env("PATH", path)
        .env_remove("HMS_AGENT")
        .env_remove("HMS_LOG")
        .stdin(Stdio::null())
        .stderr(out.try_clone().expect("a descriptor is left"))
        .stdout(out)
        .spawn()
        .expect("bash is installed");
    let begun = Instant::now();
    let printed = || fs::read_to_string(home.file("out")).expect("the tour prints text");
    let status = until("the end of the tour", TOUR, || shell.try_wait().expect("it is our child"));
    assert!(status.success(), "{status} after {:?}: {}", begun.elapsed(), printed());

    let json = |kind: &str, n: usize| {
        let text = fs::read_to_string(home.file(&format!("{kind}-{n}.json"))).expect("it was written");
        serde_json::from_str(&text).expect("it is JSON")
    };
    let between = 0..blocks.len() - 1;
    Tour {
        printed: printed().split("======\n").map(str::to_owned).collect(),
        agents: between.clone().map(|n| json("agents", n)).collect(),
        status: between.map(|n| json("status", n)).collect(),
    }
}

/// A field of an agent, after a block.
fn agent<'t>(list: &'t Value, name: &str, field: &str) -> &'t Value {
    let row = list.as_array().into_iter().flatten().find(|row| row["name"] == name);
    &row.unwrap_or_else(|| panic!("no `{name}` in {list}"))[field]
}

/// The rest of the table's row that begins with these words.
#[track_caller]
fn row<'t>(table: &'t str, words: &[&'t str]) -> Vec<&'t str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = rows.into_iter().find_map(|row| row.strip_prefix(words).map(<[&str]>::to_vec));
    found.unwrap_or_else(|| panic!("no row {words:?} in {table}"))
}

#[test]
fn the_tour_works_as_written() {
    let home = Home::new();
    let readme = readme();
    let blocks = blocks(&readme, Some("<!-- tour -->"));
    let [create, kill, watch, declare, kill_host, end] = blocks.as_slice() else {
        panic!("the tour has other steps: {blocks:#?}");
    };
    for (block, command) in [
        (create, "agent create process --name web"),
        (kill, "kill -9"),
        (watch, "--hang-log-silence"),
        (declare, "codex-hms up --wait\ncodex-hms up\n"),
        (kill_host, "system status --json"),
        (end, "codex-hms down\ncodex-hms system stop"),
    ] {
        assert!(block.contains(command), "`{command}` is not in: {block}");
    }
    let tour = run(&home, &blocks);
    let (printed, agents) = (&tour.printed, &tour.agents);

    // Supervised.
    assert_eq!(row(&printed[0], &["web", "process"])[..2], ["running", "healthy"], "{}", printed[0]);

    // Killed: back with a new pid, and verified.
    let incident = printed[1].lines().find(|line| line.contains("killed by SIGKILL"));
    let incident = incident.unwrap_or_else(|| panic!("no incident: {}", printed[1]));
    assert!(incident.contains(" web ") && incident.contains("verified"), "{incident}");
    assert_ne!(agent(&agents[0], "web", "pid"), agent(&agents[1], "web", "pid"));
    assert_eq!(agent(&agents[1], "web", "restarts"), 1);

    // Watched.
    assert_eq!(row(&printed[2], &["worker", "process"])[..2], ["running", "healthy"], "{}", printed[2]);

    // Declared, and declared once more: nothing changes.
    let (first, second) =
        printed[3].split_once("\nAGENT").unwrap_or_else(|| panic!("two tables: {}", printed[3]));
    for name in ["api", "client"] {
        let (first, second) = (row(first, &[name, "created"]), row(second, &[name, "unchanged"]));
        // Its health may become known between the two.
        assert_eq!(
            (first[0], first[2]),
            (second[0], second[2]),
            "the second `up` changed `{name}`: {}",
            printed[3]
        );
        assert_eq!(agent(&agents[3], name, "restarts"), 0);
    }
    assert!(printed[3].contains("└─ api"), "who depends on whom: {}", printed[3]);

    // The host is another one, and nothing that runs has noticed.
    assert_ne!(tour.status[3]["host"]["pid"], tour.status[4]["host"]["pid"]);
    for name in ["web", "worker", "api", "client"] {
        for field in ["pid", "restarts", "status"] {
            assert_eq!(
                agent(&agents[3], name, field),
                agent(&agents[4], name, field),
                "`{field}` of `{name}`"
            );
        }
    }

    // Ended.
    for name in ["api", "client"] {
        row(&printed[5], &[name, "removed"]);
    }
    assert!(printed[5].ends_with("stopped\n"), "{}", printed[5]);
    assert_eq!(home.processes(), [], "the tour leaves processes");
    until("the end of the host", PATIENCE, || processes::hosts(home.path()).is_empty().then_some(()));
}

#[test]
fn the_wrapped_server_outlives_its_death_and_the_bare_one_does_not() {
    let home = Home::new();
    let readme = readme();
    let blocks = blocks(&readme, Some("<!-- mcp -->"));
    let [block] = blocks.as_slice() else { panic!("one block shows it: {blocks:#?}") };
    let path = std::env::var("PATH").expect("there is a PATH");
    let path = format!("{}:{path}", hms_program().parent().expect("it is in a folder").display());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", block])
        .current_dir(root())
        .env("HMS_HOME", home.path())
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .expect("bash is installed");
    let printed = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = printed.lines().collect();
    let [_, bare, first, second] = lines.as_slice() else { panic!("{output:?}") };
    assert!(bare.ends_with("second call: Transport closed"), "{printed}");
    let pid = |line: &str| line.rsplit(' ').next().and_then(|pid| pid.parse::<u32>().ok()).expect("a pid");
    assert!(second.contains("second call: answered by process"), "{printed}");
    assert_ne!(pid(first), pid(second));
}
