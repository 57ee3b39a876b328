//! What the lock of a queue guards: the items, the gaps between them, and who waits.
//!
//! Items have absolute positions (the first ever pushed is 0), and a gap is remembered by the position
//! of the item it precedes: the items stay dense, and a queue that never loses pays one null pointer.

use std::{collections::VecDeque, mem, task::Waker};

/// A buffer larger than this is given back when it runs empty; a smaller one is kept for the next items.
const KEEP: usize = 16;

/// `count` items were lost just before the item at position `at`.
struct Gap {
    at: u64,
    count: u64,
}

/// What the items weigh together, where that is bounded too.
struct Weights<T> {
    of: fn(&T) -> usize,
    most: usize,
    now: usize,
}

/// The guarded part of a queue.
pub(crate) struct State<T> {
    pub(crate) items: VecDeque<T>,
    /// Position of the front item (of the next one, when there is none).
    head: u64,
    /// Ascending by position; a position occurs once.
    #[expect(clippy::box_collection, reason = "an idle mailbox pays 8 bytes for it, not 32")]
    gaps: Option<Box<VecDeque<Gap>>>,
    weights: Option<Box<Weights<T>>>,
    pub(crate) taken: u64,
    pub(crate) lost: u64,
    /// Places that permits hold.
    pub(crate) reserved: usize,
    /// The consumer's task, when it waits.
    pub(crate) consumer: Option<Waker>,
    /// Producers' tasks that wait for room.
    pub(crate) producers: Producers,
    /// Threads in `recv_timeout`.
    pub(crate) parked: u32,
    pub(crate) closed: bool,
    /// The consumer is to be woken though there may be nothing.
    pub(crate) nudged: bool,
}

impl<T> State<T> {
    pub(crate) fn new() -> Self {
        Self {
            items: VecDeque::new(),
            head: 0,
            gaps: None,
            weights: None,
            taken: 0,
            lost: 0,
            reserved: 0,
            consumer: None,
            producers: Producers::default(),
            parked: 0,
            closed: false,
            nudged: false,
        }
    }

    /// Bounds what the items weigh together, by `of`: there is room while that is less than `most`.
    pub(crate) fn weigh(&mut self, most: usize, of: fn(&T) -> usize) {
        let now = self.items.iter().map(of).sum();
        self.weights = Some(Box::new(Weights { of, most, now }));
    }

    pub(crate) fn has_room(&self, capacity: usize) -> bool {
        self.items.len() + self.reserved < capacity && self.weights.as_ref().is_none_or(|w| w.now < w.most)
    }

    /// Adds the newest item, whether there is room or not.
    pub(crate) fn append(&mut self, item: T) {
        if let Some(weights) = &mut self.weights {
            weights.now = weights.now.saturating_add((weights.of)(&item));
        }
        self.items.push_back(item);
    }

    /// The first `count` items are about to go.
    fn unweigh(&mut self, count: usize) {
        if let Some(weights) = &mut self.weights {
            let gone: usize = self.items.iter().take(count).map(weights.of).sum();
            weights.now = weights.now.saturating_sub(gone);
        }
    }

    /// Whether the consumer has something to take or to learn.
    pub(crate) fn has_news(&self) -> bool {
        !self.items.is_empty() || self.gaps.is_some() || self.nudged
    }

    /// Loses the oldest item, if there is one: it is to be dropped outside the lock.
    pub(crate) fn lose_oldest(&mut self) -> Option<T> {
        self.unweigh(1);
        let oldest = self.items.pop_front()?;
        let count = 1 + self.take_gap_at_head();
        self.head += 1;
        self.lost += 1;
        let gaps = self.gaps.get_or_insert_default();
        match gaps.front_mut() {
            Some(next) if next.at == self.head => next.count += count,
            _ => gaps.push_front(Gap { at: self.head, count }),
        }
        Some(oldest)
    }

    /// Notes `count` lost after the newest item.
    pub(crate) fn lose_at_end(&mut self, count: u64) {
        self.lost += count;
        let at = self.head + self.items.len() as u64;
        let gaps = self.gaps.get_or_insert_default();
        match gaps.back_mut() {
            Some(last) if last.at == at => last.count += count,
            _ => gaps.push_back(Gap { at, count }),
        }
    }

    /// Moves at most `max` items, up to the next gap, to `into`; says how many were lost before
    /// them. `None` when there is nothing to take or to learn.
    pub(crate) fn take(&mut self, into: &mut Vec<T>, max: usize) -> Option<u64> {
        if !self.has_news() {
            return None;
        }
        self.nudged = false;
        let lost_before = self.take_gap_at_head();
        let mut count = self.items.len().min(max.max(1));
        if let Some(gap) = self.gaps.as_ref().and_then(|gaps| gaps.front()) {
            count = count.min((gap.at - self.head) as usize);
        }
        self.unweigh(count);
        into.extend(self.items.drain(..count));
        self.head += count as u64;
        self.taken += count as u64;
        Some(lost_before)
    }

    /// Takes the oldest item and forgets the gap before it.
    pub(crate) fn take_one(&mut self) -> Option<T> {
        self.take_gap_at_head();
        self.unweigh(1);
        let item = self.items.pop_front()?;
        self.head += 1;
        self.taken += 1;
        Some(item)
    }

    fn take_gap_at_head(&mut self) -> u64 {
        let Some(gaps) = self.gaps.as_mut() else {
            return 0;
        };
        let count = gaps.pop_front_if(|gap| gap.at == self.head).map_or(0, |gap| gap.count);
        if gaps.is_empty() {
            self.gaps = None;
        }
        count
    }

    /// Takes out everything that waits, losses included.
    pub(crate) fn discard(&mut self) -> VecDeque<T> {
        self.head += self.items.len() as u64;
        self.unweigh(self.items.len());
        self.gaps = None;
        self.nudged = false;
        mem::take(&mut self.items)
    }

    /// The buffer of a queue that ran empty after a burst, to be freed outside the lock: thousands
    /// of idle mailboxes must not each keep the size of their worst moment.
    pub(crate) fn release_spare(&mut self) -> Option<VecDeque<T>> {
        (self.items.is_empty() && self.items.capacity() > KEEP).then(|| mem::take(&mut self.items))
    }
}

/// Producers' tasks that wait for room. Boxed, because most queues never see one.
#[derive(Default)]
pub(crate) struct Producers(Option<Box<List>>);

#[derive(Default)]
struct List {
    /// Keys are never used twice, so that a producer which was woken but has not run yet cannot
    /// mistake another's place for its own.
    next: u64,
    waiting: Vec<(u64, Waker)>,
}

impl Producers {
    /// Registers `waker` under `key`, choosing one if there is none yet. What it replaced is to be
    /// dropped outside the lock.
    pub(crate) fn register(&mut self, key: &mut Option<u64>, waker: &Waker) -> Option<Waker> {
        let list = self.0.get_or_insert_default();
        if let Some((_, old)) = key.and_then(|key| list.waiting.iter_mut().find(|(k, _)| *k == key)) {
            return if old.will_wake(waker) { None } else { Some(mem::replace(old, waker.clone())) };
        }
        list.waiting.push((list.next, waker.clone()));
        *key = Some(list.next);
        list.next += 1;
        None
    }

    /// Removes `key`, whose producer gave up or got in.
    pub(crate) fn remove(&mut self, key: u64) -> Option<Waker> {
        let waiting = &mut self.0.as_mut()?.waiting;
        let at = waiting.iter().position(|(k, _)| *k == key)?;
        Some(waiting.remove(at).1)
    }

    /// Everyone who waits, to be woken outside the lock.
    pub(crate) fn take(&mut self) -> Vec<(u64, Waker)> {
        self.0.as_mut().map_or_else(Vec::new, |list| mem::take(&mut list.waiting))
    }
}
