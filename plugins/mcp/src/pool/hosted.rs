//! A configured server and everything that serves its clients: sessions, and the processes they share.
//!
//! **The rule of sharing** (`--share auto`). Clients share a process when they agreed on the same protocol
//! version and offer the server the same capabilities. A client gets a process of its own
//! - when it declares *roots*: what the server learns of one client's folders must not steer another's calls;
//! - when the server declares *tasks*: whose they are cannot be told from the outside;
//! - when the server is known to ask (sampling, elicitation) and this client can be asked: a question names no
//!   request. Those who share already take turns from the first question on (see `mux.rs`).
//!
//! `never` gives every session its own process; `always` shares and relies on turns alone. Requests of
//! 2026-07-28 have no session and nothing is asked of them, so that one process serves them all.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hms_core::{
    Error, ErrorKind, Result,
    clock::{Mono, SharedClock},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    link::Launch,
    message::Message,
    modern,
    mux::Mux,
    session::Session,
    unit::{Greeting, Hello, Key, Unit, own_meta},
};

/// Pages of `tools/list` that are read at most.
const PAGES: usize = 100;

/// Whether clients share a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Share {
    /// Where it can be told apart for certain what belongs to whom.
    #[default]
    Auto,
    /// A process for every session.
    Never,
    /// One process for all that agree on the protocol.
    Always,
}

/// What a pool may hold.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Processes that run at the same time, over all servers.
    pub(super) servers: usize,
    /// Sessions, over all servers.
    pub(super) sessions: usize,
    /// After how long without a client's request a process is stopped.
    pub(super) idle: Duration,
    /// After how long without a request or an open stream a session is forgotten.
    pub(super) session_idle: Duration,
}

/// Everything that all servers of a pool have in common.
pub(super) struct Common {
    /// What may be held.
    pub(super) limits: Limits,
    /// Where time comes from.
    pub(super) clock: SharedClock,
    hosted: Mutex<Vec<std::sync::Weak<Hosted>>>,
    next: AtomicU64,
    changed: Notify,
    starting: tokio::sync::Mutex<()>,
}

impl Common {
    /// For a pool with these limits.
    pub(super) fn new(limits: Limits, clock: SharedClock) -> Arc<Self> {
        let (hosted, next, changed) = (Mutex::default(), AtomicU64::new(1), Notify::new());
        Arc::new(Self { limits, clock, hosted, next, changed, starting: tokio::sync::Mutex::default() })
    }

    fn all(&self) -> Vec<Arc<Hosted>> {
        let hosted = self.hosted.lock().unwrap_or_else(PoisonError::into_inner);
        hosted.iter().filter_map(std::sync::Weak::upgrade).collect()
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Makes room for one more process: at the limit the one that was idle for longest is stopped.
    fn make_room(&self, for_unit: &Arc<Unit>) -> Result<()> {
        if for_unit.running() {
            return Ok(());
        }
        let mut running: Vec<(Arc<Hosted>, Arc<Unit>)> = Vec::new();
        for hosted in self.all() {
            let units = hosted.lock().units.clone();
            running.extend(units.into_iter().filter(|u| u.running()).map(|u| (hosted.clone(), u)));
        }
        if running.len() < self.limits.servers {
            return Ok(());
        }
        running.sort_by_key(|(_, unit)| unit.used());
        let idle = running.iter().find(|(hosted, unit)| hosted.may_stop(unit));
        let Some((_, unit)) = idle else {
            return Err(Error::new(
                ErrorKind::QueueFull,
                format!("all {} server processes that may run are busy", self.limits.servers),
            )
            .hint("try again, or raise --max-servers"));
        };
        unit.stop("it was stopped to make room for another server");
        Ok(())
    }

    /// Stops what is idle and forgets sessions nobody comes back to, for ever.
    pub(super) async fn tidy(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            let now = self.clock.now();
            let due = self.all().iter().filter_map(|h| h.tidy(now)).min();
            match due {
                Some(due) => tokio::select! {
                    () = self.clock.sleep_until(due) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }
}

/// A configured server.
pub(super) struct Hosted {
    /// Its name.
    pub(super) name: String,
    share: Share,
    stateful: bool,
    launcher: Arc<dyn Launch>,
    common: Arc<Common>,
    tasks: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    units: Vec<Arc<Unit>>,
    sessions: HashMap<String, Arc<Session>>,
}

/// What an `initialize` led to.
pub(super) enum Opened {
    /// A session, and the server's answer.
    Session(Arc<Session>, Arc<Hello>),
    /// The server's error.
    Refused(Value),
}

impl Hosted {
    /// A server of a pool. A *stateful* one keeps what a client did, and is not stopped while it has clients.
    pub(super) fn new(
        name: &str,
        share: Share,
        stateful: bool,
        launcher: Arc<dyn Launch>,
        common: &Arc<Common>,
    ) -> Arc<Self> {
        let (name, common, tasks, inner) =
            (name.into(), common.clone(), AtomicBool::new(false), Mutex::default());
        let hosted = Arc::new(Self { name, share, stateful, launcher, common, tasks, inner });
        hosted.common.hosted.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&hosted));
        hosted
    }

    /// The session with this id.
    pub(super) fn session(&self, id: &str) -> Option<Arc<Session>> {
        let session = self.lock().sessions.get(id).cloned()?;
        session.touch(self.common.clock.now());
        Some(session)
    }

    /// Opens a session with a client's `initialize`.
    ///
    /// # Errors
    /// When there are too many, or the server cannot be started.
    pub(super) async fn open(&self, initialize: &Message) -> Result<Opened> {
        let params: Value =
            initialize.params().and_then(|p| serde_json::from_str(p).ok()).unwrap_or_default();
        let held: usize = self.common.all().iter().map(|h| h.lock().sessions.len()).sum();
        if held >= self.common.limits.sessions {
            return Err(Error::new(ErrorKind::QueueFull, format!("the pool holds {held} sessions already"))
                .hint("end one, or raise --max-sessions"));
        }
        let mut entering = self.enter(&params)?;
        let session = entering.session.clone();
        self.room_for(&session.unit).await?;
        match session.unit.greet(params).await? {
            Greeting::Welcome(hello) => {
                let declared = hello.value.pointer("/capabilities/tasks").is_some_and(|t| !t.is_null());
                self.tasks.fetch_or(declared, Ordering::Relaxed);
                let version = hello.value.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
                session.agreed(version);
                self.lock().sessions.insert(session.id.clone(), session.clone());
                entering.entered = true;
                self.common.changed.notify_one();
                Ok(Opened::Session(session, hello))
            }
            Greeting::Refused(error) => Ok(Opened::Refused(error)),
        }
    }

    /// A seat for a client that is still to be greeted.
    fn enter(&self, params: &Value) -> Result<Entering<'_>> {
        // In one go, so that the process is not taken for one that nobody uses.
        let mut inner = self.lock();
        let unit = self.unit_for(&mut inner, params);
        let session = Session::new(self.common.number(), unit, self.common.clock.now())?;
        session.unit.with(|mux| mux.sit(session.seat, session.news()));
        Ok(Entering { hosted: self, session, entered: false })
    }

    /// Ends a session. Says whether there was one.
    pub(super) fn close(&self, id: &str) -> bool {
        let session = self.lock().sessions.remove(id);
        if let Some(session) = &session {
            self.leave(session);
        }
        session.is_some()
    }

    fn leave(&self, session: &Session) {
        session.unit.with(|mux| mux.leave(session.seat));
        session.end();
        // One that is starting goes on for those who come back: a client may wait for less long than a start takes.
        if session.unit.alone || !session.unit.running() && session.unit.hello().is_none() {
            self.remove(&session.unit, "its client has gone");
        }
        self.common.changed.notify_one();
    }

    fn remove(&self, unit: &Arc<Unit>, why: &str) {
        let mut inner = self.lock();
        if unit.peek(Mux::seats) == 0 {
            inner.units.retain(|u| !Arc::ptr_eq(u, unit));
            unit.retire(why);
        }
    }

    /// The process that a client of these parameters shares, or a new one.
    fn unit_for(&self, inner: &mut Inner, params: &Value) -> Arc<Unit> {
        let version = params.get("protocolVersion").and_then(Value::as_str).unwrap_or_default().to_owned();
        let capabilities = params.get("capabilities").cloned().unwrap_or_else(|| json!({}));
        let can = |what: &str| capabilities.get(what).is_some_and(|c| !c.is_null());
        let asks = || inner.units.iter().any(|u| u.peek(Mux::asked));
        let alone = match self.share {
            Share::Always => false,
            Share::Never => true,
            Share::Auto => {
                can("roots")
                    || self.tasks.load(Ordering::Relaxed)
                    || ((can("sampling") || can("elicitation")) && asks())
            }
        };
        let key = Key::Legacy { version, capabilities };
        if !alone && let Some(unit) = inner.units.iter().find(|u| !u.alone && u.key == key) {
            return unit.clone();
        }
        let (number, clock) = (self.common.number(), self.common.clock.clone());
        let unit = Unit::new(number, key, alone, self.launcher.clone(), clock);
        inner.units.push(unit.clone());
        unit
    }

    /// The process for requests without a session, greeted.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) async fn modern(&self) -> Result<(Arc<Unit>, Greeting)> {
        let unit = {
            let mut inner = self.lock();
            match inner.units.iter().find(|u| u.key == Key::Modern) {
                Some(unit) => unit.clone(),
                None => {
                    let (number, clock) = (self.common.number(), self.common.clock.clone());
                    let unit = Unit::new(number, Key::Modern, false, self.launcher.clone(), clock);
                    inner.units.push(unit.clone());
                    unit
                }
            }
        };
        if let Some(hello) = unit.hello() {
            return Ok((unit, Greeting::Welcome(hello)));
        }
        self.room_for(&unit).await?;
        let greeting = unit.greet(own_meta(modern::VERSION)).await?;
        self.common.changed.notify_one();
        Ok((unit, greeting))
    }

    /// Makes sure that a process may be started for `unit`.
    ///
    /// # Errors
    /// When as many as may run are busy.
    pub(super) async fn room_for(&self, unit: &Arc<Unit>) -> Result<()> {
        if unit.running() {
            return Ok(());
        }
        let _one = self.common.starting.lock().await;
        self.common.make_room(unit)
    }

    /// Checks the headers that repeat a tool's parameters, reading the list of tools where it has to.
    ///
    /// # Errors
    /// What to refuse the call with.
    pub(super) async fn check_parameters(
        &self,
        unit: &Arc<Unit>,
        headers: &hyper::HeaderMap,
        call: &Message,
    ) -> Result<(), modern::Refusal> {
        let mut known = unit.tools.lock().await;
        let fresh = unit.take_tools_stale() || known.is_none();
        if fresh {
            *known = tools(unit).await;
        }
        let checked = known.as_ref().map_or(Ok(()), |tools| tools.check(headers, call));
        if checked.is_ok() || fresh {
            return checked;
        }
        // The list may have changed without a word: nothing is refused by an old one.
        *known = tools(unit).await;
        known.as_ref().map_or(Ok(()), |tools| tools.check(headers, call))
    }

    fn may_stop(&self, unit: &Arc<Unit>) -> bool {
        let (busy, seats) = unit.peek(|m| (m.busy() || m.subscribed(), m.seats()));
        !busy && (!self.stateful || seats == 0)
    }

    /// Stops what is idle; returns when the next thing may be.
    fn tidy(&self, now: Mono) -> Option<Mono> {
        let (sessions, units) = {
            let inner = self.lock();
            (inner.sessions.values().cloned().collect::<Vec<_>>(), inner.units.clone())
        };
        let limits = &self.common.limits;
        let mut due = Vec::new();
        for session in sessions {
            match session.idle_since(now) {
                Some(since) if now >= since + limits.session_idle => drop(self.close(&session.id)),
                Some(since) => due.push(since + limits.session_idle),
                None => due.push(now + limits.session_idle),
            }
        }
        for unit in units {
            let at = unit.used() + limits.idle;
            if unit.running() && now >= at && self.may_stop(&unit) {
                tracing::debug!(server = self.name, unit = unit.number, "a server is idle and is stopped");
                unit.stop("it was idle and was stopped");
            } else if unit.running() {
                due.push(at.max(now + limits.idle / 4));
            }
            if !unit.running() && unit.key != Key::Modern {
                self.remove(&unit, "nobody uses it");
            }
        }
        due.into_iter().min()
    }

    /// Ends everything and waits until no process is left.
    pub(super) async fn shut(&self) {
        let (sessions, units) = {
            let mut inner = self.lock();
            (std::mem::take(&mut inner.sessions), std::mem::take(&mut inner.units))
        };
        sessions.values().for_each(|s| s.end());
        units.iter().for_each(|u| u.retire("the pool is stopping"));
        for unit in units {
            unit.stopped().await;
        }
    }

    /// What there is at the moment, for people and programs.
    pub(super) fn status(&self) -> Value {
        let inner = self.lock();
        let running = inner.units.iter().filter(|u| u.running()).count();
        let in_flight: usize = inner.units.iter().map(|u| u.peek(Mux::in_flight)).sum();
        let unclaimed: u64 = inner.units.iter().map(|u| u.peek(Mux::unclaimed)).sum();
        json!({
            "name": self.name,
            "processes": running,
            "sessions": inner.sessions.len(),
            "in_flight": in_flight,
            "unclaimed": unclaimed,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client whose `initialize` is not answered yet. One that gives up waiting leaves its seat.
struct Entering<'h> {
    hosted: &'h Hosted,
    session: Arc<Session>,
    entered: bool,
}

impl Drop for Entering<'_> {
    fn drop(&mut self) {
        if !self.entered {
            self.hosted.leave(&self.session);
        }
    }
}

/// The whole list of tools; `None` when the server does not give it.
async fn tools(unit: &Arc<Unit>) -> Option<modern::Tools> {
    let mut all = modern::Tools::default();
    let mut params = own_meta(modern::VERSION);
    for _ in 0..PAGES {
        let answer = unit.ask("tools/list", Some(&params)).await.ok()?;
        let page: Value = serde_json::from_str(answer.result()?).ok()?;
        match all.add(&page) {
            Some(cursor) => params["cursor"] = cursor.into(),
            None => break,
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use hms_core::clock::SystemClock;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::pool::link::{Line, Link, Said, Way};

    /// Servers that never say anything.
    #[derive(Default)]
    struct Silent {
        started: Notify,
        held: Mutex<Vec<(mpsc::UnboundedReceiver<Line>, mpsc::Sender<Said>)>>,
    }

    impl Launch for Silent {
        fn launch(&self) -> Result<Link> {
            let (lines, heard) = mpsc::unbounded_channel();
            let (said, from) = mpsc::channel(1);
            self.held.lock().unwrap().push((heard, said));
            self.started.notify_one();
            Ok(Link { to: Way { lines, _held: oneshot::channel().0 }, from })
        }
    }

    #[tokio::test]
    async fn a_client_that_gives_up_waiting_leaves_no_seat() {
        for (capabilities, left) in [(json!({ "roots": {} }), 0), (json!({}), 1)] {
            let hour = Duration::from_secs(3600);
            let limits = Limits { servers: 4, sessions: 4, idle: hour, session_idle: hour };
            let (silent, common) = (Arc::new(Silent::default()), Common::new(limits, SystemClock::shared()));
            let hosted = Hosted::new("x", Share::Auto, true, silent.clone(), &common);
            let params = json!({ "protocolVersion": "2025-06-18", "capabilities": capabilities });
            let first = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params });
            let first = Message::parse(first.to_string()).unwrap();
            tokio::select! {
                _ = hosted.open(&first) => panic!("nobody answers"),
                () = silent.started.notified() => {}
            }
            // A process that only this client could use goes with it; one that others can use goes on starting.
            let units = hosted.lock().units.clone();
            assert_eq!(units.len(), left);
            assert!(units.iter().all(|unit| unit.peek(Mux::seats) == 0));
        }
    }
}
