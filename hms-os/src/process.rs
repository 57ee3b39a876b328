//! One process: spawn it or adopt it, signal it, wait for its end, measure it.
//!
//! A [`Process`] is a pidfd together with a [`ProcessId`]. The pidfd refers to
//! one process for good, so that no signal ever reaches a stranger that got the
//! same pid, and it becomes readable when the process ends, so that nothing
//! polls. How it ended comes from `waitid(P_PIDFD)` for a child of ours and
//! from `PIDFD_GET_INFO` for every other.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::exit::{Exit, Signal};
use crate::identity::ProcessId;
use crate::procfs::Stat;
pub use crate::spawn::{Output, Spawn, Stdin};
use crate::{pidfd, readiness};

/// How long an ended process may stay unreaped by its parent before we report
/// its exit as unknown.
const REAP_PATIENCE: Duration = Duration::from_millis(200);

/// A process that we started or adopted.
///
/// Dropping it changes nothing for the process; an ended child of ours is
/// reaped then, a running one becomes a zombie of this process when it ends.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    ours: bool,
    /// `None` when the child was gone, reaped by somebody else, before it could
    /// be opened.
    pidfd: Option<OwnedFd>,
    exit: Mutex<Option<Exit>>,
}

/// What an ended process tells.
enum Told {
    Running,
    Exit(Exit),
    /// It has ended, but its parent has not reaped it, and the kernel does not
    /// yet say how.
    NotYet,
}

impl Process {
    /// Start a program. Returns when the exec has succeeded (blocks about a
    /// millisecond).
    ///
    /// # Errors
    /// `NotFound`: the program; `PermissionDenied`: it may not be executed;
    /// `NotADirectory`: the working directory. The message names the file. When
    /// a limit cannot be set, the child is killed and the error returned.
    pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Process> {
        let child = spawn.start()?;
        let pid = child.id() as i32;
        // Only the pid is kept: std's handle would reap behind our back. It has
        // no pipes, and dropping it neither kills nor waits.
        drop(child);

        let pidfd = match pidfd::open(pid) {
            Ok(pidfd) => Some(pidfd),
            // Its zombie has been swallowed by somebody's waitpid(-1).
            Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => None,
            Err(e) => {
                abandon(pid);
                return Err(e);
            }
        };
        let id = ProcessId::of(pid).filter(|_| pidfd.is_some()).unwrap_or(ProcessId {
            pid,
            start_time: 0,
            boot_id: crate::host::boot_id(),
        });
        let process = Process { id, ours: true, pidfd, exit: Mutex::new(None) };
        if let Err(e) = spawn.apply_limits(pid) {
            process.signal(Signal::KILL)?;
            process.wait_timeout(Duration::from_secs(5))?;
            return Err(e);
        }
        Ok(process)
    }

    /// Take over a process that an earlier host started. `None` when that very
    /// process no longer runs, whoever has its pid now.
    ///
    /// # Errors
    /// When it cannot be looked at or no pidfd can be opened (out of
    /// descriptors): whether it runs is not known then.
    pub fn adopt(id: &ProcessId) -> io::Result<Option<Process>> {
        let is_alive = || Ok::<_, io::Error>(id.look()?.is_some_and(|stat| !stat.is_dead()));
        if !is_alive()? {
            return Ok(None);
        }
        let pidfd = match pidfd::open(id.pid) {
            Ok(pidfd) => pidfd,
            Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(None),
            Err(e) => return Err(e),
        };
        // The pidfd names whoever has the pid now. If the identity still holds
        // after it was opened, that is the process we mean.
        if !is_alive()? {
            return Ok(None);
        }
        // A host that replaced itself, or a second system in the process that closed the first, adopts
        // its own children: nobody else would reap them.
        let ours = is_child(pidfd.as_fd());
        Ok(Some(Process { id: *id, ours, pidfd: Some(pidfd), exit: Mutex::new(None) }))
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.id.pid
    }

    /// Who it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it is a child of this process (and so reaped by it), rather than of init or another.
    pub fn is_ours(&self) -> bool {
        self.ours
    }

    /// Wait for its end. Must run on a tokio runtime with I/O and time.
    ///
    /// May be cancelled, called again, and called by several tasks at once; all
    /// get the same answer. An exit that nobody can tell is [`Exit::UNKNOWN`].
    ///
    /// # Errors
    /// When the pidfd cannot be watched (out of descriptors or memory).
    pub async fn wait(&self) -> io::Result<Exit> {
        let Some(pidfd) = &self.pidfd else {
            return Ok(self.settle(Exit::UNKNOWN));
        };
        if let Told::Exit(exit) = self.ask(pidfd.as_fd())? {
            return Ok(exit);
        }
        let watch = Watch::new(pidfd)?;
        let mut patience: Option<tokio::time::Instant> = None;
        loop {
            let news = watch.news();
            let reaped = match patience {
                None => news.await?,
                Some(until) => match tokio::time::timeout_at(until, news).await {
                    Ok(reaped) => reaped?,
                    Err(_) => return Ok(self.settle(Exit::UNKNOWN)),
                },
            };
            match self.ask(pidfd.as_fd())? {
                Told::Exit(exit) => return Ok(exit),
                // It will say no more.
                Told::NotYet if reaped => return Ok(self.settle(Exit::UNKNOWN)),
                Told::NotYet => {
                    patience.get_or_insert_with(|| tokio::time::Instant::now() + REAP_PATIENCE);
                }
                Told::Running => {}
            }
        }
    }

    /// Block until its end, at most this long; `None` when it still runs. For
    /// threads that may block; tasks use [`Process::wait`].
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<Exit>> {
        let Some(pidfd) = &self.pidfd else {
            return Ok(Some(self.settle(Exit::UNKNOWN)));
        };
        let started = Instant::now();
        loop {
            match self.ask(pidfd.as_fd())? {
                Told::Exit(exit) => return Ok(Some(exit)),
                Told::Running => {
                    let left = timeout.saturating_sub(started.elapsed());
                    if !pidfd::wait_dead(pidfd.as_fd(), left) {
                        return Ok(None);
                    }
                }
                Told::NotYet => {
                    pidfd::wait_reaped(pidfd.as_fd(), REAP_PATIENCE);
                    let exit = match self.ask(pidfd.as_fd())? {
                        Told::Exit(exit) => exit,
                        Told::Running | Told::NotYet => self.settle(Exit::UNKNOWN),
                    };
                    return Ok(Some(exit));
                }
            }
        }
    }

    /// Whether it has ended, without waiting.
    pub fn has_ended(&self) -> bool {
        self.known_exit().is_some() || self.pidfd.as_ref().is_none_or(|pidfd| pidfd::is_dead(pidfd.as_fd()))
    }

    /// Send it a signal. `false` when it had already ended.
    ///
    /// # Errors
    /// `PermissionDenied` when it runs as somebody else.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(pidfd) = &self.pidfd else {
            return Ok(false);
        };
        let sent = rustix::process::pidfd_send_signal(pidfd, to_rustix(signal)?);
        delivered(sent)
    }

    /// Send a signal to its process group: itself and the descendants that
    /// stayed in the group. `false` when it is gone; what it left is then a
    /// matter for [`crate::kill_tree`], because the group's number is only sure
    /// to be its own while it holds its pid.
    ///
    /// # Errors
    /// `PermissionDenied` when no member may be signalled.
    pub fn signal_group(&self, signal: Signal) -> io::Result<bool> {
        let leads = match self.id.look() {
            Ok(Some(stat)) => stat.pgid == self.id.pid,
            Ok(None) => return Ok(false),
            // It cannot be looked at; the pidfd reaches itself at least.
            Err(_) => false,
        };
        match Pid::from_raw(self.id.pid).filter(|_| leads) {
            // It moved to another group, which is not ours to signal.
            None => self.signal(signal),
            Some(group) => delivered(rustix::process::kill_process_group(group, to_rustix(signal)?)),
        }
    }

    /// What it uses now; `None` when it has ended.
    pub fn usage(&self) -> Option<Usage> {
        let stat = self.id.stat()?;
        (!stat.is_dead()).then(|| Usage::from_stat(&stat))
    }

    /// Ask for the exit. Holds the lock throughout, so that of several waiters
    /// one reaps and the others see what it found.
    fn ask(&self, pidfd: BorrowedFd<'_>) -> io::Result<Told> {
        let mut known = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exit) = *known {
            return Ok(Told::Exit(exit));
        }
        let told = self.ask_kernel(pidfd)?;
        if let Told::Exit(exit) = told {
            *known = Some(exit);
        }
        Ok(told)
    }

    fn ask_kernel(&self, pidfd: BorrowedFd<'_>) -> io::Result<Told> {
        if self.ours {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            match retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd), options)) {
                Ok(None) => return Ok(Told::Running),
                Ok(Some(status)) => {
                    return Ok(Told::Exit(Exit {
                        code: status.exit_status(),
                        signal: status.terminating_signal(),
                        core_dumped: status.dumped(),
                    }));
                }
                // Reaped by the embedding program, or no child of this process
                // any more (we are a fork of the one that spawned it).
                Err(Errno::CHILD) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if !pidfd::is_dead(pidfd) {
            return Ok(Told::Running);
        }
        let told = pidfd::reaped_exit(pidfd).or_else(|| self.exit_of_zombie());
        Ok(match told {
            Some(exit) => Told::Exit(exit),
            // It may have been reaped between the two looks: then the kernel tells it now.
            None if pidfd::is_reaped(pidfd) => Told::Exit(pidfd::reaped_exit(pidfd).unwrap_or(Exit::UNKNOWN)),
            None => Told::NotYet,
        })
    }

    /// A zombie shows its wait status in `/proc`, but shows 0 as well to those
    /// who may not see it; so 0 is believed only when we may see everything.
    fn exit_of_zombie(&self) -> Option<Exit> {
        let stat = self.id.stat().filter(Stat::is_dead)?;
        let believable = stat.exit_status != 0 || rustix::process::geteuid().is_root();
        believable.then(|| Exit::from_wait_status(stat.exit_status))
    }

    fn known_exit(&self) -> Option<Exit> {
        *self.exit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Give up asking: this is the answer from now on.
    fn settle(&self, exit: Exit) -> Exit {
        let mut known = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        *known.get_or_insert(exit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Leave no zombie behind if it has already ended.
        if let Some(pidfd) = self.pidfd.as_ref().filter(|_| self.ours)
            && self.known_exit().is_none()
        {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options);
        }
    }
}

/// Whether the process is a child of this one. Reaps nothing.
fn is_child(pidfd: BorrowedFd<'_>) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd), options)).is_ok()
}

/// A pidfd registered with the runtime, borrowed if it can be.
///
/// epoll takes a descriptor once; only a second waiter at the same time needs
/// a duplicate.
enum Watch<'a> {
    Borrowed(AsyncFd<BorrowedFd<'a>>),
    Duplicate(AsyncFd<OwnedFd>),
}

impl<'a> Watch<'a> {
    fn new(pidfd: &'a OwnedFd) -> io::Result<Self> {
        match readiness::readable(pidfd.as_fd()) {
            Ok(watch) => Ok(Watch::Borrowed(watch)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                readiness::readable(pidfd.try_clone()?).map(Watch::Duplicate)
            }
            Err(e) => Err(e),
        }
    }

    /// Wait for news. Takes the readiness away again before it returns, so
    /// that what comes while the caller looks wakes the next call. Says whether
    /// the process has been reaped.
    async fn news(&self) -> io::Result<bool> {
        match self {
            Watch::Borrowed(watch) => Ok(take(watch.readable().await?)),
            Watch::Duplicate(watch) => Ok(take(watch.readable().await?)),
        }
    }
}

fn take<T: AsRawFd>(mut guard: AsyncFdReadyGuard<'_, T>) -> bool {
    // A pidfd hangs up when its process is reaped.
    let reaped = guard.ready().is_read_closed();
    guard.clear_ready();
    reaped
}

/// What a process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is resident, in bytes (shared pages counted in full).
    pub rss_bytes: u64,
    /// CPU time in user and kernel mode since it started, without children.
    pub cpu_time: Duration,
    /// Threads.
    pub threads: u32,
    /// The kernel's letter: `R` runs, `S` sleeps, `D` waits for a device, `T`
    /// is stopped, `Z` is a zombie.
    pub state: char,
}

impl Usage {
    pub(crate) fn from_stat(stat: &Stat) -> Self {
        Usage {
            rss_bytes: stat.rss_bytes(),
            cpu_time: stat.cpu_time(),
            threads: stat.threads,
            state: stat.state,
        }
    }
}

/// What several processes use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Sum of resident memory, in bytes; pages that they share count for each.
    pub rss_bytes: u64,
    /// Sum of the CPU time of those that run now.
    pub cpu_time: Duration,
    /// Sum of threads.
    pub threads: u32,
    /// How many processes there were.
    pub processes: u32,
}

/// What the process `pid` uses now; `None` when there is none.
pub fn usage(pid: i32) -> Option<Usage> {
    Stat::read(pid).map(|stat| Usage::from_stat(&stat))
}

/// What these processes use together; those that are gone count nothing.
pub fn tree_usage(pids: impl IntoIterator<Item = i32>) -> TreeUsage {
    let mut sum = TreeUsage::default();
    for usage in pids.into_iter().filter_map(usage) {
        sum.rss_bytes = sum.rss_bytes.saturating_add(usage.rss_bytes);
        sum.cpu_time = sum.cpu_time.saturating_add(usage.cpu_time);
        sum.threads = sum.threads.saturating_add(usage.threads);
        sum.processes += 1;
    }
    sum
}

pub(crate) fn to_rustix(signal: Signal) -> io::Result<rustix::process::Signal> {
    rustix::process::Signal::from_named_raw(signal.number())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("no {signal} here")))
}

fn delivered(sent: rustix::io::Result<()>) -> io::Result<bool> {
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// End a child of ours that we got no pidfd for, and reap it.
fn abandon(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = retry_on_intr(|| rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED));
    }
}
