//! The publisher's end of a subscription: what it wants, its queue, and its counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use hms_queue::{Overflow, Permit, PushError, Queue};
use serde::Serialize;

use super::{filter::Filter, model::Event, subject::Pattern};

/// One subscription, as publishers see it.
pub(super) struct Sink {
    /// Ascending in the order of subscribing.
    pub(super) id: u64,
    pub(super) patterns: Vec<Pattern>,
    pub(super) filter: Option<Filter>,
    pub(super) queue: Queue<Arc<Event>>,
    /// Set for one that follows the journal.
    pub(super) missed: Option<Missed>,
    /// Nothing is to be delivered any more.
    pub(super) cancelled: AtomicBool,
}

/// What a follower must read from the journal because its queue had no room: the greatest sequence of
/// such an event. Written before any later event is queued, so whoever takes that one sees this.
#[derive(Default)]
pub(super) struct Missed(AtomicU64);

impl Missed {
    pub(super) fn through(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A reference to a sink, equal to another if it is the same sink.
#[derive(Clone)]
pub(super) struct Target(pub(super) Arc<Sink>);

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl AsRef<Queue<Arc<Event>>> for Target {
    fn as_ref(&self) -> &Queue<Arc<Event>> {
        &self.0.queue
    }
}

/// A place that [`Bus::publish_wait`](super::Bus::publish_wait) kept for its event.
pub(super) type Place = (u64, Permit<Arc<Event>, Target>);

impl Sink {
    /// Whether the filter depends on the sequence, and so must wait until there is one.
    pub(super) fn needs_sequence(&self) -> bool {
        self.filter.as_ref().is_some_and(Filter::needs_sequence)
    }

    /// Whether `event`, whose kind matches, meets the filter.
    pub(super) fn admits(&self, event: &Event) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(event))
    }

    /// Queues `event`, in the place kept for it if there is one. Never waits.
    pub(super) fn deliver(&self, event: &Arc<Event>, places: &mut Vec<Place>) {
        if let Some(at) = places.iter().position(|(id, _)| *id == self.id) {
            // Closed means cancelled meanwhile: nobody wants it any more.
            let _ = places.swap_remove(at).1.push(event.clone());
            return;
        }
        match self.queue.push(event.clone()) {
            Ok(_) | Err(PushError::Closed(_)) => {}
            Err(PushError::Full(event)) => match (&self.missed, event.sequence) {
                (Some(missed), Some(sequence)) => {
                    missed.0.fetch_max(sequence, Ordering::Release);
                    // The consumer may have emptied the queue since: it must not sleep on this.
                    self.queue.nudge();
                }
                _ => self.queue.record_lost(1),
            },
        }
    }

    pub(super) fn stats(&self) -> SubscriptionStats {
        let queue = self.queue.stats();
        SubscriptionStats {
            id: self.id,
            patterns: self.patterns.iter().map(ToString::to_string).collect(),
            filter: self.filter.as_ref().map(|filter| filter.source().to_owned()),
            follows_journal: self.missed.is_some(),
            capacity: self.queue.capacity(),
            overflow: self.queue.overflow(),
            queued: queue.queued,
            delivered: queue.taken,
            lost: queue.lost,
            filter_errors: self.filter.as_ref().map_or(0, Filter::errors),
        }
    }
}

/// A subscription in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionStats {
    /// Its number.
    pub id: u64,
    /// What it asked for.
    pub patterns: Vec<String>,
    /// Its filter.
    pub filter: Option<String>,
    /// Whether it follows the journal, and so loses no journaled event.
    pub follows_journal: bool,
    /// How many events its queue holds.
    pub capacity: usize,
    /// What happens when the queue is full.
    #[serde(skip)]
    pub overflow: Overflow,
    /// Events that wait in the queue.
    pub queued: usize,
    /// Events that its consumer took from the queue (what a follower read from the journal is not
    /// among them, and what it threw away as already known is).
    pub delivered: u64,
    /// Events that it lost.
    pub lost: u64,
    /// Events on which its filter failed.
    pub filter_errors: u64,
}
