//! Several clients on one server, told apart. No I/O: messages go in, streams and an outbox take what comes out.
//!
//! What is certain: an answer belongs to who has its id, progress to who has its token, an update of a resource
//! to who subscribed to it, a change of a list to everybody. What a server *asks* (sampling, elicitation) names
//! no request, so it is routed only while a single client has calls in flight. The first time a server asks,
//! its clients begin to take turns: from then on only one of them has calls in flight at any time, and the next
//! question is certain again. A question that came while it was not is refused, never guessed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    message::{self, Kind, META_LOG_LEVEL, Message},
    stream::Stream,
};

/// The levels of log messages, from talkative to terse.
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
/// The JSON-RPC code of errors that the pool reports for itself.
pub(super) const INTERNAL: i64 = -32603;
/// Questions of a server that may wait for a client's answer.
const ASKS: usize = 256;
/// Resources that one client may subscribe to.
const SUBSCRIPTIONS: usize = 4096;

/// Who sent a request.
enum Owner {
    /// A client with a session.
    Seat(u64),
    /// A client without one (2026-07-28).
    Nobody,
    /// The pool itself; who waits for the answer.
    Pool(Option<oneshot::Sender<Message>>),
}

struct Call {
    owner: Owner,
    /// The client's id, as it wrote it.
    id: String,
    token: Option<String>,
    stream: Option<Arc<Stream>>,
    method: String,
    /// Whether log messages were asked for (2026-07-28).
    logs: bool,
}

struct Seat {
    news: Arc<Stream>,
    subscriptions: BTreeSet<String>,
    level: Option<usize>,
}

struct Waiting {
    seat: u64,
    number: u64,
    line: String,
    call: Call,
}

/// The clients of one server process.
#[derive(Default)]
pub(super) struct Mux {
    seats: BTreeMap<u64, Seat>,
    calls: BTreeMap<u64, Call>,
    /// Questions that were passed on, by the server's id.
    asks: HashMap<String, u64>,
    /// Out-of-band elicitations, by their id: whom they were passed on to.
    elicitations: HashMap<String, u64>,
    waiting: VecDeque<Waiting>,
    turns: bool,
    asked: bool,
    tools_changed: bool,
    unclaimed: u64,
    last: u64,
    out: Vec<String>,
}

impl Mux {
    /// What is to be sent to the server, in order.
    pub(super) fn take_out(&mut self) -> Vec<String> {
        std::mem::take(&mut self.out)
    }

    /// Whether the server has ever asked its client something.
    pub(super) fn asked(&self) -> bool {
        self.asked
    }

    /// Whether the server said that its tools changed, since this was last asked.
    pub(super) fn take_tools_changed(&mut self) -> bool {
        std::mem::take(&mut self.tools_changed)
    }

    /// How many messages of the server belonged to nobody for certain and were dropped.
    pub(super) fn unclaimed(&self) -> u64 {
        self.unclaimed
    }

    /// How many clients with a session there are.
    pub(super) fn seats(&self) -> usize {
        self.seats.len()
    }

    /// Whether anybody waits for an answer.
    pub(super) fn busy(&self) -> bool {
        !self.waiting.is_empty() || self.calls.values().any(|c| !matches!(c.owner, Owner::Pool(_)))
    }

    /// Whether a client waits for news of a resource.
    pub(super) fn subscribed(&self) -> bool {
        self.seats.values().any(|s| !s.subscriptions.is_empty())
    }

    /// How many requests are unanswered.
    pub(super) fn in_flight(&self) -> usize {
        self.calls.len() + self.waiting.len()
    }

    /// A client joins. What belongs to none of its requests goes to `news`.
    pub(super) fn sit(&mut self, seat: u64, news: Arc<Stream>) {
        self.seats.insert(seat, Seat { news, subscriptions: BTreeSet::new(), level: None });
    }

    /// A client leaves: its requests are cancelled, its subscriptions end.
    pub(super) fn leave(&mut self, seat: u64) {
        let Some(gone) = self.seats.remove(&seat) else { return };
        gone.news.end();
        self.waiting.retain(|w| w.seat != seat);
        let mine = |c: &Call| matches!(c.owner, Owner::Seat(s) if s == seat);
        let numbers: Vec<u64> = self.calls.iter().filter(|(_, c)| mine(c)).map(|(n, _)| *n).collect();
        for number in numbers {
            self.cancel(number, "the client has gone");
        }
        let asks: Vec<String> =
            self.asks.iter().filter(|(_, s)| **s == seat).map(|(id, _)| id.clone()).collect();
        for id in asks {
            self.asks.remove(&id);
            self.out.push(message::error(Some(&id), INTERNAL, "the client has gone", None));
        }
        self.elicitations.retain(|_, s| *s != seat);
        for uri in gone.subscriptions {
            if !self.seats.values().any(|s| s.subscriptions.contains(&uri)) {
                drop(self.ask("resources/unsubscribe", Some(&json!({ "uri": uri }))));
            }
        }
        self.advance();
    }

    /// A request of the pool itself; the answer arrives, or the sender is dropped when the server goes.
    pub(super) fn ask(&mut self, method: &str, params: Option<&Value>) -> oneshot::Receiver<Message> {
        let mut request = json!({ "jsonrpc": "2.0", "id": self.last + 1, "method": method });
        if let Some(params) = params {
            request["params"] = params.clone();
        }
        let (tell, answer) = oneshot::channel();
        self.last += 1;
        self.out.push(request.to_string());
        let call = Call {
            owner: Owner::Pool(Some(tell)),
            id: self.last.to_string(),
            token: None,
            stream: None,
            method: method.into(),
            logs: false,
        };
        self.calls.insert(self.last, call);
        answer
    }

    /// A client's request, answered on `stream`. Returns the number by which it can be cancelled.
    pub(super) fn request(&mut self, seat: Option<u64>, request: &Message, stream: &Arc<Stream>) -> u64 {
        self.last += 1;
        let number = self.last;
        let Some(id) = request.id() else { return number };
        if let Some(seat) = seat
            && self.answered_here(seat, id, request, stream)
        {
            return number;
        }
        let written = number.to_string();
        let line = request.with_id(&written, Some(&written));
        let logs = seat.is_none() && request.text().contains(META_LOG_LEVEL);
        let call = Call {
            owner: seat.map_or(Owner::Nobody, Owner::Seat),
            id: id.into(),
            token: request.token().map(Into::into),
            stream: Some(stream.clone()),
            method: request.method.clone(),
            logs,
        };
        match seat {
            Some(seat) if self.turns && self.must_wait(seat) => {
                self.waiting.push_back(Waiting { seat, number, line, call });
            }
            _ => {
                self.calls.insert(number, call);
                self.out.push(line);
            }
        }
        number
    }

    /// What one client may not decide for all: subscriptions and the level of the log.
    fn answered_here(&mut self, seat: u64, id: &str, request: &Message, stream: &Arc<Stream>) -> bool {
        let uri = || request.param("/uri").as_str().map(str::to_owned);
        match request.method.as_str() {
            "resources/subscribe" => {
                if let (Some(uri), Some(seat)) = (uri(), self.seats.get_mut(&seat)) {
                    if seat.subscriptions.len() >= SUBSCRIPTIONS && !seat.subscriptions.contains(&uri) {
                        let why = format!("no more than {SUBSCRIPTIONS} resources can be subscribed to");
                        stream.push(&message::error(Some(id), INTERNAL, &why, None), true);
                        return true;
                    }
                    seat.subscriptions.insert(uri);
                }
                false // the server says whether it can
            }
            "resources/unsubscribe" => {
                let Some(uri) = uri() else { return false };
                if let Some(seat) = self.seats.get_mut(&seat) {
                    seat.subscriptions.remove(&uri);
                }
                let needed = self.seats.values().any(|s| s.subscriptions.contains(&uri));
                if needed {
                    stream.push(&message::result(id, "{}"), true);
                }
                needed
            }
            "logging/setLevel" => {
                let level = request.param("/level");
                let level = LEVELS.iter().position(|l| Some(*l) == level.as_str());
                if let (Some(level), Some(seat)) = (level, self.seats.get_mut(&seat)) {
                    seat.level = Some(level);
                }
                // Another client wants more than this one: the server keeps its level, and this client's share
                // of the messages is filtered here.
                let more = self.seats.values().filter_map(|s| s.level).min() < level;
                if level.is_some() && more {
                    stream.push(&message::result(id, "{}"), true);
                }
                level.is_some() && more
            }
            _ => false,
        }
    }

    /// Subscriptions and log level, as requests that bring a new process to where the old one was.
    pub(super) fn restore(&mut self) {
        let uris: BTreeSet<String> =
            self.seats.values().flat_map(|s| s.subscriptions.iter().cloned()).collect();
        for uri in uris {
            drop(self.ask("resources/subscribe", Some(&json!({ "uri": uri }))));
        }
        if let Some(level) = self.seats.values().filter_map(|s| s.level).min() {
            drop(self.ask("logging/setLevel", Some(&json!({ "level": LEVELS[level] }))));
        }
    }

    /// A client's notification. `initialized` is the pool's own to send, once a process.
    pub(super) fn notification(&mut self, seat: u64, notification: &Message) {
        match notification.method.as_str() {
            "notifications/initialized" => {}
            "notifications/cancelled" => {
                let Some(id) = notification.refers() else { return };
                let same = |c: &Call| matches!(c.owner, Owner::Seat(s) if s == seat) && c.id == id;
                if let Some(at) = self.waiting.iter().position(|w| same(&w.call)) {
                    if let Some(stream) = self.waiting.remove(at).and_then(|w| w.call.stream) {
                        stream.end();
                    }
                    return;
                }
                let Some(number) = self.calls.iter().rev().find(|(_, c)| same(c)).map(|(n, _)| *n) else {
                    return;
                };
                let line = notification.with_refers(&number.to_string());
                self.forget(number, line);
            }
            "notifications/progress" => {} // only questions that were passed on could have one, and no token was
            _ => self.out.push(notification.text().into()),
        }
    }

    /// Cancels a request by its number, if it is still unanswered.
    pub(super) fn cancel(&mut self, number: u64, why: &str) {
        if let Some(at) = self.waiting.iter().position(|w| w.number == number) {
            self.waiting.remove(at);
            return;
        }
        let params = json!({ "requestId": number, "reason": why });
        let line = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
        self.forget(number, line.to_string());
    }

    fn forget(&mut self, number: u64, cancellation: String) {
        if let Some(call) = self.calls.remove(&number) {
            self.out.push(cancellation);
            if let Some(stream) = call.stream {
                stream.end();
            }
            self.advance();
        }
    }

    /// A client's answer to what the server asked. Answers nobody asked this client for are dropped.
    pub(super) fn response(&mut self, seat: u64, response: &Message) {
        let Some(id) = response.id() else { return };
        if self.asks.get(id) == Some(&seat) {
            self.asks.remove(id);
            self.out.push(response.text().into());
        }
    }

    /// A message of the server.
    pub(super) fn hear(&mut self, said: Message) {
        match said.kind {
            Kind::Response => self.answer(said),
            Kind::Request => self.question(&said),
            Kind::Notification => self.news(&said),
        }
    }

    fn answer(&mut self, said: Message) {
        let number = said.id().and_then(|id| id.parse::<u64>().ok());
        let Some(call) = number.and_then(|n| self.calls.remove(&n)) else {
            self.unclaimed += 1; // cancelled, or never asked
            return;
        };
        match call.owner {
            Owner::Pool(Some(tell)) => drop(tell.send(said)),
            Owner::Pool(None) => {}
            Owner::Seat(_) | Owner::Nobody => {
                if let Some(stream) = call.stream {
                    stream.push(&said.with_id(&call.id, None), true);
                }
            }
        }
        self.advance();
    }

    fn question(&mut self, said: &Message) {
        let Some(id) = said.id() else { return };
        if said.method == "ping" {
            self.out.push(message::result(id, "{}"));
            return;
        }
        let first = !std::mem::replace(&mut self.asked, true);
        self.turns = true;
        let whom = self.certain();
        let refuse = |why: &str| message::error(Some(id), INTERNAL, why, None);
        match whom {
            Some(seat) if self.asks.len() < ASKS => {
                self.asks.insert(id.into(), seat);
                if let Some(elicitation) = said.param("/elicitationId").as_str() {
                    self.elicitations.insert(elicitation.into(), seat);
                }
                self.tell(seat, said.text());
            }
            Some(_) => self.out.push(refuse("too many questions are unanswered")),
            None => {
                tracing::warn!(
                    method = said.method,
                    first,
                    "a question could be for several clients; it is refused"
                );
                self.out.push(refuse(
                    "it cannot be told which client this is for; call again, clients take turns now",
                ));
            }
        }
    }

    fn news(&mut self, said: &Message) {
        match said.method.as_str() {
            "notifications/progress" => {
                let call = said.token().and_then(|t| t.parse().ok()).and_then(|n: u64| self.calls.get(&n));
                match call {
                    Some(Call { token: Some(token), stream: Some(stream), .. }) => {
                        stream.push(&said.with_token(token), false);
                    }
                    _ => self.unclaimed += 1,
                }
            }
            "notifications/cancelled" => self.cancelled(said),
            "notifications/resources/updated" if said.subscription().is_none() => {
                let uri = said.param("/uri");
                let uri = uri.as_str().unwrap_or_default();
                for seat in self.seats.values() {
                    if seat.subscriptions.iter().any(|s| covers(s, uri)) {
                        seat.news.push(said.text(), false);
                    }
                }
            }
            "notifications/elicitation/complete" => {
                let id = said.param("/elicitationId");
                match id.as_str().and_then(|id| self.elicitations.remove(id)) {
                    Some(seat) => self.tell(seat, said.text()),
                    None => self.unclaimed += 1,
                }
            }
            "notifications/message" => self.log(said),
            method => {
                self.tools_changed |= method == "notifications/tools/list_changed";
                if let Some(subscription) = said.subscription() {
                    self.for_listener(subscription, said);
                } else if method.ends_with("/list_changed") {
                    for seat in self.seats.values() {
                        seat.news.push(said.text(), false);
                    }
                } else {
                    match self.certain() {
                        Some(seat) => self.tell(seat, said.text()),
                        None => self.unclaimed += 1,
                    }
                }
            }
        }
    }

    /// The server withdraws a question, or ends a subscription.
    fn cancelled(&mut self, said: &Message) {
        let Some(id) = said.refers() else { return };
        if let Some(seat) = self.asks.remove(id) {
            self.tell(seat, said.text());
        } else if let Some(call) = id.parse::<u64>().ok().and_then(|n| self.calls.remove(&n)) {
            if let Some(stream) = call.stream {
                stream.end();
            }
            self.advance();
        }
    }

    fn for_listener(&mut self, subscription: &str, said: &Message) {
        let call = subscription.parse::<u64>().ok().and_then(|n| self.calls.get(&n));
        match call {
            Some(Call { stream: Some(stream), id, method, .. }) if method == "subscriptions/listen" => {
                stream.push(&said.with_subscription(id), false);
            }
            _ => self.unclaimed += 1,
        }
    }

    fn log(&mut self, said: &Message) {
        let mut asking = self.calls.values().filter(|c| c.logs);
        if let (Some(call), None) = (asking.next(), asking.next()) {
            if let Some(stream) = &call.stream {
                stream.push(said.text(), false);
            }
            return;
        }
        let Some(seat) = self.certain() else {
            self.unclaimed += 1;
            return;
        };
        let level = said.param("/level");
        let level = LEVELS.iter().position(|l| Some(*l) == level.as_str());
        let wanted = self.seats.get(&seat).and_then(|s| s.level);
        if level.zip(wanted).is_none_or(|(level, wanted)| level >= wanted) {
            self.tell(seat, said.text());
        }
    }

    /// The one client that something without an address can be for.
    fn certain(&self) -> Option<u64> {
        let busy: BTreeSet<u64> = self
            .calls
            .values()
            .filter_map(|c| match c.owner {
                Owner::Seat(seat) => Some(seat),
                _ => None,
            })
            .collect();
        let mut candidates = if busy.is_empty() { self.seats.keys().copied().collect() } else { busy };
        let one = candidates.pop_first();
        one.filter(|_| candidates.is_empty())
    }

    /// On the stream of the client's latest request that has one, else on its own.
    fn tell(&self, seat: u64, text: &str) {
        let mine = |c: &&Call| matches!(c.owner, Owner::Seat(s) if s == seat);
        let stream = self.calls.values().rev().filter(mine).find_map(|c| c.stream.as_ref());
        if stream.is_some_and(|s| s.push(text, false)) {
            return;
        }
        if let Some(seat) = self.seats.get(&seat) {
            seat.news.push(text, false);
        }
    }

    fn must_wait(&self, seat: u64) -> bool {
        let others = |c: &Call| matches!(c.owner, Owner::Seat(s) if s != seat);
        self.waiting.iter().any(|w| w.seat != seat) || self.calls.values().any(others)
    }

    /// Lets the next client have its turn once nobody else has calls in flight.
    fn advance(&mut self) {
        while let Some(next) = self.waiting.front() {
            let seat = next.seat;
            if self.calls.values().any(|c| matches!(c.owner, Owner::Seat(s) if s != seat)) {
                return;
            }
            if let Some(Waiting { number, line, call, .. }) = self.waiting.pop_front() {
                self.calls.insert(number, call);
                self.out.push(line);
            }
        }
    }

    /// The server process is gone: whoever waits is told so, and what it asked is forgotten. Clients keep
    /// their seats.
    pub(super) fn server_gone(&mut self, why: &str) {
        self.out.clear();
        self.asks.clear();
        self.elicitations.clear();
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|w| w.call);
        for call in std::mem::take(&mut self.calls).into_values().chain(waiting) {
            if let Some(stream) = call.stream {
                stream.push(&message::error(Some(&call.id), INTERNAL, why, None), true);
            }
        }
    }
}

/// Whether news of `uri` are for who subscribed to `subscribed`: the resource itself or a part of it, not another one
/// whose name goes on where this one's ends.
fn covers(subscribed: &str, uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix(subscribed).filter(|_| !subscribed.is_empty()) else { return false };
    rest.is_empty() || subscribed.ends_with('/') || rest.starts_with(['/', '?', '#'])
}

#[cfg(test)]
#[path = "mux_tests.rs"]
mod tests;
