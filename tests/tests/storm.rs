//! Fifty processes that die every 100 ms: with limits off none is forgotten and the system still answers;
//! with the default limits they end quarantined, and the host rests.

use std::{
    thread,
    time::{Duration, Instant},
};

use hms_tests::{Home, PATIENCE, processes, until};
use serde_json::Value;

const CRASHERS: usize = 50;
const DYING: [&str; 3] = ["sh", "-c", "sleep 0.1; exit 1"];
/// How long the storm lasts.
const STORM: Duration = Duration::from_secs(20);
/// How long anybody may wait for an answer meanwhile. Generous: a storm on two cores is a storm.
const ANSWER: Duration = Duration::from_secs(1);
/// No process may be away for longer.
const SILENCE_MS: u64 = 1000;

#[test]
fn without_limits_none_falls_silent() {
    let home = Home::new();
    let bystander = home.process("bystander", &[], &["sleep", "1000"]);
    let names = create(&home, &["--restart-intensity-max", "0", "--restart-backoff-initial", "0s"]);

    let (begun, mut answers) = (Instant::now(), Vec::new());
    while begun.elapsed() < STORM {
        answers.push(home.ok(&["--json", "agent", "list"]).took);
        thread::sleep(Duration::from_millis(100));
    }
    answers.sort_unstable();
    let (usual, slowest) = (answers[answers.len() * 9 / 10], answers[answers.len() - 1]);
    assert!(usual < ANSWER, "nine of ten `agent list` took up to {usual:?} in the storm");
    assert!(slowest < 5 * ANSWER, "an `agent list` took {slowest:?} in the storm");

    let rows = home.json(&["agent", "list"]);
    let now_ms = now_ms();
    let mut restarts = Vec::new();
    for name in &names {
        let row = row(&rows, name);
        let since = row["since_ms"].as_u64().expect("a time");
        assert!(
            now_ms.saturating_sub(since) < SILENCE_MS,
            "`{name}` is silent for {} ms: {row}",
            now_ms - since
        );
        assert!(matches!(row["status"].as_str(), Some("running" | "restarting" | "starting")), "{row}");
        restarts.push(row["restarts"].as_u64().expect("a count"));
    }
    let (least, all) = (restarts.iter().min().expect("some"), restarts.iter().sum::<u64>());
    println!(
        "{all} restarts in {STORM:?}, the least {least}; {} answers, nine of ten within {usual:?}, all within {slowest:?}",
        answers.len()
    );
    // Nobody is starved: at least a fifth of what an undisturbed loop could do.
    assert!(u128::from(*least) >= STORM.as_millis() / 100 / 5, "{restarts:?}");
    assert_eq!(home.pid("bystander"), Some(bystander), "the storm touched a bystander");
    let status = home.json(&["system", "status"]);
    assert_eq!(status["store"]["failing"], false, "{status}");
    // The history is not flooded: a storm is one incident an agent.
    let incidents = home.json(&["heal", "history", "--limit", "10000"]);
    assert!(
        incidents.as_array().expect("incidents").len() <= 2 * CRASHERS,
        "{} incidents",
        incidents.as_array().map_or(0, Vec::len)
    );
    home.stop();
}

#[test]
fn with_the_default_limits_they_end_quarantined_and_the_host_rests() {
    let home = Home::new();
    let names = create(&home, &[]);
    until("all are quarantined", PATIENCE, || {
        let rows = home.json(&["agent", "list", "--status", "quarantined"]);
        (rows.as_array()?.len() == CRASHERS).then_some(())
    });
    assert_eq!(home.processes(), [], "a quarantined agent runs nothing");
    let incidents = until("all are escalated", PATIENCE, || {
        let all = home.json(&["heal", "history", "--limit", "10000"]);
        let all = all.as_array()?.clone();
        let escalated =
            |name: &String| all.iter().any(|i| i["agent"] == name.as_str() && i["outcome"] == "escalated");
        names.iter().all(escalated).then_some(all)
    });
    assert_eq!(incidents.len(), CRASHERS, "one incident each");
    for incident in &incidents {
        assert!(
            incident["occurrences"].as_u64().is_some_and(|n| n >= 6),
            "all exits belong to it: {incident}"
        );
    }

    // What is over costs nothing: no polling, no spinning.
    let host = home.host();
    let before = processes::cpu_time(host);
    let quiet = Duration::from_secs(3);
    thread::sleep(quiet);
    let used = processes::cpu_time(host) - before;
    println!("the host used {used:?} of CPU in {quiet:?}, {} MB", processes::memory(host) >> 20);
    assert!(used < quiet / 20, "the host spins: {used:?} in {quiet:?}");
    home.stop();
}

fn create(home: &Home, options: &[&str]) -> Vec<String> {
    let names: Vec<String> = (0..CRASHERS).map(|n| format!("crasher-{n}")).collect();
    for name in &names {
        home.create(name, options, &DYING);
    }
    names
}

#[track_caller]
fn row<'a>(rows: &'a Value, name: &str) -> &'a Value {
    rows.as_array().into_iter().flatten().find(|r| r["name"] == name).unwrap_or_else(|| panic!("no `{name}`"))
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.expect("after 1970").as_millis()).expect("before the year 500 million")
}
