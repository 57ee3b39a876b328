//! The bus as a whole: order, losses, replay over a restart, and going live without gap or duplicate.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    thread,
    time::Duration,
};

use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::{
    Error, ErrorKind, Result,
    clock::{ManualClock, Rng},
};

const LONG: Duration = Duration::from_secs(60);

fn bus_seeded(seed: u64) -> (Bus, Arc<ManualClock>) {
    let clock = ManualClock::shared();
    (Bus::new(clock.clone(), Arc::new(Rng::seeded(seed))), clock)
}

fn bus() -> Bus {
    bus_seeded(1).0
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn draft(kind: &str, n: u64) -> EventDraft {
    EventDraft::json(kind, json!(n))
}

fn number(event: &Event) -> u64 {
    event.data.as_json().unwrap().as_u64().unwrap()
}

fn numbers(batch: &Batch) -> Vec<u64> {
    batch.events.iter().map(|event| number(event)).collect()
}

/// Keeps what it is given in memory; a read answers after a turn of the executor, and can be held.
#[derive(Default)]
struct MemoryJournal {
    kept: Mutex<Vec<Arc<Event>>>,
    pruned: AtomicU64,
    held: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
    full: AtomicBool,
}

impl MemoryJournal {
    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Event>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prune(&self, through: u64) {
        self.kept().retain(|event| event.sequence > Some(through));
        self.pruned.store(through, Ordering::SeqCst);
    }

    fn release(&self) {
        self.held.store(false, Ordering::SeqCst);
        for waker in self.waiting.lock().unwrap().drain(..) {
            waker.wake();
        }
    }

    fn page(&self, after: u64, patterns: &[Pattern], limit: usize) -> Vec<Arc<Event>> {
        let wanted = |event: &&Arc<Event>| {
            event.sequence > Some(after) && patterns.iter().any(|pattern| pattern.matches(&event.kind))
        };
        self.kept().iter().filter(wanted).take(limit).cloned().collect()
    }
}

/// The handle that a bus gets; the journal itself outlives the bus, as a database does.
struct Handle(Arc<MemoryJournal>);

impl Journal for Handle {
    fn append(&self, event: Arc<Event>, ack: Option<Ack>) {
        let outcome = if self.0.full.load(Ordering::SeqCst) {
            Err(Error::new(ErrorKind::DiskFull, "no room"))
        } else {
            let mut kept = self.0.kept();
            assert!(kept.last().is_none_or(|last| last.sequence < event.sequence), "appended in order");
            kept.push(event);
            Ok(())
        };
        if let Some(ack) = ack {
            thread::spawn(move || ack(outcome));
        }
    }

    fn read(&self, after: u64, patterns: &[Pattern], limit: usize) -> BoxFuture<Result<Vec<Arc<Event>>>> {
        let (journal, patterns) = (self.0.clone(), patterns.to_vec());
        let mut turns = 0;
        Box::pin(poll_fn(move |cx| {
            let mut waiting = journal.waiting.lock().unwrap();
            if journal.held.load(Ordering::SeqCst) {
                waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            turns += 1;
            if turns == 1 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(Ok(journal.page(after, &patterns, limit)))
        }))
    }

    fn pruned_through(&self) -> u64 {
        self.0.pruned.load(Ordering::SeqCst)
    }
}

fn journaled(seed: u64, journal: &Arc<MemoryJournal>, next: u64) -> Bus {
    let bus = bus_seeded(seed).0;
    bus.set_journal(Arc::new(Handle(journal.clone())), &["kept.>"], next).unwrap();
    bus
}

#[test]
fn events_reach_whom_they_concern_once() {
    let bus = bus();
    let agents = bus.subscribe(Subscribe::to(["agent.>", "agent.*.health"])).unwrap();
    let ill = bus.subscribe(Subscribe::to(["agent.*.health"]).filter("data > 2")).unwrap();
    for n in 1..=3 {
        bus.publish(draft("agent.web.health", n).subject("web").extension("region", "eu"));
    }
    bus.publish(draft("service.up", 4));
    let batch = agents.try_next_batch(10).unwrap();
    assert_eq!((numbers(&batch), batch.lost), (vec![1, 2, 3], 0));
    assert_eq!(batch.events[0].subject.as_deref(), Some("web"));
    assert_eq!(numbers(&ill.try_next_batch(10).unwrap()), [3]);
    assert_eq!(ill.try_next_batch(10), None);
    assert_eq!((bus.stats().published, bus.subscription_count()), (4, 2));
}

#[test]
fn ids_differ_across_restarts() {
    let clock = ManualClock::shared();
    let rng = Arc::new(Rng::seeded(7));
    let id = || Bus::new(clock.clone(), rng.clone()).publish(draft("a", 0)).id.to_string();
    assert_ne!(id(), id());
}

#[test]
fn a_faulty_draft_is_told_and_not_published() {
    let bus = bus();
    let all = bus.subscribe(Subscribe::to([">"])).unwrap();
    for faulty in [
        draft("a..b", 0),
        draft("a", 0).extension("Bad", 1),
        draft("a", 0).extension("type", "x"),
        EventDraft::bytes("a", "png", [0]),
    ] {
        assert_eq!(bus.try_publish(faulty).unwrap_err().kind, ErrorKind::InvalidArgument);
    }
    assert_eq!(all.try_next_batch(1), None);
    bus.publish(draft("a..b", 0).source("/agents/web"));
    let told = all.try_next_batch(9).unwrap().events.remove(0);
    assert_eq!((told.kind.as_str(), &*told.source), ("event.refused", "/agents/web"));
    assert!(told.to_json()["data"]["message"].as_str().unwrap().contains("`a..b`: empty token"));
}

#[test]
fn bad_requests_say_what_is_wrong() {
    let bus = bus();
    let message = |request: Subscribe| bus.subscribe(request).unwrap_err().message;
    assert_eq!(message(Subscribe::to(Vec::<String>::new())), "argument `patterns`: none given");
    assert!(message(Subscribe::to(["a.>.b"])).contains("`>` at byte 2"));
    assert!(message(Subscribe::to(["a"]).filter("type ==")).contains("line 1"));
    assert!(message(Subscribe::to(["a"]).queue(0, Overflow::DropOldest)).contains("argument `capacity`"));
    assert!(message(Subscribe::to(["a"]).queue(1, Overflow::Reject)).contains("argument `policy`"));
    assert!(message(Subscribe::to(["a"]).after(0)).contains("no journal"));
    assert_eq!(bus.subscription_count(), 0);
    bus.close();
    assert!(message(Subscribe::to(["a"])).contains("closed"));
}

#[test]
fn losses_are_counted_where_they_happen() {
    let bus = bus();
    let oldest = bus.subscribe(Subscribe::to(["a"]).queue(3, Overflow::DropOldest)).unwrap();
    let newest = bus.subscribe(Subscribe::to(["a"]).queue(3, Overflow::DropNewest)).unwrap();
    let block = Overflow::Block { deadline: LONG };
    let blocking = bus.subscribe(Subscribe::to(["a"]).queue(3, block)).unwrap();
    for n in 0..10 {
        bus.publish(draft("a", n));
    }
    let batch = oldest.try_next_batch(9).unwrap();
    assert_eq!((numbers(&batch), batch.lost), (vec![7, 8, 9], 7));
    for subscription in [&newest, &blocking] {
        let batch = subscription.try_next_batch(9).unwrap();
        assert_eq!((numbers(&batch), batch.lost), (vec![0, 1, 2], 0));
        let batch = subscription.try_next_batch(9).unwrap();
        assert_eq!((numbers(&batch), batch.lost), (vec![], 7));
    }
    for stats in bus.stats().subscriptions {
        assert_eq!((stats.delivered, stats.lost, stats.queued), (3, 7, 0));
    }
}

#[test]
fn a_cancelled_subscription_receives_nothing() {
    let bus = bus();
    let subscription = Arc::new(bus.subscribe(Subscribe::to(["a"])).unwrap());
    let waiting = {
        let subscription = subscription.clone();
        thread::spawn(move || subscription.next_timeout(1, LONG))
    };
    subscription.cancel();
    assert_eq!(waiting.join().unwrap(), Err(RecvError::Closed));
    bus.publish(draft("a", 1));
    assert_eq!(subscription.next_timeout(1, LONG), Err(RecvError::Closed));
    assert_eq!(bus.subscription_count(), 0);

    let queued = bus.subscribe(Subscribe::to(["a"])).unwrap();
    bus.publish(draft("a", 2));
    queued.cancel();
    assert_eq!(queued.try_next_batch(1), None, "what waited is thrown away");
    drop(bus.subscribe(Subscribe::to(["a.>", "b"])).unwrap());
    assert_eq!(bus.subscription_count(), 0, "dropping cancels");
}

#[test]
fn cancelling_is_a_barrier_while_others_publish() {
    let bus = bus();
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let (bus, stop) = (bus.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    bus.publish(draft("a", 0));
                }
            })
        })
        .collect();
    for _ in 0..300 {
        let subscription = bus.subscribe(Subscribe::to(["a"])).unwrap();
        subscription.next_timeout(8, LONG).unwrap();
        subscription.cancel();
        assert_eq!(subscription.try_next_batch(8), None);
    }
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.join().unwrap();
    }
}

#[test]
fn closing_lets_consumers_drain() {
    let bus = bus();
    let subscription = bus.subscribe(Subscribe::to(["a"])).unwrap();
    bus.publish(draft("a", 1));
    bus.close();
    bus.publish(draft("a", 2));
    assert_eq!(numbers(&subscription.next_timeout(9, LONG).unwrap()), [1]);
    assert_eq!(subscription.next_timeout(9, LONG), Err(RecvError::Closed));
}

#[test]
fn publish_wait_waits_for_room_until_its_deadline() {
    let (bus, clock) = bus_seeded(1);
    let block = Overflow::Block { deadline: Duration::from_secs(5) };
    let subscription = bus.subscribe(Subscribe::to(["a"]).queue(1, block)).unwrap();
    runtime().block_on(async {
        bus.publish_wait(draft("a", 1)).await.unwrap();
        let waits = bus.publish_wait(draft("a", 2));
        let consumes = async {
            tokio::task::yield_now().await;
            subscription.next_batch(9).await.unwrap()
        };
        let (published, batch) = tokio::join!(biased; waits, consumes);
        published.unwrap();
        assert_eq!(numbers(&batch), [1]);
        // The queue is full again, and nobody makes room.
        let gives_up = bus.publish_wait(draft("a", 3));
        let (published, ()) = tokio::join!(biased; gives_up, async { clock.advance(Duration::from_secs(5)) });
        published.unwrap();
    });
    assert_eq!(numbers(&subscription.try_next_batch(9).unwrap()), [2]);
    assert_eq!(subscription.try_next_batch(9).unwrap().lost, 1);
}

#[test]
fn many_publishers_keep_their_order_and_the_journal_has_one() {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 2_000;
    let journal = Arc::new(MemoryJournal::default());
    let bus = journaled(1, &journal, 1);
    let capacity = (2 * PUBLISHERS * EACH) as usize;
    let subscription = bus.subscribe(Subscribe::to([">"]).queue(capacity, Overflow::DropOldest)).unwrap();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let bus = bus.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    let kind = if n % 2 == 0 { "kept.a" } else { "free.a" };
                    bus.publish(draft(kind, n).source(publisher.to_string()));
                }
            })
        })
        .collect();
    let (mut total, mut sequence) = (0, 0);
    let mut expected = [0; PUBLISHERS as usize];
    while total < PUBLISHERS * EACH {
        for event in subscription.next_timeout(100, LONG).unwrap().events {
            let publisher = event.source.parse::<usize>().unwrap();
            assert_eq!(number(&event), expected[publisher], "a publisher's order");
            expected[publisher] += 1;
            total += 1;
            if let Some(this) = event.sequence {
                assert_eq!(this, sequence + 1, "the journal's order");
                sequence = this;
            }
        }
    }
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    assert_eq!(journal.kept().len() as u64, PUBLISHERS * EACH / 2);
}

#[test]
fn a_journaled_publish_is_acknowledged_or_refused() {
    let journal = Arc::new(MemoryJournal::default());
    let bus = journaled(1, &journal, 41);
    runtime().block_on(async {
        let event = bus.publish_journaled(draft("free.a", 1)).await.unwrap();
        assert_eq!(event.sequence, Some(41));
        assert_eq!(journal.kept().len(), 1);
        journal.full.store(true, Ordering::SeqCst);
        let refused = bus.publish_journaled(draft("kept.a", 2)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::DiskFull);
        let without = bus_seeded(1).0.publish_journaled(draft("kept.a", 3)).await.unwrap_err();
        assert_eq!(without.kind, ErrorKind::InvalidState);
    });
    assert_eq!(bus.publish(draft("free.a", 4)).sequence, None);
    assert_eq!(bus.stats().next_sequence, Some(43));
    let again = bus.set_journal(Arc::new(Handle(journal)), &["x"], 1).unwrap_err();
    assert_eq!(again.kind, ErrorKind::InvalidState);
}

#[test]
fn the_journal_replays_across_a_restart() {
    let journal = Arc::new(MemoryJournal::default());
    let before = journaled(1, &journal, 1);
    for n in 1..=600 {
        before.publish(draft(if n % 2 == 0 { "kept.even" } else { "kept.odd" }, n));
    }
    drop(before);

    let after = journaled(2, &journal, 1000);
    let follow = Subscribe::to(["kept.even"]).filter("data % 4 == 0").after(100);
    let subscription = after.subscribe(follow).unwrap();
    after.publish(draft("kept.even", 604));
    after.publish(draft("kept.even", 606));
    let mut seen = Vec::new();
    while seen.last() != Some(&604) {
        let batch = subscription.next_timeout(100, LONG).unwrap();
        assert!(batch.events.len() <= 100 && batch.lost == 0);
        seen.extend(numbers(&batch));
    }
    let expected: Vec<_> = (101..=604).filter(|n| n % 4 == 0).collect();
    assert_eq!(seen, expected);
    after.publish(draft("kept.even", 608));
    let live = subscription.next_timeout(9, LONG).unwrap();
    assert_eq!((numbers(&live), live.events[0].sequence), (vec![608], Some(1002)));
    assert_eq!(subscription.cursor(), Some(1002));
}

#[test]
fn going_live_has_no_gap_and_no_duplicate() {
    const PUBLISHERS: u64 = 3;
    const EACH: u64 = 3_000;
    let journal = Arc::new(MemoryJournal::default());
    let bus = journaled(1, &journal, 1);
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|_| {
            let bus = bus.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    bus.publish(draft("kept.a", n));
                }
            })
        })
        .collect();
    // Followers come while it rains, with queues from far too small to ample.
    let followers: Vec<_> = [1, 7, 64, 100_000]
        .into_iter()
        .cycle()
        .take(12)
        .map(|capacity| {
            let bus = bus.clone();
            thread::spawn(move || {
                let after = bus.stats().next_sequence.unwrap().saturating_sub(500);
                let request = Subscribe::to(["kept.*"]).queue(capacity, Overflow::DropOldest).after(after);
                let subscription = bus.subscribe(request).unwrap();
                let mut cursor = after;
                while cursor < PUBLISHERS * EACH {
                    let batch = subscription.next_timeout(50, LONG).unwrap();
                    assert_eq!((batch.lost, batch.pruned_through), (0, None));
                    for event in batch.events {
                        assert_eq!(event.sequence, Some(cursor + 1), "capacity {capacity}");
                        cursor += 1;
                    }
                }
                assert_eq!(subscription.cursor(), Some(cursor));
                assert_eq!(subscription.try_next_batch(1), None);
                assert_eq!(subscription.stats().lost, 0);
            })
        })
        .collect();
    for thread in publishers.into_iter().chain(followers) {
        thread.join().unwrap();
    }
}

#[test]
fn an_overflow_while_live_returns_to_the_journal() {
    let journal = Arc::new(MemoryJournal::default());
    let bus = journaled(1, &journal, 1);
    let request = Subscribe::to([">"]).queue(2, Overflow::DropOldest).after(0);
    let subscription = bus.subscribe(request).unwrap();
    bus.publish(draft("kept.a", 1));
    assert_eq!(numbers(&subscription.next_timeout(9, LONG).unwrap()), [1]);
    for n in 2..=5 {
        bus.publish(draft("kept.a", n));
    }
    bus.publish(draft("free.a", 100)); // no room, and no journal to fetch it from
    let (mut seen, mut lost) = (Vec::new(), 0);
    while seen.len() < 4 || lost == 0 {
        let batch = subscription.next_timeout(9, LONG).unwrap();
        seen.extend(numbers(&batch));
        lost += batch.lost;
    }
    assert_eq!((seen, lost), (vec![2, 3, 4, 5], 1));
    bus.publish(draft("kept.a", 6));
    assert_eq!(numbers(&subscription.next_timeout(9, LONG).unwrap()), [6]);
}

#[test]
fn retention_that_overtook_a_reader_is_told() {
    let journal = Arc::new(MemoryJournal::default());
    let bus = journaled(1, &journal, 1);
    for n in 1..=10 {
        bus.publish(draft("kept.a", n));
    }
    journal.prune(4);
    let subscription = bus.subscribe(Subscribe::to(["kept.a"]).after(2)).unwrap();
    let batch = subscription.next_timeout(99, LONG).unwrap();
    assert_eq!((numbers(&batch), batch.pruned_through), ((5..=10).collect(), Some(4)));
    let current = bus.subscribe(Subscribe::to(["kept.a"]).after(4)).unwrap();
    assert_eq!(current.next_timeout(99, LONG).unwrap().pruned_through, None);
}

#[test]
fn cancelling_wakes_a_reader_of_the_journal() {
    let journal = Arc::new(MemoryJournal::default());
    let bus = journaled(1, &journal, 1);
    bus.publish(draft("kept.a", 1));
    journal.held.store(true, Ordering::SeqCst);
    let subscription = Arc::new(bus.subscribe(Subscribe::to(["kept.a"]).after(0)).unwrap());
    assert_eq!(subscription.try_next_batch(1), None);
    let waiting = {
        let subscription = subscription.clone();
        thread::spawn(move || subscription.next_timeout(1, LONG))
    };
    // Until the thread, too, waits for the page.
    while journal.waiting.lock().unwrap().len() < 2 {
        thread::yield_now();
    }
    subscription.cancel();
    assert_eq!(waiting.join().unwrap(), Err(RecvError::Closed));
    journal.release();
    assert_eq!(subscription.try_next_batch(1), None);
}

#[test]
fn a_held_page_is_not_lost_by_giving_up_on_it() {
    let journal = Arc::new(MemoryJournal::default());
    let bus = journaled(1, &journal, 1);
    bus.publish(draft("kept.a", 1));
    journal.held.store(true, Ordering::SeqCst);
    let subscription = bus.subscribe(Subscribe::to(["kept.a"]).after(0)).unwrap();
    assert_eq!(subscription.next_timeout(1, Duration::from_millis(1)), Err(RecvError::Timeout));
    journal.release();
    assert_eq!(numbers(&subscription.next_timeout(1, LONG).unwrap()), [1]);
}

#[test]
fn filters_may_ask_for_the_sequence() {
    let journal = Arc::new(MemoryJournal::default());
    let bus = journaled(1, &journal, 10);
    let subscription = bus.subscribe(Subscribe::to(["kept.>"]).filter("sequence % 2 == 0")).unwrap();
    for n in 10..16 {
        bus.publish(draft("kept.a", n));
    }
    assert_eq!(numbers(&subscription.try_next_batch(9).unwrap()), [10, 12, 14]);
    assert_eq!(subscription.stats().filter_errors, 0);
}

#[test]
fn an_unreadable_journal_ends_the_subscription_and_says_why() {
    struct Broken;
    impl Journal for Broken {
        fn append(&self, _: Arc<Event>, _: Option<Ack>) {}
        fn read(&self, _: u64, _: &[Pattern], _: usize) -> BoxFuture<Result<Vec<Arc<Event>>>> {
            Box::pin(async { Err(Error::new(ErrorKind::StoreCorrupt, "page 7 is damaged")) })
        }
    }
    let bus = bus();
    bus.set_journal(Arc::new(Broken), &[">"], 1).unwrap();
    let subscription = bus.subscribe(Subscribe::to([">"]).after(0)).unwrap();
    assert_eq!(subscription.next_timeout(1, LONG), Err(RecvError::Closed));
    let error = subscription.error().unwrap();
    assert_eq!(
        (error.kind, &*error.message),
        (ErrorKind::StoreCorrupt, "reading the journal: page 7 is damaged")
    );
    let unkept = runtime().block_on(bus.publish_journaled(draft("a", 1))).unwrap_err();
    assert!(unkept.message.contains("closed before it was committed"), "{unkept}");
}
