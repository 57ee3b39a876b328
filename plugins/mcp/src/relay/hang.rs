//! Calls that take long: slow, or dead?
//!
//! A call that has had neither an answer nor progress for the time-out makes the relay look. A server that has
//! said something of use meanwhile, or that waits for its client, lives. Otherwise it is probed with a request
//! that costs nothing: `ping`, or `server/discover` since 2026-07-28. No answer within the probe's window, and
//! its tree is replaced; unless the tree uses the processor, since many servers compute on the thread that
//! reads: those get more time, but not for ever.
//!
//! Clients have deadlines of their own. Each time one gives a call up for lack of time, the time-out is brought
//! below that.

use std::time::Duration;

use hms_core::clock::Mono;

use super::{Action, Doom, Out, Own, Phase, Relay, Stream, calls::Call};

/// A probe is given this part of the time-out, within bounds.
const WINDOW_PART: u32 = 4;
const WINDOW_LEAST: Duration = Duration::from_secs(1);
const WINDOW_MOST: Duration = Duration::from_secs(5);
/// A server that computes and does not answer is given this many time-outs.
const BUSY_PATIENCE: u32 = 8;
/// It computes when its tree uses at least this part of one processor.
const BUSY: f64 = 0.25;
/// No deadline of a client is learned below this.
const LEARNED_LEAST: Duration = Duration::from_secs(1);

/// The watch over calls.
pub(super) struct Hang {
    timeout: Option<Duration>,
    /// When to look next; early is allowed.
    look: Option<Mono>,
    /// When the server last did something that a dead one does not.
    sign: Mono,
    probe: Option<Probe>,
}

struct Probe {
    sent: Mono,
    until: Mono,
    /// The tree's CPU time at its beginning.
    cpu: Option<Duration>,
    /// Its window is over, and the CPU time has been asked for.
    judged: bool,
    /// What it is about.
    tools: Vec<String>,
    /// Since when the oldest of them waits.
    since: Mono,
    /// The client has given the call up: nobody is spared by waiting.
    given_up: bool,
}

impl Hang {
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self { timeout, look: None, sign: Mono::ZERO, probe: None }
    }

    /// When a call that begins or moves now is due; arms the watch.
    pub(super) fn begin(&mut self, now: Mono) -> Mono {
        let Some(timeout) = self.timeout else { return Mono::MAX };
        let due = now.saturating_add(timeout);
        // An alarm that is set stays: later ones are found when it rings.
        if self.look.is_none() {
            self.look = Some(due);
        }
        due
    }

    /// The server lives.
    pub(super) fn sign(&mut self, now: Mono) {
        self.sign = now;
    }

    /// Another life.
    pub(super) fn forget(&mut self, now: Mono) {
        self.sign = now;
        self.look = None;
        self.probe = None;
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        match &self.probe {
            Some(probe) if probe.judged => None,
            Some(probe) => Some(probe.until),
            None => self.look,
        }
    }

    fn window(&self) -> Duration {
        self.timeout.map_or(WINDOW_MOST, |t| (t / WINDOW_PART).clamp(WINDOW_LEAST, WINDOW_MOST))
    }

    /// A client waited this long for a call and then gave up.
    fn learn(&mut self, waited: Duration) {
        if waited < LEARNED_LEAST || self.timeout.is_none() {
            return;
        }
        // The probe's window has to end before the client's patience does.
        let safe = (waited * 9 / 10).saturating_sub(self.window()).max(waited / 2);
        self.timeout = self.timeout.map(|timeout| timeout.min(safe));
    }
}

impl Relay {
    /// Looks after the calls in flight.
    pub(super) fn watch_calls(&mut self, now: Mono, out: &mut Out) {
        if let Some(probe) = &mut self.hang.probe {
            if now >= probe.until && !probe.judged {
                probe.judged = true;
                out.actions.push(Action::Measure { life: self.life });
            }
            return;
        }
        if self.hang.look.is_none_or(|at| now < at) {
            return;
        }
        let due: Vec<(&Call, Mono)> =
            self.calls.iter().filter(|(_, c)| c.sent && now >= c.due).map(|(_, c)| (c, c.since)).collect();
        // A long request that the server does not take either: it has stopped to read.
        let stuck = matches!(self.from_client, Stream::Passing)
            && self.hang.timeout.is_some_and(|timeout| now >= self.passed.saturating_add(timeout));
        let lives = self.asked.any() || now.saturating_sub(self.hang.sign) < self.hang.window();
        if (due.is_empty() && !stuck) || lives {
            return self.extend(now);
        }
        let mut tools: Vec<String> = due.iter().map(|(call, _)| call.key().to_owned()).collect();
        if stuck {
            tools.push("a long request".into());
        }
        tools.sort_unstable();
        tools.dedup();
        let since = due.iter().map(|(_, since)| *since).min().unwrap_or(self.passed);
        self.probe(now, tools, since, false, out);
    }

    /// Gives the calls that are due another time-out, and sets the alarm to the next.
    fn extend(&mut self, now: Mono) {
        let Some(timeout) = self.hang.timeout else { return };
        let mut next = None::<Mono>;
        for call in self.calls.iter_mut().filter(|call| call.sent && call.due != Mono::MAX) {
            if now >= call.due {
                call.due = now + timeout;
            }
            next = Some(next.map_or(call.due, |at| at.min(call.due)));
        }
        if matches!(self.from_client, Stream::Passing) {
            let stuck_at = self.passed.saturating_add(timeout).max(now + self.hang.window());
            next = Some(next.map_or(stuck_at, |at| at.min(stuck_at)));
        }
        self.hang.look = next;
    }

    fn probe(&mut self, now: Mono, tools: Vec<String>, since: Mono, given_up: bool, out: &mut Out) {
        let until = now + self.hang.window();
        self.hang.probe = Some(Probe { sent: now, until, cpu: None, judged: false, tools, since, given_up });
        out.actions.push(Action::Measure { life: self.life });
        let method = if self.known.stateless { "server/discover" } else { "ping" };
        let params = self.known.own_params(serde_json::json!({}));
        self.ask(Own::Probe, method, params.as_deref(), out);
    }

    /// The probe was answered: it lives.
    pub(super) fn probe_answered(&mut self, now: Mono) {
        if self.hang.probe.take().is_some() {
            self.extend(now);
        }
    }

    /// The client gave a call up that was with the server.
    pub(super) fn client_gave_up(&mut self, now: Mono, call: &Call, timed_out: bool, out: &mut Out) {
        let waited = now.saturating_sub(call.since);
        if timed_out {
            self.hang.learn(waited);
        }
        // Who is interrupted by a user at once is not suspected of anything.
        let suspected = timed_out || waited >= self.hang.window();
        let quiet = now.saturating_sub(self.hang.sign) >= self.hang.window() && !self.asked.any();
        if suspected
            && quiet
            && self.hang.timeout.is_some()
            && self.hang.probe.is_none()
            && matches!(self.phase, Phase::Up(_))
        {
            self.probe(now, vec![call.key().to_owned()], call.since, true, out);
        }
    }

    /// The CPU time that the tree has used.
    pub(crate) fn cpu(&mut self, now: Mono, life: u64, used: Duration, out: &mut Out) {
        let Some(probe) = &mut self.hang.probe else { return };
        if life != self.life || !matches!(self.phase, Phase::Up(_)) {
            return;
        }
        if !probe.judged {
            probe.cpu.get_or_insert(used);
            return;
        }
        let (sent, since, given_up) = (probe.sent, probe.since, probe.given_up);
        let answered_otherwise = self.hang.sign > sent;
        let spent = probe.cpu.map_or(Duration::ZERO, |before| used.saturating_sub(before));
        let share = spent.as_secs_f64() / now.saturating_sub(sent).as_secs_f64().max(1e-3);
        let timeout = self.hang.timeout.unwrap_or(WINDOW_MOST);
        let patience = if given_up { 1 } else { BUSY_PATIENCE };
        let waited = now.saturating_sub(since);
        let spared = share >= BUSY && waited < timeout * patience;
        let tools = std::mem::take(&mut probe.tools);
        self.hang.probe = None;
        self.own.retain(|_, own| !matches!(own, Own::Probe) || answered_otherwise || spared);
        if answered_otherwise || spared {
            return self.extend(now);
        }
        self.doom_it(Doom::Hang { tools, waited }, false, out);
    }
}
