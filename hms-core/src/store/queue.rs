//! What waits for the writer: the jobs, in order, and what is remembered of their fates.
//!
//! Kept jobs have a line of their own, so that while the disk fails everything else passes them at no cost.
//! Both lines are merged by sequence number, which is what keeps the order otherwise.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{Retention, Stats, StoreOptions, closed, error::is_transient};
use crate::{
    clock::{Mono, SharedClock},
    error::{Error, ErrorKind, Result},
};

/// A unit of work of the writer.
pub(super) trait Job: Send {
    /// Does it, inside a savepoint.
    fn run(&mut self, connection: &Connection) -> Result<()>;
    /// Learns that it could not be committed now and will be tried again. Runs without a lock.
    fn deferred(&mut self, _: &Error) {}
    /// Learns the outcome, after the commit or once it is given up. Runs without a lock.
    fn done(self: Box<Self>, outcome: Result<()>);
}

/// An awaited write: its value is handed over after the commit.
pub(super) struct Write<T, F, A> {
    job: Option<F>,
    value: Option<T>,
    then: A,
}

impl<T, F, A> Write<T, F, A> {
    pub(super) fn new(job: F, then: A) -> Self {
        Self { job: Some(job), value: None, then }
    }
}

impl<T, F, A> Job for Write<T, F, A>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T> + Send,
    A: FnOnce(Result<T>) + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<()> {
        let job = self.job.take().ok_or_else(|| Error::internal("a write was run twice"))?;
        self.value = Some(job(connection)?);
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<()>) {
        let Self { value, then, .. } = *self;
        then(outcome.and_then(|()| value.ok_or_else(|| Error::internal("a write left no value"))));
    }
}

/// A job nobody waits for.
pub(super) struct Post<F>(Option<F>);

impl<F> Post<F> {
    pub(super) fn new(job: F) -> Self {
        Self(Some(job))
    }
}

impl<F: FnOnce(&Connection) -> Result<()> + Send> Job for Post<F> {
    fn run(&mut self, connection: &Connection) -> Result<()> {
        self.0.take().map_or(Ok(()), |job| job(connection))
    }

    fn done(self: Box<Self>, _: Result<()>) {}
}

/// Who waits for a kept job.
pub(super) type Ack = Box<dyn FnOnce(Result<()>) + Send>;

/// A job that is run until it succeeds. Who waits for it is told at the first failure, lest they wait as long
/// as the disk is full.
pub(super) struct Kept<F> {
    job: F,
    ack: Option<Ack>,
}

impl<F> Kept<F> {
    pub(super) fn new(job: F, ack: Option<Ack>) -> Self {
        Self { job, ack }
    }
}

impl<F: FnMut(&Connection) -> Result<()> + Send> Job for Kept<F> {
    fn run(&mut self, connection: &Connection) -> Result<()> {
        (self.job)(connection)
    }

    fn deferred(&mut self, e: &Error) {
        if let Some(ack) = self.ack.take() {
            ack(Err(e.clone()));
        }
    }

    fn done(self: Box<Self>, outcome: Result<()>) {
        if let Some(ack) = self.ack {
            ack(outcome);
        }
    }
}

/// Nothing to run: tells that everything before it is settled.
pub(super) struct Signal(oneshot::Sender<Result<()>>);

impl Signal {
    pub(super) fn new(reply: oneshot::Sender<Result<()>>) -> Self {
        Self(reply)
    }
}

impl Job for Signal {
    fn run(&mut self, _: &Connection) -> Result<()> {
        Ok(())
    }

    fn done(self: Box<Self>, outcome: Result<()>) {
        let _ = self.0.send(outcome);
    }
}

/// How a job is bounded and what happens to it when the disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Write,
    Post,
    Kept,
    Flush,
}

/// A job in line.
pub(super) struct Entry {
    pub(super) sequence: u64,
    pub(super) class: Class,
    key: Option<Arc<str>>,
    pub(super) job: Box<dyn Job>,
}

#[derive(Default)]
struct Lines {
    next: u64,
    passing: BTreeMap<u64, Entry>,
    kept: BTreeMap<u64, Entry>,
    latest: HashMap<Arc<str>, u64>,
    writes: usize,
    posts: usize,
    flushes: usize,
    /// Kept jobs rest until then, after a failure of the disk.
    retry_at: Option<Mono>,
    pause: Duration,
    failing: bool,
    last_error: Option<Error>,
    closing: bool,
    /// Why a kept record had to be given up at the end.
    given_up: Option<Error>,
    closed: Option<Result<()>>,
    on_closed: Vec<oneshot::Sender<Result<()>>>,
}

/// What the writer is to do next.
pub(super) enum Turn {
    Batch(Vec<Entry>),
    Close,
}

/// First pause after a failure of the disk; doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Jobs per transaction: enough to spread the commit, few enough to acknowledge soon.
const MAX_BATCH: usize = 512;

/// What the store's handles and its writer share.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) clock: SharedClock,
    lines: Mutex<Lines>,
    wake: Condvar,
    retention: Mutex<Arc<[Retention]>>,
    /// Per table, the greatest key that was pruned since the store was opened.
    pruned: Mutex<HashMap<&'static str, u64>>,
    write_capacity: usize,
    post_capacity: usize,
    kept_capacity: usize,
    dropped: AtomicU64,
    lost: AtomicU64,
    commits: AtomicU64,
    jobs: AtomicU64,
}

impl Shared {
    pub(super) fn new(path: PathBuf, options: StoreOptions) -> Self {
        Self {
            path,
            clock: options.clock,
            lines: Mutex::default(),
            wake: Condvar::new(),
            retention: Mutex::new(options.retention.into()),
            pruned: Mutex::default(),
            write_capacity: options.write_capacity,
            post_capacity: options.post_capacity,
            kept_capacity: options.kept_capacity,
            dropped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a write, post or flush; a refused one learns it at once, on the caller's thread.
    pub(super) fn push(&self, class: Class, key: Option<Arc<str>>, job: Box<dyn Job>) {
        let refused = {
            let mut lines = self.lines();
            let full = match class {
                Class::Write => lines.writes >= self.write_capacity,
                Class::Post => lines.posts >= self.post_capacity,
                Class::Kept | Class::Flush => false,
            };
            if lines.closing {
                Some((job, closed()))
            } else if full {
                Some((job, queue_full("writes")))
            } else {
                lines.append(class, key, job);
                self.wake.notify_one();
                None
            }
        };
        if let Some((job, e)) = refused {
            if class == Class::Post {
                self.dropped.fetch_add(1, Relaxed);
            }
            job.done(Err(e));
        }
    }

    /// Queues a kept job, in place of a waiting one of the same key. A refused one is dropped, without a word to
    /// who waits for it: they may hold a lock.
    pub(super) fn push_kept(&self, key: Option<Arc<str>>, job: Box<dyn Job>) -> Result<()> {
        let replaced = {
            let mut lines = self.lines();
            if lines.closing {
                return Err(closed());
            }
            let stale = key.as_ref().and_then(|key| lines.latest.get(key).copied());
            let replaced = stale.and_then(|sequence| lines.kept.remove(&sequence));
            if lines.kept.len() >= self.kept_capacity {
                let e = queue_full("records to keep");
                lines.last_error = Some(e.clone());
                drop(lines);
                self.lost.fetch_add(1, Relaxed);
                return Err(e);
            }
            lines.append(Class::Kept, key, job);
            self.wake.notify_one();
            replaced
        };
        // Foreign values inside the job are dropped outside the lock.
        drop(replaced);
        Ok(())
    }

    /// The writer's next turn. Waits without polling; while kept jobs rest after a failure, until that pause
    /// is over.
    pub(super) fn next_turn(&self) -> Turn {
        let mut lines = self.lines();
        loop {
            let now = self.clock.now();
            let resting = lines.retry_at.is_some_and(|at| now < at) && lines.flushes == 0 && !lines.closing;
            let batch = lines.take(resting);
            if !batch.is_empty() {
                return Turn::Batch(batch);
            }
            if lines.closing {
                return Turn::Close;
            }
            lines = match lines.retry_at {
                Some(at) if !lines.kept.is_empty() => {
                    let rest = at.saturating_sub(now);
                    let (mut lines, waited) =
                        self.wake.wait_timeout(lines, rest).unwrap_or_else(PoisonError::into_inner);
                    if waited.timed_out() {
                        lines.retry_at = None;
                    }
                    lines
                }
                _ => self.wake.wait(lines).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Whether nothing waits: the moment for housekeeping.
    pub(super) fn is_idle(&self) -> bool {
        let lines = self.lines();
        lines.passing.is_empty() && lines.kept.is_empty() && !lines.closing
    }

    /// Puts jobs back in line that the writer took and did not run.
    pub(super) fn put_back(&self, entries: Vec<Entry>) {
        let mut lines = self.lines();
        for entry in entries {
            lines.reinsert(entry);
        }
    }

    /// Ends a job whose transaction committed, or which was refused alone.
    pub(super) fn settle(&self, mut entry: Entry, outcome: Result<()>) {
        let Err(e) = &outcome else {
            if entry.class != Class::Flush {
                self.jobs.fetch_add(1, Relaxed);
            }
            return entry.finish(outcome);
        };
        let retry = entry.class == Class::Kept && is_transient(e);
        if retry {
            contained(|| entry.job.deferred(e));
        }
        {
            let mut lines = self.lines();
            lines.last_error = Some(e.clone());
            if retry && !lines.closing {
                lines.reinsert(entry);
                return;
            }
            if retry {
                lines.given_up = Some(e.clone());
            }
        }
        match entry.class {
            Class::Post => self.dropped.fetch_add(1, Relaxed),
            Class::Kept => self.lost.fetch_add(1, Relaxed),
            Class::Write | Class::Flush => 0,
        };
        if entry.class == Class::Kept {
            tracing::error!(error = %e, "a record that was to be kept is lost");
        }
        entry.finish(outcome);
    }

    /// A transaction committed: kept jobs that rest may try again.
    pub(super) fn committed(&self) {
        self.commits.fetch_add(1, Relaxed);
        let mut lines = self.lines();
        lines.failing = false;
        lines.retry_at = None;
        lines.pause = Duration::ZERO;
    }

    /// The disk failed: kept jobs rest, and who waits for a flush learns why.
    pub(super) fn failed(&self, e: &Error) {
        let waiting = {
            let mut lines = self.lines();
            if !lines.failing {
                tracing::error!(error = %e, "the store cannot write; records to keep wait");
            }
            lines.failing = true;
            lines.last_error = Some(e.clone());
            lines.pause = (lines.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
            lines.retry_at = Some(self.clock.now() + lines.pause);
            lines.take_flushes()
        };
        for entry in waiting {
            entry.finish(Err(e.clone()));
        }
    }

    pub(super) fn begin_close(&self) {
        self.lines().closing = true;
        self.wake.notify_one();
    }

    pub(super) fn given_up(&self) -> Option<Error> {
        self.lines().given_up.clone()
    }

    pub(super) fn on_closed(&self, reply: oneshot::Sender<Result<()>>) {
        let mut lines = self.lines();
        match lines.closed.clone() {
            Some(outcome) => {
                drop(lines);
                let _ = reply.send(outcome);
            }
            None => lines.on_closed.push(reply),
        }
    }

    /// The connections are closed; whoever waits for that is told.
    pub(super) fn finish_close(&self, outcome: Result<()>) {
        let waiting = {
            let mut lines = self.lines();
            lines.closed = Some(outcome.clone());
            std::mem::take(&mut lines.on_closed)
        };
        for reply in waiting {
            let _ = reply.send(outcome.clone());
        }
    }

    pub(super) fn retention(&self) -> Arc<[Retention]> {
        Arc::clone(&self.retention.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_retention(&self, retention: Vec<Retention>) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention.into();
    }

    pub(super) fn note_pruned(&self, table: &'static str, through: i64) {
        self.pruned.lock().unwrap_or_else(PoisonError::into_inner).insert(table, through as u64);
    }

    pub(super) fn pruned(&self, table: &str) -> u64 {
        self.pruned.lock().unwrap_or_else(PoisonError::into_inner).get(table).copied().unwrap_or(0)
    }

    pub(super) fn stats(&self) -> Stats {
        let lines = self.lines();
        Stats {
            queued: (lines.passing.len() + lines.kept.len() - lines.flushes) as u64,
            dropped: self.dropped.load(Relaxed),
            lost: self.lost.load(Relaxed),
            commits: self.commits.load(Relaxed),
            jobs: self.jobs.load(Relaxed),
            failing: lines.failing,
            last_error: lines.last_error.clone(),
        }
    }
}

impl Entry {
    fn finish(self, outcome: Result<()>) {
        let job = self.job;
        contained(|| job.done(outcome));
    }
}

/// A panic in somebody's acknowledgement does not end the writer.
fn contained(tell: impl FnOnce()) {
    if let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(tell)) {
        tracing::error!(error = %super::error::panicked(&*payload), "in an acknowledgement");
    }
}

impl Lines {
    fn append(&mut self, class: Class, key: Option<Arc<str>>, job: Box<dyn Job>) {
        let sequence = self.next;
        self.next += 1;
        self.reinsert(Entry { sequence, class, key, job });
    }

    /// Puts `entry` where its sequence number says, unless a newer one of its key took its place.
    fn reinsert(&mut self, entry: Entry) {
        match entry.class {
            Class::Write => self.writes += 1,
            Class::Post => self.posts += 1,
            Class::Flush => self.flushes += 1,
            Class::Kept => {
                if let Some(key) = &entry.key {
                    if self.latest.get(key).is_some_and(|newer| *newer > entry.sequence) {
                        return;
                    }
                    self.latest.insert(Arc::clone(key), entry.sequence);
                }
                self.kept.insert(entry.sequence, entry);
                return;
            }
        }
        self.passing.insert(entry.sequence, entry);
    }

    /// Up to a batch from the heads of both lines, or of the passing one alone.
    fn take(&mut self, resting: bool) -> Vec<Entry> {
        let mut batch = Vec::new();
        while batch.len() < MAX_BATCH {
            let passing = self.passing.first_key_value().map(|(sequence, _)| *sequence);
            let kept = self.kept.first_key_value().map(|(sequence, _)| *sequence).filter(|_| !resting);
            let line = match (passing, kept) {
                (None, None) => break,
                (Some(a), Some(b)) if b < a => &mut self.kept,
                (None, Some(_)) => &mut self.kept,
                _ => &mut self.passing,
            };
            let Some((_, entry)) = line.pop_first() else { break };
            match entry.class {
                Class::Write => self.writes -= 1,
                Class::Post => self.posts -= 1,
                Class::Flush => self.flushes -= 1,
                Class::Kept => {
                    if let Some(key) = &entry.key {
                        self.latest.remove(key);
                    }
                }
            }
            batch.push(entry);
        }
        batch
    }

    fn take_flushes(&mut self) -> Vec<Entry> {
        self.flushes = 0;
        self.passing.extract_if(.., |_, entry| entry.class == Class::Flush).map(|(_, entry)| entry).collect()
    }
}

fn queue_full(what: &str) -> Error {
    Error::new(ErrorKind::QueueFull, format!("too many {what} wait for the store"))
        .hint("the disk is slow, full or failing; see `codex-hms system status`")
}
