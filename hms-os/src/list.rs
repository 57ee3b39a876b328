//! Every process of this user, as a doctor wants to see them: who it is, whose child, what it was started as.
//!
//! One pass over `/proc`. Nothing is asked of the processes themselves: no signal, no byte.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::{fs, io};

use crate::TOKEN_VARIABLE;
use crate::identity::ProcessId;
use crate::procfs::{self, Stat};
use crate::token::Token;

/// A process, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Who it is.
    pub id: ProcessId,
    /// Its parent's pid.
    pub ppid: i32,
    /// Its session.
    pub session: i32,
    /// The state's letter of proc(5): `R`, `S`, `D`, `T`, `Z` …
    pub state: char,
    /// The program and its arguments; empty for a zombie.
    pub argv: Vec<OsString>,
    /// The file it runs; `None` when that cannot be told. A file that was replaced or removed since ends in
    /// ` (deleted)`.
    pub program: Option<PathBuf>,
    /// The token it carries, if it belongs to an agent of some home.
    pub token: Option<Token>,
}

impl Listed {
    /// Whether it has ended and waits for its parent to take notice.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether it is stopped, by a signal or a debugger.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Every process of the user that this process runs as, in no order.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn list() -> io::Result<Vec<Listed>> {
    fs::read_dir("/proc")?;
    let own = crate::host::own_uid();
    let mut buffer = Vec::new();
    let mut found = Vec::new();
    procfs::each(|stat| {
        if !stat.is_kernel_thread() && owner(stat.pid) == Some(own) {
            found.push(listed(&stat, &mut buffer));
        }
    });
    Ok(found)
}

/// The value of a variable in the environment that this very process was started with; `None` when it is not there,
/// may not be read, or the process is gone.
pub fn variable(id: &ProcessId, name: &str) -> Option<OsString> {
    id.stat()?;
    let mut buffer = Vec::new();
    procfs::environment_value(id.pid, name, &mut buffer).map(OsStr::to_owned)
}

fn listed(stat: &Stat, buffer: &mut Vec<u8>) -> Listed {
    let token = procfs::environment_value(stat.pid, TOKEN_VARIABLE, buffer).and_then(Token::parse);
    Listed {
        id: ProcessId::from_stat(stat),
        ppid: stat.ppid,
        session: stat.session,
        state: stat.state,
        argv: argv(stat.pid),
        program: fs::read_link(format!("/proc/{}/exe", stat.pid)).ok(),
        token,
    }
}

fn owner(pid: i32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|folder| folder.uid())
}

fn argv(pid: i32) -> Vec<OsString> {
    let mut bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    // Each argument ends with a NUL.
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|b| *b == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_among_them() {
        let own = std::process::id() as i32;
        let all = list().expect("/proc");
        let this = all.iter().find(|p| p.id.pid == own).expect("it runs");
        assert_eq!(this.id, ProcessId::of(own).expect("it runs"));
        assert_eq!(this.program.as_deref(), std::env::current_exe().ok().as_deref());
        assert_eq!(this.argv, std::env::args_os().collect::<Vec<_>>());
        assert!(!this.is_zombie() && !this.is_stopped());
        assert_eq!(variable(&this.id, "PATH"), std::env::var_os("PATH"));
        assert_eq!(variable(&this.id, "HMS_NO_SUCH_VARIABLE"), None);
    }
}
