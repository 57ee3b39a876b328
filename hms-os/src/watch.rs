//! File changes by inotify: one descriptor for any number of files.
//!
//! Logs are followed by being told that they grew, not by looking again and
//! again. What happens between two calls is merged into one change a file.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::readiness;

/// Events of about 16 KiB are taken at once, so that one call to
/// [`FileWatch::changed`] does bounded work.
const BUFFER: usize = 16 * 1024;

/// A watched file or folder. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchId(i32);

/// What happened to one watched file or folder since the last call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which one.
    pub watch: WatchId,
    /// Its content changed: written, cut, or a hole punched. Of a folder: that
    /// of a file in it.
    pub modified: bool,
    /// Of a folder: an entry was created, removed or renamed.
    pub entries: bool,
    /// Its mode, owner or link count changed. An open file that was unlinked
    /// shows as this.
    pub metadata: bool,
    /// It was removed, renamed or unmounted, or the watch was removed.
    pub gone: bool,
}

/// What [`FileWatch::changed`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// These changed; each is named once.
    Files(Vec<Change>),
    /// The kernel's queue ran over and events were lost: check all files.
    Overflow,
}

/// A set of watched files and folders.
#[derive(Debug)]
pub struct FileWatch {
    inotify: AsyncFd<OwnedFd>,
}

impl FileWatch {
    /// An empty set. Must run on a tokio runtime with I/O.
    ///
    /// # Errors
    /// When the system or this user has no inotify instance left
    /// (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(FileWatch { inotify: readiness::readable(inotify)? })
    }

    /// Watch a file or folder, which must exist. The same file again (also by
    /// another name) gives the same id. The watch follows the file, not its
    /// name.
    ///
    /// # Errors
    /// `NotFound`; `StorageFull` when this user has no watches left
    /// (`fs.inotify.max_user_watches`).
    pub fn add(&self, path: &Path) -> io::Result<WatchId> {
        let flags = WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let id = inotify::add_watch(self.inotify.as_fd(), path, flags)?;
        Ok(WatchId(id))
    }

    /// Stop watching. That the file is gone already is no error. One last
    /// change with `gone` may still be told.
    pub fn remove(&self, watch: WatchId) {
        // The only failure is that there is no such watch any more.
        let _ = inotify::remove_watch(self.inotify.as_fd(), watch.0);
    }

    /// Wait until something changes. May be cancelled; nothing is lost.
    ///
    /// # Errors
    /// As read(2); never `WouldBlock`.
    pub async fn changed(&self) -> io::Result<Changes> {
        loop {
            let mut guard = self.inotify.readable().await?;
            match guard.try_io(|inotify| take(inotify.get_ref())) {
                Ok(changes) => return changes,
                // Not ready after all; wait again.
                Err(_would_block) => {}
            }
        }
    }
}

/// Read one buffer full of events. `WouldBlock` when there are none.
fn take(inotify: &OwnedFd) -> io::Result<Changes> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = Reader::new(inotify.as_fd(), &mut buffer);
    let mut changes: Vec<Change> = Vec::new();
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let events = event.events();
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Ok(Changes::Overflow);
        }
        merge(&mut changes, event.wd(), events);
        if reader.is_buffer_empty() {
            return Ok(Changes::Files(changes));
        }
    }
}

fn merge(changes: &mut Vec<Change>, id: i32, events: ReadFlags) {
    let any = |flags: ReadFlags| events.intersects(flags);
    let at = changes.iter().position(|change| change.watch.0 == id).unwrap_or_else(|| {
        changes.push(Change {
            watch: WatchId(id),
            modified: false,
            entries: false,
            metadata: false,
            gone: false,
        });
        changes.len() - 1
    });
    let change = &mut changes[at];
    change.modified |= any(ReadFlags::MODIFY);
    change.metadata |= any(ReadFlags::ATTRIB);
    change.entries |=
        any(ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO);
    change.gone |=
        any(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED);
}
