//! The thread that owns the read-only connection.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

use super::{closed, error::panicked};
use crate::error::{Error, ErrorKind, Result};

/// A read; `None` instead of a connection when the reader is gone or overwhelmed.
pub(super) type ReadJob = Box<dyn FnOnce(Result<&Connection>) + Send>;

/// Reads that may wait.
const CAPACITY: usize = 1024;

/// Starts the reader; it ends when every sender is gone.
pub(super) fn spawn(connection: Connection) -> Result<(mpsc::SyncSender<ReadJob>, JoinHandle<()>)> {
    let (sender, jobs) = mpsc::sync_channel::<ReadJob>(CAPACITY);
    let thread = thread::Builder::new()
        .name("hms-store-read".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            for job in jobs {
                job(Ok(&connection));
            }
        })
        .map_err(|e| Error::io("cannot start the store's reader thread", &e))?;
    Ok((sender, thread))
}

/// Queues `job`; `then` learns its outcome, on the reader's thread, or here when it is refused.
pub(super) fn submit<T: 'static>(
    reader: Option<mpsc::SyncSender<ReadJob>>,
    job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    then: impl FnOnce(Result<T>) + Send + 'static,
) {
    let job: ReadJob = Box::new(move |connection| then(connection.and_then(|c| run(c, job))));
    let Some(reader) = reader else { return job(Err(closed())) };
    match reader.try_send(job) {
        Ok(()) => {}
        Err(mpsc::TrySendError::Full(job)) => job(Err(Error::new(
            ErrorKind::QueueFull,
            format!("more than {CAPACITY} reads wait for the store"),
        ))),
        Err(mpsc::TrySendError::Disconnected(job)) => job(Err(closed())),
    }
}

/// One transaction per read: several statements see one state.
fn run<T>(connection: &Connection, job: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    let view = connection.unchecked_transaction()?;
    catch_unwind(AssertUnwindSafe(|| job(&view))).unwrap_or_else(|payload| Err(panicked(&*payload)))
}
