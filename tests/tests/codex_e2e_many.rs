//! Eight wrapped servers in each of three sessions of the real Codex at once; one of the eight is killed, stopped
//! and made to crash at random. The other seven must not notice, and nothing may be left when all is killed.
//!
//! `HMS_SEED` repeats a run that failed.

use std::{
    sync::{Arc, Barrier, mpsc},
    thread,
    time::{Duration, Instant},
};

use hms_core::clock::Rng;
use hms_tests::{
    Home, PATIENCE,
    codex::{Codex, Handle, Model, Say, Seen, Server, Session, server_table, wrapped},
    processes, text, until,
};
use rustix::process::Signal;

const SESSIONS: usize = 3;
const SERVERS: usize = 8;
const CALLS: usize = 48;

/// What a wrapper may hold. The program of a release is measured by `cargo xtask bench mcp`.
const OWN_MEMORY: u64 = 12 << 20;

/// A tree is gone within a second; that many at once, on a machine with few processors, may take longer.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// The server that is ill.
const ILL: usize = 0;

/// What the script does to the ill server before it calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Kill,
    Stop,
    CrashReading,
    CrashWriting,
}

/// One call of the plan.
#[derive(Debug, Clone)]
struct Step {
    server: usize,
    fault: Fault,
}

/// A session and its eight servers.
struct Desk {
    servers: Vec<Server>,
    codex: Codex,
    plan: Vec<Step>,
    done: mpsc::Receiver<Seen>,
}

fn plan(random: &Rng) -> Vec<Step> {
    let faults = [Fault::None, Fault::Kill, Fault::Stop, Fault::CrashReading, Fault::CrashWriting];
    let below = |limit: usize| usize::try_from(random.next_u64() % limit as u64).unwrap_or(0);
    (0..CALLS)
        .map(|number| {
            // Each server often, the ill one oftener.
            let server = if number % 3 == 0 { ILL } else { below(SERVERS) };
            let fault = if server == ILL { faults[below(faults.len())] } else { Fault::None };
            Step { server, fault }
        })
        .collect()
}

fn say(number: usize, step: &Step, servers: &[Handle]) -> Say {
    let name = format!("s{}", step.server);
    let server = &servers[step.server];
    match step.fault {
        Fault::None => Say::call(&name, "whoami", ""),
        Fault::Kill => {
            processes::kill(server.pid());
            Say::call(&name, "whoami", "")
        }
        Fault::Stop => {
            processes::signal(server.pid(), Signal::STOP);
            Say::call(&name, "whoami", "")
        }
        Fault::CrashReading => {
            server.vice("die-before", "");
            Say::call(&name, "flaky", "")
        }
        Fault::CrashWriting => {
            server.vice("die-after", "");
            Say::call(&name, "append", &number.to_string())
        }
    }
}

impl Desk {
    fn new(home: &Home, random: &Rng, together: Arc<Barrier>) -> Self {
        let servers: Vec<Server> = (0..SERVERS).map(|_| Server::new(&["--litter", "--ignore-eof"])).collect();
        let handles: Vec<Handle> = servers.iter().map(Server::handle).collect();
        let plan = plan(random);
        let (tell, done) = mpsc::channel();
        let (mut turn, steps) = (0, plan.clone());
        let model = Model::new(move |seen| {
            if turn == 0 {
                together.wait();
            }
            turn += 1;
            if let Some(step) = steps.get(turn - 1) {
                return say(turn, step, &handles);
            }
            // The session stays as it is until it is killed.
            let _ = tell.send(seen.clone());
            thread::sleep(PATIENCE * 2);
            Say::Done
        });
        let options = format!(
            "startup_timeout_sec = 30\ntool_timeout_sec = 30\nenv = {{ HMS_HOME = {:?} }}",
            text(home.path())
        );
        let tables = servers.iter().enumerate().map(|(number, server)| {
            // The ill one may be restarted as often as it dies; the limit is what other tests look at.
            let command = wrapped(&["--hang-timeout", "400ms", "--max-restarts", "0"], server.command());
            server_table(&format!("s{number}"), &command, &options)
        });
        let codex = Codex::new(model, &tables.collect::<String>());
        Self { servers, codex, plan, done }
    }

    /// The seven that are well did not notice; the ill one lost nothing that it may not lose.
    fn check(&self, seen: &Seen) {
        assert_eq!(seen.outputs.len(), CALLS);
        for (number, (step, output)) in self.plan.iter().zip(&seen.outputs).enumerate() {
            let (number, text) = (number + 1, &output.text);
            let well = match (step.server, step.fault) {
                (ILL, Fault::None | Fault::Kill | Fault::Stop) => text.contains("life "),
                (ILL, Fault::CrashReading) => text.contains("survived in life "),
                (ILL, Fault::CrashWriting) => !text.contains("Transport closed"),
                _ => text.contains("life 1 "),
            };
            assert!(well, "call {number}, {step:?}: {output:?}");
        }
        for (number, server) in self.servers.iter().enumerate() {
            let lives = server.handle().lives().len();
            assert!(number == ILL || lives == 1, "server {number} had {lives} lives");
        }
        let mut appended = self.servers[ILL].handle().lines("appended");
        let writes = self.plan.iter().filter(|step| step.fault == Fault::CrashWriting).count();
        assert_eq!(appended.len(), writes, "each was written once, none was sent again");
        appended.dedup();
        assert_eq!(appended.len(), writes);
    }

    fn left(&self) -> Vec<i32> {
        self.servers.iter().flat_map(|server| server.handle().left()).collect()
    }
}

/// Those of these processes that are `codex-hms mcp VERB …`.
fn of_verb(verb: &str, these: &[i32]) -> Vec<i32> {
    let is = |pid: &i32| processes::words(*pid).windows(2).any(|pair| pair == ["mcp", verb]);
    these.iter().copied().filter(is).collect()
}

/// What lives and names something in the home on its command line: guards, a host.
fn of_home(home: &Home) -> Vec<i32> {
    let path = text(home.path());
    let names_it = |pid: &i32| {
        processes::words(*pid).iter().any(|word| word.starts_with(path)) && processes::lives(*pid)
    };
    processes::pids().filter(names_it).collect()
}

/// How much memory processes have, as a line.
fn memory(pids: &[i32]) -> String {
    let sum =
        |of: fn(i32) -> u64| pids.iter().map(|pid| of(*pid) / 1024).sum::<u64>() / pids.len().max(1) as u64;
    let (own, all) = (sum(processes::own_memory), sum(processes::memory));
    format!("{own} KiB of their own each ({all} KiB with the program's file, which they share)")
}

#[test]
fn the_well_do_not_notice_the_ill_and_nothing_is_left() {
    let seed = std::env::var("HMS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Rng::from_os().next_u64());
    println!("HMS_SEED={seed}");
    let (random, home) = (Rng::seeded(seed), Home::new());
    // A host, for the wrappers to tell.
    home.ok(&["agent", "list"]);
    let host = home.host();
    let together = Arc::new(Barrier::new(SESSIONS));
    let desks: Vec<Desk> = (0..SESSIONS).map(|_| Desk::new(&home, &random, Arc::clone(&together))).collect();
    let sessions: Vec<_> = desks.iter().map(|desk| desk.codex.start()).collect();
    for desk in &desks {
        let seen = desk.done.recv_timeout(PATIENCE * 3).expect("the session comes to its end");
        desk.check(&seen);
    }

    let all: Vec<i32> = desks.iter().flat_map(Desk::left).collect();
    // The host sees each of them, and which one is ill.
    let rows = home.json(&["agent", "list", "--type", "mcp-server"]);
    let rows = rows.as_array().expect("rows");
    assert_eq!(rows.len(), SESSIONS * SERVERS, "{rows:#?}");
    let restarted = rows.iter().filter(|row| row["restarts"] != 0).count();
    assert_eq!(restarted, SESSIONS, "{rows:#?}");

    let (wrappers, guards) = (of_verb("wrap", &all), of_verb("guard", &of_home(&home)));
    assert_eq!(wrappers.len(), SESSIONS * SERVERS, "a wrapper for each server");
    println!("{} wrappers: {}", wrappers.len(), memory(&wrappers));
    println!("{} guards: {}", guards.len(), memory(&guards));
    for pid in &wrappers {
        let own = processes::own_memory(*pid);
        assert!(own > 0 && own < OWN_MEMORY, "a wrapper has {} KiB of its own", own / 1024);
    }

    // Everything that could clean up after the others, in one go. What is left to the guards is a tree each.
    sessions.iter().map(Session::pid).chain(wrappers).chain([host]).for_each(|pid| {
        processes::kill(pid);
    });
    let begun = Instant::now();
    until("the end of all servers", ENDS_WITHIN, || {
        desks.iter().all(|desk| desk.left().is_empty()).then_some(())
    });
    println!("{} processes gone after {:?}", all.len(), begun.elapsed());
    until("the end of the guards", PATIENCE, || of_home(&home).is_empty().then_some(()));
}
