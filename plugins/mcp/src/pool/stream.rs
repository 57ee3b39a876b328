//! What is on its way to a client: one stream for every request it sent, and one for what belongs to none.
//!
//! A stream is a bounded buffer with a cursor, not a channel. Who writes (the server's side) never waits, so
//! that one slow reader cannot hold up the clients that share a server with it; who reads may go away and come
//! back with the id of the last event it saw. A stream that outgrows its bound while nobody reads it is *lost*:
//! it ends, and coming back to it is refused, which a client treats like any broken connection.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use hms_core::clock::SharedClock;
use hyper::body::{Body, Bytes, Frame};

/// How long a reader waits between comments that keep its connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After how long a client shall come back to a stream that was closed before its end.
pub(super) const RETRY_MS: u64 = 250;

/// What happens to an event that finds the buffer full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The stream is lost. For answers: one that is missing must not go unnoticed.
    Lose,
    /// The oldest event is forgotten and counted. For what belongs to no request.
    DropOldest,
}

/// A stream of messages to one client.
pub(super) struct Stream {
    number: u64,
    limit: usize,
    full: Full,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<(u64, Arc<str>)>,
    bytes: usize,
    next: u64,
    /// Every event before this one was handed to a reader.
    read: u64,
    /// Answers that are still to come; with the last one the stream ends.
    expected: usize,
    ended: bool,
    lost: bool,
    dropped: u64,
    /// Which reader is the present one; 0 for none yet.
    reader: u64,
    attached: bool,
    waker: Option<Waker>,
}

impl Inner {
    fn settle(&mut self, answer: bool) {
        self.expected = self.expected.saturating_sub(usize::from(answer));
        self.ended |= self.expected == 0;
    }
}

impl Stream {
    /// A stream that keeps at most `limit` bytes, and one event whatever its size.
    pub(super) fn new(number: u64, limit: usize, full: Full) -> Arc<Self> {
        Self::expecting(1, number, limit, full)
    }

    /// The same for the requests of a batch: it ends when each of them has been answered.
    pub(super) fn expecting(answers: usize, number: u64, limit: usize, full: Full) -> Arc<Self> {
        let inner = Inner { next: 1, read: 1, expected: answers, ..Inner::default() };
        Arc::new(Self { number, limit, full, inner: Mutex::new(inner) })
    }

    /// Adds a message; `answer` is one of those that the stream waits for. Says whether the stream still takes messages.
    pub(super) fn push(&self, message: &str, answer: bool) -> bool {
        let mut inner = self.lock();
        if inner.ended {
            return false;
        }
        let seq = inner.next;
        inner.next += 1;
        inner.bytes += message.len();
        inner.events.push_back((seq, message.into()));
        inner.settle(answer);
        self.shrink(&mut inner);
        let waker = inner.waker.take();
        let open = !inner.ended;
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        open
    }

    /// Forgets first what a reader has had, then what the policy says.
    fn shrink(&self, inner: &mut Inner) {
        while inner.bytes > self.limit && inner.events.len() > 1 {
            let had = inner.events.front().is_some_and(|(seq, _)| *seq < inner.read);
            if !had && self.full == Full::Lose {
                inner.events.clear();
                inner.bytes = 0;
                inner.ended = true;
                inner.lost = true;
                return;
            }
            if let Some((_, event)) = inner.events.pop_front() {
                inner.bytes -= event.len();
                inner.dropped += u64::from(!had);
            }
        }
    }

    /// An answer that will not come: the stream ends without it.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.settle(true);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nothing will be added any more.
    pub(super) fn ended(&self) -> bool {
        self.lock().ended
    }

    /// Whether a reader is connected.
    pub(super) fn attached(&self) -> bool {
        self.lock().attached
    }

    /// The last event that was handed to a reader; 0 for none.
    pub(super) fn seen(&self) -> u64 {
        self.lock().read - 1
    }

    /// How many bytes it holds.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// How many messages were forgotten before anybody read them.
    #[cfg(test)]
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// The first message, once there is one; `None` when the stream ends without. The message stays.
    pub(super) async fn first(self: &Arc<Self>) -> Option<Arc<str>> {
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            match inner.events.front() {
                Some((_, event)) => Poll::Ready(Some(event.clone())),
                None if inner.ended => Poll::Ready(None),
                None => {
                    inner.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// A reader that goes on after event `after` (0: from the beginning), in place of the present one.
    /// `None` when events after it have been forgotten or were never sent.
    pub(super) fn read(self: &Arc<Self>, after: u64, how: Reading) -> Option<Reader> {
        let mut inner = self.lock();
        let oldest = inner.events.front().map_or(inner.next, |(seq, _)| *seq);
        if inner.lost || after >= inner.next || (after + 1 < oldest && self.full == Full::Lose) {
            return None;
        }
        inner.reader += 1;
        inner.attached = true;
        inner.read = after + 1;
        let waker = inner.waker.take();
        let generation = inner.reader;
        drop(inner);
        if let Some(waker) = waker {
            waker.wake(); // the reader before this one ends
        }
        let now = how.clock.now();
        let keep_alive = how.clock.sleep_until(now + KEEP_ALIVE);
        let hang_up = how.hang_up_after.map(|d| how.clock.sleep_until(now + d));
        let opening = how.primed.then_some(());
        Some(Reader { stream: self.clone(), generation, how, next: after + 1, opening, keep_alive, hang_up })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a stream is read.
#[derive(Clone)]
pub(super) struct Reading {
    /// Whether events carry ids.
    pub(super) ids: bool,
    /// Whether an empty first event says where to come back to (2025-11-25; earlier clients do not take one).
    pub(super) primed: bool,
    /// Close the connection after this long, so that the client comes back for the rest.
    pub(super) hang_up_after: Option<Duration>,
    /// Called when the reader goes away before the end.
    pub(super) gone: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Where time comes from.
    pub(super) clock: SharedClock,
}

type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection's view of a stream, as the body of an HTTP response of type `text/event-stream`.
pub(super) struct Reader {
    stream: Arc<Stream>,
    generation: u64,
    how: Reading,
    next: u64,
    opening: Option<()>,
    keep_alive: Sleep,
    hang_up: Option<Sleep>,
}

impl Reader {
    fn event(&self, seq: u64, data: &str) -> Bytes {
        let mut out = String::with_capacity(data.len() + 48);
        if self.how.ids {
            out.push_str(&format!("id: {}-{seq}\n", self.stream.number));
        }
        out.push_str("event: message\ndata: ");
        out.push_str(data);
        out.push_str("\n\n");
        out.into()
    }

    /// The event that gives the client an id to come back with before anything was said.
    fn priming(&self) -> Bytes {
        format!("id: {}-{}\nretry: {RETRY_MS}\ndata: \n\n", self.stream.number, self.next - 1).into()
    }
}

impl Body for Reader {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if self.opening.take().is_some() {
            return frame(self.priming());
        }
        let stream = self.stream.clone();
        let mut inner = stream.lock();
        if inner.reader != self.generation {
            return Poll::Ready(None); // another connection reads on
        }
        let wanted = self.next;
        let start = inner.events.front().map_or(inner.next, |(seq, _)| *seq).max(wanted);
        let found = inner.events.iter().find(|(seq, _)| *seq >= start).cloned();
        if let Some((seq, event)) = found {
            inner.read = seq + 1;
            drop(inner);
            self.next = seq + 1;
            let deadline = self.how.clock.now() + KEEP_ALIVE;
            self.keep_alive = self.how.clock.sleep_until(deadline);
            return frame(self.event(seq, &event));
        }
        if inner.ended {
            return Poll::Ready(None);
        }
        inner.waker = Some(cx.waker().clone());
        drop(inner);
        if let Some(hang_up) = &mut self.hang_up
            && hang_up.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        if self.keep_alive.as_mut().poll(cx).is_ready() {
            let deadline = self.how.clock.now() + KEEP_ALIVE;
            self.keep_alive = self.how.clock.sleep_until(deadline);
            return frame(Bytes::from_static(b": \n\n"));
        }
        Poll::Pending
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.stream.lock();
        if inner.reader != self.generation {
            return;
        }
        inner.attached = false;
        let unfinished = !inner.ended || inner.read < inner.next;
        drop(inner);
        if unfinished && let Some(gone) = &self.how.gone {
            gone();
        }
    }
}

#[cfg(test)]
mod tests {
    use hms_core::clock::{ManualClock, SystemClock};
    use http_body_util::BodyExt;

    use super::*;

    fn how(ids: bool) -> Reading {
        Reading { ids, primed: ids, hang_up_after: None, gone: None, clock: SystemClock::shared() }
    }

    async fn next(reader: &mut Reader) -> Option<String> {
        let frame = reader.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_client_comes_back_for_the_rest() {
        let stream = Stream::new(4, 1000, Full::Lose);
        let mut reader = stream.read(0, how(true)).unwrap();
        assert_eq!(next(&mut reader).await.unwrap(), "id: 4-0\nretry: 250\ndata: \n\n");
        stream.push("one", false);
        assert_eq!(next(&mut reader).await.unwrap(), "id: 4-1\nevent: message\ndata: one\n\n");
        drop(reader);
        stream.push("two", false);
        stream.push("three", true);
        let mut again = stream.read(1, how(true)).unwrap();
        assert_eq!(next(&mut again).await.unwrap(), "id: 4-1\nretry: 250\ndata: \n\n");
        assert!(next(&mut again).await.unwrap().starts_with("id: 4-2\n"));
        assert!(next(&mut again).await.unwrap().contains("data: three\n"));
        assert_eq!(next(&mut again).await, None);
        assert!(stream.read(9, how(true)).is_none(), "an event that was never sent");
    }

    #[tokio::test]
    async fn a_stream_nobody_reads_is_lost_or_forgets_and_never_grows() {
        let answers = Stream::new(1, 10, Full::Lose);
        assert!(answers.push(&"x".repeat(100), false), "one event may be of any size");
        assert!(!answers.push("y", false));
        assert!(answers.read(0, how(false)).is_none() && answers.bytes() == 0);
        let news = Stream::new(0, 10, Full::DropOldest);
        for n in 0..100 {
            assert!(news.push(&format!("{n:04}"), false));
        }
        assert!(news.bytes() <= 10 && news.dropped() == 98);
        let mut reader = news.read(0, how(false)).unwrap();
        assert!(next(&mut reader).await.unwrap().contains("0098"));
    }

    #[tokio::test]
    async fn what_was_read_makes_room() {
        let stream = Stream::new(1, 10, Full::Lose);
        let mut reader = stream.read(0, how(false)).unwrap();
        for n in 0..100 {
            assert!(stream.push(&format!("{n:08}"), false));
            assert!(next(&mut reader).await.unwrap().contains(&format!("{n:08}")));
        }
    }

    #[tokio::test]
    async fn the_later_reader_wins_and_the_earlier_one_ends() {
        let stream = Stream::new(1, 10, Full::Lose);
        let mut first = stream.read(0, how(false)).unwrap();
        let mut second = stream.read(0, how(false)).unwrap();
        assert_eq!(next(&mut first).await, None);
        drop(first);
        assert!(stream.attached());
        stream.push("x", true);
        assert!(next(&mut second).await.unwrap().contains('x'));
    }

    #[tokio::test]
    async fn a_quiet_stream_says_that_it_lives_and_hangs_up_when_told() {
        let clock = ManualClock::shared();
        let stream = Stream::new(1, 10, Full::Lose);
        let mut patient = stream.read(0, Reading { clock: clock.clone(), ..how(false) }).unwrap();
        clock.advance(KEEP_ALIVE);
        assert_eq!(next(&mut patient).await.unwrap(), ": \n\n");
        let after = Some(Duration::from_secs(1));
        let how = Reading { clock: clock.clone(), hang_up_after: after, ..how(true) };
        let mut hurried = stream.read(0, how).unwrap();
        assert!(next(&mut hurried).await.unwrap().starts_with("id: 1-0"));
        clock.advance(Duration::from_secs(1));
        assert_eq!(next(&mut hurried).await, None);
        assert!(!stream.ended());
    }

    #[tokio::test]
    async fn a_reader_that_goes_before_the_end_is_noticed() {
        let gone = Arc::new(Mutex::new(0));
        let count = gone.clone();
        let tell: Arc<dyn Fn() + Send + Sync> = Arc::new(move || *count.lock().unwrap() += 1);
        let stream = Stream::new(1, 100, Full::Lose);
        drop(stream.read(0, Reading { gone: Some(tell.clone()), ..how(false) }));
        assert_eq!(*gone.lock().unwrap(), 1);
        stream.push("end", true);
        let mut reader = stream.read(0, Reading { gone: Some(tell), ..how(false) }).unwrap();
        while next(&mut reader).await.is_some() {}
        drop(reader);
        assert_eq!(*gone.lock().unwrap(), 1);
    }
}
