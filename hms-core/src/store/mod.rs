//! The store: one SQLite file per home, opened by the host alone.
//!
//! **Durability.** *Acknowledged* means: the future of [`Store::write`] (or of a journaled publish) is
//! ready with `Ok`. What was acknowledged survives `kill -9` of the host, because the commit reached the
//! kernel's page cache before anybody was told. WAL with `synchronous=NORMAL` does not wait for the disk
//! at each commit, so a power loss may cost the last moments; it never costs the consistency of the file.
//!
//! **Writer.** One thread owns the writing connection. Jobs queue up and are *group-committed*: the thread
//! takes what is there, runs each job in a savepoint of its own inside one transaction, commits, and only
//! then acknowledges all of them. A job that fails is undone alone. The exception is a disk that fills up:
//! SQLite may then abandon the whole transaction, and every job in it is refused (kept ones are retried).
//!
//! **Three ways in**, by what a loss would mean:
//! - [`Store::write`]: awaited, acknowledged after commit. Never dropped silently.
//! - [`Store::post`]: fire and forget. When [`StoreOptions::post_capacity`] posts wait, a further one is
//!   dropped and counted: nothing in the host ever waits for the store.
//! - [`Store::post_kept`] and [`Store::post_latest`]: never dropped for load, and retried while the disk is
//!   full or failing. Bounded: at most [`StoreOptions::kept_capacity`] wait (then the caller is told), and
//!   `post_latest` replaces a waiting job of the same key, so that the states of agents are bounded by the
//!   number of agents.
//!
//! **Reader.** A second, read-only connection on its own thread: a WAL reader is never blocked by the writer,
//! while a read that queued behind the writer would wait for every checkpoint's fsync. A read sees everything
//! acknowledged before it was asked for; to see what was merely posted, [`Store::flush`] first. A store in
//! memory has one connection, so its reads run on the writer's thread.
//!
//! **Locks.** The queue's mutex is held for queue operations only; jobs, acknowledgements and callbacks run
//! without it. Two threads and two connections with 512 KiB and 256 KiB of page cache, no mmap.

pub mod agents;
mod error;
pub mod history;
pub mod journal;
pub mod kv;
mod migrate;
mod open;
mod queue;
mod reader;
mod replay;
mod reset;
mod retention;
mod writer;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use rusqlite::Connection;
use tokio::sync::oneshot;

pub use migrate::Migration;
pub use reset::{DATABASE, reset};
pub use retention::Retention;

use self::{
    queue::{Ack, Class, Kept, Post, Shared, Signal, Write},
    reader::ReadJob,
};
use crate::{
    clock::{SharedClock, SystemClock},
    error::{Error, ErrorKind, Result},
};

/// How a store behaves; [`StoreOptions::default`] is right for a host.
#[derive(Clone)]
pub struct StoreOptions {
    /// Where time comes from: ages of records, pauses between retries, names of backups.
    pub clock: SharedClock,
    /// Which tables are bounded, and how.
    pub retention: Vec<Retention>,
    /// Awaited writes that may wait; a further one is refused with `queue-full`.
    pub write_capacity: usize,
    /// Posts that may wait; a further one is dropped and counted.
    pub post_capacity: usize,
    /// Kept records that may wait; a further one is refused with `queue-full`.
    pub kept_capacity: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            retention: vec![journal::RETENTION, history::RETENTION],
            write_capacity: 8192,
            post_capacity: 4096,
            kept_capacity: 16_384,
        }
    }
}

/// What a store has done and what it is waiting for.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Jobs that wait now.
    pub queued: u64,
    /// Posts that were dropped because too many waited, or whose write failed.
    pub dropped: u64,
    /// Kept records that were refused because too many waited, or that no retry can save.
    pub lost: u64,
    /// Transactions committed.
    pub commits: u64,
    /// Jobs committed.
    pub jobs: u64,
    /// Whether the last transaction failed: kept records wait for the disk.
    pub failing: bool,
    /// The last failure, whoever met it.
    pub last_error: Option<Error>,
}

/// The database of a home. Cheap to clone; any thread.
///
/// Dropping the last clone writes what is queued in the background; [`Store::close`] waits for it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    /// `None` once closed, and for a store in memory.
    reader: Mutex<Option<mpsc::SyncSender<ReadJob>>>,
    in_memory: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.begin_close();
    }
}

impl Inner {
    /// The reader ends when its sender is gone, the writer when it is told; the writer waits for the reader,
    /// so that the last connection to close is the one that checkpoints.
    fn begin_close(&self) {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.begin_close();
    }
}

impl Store {
    /// Opens, or creates, the database at `path`, and brings it up to date with the kernel's migrations and
    /// the given ones.
    ///
    /// # Errors
    /// `store-corrupt` for a damaged or foreign file, `store-newer` for one that a newer version wrote (both
    /// leave it untouched), `disk-full`, `permission-denied`, `io`.
    pub fn open(path: impl AsRef<Path>, migrations: &[Migration]) -> Result<Self> {
        Self::open_with(path, migrations, StoreOptions::default())
    }

    /// [`Store::open`] with options.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        migrations: &[Migration],
        options: StoreOptions,
    ) -> Result<Self> {
        let path = path.as_ref();
        let plan = migrate::Plan::new(migrations)?;
        let connection = open::file(path, &plan, options.clock.wall_ms())?;
        let reading = open::read_only(path)?;
        Self::start(path.to_path_buf(), connection, Some(reading), options)
    }

    /// A store that lives in memory and dies with its last clone: for private systems and tests.
    ///
    /// # Errors
    /// A migration that does not run.
    pub fn in_memory(migrations: &[Migration]) -> Result<Self> {
        Self::in_memory_with(migrations, StoreOptions::default())
    }

    /// [`Store::in_memory`] with options.
    ///
    /// # Errors
    /// As [`Store::in_memory`].
    pub fn in_memory_with(migrations: &[Migration], options: StoreOptions) -> Result<Self> {
        let plan = migrate::Plan::new(migrations)?;
        let connection = open::memory(&plan)?;
        Self::start(PathBuf::from(":memory:"), connection, None, options)
    }

    fn start(
        path: PathBuf,
        connection: Connection,
        reading: Option<Connection>,
        options: StoreOptions,
    ) -> Result<Self> {
        let in_memory = reading.is_none();
        let shared = Arc::new(Shared::new(path, options));
        let (reader, reader_thread) = match reading {
            Some(connection) => {
                let (sender, thread) = reader::spawn(connection)?;
                (Some(sender), Some(thread))
            }
            None => (None, None),
        };
        writer::spawn(connection, Arc::clone(&shared), reader_thread)?;
        Ok(Self { inner: Arc::new(Inner { shared, reader: Mutex::new(reader), in_memory }) })
    }

    /// The file, or `:memory:`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.shared.path
    }

    /// Runs `job` on the writer's thread; the future is ready after the commit. Queued at the call, so that
    /// calls keep their order and dropping the future cancels nothing.
    ///
    /// The connection is inside a savepoint: `job` must not begin, commit or roll back a transaction. It may
    /// block no longer than its SQL takes.
    ///
    /// # Errors
    /// The job's own, after which nothing of it is stored; `queue-full`; `disk-full`; `invalid-state` when the
    /// store is closed; `panic` when the job panicked.
    pub fn write<T, F>(&self, job: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.write_then(job, move |outcome| {
            // The caller may have stopped waiting; the write stands.
            let _ = reply.send(outcome);
        });
        async move { answer.await.unwrap_or_else(|_| Err(closed())) }
    }

    /// [`Store::write`] for callers without an executor: `then` runs once, on the writer's thread, after the
    /// commit or with the error. It must not block.
    pub fn write_then<T, F, A>(&self, job: F, then: A)
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        A: FnOnce(Result<T>) + Send + 'static,
    {
        self.inner.shared.push(Class::Write, None, Box::new(Write::new(job, then)));
    }

    /// Runs `job` some time soon, or not at all: dropped and counted when too many wait or when it fails.
    pub fn post(&self, job: impl FnOnce(&Connection) -> Result<()> + Send + 'static) {
        self.inner.shared.push(Class::Post, None, Box::new(Post::new(job)));
    }

    /// Runs `job` as soon as the disk allows, again and again until it is committed. An error that is not the
    /// disk's (a constraint, say) ends it: counted as lost. Kept jobs run in order among themselves; while the
    /// disk fails, awaited writes may overtake them.
    ///
    /// # Errors
    /// `queue-full` when [`StoreOptions::kept_capacity`] wait already, `invalid-state` when closed.
    pub fn post_kept(&self, job: impl FnMut(&Connection) -> Result<()> + Send + 'static) -> Result<()> {
        self.keep(None, job, None)
    }

    /// [`Store::post_kept`] for a record of which only the newest matters: a waiting job with the same `key`
    /// is replaced.
    ///
    /// # Errors
    /// As [`Store::post_kept`].
    pub fn post_latest(
        &self,
        key: &str,
        job: impl FnMut(&Connection) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        self.keep(Some(key), job, None)
    }

    /// A refused job is dropped, and so is its `ack`, uncalled.
    fn keep(
        &self,
        key: Option<&str>,
        job: impl FnMut(&Connection) -> Result<()> + Send + 'static,
        ack: Option<Ack>,
    ) -> Result<()> {
        self.inner.shared.push_kept(key.map(Arc::from), Box::new(Kept::new(job, ack)))
    }

    /// Runs `job` on the read-only connection, in one consistent view of the database. Queued at the call.
    ///
    /// # Errors
    /// The job's own; `queue-full`; `invalid-state` when the store is closed; `panic`.
    pub fn read<T, F>(&self, job: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let then = move |outcome| {
            let _ = reply.send(outcome);
        };
        if self.inner.in_memory {
            self.write_then(job, then);
        } else {
            let reader = self.inner.reader.lock().unwrap_or_else(PoisonError::into_inner).clone();
            reader::submit(reader, job, then);
        }
        async move { answer.await.unwrap_or_else(|_| Err(closed())) }
    }

    /// Ready when everything queued before the call is committed. Retries kept records at once.
    ///
    /// # Errors
    /// The disk's, when kept records still wait for it.
    pub fn flush(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.inner.shared.push(Class::Flush, None, Box::new(Signal::new(reply)));
        async move { answer.await.unwrap_or_else(|_| Err(closed())) }
    }

    /// Writes what is queued, folds the write-ahead log into the file and closes it. Further calls are refused
    /// with `invalid-state`; a second `close` waits for the first.
    ///
    /// # Errors
    /// The disk's, when kept records had to be given up or the log could not be folded in (the next open does).
    pub fn close(&self) -> impl Future<Output = Result<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.inner.shared.on_closed(reply);
        self.inner.begin_close();
        async move { answer.await.unwrap_or(Ok(())) }
    }

    /// What the store has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.shared.stats()
    }

    /// Replaces the bounds of tables; they hold from the next pruning on.
    pub fn set_retention(&self, retention: Vec<Retention>) {
        self.inner.shared.set_retention(retention);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).field("stats", &self.stats()).finish()
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::InvalidState, "the store is closed")
}
