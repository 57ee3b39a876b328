//! Starts and ends of servers: who is to blame, what is sent again, when it is too much.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use hms_core::{
    clock::Mono,
    duration,
    supervision::{Decision, Intensity, RestartPolicy},
};
use serde_json::json;

use super::{Action, Doom, Ending, Fact, Out, Own, Phase, Relay, Resend, Stream, server::cancelled};
use crate::jsonrpc::{Failure, Id};

/// Requests that only read, or that come to the same when made twice.
pub(crate) const READS: [&str; 15] = [
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "roots/list",
    "subscriptions/listen",
];

/// A tool that keeps killing its server waits longer and longer for the next one, up to this.
const LONGEST_TOOL_DELAY: Duration = Duration::from_secs(1);

/// How long calls wait for a server that was stopped on purpose to be started again.
const HALT_PATIENCE: Duration = Duration::from_secs(10);

/// Deaths of the server, by the tool (or method) that was in flight. Each has a budget of its own, so that one
/// bad tool does not cost the others their server.
#[derive(Default)]
pub(super) struct Strikes(BTreeMap<Box<str>, VecDeque<Mono>>);

impl Strikes {
    fn add(&mut self, key: &str, now: Mono, intensity: &Intensity) -> usize {
        let times = self.0.entry(key.into()).or_default();
        times.push_back(now);
        while times.front().is_some_and(|&t| now.saturating_sub(t) >= intensity.window) {
            times.pop_front();
        }
        times.len()
    }

    /// It was answered: it does not always kill.
    pub(super) fn clear(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.remove(key);
        }
    }

    /// Whether it is out, and for how much longer.
    pub(super) fn out(&self, key: &str, now: Mono, intensity: &Intensity) -> Option<Duration> {
        let times = self.0.get(key)?;
        let recent = times.iter().filter(|t| now.saturating_sub(**t) < intensity.window);
        if intensity.max == 0 || recent.count() < intensity.max as usize {
            return None;
        }
        let oldest = times.iter().rev().nth(intensity.max as usize - 1)?;
        Some((*oldest + intensity.window).saturating_sub(now))
    }
}

impl Relay {
    /// Begins: the first server is started.
    pub(crate) fn open(&mut self, now: Mono, out: &mut Out) {
        self.start(now, out);
    }

    pub(super) fn start(&mut self, now: Mono, out: &mut Out) {
        self.life += 1;
        self.given = 0;
        self.phase = Phase::Starting(now);
        self.heard = false;
        self.used = false;
        self.heavy = None;
        self.hang.forget(now);
        self.own.clear();
        out.actions.push(Action::Start { life: self.life });
    }

    /// The server runs.
    pub(crate) fn started(&mut self, now: Mono, life: u64, pid: i32, out: &mut Out) {
        let Phase::Starting(since) = self.phase else { return };
        if life != self.life {
            return;
        }
        out.actions.push(Action::Tell(Fact::Started { life, pid, cause: self.cause.take() }));
        self.phase = Phase::Up(since);
        if self.halting {
            return self.doom_it(Doom::Halted, true, out);
        }
        if self.known.greeted && !self.known.stateless {
            self.greet(now, out);
        } else {
            self.come_up(now, out);
        }
    }

    /// Tells the server what its predecessor was told by the client.
    pub(super) fn greet(&mut self, now: Mono, out: &mut Out) {
        let since = match self.phase {
            Phase::Up(since) | Phase::Starting(since) => since,
            _ => now,
        };
        self.phase = Phase::Greeting { since, until: now + self.settings.start_timeout };
        let hello = self.known.hello.clone();
        self.ask(Own::Greeting, "initialize", hello.as_deref(), out);
    }

    /// The server can be talked to: what was held back goes to it.
    pub(super) fn come_up(&mut self, now: Mono, out: &mut Out) {
        let since = match self.phase {
            Phase::Greeting { since, .. } | Phase::Starting(since) | Phase::Up(since) => since,
            _ => now,
        };
        let greeted = matches!(self.phase, Phase::Greeting { .. });
        self.phase = Phase::Up(now);
        if greeted {
            if let Some(level) = self.known.level.clone() {
                self.ask(Own::Quiet, "logging/setLevel", Some(&level), out);
            }
            for uri in self.known.subscribed.clone() {
                self.ask(Own::Quiet, "resources/subscribe", Some(&json!({"uri": uri}).to_string()), out);
            }
        }
        for held in std::mem::take(&mut self.held) {
            self.tell_server(&held.bytes, out);
            for id in &held.ids {
                self.mark_sent(now, id, Some(&held.bytes));
            }
            if !held.whole {
                self.from_client = Stream::Passing;
            }
        }
        self.held_bytes = 0;
        let again = self.life > 1 || greeted;
        if again && self.known.stateless && self.settings.warm && self.known.memory.discovery.is_some() {
            let params = self.known.own_params(json!({}));
            self.ask(Own::Discovery, "server/discover", params.as_deref(), out);
        }
        if (again || self.known.stateless) && self.known.shown.is_some() {
            self.verify_tools(out);
        }
        let took = now.saturating_sub(since);
        out.actions.push(Action::Tell(Fact::Ready { life: self.life, took }));
    }

    /// The server has answered something: it is well.
    pub(super) fn alive(&mut self, now: Mono) {
        if !self.heard {
            self.heard = true;
            self.restarts.health(now, true);
        }
    }

    /// Decides that the server has to go.
    pub(super) fn doom_it(&mut self, doom: Doom, gently: bool, out: &mut Out) {
        if let Doom::Hang { tools, waited } = &doom {
            out.actions.push(Action::Tell(Fact::Hang { tools: tools.clone(), waited: *waited }));
        }
        self.doom = Some(doom);
        self.phase = Phase::Ending;
        out.actions.push(Action::Stop { life: self.life, gently });
    }

    /// The server has ended, or could not be started; all that it said has been told.
    pub(crate) fn exited(&mut self, now: Mono, life: u64, ending: &Ending, out: &mut Out) {
        if life != self.life || matches!(self.phase, Phase::Down(_) | Phase::GivenUp(_) | Phase::Halted(_)) {
            return;
        }
        let doom = self.doom.take();
        let reason = match &doom {
            None => ending.reason.clone(),
            Some(doom) => doom.in_words(),
        };
        if self.from_server {
            // Half a message went to the client; the rest will not come.
            self.from_server = false;
            out.client.push(b'\n');
            let after = std::mem::take(&mut self.after_server);
            out.client.extend_from_slice(&after);
        }
        self.after_client.clear();
        self.own.clear();
        if self.closing {
            self.phase = Phase::Ending;
            return;
        }
        let sent = self.calls.ids(true);
        // What it had not read to the end it cannot have carried out, and does not answer for.
        let read = ending.read.unwrap_or(u64::MAX);
        let (unread, had): (Vec<Id>, Vec<Id>) =
            sent.iter().cloned().partition(|id| self.calls.get(id).is_some_and(|call| call.end_at > read));
        let decision = self.blame(now, doom.as_ref(), &had);
        if matches!(self.from_client, Stream::Passing) {
            let failure = self.crash_failure("a request that was on its way", &reason, ending, false);
            self.from_client = Stream::Dropping(Box::new(failure));
        }
        let lost = self.settings.stateful && self.used;
        let (failed, again) = self.settle(&sent, &unread, &reason, ending, lost, out);
        if lost && failed.tools == 0 {
            self.session_lost = Some(reason.clone());
        }
        for id in self.asked.server_gone() {
            self.tell_client(&cancelled(&id, &format!("the server that asked {reason}")), out);
        }
        let exited = Fact::Exited {
            life,
            reason: reason.clone(),
            code: ending.code,
            signal: ending.signal,
            failed: failed.all,
            again,
        };
        out.actions.push(Action::Tell(exited));
        let words = ending.last_words.as_ref().map(|w| format!("; it last said: {w}")).unwrap_or_default();
        self.last_ending = Some(format!("{reason}{words}"));
        self.cause = Some(reason.clone());
        if self.halting {
            self.phase = Phase::Halted(Some(now + HALT_PATIENCE));
            out.actions.push(Action::Tell(Fact::Halted));
            return;
        }
        match decision {
            Decision::Restart(delay) => {
                let name = &self.settings.name;
                out.actions.push(Action::Say(format!("`{name}` {reason}; it is started again")));
                self.phase = Phase::Down(now + delay);
                if delay.is_zero() {
                    self.start(now, out);
                }
            }
            Decision::Stay | Decision::Fail | Decision::Escalate => self.give_up(now, out),
        }
    }

    /// Charges an end to whom it belongs, and says what follows.
    fn blame(&mut self, now: Mono, doom: Option<&Doom>, sent: &[Id]) -> Decision {
        let keys: BTreeSet<String> = match doom {
            Some(Doom::Halted) => {
                self.restarts.clear();
                return Decision::Restart(Duration::ZERO);
            }
            Some(Doom::Hang { tools, .. }) => tools.iter().cloned().collect(),
            Some(Doom::Memory { .. } | Doom::NoGreeting(_)) => BTreeSet::new(),
            None => sent
                .iter()
                .filter_map(|id| self.calls.get(id))
                .filter(|call| call.listens.is_none() && &*call.method != "initialize")
                .map(|call| call.key().to_owned())
                .collect(),
        };
        let intensity = self.settings.intensity;
        if keys.is_empty() {
            let policy =
                RestartPolicy { intensity, backoff: self.settings.backoff, ..RestartPolicy::default() };
            return self.restarts.on_exit(&policy, now, false, &self.rng);
        }
        let most = keys.iter().map(|key| self.strikes.add(key, now, &intensity)).max().unwrap_or(1);
        let attempt = u32::try_from(most.saturating_sub(1)).unwrap_or(u32::MAX);
        let delay = self.settings.backoff.delay(attempt, self.rng.unit());
        Decision::Restart(delay.min(LONGEST_TOOL_DELAY))
    }

    /// Answers what was with the server, or puts it first in the queue for the next one.
    fn settle(
        &mut self,
        sent: &[Id],
        unread: &[Id],
        reason: &str,
        ending: &Ending,
        lost: bool,
        out: &mut Out,
    ) -> (Failed, usize) {
        let (mut failed, mut again, mut lines) = (Failed::default(), 0, Vec::new());
        let mut batches: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for id in sent {
            let unread = unread.contains(id);
            let repeats = unread || self.may_go_again(id);
            let Some(call) = self.calls.get_mut(id) else { continue };
            call.sent = false;
            let (tool, twice) = (call.tool.is_some(), call.again);
            if repeats && !(lost && tool) {
                call.again |= !unread && !call.is_of_the_session();
                if let Some(line) = self.calls.take_kept(id) {
                    again += 1;
                    lines.push((id.clone(), line));
                    continue;
                }
            }
            let Some(call) = self.calls.remove(id) else { continue };
            failed.all += 1;
            failed.tools += usize::from(tool);
            let failure = match &call.tool {
                Some(tool) if lost => self.lost_session_failure(tool, reason),
                _ => self.crash_failure(call.key(), reason, ending, twice),
            };
            match call.batch {
                Some(batch) => batches.entry(batch).or_default().push(failure.answer(id)),
                None => self.fail(id, &failure, out),
            }
        }
        for answers in batches.into_values() {
            self.tell_client(format!("[{}]\n", answers.join(",")).as_bytes(), out);
        }
        for (id, line) in lines.into_iter().rev() {
            self.held_bytes += line.len();
            self.held.push_front(super::Held { bytes: line.into_vec(), ids: vec![id], whole: true });
        }
        (failed, again)
    }

    /// Whether a request may be sent a second time.
    pub(super) fn may_go_again(&self, id: &Id) -> bool {
        let Some(call) = self.calls.get(id).filter(|call| call.batch.is_none()) else { return false };
        if call.listens.is_some() {
            return true;
        }
        if call.again && !call.is_of_the_session() {
            return false;
        }
        match (&call.tool, self.settings.resend) {
            (None, Resend::Nothing) => false,
            (None, _) => READS.contains(&&*call.method),
            (Some(tool), _) if self.settings.resend_tools.contains(&**tool) => true,
            (Some(_), Resend::All) => true,
            (Some(_), Resend::Nothing) => false,
            (Some(tool), Resend::Annotated) => self.known.is_repeatable(tool),
        }
    }

    fn give_up(&mut self, now: Mono, out: &mut Out) {
        let window = self.settings.intensity.window;
        self.phase = Phase::GivenUp(now + window);
        let failure = self.given_up_failure(now);
        out.actions.push(Action::Say(failure.message.clone()));
        out.actions.push(Action::Tell(Fact::GaveUp { reason: failure.message.clone(), again_in: window }));
        self.refuse_all(&failure, out);
    }

    /// Why requests are refused now, if they are. The first one after the window of a server that was given
    /// up brings it back.
    pub(super) fn refusal(&mut self, now: Mono, out: &mut Out) -> Option<Failure> {
        match self.phase {
            Phase::GivenUp(until) if now < until => Some(self.given_up_failure(now)),
            Phase::GivenUp(_) => {
                self.revive(now, out);
                None
            }
            Phase::Halted(None) => Some(self.halted_failure()),
            _ => None,
        }
    }

    /// Ends the server because somebody who may says so. Calls wait a moment for [`Relay::resume`], then they
    /// are refused.
    pub(crate) fn halt(&mut self, now: Mono, kill: bool, out: &mut Out) {
        self.halting = true;
        match self.phase {
            Phase::Up(_) | Phase::Greeting { .. } => self.doom_it(Doom::Halted, !kill, out),
            Phase::Down(_) | Phase::GivenUp(_) => {
                self.phase = Phase::Halted(Some(now + HALT_PATIENCE));
                out.actions.push(Action::Tell(Fact::Halted));
            }
            Phase::Halted(_) => out.actions.push(Action::Tell(Fact::Halted)),
            // As soon as it has started, or ended.
            Phase::Starting(_) | Phase::Ending => {}
        }
    }

    /// Starts what [`Relay::halt`] ended, or what was given up.
    pub(crate) fn resume(&mut self, now: Mono, out: &mut Out) {
        self.halting = false;
        if matches!(self.phase, Phase::Halted(_) | Phase::GivenUp(_)) {
            self.restarts.clear();
            self.start(now, out);
        }
    }

    /// Nobody has started the server again in time.
    pub(super) fn refuse_all(&mut self, failure: &Failure, out: &mut Out) {
        for id in self.calls.ids(false) {
            self.calls.remove(&id);
            self.fail(&id, failure, out);
        }
        if matches!(self.from_client, Stream::Holding) {
            self.from_client = Stream::Dropping(Box::new(failure.clone()));
        }
        self.held.clear();
        self.held_bytes = 0;
    }

    pub(super) fn halted_failure(&self) -> Failure {
        let name = &self.settings.name;
        Failure {
            message: format!(
                "the MCP server `{name}` was stopped on purpose; start its agent to use it again"
            ),
            data: json!({"reason": "stopped"}),
        }
    }

    pub(super) fn revive(&mut self, now: Mono, out: &mut Out) {
        self.restarts.clear();
        self.start(now, out);
    }

    // ---- errors --------------------------------------------------------------------------------------

    fn crash_failure(&self, key: &str, reason: &str, ending: &Ending, twice: bool) -> Failure {
        let name = &self.settings.name;
        let what = if twice {
            "it was sent twice, and the server did not survive it either time"
        } else {
            "it may have been carried out or not, and was not sent again"
        };
        let words = ending.last_words.as_ref().map(|w| format!(" (it last said: {w})")).unwrap_or_default();
        Failure {
            message: format!(
                "the MCP server `{name}` {reason} while `{key}` was in flight: {what}; the server is started again{words}"
            ),
            data: json!({
                "reason": "server-ended", "ending": reason, "exit_code": ending.code, "signal": ending.signal,
                "sent_twice": twice,
            }),
        }
    }

    pub(super) fn lost_session_failure(&self, tool: &str, how: &str) -> Failure {
        let name = &self.settings.name;
        Failure {
            message: format!(
                "the session of the MCP server `{name}` is lost: the server {how} and was started again, so that what \
                 it held (open pages, connections, a debugged program) is gone; `{tool}` was not carried out, and the \
                 next call begins a new session"
            ),
            data: json!({"reason": "session-lost", "ending": how}),
        }
    }

    pub(super) fn refused_failure(&self, tool: &str, left: Duration) -> Failure {
        let (name, max) = (&self.settings.name, self.settings.intensity.max);
        let window = duration::format(self.settings.intensity.window);
        Failure {
            message: format!(
                "`{tool}` ended the MCP server `{name}` {max} times within {window} and is refused for another {}; \
                 other tools work",
                duration::format(whole_seconds(left))
            ),
            data: json!({"reason": "tool-refused", "again_in_ms": left.as_millis() as u64}),
        }
    }

    pub(super) fn given_up_failure(&self, now: Mono) -> Failure {
        let (name, intensity) = (&self.settings.name, &self.settings.intensity);
        let left = match self.phase {
            Phase::GivenUp(until) => until.saturating_sub(now),
            _ => Duration::ZERO,
        };
        let last = self.last_ending.as_deref().unwrap_or("ended");
        Failure {
            message: format!(
                "the MCP server `{name}` cannot be kept alive: it was restarted {} times within {} and then {last}; \
                 a request in {} tries it again",
                intensity.max,
                duration::format(intensity.window),
                duration::format(whole_seconds(left)),
            ),
            data: json!({"reason": "given-up", "ending": last, "again_in_ms": left.as_millis() as u64}),
        }
    }
}

/// How many calls got an error.
#[derive(Default)]
struct Failed {
    all: usize,
    tools: usize,
}

impl Doom {
    fn in_words(&self) -> String {
        match self {
            Self::Hang { tools, waited } => format!(
                "hung (`{}` had no answer for {}, and neither had a probe) and was replaced",
                tools.join("`, `"),
                duration::format(Duration::from_millis(waited.as_millis() as u64 / 100 * 100)),
            ),
            Self::Memory { used, limit } => format!(
                "used {} of memory, more than its limit of {}, and was replaced",
                hms_core::bytesize::approximate(*used),
                hms_core::bytesize::approximate(*limit)
            ),
            Self::Halted => "was stopped on purpose".into(),
            Self::NoGreeting(reason) => reason.clone(),
        }
    }
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}
