//! Real processes crash, hang, leak and fall silent; each is healed, the healing verified, and seen from
//! another terminal.

use std::fs;

use hms_tests::{Home, PATIENCE, free_port, processes, text, until};
use rustix::process::Signal;
use serde_json::Value;

/// Options for an agent that is asked how it is ten times a second.
const WATCHED: [&str; 4] = ["--health-interval", "100ms", "--healing", "verify_window=500ms"];

#[test]
fn a_killed_process_is_back_and_everybody_sees_it() {
    let home = Home::new();
    let before = home.process("web", &["--healing", "verify_window=500ms"], &["sleep", "1000"]);
    let mut events = home.events();

    processes::kill(before);

    let exited = events.of_agent("agent.exited", "web");
    assert_eq!(exited["data"]["exit"]["signal"], 9, "{exited}");
    assert_eq!(exited["data"]["pid"], before, "{exited}");
    let restarted = events.of_agent("agent.restarted", "web");
    for attribute in ["specversion", "id", "source", "type", "time"] {
        assert!(restarted[attribute].is_string(), "CloudEvents wants `{attribute}`: {restarted}");
    }
    let after = home.pid("web").expect("it runs again");
    assert_ne!(after, before);
    assert_eq!(restarted["data"]["pid"], after);
    assert_eq!(pids(&home, "web"), [after]);

    let incident = home.closed_incident("web");
    assert_eq!(incident["outcome"], "verified", "{incident}");
    assert!(incident["cause"].as_str().is_some_and(|c| c.contains("SIGKILL")), "{incident}");
    assert_eq!(incident["steps"][0]["action"], "supervision", "{incident}");
    assert_eq!(incident["steps"][0]["verified"], true, "{incident}");
    assert_eq!(home.agent("web")["restarts"], 1);
    assert_eq!(home.agent("web")["health"], "healthy");
    home.stop();
}

#[test]
fn a_stopped_process_is_found_by_each_kind_of_liveness_probe() {
    let home = Home::new();
    let port = free_port().to_string();
    let (http, tcp) = (format!("http://127.0.0.1:{port}/"), format!("127.0.0.1:{}", free_port()));
    let tcp_port = tcp.rsplit(':').next().expect("it has a port").to_owned();
    let probe = |option: &'static str, value: &str| -> Vec<String> {
        let options = [option, value, "--liveness-timeout", "300ms", "--liveness-failures", "2"];
        options.into_iter().chain(WATCHED).map(str::to_owned).collect()
    };
    // Frozen, it says nothing new; the probe reads what it last said, from outside.
    let beats = text(&home.file("beats")).to_owned();
    let fresh = format!("a=$(cat {beats}); sleep 0.2; test \"$a\" != \"$(cat {beats})\"");
    let exec = format!("[\"sh\", \"-c\", {}]", Value::from(fresh));
    let beat = format!("i=0; while :; do i=$((i+1)); echo $i > {beats}; sleep 0.02; done");
    let http_options = [
        probe("--liveness-http", &http),
        options(&["--readiness-http", &http, "--readiness-interval", "20ms"]),
    ]
    .concat();
    // A frozen listener still accepts: the kernel does. A probe by TCP finds one that is gone.
    let cases: [(&str, Vec<String>, Vec<&str>); 2] = [
        ("by-http", http_options, vec![home.child(), "serve", &port]),
        (
            "by-exec",
            probe("--liveness", &format!("{{\"exec\": {exec}, \"timeout\": \"1s\", \"failures\": 2}}")),
            vec!["sh", "-c", &beat],
        ),
    ];
    for (name, options, command) in &cases {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        // A whole probe as JSON and its parts as options exclude each other.
        let options = if *name == "by-exec" { [&options[..2], &WATCHED].concat() } else { options };
        home.process(name, &options, command);
    }
    let tcp_options = probe("--liveness-tcp", &tcp);
    let tcp_options: Vec<&str> = tcp_options.iter().map(String::as_str).collect();
    home.process(
        "by-tcp",
        &tcp_options,
        &["sh", "-c", &format!("{} serve {tcp_port} & exec sleep 1000", home.child())],
    );

    let mut events = home.events();
    for (name, ..) in &cases {
        let before = home.status(name, "running")["pid"].clone();
        let pid = i32::try_from(before.as_i64().expect("it runs")).expect("a pid");
        assert!(processes::signal(pid, Signal::STOP));
        let restarted = events.of_agent("agent.restarted", name);
        assert_ne!(restarted["data"]["pid"], before, "{restarted}");
        assert_eq!(restarted["data"]["by"], "healing", "{restarted}");
        healed(&home, name, "liveness");
        assert!(!processes::lives(pid), "`{name}`: the stopped process was left behind");
    }
    // Its server dies, and it does not: only the probe knows.
    let leader = home.status("by-tcp", "running")["pid"].as_i64().expect("it runs");
    let server = pids(&home, "by-tcp").into_iter().find(|p| i64::from(*p) != leader).expect("the server");
    processes::kill(server);
    events.of_agent("agent.restarted", "by-tcp");
    healed(&home, "by-tcp", "liveness");
    home.stop();
}

#[test]
fn a_leak_is_found_by_its_limit() {
    let home = Home::new();
    let fault = home.file("leak");
    let before = home.process(
        "leaky",
        &[&WATCHED[..], &["--memory-limit", "64MB"]].concat(),
        &[home.child(), "leak", text(&fault)],
    );
    fs::write(&fault, "").expect("it can be written");
    let incident = healed(&home, "leaky", "memory-limit");
    assert!(
        incident["cause"].as_str().is_some_and(|c| c.contains("64 MB") || c.contains("64MB")),
        "{incident}"
    );
    assert_ne!(home.pid("leaky"), Some(before));
    assert!(!processes::lives(before));
    home.stop();
}

#[test]
fn a_watchdog_that_falls_silent_is_healed() {
    let home = Home::new();
    let fault = home.file("silence");
    let options = ["--watchdog", "1s", "--readiness-notify", "--healing", "verify_window=1500ms"];
    home.process("beating", &options, &[home.child(), "notify", "100", text(&fault)]);
    let row = home.status("beating", "running");
    assert_eq!(home.json(&["agent", "status", "beating"])["status_text"], "beating");
    fs::write(&fault, "").expect("it can be written");
    healed(&home, "beating", "watchdog");
    assert_ne!(home.pid("beating").map(i64::from), row["pid"].as_i64());
    home.stop();
}

#[test]
fn a_hang_without_cooperation_is_found() {
    let home = Home::new();
    let options = [&WATCHED[..], &["--hang-log-silence", "700ms"]].concat();
    let before = home.process("talker", &options, &[home.child(), "count", "50"]);
    assert!(processes::signal(before, Signal::STOP));
    healed(&home, "talker", "hang");
    assert!(!processes::lives(before));
    home.stop();
}

#[test]
fn no_descendant_survives_a_stop_nor_a_crash() {
    let home = Home::new();
    home.process("litter", &["--readiness-log", "littered"], &[home.child(), "litter"]);
    home.status("litter", "running");
    let first = pids(&home, "litter");
    assert_eq!(first.len(), 4, "itself, in the group, in a session, forked twice: {first:?}");

    // A crash of the leader: what it left goes, and the next life litters anew.
    let leader = home.pid("litter").expect("it runs");
    processes::kill(leader);
    until("the remains of the first life are gone", PATIENCE, || {
        first.iter().all(|pid| !processes::lives(*pid)).then_some(())
    });
    until("the second life is complete", PATIENCE, || (pids(&home, "litter").len() == 4).then_some(()));

    home.ok(&["agent", "stop", "litter"]);
    assert_eq!(home.processes(), []);
    home.ok(&["agent", "start", "litter"]);
    until("the third life is complete", PATIENCE, || (pids(&home, "litter").len() == 4).then_some(()));
    home.ok(&["agent", "destroy", "litter"]);
    assert_eq!(home.processes(), []);
    home.stop();
}

#[test]
fn readiness_gates_what_depends_on_it() {
    let home = Home::new();
    let go = home.file("go");
    home.process("db", &["--readiness-log", "^ready$"], &[home.child(), "ready-when", text(&go)]);
    let web = home.json(&[
        "agent",
        "create",
        "process",
        "--name",
        "web",
        "--depends-on",
        "db",
        "--",
        "sleep",
        "1000",
    ]);
    assert_eq!((&web["status"], web.get("pid")), (&Value::from("waiting"), None), "{web}");
    assert_eq!(home.agent("db")["status"], "starting");
    assert!(web["reason"].as_str().is_some_and(|r| r.contains("db")), "{web}");

    let mut events = home.events();
    fs::write(&go, "").expect("it can be written");
    let started = events.of_agent("agent.started", "web");
    assert_eq!(started["data"]["pid"].as_i64(), home.status("web", "running")["pid"].as_i64());
    assert_eq!(home.agent("db")["status"], "running");
    home.stop();
}

#[test]
fn a_healing_that_is_asked_for_is_verified_too() {
    let home = Home::new();
    let before = home.process("web", &["--healing", "verify_window=300ms"], &["sleep", "1000"]);
    let incident = home.json(&["heal", "trigger", "web", "--reason", "feels slow"]);
    assert_eq!(incident["outcome"], "verified", "{incident}");
    assert!(incident["cause"].as_str().is_some_and(|c| c.contains("feels slow")), "{incident}");
    assert_ne!(home.pid("web"), Some(before));
    assert_eq!(home.closed_incident("web")["id"], incident["id"]);
    home.stop();
}

/// The agent's incident is verified, for this cause; it runs, healthy, as one process tree.
#[track_caller]
fn healed(home: &Home, agent: &str, cause: &str) -> Value {
    let incident = home.closed_incident(agent);
    assert_eq!(incident["outcome"], "verified", "{incident}");
    assert_eq!(incident["cause_code"], cause, "{incident}");
    let row = home.agent(agent);
    assert_eq!((&row["status"], &row["health"]), (&"running".into(), &"healthy".into()), "{row}");
    incident
}

fn pids(home: &Home, agent: &str) -> Vec<i32> {
    home.processes_of(agent).into_iter().map(|t| t.pid).collect()
}

fn options(options: &[&str]) -> Vec<String> {
    options.iter().map(|o| (*o).to_owned()).collect()
}
