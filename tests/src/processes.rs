//! What really runs: processes by the token in their environment, and signals to them.

use std::{fs, path::Path, time::Duration};

use hms_core::os::token::{TOKEN_VARIABLE, Token};
use rustix::process::{Pid, Signal};

/// A process that carries a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// Its pid.
    pub pid: i32,
    /// The agent's id.
    pub agent: String,
    /// Which life of the agent.
    pub incarnation: u64,
}

/// All living processes (zombies do not count) that carry a token of `home`, by pid.
pub fn of(home: &Path) -> Vec<Tagged> {
    let mut found: Vec<Tagged> = pids().filter_map(|pid| tagged(home, pid)).collect();
    found.sort_by_key(|t| t.pid);
    found
}

/// The hosts of `home`: processes that run `system run … <home>`.
pub fn hosts(home: &Path) -> Vec<i32> {
    let home = home.as_os_str().as_encoded_bytes();
    let is_host = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        words.windows(2).any(|w| w == [b"system".as_slice(), b"run"]) && words.contains(&home) && lives(*pid)
    };
    pids().filter(is_host).collect()
}

/// Whether there is such a process, and it is no zombie. A process that is killed is a zombie by its first
/// thread while others still hold its files and locks: it lives until the last thread is gone.
pub fn lives(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.map(|t| t.path().join("stat")).any(|stat| state(&stat).is_some_and(|s| s != 'Z' && s != 'X'))
}

/// Whether every thread of a process is stopped. A signal that stops is on its way for a moment after `kill`
/// returned, and what runs may still answer then.
pub fn is_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut states = threads.map(|t| state(&t.path().join("stat"))).peekable();
    states.peek().is_some() && states.all(|state| state == Some('T'))
}

/// The state letter of a `stat` file.
fn state(stat: &Path) -> Option<char> {
    fs::read_to_string(stat).ok()?.rsplit(") ").next()?.chars().next()
}

/// CPU time that a process has used.
pub fn cpu_time(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Resident memory of a process, in bytes.
pub fn memory(pid: i32) -> u64 {
    memory_line(pid, "VmRSS:")
}

/// Resident memory that is a process's alone, in bytes: not the program's file, which all its processes share.
pub fn own_memory(pid: i32) -> u64 {
    memory_line(pid, "RssAnon:")
}

fn memory_line(pid: i32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// The words of a process's command line.
pub fn words(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// kill -9. Whether there was such a process.
pub fn kill(pid: i32) -> bool {
    signal(pid, Signal::KILL)
}

/// Sends a signal. Whether there was such a process.
pub fn signal(pid: i32, signal: Signal) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
}

/// Every pid there is.
pub fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn tagged(home: &Path, pid: i32) -> Option<Tagged> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{TOKEN_VARIABLE}=");
    let value = environ.split(|b| *b == 0).find_map(|v| v.strip_prefix(prefix.as_bytes()))?;
    let token = Token::parse(std::str::from_utf8(value).ok()?.as_ref())?;
    (token.home == home && lives(pid)).then_some(Tagged {
        pid,
        agent: token.agent,
        incarnation: token.incarnation,
    })
}
