//! Crash → respawn: from the `kill -9` of a child to the first line of the next one, under HMS and under a bare
//! posix_spawn + waitpid loop, in turns; and what the host holds in memory with 100 children.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Sample;
use crate::{Outcome, root};

const ROUNDS: usize = 400;
const BLOCK: usize = 20;
const CHILDREN: usize = 100;
type Any = Box<dyn std::error::Error>;

pub(super) fn run(args: &[String]) -> Outcome {
    let rounds = match args.iter().position(|a| a == "--rounds") {
        Some(at) => args.get(at + 1).ok_or("--rounds takes a number")?.parse()?,
        None => ROUNDS,
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "codex-hms"])
        .status()?;
    if !status.success() {
        return Err("codex-hms does not build".into());
    }
    let dir = tempfile::tempdir()?;
    let hms = Hms::start(dir.path())?;
    let (bare_times, hms_times) = measure(dir.path(), &hms, rounds)?;
    let (bare, ours) = (Sample::new(bare_times), Sample::new(hms_times));
    println!("crash → respawn, {rounds} rounds each, in turns");
    println!("{:>6} {:>12} {:>12} {:>8}", "", "bare", "hms", "ratio");
    for (name, part) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let (b, o) = (bare.quantile(part), ours.quantile(part));
        let ratio = o.as_secs_f64() / b.as_secs_f64();
        println!("{name:>6} {:>9.3} ms {:>9.3} ms {ratio:>7.2}x", ms(b), ms(o));
    }
    memory(&hms)
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// What both supervisors run: says its pid, then waits.
fn child(fifo: &Path) -> [String; 3] {
    ["sh".into(), "-c".into(), format!("echo $$ >{}; exec sleep 1000", fifo.display())]
}

fn measure(dir: &Path, hms: &Hms, rounds: usize) -> Result<(Vec<Duration>, Vec<Duration>), Any> {
    let mut bare = Reports::new(dir.join("bare"))?;
    let mut ours = Reports::new(dir.join("hms"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let looping = {
        let (stop, command) = (stop.clone(), child(&bare.fifo));
        thread::spawn(move || bare_loop(&command, &stop))
    };
    let mut bare_pid = bare.next()?;
    let command = child(&ours.fifo);
    hms.cli(&[
        "agent",
        "create",
        "process",
        "--name",
        "bench",
        "--restart-intensity-max",
        "0",
        "--restart-backoff-initial",
        "0s",
        "--",
        &command[0],
        &command[1],
        &command[2],
    ])?;
    let mut hms_pid = ours.next()?;
    let (mut bare_times, mut hms_times) = (Vec::new(), Vec::new());
    while hms_times.len() < rounds {
        for _ in 0..BLOCK {
            bare_times.push(crash(&mut bare, &mut bare_pid)?);
        }
        for _ in 0..BLOCK {
            hms_times.push(crash(&mut ours, &mut hms_pid)?);
        }
    }
    stop.store(true, Ordering::Release);
    kill_process(bare_pid, Signal::KILL)?;
    looping.join().map_err(|_| "the bare loop panicked")??;
    Ok((bare_times, hms_times))
}

/// Kills the child and waits for the next one's report. A pause first, so that each round begins at rest.
fn crash(reports: &mut Reports, pid: &mut Pid) -> Result<Duration, Any> {
    thread::sleep(Duration::from_millis(5));
    let begun = Instant::now();
    kill_process(*pid, Signal::KILL)?;
    *pid = reports.next()?;
    Ok(begun.elapsed())
}

/// The floor: std's posix_spawn, then waitpid, then again.
fn bare_loop(command: &[String; 3], stop: &AtomicBool) -> std::io::Result<()> {
    while !stop.load(Ordering::Acquire) {
        let mut child: Child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        child.wait()?;
    }
    Ok(())
}

/// The pids that children report through a FIFO.
struct Reports {
    fifo: PathBuf,
    lines: std::io::Lines<BufReader<File>>,
}

impl Reports {
    fn new(fifo: PathBuf) -> Result<Self, Any> {
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
        // For reading and writing: it never ends between two children.
        let file = File::options().read(true).write(true).open(&fifo)?;
        Ok(Self { fifo, lines: BufReader::new(file).lines() })
    }

    fn next(&mut self) -> Result<Pid, Any> {
        let line = self.lines.next().ok_or("the FIFO ended")??;
        Pid::from_raw(line.trim().parse()?).ok_or_else(|| "a pid of 0".into())
    }
}

fn memory(hms: &Hms) -> Outcome {
    let status: Value = serde_json::from_str(&hms.cli(&["system", "status", "--json"])?)?;
    let pid = status["host"]["pid"].as_u64().ok_or("no host pid")?;
    let before = resident(pid)?;
    for n in 0..CHILDREN {
        hms.cli(&["agent", "create", "process", "--name", &format!("child-{n}"), "--", "sleep", "1000"])?;
    }
    let after = resident(pid)?;
    println!("\nhost memory       {:>10} {:>10}", "1 child", "101");
    for (name, b, a) in [("resident", before.0, after.0), ("anonymous", before.1, after.1)] {
        println!(
            "{name:<12} {:>7} KiB {:>7} KiB   {:.1} KiB a child",
            b,
            a,
            (a - b) as f64 / CHILDREN as f64
        );
    }
    Ok(())
}

/// Resident and anonymous memory in KiB.
fn resident(pid: u64) -> Result<(i64, i64), Any> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<i64, Any> {
        let line = text.lines().find(|l| l.starts_with(name)).ok_or("no such field")?;
        Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
    };
    Ok((field("VmRSS:")?, field("RssAnon:")?))
}

/// A host on a home of its own, ended with this.
struct Hms {
    program: PathBuf,
    home: PathBuf,
}

impl Hms {
    fn start(dir: &Path) -> Result<Self, Any> {
        let hms = Self { program: root().join("target/release/codex-hms"), home: dir.join("home") };
        hms.cli(&["agent", "list"])?;
        Ok(hms)
    }

    fn cli(&self, args: &[&str]) -> Result<String, Any> {
        let output = Command::new(&self.program).env("HMS_HOME", &self.home).args(args).output()?;
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout)?);
        }
        std::io::stderr().write_all(&output.stderr)?;
        Err(format!("codex-hms {} failed", args.join(" ")).into())
    }
}

impl Drop for Hms {
    fn drop(&mut self) {
        if let Err(e) = self.cli(&["system", "stop"]) {
            eprintln!("the host could not be stopped: {e}");
        }
    }
}
