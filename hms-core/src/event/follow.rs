//! A subscription that follows the journal: reads what was kept, goes live, and returns to the journal
//! whenever its queue was too small, so that it loses no journaled event.
//!
//! The cursor is the greatest sequence delivered. *Behind*, it reads pages of the journal until one
//! is short. *Live*, it takes the queue and skips what the pages had already. A publisher that finds the
//! queue full leaves the sequence in `Missed`; if that is beyond the cursor, the journaled events of the
//! queue are put aside (the journal has them) and reading begins again from the cursor.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
};

use super::{
    journal::{BoxFuture, Journal},
    model::Event,
    sink::Sink,
    subscription::Batch,
};
use crate::{Error, Result};

/// How many events are read from the journal at once.
const PAGE: usize = 256;

/// The consumer's state of a subscription that follows the journal.
pub(super) struct Follow {
    journal: Arc<dyn Journal>,
    cursor: u64,
    behind: bool,
    reading: Option<Reading>,
    /// Read, admitted, and not yet delivered.
    page: VecDeque<Arc<Event>>,
    /// To be told with the next batch.
    pruned_through: Option<u64>,
    error: Option<Error>,
    /// Who waits for a reading, to be woken when it is abandoned.
    waiting: Option<Waker>,
}

struct Reading {
    page: BoxFuture<Result<Vec<Arc<Event>>>>,
    /// What had been missed when the reading began; it has all of that.
    missed: u64,
}

impl Follow {
    pub(super) fn new(journal: Arc<dyn Journal>, after_sequence: u64) -> Self {
        Self {
            journal,
            cursor: after_sequence,
            behind: true,
            reading: None,
            page: VecDeque::new(),
            pruned_through: None,
            error: None,
            waiting: None,
        }
    }

    /// Why the journal could not be read, which ended the subscription.
    pub(super) fn error(&self) -> Option<Error> {
        self.error.clone()
    }

    /// The greatest sequence up to which everything was delivered.
    pub(super) fn cursor(&self) -> u64 {
        // Pages advance the cursor when they are read; what waits in one was not delivered.
        match self.page.front().and_then(|event| event.sequence) {
            Some(next) => next - 1,
            None => self.cursor,
        }
    }

    /// Forgets what was read: nothing more will be delivered. Returns whom to wake, outside the lock.
    pub(super) fn clear(&mut self) -> Option<Waker> {
        self.reading = None;
        self.page = VecDeque::new();
        self.waiting.take()
    }

    /// The next batch; `None` at the end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, sink: &Sink, max: usize) -> Poll<Option<Batch>> {
        loop {
            if sink.cancelled.load(Ordering::Acquire) || self.error.is_some() {
                return Poll::Ready(None);
            }
            if !self.page.is_empty() || self.pruned_through.is_some() {
                return Poll::Ready(Some(self.take_page(max)));
            }
            if self.behind {
                ready!(self.poll_read(cx, sink));
                continue;
            }
            let mut events = Vec::new();
            let Some(lost) = ready!(sink.queue.poll_recv(cx, &mut events, max)) else {
                return Poll::Ready(None);
            };
            self.skip_known(&mut events, sink);
            if !events.is_empty() || lost > 0 {
                return Poll::Ready(Some(Batch { events, lost, pruned_through: None }));
            }
        }
    }

    fn take_page(&mut self, max: usize) -> Batch {
        let count = self.page.len().min(max.max(1));
        let events = self.page.drain(..count).collect();
        Batch { events, lost: 0, pruned_through: self.pruned_through.take() }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, sink: &Sink) -> Poll<()> {
        let reading = self.reading.get_or_insert_with(|| Reading {
            missed: sink.missed.as_ref().map_or(0, |missed| missed.through()),
            page: self.journal.read(self.cursor, &sink.patterns, PAGE),
        });
        let Poll::Ready(outcome) = reading.page.as_mut().poll(cx) else {
            self.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let missed = reading.missed;
        (self.reading, self.waiting) = (None, None);
        match outcome {
            Err(error) => self.error = Some(error.context("reading the journal")),
            Ok(page) => self.accept(page, missed, sink),
        }
        Poll::Ready(())
    }

    fn accept(&mut self, mut page: Vec<Arc<Event>>, missed: u64, sink: &Sink) {
        // Asked after the reading, lest retention come in between. A page that has what retention
        // removed was read before.
        let pruned = self.journal.pruned_through();
        let first = page.first().and_then(|event| event.sequence);
        if pruned > self.cursor && first.is_none_or(|first| first > pruned) {
            self.pruned_through = Some(pruned);
            self.cursor = pruned;
        }
        self.behind = page.len() >= PAGE;
        page.retain(|event| event.sequence > Some(self.cursor));
        if let Some(last) = page.last().and_then(|event| event.sequence) {
            self.cursor = last;
        } else if self.behind {
            // A full page that brings nothing new would be read for ever.
            self.error = Some(Error::internal("the journal answered with events before the cursor"));
        }
        if !self.behind {
            // What was missed and is still not in the journal, it could not keep. Do not look again.
            self.cursor = self.cursor.max(missed);
        }
        self.page = page.into_iter().filter(|event| sink.admits(event)).collect();
    }

    /// Leaves in `events`, fresh from the queue, what is to be delivered now.
    fn skip_known(&mut self, events: &mut Vec<Arc<Event>>, sink: &Sink) {
        if sink.missed.as_ref().is_some_and(|missed| missed.through() > self.cursor) {
            self.behind = true;
            events.retain(|event| event.sequence.is_none());
            return;
        }
        events.retain(|event| event.sequence.is_none_or(|sequence| sequence > self.cursor));
        if let Some(last) = events.iter().rev().find_map(|event| event.sequence) {
            self.cursor = last;
        }
    }
}
