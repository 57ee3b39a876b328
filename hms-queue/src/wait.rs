//! Producers that wait for room: the futures behind [`Queue::push_wait`] and [`Queue::reserve`].

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use crate::{Closed, PushError, Queue, state::State, sync::MutexGuard};

/// The future of [`Queue::push_wait`]: `Ok` when the item is in, the item back when the queue was closed.
#[must_use = "nothing is pushed before this is awaited"]
pub struct PushWait<'a, T> {
    queue: &'a Queue<T>,
    item: Option<T>,
    key: Option<u64>,
}

impl<'a, T> PushWait<'a, T> {
    pub(crate) fn new(queue: &'a Queue<T>, item: T) -> Self {
        Self { queue, item: Some(item), key: None }
    }
}

// The item is moved, never pinned.
impl<T> Unpin for PushWait<'_, T> {}

impl<T> Future for PushWait<'_, T> {
    type Output = Result<(), PushError<T>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let polled = poll_room(this.queue, cx, &mut this.key);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(room) => {
                let Some(item) = this.item.take() else {
                    // Polled again after completion: there is nothing left to do.
                    return Poll::Ready(Ok(()));
                };
                match room {
                    Ok(mut state) => {
                        state.append(item);
                        this.queue.signal(state);
                        Poll::Ready(Ok(()))
                    }
                    Err(Closed) => Poll::Ready(Err(PushError::Closed(item))),
                }
            }
        }
    }
}

impl<T> Drop for PushWait<'_, T> {
    fn drop(&mut self) {
        give_up(self.queue, self.key);
    }
}

impl<T> fmt::Debug for PushWait<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushWait").finish_non_exhaustive()
    }
}

/// The future of [`Queue::reserve`].
#[must_use = "nothing is reserved before this is awaited"]
pub struct Reserve<T, Q: AsRef<Queue<T>>> {
    queue: Option<Q>,
    key: Option<u64>,
    item: PhantomData<fn(T)>,
}

impl<T, Q: AsRef<Queue<T>>> Reserve<T, Q> {
    pub(crate) fn new(queue: Q) -> Self {
        Self { queue: Some(queue), key: None, item: PhantomData }
    }
}

impl<T, Q: AsRef<Queue<T>> + Unpin> Future for Reserve<T, Q> {
    type Output = Result<Permit<T, Q>, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(queue) = this.queue.take() else {
            // Polled again after completion: there is nothing left to hand out.
            return Poll::Ready(Err(Closed));
        };
        let polled = poll_room(queue.as_ref(), cx, &mut this.key)
            .map(|room| room.map(|mut state| state.reserved += 1));
        match polled {
            Poll::Pending => {
                this.queue = Some(queue);
                Poll::Pending
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Permit { queue, used: false, item: PhantomData })),
            Poll::Ready(Err(Closed)) => Poll::Ready(Err(Closed)),
        }
    }
}

impl<T, Q: AsRef<Queue<T>>> Drop for Reserve<T, Q> {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            give_up(queue.as_ref(), self.key);
        }
    }
}

/// A place in a queue, kept for its holder; dropping it gives the place back.
pub struct Permit<T, Q: AsRef<Queue<T>>> {
    queue: Q,
    used: bool,
    item: PhantomData<fn(T)>,
}

impl<T, Q: AsRef<Queue<T>>> Permit<T, Q> {
    /// Puts `item` into the place. Never waits.
    ///
    /// # Errors
    /// [`PushError::Closed`] when the queue was closed meanwhile.
    pub fn push(mut self, item: T) -> Result<(), PushError<T>> {
        let queue = self.queue.as_ref();
        let mut state = queue.lock();
        if state.closed {
            drop(state);
            return Err(PushError::Closed(item));
        }
        state.reserved -= 1;
        state.append(item);
        queue.signal(state);
        self.used = true;
        Ok(())
    }
}

impl<T, Q: AsRef<Queue<T>>> Drop for Permit<T, Q> {
    fn drop(&mut self) {
        if !self.used {
            let queue = self.queue.as_ref();
            let mut state = queue.lock();
            state.reserved -= 1;
            queue.made_room(state);
        }
    }
}

impl<T, Q: AsRef<Queue<T>>> fmt::Debug for Permit<T, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").finish_non_exhaustive()
    }
}

/// The locked state once there is room; else registers the producer under `key`.
fn poll_room<'a, T>(
    queue: &'a Queue<T>,
    cx: &Context<'_>,
    key: &mut Option<u64>,
) -> Poll<Result<MutexGuard<'a, State<T>>, Closed>> {
    let mut state = queue.lock();
    let old = if state.closed {
        return Poll::Ready(Err(Closed));
    } else if state.has_room(queue.capacity) {
        let old = key.take().and_then(|key| state.producers.remove(key));
        if old.is_none() {
            return Poll::Ready(Ok(state));
        }
        // Drop the waker outside the lock and come again at once; with `key` gone this ends.
        drop(state);
        drop(old);
        return poll_room(queue, cx, key);
    } else {
        state.producers.register(key, cx.waker())
    };
    drop(state);
    drop(old);
    Poll::Pending
}

/// Forgets a producer that no longer waits.
fn give_up<T>(queue: &Queue<T>, key: Option<u64>) {
    if let Some(key) = key {
        let waker = queue.lock().producers.remove(key);
        drop(waker);
    }
}
