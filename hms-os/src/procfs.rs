//! Reading `/proc`: one process's `stat`, its environment, and the list of all.
//!
//! Kept apart because the format has traps (a command name may contain spaces
//! and parentheses) and because a scan reads it thousands of times: `stat` goes
//! into a buffer on the stack, the environment into one that is used again.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::io::Errno;
use rustix::param::{clock_ticks_per_second, page_size};

/// The kernel's flag for its own threads (`PF_KTHREAD`).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// How often the environment of a process that is in an exec is looked at, and
/// how long to pause between: an exec takes far less than a millisecond unless
/// the disk is slow.
const EXEC_LOOKS: u32 = 50;
const EXEC_PAUSE: Duration = Duration::from_micros(200);
/// How often one pass reads the list of processes at most.
const MAX_ROUNDS: usize = 8;

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Debug)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    pub(crate) state: char,
    pub(crate) ppid: i32,
    pub(crate) pgid: i32,
    pub(crate) session: i32,
    pub(crate) threads: u32,
    pub(crate) start_time: u64,
    /// The wait status, which a zombie still has; 0 also when we may not see it.
    pub(crate) exit_status: i32,
    /// Where its environment ends in its memory; 0 while there is none.
    environment_end: u64,
    flags: u64,
    cpu_ticks: u64,
    rss_pages: u64,
}

impl Stat {
    /// Read it; `None` when there is no such process, or it cannot be looked at.
    pub(crate) fn read(pid: i32) -> Option<Self> {
        Self::look(pid).ok().flatten()
    }

    /// Read it; `None` when there is no such process. An error when that cannot
    /// be told, for want of a descriptor above all.
    pub(crate) fn look(pid: i32) -> io::Result<Option<Self>> {
        match Self::try_read(pid) {
            Ok(stat) => Ok(Some(stat)),
            // The second when it ends between the opening and the reading.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn try_read(pid: i32) -> io::Result<Self> {
        let mut file = File::open(format!("/proc/{pid}/stat"))?;
        // 52 numbers of at most 20 digits and a name of at most 64 bytes.
        let mut buffer = [0u8; 2048];
        let mut length = 0;
        while length < buffer.len() {
            match file.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Self::parse(&buffer[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        // The name stands in parentheses and may contain some itself: what
        // counts is the last one that closes.
        let open = bytes.iter().position(|b| *b == b'(')?;
        let close = bytes.iter().rposition(|b| *b == b')')?;
        let pid = std::str::from_utf8(&bytes[..open]).ok()?.trim();
        let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;

        // Numbered as in proc(5), where the state is field 3.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |n: usize| field(n).and_then(|text| text.parse::<u64>().ok());
        let signed = |n: usize| field(n).and_then(|text| text.parse::<i32>().ok());
        Some(Stat {
            pid: pid.parse().ok()?,
            state: field(3)?.chars().next()?,
            ppid: signed(4)?,
            pgid: signed(5)?,
            session: signed(6)?,
            flags: number(9)?,
            cpu_ticks: number(14)? + number(15)?,
            threads: number(20)? as u32,
            start_time: number(22)?,
            rss_pages: number(24).unwrap_or(0),
            environment_end: number(51).unwrap_or(0),
            exit_status: signed(52).unwrap_or(0),
        })
    }

    /// Whether nothing of it runs any more. A zombie whose other threads still
    /// run (the main thread left early) is alive.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x') && self.threads <= 1
    }

    pub(crate) fn is_kernel_thread(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        let hertz = clock_ticks_per_second().max(1);
        let nanos = u128::from(self.cpu_ticks) * 1_000_000_000 / u128::from(hertz);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(crate) fn rss_bytes(&self) -> u64 {
        self.rss_pages.saturating_mul(page_size() as u64)
    }
}

/// Show every process once, as soon as it is read. Says whether the view is
/// complete.
///
/// A process that ends between listing and reading may have handed itself on to
/// a new one that is not in the list. So the list is read again until it names
/// nobody new: then each process that ran at that moment has been shown. On a
/// machine that never stops forking this gives up after a few rounds.
pub(crate) fn each(mut visit: impl FnMut(Stat)) -> bool {
    let mut seen = HashSet::new();
    for _ in 0..MAX_ROUNDS {
        let fresh: Vec<i32> = pids().filter(|pid| seen.insert(*pid)).collect();
        if fresh.is_empty() {
            return true;
        }
        fresh.into_iter().filter_map(Stat::read).for_each(&mut visit);
    }
    false
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The value of `variable` in the environment that `pid` was started with,
/// borrowed from `buffer`. `None` when it is not there or may not be read.
pub(crate) fn environment_value<'b>(pid: i32, variable: &str, buffer: &'b mut Vec<u8>) -> Option<&'b OsStr> {
    for _ in 0..EXEC_LOOKS {
        buffer.clear();
        File::open(format!("/proc/{pid}/environ")).ok()?.read_to_end(buffer).ok()?;
        if !buffer.is_empty() || !is_in_exec(pid) {
            break;
        }
        std::thread::sleep(EXEC_PAUSE);
    }
    buffer
        .split(|b| *b == 0)
        .find_map(|entry| entry.strip_prefix(variable.as_bytes())?.strip_prefix(b"="))
        .map(OsStr::from_bytes)
}

/// In the middle of an exec a process has no environment: the old one is gone,
/// and the new one not yet in place. It then has no place for one either, other
/// than a process that was started with an empty environment.
fn is_in_exec(pid: i32) -> bool {
    Stat::read(pid)
        .is_some_and(|stat| stat.environment_end == 0 && !stat.is_dead() && !stat.is_kernel_thread())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_read() {
        let mut line = b"42 (a) b) (c) S 7 8 9 0 -1 4194304".to_vec();
        for n in 10..=52 {
            line.extend_from_slice(format!(" {n}").as_bytes());
        }
        let stat = Stat::parse(&line).expect("stat");
        assert_eq!((stat.pid, stat.state, stat.ppid), (42, 'S', 7));
        assert_eq!((stat.pgid, stat.session), (8, 9));
        assert_eq!((stat.threads, stat.start_time), (20, 22));
        assert_eq!((stat.cpu_ticks, stat.rss_pages), (29, 24));
        assert_eq!(stat.exit_status, 52);
        assert!(!stat.is_dead() && !stat.is_kernel_thread());
    }

    #[test]
    fn this_process_is_found() {
        let pid = std::process::id() as i32;
        let stat = Stat::read(pid).expect("own stat");
        assert_eq!(stat.pid, pid);
        assert!(stat.rss_bytes() > 0 && stat.threads > 0);
        let mut pids = Vec::new();
        each(|stat| pids.push(stat.pid));
        assert!(pids.contains(&pid));
        let shown = pids.len();
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(pids.len(), shown, "nobody is shown twice");
    }
}
