//! Logs, locks, FIFOs and private files.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::fork::CloseInFork;

const PRIVATE: u32 = 0o600;

/// Open for appending, created with mode 0600 when missing, close-on-exec.
/// Several writers of one such file never overwrite each other.
///
/// # Errors
/// As open(2).
pub fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(PRIVATE).open(path)
}

/// A copy of a descriptor that somebody lends by its number, such as standard input.
///
/// # Errors
/// As dup(2): a number that is not open.
#[allow(unsafe_code)]
pub fn lent(number: i32) -> io::Result<File> {
    if number < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: it is borrowed for one `dup`, which fails on a number that is not open.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().map(File::from)
}

/// Create a directory, and what it lies in, for the owner alone (0700). One that is there keeps its mode.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Give the blocks of the first `upto` bytes back to the file system. Size and
/// offsets stay as they are; the bytes read as zero. So a log can be cut at the
/// head while a child writes to its end.
///
/// Only whole blocks go, so that no byte behind the hole is zeroed: answers the
/// offset where the hole ends, at most a block before `upto`. That is where
/// [`data_start`] finds the first byte, usually in the middle of a line.
///
/// # Errors
/// `Unsupported` on a file system without holes; `EBADF` when the file is not
/// open for writing.
pub fn punch_head(file: &File, upto: u64) -> io::Result<u64> {
    let block = file.metadata()?.blksize().max(1);
    let end = upto - upto % block;
    if end > 0 {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, mode, 0, end))?;
    }
    Ok(end)
}

/// The offset of the first byte that is not in a hole at the head; the size of
/// the file when all of it is hole. File systems without holes answer 0. The
/// file's own offset is left as it was, but must not be used meanwhile.
///
/// # Errors
/// As lseek(2).
pub fn data_start(file: &File) -> io::Result<u64> {
    let mut handle = file;
    let before = handle.stream_position()?;
    let found = rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0));
    handle.seek(SeekFrom::Start(before))?;
    match found {
        Ok(offset) => Ok(offset),
        // No data at all, or nothing behind offset 0.
        Err(Errno::NXIO) => Ok(file.metadata()?.len()),
        Err(Errno::INVAL) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

/// The lock by which one process owns a home. Held until it is dropped or the
/// process ends, however it ends.
#[derive(Debug)]
pub struct HomeLock {
    /// First, so that it goes before the file is closed.
    _close_in_fork: CloseInFork,
    file: File,
}

impl HomeLock {
    /// Take the lock file (created empty when missing, and never written).
    /// `None` when somebody else has it.
    ///
    /// # Errors
    /// When the file cannot be opened, or its file system has no locks.
    pub fn try_acquire(path: &Path) -> io::Result<Option<HomeLock>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE)
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(path)?;
        let take = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        match rustix::io::retry_on_intr(take) {
            Ok(()) => Ok(Some(HomeLock { _close_in_fork: CloseInFork::new(&file), file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

// There is no explicit unlock on drop: a fork of this process shares the lock,
// and its unlocking would take the lock from the owner. Closing is enough.

impl AsFd for HomeLock {
    /// The descriptor, for a forked child that must close it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Write a file that only its owner may read, in one step: readers see the old
/// content or the new. Nothing is synced to the disk.
///
/// # Errors
/// As open(2), write(2) and rename(2); the old content is then still there.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A name beside `path` that nobody else uses.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        let message = format!("'{}' names no file", path.display());
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // The start time keeps the names of a dead process with our pid apart.
    let id = crate::ProcessId::of(std::process::id() as i32);
    let start = id.map_or(0, |id| id.start_time);
    temporary.push(format!(".{}-{start}-{count}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Make a FIFO with mode 0600. That there is one already is no error.
///
/// # Errors
/// `AlreadyExists` when something else has the name.
pub fn mkfifo(path: &Path) -> io::Result<()> {
    match rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(PRIVATE)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) if fs::symlink_metadata(path)?.file_type().is_fifo() => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Open a FIFO for writing without blocking: neither the open nor a write into
/// a full FIFO (`WouldBlock`) waits.
///
/// # Errors
/// `ENXIO` when nobody has it open for reading; `InvalidInput` when it is no
/// FIFO.
pub fn open_fifo_writer(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32)
        .open(path)?;
    if !file.metadata()?.file_type().is_fifo() {
        let message = format!("'{}' is not a FIFO", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(file)
}
