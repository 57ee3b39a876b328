//! Who a process is.
//!
//! A pid alone names nobody: pids are reused, and after a reboot they begin
//! again. A [`ProcessId`] adds the start time that the kernel keeps and the id
//! of the boot, and so names one process for good. It is what the store
//! remembers and what adoption, signals and tree kills check before they act.

use std::fmt;
use std::io;
use std::str::FromStr;

/// One boot of the machine (`/proc/sys/kernel/random/boot_id`).
///
/// Zero where the system does not tell; it then equals only itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(pub u128);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            n >> 96,
            (n >> 80) & 0xffff,
            (n >> 64) & 0xffff,
            (n >> 48) & 0xffff,
            n & 0xffff_ffff_ffff
        )
    }
}

impl FromStr for BootId {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid(format!("'{text}' is not a boot id (a UUID)")));
        }
        u128::from_str_radix(&digits, 16)
            .map(BootId)
            .map_err(|e| invalid(format!("'{text}' is not a boot id: {e}")))
    }
}

/// One process, for good: pid, start time and boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// The pid, in the pid namespace of this process.
    pub pid: i32,
    /// When it started, in clock ticks after boot (`/proc/<pid>/stat`, field
    /// 22). Zero when the process was gone before it could be asked.
    pub start_time: u64,
    /// The boot in which it started.
    pub boot_id: BootId,
}

impl ProcessId {
    /// The identity as one line of text, `<pid> <start time> <boot id>`: the
    /// form in which it is stored. [`ProcessId::parse`] reads it.
    pub fn to_line(&self) -> String {
        self.to_string()
    }

    /// Read what [`ProcessId::to_line`] wrote.
    ///
    /// # Errors
    /// `InvalidData` when the text has another shape.
    pub fn parse(line: &str) -> io::Result<Self> {
        line.parse()
    }
}

#[cfg(target_os = "linux")]
impl ProcessId {
    /// The identity of the process that has this pid now, a zombie included.
    /// `None` when there is none.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = crate::procfs::Stat::read(pid)?;
        Some(Self::from_stat(&stat))
    }

    /// Whether this very process still runs: same boot, same start time, and
    /// more than a zombie. `false` also when it cannot be looked at; where that
    /// would do harm, [`Process::adopt`](crate::Process::adopt) tells the two apart.
    pub fn is_alive(&self) -> bool {
        self.stat().is_some_and(|stat| !stat.is_dead())
    }

    pub(crate) fn from_stat(stat: &crate::procfs::Stat) -> Self {
        ProcessId { pid: stat.pid, start_time: stat.start_time, boot_id: crate::host::boot_id() }
    }

    /// What `/proc` says of this very process; `None` when it is gone or its
    /// pid belongs to another by now.
    pub(crate) fn stat(&self) -> Option<crate::procfs::Stat> {
        self.look().ok().flatten()
    }

    /// The same; an error when `/proc` cannot be asked, which says nothing about
    /// the process.
    pub(crate) fn look(&self) -> io::Result<Option<crate::procfs::Stat>> {
        if self.boot_id != crate::host::boot_id() {
            return Ok(None);
        }
        let stat = crate::procfs::Stat::look(self.pid)?;
        Ok(stat.filter(|stat| stat.start_time == self.start_time))
    }
}

#[cfg(not(target_os = "linux"))]
impl ProcessId {
    /// Always `None`: not supported on this platform.
    pub fn of(_pid: i32) -> Option<Self> {
        None
    }

    /// Always `false`: not supported on this platform.
    pub fn is_alive(&self) -> bool {
        false
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.pid, self.start_time, self.boot_id)
    }
}

impl FromStr for ProcessId {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let mut words = line.split_whitespace();
        let (Some(pid), Some(start), Some(boot), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(invalid(format!(
                "'{line}' is not a process identity ('<pid> <start time> <boot id>')"
            )));
        };
        let pid: i32 = pid
            .parse()
            .ok()
            .filter(|pid| *pid > 0)
            .ok_or_else(|| invalid(format!("'{pid}' is not a pid")))?;
        let start_time =
            start.parse().map_err(|_| invalid(format!("'{start}' is not a start time in clock ticks")))?;
        Ok(ProcessId { pid, start_time, boot_id: boot.parse()? })
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_its_text() {
        let id = ProcessId {
            pid: 4711,
            start_time: 987_654_321,
            boot_id: "0a1b2c3d-0001-4002-8003-0000deadbeef".parse().expect("uuid"),
        };
        assert_eq!(id.to_line(), "4711 987654321 0a1b2c3d-0001-4002-8003-0000deadbeef");
        assert_eq!(ProcessId::parse(&id.to_line()).expect("parse"), id);
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "1",
            "1 2",
            "0 2 0a1b2c3d-0001-4002-8003-0000deadbeef",
            "1 2 nonsense",
            "1 2 0a1b2c3d-0001-4002-8003-0000deadbeef 4",
        ] {
            assert!(ProcessId::parse(text).is_err(), "{text:?}");
        }
    }
}
