//! Restart policies, groups and stops, over real processes.

use std::{
    fs,
    time::{Duration, Instant},
};

use hms_tests::{Home, PATIENCE, processes, text, until, while_it_holds};
use serde_json::Value;

/// Immediate restarts in any number: what a test is about then is not drowned by back-off.
const UNLIMITED: [&str; 4] = ["--restart-intensity-max", "0", "--restart-backoff-initial", "0s"];

#[test]
fn a_transient_job_that_is_done_stays_done() {
    let home = Home::new();
    home.create("job", &["--restart-policy", "transient"], &["true"]);
    let row = home.status("job", "stopped");
    assert_eq!(row["restarts"], 0, "{row}");
    assert!(row["reason"].as_str().is_some_and(|r| r.contains("ended")), "{row}");
    assert_eq!(home.json(&["heal", "history"]), serde_json::json!([]), "a job that is done is no incident");

    // Also over a restart of the host, and until it is asked for.
    home.ok(&["system", "restart"]);
    assert_eq!(home.agent("job")["status"], "stopped");
    // A code that the user calls success is one.
    home.create("three", &["--restart-policy", "transient", "--success-code", "3"], &["sh", "-c", "exit 3"]);
    home.status("three", "stopped");
    // An abnormal end is not.
    home.create("bad", &["--restart-policy", "transient"], &["sh", "-c", "sleep 0.05; exit 1"]);
    until("it is restarted", PATIENCE, || (home.agent("bad")["restarts"].as_u64()? > 0).then_some(()));
    home.stop();
}

#[test]
fn a_temporary_agent_is_never_restarted() {
    let home = Home::new();
    let pid = home.process("once", &["--restart-policy", "temporary"], &["sleep", "1000"]);
    processes::kill(pid);
    let row = home.status("once", "failed");
    assert_eq!(row["restarts"], 0, "{row}");
    assert_eq!(row["health"], "critical", "{row}");
    assert_eq!(home.processes(), []);
    home.stop();
}

#[test]
fn back_off_grows_and_is_seen() {
    let home = Home::new();
    let options = [
        "--restart-intensity-max",
        "0",
        "--restart-backoff-initial",
        "200ms",
        "--restart-backoff-jitter",
        "0",
    ];
    let mut events = {
        home.process("first", &[], &["sleep", "1000"]); // there is a host from here on
        home.events()
    };
    home.create("crasher", &options, &["sh", "-c", "exit 1"]);
    // Between an exit and the restart after it: nothing, 200, 400, 800 ms.
    for want_ms in [0, 200, 400, 800] {
        let exited = time(&events.of_agent("agent.exited", "crasher"));
        let restarted = events.of_agent("agent.restarted", "crasher");
        let waited = time(&restarted).saturating_sub(exited);
        assert!(
            waited + 5 >= want_ms && waited < want_ms + 1500,
            "{waited} ms instead of {want_ms}: {restarted}"
        );
    }
    let row = home.status("crasher", "restarting");
    assert_eq!((&row["health"], row.get("pid")), (&Value::from("critical"), None), "{row}");
    home.stop();
}

#[test]
fn groups_restart_together() {
    let home = Home::new();
    for (group, strategy) in [("all", "one-for-all"), ("rest", "rest-for-one"), ("one", "one-for-one")] {
        home.ok(&["agent", "create", "group", "--name", group, "--strategy", strategy]);
        for child in ["a", "b", "c"] {
            let name = format!("{group}-{child}");
            home.process(&name, &[&["--parent", group], &UNLIMITED[..]].concat(), &["sleep", "1000"]);
        }
    }
    // Which of a, b, c have a new pid after b was killed.
    for (group, want) in
        [("all", [true, true, true]), ("rest", [false, true, true]), ("one", [false, true, false])]
    {
        let names = ["a", "b", "c"].map(|child| format!("{group}-{child}"));
        let before = names.each_ref().map(|name| home.pid(name).expect("it runs"));
        processes::kill(before[1]);
        let changed = || {
            let after = names.each_ref().map(|name| home.pid(name));
            let all_run = names.iter().all(|name| home.agent(name)["status"] == "running");
            all_run.then(|| [0, 1, 2].map(|n| after[n].is_some_and(|pid| pid != before[n])))
        };
        until(&format!("`{group}`: {want:?}"), PATIENCE, || (changed()? == want).then_some(()));
        for (name, before) in names.iter().zip(before) {
            let now = home.pid(name).expect("it runs");
            assert_eq!(home.processes_of(name).iter().map(|t| t.pid).collect::<Vec<_>>(), [now]);
            assert!(now == before || !processes::lives(before), "`{name}` left its process");
        }
    }
    home.ok(&["agent", "stop", "all"]);
    assert_eq!(home.processes().len(), 6, "a group's stop stops its children");
    home.stop();
}

#[test]
fn quarantine_survives_the_host_and_ends_when_asked() {
    let home = Home::new();
    let fixed = home.file("fixed");
    let script = format!("test -e {} && exec sleep 1000; exit 7", text(&fixed));
    home.process(
        "broken",
        &["--restart-intensity-max", "2", "--restart-backoff-initial", "10ms"],
        &["sh", "-c", &script],
    );
    let row = home.status("broken", "quarantined");
    assert!(
        row["reason"].as_str().is_some_and(|r| r.contains("2 restarts within 1m") && r.contains('7')),
        "{row}"
    );
    assert_eq!(row["restarts"], 2, "{row}");
    let incident = home.closed_incident("broken");
    assert_eq!(incident["outcome"], "escalated", "{incident}");

    processes::kill(home.host());
    assert_eq!(home.agent("broken")["status"], "quarantined");
    home.ok(&["system", "restart"]);
    assert_eq!(home.agent("broken")["status"], "quarantined");
    assert_eq!(home.processes(), []);

    fs::write(&fixed, "").expect("it can be written");
    home.ok(&["agent", "start", "broken"]);
    assert_eq!(home.status("broken", "running")["health"], "healthy");
    home.stop();
}

#[test]
fn a_stop_asks_first_and_then_kills() {
    let home = Home::new();
    let marker = home.file("asked");
    let polite =
        format!("trap 'echo bye > {}; exit 0' TERM; echo up; while :; do sleep 0.05; done", text(&marker));
    home.process("polite", &["--readiness-log", "up"], &["sh", "-c", &polite]);
    home.status("polite", "running");
    home.ok(&["agent", "stop", "polite"]);
    assert_eq!(fs::read_to_string(&marker).expect("it was asked").trim(), "bye");

    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    home.process("stubborn", &["--readiness-log", "up", "--stop-timeout", "700ms"], &["sh", "-c", stubborn]);
    home.status("stubborn", "running");
    let begun = Instant::now();
    home.ok(&["agent", "stop", "stubborn"]);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(700) && took < Duration::from_secs(5), "{took:?}");
    assert_eq!(home.processes(), []);
    // It stays stopped, and was not restarted for having been killed.
    while_it_holds("it is stopped", Duration::from_millis(500), || {
        home.agent("stubborn")["status"] == "stopped"
    });
    assert_eq!(home.agent("stubborn")["restarts"], 0);
    assert_eq!(home.json(&["heal", "history"]), serde_json::json!([]));
    home.stop();
}

#[test]
fn dependents_are_stopped_before_what_they_need() {
    let home = Home::new();
    let order = home.file("order");
    let say = |name: &str| {
        let order = text(&order);
        format!(
            "trap 'sleep 0.1; echo {name} >> {order}; exit 0' TERM; echo up; while :; do sleep 0.02; done"
        )
    };
    // Created in the order of their needs; stopped the other way round, though `db` would be quickest.
    for (name, needs) in [("db", None), ("api", Some("db")), ("web", Some("api"))] {
        let mut options = vec!["--readiness-log", "up"];
        options.extend(needs.iter().flat_map(|needs| ["--depends-on", needs]));
        home.create(name, &options, &["sh", "-c", &say(name)]);
    }
    home.status("web", "running");
    home.stop();
    assert_eq!(fs::read_to_string(&order).expect("they were asked"), "web\napi\ndb\n");
}

/// An event's time in milliseconds of the day.
#[track_caller]
fn time(event: &Value) -> u64 {
    let text = event["time"].as_str().unwrap_or_default();
    let clock = text.split('T').nth(1).unwrap_or_else(|| panic!("no time in {event}")).trim_end_matches('Z');
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let seconds = clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<u64>().unwrap_or(0));
    seconds * 1000 + format!("{fraction:0<3}")[..3].parse::<u64>().unwrap_or(0)
}
