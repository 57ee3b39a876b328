//! Guests that block their thread: they run where that is allowed, so many at a time, and those that never
//! return are counted.
//!
//! The tasks of a system share a few threads, and a guest that sleeps, locks or waits on one of them holds up
//! agents that have nothing to do with it. One that says that it blocks (`Behaviour::blocks`, `Service::blocks`,
//! a command's [`handler`]) is therefore called on a thread of its own for the length of the call. Nothing can
//! end a thread that never returns: the caller gives the call up at its deadline, the call goes on being counted
//! (`Hung`), and so keeps its place among the bounded number of threads.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, oneshot},
};

use crate::{
    Error, ErrorKind, Result,
    command::{self, CommandContext, Handler},
    contain::contained,
};

/// How many calls of blocking agents run at a time. The runtime has room for several times that.
const AGENTS: usize = 64;

/// How many calls of one service or command run at a time.
pub(crate) const CALLS: usize = 16;

/// Makes the handler of a command of a function that may block its thread: it runs on one of its own, at most
/// 16 at a time. One that is cancelled runs on, and is only not waited for; so it should look at
/// [`CommandContext::is_cancelled`] now and then.
pub fn handler<A, F>(f: F) -> Handler
where
    A: DeserializeOwned + Send + 'static,
    F: Fn(CommandContext, A) -> Result<Value> + Send + Sync + 'static,
{
    let (f, threads, hung) = (Arc::new(f), Blocking::new(CALLS), Hung::default());
    command::handler(move |cx, args: A| {
        let (f, threads, hung) = (f.clone(), threads.clone(), hung.clone());
        async move { threads.run(&hung, async move { f(cx, args) }).await? }
    })
}

/// Threads on which guests may block. Cheap to clone; clones share the threads.
#[derive(Clone)]
pub(crate) struct Blocking {
    free: Arc<Semaphore>,
    threads: usize,
}

impl Default for Blocking {
    /// For the agents of a system.
    fn default() -> Self {
        Self::new(AGENTS)
    }
}

impl Blocking {
    /// That many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(threads)), threads }
    }

    /// Runs `call` on a thread where it may block; a panic in it is an error. Waits for a thread as long as all
    /// are taken, unless that is for ever.
    ///
    /// Who stops waiting gives the call up: it ends at its next await, and until then `hung` counts it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        hung: &Hung,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let ended = || Error::internal("the runtime ended in the middle of a call");
        if hung.count() >= self.threads {
            return Err(Error::new(
                ErrorKind::InvalidState,
                format!("{} earlier calls of it have not returned", self.threads),
            )
            .hint("restart the process they run in"));
        }
        let permit = self.free.clone().acquire_owned().await.map_err(|_| ended())?;
        let (answer, answered) = oneshot::channel();
        let (waits, given_up) = oneshot::channel::<()>();
        let call_state = Arc::new(Call { state: AtomicU8::new(RUNS), hung: hung.clone() });
        let waiting = Waiting { _waits: waits, call: call_state.clone() };
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let returned = Returned(call_state);
            let outcome = runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = given_up => None,
                    outcome = contained(call) => Some(outcome),
                }
            });
            drop(permit);
            drop(returned);
            if let Some(outcome) = outcome {
                let _ = answer.send(outcome);
            }
        });
        let outcome = answered.await.unwrap_or_else(|_| Err(ended()));
        drop(waiting);
        outcome
    }
}

/// How many calls of one guest were given up and have not returned. Cheap to clone; clones count together.
#[derive(Clone, Default)]
pub(crate) struct Hung(Arc<AtomicUsize>);

impl Hung {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

const RUNS: u8 = 0;
const GIVEN_UP: u8 = 1;
const RETURNED: u8 = 2;

struct Call {
    state: AtomicU8,
    hung: Hung,
}

/// Held by who waits for a call.
struct Waiting {
    /// Dropped last, so that a call which ends because of it was counted before.
    call: Arc<Call>,
    _waits: oneshot::Sender<()>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Call { state, hung } = &*self.call;
        if state.load(Ordering::Acquire) == RETURNED {
            return; // nearly every call: it is not counted for a moment either
        }
        // Counted before it is marked: the thread takes it off only when it finds the mark.
        hung.0.fetch_add(1, Ordering::AcqRel);
        if state.compare_exchange(RUNS, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_err() {
            hung.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Held by the thread of a call.
struct Returned(Arc<Call>);

impl Drop for Returned {
    fn drop(&mut self) {
        let Call { state, hung } = &*self.0;
        if state.swap(RETURNED, Ordering::AcqRel) == GIVEN_UP {
            hung.0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::ErrorKind;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Until `hung` counts `want`: the thread that changes it is nobody's to wait for.
    async fn counts(hung: &Hung, want: usize) {
        let reached = async {
            while hung.count() != want {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("the count changes");
    }

    #[tokio::test]
    async fn a_blocked_thread_holds_up_nobody_else() {
        let (blocking, hung) = (Blocking::new(2), Hung::default());
        let (go, wait) = mpsc::channel::<()>();
        let call = blocking.run(&hung, async move { wait.recv().is_ok() });
        // This runtime has one thread: were the call on it, the other branch would never be polled.
        let (returned, ()) = tokio::join!(call, async { go.send(()).expect("it waits") });
        assert_eq!(returned, Ok(true));
        assert_eq!(hung.count(), 0);
    }

    #[tokio::test]
    async fn what_is_given_up_is_counted_until_it_returns() {
        let (blocking, hung) = (Blocking::new(2), Hung::default());
        let (go, wait) = mpsc::channel::<()>();
        let (begun, begins) = oneshot::channel();
        {
            let call = blocking.run(&hung, async move {
                let _ = begun.send(());
                wait.recv()
            });
            tokio::select! {
                _ = call => panic!("it blocks"),
                _ = begins => {}
            }
        }
        assert_eq!(hung.count(), 1);
        assert_eq!(blocking.free.available_permits(), 1, "it keeps its place");
        go.send(()).expect("it waits");
        counts(&hung, 0).await;
        // One that awaits ends by being given up.
        let endless = blocking.run(&hung, std::future::pending::<()>());
        assert!(tokio::time::timeout(Duration::from_millis(1), endless).await.is_err());
        counts(&hung, 0).await;
    }

    #[tokio::test]
    async fn where_all_threads_hang_calls_are_refused() {
        let (blocking, hung) = (Blocking::new(2), Hung::default());
        let mut hang = Vec::new();
        for _ in 0..2 {
            let (go, wait) = mpsc::channel::<()>();
            let (begun, begins) = oneshot::channel();
            let call = blocking.run(&hung, async move {
                let _ = begun.send(());
                wait.recv()
            });
            tokio::select! {
                _ = call => panic!("it blocks"),
                _ = begins => hang.push(go),
            }
        }
        let e = blocking.run(&hung, async {}).await.expect_err("there is no thread");
        assert_eq!(e.kind, ErrorKind::InvalidState);
        drop(hang);
        counts(&hung, 0).await;
        assert_eq!(blocking.run(&hung, async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn a_command_may_block() {
        let (go, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let handler = handler(move |_, word: String| {
            wait.lock().expect("one call").recv().expect("somebody says go");
            Ok(word.into())
        });
        let (cx, _canceller) = CommandContext::new(command::Caller::default(), None);
        let (answer, ()) = tokio::join!(handler(cx, "done".into()), async { go.send(()).expect("it waits") });
        assert_eq!(answer, Ok("done".into()));
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let call = async { panic!("told to panic") };
        let outcome: Result<()> = Blocking::new(2).run(&Hung::default(), call).await;
        assert_eq!(outcome.expect_err("it panics").kind, ErrorKind::Panic);
    }
}
