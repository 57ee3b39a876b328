//! What a pidfd can be asked: is it dead, is it reaped, how did it end.
//!
//! `PIDFD_GET_INFO` (Linux 6.13; exit information since 6.15) tells the exit of
//! a process that somebody else reaped: an adopted child, whose parent is init
//! by now, or one of ours that the embedding program swallowed with its own
//! `waitpid(-1)`. rustix has no wrapper for it, hence the one unsafe function
//! of this crate.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

use crate::exit::Exit;

/// `struct pidfd_info` in its first published size (64 bytes), which every
/// later kernel accepts.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    real_ids: [u32; 2],
    effective_ids: [u32; 2],
    saved_ids: [u32; 2],
    filesystem_ids: [u32; 2],
    exit_status: i32,
}

/// `PIDFD_INFO_EXIT`: asks for, and says that there is, an exit status.
const INFO_EXIT: u64 = 1 << 3;

/// Open a pidfd (close-on-exec, as the kernel makes them all).
pub(crate) fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// How the process ended, once it has been reaped, by whomever. `None` before
/// that and on a kernel that does not tell.
pub(crate) fn reaped_exit(pidfd: BorrowedFd<'_>) -> Option<Exit> {
    let info = get_info(pidfd, INFO_EXIT).ok()?;
    (info.mask & INFO_EXIT != 0).then(|| Exit::from_wait_status(info.exit_status))
}

#[allow(unsafe_code)]
fn get_info(pidfd: BorrowedFd<'_>, mask: u64) -> io::Result<PidfdInfo> {
    use rustix::ioctl::{Updater, ioctl, opcode};
    const GET_INFO: rustix::ioctl::Opcode = opcode::read_write::<PidfdInfo>(0xff, 11);

    let mut info = PidfdInfo { mask, ..PidfdInfo::default() };
    // SAFETY: the opcode carries the size of `PidfdInfo`, which is laid out as
    // the kernel's `struct pidfd_info`; the kernel writes at most that many
    // bytes, and every bit pattern of the struct is valid. On a descriptor that
    // is no pidfd, or an older kernel, the call fails and writes nothing.
    unsafe { ioctl(pidfd, Updater::<GET_INFO, PidfdInfo>::new(&mut info)) }?;
    Ok(info)
}

/// Whether the process has ended (reaped or not).
pub(crate) fn is_dead(pidfd: BorrowedFd<'_>) -> bool {
    ready(pidfd, PollFlags::IN)
}

/// Whether the process has ended and was reaped. (Before Linux 6.9 this is
/// never told.)
pub(crate) fn is_reaped(pidfd: BorrowedFd<'_>) -> bool {
    ready(pidfd, PollFlags::empty())
}

fn ready(pidfd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    wait_ready(pidfd, flags, Duration::ZERO)
}

/// Block until the process has ended, at most this long. Says whether it has.
pub(crate) fn wait_dead(pidfd: BorrowedFd<'_>, timeout: Duration) -> bool {
    wait_ready(pidfd, PollFlags::IN, timeout)
}

/// Block until the process was reaped, at most this long. Says whether it was.
pub(crate) fn wait_reaped(pidfd: BorrowedFd<'_>, timeout: Duration) -> bool {
    wait_ready(pidfd, PollFlags::empty(), timeout)
}

fn wait_ready(pidfd: BorrowedFd<'_>, flags: PollFlags, timeout: Duration) -> bool {
    let deadline = std::time::Instant::now().checked_add(timeout);
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), flags)];
        match poll(&mut fds, left.as_ref()) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
