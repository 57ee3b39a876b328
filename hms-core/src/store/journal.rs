//! The journal: events that replay from a sequence number, across restarts of the host.
//!
//! **Sequence numbers are never reused**, not even after a `kill -9` that lost events nobody had been told
//! were stored. They are reserved in blocks: before [`Journal::open`] returns, the end of a block of
//! [`BLOCK`] numbers is committed as *reserved*; the host hands out numbers from memory; as soon as half a
//! block is used, the end of the next is committed in the background (as a kept record, so a full disk
//! delays it and does not lose it; half a block, half a million events, is the room for that). The next
//! host starts after what is reserved, so a kill costs a gap of at most a block. [`Journal::close`] gives
//! the rest of the block back: a clean restart leaves no gap.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};

use super::{Retention, Store, queue::Ack, retention::pruned_through};
use crate::error::{Error, Result};

/// The bounds that [`StoreOptions::default`](super::StoreOptions) sets.
pub const RETENTION: Retention = Retention {
    table: "journal",
    key: "sequence",
    time_ms: "time_ms",
    max_rows: 100_000,
    max_age: Duration::from_secs(30 * 86_400),
};

/// Sequence numbers reserved at a time. 2⁵³ (what JSON holds exactly) is enough for 8 thousand million kills.
pub const BLOCK: u64 = 1 << 20;

const NAME: &str = "journal";

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// Its number.
    pub sequence: u64,
    /// When it was published, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Its type, which is what subscriptions match.
    pub kind: String,
    /// Whom it is about.
    pub subject: Option<String>,
    /// The whole event as CloudEvents JSON.
    pub event: String,
}

/// The stored journal. Cheap to clone; any thread.
#[derive(Debug, Clone)]
pub struct Journal {
    store: Store,
    sequences: Arc<Sequences>,
}

#[derive(Debug)]
struct Sequences {
    first: u64,
    /// The greatest number that retention had removed when the journal was opened.
    pruned: u64,
    /// The highest number seen.
    used: AtomicU64,
    /// The end of the last block asked for.
    reserved: AtomicU64,
}

impl Journal {
    /// Reserves the first block of sequence numbers; ready when that is committed.
    ///
    /// # Errors
    /// The store's: without a reservation nothing may be numbered.
    pub async fn open(store: &Store) -> Result<Self> {
        let (first, pruned) =
            store.write(|c| Ok((reserve_block(c)?, pruned_through(c, RETENTION.table)?))).await?;
        let sequences = Sequences {
            first,
            pruned,
            used: AtomicU64::new(first - 1),
            reserved: AtomicU64::new(first - 1 + BLOCK),
        };
        Ok(Self { store: store.clone(), sequences: Arc::new(sequences) })
    }

    /// The number to give to the first event: greater than any that was ever handed out in this home.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.sequences.first
    }

    /// Stores an event: committed as soon as the disk allows. `ack` learns when it is, or that the disk failed
    /// (then it is tried again nevertheless), on the writer's thread; it is dropped uncalled when too many
    /// records wait or the store is closed. Never blocks.
    pub fn append_row(&self, row: JournalRow, ack: Option<Ack>) {
        self.submit(row.sequence, move |c| insert(c, &row), ack);
    }

    /// [`Journal::append_row`] of what `row` makes, on the writer's thread: a publisher does not wait for JSON.
    pub(super) fn append_event(
        &self,
        sequence: u64,
        row: impl Fn() -> JournalRow + Send + 'static,
        ack: Option<Ack>,
    ) {
        self.submit(sequence, move |c| insert(c, &row()), ack);
    }

    fn submit(
        &self,
        sequence: u64,
        insert: impl FnMut(&Connection) -> Result<()> + Send + 'static,
        ack: Option<Ack>,
    ) {
        self.note(sequence);
        if let Err(e) = self.store.keep(None, insert, ack) {
            tracing::error!(error = %e, sequence, "a journaled event is lost");
        }
    }

    /// Up to `limit` events after a sequence number, in order, of the types that `accept` wants. Sees every
    /// event that was appended before the call.
    ///
    /// # Errors
    /// The store's; the disk's when events wait for it, since a replay must not leave them out.
    pub async fn read_rows(
        &self,
        after: u64,
        accept: impl Fn(&str) -> bool + Send + 'static,
        limit: usize,
    ) -> Result<Vec<JournalRow>> {
        // What waits for the writer is invisible to the reader.
        self.store.flush().await?;
        self.store.read(move |c| select(c, after, accept, limit)).await
    }

    /// The greatest number that retention has removed; 0 for none.
    #[must_use]
    pub fn pruned_through(&self) -> u64 {
        self.sequences.pruned.max(self.store.inner.shared.pruned(RETENTION.table))
    }

    /// Gives unused numbers back, so that the next host goes on without a gap. Nothing may be numbered after.
    ///
    /// # Errors
    /// The store's; then the next host leaves a gap.
    pub async fn close(&self) -> Result<()> {
        let used = self.sequences.used.load(Relaxed);
        self.store.write(move |c| set_reserved(c, used)).await
    }

    /// Notes that `sequence` was handed out, and reserves more in good time.
    fn note(&self, sequence: u64) {
        self.sequences.used.fetch_max(sequence, Relaxed);
        let reserved = self.sequences.reserved.load(Relaxed);
        if sequence + BLOCK / 2 < reserved {
            return;
        }
        let next = sequence + BLOCK;
        // Of several threads that see the same need, one asks.
        if self.sequences.reserved.compare_exchange(reserved, next, Relaxed, Relaxed).is_ok() {
            let asked = self.store.keep(Some("journal.reserved"), move |c| raise_reserved(c, next), None);
            if let Err(e) = asked {
                self.sequences.reserved.store(reserved, Relaxed);
                tracing::error!(error = %e, "cannot reserve sequence numbers");
            }
        }
    }
}

fn insert(c: &Connection, row: &JournalRow) -> Result<()> {
    let JournalRow { sequence, time_ms, kind, subject, event } = row;
    c.prepare_cached("INSERT INTO journal VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        *sequence as i64,
        *time_ms as i64,
        kind,
        subject,
        event
    ])?;
    Ok(())
}

fn select(
    c: &Connection,
    after: u64,
    accept: impl Fn(&str) -> bool,
    limit: usize,
) -> Result<Vec<JournalRow>> {
    let mut statement = c.prepare_cached(
        "SELECT sequence, time_ms, type, subject, event FROM journal WHERE sequence > ?1 ORDER BY sequence",
    )?;
    let mut rows = statement.query([i64::try_from(after).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(row) = rows.next()? else { break };
        let kind = row.get_ref(2)?.as_str().map_err(|e| Error::internal(e.to_string()))?;
        if accept(kind) {
            found.push(JournalRow {
                sequence: row.get::<_, i64>(0)? as u64,
                time_ms: row.get::<_, i64>(1)? as u64,
                kind: kind.to_owned(),
                subject: row.get(3)?,
                event: row.get(4)?,
            });
        }
    }
    Ok(found)
}

/// Takes the next block; says its first number.
fn reserve_block(c: &Connection) -> Result<u64> {
    let reserved: Option<i64> =
        c.query_row("SELECT reserved FROM sequences WHERE name = ?1", [NAME], |row| row.get(0)).optional()?;
    let stored: Option<i64> = c.query_row("SELECT max(sequence) FROM journal", [], |row| row.get(0))?;
    let last = reserved.unwrap_or(0).max(stored.unwrap_or(0)) as u64;
    set_reserved(c, last + BLOCK)?;
    Ok(last + 1)
}

fn set_reserved(c: &Connection, reserved: u64) -> Result<()> {
    c.execute("INSERT OR REPLACE INTO sequences VALUES (?1, ?2)", params![NAME, reserved as i64])?;
    Ok(())
}

fn raise_reserved(c: &Connection, reserved: u64) -> Result<()> {
    c.execute(
        "UPDATE sequences SET reserved = max(reserved, ?2) WHERE name = ?1",
        params![NAME, reserved as i64],
    )?;
    Ok(())
}
