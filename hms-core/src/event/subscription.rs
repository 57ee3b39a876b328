//! The consumer's end: batches, taken by a task or by a thread.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use hms_queue::{Overflow, RecvError};

use super::{
    bus::Shared,
    follow::Follow,
    journal::Journal,
    model::Event,
    sink::{Sink, SubscriptionStats},
};
use crate::Error;

/// The capacity of a subscription that asks for none.
pub const DEFAULT_CAPACITY: usize = 1024;
/// The largest capacity.
pub const MAX_CAPACITY: usize = 1 << 20;
/// Bytes of events that wait at most, about, whatever the capacity: more is more than fits.
pub const MAX_WAITING: usize = 64 << 20;

/// What a subscriber asks for.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// Which kinds; at least one pattern.
    pub patterns: Vec<String>,
    /// A condition in CEL ([`Filter`](super::Filter)).
    pub filter: Option<String>,
    /// How many events wait at most.
    pub capacity: usize,
    /// What happens to those that do not fit: drop-oldest, drop-newest, or block (in
    /// [`Bus::publish_wait`](super::Bus::publish_wait); a plain publish does not wait, and loses the
    /// event). A subscription with `after_sequence` loses no journaled event, and of the others the newest.
    pub overflow: Overflow,
    /// Replay the journal from after this sequence (0: from its beginning), then go live.
    pub after_sequence: Option<u64>,
}

impl Subscribe {
    /// To events that one of `patterns` matches; live, [`DEFAULT_CAPACITY`], drop-oldest.
    pub fn to<P: Into<String>>(patterns: impl IntoIterator<Item = P>) -> Self {
        Self {
            patterns: patterns.into_iter().map(Into::into).collect(),
            filter: None,
            capacity: DEFAULT_CAPACITY,
            overflow: Overflow::DropOldest,
            after_sequence: None,
        }
    }

    /// Only those that meet `filter`.
    #[must_use]
    pub fn filter(mut self, filter: impl Into<String>) -> Self {
        self.filter = Some(filter.into());
        self
    }

    /// With room for `capacity` events and `overflow` for the rest.
    #[must_use]
    pub fn queue(mut self, capacity: usize, overflow: Overflow) -> Self {
        (self.capacity, self.overflow) = (capacity, overflow);
        self
    }

    /// From after `sequence` in the journal.
    #[must_use]
    pub fn after(mut self, sequence: u64) -> Self {
        self.after_sequence = Some(sequence);
        self
    }
}

/// Events in order, and what is missing before them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The events, oldest first. Empty when there is only a loss to tell.
    pub events: Vec<Arc<Event>>,
    /// How many were lost between the event before and the first of these.
    pub lost: u64,
    /// Retention removed the journal up to this sequence before the subscription had read it: how many
    /// of those it wanted is not known.
    pub pruned_through: Option<u64>,
}

/// A subscription. Dropping it cancels it.
///
/// One logical consumer; the other methods may be called from any thread meanwhile.
pub struct Subscription {
    shared: Arc<Shared>,
    sink: Arc<Sink>,
    follow: Option<Mutex<Follow>>,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, sink: Arc<Sink>, replay: Option<(Arc<dyn Journal>, u64)>) -> Self {
        let follow = replay.map(|(journal, after)| Mutex::new(Follow::new(journal, after)));
        Self { shared, sink, follow }
    }

    /// The number of the subscription, as [`SubscriptionStats`] shows it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.sink.id
    }

    /// Waits for events and takes at most `max`; `None` at the end: cancelled, the bus closed and all
    /// taken, or the journal unreadable ([`Subscription::error`]). Cancel-safe.
    pub async fn next_batch(&self, max: usize) -> Option<Batch> {
        poll_fn(|cx| self.poll_batch(cx, max)).await
    }

    /// Takes at most `max` events if there are any at once. On a subscription that follows the journal
    /// this also moves a reading on, so it may be called until it brings something.
    pub fn try_next_batch(&self, max: usize) -> Option<Batch> {
        match self.poll_batch(&mut Context::from_waker(Waker::noop()), max) {
            Poll::Ready(batch) => batch,
            Poll::Pending => None,
        }
    }

    /// Blocks this thread until events come, at most `timeout` of real time. For threads of the
    /// application's own; a task uses [`Subscription::next_batch`].
    ///
    /// # Errors
    /// [`RecvError::Timeout`], or [`RecvError::Closed`] at the end.
    pub fn next_timeout(&self, max: usize, timeout: Duration) -> Result<Batch, RecvError> {
        match block_on(self.next_batch(max), timeout) {
            Some(Some(batch)) => Ok(batch),
            Some(None) => Err(RecvError::Closed),
            None => Err(RecvError::Timeout),
        }
    }

    /// Like [`Subscription::next_batch`], for hand-written futures. The last waker given is woken.
    pub fn poll_batch(&self, cx: &mut Context<'_>, max: usize) -> Poll<Option<Batch>> {
        if let Some(mut follow) = self.follow() {
            return follow.poll(cx, &self.sink, max);
        }
        let mut events = Vec::new();
        self.sink
            .queue
            .poll_recv(cx, &mut events, max)
            .map(|lost| lost.map(|lost| Batch { events, lost, pruned_through: None }))
    }

    /// Ends the subscription. When this returns nothing more is delivered; a consumer that waits sees the end.
    pub fn cancel(&self) {
        self.shared.remove(&self.sink);
        self.sink.cancelled.store(true, Ordering::Release);
        let waiting = self.follow().and_then(|mut follow| follow.clear());
        if let Some(waker) = waiting {
            waker.wake();
        }
        self.sink.queue.close_and_discard();
    }

    /// Of a subscription that follows the journal: the sequence up to which everything was delivered.
    /// A later subscription continues there.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.follow().map(|follow| follow.cursor())
    }

    /// Why the subscription ended by itself, if it did.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        self.follow().and_then(|follow| follow.error())
    }

    /// The subscription in numbers.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        self.sink.stats()
    }

    fn follow(&self) -> Option<MutexGuard<'_, Follow>> {
        self.follow.as_ref().map(|follow| follow.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("stats", &self.stats()).finish()
    }
}

/// Drives `future` on this thread, which sleeps meanwhile; `None` when `timeout` passed first.
fn block_on<F: Future>(future: F, timeout: Duration) -> Option<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    // A timeout too long for the clock (`Duration::MAX`) means: no deadline.
    let deadline = Instant::now().checked_add(timeout);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(Duration::ZERO) => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}
