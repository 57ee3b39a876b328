//! The host is killed with -9: nothing that it kept alive notices, and the next host goes on where it was.

use std::{
    collections::BTreeMap,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hms_tests::{Home, PATIENCE, processes, until};
use serde_json::Value;

const COUNTERS: usize = 20;
const EVERY: Duration = Duration::from_millis(10);

#[test]
fn what_runs_outlives_its_host_output_included() {
    let home = Home::new();
    let names: Vec<String> = (0..COUNTERS).map(|n| format!("counter-{n}")).collect();
    let pids: BTreeMap<&str, i32> = names
        .iter()
        .map(|name| (name.as_str(), home.process(name, &[], &[home.child(), "count", "10"])))
        .collect();
    let first_host = home.host();
    for name in &names {
        let printed = || numbers(&home, name).len();
        until("all count", PATIENCE, || (printed() > 20).then_some(()));
    }

    processes::kill(first_host);
    until("the host is dead", PATIENCE, || (!processes::lives(first_host)).then_some(()));
    // Without a host nobody reads: they must neither block nor die. As long as ten pipes' worth of lines.
    let alone = Instant::now();
    thread::sleep(Duration::from_secs(1));
    for (name, pid) in &pids {
        assert!(processes::lives(*pid), "`{name}` died with its host");
    }
    let alone = alone.elapsed();

    // The next command starts the next host, which adopts.
    home.ok(&["agent", "list"]);
    assert_ne!(home.host(), first_host);
    for name in &names {
        let row = home.status(name, "running");
        assert_eq!(row["pid"], pids[name.as_str()], "`{name}` did not keep its pid");
        assert_eq!(row["restarts"], 0, "{row}");
    }
    let tagged = home.processes();
    assert_eq!(tagged.len(), COUNTERS, "duplicates or losses: {tagged:?}");

    for name in &names {
        let before = numbers(&home, name).len();
        until("it goes on counting", PATIENCE, || (numbers(&home, name).len() > before).then_some(()));
        let all = numbers(&home, name);
        let want: Vec<u32> = (1..=u32::try_from(all.len()).expect("few")).collect();
        assert_eq!(all, want, "`{name}`: each number once, in order");
        // It did not stand still while nobody listened. Half, because machines are slow.
        assert!(
            all.len() as u128 > alone.as_millis() / EVERY.as_millis() / 2,
            "`{name}` stood still: {}",
            all.len()
        );
    }
    home.stop();
}

#[test]
fn output_that_was_rotated_away_is_a_stated_gap() {
    let home = Home::new();
    home.process("counter", &["--logs-max-size", "2KB", "--logs-keep", "2"], &[home.child(), "count", "1"]);
    let lines = until("a gap", PATIENCE, || {
        let lines =
            home.json_lines(&["agent", "logs", "counter", "--stream", "stdout", "--since-offset", "0"]);
        lines.iter().any(|l| l["gap"].as_u64().is_some_and(|g| g > 0)).then_some(lines)
    });
    // What is there and the gaps make up the stream without a hole: offsets tell.
    let mut at = 0;
    for line in &lines {
        match line["gap"].as_u64() {
            Some(gap) => at += gap,
            None => {
                assert_eq!(line["offset"], at, "{line}");
                at += line["line"].as_str().map_or(0, str::len) as u64 + 1;
            }
        }
    }
    home.stop();
}

#[test]
fn an_attached_peer_brings_host_and_child_back_without_a_command() {
    let home = Home::new();
    let child = home.process("web", &["--healing", "verify_window=300ms"], &["sleep", "1000"]);
    let bystander = home.process("bystander", &[], &["sleep", "1000"]);
    let mut events = home.events();
    let host = home.host();

    processes::kill(host);
    processes::kill(child);
    let back = within_two_seconds(&home, child, bystander);

    // The same terminal goes on showing what happens, without being started again.
    let restarted = events.of_agent("agent.restarted", "web");
    assert_eq!(restarted["data"]["pid"], back, "{restarted}");
    events.of_agent("agent.adopted", "bystander");
    assert!(events.lives());
    let incident = home.closed_incident("web");
    assert_eq!(incident["outcome"], "verified", "{incident}");
    assert_eq!(home.agent("web")["restarts"], 1);
    assert_eq!(home.pid("bystander"), Some(bystander));
    assert_eq!(home.processes().len(), 2);
    home.stop();
}

#[test]
fn a_peer_outlives_many_hosts() {
    let home = Home::new();
    let child = home.process("web", &[], &["sleep", "1000"]);
    let mut events = home.events();
    for _ in 0..5 {
        let host = home.host();
        processes::kill(host);
        let started = events.wait("the next host", PATIENCE, |e| {
            e["type"] == "system.host.started" && e["data"]["pid"] != host
        });
        let next = started["data"]["pid"].as_i64().expect("a pid");
        assert_eq!(home.pid("web"), Some(child));
        assert_eq!(i64::from(home.host()), next);
    }
    home.stop();
    assert!(processes::hosts(home.path()).is_empty(), "a stopped system is not started again by a peer");
}

#[test]
fn the_unit_brings_host_and_child_back() {
    let home = Home::new();
    let unit = home.ok(&["system", "install", "--print"]).out;
    for line in ["Restart=always", "KillMode=process", "RestartSec=100ms"] {
        assert!(unit.lines().any(|l| l == line), "{line} is not in:\n{unit}");
    }
    let start = unit.lines().find_map(|l| l.strip_prefix("ExecStart=")).expect("a command");
    assert!(
        start.contains(" system run --home ") && start.contains(home.path().to_str().expect("UTF-8")),
        "{start}"
    );
    assert!(processes::hosts(home.path()).is_empty(), "printing a unit starts nothing");

    let service = Service::start(&home);
    until("the service's host", PATIENCE, || processes::hosts(home.path()).first().copied());
    let child = home.process("web", &[], &["sleep", "1000"]);
    let bystander = home.process("bystander", &[], &["sleep", "1000"]);
    let host = home.host();
    processes::kill(host);
    processes::kill(child);
    let back = within_two_seconds(&home, child, bystander);
    assert_ne!(home.host(), host);
    assert_eq!(home.pid("web"), Some(back));
    assert_eq!(processes::hosts(home.path()).len(), 1);
    service.end();
    home.stop();
}

#[test]
fn a_restart_of_the_host_and_a_signal_to_it_keep_what_runs() {
    let home = Home::new();
    let child = home.process("counter", &[], &[home.child(), "count", "10"]);
    let host = home.host();
    home.ok(&["system", "restart"]);
    let second = home.host();
    assert_ne!(second, host);
    assert_eq!(home.pid("counter"), Some(child));

    // SIGTERM is what a service manager sends: agents go on.
    processes::signal(second, rustix::process::Signal::TERM);
    until("the host ends", PATIENCE, || (!processes::lives(second)).then_some(()));
    assert!(processes::lives(child));
    assert_eq!(home.pid("counter"), Some(child));
    assert_eq!(home.agent("counter")["restarts"], 0);
    home.stop();
}

#[test]
fn a_stop_without_a_host_stops_what_the_last_one_left() {
    let home = Home::new();
    let child = home.process("counter", &[], &[home.child(), "count", "10"]);
    let host = home.host();
    processes::kill(host);
    until("the host is dead", PATIENCE, || (!processes::lives(host)).then_some(()));
    assert_eq!(home.json(&["system", "status"])["state"], "stopped");
    assert!(processes::lives(child));
    home.stop();
    assert!(!processes::lives(child));

    // And so does a reset, for which no host has to start.
    home.ok(&["agent", "list"]);
    let child = home.status("counter", "running")["pid"].clone();
    let host = home.host();
    processes::kill(host);
    until("the host is dead", PATIENCE, || (!processes::lives(host)).then_some(()));
    home.ok(&["system", "reset", "--yes"]);
    assert_eq!(home.processes(), [], "{child} was left");
    assert_eq!(home.json(&["agent", "list"]), serde_json::json!([]));
    home.stop();
}

/// Nothing but looks into `/proc`: no command is run that could start a host. The new pid.
fn within_two_seconds(home: &Home, killed: i32, bystander: i32) -> i32 {
    let begun = Instant::now();
    let back = until("the child is back", Duration::from_secs(2), || {
        home.processes().into_iter().map(|t| t.pid).find(|pid| *pid != killed && *pid != bystander)
    });
    println!("host and child are back after {:?}", begun.elapsed());
    assert!(processes::lives(bystander));
    back
}

/// The numbers that an agent printed, as `agent logs` tells them; a gap would show as a hole.
fn numbers(home: &Home, agent: &str) -> Vec<u32> {
    let lines = home.json_lines(&["agent", "logs", agent, "--stream", "stdout", "--since-offset", "0"]);
    let number = |line: &Value| line["line"].as_str().and_then(|text| text.parse().ok());
    let mut all: Vec<u32> = lines.iter().filter_map(number).collect();
    // The last line may be half written: `1` of `12`.
    all.pop();
    all
}

/// What systemd does with the unit: start, and start again 100 ms after every end.
struct Service {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Service {
    fn start(home: &Home) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut command = home.command(&["system", "run", "--home", home.path().to_str().expect("UTF-8")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let asked = stop.clone();
        let thread = thread::spawn(move || {
            while !asked.load(Ordering::Acquire) {
                let mut host: Child = command.spawn().expect("the program under test can be started");
                while matches!(host.try_wait(), Ok(None)) {
                    if asked.load(Ordering::Acquire) {
                        // As `systemctl stop` with KillMode=process: the host alone.
                        processes::signal(
                            i32::try_from(host.id()).expect("a pid"),
                            rustix::process::Signal::TERM,
                        );
                        let _ = host.wait();
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.finish();
    }
}
