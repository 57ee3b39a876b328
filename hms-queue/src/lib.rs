//! The one bounded queue of HMS: event subscriptions and agent mailboxes stand on it.
//!
//! Many producers, one logical consumer. The consumer may be a task (`recv_batch`), a foreign thread
//! (`recv_timeout`) or a loop that only looks (`try_pop`); nothing polls. What does not fit is handled
//! by a stated [`Overflow`] policy and *reported where it was lost*: a batch never spans a gap, and says
//! how many items are missing before its first one.
//!
//! A crate of its own, without tokio, because its wake-ups are proved by loom (`RUSTFLAGS="--cfg loom"
//! cargo test -p hms-queue --release`), and tokio changes shape under that flag.
//!
//! Locks: one, a leaf. Wakers are cloned under it but woken and dropped outside, and so are the items:
//! whatever runs there may use the queue again.
#![forbid(unsafe_code)]

mod state;
mod wait;

#[cfg(all(loom, test))]
mod loom_tests;
#[cfg(all(not(loom), test))]
mod tests;

use std::{
    fmt,
    future::poll_fn,
    sync::PoisonError,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use state::State;
pub use wait::{Permit, PushWait, Reserve};

/// The locks: std's, or loom's where the model checker runs.
mod sync {
    #[cfg(loom)]
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    #[cfg(not(loom))]
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
}
use sync::{Condvar, Mutex, MutexGuard};

/// What happens to an item that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest waiting item makes room and counts as lost.
    DropOldest,
    /// The new item counts as lost.
    DropNewest,
    /// The producer gets its item back; nothing is lost.
    Reject,
    /// The producer waits, at most `deadline`, by [`Queue::push_wait`] or [`Queue::reserve`]; the
    /// queue has no clock, so the caller keeps the time. A plain `push` gets its item back, as by
    /// `Reject`.
    Block {
        /// How long the producer is willing to wait.
        deadline: Duration,
    },
}

/// What became of a pushed item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits for the consumer.
    Stored,
    /// It waits for the consumer, and the oldest item (or several) was lost for it.
    DroppedOldest,
    /// It was lost, and is counted.
    DroppedNewest,
}

/// The queue did not take the item; here it is back.
#[derive(PartialEq, Eq)]
pub enum PushError<T> {
    /// There is no room, and the policy is not to drop.
    Full(T),
    /// The queue was closed.
    Closed(T),
}

impl<T> PushError<T> {
    /// The item that was refused.
    pub fn into_item(self) -> T {
        match self {
            Self::Full(item) | Self::Closed(item) => item,
        }
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the queue is full",
            Self::Closed(_) => "the queue is closed",
        })
    }
}

impl<T> std::error::Error for PushError<T> {}

/// The queue was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the queue is closed")
    }
}

impl std::error::Error for Closed {}

/// Why a bounded wait of the consumer brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecvError {
    /// Nothing came in time.
    Timeout,
    /// The queue was closed and is drained.
    Closed,
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "nothing arrived in time",
            Self::Closed => "the queue is closed",
        })
    }
}

impl std::error::Error for RecvError {}

/// Items that followed one another without a gap.
///
/// `items` is empty when there is only a loss to report, or after [`Queue::nudge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<T> {
    /// The items, oldest first.
    pub items: Vec<T>,
    /// How many were lost between the item before and the first of these.
    pub lost_before: u64,
}

/// Counts of a queue since it was made, and what waits in it now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Items that wait.
    pub queued: usize,
    /// Items the consumer took.
    pub taken: u64,
    /// Items lost to the policy or reported lost by a producer.
    pub lost: u64,
}

/// A bounded queue. Share it in an `Arc`; every method may be called from any thread.
///
/// Nothing is allocated before the first item, and the buffer is given back when it runs empty.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    /// Where threads wait in `recv_timeout`. Notified only when one does: it costs a system call.
    arrived: Condvar,
    capacity: usize,
    overflow: Overflow,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("capacity", &self.capacity)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    /// An empty queue that holds `capacity` items (at least one).
    #[must_use]
    pub fn new(capacity: usize, overflow: Overflow) -> Self {
        Self { state: Mutex::new(State::new()), arrived: Condvar::new(), capacity: capacity.max(1), overflow }
    }

    /// The same with a bound on what its items weigh together by `of` (their bytes, say), which must always say
    /// the same of an item: there is room for one more while that is less than `most`.
    #[must_use]
    pub fn weighed(self, most: usize, of: fn(&T) -> usize) -> Self {
        self.lock().weigh(most, of);
        self
    }

    /// How many items fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The policy for what does not fit.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// Adds `item`, or does what the policy says. Never waits.
    ///
    /// # Errors
    /// [`PushError::Full`] by `Reject` and `Block`; [`PushError::Closed`] after a close.
    pub fn push(&self, item: T) -> Result<Pushed, PushError<T>> {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return Err(PushError::Closed(item));
        }
        if state.has_room(self.capacity) {
            state.append(item);
            self.signal(state);
            return Ok(Pushed::Stored);
        }
        match self.overflow {
            Overflow::DropOldest => {
                let mut oldest = state.lose_oldest();
                let mut more = Vec::new();
                // A heavy item may take the place of several.
                while !state.has_room(self.capacity)
                    && let Some(next) = state.lose_oldest()
                {
                    more.extend(oldest.replace(next));
                }
                if oldest.is_none() {
                    // Every place is reserved by producers that wait: there is no oldest.
                    return Ok(self.lose(state, item));
                }
                state.append(item);
                self.signal(state);
                drop((oldest, more));
                Ok(Pushed::DroppedOldest)
            }
            Overflow::DropNewest => Ok(self.lose(state, item)),
            Overflow::Reject | Overflow::Block { .. } => {
                drop(state);
                Err(PushError::Full(item))
            }
        }
    }

    fn lose(&self, mut state: MutexGuard<'_, State<T>>, item: T) -> Pushed {
        state.lose_at_end(1);
        self.signal(state);
        drop(item);
        Pushed::DroppedNewest
    }

    /// Adds `item` as soon as there is room, whatever the policy. Cancel by dropping: then the item
    /// was not added.
    pub fn push_wait(&self, item: T) -> PushWait<'_, T> {
        PushWait::new(self, item)
    }

    /// Waits for room and keeps it, so that a later push cannot fail for want of it.
    pub fn reserve<Q: AsRef<Self> + Unpin>(queue: Q) -> Reserve<T, Q> {
        Reserve::new(queue)
    }

    /// Counts `count` items as lost at this point of the stream: for a producer that gave up.
    pub fn record_lost(&self, count: u64) {
        let mut state = self.lock();
        if count > 0 && !state.closed {
            state.lose_at_end(count);
            self.signal(state);
        }
    }

    /// Wakes the consumer with whatever there is, be it an empty batch.
    pub fn nudge(&self) {
        let mut state = self.lock();
        state.nudged = true;
        self.signal(state);
    }

    /// Takes at most `max` items into `into`, if anything waits: `Some(lost_before)`.
    pub fn pop_batch(&self, into: &mut Vec<T>, max: usize) -> Option<u64> {
        let mut state = self.lock();
        let lost = state.take(into, max);
        self.made_room(state);
        lost
    }

    /// Takes the oldest item, if any. Losses before it show in [`Queue::stats`] alone.
    pub fn try_pop(&self) -> Option<T> {
        let mut state = self.lock();
        let item = state.take_one();
        self.made_room(state);
        item
    }

    /// Like [`Queue::pop_batch`], and registers `cx` when nothing waits; `None` means closed and
    /// drained. One consumer: the last waker registered is the one that is woken.
    pub fn poll_recv(&self, cx: &mut Context<'_>, into: &mut Vec<T>, max: usize) -> Poll<Option<u64>> {
        let mut state = self.lock();
        if let Some(lost) = state.take(into, max) {
            self.made_room(state);
            return Poll::Ready(Some(lost));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        let old = register(&mut state.consumer, cx);
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Waits for items and takes at most `max`; `None` means closed and drained. Cancel-safe.
    pub async fn recv_batch(&self, max: usize) -> Option<Batch<T>> {
        let mut items = Vec::new();
        let lost_before = poll_fn(|cx| self.poll_recv(cx, &mut items, max)).await?;
        Some(Batch { items, lost_before })
    }

    /// Waits for one item; `None` means closed and drained. Cancel-safe.
    pub async fn recv(&self) -> Option<T> {
        let mut one = Vec::new();
        loop {
            poll_fn(|cx| self.poll_recv(cx, &mut one, 1)).await?;
            if let Some(item) = one.pop() {
                return Some(item);
            }
        }
    }

    /// Blocks this thread until items come, at most `timeout` of real time. Not for tasks.
    ///
    /// # Errors
    /// [`RecvError::Timeout`], or [`RecvError::Closed`] once drained.
    pub fn recv_timeout(&self, max: usize, timeout: Duration) -> Result<Batch<T>, RecvError> {
        // A timeout too long for the clock (`Duration::MAX`) means: no deadline.
        let deadline = Instant::now().checked_add(timeout);
        let mut items = Vec::new();
        let mut state = self.lock();
        loop {
            if let Some(lost_before) = state.take(&mut items, max) {
                self.made_room(state);
                return Ok(Batch { items, lost_before });
            }
            if state.closed {
                return Err(RecvError::Closed);
            }
            state.parked += 1;
            let timed_out;
            (state, timed_out) = self.park(state, deadline);
            state.parked -= 1;
            // Something may have come in the last moment: look once more before giving up.
            if timed_out && !state.has_news() && !state.closed {
                return Err(RecvError::Timeout);
            }
        }
    }

    fn park<'a>(
        &'a self,
        state: MutexGuard<'a, State<T>>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, State<T>>, bool) {
        let Some(deadline) = deadline else {
            return (self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner), false);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (state, true);
        }
        let (state, result) = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        (state, result.timed_out())
    }

    /// Takes no more items. What waits can still be received; then the consumer sees the end.
    /// Waiting producers get their items back.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let producers = state.producers.take();
        self.signal(state);
        wake_all(producers);
    }

    /// Closes and throws away what waits: when this returns, nothing more is received. Returns how
    /// many items were thrown away (they do not count as lost).
    pub fn close_and_discard(&self) -> usize {
        let mut state = self.lock();
        state.closed = true;
        let discarded = state.discard();
        let producers = state.producers.take();
        self.signal(state);
        wake_all(producers);
        discarded.len()
    }

    /// Whether the queue was closed; items may still wait in it.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.lock();
        Stats { queued: state.items.len(), taken: state.taken, lost: state.lost }
    }

    /// Unlocks, then wakes the consumer wherever it waits.
    fn signal(&self, mut state: MutexGuard<'_, State<T>>) {
        let consumer = state.consumer.take();
        let parked = state.parked > 0;
        drop(state);
        if parked {
            self.arrived.notify_all();
        }
        if let Some(waker) = consumer {
            waker.wake();
        }
    }

    /// Unlocks, then wakes the producers that wait, if there is room for one. All of them: one that
    /// was woken may have given up since, and then nobody would pass the word on.
    fn made_room(&self, mut state: MutexGuard<'_, State<T>>) {
        let spare = state.release_spare();
        let producers = if state.has_room(self.capacity) { state.producers.take() } else { Vec::new() };
        drop(state);
        wake_all(producers);
        drop(spare);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> AsRef<Queue<T>> for Queue<T> {
    fn as_ref(&self) -> &Queue<T> {
        self
    }
}

/// Puts the waker of `cx` into `slot`; what it replaced is to be dropped outside the lock.
fn register(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => None,
        _ => slot.replace(cx.waker().clone()),
    }
}

fn wake_all(wakers: Vec<(u64, Waker)>) {
    for (_, waker) in wakers {
        waker.wake();
    }
}
