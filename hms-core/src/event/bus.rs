//! The bus: numbers what is published and puts it into the queues of those who want it.
//!
//! A publisher never waits and runs no subscriber's code. It finds the targets under a read lock,
//! copies them out, evaluates their filters without a lock, and pushes into their queues.
//!
//! **Order.** A publisher's events reach a queue in its order, because publishing is synchronous. Of
//! journaled events there is one order for all, that of their sequence: numbering, handing to the
//! journal and fan-out happen under the lock `order`. Targets are found and filters evaluated *before* it
//! (filters that ask for the sequence excepted); should somebody have subscribed in between, which
//! `generation` tells, the search is repeated inside. That repetition is what makes replay free of gaps: a
//! follower subscribes, then passes through `order` once, so that every journaled event either was
//! appended before the follower reads the journal, or finds the follower among its targets.
//!
//! **Locks**, in the order in which they nest: `order` → `table` → a queue (a leaf). Subscribing and
//! cancelling hold only `table`, and briefly.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hms_queue::{Overflow, Queue};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    filter::Filter,
    journal::{Ack, Journal},
    model::{Data, Event, EventDraft, EventId, Extensions},
    sink::{Missed, Place, Sink, SubscriptionStats, Target},
    subject::{Pattern, Subject},
    subscription::{MAX_CAPACITY, MAX_WAITING, Subscribe, Subscription},
    trie::Matcher,
};
use crate::{
    Error, ErrorKind, Result,
    clock::{Rng, SharedClock},
};

/// The kind of the event that stands for one which could not be published.
pub const REFUSED: Subject = Subject::from_static("event.refused");
/// The source of events that name none.
const SOURCE: &str = "/hms";

/// The event bus of a system. Cheap to clone; use it from any thread.
#[derive(Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    clock: SharedClock,
    /// What tells this life of the host from every other one.
    boot: Arc<str>,
    source: Arc<str>,
    published: AtomicU64,
    table: RwLock<Table>,
    /// How often somebody subscribed. Changed under `table`, read under `order`.
    generation: AtomicU64,
    journal: OnceLock<Journaling>,
    /// The next sequence.
    order: Mutex<u64>,
}

#[derive(Default)]
struct Table {
    matcher: Matcher<Target>,
    sinks: BTreeMap<u64, Arc<Sink>>,
    next_id: u64,
    closed: bool,
}

struct Journaling {
    journal: Arc<dyn Journal>,
    kinds: Matcher<()>,
}

/// The bus in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct BusStats {
    /// Events published since the bus was made.
    pub published: u64,
    /// The sequence that the next journaled event gets; `None` without a journal.
    pub next_sequence: Option<u64>,
    /// The subscriptions, oldest first.
    pub subscriptions: Vec<SubscriptionStats>,
}

/// The longest that `publish_wait` waits for one subscription: beyond it a clock may overflow.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 86_400);

thread_local! {
    /// The targets' list of the last publish of this thread, kept for its buffer. A publish within a
    /// publish (from a waker) finds it taken and uses a new one.
    static SCRATCH: Cell<Vec<Target>> = const { Cell::new(Vec::new()) };
}

impl Bus {
    /// A bus without subscribers or journal.
    #[must_use]
    pub fn new(clock: SharedClock, rng: Arc<Rng>) -> Self {
        let boot = format!("{:x}{}", clock.wall_ms(), rng.token(8)).into();
        Self {
            shared: Arc::new(Shared {
                clock,
                boot,
                source: SOURCE.into(),
                published: AtomicU64::new(0),
                table: RwLock::default(),
                generation: AtomicU64::new(0),
                journal: OnceLock::new(),
                order: Mutex::new(1),
            }),
        }
    }

    /// Gives the bus its journal: from now on events whose kind one of `patterns` matches are numbered,
    /// beginning with `next_sequence` (which no event may ever have had), and kept.
    ///
    /// # Errors
    /// `invalid-state` if it has one; `invalid-argument` for a faulty pattern.
    pub fn set_journal(
        &self,
        journal: Arc<dyn Journal>,
        patterns: &[impl AsRef<str>],
        next_sequence: u64,
    ) -> Result<()> {
        let mut kinds = Matcher::new();
        for pattern in patterns {
            kinds.insert(&Pattern::parse(pattern.as_ref())?, ());
        }
        // Under the order, so that no event is numbered by a journal whose counter is not set.
        let mut next = self.shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared
            .journal
            .set(Journaling { journal, kinds })
            .map_err(|_| Error::new(ErrorKind::InvalidState, "the bus has a journal already"))?;
        *next = next_sequence.max(1);
        Ok(())
    }

    /// Publishes `draft` to everyone who is subscribed. Never waits: what does not fit a queue is
    /// handled by that subscription's policy. A journaled event is numbered and on its way to the
    /// journal when this returns, not yet committed.
    ///
    /// Cannot fail, for publishers that have nobody to tell: a faulty draft (a bad subject or extension)
    /// becomes an [`event.refused`](REFUSED) that says why. Who passes on what others wrote uses
    /// [`Bus::try_publish`].
    pub fn publish(&self, draft: EventDraft) -> Arc<Event> {
        let (source, subject) = (draft.source.clone(), draft.subject.clone());
        let event = self.shared.stamp(draft).unwrap_or_else(|fault| {
            let data = json!({ "kind": fault.kind, "message": fault.message, "hint": fault.hint });
            self.shared.number(REFUSED, source, subject, Data::Json(data), Extensions::new())
        });
        self.shared.post(event, Vec::new())
    }

    /// Like [`Bus::publish`], but refuses a faulty draft.
    ///
    /// # Errors
    /// `invalid-argument` if the draft is faulty; then nothing was published.
    pub fn try_publish(&self, draft: EventDraft) -> Result<Arc<Event>> {
        let event = self.shared.stamp(draft)?;
        Ok(self.shared.post(event, Vec::new()))
    }

    /// Publishes `draft` into the journal, whatever its kind, and waits for the commit: what this
    /// acknowledged survives a crash of the host. Subscribers see the event at once.
    ///
    /// # Errors
    /// As [`Bus::try_publish`]; `invalid-state` without a journal; what the journal answered (then the event
    /// was delivered, but not kept).
    pub async fn publish_journaled(&self, draft: EventDraft) -> Result<Arc<Event>> {
        let event = self.shared.stamp(draft)?;
        let Some(journal) = self.shared.journal.get() else {
            return Err(Error::new(ErrorKind::InvalidState, "the bus has no journal")
                .hint("open the system with a home to keep events"));
        };
        let (done, kept) = oneshot::channel();
        let ack: Ack = Box::new(move |outcome| drop(done.send(outcome)));
        let event = self.shared.send(event, Some(journal), Some(ack), Vec::new());
        match kept.await {
            Ok(outcome) => outcome.map(|()| event),
            Err(_) => Err(Error::new(
                ErrorKind::HostUnavailable,
                format!("event `{}`: the journal closed before it was committed", event.kind),
            )),
        }
    }

    /// Like [`Bus::try_publish`], after waiting for room in the full queues of `Block` subscriptions, each at
    /// most for its deadline; one that made none by then loses the event.
    ///
    /// # Errors
    /// As [`Bus::try_publish`].
    pub async fn publish_wait(&self, draft: EventDraft) -> Result<Arc<Event>> {
        let event = self.shared.stamp(draft)?;
        let places = self.shared.keep_places(&event).await;
        Ok(self.shared.post(event, places))
    }

    /// Subscribes. With `after_sequence` the subscription first receives what the journal has after that
    /// sequence and then what is published, without gap or duplicate.
    ///
    /// # Errors
    /// `invalid-argument` for a faulty pattern, filter, capacity or policy; `invalid-state` when the
    /// bus is closed, or without a journal to replay from.
    pub fn subscribe(&self, request: Subscribe) -> Result<Subscription> {
        let patterns = parse_patterns(&request.patterns)?;
        let filter = request.filter.as_deref().map(Filter::compile).transpose()?;
        if request.capacity == 0 || request.capacity > MAX_CAPACITY {
            return Err(Error::argument(
                "capacity",
                format!("{} is not in 1..={MAX_CAPACITY}", request.capacity),
            ));
        }
        let replay = match request.after_sequence {
            None => None,
            Some(after) => Some((self.shared.journal_to_replay()?, after)),
        };
        let overflow = match (request.overflow, &replay) {
            (Overflow::Reject, _) => {
                return Err(Error::argument("policy", "a subscriber cannot make a publish fail")
                    .hint("choose drop-oldest, drop-newest or block"));
            }
            (Overflow::Block { .. }, Some(_)) => {
                return Err(Error::argument(
                    "policy",
                    "a subscription that follows the journal need not block",
                ));
            }
            // The publisher must learn that there was no room, to send the follower to the journal.
            (_, Some(_)) => Overflow::Reject,
            (overflow, None) => overflow,
        };
        let sink = self.shared.insert(|id| Sink {
            id,
            patterns,
            filter,
            queue: Queue::new(request.capacity, overflow).weighed(MAX_WAITING, |event| event.weight()),
            missed: replay.is_some().then(Missed::default),
            cancelled: AtomicBool::new(false),
        })?;
        if replay.is_some() {
            // Whoever is numbering an event without knowing the sink is done with it after this.
            drop(self.shared.order.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(Subscription::new(self.shared.clone(), sink, replay))
    }

    /// Ends every subscription (what waits in the queues can still be received) and refuses new ones.
    /// For the shutdown of the system.
    pub fn close(&self) {
        let table = {
            let mut table = self.shared.table_mut();
            std::mem::replace(&mut *table, Table { closed: true, ..Table::default() })
        };
        for sink in table.sinks.values() {
            sink.queue.close();
        }
    }

    /// What happened on the bus, in numbers.
    #[must_use]
    pub fn stats(&self) -> BusStats {
        let sinks: Vec<_> = self.shared.table().sinks.values().cloned().collect();
        let next = *self.shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        BusStats {
            published: self.shared.published.load(Ordering::Relaxed),
            next_sequence: self.shared.journal.get().map(|_| next),
            subscriptions: sinks.iter().map(|sink| sink.stats()).collect(),
        }
    }

    /// The sequence of the last journaled event; `None` without a journal.
    #[must_use]
    pub fn last_sequence(&self) -> Option<u64> {
        let next = *self.shared.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.journal.get().map(|_| next.saturating_sub(1))
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.shared.table().sinks.len()
    }
}

impl Shared {
    /// The event of a sound draft, with id and time.
    fn stamp(&self, draft: EventDraft) -> Result<Event> {
        let kind = draft.kind?;
        Ok(self.number(kind, draft.source, draft.subject, draft.data, draft.extensions))
    }

    fn number(
        &self,
        kind: Subject,
        source: Option<Arc<str>>,
        subject: Option<Arc<str>>,
        data: Data,
        extensions: Extensions,
    ) -> Event {
        let count = self.published.fetch_add(1, Ordering::Relaxed) + 1;
        Event {
            id: EventId::counted(&self.boot, count),
            source: source.unwrap_or_else(|| self.source.clone()),
            kind,
            subject,
            time_ms: self.clock.wall_ms(),
            sequence: None,
            data,
            extensions,
        }
    }

    /// Sends `event`, into the journal too if its kind belongs there.
    fn post(&self, event: Event, places: Vec<Place>) -> Arc<Event> {
        let journal = self.journal.get().filter(|journaling| journaling.kinds.matches_any(&event.kind));
        self.send(event, journal, None, places)
    }

    fn journal_to_replay(&self) -> Result<Arc<dyn Journal>> {
        match self.journal.get() {
            Some(journaling) => Ok(journaling.journal.clone()),
            None => Err(Error::new(ErrorKind::InvalidState, "the bus has no journal to replay from")
                .hint("subscribe without a sequence, or open the system with a home")),
        }
    }

    /// Numbers `event` if it is journaled, and fans it out.
    fn send(
        &self,
        event: Event,
        journal: Option<&Journaling>,
        ack: Option<Ack>,
        mut places: Vec<Place>,
    ) -> Arc<Event> {
        let mut targets = SCRATCH.try_with(Cell::take).unwrap_or_default();
        let event = match journal {
            None => {
                self.find(&event, &mut targets);
                let event = Arc::new(event);
                for Target(sink) in targets.iter() {
                    sink.deliver(&event, &mut places);
                }
                event
            }
            Some(journaling) => self.send_in_order(event, journaling, ack, &mut targets, &mut places),
        };
        targets.clear();
        // Gone when the thread is ending; then the buffer goes with it.
        let _ = SCRATCH.try_with(|scratch| scratch.set(targets));
        event
    }

    fn send_in_order(
        &self,
        mut event: Event,
        journaling: &Journaling,
        ack: Option<Ack>,
        targets: &mut Vec<Target>,
        places: &mut Vec<Place>,
    ) -> Arc<Event> {
        let generation = self.generation.load(Ordering::SeqCst);
        self.find_unless(Sink::needs_sequence, &event, targets);
        let mut next = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        event.sequence = Some(*next);
        *next += 1;
        if self.generation.load(Ordering::SeqCst) == generation {
            targets.retain(|Target(sink)| !sink.needs_sequence() || sink.admits(&event));
        } else {
            targets.clear();
            self.find(&event, targets);
        }
        let event = Arc::new(event);
        journaling.journal.append(event.clone(), ack);
        for Target(sink) in targets.iter() {
            sink.deliver(&event, places);
        }
        event
    }

    /// The subscriptions that want `event`, in the order of subscribing.
    fn find(&self, event: &Event, targets: &mut Vec<Target>) {
        self.find_unless(|_| false, event, targets);
    }

    /// Like `find`; the filters of `unasked` sinks are left for later.
    fn find_unless(&self, unasked: fn(&Sink) -> bool, event: &Event, targets: &mut Vec<Target>) {
        self.table().matcher.matches(&event.kind, targets);
        if targets.len() > 1 {
            // Two patterns of one subscription may both match.
            targets.sort_unstable_by_key(|target| target.0.id);
            targets.dedup_by_key(|target| target.0.id);
        }
        targets.retain(|Target(sink)| unasked(sink) || sink.admits(event));
    }

    /// Waits for room where a subscription wants publishers to wait.
    async fn keep_places(&self, event: &Event) -> Vec<Place> {
        let mut targets = Vec::new();
        self.find_unless(Sink::needs_sequence, event, &mut targets);
        let start = self.clock.now();
        let mut places = Vec::new();
        for target in targets {
            let Overflow::Block { deadline } = target.0.queue.overflow() else { continue };
            let id = target.0.id;
            tokio::select! {
                biased;
                place = Queue::reserve(target) => places.extend(place.ok().map(|place| (id, place))),
                () = self.clock.sleep_until(start + deadline.min(LONGEST_WAIT)) => {}
            }
        }
        places
    }

    fn insert(&self, make: impl FnOnce(u64) -> Sink) -> Result<Arc<Sink>> {
        let mut table = self.table_mut();
        if table.closed {
            return Err(Error::new(ErrorKind::InvalidState, "the bus is closed: the system is stopping"));
        }
        table.next_id += 1;
        let sink = Arc::new(make(table.next_id));
        for pattern in &sink.patterns {
            table.matcher.insert(pattern, Target(sink.clone()));
        }
        table.sinks.insert(sink.id, sink.clone());
        self.generation.fetch_add(1, Ordering::SeqCst);
        Ok(sink)
    }

    /// Takes `sink` out of the table. Publishers that found it before still push into its queue.
    pub(super) fn remove(&self, sink: &Arc<Sink>) {
        let mut table = self.table_mut();
        if table.sinks.remove(&sink.id).is_some() {
            for pattern in &sink.patterns {
                table.matcher.remove(pattern, &Target(sink.clone()));
            }
        }
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse_patterns(texts: &[String]) -> Result<Vec<Pattern>> {
    let mut patterns = Vec::with_capacity(texts.len());
    for text in texts {
        let pattern = Pattern::parse(text)?;
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    if patterns.is_empty() {
        return Err(Error::argument("patterns", "none given").hint("`>` subscribes to everything"));
    }
    Ok(patterns)
}
