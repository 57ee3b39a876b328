//! The wake-ups, under every interleaving that loom finds.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p hms-queue --lib --release`

use loom::{future::block_on, sync::Arc, thread};
use std::time::Duration;

use crate::{Overflow, Queue, RecvError};

fn queue(capacity: usize, overflow: Overflow) -> Arc<Queue<u32>> {
    Arc::new(Queue::new(capacity, overflow))
}

/// loom's `Arc` is not std's: this is what [`Queue::reserve`] and the tests share.
struct Shared(Arc<Queue<u32>>);

impl AsRef<Queue<u32>> for Shared {
    fn as_ref(&self) -> &Queue<u32> {
        &self.0
    }
}

/// Two producers and a task that waits: everything arrives, each producer's items in order, and
/// the task is never left asleep.
#[test]
fn task_never_misses_a_push() {
    loom::model(|| {
        let queue = queue(4, Overflow::Reject);
        let producers: Vec<_> = [10, 20]
            .into_iter()
            .map(|from| {
                let queue = queue.clone();
                thread::spawn(move || queue.push(from).unwrap())
            })
            .collect();
        queue.push(30).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let batch = block_on(queue.recv_batch(8)).unwrap();
            assert_eq!(batch.lost_before, 0);
            seen.extend(batch.items);
        }
        seen.sort_unstable();
        assert_eq!(seen, [10, 20, 30]);
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

/// The end is seen after what was pushed before it, never instead of it.
#[test]
fn close_wakes_and_drains() {
    loom::model(|| {
        let queue = queue(4, Overflow::Reject);
        let other = queue.clone();
        let producer = thread::spawn(move || {
            other.push(1).unwrap();
            other.close();
        });
        let mut seen = Vec::new();
        while let Some(batch) = block_on(queue.recv_batch(8)) {
            seen.extend(batch.items);
        }
        assert_eq!(seen, [1]);
        producer.join().unwrap();
    });
}

/// A thread parked in `recv_timeout` (loom's wait does not time out) is woken by push and close.
#[test]
fn parked_thread_never_misses_a_push() {
    loom::model(|| {
        let queue = queue(2, Overflow::Reject);
        let other = queue.clone();
        let producer = thread::spawn(move || {
            other.push(1).unwrap();
            other.close();
        });
        let long = Duration::from_secs(1 << 30);
        let mut seen = Vec::new();
        let end = loop {
            match queue.recv_timeout(8, long) {
                Ok(batch) => seen.extend(batch.items),
                Err(end) => break end,
            }
        };
        assert_eq!((seen, end), (vec![1], RecvError::Closed));
        producer.join().unwrap();
    });
}

/// A waiting producer gets in when the consumer makes room, without overfilling.
#[test]
fn producer_never_misses_room() {
    loom::model(|| {
        let queue = queue(1, Overflow::Block { deadline: Duration::MAX });
        let other = queue.clone();
        let producer = thread::spawn(move || {
            block_on(other.push_wait(1)).unwrap();
            block_on(other.push_wait(2)).unwrap();
        });
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let batch = block_on(queue.recv_batch(8)).unwrap();
            assert_eq!((batch.items.len(), batch.lost_before), (1, 0));
            seen.extend(batch.items);
        }
        assert_eq!(seen, [1, 2]);
        producer.join().unwrap();
    });
}

/// A permit that is dropped passes its place on to the producer that waits.
#[test]
fn dropped_permit_passes_its_place_on() {
    loom::model(|| {
        let queue = queue(1, Overflow::Block { deadline: Duration::MAX });
        let permit = block_on(Queue::reserve(Shared(queue.clone()))).unwrap();
        let other = queue.clone();
        let producer = thread::spawn(move || block_on(other.push_wait(7)).unwrap());
        drop(permit);
        producer.join().unwrap();
        assert_eq!(queue.try_pop(), Some(7));
    });
}

/// Items and counted losses add up, and the gap is reported where it was.
#[test]
fn losses_are_exact() {
    loom::model(|| {
        let queue = queue(1, Overflow::DropOldest);
        let other = queue.clone();
        let producer = thread::spawn(move || {
            for n in 1..=3 {
                other.push(n).unwrap();
            }
            other.close();
        });
        let mut next = 1;
        while let Some(batch) = block_on(queue.recv_batch(8)) {
            next += batch.lost_before as u32;
            for item in batch.items {
                assert_eq!(item, next);
                next += 1;
            }
        }
        assert_eq!(next, 4);
        producer.join().unwrap();
    });
}

/// After `close_and_discard` returns nothing is received.
#[test]
fn discard_is_a_barrier() {
    loom::model(|| {
        let queue = queue(2, Overflow::Reject);
        let other = queue.clone();
        let producer = thread::spawn(move || drop(other.push(1)));
        queue.close_and_discard();
        assert_eq!(block_on(queue.recv_batch(8)), None);
        producer.join().unwrap();
        assert_eq!((queue.try_pop(), block_on(queue.recv_batch(8))), (None, None));
    });
}
