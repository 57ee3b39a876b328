//! Behaviour on real threads, and a model that the queue must agree with, operation by operation.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use proptest::prelude::*;

use crate::{Batch, Closed, Overflow, PushError, Pushed, Queue, RecvError};

const LONG: Duration = Duration::from_secs(60);

/// Drives `future` on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_idle_queue_is_small() {
    let arc_counts = 2 * size_of::<usize>();
    assert!(size_of::<Queue<Arc<()>>>() + arc_counts < 200, "{}", size_of::<Queue<Arc<()>>>());
    let queue = Queue::new(10_000, Overflow::Reject);
    assert_eq!(queue.lock().items.capacity(), 0);
    for n in 0..1_000 {
        queue.push(n).unwrap();
    }
    while queue.try_pop().is_some() {}
    assert_eq!(queue.lock().items.capacity(), 0, "the buffer of a burst is given back");
}

#[test]
fn gaps_are_reported_where_they_are() {
    let queue = Queue::new(2, Overflow::DropNewest);
    let outcomes: Vec<_> = (0..4).map(|n| queue.push(n).unwrap()).collect();
    assert_eq!(outcomes, [Pushed::Stored, Pushed::Stored, Pushed::DroppedNewest, Pushed::DroppedNewest]);
    assert_eq!(queue.try_pop(), Some(0));
    queue.push(4).unwrap();
    queue.push(5).unwrap();
    let next = || queue.recv_timeout(9, LONG).unwrap();
    assert_eq!(next(), Batch { items: vec![1], lost_before: 0 });
    assert_eq!(next(), Batch { items: vec![4], lost_before: 2 });
    assert_eq!(next(), Batch { items: vec![], lost_before: 1 }, "a loss at the end needs no item to be told");
    assert_eq!(queue.stats().lost, 3);
}

#[test]
fn reject_and_block_give_the_item_back() {
    for overflow in [Overflow::Reject, Overflow::Block { deadline: LONG }] {
        let queue = Queue::new(1, overflow);
        queue.push(1).unwrap();
        assert_eq!(queue.push(2), Err(PushError::Full(2)));
        queue.close();
        assert_eq!(queue.push(3), Err(PushError::Closed(3)));
        assert_eq!(queue.stats().lost, 0);
        assert_eq!(queue.recv_timeout(9, LONG).unwrap().items, [1]);
        assert_eq!(queue.recv_timeout(9, LONG), Err(RecvError::Closed));
    }
}

#[test]
fn a_wait_ends_in_time() {
    let queue = Queue::<u8>::new(1, Overflow::Reject);
    assert_eq!(queue.recv_timeout(1, Duration::from_millis(1)), Err(RecvError::Timeout));
    assert_eq!(queue.recv_timeout(1, Duration::ZERO), Err(RecvError::Timeout));
}

#[test]
fn a_nudge_wakes_with_nothing() {
    let queue = Arc::new(Queue::<u8>::new(1, Overflow::Reject));
    let other = queue.clone();
    let nudger = thread::spawn(move || other.nudge());
    assert_eq!(block_on(queue.recv_batch(1)), Some(Batch { items: vec![], lost_before: 0 }));
    nudger.join().unwrap();
    assert_eq!(queue.pop_batch(&mut Vec::new(), 1), None, "one nudge is one wake-up");
}

#[test]
fn a_producer_that_gives_up_leaves_nothing_behind() {
    let queue = Queue::new(1, Overflow::Block { deadline: LONG });
    queue.push(1).unwrap();
    {
        let mut first = queue.push_wait(2);
        let mut second = queue.push_wait(3);
        assert!(poll_once(&mut first).is_pending());
        assert!(poll_once(&mut second).is_pending());
        drop(first);
        assert_eq!(queue.try_pop(), Some(1));
        assert_eq!(poll_once(&mut second), Poll::Ready(Ok(())));
    }
    assert_eq!((queue.try_pop(), queue.try_pop()), (Some(3), None));
    assert!(queue.lock().producers.take().is_empty());
}

#[test]
fn producers_woken_together_do_not_take_each_others_place() {
    let queue = Queue::new(1, Overflow::Block { deadline: LONG });
    queue.push(0).unwrap();
    let mut first = queue.push_wait(1);
    assert!(poll_once(&mut first).is_pending());
    assert_eq!(queue.try_pop(), Some(0));
    queue.push(9).unwrap(); // somebody else was quicker than `first`
    let mut second = queue.push_wait(2);
    assert!(poll_once(&mut second).is_pending());
    assert!(poll_once(&mut first).is_pending());
    assert_eq!(queue.lock().producers.take().len(), 2);
}

#[test]
fn a_permit_keeps_its_place() {
    let queue = Arc::new(Queue::new(1, Overflow::DropOldest));
    let permit = block_on(Queue::reserve(queue.clone())).unwrap();
    assert_eq!(queue.push(1), Ok(Pushed::DroppedNewest), "the only place is reserved");
    permit.push(2).unwrap();
    assert_eq!(queue.recv_timeout(1, LONG).unwrap(), Batch { items: vec![2], lost_before: 1 });
    let permit = block_on(Queue::reserve(queue.clone())).unwrap();
    queue.close();
    assert_eq!(permit.push(3), Err(PushError::Closed(3)));
    assert!(matches!(block_on(Queue::reserve(queue)), Err(Closed)));
}

#[test]
fn discarding_drops_items_outside_the_lock() {
    struct Looks(Arc<Queue<Looks>>);
    impl Drop for Looks {
        fn drop(&mut self) {
            let _ = self.0.stats(); // would hang if the lock were held
        }
    }
    let queue = Arc::new(Queue::new(1, Overflow::DropOldest));
    queue.push(Looks(queue.clone())).unwrap();
    queue.push(Looks(queue.clone())).unwrap();
    assert_eq!(queue.close_and_discard(), 1);
    assert_eq!((queue.len(), queue.stats().lost), (0, 1));
}

#[test]
fn many_producers_one_consumer_nothing_unaccounted() {
    const PRODUCERS: u64 = 4;
    const EACH: u64 = 20_000;
    let queue = Arc::new(Queue::new(64, Overflow::DropOldest));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let queue = queue.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    queue.push((producer, n)).unwrap();
                }
            })
        })
        .collect();
    let closer = {
        let queue = queue.clone();
        thread::spawn(move || {
            for producer in producers {
                producer.join().unwrap();
            }
            queue.close();
        })
    };
    let (mut taken, mut lost) = (0, 0);
    let mut last = [None; PRODUCERS as usize];
    while let Ok(batch) = queue.recv_timeout(32, LONG) {
        lost += batch.lost_before;
        for (producer, n) in batch.items {
            assert!(last[producer as usize] < Some(n), "order within a producer");
            last[producer as usize] = Some(n);
            taken += 1;
        }
    }
    closer.join().unwrap();
    assert_eq!(taken + lost, PRODUCERS * EACH);
    assert_eq!((queue.stats().taken, queue.stats().lost), (taken, lost));
}

/// What a queue is, said as simply as possible: a list of items and gaps.
#[derive(Default)]
struct Model {
    slots: VecDeque<Slot>,
}

#[derive(Debug, PartialEq)]
enum Slot {
    Item(u32),
    Lost,
}

impl Model {
    fn items(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Item(_))).count()
    }

    fn push(&mut self, item: u32, capacity: usize, overflow: Overflow) {
        if self.items() < capacity {
            self.slots.push_back(Slot::Item(item));
            return;
        }
        match overflow {
            Overflow::DropNewest => self.slots.push_back(Slot::Lost),
            Overflow::DropOldest => {
                let oldest = self.slots.iter().position(|slot| matches!(slot, Slot::Item(_))).unwrap();
                self.slots[oldest] = Slot::Lost;
                self.slots.push_back(Slot::Item(item));
            }
            Overflow::Reject | Overflow::Block { .. } => {}
        }
    }

    fn take(&mut self, max: usize) -> Option<(u64, Vec<u32>)> {
        if self.slots.is_empty() {
            return None;
        }
        let (mut lost, mut items) = (0, Vec::new());
        while let Some(Slot::Lost) = self.slots.front() {
            self.slots.pop_front();
            lost += 1;
        }
        while items.len() < max
            && let Some(Slot::Item(item)) = self.slots.front()
        {
            items.push(*item);
            self.slots.pop_front();
        }
        Some((lost, items))
    }
}

#[derive(Debug, Clone)]
enum Op {
    Push,
    Take(usize),
    Lose,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![6 => Just(Op::Push), 2 => (1usize..6).prop_map(Op::Take), 1 => Just(Op::Lose)]
}

proptest! {
    #[test]
    fn agrees_with_the_model(
        capacity in 1usize..6,
        overflow in prop_oneof![Just(Overflow::DropOldest), Just(Overflow::DropNewest), Just(Overflow::Reject)],
        ops in prop::collection::vec(op(), 0..200),
    ) {
        let queue = Queue::new(capacity, overflow);
        let mut model = Model::default();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Push => {
                    let _ = queue.push(n as u32);
                    model.push(n as u32, capacity, overflow);
                }
                Op::Take(max) => {
                    let mut items = Vec::new();
                    let got = queue.pop_batch(&mut items, max).map(|lost| (lost, items));
                    prop_assert_eq!(got, model.take(max));
                }
                Op::Lose => {
                    queue.record_lost(1);
                    model.slots.push_back(Slot::Lost);
                }
            }
            prop_assert_eq!(queue.len(), model.items());
        }
    }
}

#[test]
fn what_waits_is_bounded_by_weight_as_well() {
    let weigh = |text: &String| text.len();
    let queue = Queue::new(8, Overflow::DropOldest).weighed(10, weigh);
    for text in ["aaaa", "bbbb", "cc"] {
        assert_eq!(queue.push(text.to_owned()).unwrap(), Pushed::Stored);
    }
    // Ten are there: the oldest goes, and that is enough.
    assert_eq!(queue.push("dddddddd".to_owned()).unwrap(), Pushed::DroppedOldest);
    // Now several have to.
    assert_eq!(queue.push("e".to_owned()).unwrap(), Pushed::DroppedOldest);
    let batch = queue.recv_timeout(9, Duration::from_secs(30)).unwrap();
    assert_eq!((batch.items, batch.lost_before), (vec!["dddddddd".to_owned(), "e".to_owned()], 3));
    // What was taken weighs nothing any more, and what is heavier than all of them fits an empty queue.
    assert_eq!(queue.push("x".repeat(99)).unwrap(), Pushed::Stored);
    assert_eq!(queue.try_pop().unwrap().len(), 99);
    assert_eq!(queue.push("f".to_owned()).unwrap(), Pushed::Stored);

    let queue = Queue::new(8, Overflow::Reject).weighed(4, weigh);
    queue.push("aaaa".to_owned()).unwrap();
    assert!(matches!(queue.push("b".to_owned()), Err(PushError::Full(_))));
    assert_eq!(queue.close_and_discard(), 1);
}
