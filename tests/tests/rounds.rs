//! The host is killed with -9 at random instants while everything is going on: whatever was acknowledged is
//! there afterwards, and nothing is there twice.
//!
//! `HMS_ROUNDS` says how many times (25), `HMS_SEED` repeats the instants of a run that failed.

use std::{
    collections::BTreeSet,
    env,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hms_core::{Error, ErrorKind, clock::Rng, command::Caller};
use hms_runtime::{Open, System, runtime::Runtime};
use hms_tests::{Home, PATIENCE, hms_program, processes};
use serde_json::{Value, json};

const ROUNDS: u64 = 25;
const WORKERS: u64 = 4;
/// Agents that one worker keeps about.
const HELD: usize = 5;
/// The longest time between the start of a round and its kill.
const LONGEST_MS: u64 = 250;

#[test]
fn what_was_acknowledged_survives_any_death_of_the_host() {
    let rounds = number("HMS_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("HMS_SEED").unwrap_or_else(|| Rng::from_os().next_u64());
    println!("HMS_SEED={seed} HMS_ROUNDS={rounds}");
    let home = Home::new();
    let runtime = Runtime::acquire().expect("a runtime");
    runtime.block_on(async {
        let (random, mut total) = (Rng::seeded(seed), Work::default());
        let open = Open::Shared { home: Some(home.path().to_owned()), start_host: Some(hms_program()) };
        let system = System::open(open).await.expect("a host");
        let mut workers: Vec<Worker> =
            (0..WORKERS).map(|n| Worker::new(n, system.clone(), random.next_u64())).collect();
        for _ in 0..rounds {
            workers = Box::pin(one_round(&home, &random, workers)).await;
            let done = Box::pin(settle(&home, &system, &mut workers)).await;
            total.acknowledged += done.acknowledged;
            total.unknown += done.unknown;
        }
        println!(
            "{rounds} rounds, {} acknowledged, {} cut off by a death",
            total.acknowledged, total.unknown
        );
        // A round may be too short for anything; all of them are not.
        assert!(total.acknowledged as u64 > rounds, "there was hardly any load");
        drop(workers);
        system.close(false).await.expect("it detaches");
    });
    home.stop();
    assert_eq!(integrity(home.path()), "ok");
}

/// Works, and kills the host in the midst of it; sometimes the next one as well, before it is ready.
async fn one_round(home: &Home, random: &Rng, workers: Vec<Worker>) -> Vec<Worker> {
    let over = Arc::new(AtomicBool::new(false));
    let working: Vec<_> = workers.into_iter().map(|worker| tokio::spawn(worker.work(over.clone()))).collect();
    pause(random, LONGEST_MS).await;
    kill_hosts(home);
    if random.next_u64().is_multiple_of(2) {
        pause(random, 60).await;
        kill_hosts(home);
    }
    pause(random, 100).await;
    over.store(true, Ordering::Release);
    let mut workers = Vec::new();
    for worker in working {
        workers.push(worker.await.expect("a worker found something wrong"));
    }
    workers
}

async fn pause(random: &Rng, most_ms: u64) {
    tokio::time::sleep(Duration::from_micros(random.next_u64() % (most_ms * 1000))).await;
}

fn kill_hosts(home: &Home) {
    for host in processes::hosts(home.path()) {
        processes::kill(host);
    }
}

/// Everything that was acknowledged is there, everything that runs is known, and once.
async fn settle(home: &Home, system: &System, workers: &mut [Worker]) -> Work {
    let rows = ask(system, "agent list", json!({})).await;
    let rows = rows.as_array().expect("rows");
    let listed: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    let names: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(names.len(), listed.len(), "a name is there twice: {listed:?}");
    let history = ask(system, "heal history", json!({"limit": 10_000})).await;
    let incidents: BTreeSet<&str> =
        history.as_array().expect("incidents").iter().filter_map(|i| i["id"].as_str()).collect();

    let (mut known, mut work) = (BTreeSet::new(), Work::default());
    for worker in workers {
        for name in &worker.created {
            assert!(names.contains(name.as_str()), "`{name}` was created, and is lost");
        }
        for name in &worker.destroyed {
            assert!(!names.contains(name.as_str()), "`{name}` was destroyed, and is back");
        }
        for id in &worker.incidents {
            assert!(incidents.contains(id.as_str()), "incident {id} was opened, and is lost");
        }
        // What was cut off happened or it did not: from here on it is known which.
        for name in std::mem::take(&mut worker.unknown) {
            work.unknown += 1;
            let kept =
                if names.contains(name.as_str()) { &mut worker.created } else { &mut worker.destroyed };
            kept.insert(name);
        }
        known.extend(worker.created.iter().cloned());
        work.acknowledged += std::mem::take(&mut worker.acknowledged);
    }
    let strangers: Vec<_> = names.iter().filter(|name| !known.contains(**name)).collect();
    assert!(strangers.is_empty(), "nobody created {strangers:?}");

    let begun = std::time::Instant::now();
    while let Err(wrong) = each_runs_once(home, system).await {
        assert!(begun.elapsed() < PATIENCE, "{wrong}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = ask(system, "system info", json!({})).await;
    assert_eq!(
        (&status["store"]["failing"], &status["store"]["lost"]),
        (&json!(false), &json!(0)),
        "{status}"
    );
    work
}

/// Each agent runs as the one process that its row names, and nothing else carries a token.
async fn each_runs_once(home: &Home, system: &System) -> Result<(), String> {
    let rows = ask(system, "agent list", json!({})).await;
    let mut running = home.processes();
    for row in rows.as_array().expect("rows") {
        let mine: Vec<_> = running.extract_if(.., |t| row["id"] == t.agent.as_str()).collect();
        if row["status"] != "running" || mine.len() != 1 || row["pid"] != mine[0].pid {
            return Err(format!("{row} runs as {mine:?}"));
        }
    }
    if running.is_empty() { Ok(()) } else { Err(format!("{running:?} belong to no agent")) }
}

/// What is asked between two rounds is answered.
async fn ask(system: &System, command: &str, args: Value) -> Value {
    let answer = system.run(command, args, Caller::default(), |_| {}).await;
    answer.unwrap_or_else(|e| panic!("{command}: {e}"))
}

#[derive(Default)]
struct Work {
    acknowledged: usize,
    unknown: usize,
}

/// Asks for one thing after the other, and remembers what was answered.
struct Worker {
    number: u64,
    system: System,
    random: Rng,
    next: u64,
    created: BTreeSet<String>,
    destroyed: BTreeSet<String>,
    /// Creations and destructions that the host did not live to answer.
    unknown: BTreeSet<String>,
    incidents: BTreeSet<String>,
    acknowledged: usize,
}

impl Worker {
    fn new(number: u64, system: System, seed: u64) -> Self {
        Self {
            number,
            system,
            random: Rng::seeded(seed),
            next: 0,
            created: BTreeSet::new(),
            destroyed: BTreeSet::new(),
            unknown: BTreeSet::new(),
            incidents: BTreeSet::new(),
            acknowledged: 0,
        }
    }

    async fn work(mut self, over: Arc<AtomicBool>) -> Self {
        while !over.load(Ordering::Acquire) {
            match self.random.next_u64() % 8 {
                0..=2 if self.created.len() < HELD => self.create().await,
                0 | 3 => self.destroy().await,
                4 => self.send().await,
                5 => self.heal().await,
                6 => self.restart().await,
                _ => self.kill_one().await,
            }
        }
        self
    }

    async fn create(&mut self) {
        let name = format!("w{}-{}", self.number, self.next);
        self.next += 1;
        let args = json!({
            "type": "process", "name": name,
            "config": {"command": ["sleep", "1000"], "stdin": "fifo"},
            "restart": {"intensity": {"max": 0}, "backoff": {"initial": "0s"}},
            "healing": {"verify_window": "50ms", "budget": {"actions": 10_000}},
        });
        match self.run("agent create", args).await {
            Some(_) => self.created.insert(name),
            None => self.unknown.insert(name),
        };
    }

    async fn destroy(&mut self) {
        let Some(name) = self.any() else { return };
        self.created.remove(&name);
        match self.run("agent destroy", json!({"agents": [name]})).await {
            Some(_) => self.destroyed.insert(name),
            None => self.unknown.insert(name),
        };
    }

    async fn send(&mut self) {
        let Some(name) = self.any() else { return };
        self.run("agent send", json!({"agent": name, "message": "hello", "timeout": "5s"})).await;
    }

    async fn heal(&mut self) {
        let Some(name) = self.any() else { return };
        let incident = self.run("heal trigger", json!({"agent": name, "wait": false, "timeout": "1m"})).await;
        self.incidents.extend(incident.and_then(|i| i["id"].as_str().map(str::to_owned)));
    }

    async fn restart(&mut self) {
        let Some(name) = self.any() else { return };
        self.run("agent restart", json!({"agents": [name], "kill": true})).await;
    }

    /// A crash, as the world makes them.
    async fn kill_one(&mut self) {
        let Some(name) = self.any() else { return };
        let Some(status) = self.run("agent status", json!({"agent": name})).await else { return };
        if let Some(pid) = status["pid"].as_i64() {
            processes::kill(i32::try_from(pid).expect("a pid"));
        }
    }

    /// One of the agents that are certainly there.
    fn any(&self) -> Option<String> {
        let at = self.random.next_u64() as usize % self.created.len().max(1);
        self.created.iter().nth(at).cloned()
    }

    /// Runs a command; `None` when the host died before it answered. Anything else that goes wrong is wrong.
    async fn run(&mut self, command: &str, args: Value) -> Option<Value> {
        let outcome = self.system.run(command, args.clone(), Caller::default(), |_| {}).await;
        match outcome {
            Ok(answer) => {
                self.acknowledged += 1;
                Some(answer)
            }
            Err(Error { kind: ErrorKind::HostUnavailable, .. }) => None,
            Err(e) => panic!("{command} {args}: {e}"),
        }
    }
}

fn integrity(home: &Path) -> String {
    let database = rusqlite::Connection::open(home.join("hms.db")).expect("the database opens");
    database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it can be checked")
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}
