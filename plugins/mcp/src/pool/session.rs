//! A client's session over HTTP: its id, its streams, and since when it has been quiet.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hms_core::{Result, clock::Mono};

use super::{
    stream::{Full, Stream},
    unit::Unit,
};
use crate::bearer::secret;

/// What a stream of answers may hold while nobody reads it.
const ANSWERS: usize = 8 << 20;
/// What may wait that belongs to no request.
const NEWS: usize = 256 << 10;
/// Finished streams that a client may come back to, and what they may hold together.
const FINISHED: usize = 64;
const FINISHED_BYTES: usize = 4 << 20;
/// Streams of requests that are unanswered.
const OPEN: usize = 256;

/// A client's session.
pub(super) struct Session {
    /// The secret by which the client is known.
    pub(super) id: String,
    /// Its number at the server it shares.
    pub(super) seat: u64,
    /// The server it shares.
    pub(super) unit: Arc<Unit>,
    inner: Mutex<Inner>,
}

struct Inner {
    version: String,
    used: Mono,
    next: u64,
    streams: BTreeMap<u64, Arc<Stream>>,
    finished: VecDeque<u64>,
}

impl Session {
    /// A session whose `initialize` is still to be answered.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub(super) fn new(seat: u64, unit: Arc<Unit>, now: Mono) -> Result<Arc<Self>> {
        let streams = BTreeMap::from([(0, Stream::new(0, NEWS, Full::DropOldest))]);
        let inner = Inner { version: String::new(), used: now, next: 1, streams, finished: VecDeque::new() };
        Ok(Arc::new(Self { id: secret()?, seat, unit, inner: Mutex::new(inner) }))
    }

    /// The protocol version both agreed on.
    pub(super) fn agreed(&self, version: &str) {
        self.lock().version = version.into();
    }

    /// The protocol version both agreed on.
    pub(super) fn version(&self) -> String {
        self.lock().version.clone()
    }

    /// The stream of what belongs to no request.
    pub(super) fn news(&self) -> Arc<Stream> {
        let mut inner = self.lock();
        inner.streams.entry(0).or_insert_with(|| Stream::new(0, NEWS, Full::DropOldest)).clone()
    }

    /// A stream for `answers` answers; `None` when too many are unanswered.
    pub(super) fn open(&self, answers: usize) -> Option<Arc<Stream>> {
        let mut inner = self.lock();
        inner.sweep();
        if inner.streams.len() - inner.finished.len() > OPEN {
            return None;
        }
        let number = inner.next;
        inner.next += 1;
        let stream = Stream::expecting(answers, number, ANSWERS, Full::Lose);
        inner.streams.insert(number, stream.clone());
        Some(stream)
    }

    /// The stream with this number, if it is still kept.
    pub(super) fn stream(&self, number: u64) -> Option<Arc<Stream>> {
        self.lock().streams.get(&number).cloned()
    }

    /// It is being used.
    pub(super) fn touch(&self, now: Mono) {
        self.lock().used = now;
    }

    /// Since when nothing has happened; `None` while a stream is being read.
    pub(super) fn idle_since(&self, now: Mono) -> Option<Mono> {
        let mut inner = self.lock();
        if inner.streams.values().any(|s| s.attached()) {
            inner.used = now;
            return None;
        }
        Some(inner.used)
    }

    /// Ends all streams.
    pub(super) fn end(&self) {
        let streams = std::mem::take(&mut self.lock().streams);
        streams.values().for_each(|s| s.end());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Forgets finished streams beyond what is kept for clients that come back.
    fn sweep(&mut self) {
        for (number, stream) in &self.streams {
            if stream.ended() && !self.finished.contains(number) {
                self.finished.push_back(*number);
            }
        }
        let held = |streams: &BTreeMap<u64, Arc<Stream>>, n: &u64| streams.get(n).map_or(0, |s| s.bytes());
        let mut bytes: usize = self.finished.iter().map(|n| held(&self.streams, n)).sum();
        while self.finished.len() > FINISHED || (bytes > FINISHED_BYTES && self.finished.len() > 1) {
            let Some(number) = self.finished.pop_front() else { break };
            bytes = bytes.saturating_sub(held(&self.streams, &number));
            self.streams.remove(&number);
        }
    }
}
