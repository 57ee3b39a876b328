//! What happens to a supervised server, told to whoever shows it; and the way a request comes back in.
//!
//! The relay must never wait for who listens: facts go into a bounded queue that forgets the oldest, and says
//! how many it forgot.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::sync::Notify;

/// Facts kept for a listener that is slow.
const KEPT: usize = 1024;

/// Something that happened to a supervised server.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "fact", rename_all = "kebab-case", rename_all_fields = "snake_case")]
pub(crate) enum Fact {
    /// A server process runs. `life` counts from 1; more than 1 is a restart.
    Started {
        /// Which start this is.
        life: u64,
        /// The process.
        pid: i32,
        /// Why it was started again; `None` for the first life.
        cause: Option<String>,
    },
    /// The server can be called (its handshake is done, or it needs none).
    Ready {
        /// Which life.
        life: u64,
        /// From the decision to start until now.
        #[serde(serialize_with = "as_ms")]
        took: Duration,
    },
    /// A server process ended without being asked by the client.
    Exited {
        /// Which life.
        life: u64,
        /// In words: `exited with code 1`, `was ended by signal SIGKILL`, `hung and was replaced`.
        reason: String,
        /// Its exit code, if it had one.
        code: Option<i32>,
        /// The number of the signal that ended it, if one did.
        signal: Option<i32>,
        /// Calls that were in flight: answered with an error, or sent again.
        failed: usize,
        /// Of those, how many are sent again.
        again: usize,
    },
    /// A call of a tool was answered.
    Call {
        /// The tool.
        tool: String,
        /// From the client's request to the server's answer.
        #[serde(serialize_with = "as_ms")]
        took: Duration,
        /// Whether the answer was a result; a result that says `isError` counts as one.
        ok: bool,
    },
    /// A call got no answer in time, and neither did a probe; the tree is being replaced.
    Hang {
        /// The tools (or methods) that waited.
        tools: Vec<String>,
        /// How long the oldest of them had waited.
        #[serde(serialize_with = "as_ms")]
        waited: Duration,
    },
    /// The tree used more memory than it may.
    MemoryOver {
        /// What it used, in bytes.
        used: u64,
        /// What it may use, in bytes.
        limit: u64,
    },
    /// A call was told that the server's session is gone (`--stateful`).
    LostSession {
        /// The tool.
        tool: String,
    },
    /// A tool ended its server too often and is refused for a while.
    Refused {
        /// The tool (or method).
        tool: String,
    },
    /// The server cannot be kept alive; requests are answered with an error until it is tried again.
    GaveUp {
        /// In words.
        reason: String,
        /// When it is tried again at the earliest.
        #[serde(serialize_with = "as_ms")]
        again_in: Duration,
    },
    /// It was stopped on purpose, and nothing of it runs any more.
    Halted,
    /// The list of tools differs from the one the client has; it was told.
    ToolsChanged,
    /// A line that the server wrote to its standard error.
    Stderr {
        /// Without the line's end; cut when it is very long.
        line: String,
    },
    /// The client went, and the server with it.
    Closed,
}

impl Fact {
    /// Whether who listens should hear of it at once. The others come in great numbers, and waking a thread for
    /// each would cost the call more than all else.
    pub(crate) fn is_pressing(&self) -> bool {
        !matches!(self, Self::Call { .. } | Self::Stderr { .. } | Self::ToolsChanged | Self::Refused { .. })
    }
}

fn as_ms<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64() * 1e3)
}

/// The end that tells. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter(Arc<Shared>);

/// The end that listens.
pub(crate) struct Facts(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something where there was nothing.
    news: Notify,
    /// There is something pressing, or much.
    pressing: Notify,
}

#[derive(Default)]
struct Queue {
    facts: VecDeque<Fact>,
    lost: u64,
    pressing: bool,
}

impl Queue {
    fn take(&mut self) -> (Vec<Fact>, u64) {
        self.pressing = false;
        (self.facts.drain(..).collect(), std::mem::take(&mut self.lost))
    }
}

/// A queue of facts and its two ends.
pub(crate) fn facts() -> (Reporter, Facts) {
    let shared = Arc::new(Shared::default());
    (Reporter(shared.clone()), Facts(shared))
}

impl Reporter {
    /// Tells a fact. Never waits; the oldest is forgotten when nobody listens fast enough.
    pub(crate) fn tell(&self, fact: Fact) {
        let (first, presses) = {
            let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.facts.len() == KEPT {
                queue.facts.pop_front();
                queue.lost += 1;
            }
            let presses = !queue.pressing && (fact.is_pressing() || queue.facts.len() >= KEPT / 2);
            queue.pressing |= presses;
            queue.facts.push_back(fact);
            (queue.facts.len() == 1, presses)
        };
        if first {
            self.0.news.notify_one();
        }
        if presses {
            self.0.pressing.notify_one();
        }
    }
}

impl Facts {
    /// Waits for facts: all there are (at least one), and how many were forgotten before them. One task at a
    /// time. The last fact of a server is [`Fact::Closed`].
    pub(crate) async fn next(&mut self) -> (Vec<Fact>, u64) {
        loop {
            {
                let mut queue = self.queue();
                if !queue.facts.is_empty() {
                    return queue.take();
                }
            }
            self.0.news.notified().await;
        }
    }

    /// The same, but waits until one of them is pressing, or until there are many.
    pub(crate) async fn pressing(&mut self) -> (Vec<Fact>, u64) {
        loop {
            {
                let mut queue = self.queue();
                if queue.pressing {
                    return queue.take();
                }
            }
            self.0.pressing.notified().await;
        }
    }

    /// What there is now.
    pub(crate) fn take(&mut self) -> (Vec<Fact>, u64) {
        self.queue().take()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_loses_the_oldest() {
        let (reporter, mut facts) = facts();
        for n in 0..KEPT as u64 + 3 {
            reporter.tell(Fact::Stderr { line: n.to_string() });
        }
        let (told, lost) = facts.next().await;
        assert_eq!((told.len(), lost), (KEPT, 3));
        assert_eq!(told[0], Fact::Stderr { line: "3".into() });
        reporter.tell(Fact::Closed);
        assert_eq!(facts.next().await, (vec![Fact::Closed], 0));
    }

    #[tokio::test]
    async fn only_what_presses_wakes_who_waits_for_that() {
        let (reporter, mut facts) = facts();
        let call = || Fact::Call { tool: "x".into(), took: Duration::ZERO, ok: true };
        reporter.tell(call());
        let early = tokio::time::timeout(Duration::from_millis(20), facts.pressing()).await;
        assert!(early.is_err(), "a call does not press");
        reporter.tell(Fact::Halted);
        assert_eq!(facts.pressing().await.0, [call(), Fact::Halted]);
        (0..=KEPT / 2).for_each(|_| reporter.tell(call()));
        assert_eq!(facts.pressing().await.0.len(), KEPT / 2 + 1, "many press");
        reporter.tell(call());
        assert_eq!((facts.take(), facts.take()), ((vec![call()], 0), (Vec::new(), 0)));
    }
}
