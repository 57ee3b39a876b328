//! One attached wrapper, as the host sees it: its server's lives handed to the lives of an agent, one to one.
//!
//! The wrapper restarts its server by itself. An exit that it reports becomes the end of the agent's life, and
//! the agent's next start finds (or waits for) the life that the wrapper has made. Several ends in one report
//! are told one after the other. What is decided under the lock is carried out after it.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Result,
    agent::{AgentContext, ExitReport, Health, Started, Stop},
    clock::SharedClock,
    os::files,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::{
    book::Book,
    report::{Exit, Item, Order, Phase, Report},
};

/// How long a start waits for the life that the wrapper is making, so that the events of a restart tell the
/// new process. A longer back-off is not waited for: the agent is `starting` then.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a wrapper may take to carry out an order, beyond what the order itself allows.
const OBEDIENCE: Duration = Duration::from_secs(5);
/// Orders that a wrapper may leave unread.
pub(super) const ORDERS: usize = 16;

/// An attached wrapper.
pub(super) struct Link {
    orders: mpsc::Sender<Item>,
    state: Mutex<State>,
    /// Counts changes of the state; `None` once the wrapper is gone.
    changed: watch::Sender<Option<u64>>,
    clock: SharedClock,
}

struct State {
    book: Book,
    /// The agent's life, and the server's that it stands for.
    bound: Option<Bound>,
    /// Ends that no life of the agent has told yet.
    pending: VecDeque<Exit>,
    /// Ends up to this life are known.
    known: u64,
    next_order: u64,
    done: u64,
    /// That the wrapper gave up: told, and answered by the agent's end.
    gave_up: GaveUp,
    /// What was last told of its health.
    told: Option<Health>,
    stderr: Option<PathBuf>,
    closed: bool,
    recorded: Option<Record>,
}

/// Which life of the agent stands for which life of the server: for the next host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The agent's.
    pub(super) incarnation: u64,
    /// The server's.
    pub(super) life: u64,
}

struct Bound {
    cx: AgentContext,
    life: u64,
    ready: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GaveUp {
    No,
    /// The agent is being taken out of service.
    Told,
    /// It is; its next start is somebody's wish.
    Settled,
}

/// What a report leads to.
pub(super) enum Effect {
    /// The agent's life ended.
    Exited(AgentContext, ExitReport),
    /// It can be called.
    Ready(AgentContext),
    /// Its health changed.
    Health(AgentContext, Health),
    /// The wrapper gave up, for this reason.
    GaveUp(String),
    /// It tried again, and the server runs.
    Revived,
    /// Lines for the log.
    Output(PathBuf, Vec<String>),
    /// To be kept in the agent's folder.
    Record(PathBuf, Record),
}

/// What a start found.
enum Found {
    /// A life to stand for.
    Life(Started),
    /// A life that has ended meanwhile.
    Ended(ExitReport),
    /// Nothing yet: the wrapper is about to make a life.
    Soon,
    /// Nothing, until the wrapper is told.
    Halted,
}

impl Link {
    /// A link whose first report is `report`. Ends that it tells are kept for the agent's life to tell.
    pub(super) fn new(book: Book, orders: mpsc::Sender<Item>, clock: SharedClock) -> Self {
        let state = State {
            book,
            bound: None,
            pending: VecDeque::new(),
            known: 0,
            next_order: 1,
            done: 0,
            gave_up: GaveUp::No,
            told: None,
            stderr: None,
            closed: false,
            recorded: None,
        };
        Self { orders, state: Mutex::new(state), changed: watch::Sender::new(Some(0)), clock }
    }

    /// Reads what is known.
    pub(super) fn read<T>(&self, read: impl FnOnce(&mut Book) -> T) -> T {
        read(&mut self.state().book)
    }

    /// Where lines of output go from now on.
    pub(super) fn log_to(&self, path: PathBuf) {
        self.state().stderr = Some(path);
    }

    /// Lines that came before it was known where they go.
    pub(super) fn take_output(&self, lines: Vec<String>) -> Vec<Effect> {
        self.state().output(lines).into_iter().collect()
    }

    /// Whether the wrapper said that it has no use for the server any more.
    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Takes a report; what is to be done about it.
    pub(super) fn take(&self, mut report: Report) -> Vec<Effect> {
        let now = self.clock.now();
        let mut effects = Vec::new();
        {
            let mut state = self.state();
            state.book.take(&report, now, self.clock.wall_ms());
            state.done = state.done.max(report.done);
            state.closed |= report.closed;
            effects.extend(state.output(std::mem::take(&mut report.stderr)));
            state.take_exits(report.exits, now, &mut effects);
            state.follow(&mut effects);
            state.tell_health(now, &mut effects);
            effects.extend(state.record());
        }
        self.touch();
        effects
    }

    /// Forgets ends that an agent which is just being created never saw.
    pub(super) fn forget_past(&self) {
        let mut state = self.state();
        let life = state.book.server.life;
        state.known = state.known.max(life.saturating_sub(1));
        // The end of the present one is still to be told.
        state.pending.retain(|exit| exit.life >= life);
    }

    /// The wrapper is gone: who waits for it is woken.
    pub(super) fn sever(&self) {
        self.state().bound = None;
        self.changed.send_replace(None);
    }

    // ---- the agent's side ---------------------------------------------------------------------

    /// Begins a life of the agent: as the server's life that there is, or that comes.
    pub(super) async fn start(&self, cx: &AgentContext) -> Result<Started> {
        let mut changed = self.changed.subscribe();
        let mut until = self.clock.now() + PATIENCE;
        let mut ordered = false;
        loop {
            changed.mark_unchanged();
            let found = self.state().bind(cx);
            match found {
                Found::Life(started) => {
                    self.tell_health_now();
                    if let Some(Effect::Record(dir, record)) = self.state().record() {
                        record.write(&dir);
                    }
                    return Ok(started);
                }
                Found::Ended(exit) => {
                    cx.exited(exit);
                    return Ok(Started::Ready);
                }
                Found::Halted if !ordered => {
                    ordered = true;
                    self.read(Book::forgive);
                    until = self.clock.now() + PATIENCE + OBEDIENCE;
                    self.order(Order::Start)?;
                    continue;
                }
                Found::Soon | Found::Halted => {}
            }
            tokio::select! {
                still = changed.changed() => {
                    if still.is_err() || changed.borrow().is_none() {
                        return Err(gone());
                    }
                }
                () = self.clock.sleep_until(until) => {
                    self.state().bind_to_next(cx);
                    self.tell_health_now();
                    return Ok(Started::Pending);
                }
            }
        }
    }

    /// Goes on as `life`, which an earlier host knew, or says how it ended. `None` when an order ended it, or
    /// the wrapper has given it up.
    pub(super) fn resume(
        &self,
        cx: &AgentContext,
        life: u64,
    ) -> Option<std::result::Result<Started, ExitReport>> {
        let mut state = self.state();
        if matches!(state.book.server.phase, Phase::Stopped | Phase::GaveUp) {
            return None;
        }
        state.known = state.known.max(life.saturating_sub(1));
        let ended = state.pending.iter().position(|exit| exit.life == life);
        let ended = ended.and_then(|at| state.pending.remove(at));
        state.pending.retain(|exit| exit.life > life);
        Some(match ended {
            Some(exit) => Err(exit.exit),
            None if life <= state.book.server.closed => {
                let (life, ready) = (state.book.server.life, state.book.server.phase != Phase::Starting);
                state.bound = Some(Bound { cx: cx.clone(), life, ready });
                Ok(if ready { Started::Ready } else { Started::Pending })
            }
            None if state.book.server.life != life => {
                state.known = state.known.max(life);
                Err(ExitReport::failure("it ended while no host was there to hear of it"))
            }
            None => {
                let ready = state.book.server.phase == Phase::Up;
                state.bound = Some(Bound { cx: cx.clone(), life, ready });
                Ok(if ready { Started::Ready } else { Started::Pending })
            }
        })
    }

    /// Ends the agent's life on purpose: the wrapper ends its server, and says so before this returns.
    pub(super) async fn stop(&self, how: Stop) -> Result<()> {
        let mut changed = self.changed.subscribe();
        let phase = {
            let mut state = self.state();
            state.bound = None;
            state.pending.clear();
            state.told = None;
            if state.gave_up == GaveUp::Told {
                state.gave_up = GaveUp::Settled;
            }
            state.book.server.phase
        };
        let (kill, patience) = match how {
            Stop::Detach => return Ok(()),
            Stop::Kill => (true, OBEDIENCE),
            Stop::Graceful(deadline) => (false, deadline + OBEDIENCE),
        };
        if matches!(phase, Phase::Stopped | Phase::GaveUp) {
            return Ok(());
        }
        let number = match self.order(Order::Stop { kill }) {
            Ok(number) => number,
            // The server goes with its wrapper.
            Err(e) if e.kind == ErrorKind::TypeUnavailable => return Ok(()),
            Err(e) => return Err(e),
        };
        let until = self.clock.now() + patience;
        loop {
            if self.state().done >= number {
                self.state().pending.clear();
                return Ok(());
            }
            tokio::select! {
                still = changed.changed() => {
                    if still.is_err() || changed.borrow_and_update().is_none() {
                        return Ok(());
                    }
                }
                () = self.clock.sleep_until(until) => {
                    let waited = hms_core::duration::format(patience);
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("the wrapper did not stop its server within {waited}"),
                    )
                    .hint("it may be stopped itself: `agent status` shows its pid"));
                }
            }
        }
    }

    /// Gives up the agent's life without a word to the wrapper: the host ends, the server goes on.
    pub(super) fn let_go(&self) {
        self.state().bound = None;
    }

    fn order(&self, order: Order) -> Result<u64> {
        let number = {
            let mut state = self.state();
            let number = state.next_order;
            state.next_order += 1;
            number
        };
        self.orders.try_send(Item::Order { number, order }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => {
                Error::new(ErrorKind::QueueFull, "the wrapper does not take orders: it hangs or is stopped")
            }
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        Ok(number)
    }

    /// A new life begins with what is known, not with what the next report says.
    fn tell_health_now(&self) {
        let mut effects = Vec::new();
        self.state().tell_health(self.clock.now(), &mut effects);
        for effect in effects {
            if let Effect::Health(cx, health) = effect {
                cx.health(health);
            }
        }
    }

    fn touch(&self) {
        self.changed.send_modify(|count| *count = count.map(|n| n + 1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn output(&self, lines: Vec<String>) -> Option<Effect> {
        let path = self.stderr.clone().filter(|_| !lines.is_empty())?;
        Some(Effect::Output(path, lines))
    }

    fn take_exits(&mut self, exits: Vec<Exit>, now: Duration, effects: &mut Vec<Effect>) {
        for exit in exits {
            if exit.life <= self.known {
                continue;
            }
            self.known = exit.life;
            self.book.ended(now);
            match self.bound.take_if(|bound| bound.life == exit.life) {
                Some(bound) => effects.push(Effect::Exited(bound.cx, exit.exit)),
                None => self.pending.push_back(exit),
            }
        }
    }

    /// Brings the agent's life in line with where the server is.
    fn follow(&mut self, effects: &mut Vec<Effect>) {
        let server = self.book.server.clone();
        match server.phase {
            Phase::GaveUp if self.gave_up == GaveUp::No => {
                self.gave_up = GaveUp::Told;
                // Told as one thing: it is not started again, so the last end is no restart.
                effects.retain(|effect| !matches!(effect, Effect::Exited(..)));
                self.pending.clear();
                let why = server.reason.unwrap_or_else(|| "it cannot be kept alive".into());
                effects.push(Effect::GaveUp(why));
            }
            Phase::Starting | Phase::Up if self.gave_up != GaveUp::No => {
                self.gave_up = GaveUp::No;
                effects.push(Effect::Revived);
            }
            _ => {}
        }
        if !matches!(server.phase, Phase::Starting | Phase::Up) {
            return;
        }
        let up = server.phase == Phase::Up;
        if let Some(bound) = self.bound.take_if(|bound| bound.life < server.life) {
            if bound.life <= server.closed {
                // Nobody needed it for a while: that is no end of the agent's life.
                self.bound = Some(Bound { life: server.life, ready: false, ..bound });
            } else {
                // The wrapper could not tell of its end.
                effects.push(Effect::Exited(bound.cx, ExitReport::failure("it was replaced")));
            }
        }
        if let Some(bound) = &mut self.bound
            && up
            && !bound.ready
        {
            bound.ready = true;
            effects.push(Effect::Ready(bound.cx.clone()));
        }
    }

    fn tell_health(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let health = self.book.verdict(now);
        if let Some(bound) = &self.bound
            && self.told.as_ref() != Some(&health)
        {
            effects.push(Effect::Health(bound.cx.clone(), health.clone()));
            self.told = Some(health);
        }
    }

    /// What a new life of the agent stands for.
    fn bind(&mut self, cx: &AgentContext) -> Found {
        self.bound = None;
        self.told = None;
        if let Some(exit) = self.pending.pop_front() {
            return Found::Ended(exit.exit);
        }
        let (phase, life) = (self.book.server.phase, self.book.server.life);
        match phase {
            Phase::Down => Found::Soon,
            Phase::GaveUp if self.gave_up == GaveUp::Told => Found::Soon,
            Phase::Stopped | Phase::GaveUp => Found::Halted,
            Phase::Idle | Phase::Starting | Phase::Up => {
                let ready = phase != Phase::Starting;
                self.bound = Some(Bound { cx: cx.clone(), life, ready });
                Found::Life(if ready { Started::Ready } else { Started::Pending })
            }
        }
    }

    /// What is to be kept, when it changed.
    fn record(&mut self) -> Option<Effect> {
        let bound = self.bound.as_ref()?;
        let record = Record { incarnation: bound.cx.incarnation(), life: bound.life };
        (self.recorded.replace(record) != Some(record))
            .then(|| Effect::Record(bound.cx.dir().to_owned(), record))
    }

    /// Stands for the life that the wrapper will make.
    fn bind_to_next(&mut self, cx: &AgentContext) {
        let life = self.book.server.life + 1;
        self.bound = Some(Bound { cx: cx.clone(), life, ready: false });
    }
}

impl Record {
    /// The record in an agent's folder, if there is a readable one.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(dir.join(RECORD)).ok()?).ok()
    }

    /// Keeps it. A failure costs no more than that the next host counts a new life.
    pub(super) fn write(&self, dir: &Path) {
        let written = serde_json::to_vec(self).map_err(std::io::Error::from);
        if let Err(e) = written.and_then(|bytes| files::write_private(&dir.join(RECORD), &bytes)) {
            tracing::warn!(dir = %dir.display(), error = %e, "a server's life could not be recorded");
        }
    }
}

/// Its file.
const RECORD: &str = "server.json";

pub(super) fn gone() -> Error {
    Error::new(ErrorKind::TypeUnavailable, "the process that wraps this server is not attached")
        .hint("it attaches by itself while it runs")
}
