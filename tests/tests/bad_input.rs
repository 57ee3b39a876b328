//! Bad input: each gets an error that says what, where and what to do, a non-zero exit, and changes nothing.
//!
//! The messages are read here as a user reads them, from the command line.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use hms_tests::{Home, PATIENCE, free_port, text, until};
use serde_json::Value;

/// A command line that fails: words of it, kind, exit code, words of the message, words of the hint.
type Case<'a> = (&'a [&'a str], &'a str, i32, &'a [&'a str], &'a [&'a str]);

const CREATE: [&str; 5] = ["agent", "create", "process", "--name", "b"];

#[test]
fn arguments_are_refused_by_name() {
    let home = Home::new();
    home.process("a", &[], &["sleep", "1000"]);
    home.process("c", &["--depends-on", "a"], &["sleep", "1000"]);
    let cases: &[Case<'_>] = &[
        (&["agnt", "list"], "invalid-argument", 2, &["'agnt'"], &["agent"]),
        (&["agent", "list", "--foo"], "invalid-argument", 2, &["--foo"], &[]),
        (
            &["agent", "create", "proces", "--", "x"],
            "invalid-argument",
            2,
            &["proces", "process, tcp"],
            &["process"],
        ),
        (
            &["agent", "create", "process", "--name", "No Name", "--", "x"],
            "invalid-argument",
            2,
            &["`name`", "`No Name`"],
            &["a-z"],
        ),
        (&["agent", "create", "process"], "invalid-argument", 2, &["<COMMAND>"], &[]),
        (&["agent", "create", "http"], "invalid-argument", 2, &["--url"], &[]),
        (&["agent", "status", "nope"], "not-found", 3, &["no agent `nope`"], &["agent list"]),
        (&["agent", "stop", "nope"], "not-found", 3, &["no agent `nope`"], &["agent list"]),
        (&["agent", "logs", "nope"], "not-found", 3, &["no agent `nope`"], &["agent list"]),
        (&["agent", "send", "nope", "hi"], "not-found", 3, &["no agent `nope`"], &["agent list"]),
        (&["agent", "send", "a", "hi", "--ask"], "not-supported", 1, &["reads nothing"], &["--stdin fifo"]),
        (&["agent", "destroy", "nope"], "not-found", 3, &["no agent `nope`"], &["agent list"]),
        (&["agent", "destroy", "a"], "invalid-state", 4, &["`c` needs `a`"], &["destroy `c` first"]),
        (
            &["agent", "logs", "a", "--since-offset", "3"],
            "invalid-argument",
            2,
            &["`since_offset`"],
            &["--stream"],
        ),
        (&["heal", "trigger", "nope"], "not-found", 3, &["no agent `nope`"], &["agent list"]),
        (&["heal", "trigger", "a", "--rung", "pray"], "invalid-argument", 2, &["pray"], &["restart"]),
        (
            &["heal", "configure", "verify_windw", "3s"],
            "invalid-argument",
            2,
            &["healing.verify_windw"],
            &["verify_window"],
        ),
        (&["monitor", "events", "a..b"], "invalid-argument", 2, &["`a..b`", "byte 2"], &["agent.*"]),
        (
            &["monitor", "events", "--filter", "data.("],
            "invalid-argument",
            2,
            &["line 1, column 6"],
            &["CEL"],
        ),
        (
            &["system", "configure", "monitoring.intervall", "3s"],
            "invalid-argument",
            2,
            &["monitoring.intervall"],
            &["`monitoring.interval`"],
        ),
        (
            &["system", "configure", "monitoring.interval", "soon"],
            "invalid-argument",
            2,
            &["monitoring.interval", "`soon`", "500ms"],
            &[],
        ),
        (
            &["system", "configure", "nothing.here", "1"],
            "invalid-argument",
            2,
            &["nothing.here"],
            &["codex-hms system configure"],
        ),
    ];
    refused(&home, cases);
    home.stop();
}

#[test]
fn configurations_are_refused_by_key() {
    let home = Home::new();
    home.process("a", &[], &["sleep", "1000"]);
    let with = |options: &[&'static str], command: &[&'static str]| -> Vec<&'static str> {
        [&CREATE[..], options, if command.is_empty() { &[] } else { &["--"] }, command].concat()
    };
    let missing_cwd = with(&["--cwd", "/no/such/folder"], &["sleep", "1"]);
    let cases: &[Case<'_>] = &[
        (
            &["agent", "create", "process", "--name", "a", "--", "sleep", "1"],
            "already-exists",
            4,
            &["`a`"],
            &["another name"],
        ),
        (&with(&[], &["/no/such/program"]), "not-found", 3, &["/no/such/program"], &["full path"]),
        (&with(&[], &["no-such-program"]), "not-found", 3, &["no-such-program", "PATH"], &["PATH"]),
        (&with(&[], &["/etc/passwd"]), "permission-denied", 7, &["/etc/passwd"], &["executable"]),
        (&missing_cwd, "not-found", 3, &["/no/such/folder"], &["working directory"]),
        (
            &with(&["--depends-on", "zz"], &["sleep", "1"]),
            "invalid-argument",
            2,
            &["`depends_on`", "`zz`"],
            &["first"],
        ),
        (
            &with(&["--depends-on", "b"], &["sleep", "1"]),
            "invalid-argument",
            2,
            &["`depends_on`", "`b`"],
            &[],
        ),
        (
            &with(&["--parent", "zz"], &["sleep", "1"]),
            "invalid-argument",
            2,
            &["`parent`", "`zz`"],
            &["first"],
        ),
        (
            &with(&["--config", "{\"command\": 3}"], &[]),
            "invalid-config",
            2,
            &["`command`", "expected array", "3"],
            &[],
        ),
        (
            &with(&["--config", "{\"command\": [\"x\""], &[]),
            "invalid-argument",
            2,
            &["--config", "JSON", "line 1 column 16"],
            &[],
        ),
        (
            &with(&["--config", "{\"comand\": [\"x\"]}"], &[]),
            "invalid-config",
            2,
            &["unknown key `comand`", "`command` is missing"],
            &[],
        ),
        (
            &with(&["--memory-limit", "lots"], &["sleep", "1"]),
            "invalid-config",
            2,
            &["`memory_limit`", "`lots`", "64MB"],
            &[],
        ),
        (
            &with(&["--ready-timeout", "soon"], &["sleep", "1"]),
            "invalid-config",
            2,
            &["`ready_timeout`", "`soon`", "500ms"],
            &[],
        ),
        (
            &with(&["--health-interval", "5ms"], &["sleep", "1"]),
            "invalid-argument",
            2,
            &["`health.interval`", "100ms"],
            &[],
        ),
        (
            &with(&["--limit", "open_filez=3"], &["sleep", "1"]),
            "invalid-config",
            2,
            &["open_filez", "open_files"],
            &[],
        ),
        (
            &with(&["--stop-signal", "SIGFOO"], &["sleep", "1"]),
            "invalid-config",
            2,
            &["`stop.signal`", "SIGFOO", "TERM"],
            &[],
        ),
        (
            &with(&["--user", "nobody-here"], &["sleep", "1"]),
            "invalid-config",
            2,
            &["`user`", "nobody-here"],
            &["uid"],
        ),
        (
            &with(&["--liveness-http", "not-a-url"], &["sleep", "1"]),
            "invalid-config",
            2,
            &["`liveness.http`", "not-a-url"],
            &["http://"],
        ),
        (
            &with(&["--readiness-log", "("], &["sleep", "1"]),
            "invalid-config",
            2,
            &["`readiness.log`", "regular expression"],
            &[],
        ),
        (
            &with(&["--healing", "ladder=pray"], &["sleep", "1"]),
            "invalid-config",
            2,
            &["`healing`", "`ladder`"],
            &[],
        ),
        (
            &with(&["--healing", "verify_windw=3s"], &["sleep", "1"]),
            "invalid-config",
            2,
            &["verify_windw"],
            &["verify_window"],
        ),
    ];
    refused(&home, cases);
    home.stop();
}

#[test]
fn a_declaration_is_refused_with_its_lines_and_as_a_whole() {
    let home = Home::new();
    home.process("taken", &[], &["sleep", "1000"]);
    let good = "[agents.good]\ntype = \"process\"\ncommand = [\"sleep\", \"1000\"]\n";
    let cases: &[(&str, &[&str])] = &[
        ("[agents.x]\ncommand = [\"sleep\"\n", &[":2:", "unclosed array"]),
        ("[agents.x]\ntype = \"proces\"\n", &[":2:1: agents.x", "`proces`", "`process`"]),
        (
            "[agents.x]\ntype = \"process\"\ncommand = [\"true\"]\ncomand = 3\n",
            &[":4:1: agents.x", "`comand`", "`command`"],
        ),
        (
            "[agents.x]\ntype = \"process\"\ncommand = \"true\"\n",
            &[":3:", "agents.x.command", "expected array"],
        ),
        (
            "[agents.x]\ntype = \"process\"\ncommand = [\"/no/such\"]\n",
            &[":3:", "agents.x.command", "/no/such"],
        ),
        (
            "[agents.x]\ntype = \"process\"\ncommand = [\"true\"]\ncwd = \"gone\"\n",
            &[":4:", "agents.x.cwd", "gone"],
        ),
        (
            "[agents.x]\ntype = \"process\"\ncommand = [\"true\"]\nmemory_limit = \"lots\"\n",
            &[":4:", "memory_limit", "`lots`"],
        ),
        (
            "[agents.x]\ntype = \"process\"\ncommand = [\"true\"]\ndepends_on = [\"gone\"]\n",
            &[":4:", "`gone`"],
        ),
        (
            "[agents.x]\ntype = \"process\"\ncommand = [\"true\"]\ndepends_on = [\"y\"]\n\
             [agents.y]\ntype = \"process\"\ncommand = [\"true\"]\ndepends_on = [\"x\"]\n",
            &[":4:", "dependency cycle: x → y → x"],
        ),
        (
            "[agents.taken]\ntype = \"process\"\ncommand = [\"true\"]\n",
            &[":1:", "`taken`", "not declared by this file"],
        ),
        ("[agents.x]\ntype = \"process\"\ncommand = [\"true\"]\n[agents.x]\n", &[":4:", "duplicate"]),
        ("[agnts.x]\ntype = \"process\"\n", &[":1:", "`agnts`"]),
    ];
    let file = home.file("hms.toml");
    for (declaration, words) in cases {
        let before = world(&home);
        // What is wrong comes after what is right: a file is applied as a whole or not at all.
        for (content, moved) in [((*declaration).to_owned(), 0), (format!("{good}{declaration}"), 3)] {
            fs::write(&file, content).expect("it can be written");
            for args in [&["up", text(&file)][..], &["up", text(&file), "--check"]] {
                let failure = home.fails(args);
                assert_eq!(
                    (failure.kind.as_str(), failure.code),
                    ("invalid-config", 2),
                    "{declaration}: {failure:?}"
                );
                let said = format!("{} {}", failure.message, failure.hint);
                for word in *words {
                    let word = shifted(word, moved);
                    assert!(said.contains(&word), "`{word}` is not in {failure:?}");
                }
                assert!(said.contains(text(&file)), "the file is not named: {failure:?}");
            }
        }
        assert_eq!(world(&home), before, "{declaration}: something changed");
    }
    home.fails(&["up", text(&home.file("gone.toml"))])
        .says("not-found", 3, &["gone.toml"])
        .hints(&["up FILE"]);
    home.stop();
}

#[test]
fn a_config_file_is_refused_with_its_line_and_left_alone() {
    let home = Home::new();
    home.ok(&["agent", "list"]);
    home.stop();
    let file = home.path().join("config.toml");
    let cases: &[(&str, &[&str])] = &[
        ("[monitoring]\ninterval = \n", &[":2:"]),
        ("[monitoring\n", &[":1:"]),
        ("# mine\n[monitoring]\nintervall = \"3s\"\n", &[":3:1:", "`monitoring.intervall`"]),
        ("[monitoring]\ninterval = 7\n", &[":2:12:", "monitoring.interval", "expected string", "7"]),
        ("[monitoring]\ninterval = \"soon\"\n", &[":2:12:", "monitoring.interval", "`soon`"]),
        ("[healing]\nladder = [\"restart\", 3]\n", &[":2:", "healing.ladder"]),
        ("[nonsense]\nx = 1\n", &[":1:", "`nonsense`"]),
    ];
    for (content, words) in cases {
        fs::write(&file, content).expect("it can be written");
        let failure = home.fails(&["agent", "list"]);
        failure.says("invalid-config", 2, &[text(&file)]).says("invalid-config", 2, words);
        assert_eq!(fs::read_to_string(&file).expect("it is there"), *content);
        // A host that is started by hand says the same.
        home.fails(&["system", "run"]).says("invalid-config", 2, words);
    }
    assert!(home.fails(&["agent", "list"]).message.contains("nonsense"));
    fs::remove_file(&file).expect("it is there");
    home.ok(&["agent", "list"]);
    home.stop();
}

#[test]
fn a_port_in_use_is_seen_where_one_looks() {
    let home = Home::new();
    let port = free_port().to_string();
    let http = format!("http://127.0.0.1:{port}/");
    let readiness = ["--readiness-http", &http, "--readiness-interval", "50ms"];
    home.process("first", &readiness, &[home.child(), "serve", &port]);
    home.status("first", "running");
    // The second cannot listen, ends, and is given up; why, is in its output and its exit.
    let options = ["--restart-intensity-max", "1", "--restart-backoff-initial", "10ms"];
    home.create("second", &options, &[home.child(), "serve", &port]);
    let row = home.status("second", "quarantined");
    assert!(row["reason"].as_str().is_some_and(|r| r.contains("code 1") || r.contains("status 1")), "{row}");
    let printed = home.ok(&["agent", "logs", "second", "--stream", "stderr"]).out;
    assert!(printed.contains(&format!("listening at 127.0.0.1:{port}: Address already in use")), "{printed}");
    let incident = home.closed_incident("second");
    assert_eq!(incident["outcome"], "escalated", "{incident}");
    assert_eq!(home.agent("first")["restarts"], 0);
    home.stop();
}

#[test]
fn a_job_that_is_given_nothing_to_wait_for_ends_a_wait() {
    let home = Home::new();
    let file = home.file("hms.toml");
    let declaration =
        "[agents.x]\ntype = \"process\"\ncommand = [\"false\"]\n[agents.x.restart]\npolicy = \"temporary\"\n";
    fs::write(&file, declaration).expect("it can be written");
    let failure = until("it has failed", PATIENCE, || {
        // Ready is what it is for the moment it lives; waited for after that, it is lost.
        let answer = home.run(&["--json", "up", text(&file), "--wait", "--timeout", "10s"]);
        (answer.code != Some(0)).then(|| answer.failure())
    });
    failure.says("handler-failed", 1, &["`x` is failed"]).hints(&["agent status", "agent logs"]);
    home.stop();
}

/// Runs each case, and checks that nothing changed.
fn refused(home: &Home, cases: &[Case<'_>]) {
    for (args, kind, code, words, hints) in cases {
        let before = world(home);
        let failure = home.fails(args);
        println!("{args:?}\n    {} [{}]\n    {}", failure.message, failure.kind, failure.hint);
        failure.says(kind, *code, words).hints(hints);
        assert!(!failure.hint.contains("{program}"), "{failure:?}");
        assert_eq!(world(home), before, "{args:?}: something changed");
        // And as people read it.
        let answer = home.run(args);
        assert!(answer.err.starts_with("error: ") && answer.out.is_empty(), "{args:?}: {answer:?}");
    }
}

/// What a refused command must leave as it was: agents, their processes, their folders, the configuration.
fn world(home: &Home) -> (Value, Vec<i32>, BTreeMap<PathBuf, Option<Vec<u8>>>) {
    let agents = home.json(&["agent", "list"]);
    let pids = home.processes().iter().map(|t| t.pid).collect();
    let folders =
        fs::read_dir(home.path().join("agents")).expect("it is there").flatten().map(|e| (e.path(), None));
    let mut files: BTreeMap<_, _> = folders.collect();
    let config = home.path().join("config.toml");
    files.insert(config.clone(), contents(&config));
    (agents, pids, files)
}

fn contents(file: &Path) -> Option<Vec<u8>> {
    fs::read(file).ok()
}

/// `:4:1: …` of a declaration that begins `by` lines later.
fn shifted(word: &str, by: u32) -> String {
    let Some(rest) = word.strip_prefix(':') else { return word.to_owned() };
    let (line, rest) = rest.split_once(':').expect("a place has a line and an end");
    format!(":{}:{rest}", line.parse::<u32>().expect("a line") + by)
}
