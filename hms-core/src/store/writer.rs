//! The thread that owns the writing connection: group commit, retries, housekeeping.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};

use rusqlite::Connection;

use super::{
    error::{is_transient, locate, panicked},
    queue::{Class, Entry, Shared, Turn},
    retention::Pruner,
};
use crate::error::{Error, ErrorKind, Result};

/// Starts the writer. It ends after [`Shared::begin_close`], once everything queued is settled.
pub(super) fn spawn(
    connection: Connection,
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
) -> Result<()> {
    thread::Builder::new()
        .name("hms-store".into())
        .stack_size(512 * 1024)
        .spawn(move || Writer { connection, shared, pruner: Pruner::default() }.run(reader))
        .map(drop)
        .map_err(|e| Error::io("cannot start the store's writer thread", &e))
}

struct Writer {
    connection: Connection,
    shared: Arc<Shared>,
    pruner: Pruner,
}

impl Writer {
    fn run(mut self, reader: Option<JoinHandle<()>>) {
        while let Turn::Batch(batch) = self.shared.next_turn() {
            self.batch(batch);
            self.housekeeping();
        }
        if let Some(reader) = reader {
            // It ends when its queue is empty; a panic in a read was contained there.
            let _ = reader.join();
        }
        let Self { connection, shared, .. } = self;
        let outcome = close(connection, &shared);
        shared.finish_close(outcome);
    }

    /// One transaction for all of `batch`, a savepoint for each, acknowledgements after the commit.
    fn batch(&mut self, batch: Vec<Entry>) {
        let (flushes, jobs): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|entry| entry.class == Class::Flush);
        let outcome = if jobs.is_empty() { Ok(()) } else { self.transaction(jobs) };
        for entry in flushes {
            self.shared.settle(entry, outcome.clone());
        }
    }

    /// `Err` when the disk failed.
    fn transaction(&mut self, jobs: Vec<Entry>) -> Result<()> {
        if let Err(e) = execute(&self.connection, "BEGIN IMMEDIATE") {
            return self.abandon(jobs.into_iter().map(|entry| (entry, Ok(()))).collect(), e);
        }
        let mut ran: Vec<(Entry, Result<()>)> = Vec::with_capacity(jobs.len());
        let mut jobs = jobs.into_iter();
        while let Some(mut entry) = jobs.next() {
            let outcome = self.savepoint(&mut entry);
            if self.connection.is_autocommit() {
                // SQLite gave up the whole transaction. What was not tried yet is, in another one.
                self.shared.put_back(jobs.collect());
                let cause = outcome.as_ref().err().cloned().unwrap_or_else(|| {
                    Error::internal("a store job ended the transaction that it shares with others")
                });
                ran.push((entry, outcome));
                return self.abandon(ran, cause);
            }
            ran.push((entry, outcome));
        }
        if let Err(e) = execute(&self.connection, "COMMIT") {
            return self.abandon(ran, e);
        }
        self.conclude(ran)
    }

    /// Runs one job so that its failure undoes it alone.
    fn savepoint(&self, entry: &mut Entry) -> Result<()> {
        let connection = &self.connection;
        execute(connection, "SAVEPOINT job")?;
        let outcome = catch_unwind(AssertUnwindSafe(|| entry.job.run(connection)))
            .unwrap_or_else(|payload| Err(panicked(&*payload)))
            .map_err(|e| locate(e, &self.shared.path));
        if connection.is_autocommit() {
            return outcome;
        }
        if outcome.is_err() {
            execute(connection, "ROLLBACK TO job")?;
        }
        execute(connection, "RELEASE job")?;
        outcome
    }

    /// The transaction stands: everyone learns their own outcome.
    fn conclude(&mut self, ran: Vec<(Entry, Result<()>)>) -> Result<()> {
        let disk = ran
            .iter()
            .filter(|(entry, _)| entry.class == Class::Kept)
            .find_map(|(_, outcome)| outcome.as_ref().err().filter(|e| is_transient(e)))
            .cloned();
        if ran.iter().any(|(_, outcome)| outcome.is_ok()) {
            self.shared.committed();
        }
        for (entry, outcome) in ran {
            self.shared.settle(entry, outcome);
        }
        match disk {
            Some(e) => {
                self.shared.failed(&e);
                Err(e)
            }
            None => Ok(()),
        }
    }

    /// The transaction is gone: who had succeeded in it fails with its cause.
    fn abandon(&mut self, ran: Vec<(Entry, Result<()>)>, cause: Error) -> Result<()> {
        if !self.connection.is_autocommit()
            && let Err(e) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(error = %e, "the store cannot roll back");
        }
        let cause = locate(cause, &self.shared.path);
        for (entry, outcome) in ran {
            // A transaction that one job broke is the disk's fault to all others: kept ones are tried again.
            let outcome = match outcome {
                Ok(()) if !is_transient(&cause) => {
                    Err(Error::new(ErrorKind::Io, format!("the transaction was given up: {cause}")))
                }
                Ok(()) => Err(cause.clone()),
                Err(e) => Err(e),
            };
            self.shared.settle(entry, outcome);
        }
        if is_transient(&cause) {
            self.shared.failed(&cause);
        }
        Err(cause)
    }

    /// Prunes in small steps: one when enough was written, the rest only while nobody waits.
    fn housekeeping(&mut self) {
        if !self.pruner.is_due(&self.connection) {
            return;
        }
        let retention = self.shared.retention();
        let tell = |table: &'static str, through: i64| self.shared.note_pruned(table, through);
        loop {
            match self.pruner.step(&self.connection, &retention, self.shared.clock.wall_ms(), &tell) {
                Ok(true) if self.shared.is_idle() => {}
                Ok(_) => return,
                Err(e) => {
                    tracing::warn!(error = %e, "the store cannot prune old records");
                    return;
                }
            }
        }
    }
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// Folds the log into the file, so that a clean stop leaves one file and the next open needs no full check.
fn close(connection: Connection, shared: &Shared) -> Result<()> {
    let folded = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(|e| locate(e.into(), &shared.path));
    connection.flush_prepared_statement_cache();
    let shut = connection.close().map_err(|(_, e)| locate(e.into(), &shared.path));
    match shared.given_up() {
        Some(e) => Err(e),
        None => folded.and(shut),
    }
}
