//! Descriptors that the child of a fork must let go of at once.
//!
//! Close-on-exec does not help a child that never execs: it would hold a home's lock, and a peer's
//! connection, for as long as it lives. A library in such a process registers a handler with
//! pthread_atfork(3) and closes there what [`descriptors`] says. Everything here is atomics alone, so that
//! this handler, which runs in the copy of a threaded process, may read it.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

const NONE: RawFd = -1;

/// One for each home and each connection of the process. Those beyond are kept by a forked child.
static OPEN: [AtomicI32; 256] = [const { AtomicI32::new(NONE) }; 256];

/// Says, as long as it lives, that a forked child must close a descriptor. Drop it before that is closed.
#[derive(Debug)]
pub struct CloseInFork(Option<&'static AtomicI32>);

impl CloseInFork {
    /// From now on for this descriptor.
    pub fn new(descriptor: &impl AsRawFd) -> Self {
        let fd = descriptor.as_raw_fd();
        let take = |place: &&AtomicI32| {
            place.compare_exchange(NONE, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        };
        Self(OPEN.iter().find(take))
    }
}

impl Drop for CloseInFork {
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            place.store(NONE, Ordering::Relaxed);
        }
    }
}

/// The descriptors that a child closes, were it forked now. Safe in the child itself.
pub fn descriptors() -> impl Iterator<Item = RawFd> {
    OPEN.iter().map(|place| place.load(Ordering::Relaxed)).filter(|fd| *fd != NONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_listed_while_it_is_registered() {
        let file = std::fs::File::open("/dev/null").expect("open");
        let listed = || descriptors().any(|fd| fd == file.as_raw_fd());
        assert!(!listed());
        let registered = CloseInFork::new(&file);
        assert!(listed());
        drop(registered);
        assert!(!listed());
    }
}
