//! One conversation with a peer.
//!
//! A reader task dispatches, a writer task writes from a bounded queue. Requests run side by side, at most
//! [`CONCURRENT`] at a time; further ones wait, while answers and cancellations, which they may be waiting for,
//! are still read. Beyond [`ACCEPTED`] the peer is not read, so that it feels the back-pressure itself.
//! A peer that does not read for [`STALLED`] is cut off. Who must know that the other side is there asks it with
//! [`Connection::keep_alive`].

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
};

use super::frame::{Wire, read_frame};
use crate::{Error, ErrorKind, Result, contain::contained};

const CONCURRENT: usize = 64;
const ACCEPTED: usize = 1024;
/// How many requests may wait for their answers at a time; others wait their turn here. Less than what the other
/// side takes in, so that it is still read when it is asked whether it is there.
const ASKED: usize = ACCEPTED - 64;
const OUTBOUND: usize = 64;
/// What may wait to be written, in KiB. A frame that is larger waits until it is alone.
const OUTBOUND_KIB: u32 = 4 << 10;
const STALLED: Duration = Duration::from_secs(30);
/// Asks whether somebody is there; either side answers, at any time.
const PING: &str = "ping";

/// What answers the other side.
#[async_trait]
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers a request. Requests run side by side.
    async fn request(&self, peer: &Arc<Connection>, method: &str, params: Value) -> Result<Value>;

    /// Takes a notification. In order, one at a time; must be quick.
    async fn notification(&self, _peer: &Arc<Connection>, _method: &str, _params: Value) {}

    /// The conversation is over.
    fn closed(&self) {}
}

/// A conversation: asks the other side, and tells it.
pub struct Connection {
    outbound: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    asking: Semaphore,
    pending: Mutex<HashMap<u64, oneshot::Sender<Result<Value>>>>,
    next_id: AtomicU64,
    closed: watch::Sender<bool>,
    /// Frames that came so far.
    heard: AtomicU64,
    /// Why it was closed from this side, where there is more to say than that it ended.
    why: OnceLock<Error>,
}

/// A frame, and its share of the room, given back when it has been written.
struct Outgoing(Vec<u8>, OwnedSemaphorePermit);

impl Connection {
    /// Starts a conversation over a stream; `handler` answers what the other side asks.
    pub fn start<R, W>(read: R, write: W, handler: Arc<dyn PeerHandler>) -> Arc<Self>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (outbound, outgoing) = mpsc::channel(OUTBOUND);
        let (closed, _) = watch::channel(false);
        let room = Arc::new(Semaphore::new(OUTBOUND_KIB as usize));
        let (pending, next_id) = (Mutex::default(), AtomicU64::new(1));
        let (heard, why) = (AtomicU64::new(0), OnceLock::new());
        let asking = Semaphore::new(ASKED);
        let connection = Arc::new(Self { outbound, room, asking, pending, next_id, closed, heard, why });
        tokio::spawn(write_all(write, outgoing, connection.clone()));
        tokio::spawn(connection.clone().read_all(read, handler));
        connection
    }

    /// Asks the other side.
    pub async fn request(&self, method: &str, params: Value) -> Result<Value> {
        let _asking = tokio::select! {
            asking = self.asking.acquire() => asking,
            () = self.ended() => return Err(self.lost()),
        };
        self.ask(method, params).await
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Value> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(id, tx);
        let forget = Forget { connection: self, id };
        self.send(Wire::request(id, method, params)).await?;
        let answer = rx.await.unwrap_or_else(|_| Err(self.lost()));
        drop(forget);
        answer
    }

    /// Tells the other side, waiting for room in the queue.
    pub async fn notify(&self, method: &str, params: Value) -> Result<()> {
        self.send(Wire::notification(method, params)).await
    }

    /// Tells the other side if there is room.
    pub fn try_notify(&self, method: &str, params: Value) -> Result<()> {
        self.try_send(&Wire::notification(method, params))
    }

    fn try_send(&self, message: &Wire) -> Result<()> {
        let full = || Error::new(ErrorKind::QueueFull, "the peer does not keep up");
        let bytes = message.encode()?;
        let room = self.room.clone().try_acquire_many_owned(kib(&bytes)).map_err(|_| full())?;
        self.outbound.try_send(Outgoing(bytes, room)).map_err(|_| full())
    }

    /// Ends the conversation; what waits for an answer fails.
    pub fn close(&self) {
        self.closed.send_replace(true);
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        for waiting in pending.into_values() {
            let _ = waiting.send(Err(self.lost()));
        }
    }

    /// Watches over the other side, and ends with the conversation: what has said nothing for `quiet` is asked
    /// whether it is there. Without a sign of it for as long as that again the conversation is closed, and
    /// whatever waits for an answer fails with `why`.
    pub(super) async fn keep_alive(&self, quiet: Duration, why: Error) {
        let mut heard = self.heard.load(Ordering::Relaxed);
        while !self.quiet_for(quiet, &mut heard).await {}
        if self.is_closed() {
            return;
        }
        let _ = self.why.set(why);
        self.close();
    }

    /// Whether nothing came for `quiet`, nor an answer to the question that follows; or the end.
    async fn quiet_for(&self, quiet: Duration, heard: &mut u64) -> bool {
        let news = |before: &mut u64| {
            let now = self.heard.load(Ordering::Relaxed);
            std::mem::replace(before, now) != now
        };
        tokio::select! {
            () = self.ended() => return true,
            () = tokio::time::sleep(quiet) => {}
        }
        if news(heard) {
            return false;
        }
        // Any answer will do, and any other frame is as good a sign.
        let asked = tokio::time::timeout(quiet, self.ask(PING, Value::Null)).await;
        self.is_closed() || (asked.is_err() && !news(heard))
    }

    /// Ends the conversation after what is queued has been written, or after a second.
    pub async fn finish(&self) {
        let drained = self.outbound.reserve_many(OUTBOUND);
        let _ = tokio::time::timeout(Duration::from_secs(1), drained).await;
        self.close();
    }

    /// Completes when the conversation is over.
    pub async fn ended(&self) {
        let _ = self.closed.subscribe().wait_for(|c| *c).await;
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    async fn send(&self, message: Wire) -> Result<()> {
        let bytes = message.encode()?;
        // As a tree it takes many times the memory, and the wait may be long.
        drop(message);
        if self.is_closed() {
            return Err(self.lost());
        }
        let queue = async {
            let room = self.room.clone().acquire_many_owned(kib(&bytes)).await.map_err(|_| self.lost())?;
            self.outbound.send(Outgoing(bytes, room)).await.map_err(|_| self.lost())
        };
        tokio::select! {
            queued = queue => queued,
            () = self.ended() => Err(self.lost()),
        }
    }

    /// Why nothing can be asked or told any more.
    fn lost(&self) -> Error {
        let ended = || Error::new(ErrorKind::HostUnavailable, "the connection ended");
        self.why.get().cloned().unwrap_or_else(ended)
    }

    /// Why this side closed it, where it had a reason of its own.
    pub(super) fn why(&self) -> Option<&Error> {
        self.why.get()
    }

    async fn read_all<R: AsyncRead + Unpin>(self: Arc<Self>, mut read: R, handler: Arc<dyn PeerHandler>) {
        let limits = Limits {
            accepted: Arc::new(Semaphore::new(ACCEPTED)),
            running: Arc::new(Semaphore::new(CONCURRENT)),
        };
        let mut buffer = Vec::new();
        loop {
            let frame = tokio::select! {
                frame = read_frame(&mut read, &mut buffer) => frame,
                () = self.ended() => break,
            };
            self.heard.fetch_add(1, Ordering::Relaxed);
            let message = match frame {
                Ok(None) => break,
                Ok(Some(bytes)) => Wire::decode(bytes),
                Err(e) => Err(e),
            };
            // A large message must not keep its memory for the life of a quiet connection.
            if buffer.capacity() > 1 << 16 {
                buffer = Vec::new();
            }
            match message {
                Ok(message) => self.dispatch(message, &handler, &limits).await,
                Err(e) => {
                    tracing::warn!(error = %e, "a peer broke the protocol and is cut off");
                    let _ = self.send(Wire::response(None, Err(e))).await;
                    break;
                }
            }
        }
        self.close();
        handler.closed();
    }

    async fn dispatch(self: &Arc<Self>, message: Wire, handler: &Arc<dyn PeerHandler>, limits: &Limits) {
        match (message.method, message.id.number()) {
            // Answered by the reader itself: it says that somebody is there, whatever else is waited for. Where
            // there is no room for it, what waits to be written says so too.
            (Some(method), Some(id)) if method == PING => {
                let _ = self.try_send(&Wire::response(Some(id), Ok(Value::Null)));
            }
            (Some(method), Some(id)) => {
                let accepted = tokio::select! {
                    accepted = limits.accepted.clone().acquire_owned() => accepted,
                    () = self.ended() => return,
                };
                let (connection, handler, running) = (self.clone(), handler.clone(), limits.running.clone());
                tokio::spawn(async move {
                    let work = async {
                        let _running = running.acquire().await;
                        contained(handler.request(&connection, &method, message.params)).await
                    };
                    tokio::select! {
                        outcome = work => {
                            let outcome = outcome.and_then(|r| r);
                            let response = Wire::response(Some(id), outcome);
                            if let Err(e) = connection.send(response).await {
                                let _ = connection.send(Wire::response(Some(id), Err(e))).await;
                            }
                        }
                        () = connection.ended() => {}
                    }
                    drop(accepted);
                });
            }
            (Some(method), None) => {
                let _ = contained(handler.notification(self, &method, message.params)).await;
            }
            (None, id) => {
                let waiting =
                    id.and_then(|id| self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
                let outcome = match message.error {
                    Some(e) => Err(Error::from(e)),
                    None => Ok(message.result.unwrap_or(Value::Null)),
                };
                if let Some(waiting) = waiting {
                    let _ = waiting.send(outcome);
                } else if let Err(e) = outcome {
                    tracing::debug!(error = %e, "the other side reports an error");
                }
            }
        }
    }
}

/// How many of the other side's requests are taken in, and how many of those are worked on.
struct Limits {
    accepted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// Forgets a request whose asker stopped waiting.
struct Forget<'c> {
    connection: &'c Connection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.connection.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut write: W,
    mut outgoing: mpsc::Receiver<Outgoing>,
    connection: Arc<Connection>,
) {
    loop {
        let next = tokio::select! {
            biased;
            next = outgoing.recv() => next,
            () = connection.ended() => None,
        };
        let Some(Outgoing(bytes, _room)) = next else { break };
        match tokio::time::timeout(STALLED, write.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => {
                tracing::warn!("a peer has not read for {STALLED:?} and is cut off");
                break;
            }
        }
    }
    connection.close();
    let _ = write.shutdown().await;
}

/// The room that a frame takes.
fn kib(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len().div_ceil(1 << 10)).unwrap_or(u32::MAX).clamp(1, OUTBOUND_KIB)
}
