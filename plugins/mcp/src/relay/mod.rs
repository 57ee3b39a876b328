//! One server's conversation with one client, without I/O: what passes, what is sent again, what is given up.
//!
//! A [`Relay`] is told what happens (bytes of either side, starts, exits, time) and answers with bytes for either
//! side and [`Action`]s for whoever owns the process. It asks no clock and touches no file, so that every
//! interleaving can be tested on a virtual clock. As long as the server is well it only looks: messages pass
//! byte for byte, in order.
//!
//! | file | what |
//! | --- | --- |
//! | `client` | what the client says |
//! | `server` | what the server says |
//! | `life` | starts, ends, handshakes, budgets |
//! | `hang` | calls that take long, and the probe that tells slow from dead |
//! | `calls`, `asked` | requests in flight, of the client and of the server |
//! | `known` | what is known of the server beyond one life |
//! | `fact` | what is told to whoever shows the server |

mod asked;
mod calls;
mod client;
mod fact;
mod hang;
mod known;
mod life;
mod server;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use hms_core::{
    clock::{Mono, Rng},
    supervision::RestartTracker,
};
use serde_json::Value;

use self::{asked::Asked, calls::Calls, hang::Hang, known::Known, life::Strikes};
use crate::jsonrpc::{Failure, Id, Scan};

pub(crate) use self::{
    fact::{Fact, Facts, Reporter, facts},
    known::Memory,
    life::READS,
    settings::{Resend, Settings},
};

/// While a server is down, this much of what the client says is held back; then the client has to wait.
const MOST_HELD: usize = 4 << 20;

/// What the owner of the process shall do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Start the server; then [`Relay::started`] or [`Relay::exited`]. Its input begins empty.
    Start {
        /// Which life it is.
        life: u64,
    },
    /// End the server and all that it started; then [`Relay::exited`].
    Stop {
        /// Which life.
        life: u64,
        /// Close its input and give it a moment first.
        gently: bool,
    },
    /// Measure the CPU time of its tree; then [`Relay::cpu`].
    Measure {
        /// Which life.
        life: u64,
    },
    /// Keep this for the next run.
    Remember(String),
    /// Tell whoever listens.
    Tell(Fact),
    /// A remark for people, one line.
    Say(String),
}

/// What an input leads to. Bytes are whole messages, but for those of a line that is passed on while it comes.
#[derive(Debug, Default)]
pub(crate) struct Out {
    /// For the client.
    pub(crate) client: Vec<u8>,
    /// For the server, whose life is the last that was started.
    pub(crate) server: Vec<u8>,
    /// What else is to be done, in order.
    pub(crate) actions: Vec<Action>,
}

/// How a server ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ending {
    /// In words, as in `the server …`: `exited with code 1`.
    pub(crate) reason: String,
    /// Its exit code, if it had one.
    pub(crate) code: Option<i32>,
    /// The signal that ended it, if one did.
    pub(crate) signal: Option<i32>,
    /// The last that it wrote to its standard error.
    pub(crate) last_words: Option<String>,
    /// How many of the bytes it was given it had read; `None`: not known, it may have read all.
    pub(crate) read: Option<u64>,
}

/// Where the server is in its life.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// None runs; one is started at this time.
    Down(Mono),
    /// One is being started, since.
    Starting(Mono),
    /// It runs, and is being told what its predecessor was told, until then at the latest.
    Greeting { since: Mono, until: Mono },
    /// It can be talked to, since.
    Up(Mono),
    /// It is being ended.
    Ending,
    /// It ended too often; not tried again before then.
    GivenUp(Mono),
    /// It was stopped on purpose; requests are held until then, and refused after it.
    Halted(Option<Mono>),
}

/// Why we end a server.
#[derive(Debug, Clone)]
enum Doom {
    Hang { tools: Vec<String>, waited: Duration },
    Memory { used: u64, limit: u64 },
    Halted,
    NoGreeting(String),
}

/// A request of ours.
#[derive(Debug)]
enum Own {
    Greeting,
    Probe,
    /// The tools as they are now, page by page.
    Tools(Vec<Value>),
    Discovery,
    /// Only that it is done counts.
    Quiet,
}

/// What the client said while nobody could hear it.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    ids: Vec<Id>,
    /// Its end has come.
    whole: bool,
}

/// A long line that is passed on while it comes.
#[derive(Debug, Default)]
enum Stream {
    #[default]
    None,
    /// To the server.
    Passing,
    /// Into the queue.
    Holding,
    /// To nobody: the server that had its beginning is gone.
    Dropping(Box<Failure>),
}

/// The state of one conversation.
pub(crate) struct Relay {
    settings: Settings,
    rng: Rng,
    phase: Phase,
    /// The life that runs or ran last; 0 before the first.
    life: u64,
    calls: Calls,
    asked: Asked,
    own: HashMap<Id, Own>,
    tag: String,
    next_own: u64,
    known: Known,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// A long line of the client's is on its way.
    from_client: Stream,
    /// When the server last took a part of it.
    passed: Mono,
    /// Bytes that this life was given.
    given: u64,
    /// What the server is to get when that line has ended.
    after_client: Vec<u8>,
    /// A long line of the server's is on its way to the client.
    from_server: bool,
    /// What the client is to get when that line has ended.
    after_server: Vec<u8>,
    restarts: RestartTracker,
    strikes: Strikes,
    doom: Option<Doom>,
    /// Why the server runs anew, for the report of the start.
    cause: Option<String>,
    /// How the last life ended, for the error of a server that is given up.
    last_ending: Option<String>,
    hang: Hang,
    /// The server has answered in this life.
    heard: bool,
    /// A tool was called in this life.
    used: bool,
    /// A session was lost, and the client has not been told.
    session_lost: Option<String>,
    /// Over the memory limit: replaced as soon as no call is in flight.
    heavy: Option<u64>,
    /// Somebody wants it stopped.
    halting: bool,
    closing: bool,
}

impl Relay {
    /// A conversation that has not begun. `memory` is what the last run left.
    pub(crate) fn new(settings: Settings, rng: Rng, memory: Option<Memory>) -> Self {
        let tag = format!("hms-{}-", rng.token(8));
        let known = Known { memory: memory.unwrap_or_default(), ..Known::default() };
        Self {
            hang: Hang::new(settings.hang_timeout),
            settings,
            rng,
            phase: Phase::Down(Mono::ZERO),
            life: 0,
            calls: Calls::default(),
            asked: Asked::default(),
            own: HashMap::new(),
            tag,
            next_own: 0,
            known,
            held: VecDeque::new(),
            held_bytes: 0,
            from_client: Stream::None,
            passed: Mono::ZERO,
            given: 0,
            after_client: Vec::new(),
            from_server: false,
            after_server: Vec::new(),
            restarts: RestartTracker::default(),
            strikes: Strikes::default(),
            doom: None,
            cause: None,
            last_ending: None,
            heard: false,
            used: false,
            session_lost: None,
            heavy: None,
            halting: false,
            closing: false,
        }
    }

    /// Whether more of the client may be taken now. It may again after any other input.
    pub(crate) fn takes_more(&self) -> bool {
        self.held_bytes < MOST_HELD
    }

    /// The life that runs or ran last.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    /// Requests of the client that wait for an answer.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Whether we wait for an answer of a length that must not be passed on in pieces.
    pub(crate) fn expects_own(&self) -> bool {
        self.own.values().any(|own| matches!(own, Own::Tools(_) | Own::Discovery | Own::Greeting))
    }

    /// When [`Relay::timer`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Mono> {
        if self.closing {
            return None;
        }
        let phase = match self.phase {
            Phase::Down(at) => Some(at),
            Phase::Greeting { until, .. } => Some(until),
            Phase::Up(_) => self.hang.deadline(),
            Phase::Halted(until) => until,
            Phase::Starting(_) | Phase::Ending | Phase::GivenUp(_) => None,
        };
        phase.filter(|_| self.life > 0)
    }

    /// Time has passed.
    pub(crate) fn timer(&mut self, now: Mono, out: &mut Out) {
        if self.closing || self.life == 0 {
            return;
        }
        match self.phase {
            Phase::Down(at) if now >= at => self.start(now, out),
            Phase::Greeting { until, .. } if now >= until => {
                let waited = hms_core::duration::format(self.settings.start_timeout);
                self.doom_it(
                    Doom::NoGreeting(format!("did not answer `initialize` within {waited}")),
                    false,
                    out,
                );
            }
            Phase::Halted(Some(until)) if now >= until => {
                self.phase = Phase::Halted(None);
                let failure = self.halted_failure();
                self.refuse_all(&failure, out);
            }
            Phase::Up(_) => self.watch_calls(now, out),
            _ => {}
        }
    }

    /// The client went: nothing is started any more. What it said last is on its way to the server.
    pub(crate) fn client_closed(&mut self, out: &mut Out) {
        if !self.closing {
            self.closing = true;
            out.actions.push(Action::Tell(Fact::Closed));
        }
    }

    /// The tree's memory, in bytes.
    pub(crate) fn memory(&mut self, life: u64, used: u64, out: &mut Out) {
        let Some(limit) = self.settings.memory_limit.filter(|_| life == self.life) else { return };
        if !matches!(self.phase, Phase::Up(_)) || used <= limit {
            self.heavy = None;
            return;
        }
        // Half more than it may have is not waited for.
        if used > limit.saturating_add(limit / 2) || !self.calls.any_sent() {
            self.replace_heavy(used, limit, out);
        } else {
            self.heavy = Some(used);
        }
    }

    fn replace_heavy(&mut self, used: u64, limit: u64, out: &mut Out) {
        self.heavy = None;
        out.actions.push(Action::Tell(Fact::MemoryOver { used, limit }));
        self.doom_it(Doom::Memory { used, limit }, !self.calls.any_sent(), out);
    }

    /// Bytes for the client that are ours; not into the middle of a line.
    fn tell_client(&mut self, bytes: &[u8], out: &mut Out) {
        if self.from_server {
            self.after_server.extend_from_slice(bytes);
        } else {
            out.client.extend_from_slice(bytes);
        }
    }

    /// Bytes for the server that are ours; not into the middle of a line.
    fn tell_server(&mut self, bytes: &[u8], out: &mut Out) {
        if matches!(self.from_client, Stream::Passing) {
            self.after_client.extend_from_slice(bytes);
        } else {
            self.give(bytes, out);
        }
    }

    /// The next bytes for the server.
    fn give(&mut self, bytes: &[u8], out: &mut Out) {
        self.given += bytes.len() as u64;
        out.server.extend_from_slice(bytes);
    }

    /// Sends a request of ours.
    fn ask(&mut self, own: Own, method: &str, params: Option<&str>, out: &mut Out) {
        self.next_own += 1;
        let id = Id::of_text(&format!("{}{}", self.tag, self.next_own));
        let line = crate::jsonrpc::request(&id, method, params);
        self.own.insert(id, own);
        self.tell_server(&line, out);
    }

    /// Answers a request with an error of ours.
    fn fail(&mut self, id: &Id, failure: &Failure, out: &mut Out) {
        let line = failure.answer(id) + "\n";
        self.tell_client(line.as_bytes(), out);
    }

    fn hold(&mut self, bytes: Vec<u8>, ids: Vec<Id>, whole: bool) {
        self.held_bytes += bytes.len();
        self.held.push_back(Held { bytes, ids, whole });
    }

    /// Stores what the server answered, when it is new.
    fn save(&mut self, out: &mut Out) {
        if self.settings.warm && std::mem::take(&mut self.known.unsaved) {
            let text = serde_json::to_string(&self.known.memory).unwrap_or_default();
            out.actions.push(Action::Remember(text));
        }
    }
}

/// The messages of a line, none when it is no JSON-RPC.
fn parts(scan: &Scan) -> &[crate::jsonrpc::Envelope] {
    &scan.parts
}
