//! HMS and the operating system: processes, process trees, files, locks.
//!
//! This is the one place where HMS talks to the operating system about what
//! lives longer than a function call. The kernel (`hms-core`) forbids unsafe
//! code and knows no `/proc`; everything it needs to know about a process, it
//! asks here.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`identity`] | who a process is: boot id + pid + start time, never a bare pid |
//! | [`exit`] | how a process ended; signals and resource limits by name |
//! | [`process`] | spawn, adopt, signal, wait (pidfd) and measure one process |
//! | [`tree`] | everything that descends from an agent: find it, end it |
//! | [`cgroup`] | a control group of one's own, where one is delegated |
//! | [`files`] | logs, locks, FIFOs, private files |
//! | [`fork`] | what the child of a fork must close |
//! | [`list`] | every process of this user, to look at |
//! | [`watch`] | file changes by inotify |
//! | [`host`] | what only a dedicated host may do, and the runtime directory |
//!
//! # A guest in its process
//!
//! libhms is embedded in other people's programs. Nothing here installs a
//! signal handler, uses SIGCHLD, sets the subreaper flag, waits for a process
//! that it did not spawn, or changes the environment, the working directory or
//! the umask. The exceptions are two functions of [`host`] that say so in their
//! documentation and are meant for a process that is nothing but a host.
//!
//! # Platforms
//!
//! Linux is complete (5.4 or later; exit codes of processes that somebody else
//! reaps need 6.15). Elsewhere the crate compiles and each function that would
//! touch the operating system answers [`std::io::ErrorKind::Unsupported`].

#![deny(unsafe_code)]

pub mod exit;
pub mod identity;
pub mod token;

#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(target_os = "linux")]
pub mod files;
#[cfg(unix)]
pub mod fork;
#[cfg(target_os = "linux")]
pub mod host;
#[cfg(target_os = "linux")]
pub mod list;
#[cfg(target_os = "linux")]
mod pidfd;
#[cfg(target_os = "linux")]
pub mod process;
#[cfg(target_os = "linux")]
mod procfs;
#[cfg(target_os = "linux")]
mod readiness;
#[cfg(target_os = "linux")]
mod spawn;
#[cfg(target_os = "linux")]
pub mod tree;
#[cfg(target_os = "linux")]
pub mod watch;

#[cfg(not(target_os = "linux"))]
mod unsupported;
#[cfg(not(target_os = "linux"))]
pub use unsupported::{cgroup, files, host, list, process, tree, watch};

pub use cgroup::Cgroup;
pub use exit::{Exit, Limit, Signal};
pub use files::HomeLock;
pub use identity::{BootId, ProcessId};
pub use list::Listed;
pub use process::{Output, Process, Spawn, Stdin, TreeUsage, Usage, tree_usage, usage};
pub use token::{Incarnations, TOKEN_VARIABLE, Token};
pub use tree::{KillTree, Report, Tagged, descendants, kill_tree, kill_trees, scan, stragglers};
pub use watch::{Change, Changes, FileWatch, WatchId};
