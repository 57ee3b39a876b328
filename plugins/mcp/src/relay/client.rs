//! What the client says.

use hms_core::clock::Mono;
use serde_json::Value;

use super::{Action, Fact, Out, Own, Phase, Relay, Stream, asked::Whose, calls::Listens, known::params_of};
use crate::jsonrpc::{Envelope, Failure, Id, Kind, Piece, Scan, respond, with_id};

impl Relay {
    /// A piece of what the client says.
    pub(crate) fn client(&mut self, now: Mono, piece: Piece<'_>, out: &mut Out) {
        match piece {
            Piece::Line(line, scan) => self.client_line(now, line, &scan, out),
            Piece::Part(bytes) => self.client_part(now, bytes, out),
            Piece::Last(bytes, scan) => self.client_last(now, bytes, &scan, out),
        }
    }

    fn client_line(&mut self, now: Mono, line: &[u8], scan: &Scan, out: &mut Out) {
        match (scan.kind, scan.parts.as_slice()) {
            (Kind::One, [one]) => self.client_message(now, line, one, out),
            (Kind::Batch, parts) => self.client_batch(now, line, parts, out),
            (Kind::Blank | Kind::Opaque | Kind::One, _) => self.pass(now, line, Vec::new(), out),
        }
    }

    fn client_message(&mut self, now: Mono, line: &[u8], envelope: &Envelope, out: &mut Out) {
        if let Some((id, method)) = envelope.as_request() {
            self.known.heard(envelope, line);
            if !self.refuse(now, id, envelope, out) && !self.answer_from_memory(now, id, method, line, out) {
                let watched = self.take_up(now, envelope, Some(line), None);
                self.pass(now, line, if watched { vec![id.clone()] } else { Vec::new() }, out);
            }
        } else if let Some(id) = envelope.as_response() {
            match self.asked.answered(id) {
                Whose::Gone => {}
                Whose::Unknown => self.pass_now(line, out),
                Whose::Current(None) => self.pass_now(line, out),
                Whose::Current(Some(own)) => self.pass_now(&with_id(line, envelope, &own), out),
            }
        } else {
            match envelope.as_notification() {
                Some("notifications/cancelled") => self.client_cancels(now, line, envelope, out),
                Some("notifications/initialized") => {
                    self.known.initialized = true;
                    // The handshake with a server that comes up says it by itself.
                    if !self.known.greeted || matches!(self.phase, Phase::Up(_)) {
                        self.pass(now, line, Vec::new(), out);
                    }
                }
                _ => self.pass(now, line, Vec::new(), out),
            }
        }
    }

    fn client_batch(&mut self, now: Mono, line: &[u8], parts: &[Envelope], out: &mut Out) {
        // What one of them may not do, none of them does: a batch reaches the server whole or not at all.
        let requests = parts.iter().filter(|part| part.as_request().is_some());
        let refused = requests.into_iter().find_map(|part| self.refusal_of(now, part, out));
        if let Some(failure) = refused {
            let ids = parts.iter().filter_map(|part| part.as_request().map(|(id, _)| id));
            let answers: Vec<String> = ids.map(|id| failure.answer(id)).collect();
            self.tell_client(format!("[{}]\n", answers.join(",")).as_bytes(), out);
            return;
        }
        let batch = self.calls.batch();
        let mut ids = Vec::new();
        for part in parts {
            if let Some((id, _)) = part.as_request() {
                if self.take_up(now, part, None, Some(batch)) {
                    ids.push(id.clone());
                }
            } else if let Some(id) = part.as_response() {
                self.asked.answered(id);
            }
        }
        self.pass(now, line, ids, out);
    }

    /// Enters a request into the list of those in flight.
    fn take_up(&mut self, now: Mono, envelope: &Envelope, line: Option<&[u8]>, batch: Option<u64>) -> bool {
        if !self.calls.add(now, envelope, batch) {
            return false;
        }
        let (Some((id, method)), Some(line)) = (envelope.as_request(), line) else { return true };
        let params =
            || params_of(line).and_then(|p| serde_json::from_str::<Value>(p).ok()).unwrap_or_default();
        if let Some(call) = self.calls.get_mut(id) {
            match method {
                "subscriptions/listen" => {
                    let tools = params()["notifications"]["toolsListChanged"] == Value::Bool(true);
                    call.listens = Some(Listens { tools, acknowledged: false });
                }
                "tools/list" => call.later_page = params().get("cursor").is_some_and(Value::is_string),
                _ => {}
            }
        }
        true
    }

    /// Answers what shall not reach the server. True when it did.
    fn refuse(&mut self, now: Mono, id: &Id, envelope: &Envelope, out: &mut Out) -> bool {
        let Some(failure) = self.refusal_of(now, envelope, out) else { return false };
        self.fail(id, &failure, out);
        true
    }

    /// Why a request shall not reach the server; none when it may.
    fn refusal_of(&mut self, now: Mono, envelope: &Envelope, out: &mut Out) -> Option<Failure> {
        if let Some(failure) = self.refusal(now, out) {
            return Some(failure);
        }
        if envelope.method.as_deref() != Some("tools/call") {
            return None;
        }
        let tool = envelope.name.as_deref().unwrap_or_default();
        if let Some(how) = self.session_lost.take() {
            out.actions.push(Action::Tell(Fact::LostSession { tool: tool.into() }));
            return Some(self.lost_session_failure(tool, &how));
        }
        let left = self.strikes.out(tool, now, &self.settings.intensity)?;
        out.actions.push(Action::Tell(Fact::Refused { tool: tool.into() }));
        Some(self.refused_failure(tool, left))
    }

    /// Answers what may be answered while the server comes up. True when it did.
    fn answer_from_memory(&mut self, now: Mono, id: &Id, method: &str, line: &[u8], out: &mut Out) -> bool {
        if !self.settings.warm || self.closing {
            return false;
        }
        // Whether the server will be asked the same before anything else reaches it.
        let comes_up = !matches!(self.phase, Phase::Up(_));
        match method {
            "initialize" if !self.heard => {
                let Some(result) = self.known.greeting_from_memory() else { return false };
                self.known.greeted = true;
                self.known.greeting = serde_json::from_str(&result).ok();
                self.tell_client(&respond(id, &result), out);
                if matches!(self.phase, Phase::Up(_)) {
                    self.greet(now, out);
                }
                true
            }
            "tools/list" if (comes_up && self.known.greeted) || (self.known.stateless && !self.heard) => {
                let first = params_of(line)
                    .and_then(|p| serde_json::from_str::<Value>(p).ok())
                    .is_none_or(|p| p.get("cursor").is_none());
                let tools = self.known.memory.tools.as_ref().map(|t| t.get().to_owned());
                let Some(tools) = tools.filter(|_| first) else { return false };
                self.known.listed(&tools, false);
                self.tell_client(&respond(id, &tools), out);
                if !comes_up {
                    self.verify_tools(out);
                }
                true
            }
            "server/discover" if !self.heard => {
                let Some(known) = self.known.memory.discovery.as_ref().map(|d| d.get().to_owned()) else {
                    return false;
                };
                self.tell_client(&respond(id, &known), out);
                if !comes_up {
                    let params = self.known.own_params(Value::Object(serde_json::Map::new()));
                    self.ask(Own::Discovery, "server/discover", params.as_deref(), out);
                }
                true
            }
            _ => false,
        }
    }

    fn client_cancels(&mut self, now: Mono, line: &[u8], envelope: &Envelope, out: &mut Out) {
        let Some(id) = &envelope.request else { return self.pass(now, line, Vec::new(), out) };
        let Some(call) = self.calls.remove(id) else {
            // Of a request that was answered meanwhile, or that we know nothing of.
            return self.pass_now(line, out);
        };
        if !call.sent {
            let before = self.held.len();
            self.held.retain(|held| held.ids != [id.clone()]);
            if before != self.held.len() {
                self.held_bytes = self.held.iter().map(|held| held.bytes.len()).sum();
            }
            return;
        }
        self.pass_now(line, out);
        if call.listens.is_none() {
            let timed_out = params_of(line)
                .and_then(|p| serde_json::from_str::<Value>(p).ok())
                .and_then(|p| p["reason"].as_str().map(|r| r.to_lowercase().contains("time")))
                .unwrap_or(false);
            self.client_gave_up(now, &call, timed_out, out);
        }
        self.calls_changed(out);
    }

    /// Hands a line on, or holds it back until a server can hear it.
    fn pass(&mut self, now: Mono, line: &[u8], ids: Vec<Id>, out: &mut Out) {
        match self.phase {
            Phase::Up(_) => {
                self.tell_server(line, out);
                for id in &ids {
                    self.mark_sent(now, id, Some(line));
                }
            }
            // Requests were answered before; there is nobody for anything else.
            Phase::GivenUp(_) | Phase::Halted(None) => {}
            _ => self.hold(line.to_vec(), ids, true),
        }
    }

    /// Hands a line on that means something to this server alone.
    fn pass_now(&mut self, line: &[u8], out: &mut Out) {
        if matches!(self.phase, Phase::Up(_) | Phase::Greeting { .. }) {
            self.tell_server(line, out);
        }
    }

    /// A call is with the server from now on.
    pub(super) fn mark_sent(&mut self, now: Mono, id: &Id, line: Option<&[u8]>) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.sent = true;
        // A server that decodes a stream acts when the JSON is whole, and may never read the end of the line.
        let rest = line.map_or(0, |line| line.len() - line.trim_ascii_end().len());
        call.end_at = self.given.saturating_sub(rest as u64);
        self.used |= call.tool.is_some();
        let watched = call.listens.is_none() && &*call.method != "initialize";
        call.due = if watched { self.hang.begin(now) } else { Mono::MAX };
        // Also what may not be made twice: a server that dies may not have read it.
        if let Some(line) = line.filter(|_| call.batch.is_none()) {
            self.calls.keep(id, line);
        }
    }

    fn client_part(&mut self, now: Mono, bytes: &[u8], out: &mut Out) {
        if matches!(self.from_client, Stream::None) {
            self.from_client = if matches!(self.phase, Phase::Up(_)) {
                Stream::Passing
            } else if let Some(failure) = self.refusal(now, out) {
                Stream::Dropping(Box::new(failure))
            } else {
                self.hold(Vec::new(), Vec::new(), false);
                Stream::Holding
            };
        }
        match self.from_client {
            Stream::None | Stream::Dropping(_) => {}
            Stream::Passing => {
                self.passed = now;
                self.hang.begin(now);
                self.give(bytes, out);
            }
            Stream::Holding => {
                if let Some(held) = self.held.back_mut() {
                    held.bytes.extend_from_slice(bytes);
                    self.held_bytes += bytes.len();
                }
            }
        }
    }

    fn client_last(&mut self, now: Mono, bytes: &[u8], scan: &Scan, out: &mut Out) {
        self.client_part(now, bytes, out);
        let stream = std::mem::take(&mut self.from_client);
        let batch = (scan.kind == Kind::Batch).then(|| self.calls.batch());
        let mut ids = Vec::new();
        for part in &scan.parts {
            match &stream {
                Stream::Dropping(failure) => {
                    if let Some((id, _)) = part.as_request() {
                        self.fail(id, failure, out);
                    }
                }
                _ => {
                    if self.take_up(now, part, None, batch) {
                        ids.extend(part.id.clone());
                    } else if let Some(id) = part.as_response() {
                        self.asked.answered(id);
                    }
                }
            }
        }
        match stream {
            Stream::Holding => {
                if let Some(held) = self.held.back_mut() {
                    (held.ids, held.whole) = (ids, true);
                }
            }
            Stream::Passing => {
                for id in &ids {
                    self.mark_sent(now, id, None);
                }
                let after = std::mem::take(&mut self.after_client);
                self.give(&after, out);
            }
            Stream::None | Stream::Dropping(_) => {}
        }
    }
}
