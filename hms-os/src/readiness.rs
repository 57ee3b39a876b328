//! Registering a descriptor with the runtime.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watch `fd` for becoming readable. Must run on a tokio runtime with I/O.
///
/// tokio deprecates this safe constructor in favour of an unsafe one, because a
/// type may implement `AsRawFd` and yet close its descriptor while it is
/// registered. Ours are `OwnedFd` and `BorrowedFd`, whose descriptor stays open
/// and the same as long as they live, so what the unsafe one demands holds, and
/// this crate keeps its single unsafe function.
#[allow(deprecated)]
pub(crate) fn readable<T: AsFd + AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}
