//! Every other platform: the same names, and each answers `Unsupported`.
//!
//! The types are uninhabited where only a call that fails could make one, so
//! that what needs one cannot be reached.

use std::convert::Infallible;
use std::io;

fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "not supported on this platform (HMS supervises processes on Linux)",
    ))
}

/// One process.
pub mod process {
    use super::{Infallible, io, unsupported};
    use crate::{Exit, Limit, ProcessId, Signal};
    use std::ffi::{OsStr, OsString};
    use std::path::Path;
    use std::time::Duration;

    /// What a child reads from.
    #[derive(Clone, Copy, Debug, Default)]
    pub enum Stdin<'a> {
        /// Nothing.
        #[default]
        Null,
        /// A FIFO.
        Fifo(&'a Path),
    }

    /// Where a child writes to.
    #[derive(Clone, Copy, Debug, Default)]
    pub enum Output<'a> {
        /// Nowhere.
        #[default]
        Null,
        /// The end of this file.
        Append(&'a Path),
    }

    /// A program to start.
    #[derive(Clone, Copy, Debug)]
    pub struct Spawn<'a> {
        /// The program.
        pub program: &'a OsStr,
        /// Its arguments.
        pub args: &'a [OsString],
        /// Begin with an empty environment.
        pub clear_env: bool,
        /// Variables to set.
        pub env: &'a [(OsString, OsString)],
        /// The working directory.
        pub cwd: Option<&'a Path>,
        /// Standard input.
        pub stdin: Stdin<'a>,
        /// Standard output.
        pub stdout: Output<'a>,
        /// Standard error.
        pub stderr: Output<'a>,
        /// User and group.
        pub user: Option<(u32, u32)>,
        /// Resource limits: soft, hard.
        pub limits: &'a [(Limit, u64, u64)],
    }

    impl<'a> Spawn<'a> {
        /// This program, with nothing else said.
        pub fn new(program: &'a (impl AsRef<OsStr> + ?Sized)) -> Self {
            Spawn {
                program: program.as_ref(),
                args: &[],
                clear_env: false,
                env: &[],
                cwd: None,
                stdin: Stdin::Null,
                stdout: Output::Null,
                stderr: Output::Null,
                user: None,
                limits: &[],
            }
        }
        /// The file that would be started.
        pub fn check(&self) -> io::Result<std::path::PathBuf> {
            unsupported()
        }
    }

    /// A process; there is none here.
    #[derive(Debug)]
    pub struct Process(Infallible);

    #[allow(missing_docs)]
    impl Process {
        pub fn spawn(_spawn: &Spawn<'_>) -> io::Result<Process> {
            unsupported()
        }
        pub fn adopt(_id: &ProcessId) -> io::Result<Option<Process>> {
            unsupported()
        }
        pub fn pid(&self) -> i32 {
            match self.0 {}
        }
        pub fn id(&self) -> ProcessId {
            match self.0 {}
        }
        pub fn is_ours(&self) -> bool {
            match self.0 {}
        }
        pub async fn wait(&self) -> io::Result<Exit> {
            match self.0 {}
        }
        pub fn wait_timeout(&self, _timeout: Duration) -> io::Result<Option<Exit>> {
            match self.0 {}
        }
        pub fn has_ended(&self) -> bool {
            match self.0 {}
        }
        pub fn signal(&self, _signal: Signal) -> io::Result<bool> {
            match self.0 {}
        }
        pub fn signal_group(&self, _signal: Signal) -> io::Result<bool> {
            match self.0 {}
        }
        pub fn usage(&self) -> Option<Usage> {
            match self.0 {}
        }
    }

    /// What a process uses.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Usage {
        /// Resident memory, in bytes.
        pub rss_bytes: u64,
        /// CPU time.
        pub cpu_time: Duration,
        /// Threads.
        pub threads: u32,
        /// The kernel's letter.
        pub state: char,
    }

    /// What several processes use together.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TreeUsage {
        /// Resident memory, in bytes.
        pub rss_bytes: u64,
        /// CPU time.
        pub cpu_time: Duration,
        /// Threads.
        pub threads: u32,
        /// Processes.
        pub processes: u32,
    }

    /// Always `None`.
    pub fn usage(_pid: i32) -> Option<Usage> {
        None
    }

    /// Always nothing.
    pub fn tree_usage(_pids: impl IntoIterator<Item = i32>) -> TreeUsage {
        TreeUsage::default()
    }
}

/// Control groups: none here.
pub mod cgroup {
    use super::{Infallible, io};
    use std::path::Path;

    /// A control group; there is none here.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Cgroup(Infallible);

    #[allow(missing_docs)]
    impl Cgroup {
        pub fn create(_name: &str) -> Option<Cgroup> {
            None
        }
        pub fn open(_path: &Path) -> Option<Cgroup> {
            None
        }
        pub fn path(&self) -> &Path {
            match self.0 {}
        }
        pub fn add(&self, _pid: i32) -> io::Result<()> {
            match self.0 {}
        }
        pub fn kill(&self) -> io::Result<()> {
            match self.0 {}
        }
        pub fn pids(&self) -> Vec<i32> {
            match self.0 {}
        }
        pub fn remove(&self) -> io::Result<()> {
            match self.0 {}
        }
    }
}

/// The processes of this user: none can be seen.
pub mod list {
    use super::{io, unsupported};
    use crate::{ProcessId, Token};
    use std::ffi::OsString;
    use std::path::PathBuf;

    /// A process.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Listed {
        /// Who it is.
        pub id: ProcessId,
        /// Its parent's pid.
        pub ppid: i32,
        /// Its session.
        pub session: i32,
        /// The state's letter.
        pub state: char,
        /// The program and its arguments.
        pub argv: Vec<OsString>,
        /// The file it runs.
        pub program: Option<PathBuf>,
        /// The token it carries.
        pub token: Option<Token>,
    }

    #[allow(missing_docs)]
    impl Listed {
        pub fn is_zombie(&self) -> bool {
            false
        }
        pub fn is_stopped(&self) -> bool {
            false
        }
    }

    #[allow(missing_docs)]
    pub fn variable(_id: &ProcessId, _name: &str) -> Option<OsString> {
        None
    }

    #[allow(missing_docs)]
    pub fn list() -> io::Result<Vec<Listed>> {
        unsupported()
    }
}

/// Process trees: none is ever found.
pub mod tree {
    pub use super::cgroup::Cgroup;
    use crate::ProcessId;
    pub use crate::token::{Incarnations, Token};
    use std::path::Path;

    /// A process that carries a token.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Tagged {
        /// Who it is.
        pub id: ProcessId,
        /// Its parent's pid.
        pub ppid: i32,
        /// Its process group.
        pub pgid: i32,
        /// Its session.
        pub session: i32,
        /// The token it carries.
        pub token: Token,
    }

    /// What to end.
    #[derive(Clone, Copy, Debug)]
    pub struct KillTree<'a> {
        /// The home.
        pub home: &'a Path,
        /// The agent; `None`: every agent of the home.
        pub agent: Option<&'a str>,
        /// Which of its incarnations.
        pub incarnations: Incarnations,
        /// The process that was spawned.
        pub leader: Option<ProcessId>,
        /// The agent's cgroup.
        pub cgroup: Option<&'a Cgroup>,
    }

    /// What [`kill_tree`] did.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Report {
        /// Ended.
        pub killed: Vec<ProcessId>,
        /// Still there.
        pub survived: Vec<ProcessId>,
    }

    /// Always nothing.
    pub fn scan(_home: &Path) -> Vec<Tagged> {
        Vec::new()
    }

    /// Always nothing.
    pub fn descendants(_pid: i32) -> Vec<ProcessId> {
        Vec::new()
    }

    /// Does nothing.
    pub fn kill_tree(_target: &KillTree<'_>) -> Report {
        Report::default()
    }

    /// Does nothing.
    pub fn kill_trees(_targets: &[KillTree<'_>]) -> Report {
        Report::default()
    }

    /// Always nothing.
    pub fn stragglers(_targets: &[KillTree<'_>]) -> Vec<ProcessId> {
        Vec::new()
    }
}

/// Files.
#[allow(missing_docs)]
pub mod files {
    use super::{Infallible, io, unsupported};
    use std::fs::File;
    use std::path::Path;

    /// The lock of a home; there is none here.
    #[derive(Debug)]
    pub struct HomeLock(#[allow(dead_code)] Infallible);

    impl HomeLock {
        pub fn try_acquire(_path: &Path) -> io::Result<Option<HomeLock>> {
            unsupported()
        }
    }

    pub fn lent(_number: i32) -> io::Result<File> {
        unsupported()
    }
    pub fn append(_path: &Path) -> io::Result<File> {
        unsupported()
    }
    pub fn punch_head(_file: &File, _upto: u64) -> io::Result<u64> {
        unsupported()
    }
    pub fn data_start(_file: &File) -> io::Result<u64> {
        unsupported()
    }
    pub fn write_private(_path: &Path, _bytes: &[u8]) -> io::Result<()> {
        unsupported()
    }
    pub fn mkfifo(_path: &Path) -> io::Result<()> {
        unsupported()
    }
    pub fn open_fifo_writer(_path: &Path) -> io::Result<File> {
        unsupported()
    }
}

/// File changes.
pub mod watch {
    use super::{Infallible, io, unsupported};
    use std::path::Path;

    /// A watched file.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub struct WatchId(#[allow(dead_code)] i32);

    /// What happened to one watched file.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Change {
        /// Which one.
        pub watch: WatchId,
        /// Its content changed.
        pub modified: bool,
        /// Of a folder: its entries changed.
        pub entries: bool,
        /// Its mode, owner or link count changed.
        pub metadata: bool,
        /// It is gone.
        pub gone: bool,
    }

    /// What [`FileWatch::changed`] answers.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Changes {
        /// These changed.
        Files(Vec<Change>),
        /// Check all files.
        Overflow,
    }

    /// A set of watched files; there is none here.
    #[derive(Debug)]
    pub struct FileWatch(Infallible);

    #[allow(missing_docs)]
    impl FileWatch {
        pub fn new() -> io::Result<Self> {
            unsupported()
        }
        pub fn add(&self, _path: &Path) -> io::Result<WatchId> {
            match self.0 {}
        }
        pub fn remove(&self, _watch: WatchId) {
            match self.0 {}
        }
        pub async fn changed(&self) -> io::Result<Changes> {
            match self.0 {}
        }
    }
}

/// The host.
#[allow(missing_docs)]
pub mod host {
    use super::{io, unsupported};
    use crate::BootId;
    use std::path::{Path, PathBuf};

    /// The longest name of a socket in the runtime directory.
    pub const SOCKET_NAME: usize = 32;

    /// Who is on the other end of a local socket.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PeerCredentials {
        /// Its pid.
        pub pid: i32,
        /// Its user.
        pub uid: u32,
        /// Its group.
        pub gid: u32,
    }

    pub fn boot_id() -> BootId {
        BootId::default()
    }
    pub fn raise_nofile() -> Option<(u64, u64)> {
        None
    }
    pub fn trim_code() -> usize {
        0
    }
    pub fn detach() -> io::Result<()> {
        unsupported()
    }
    pub fn peer_credentials<S>(_socket: S) -> io::Result<PeerCredentials> {
        unsupported()
    }
    pub fn own_uid() -> u32 {
        0
    }
    pub fn default_runtime_dir(_home: &Path) -> io::Result<PathBuf> {
        unsupported()
    }
}
