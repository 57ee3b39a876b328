//! What the server says.

use hms_core::clock::Mono;
use serde_json::{Value, json};

use super::{
    Action, Doom, Fact, Out, Own, Phase, Relay,
    calls::Call,
    known::{result_of, subscription_of},
    parts,
};
use crate::jsonrpc::{Envelope, Id, Kind, Piece, Scan, notification, with_id};

/// More pages of tools are not asked for.
const MOST_TOOLS: usize = 10_000;

impl Relay {
    /// A piece of what the server of this life says; what an earlier one said too late is ignored.
    pub(crate) fn server(&mut self, now: Mono, life: u64, piece: Piece<'_>, out: &mut Out) {
        if life != self.life || matches!(self.phase, Phase::Down(_) | Phase::GivenUp(_) | Phase::Halted(_)) {
            return;
        }
        match piece {
            Piece::Line(line, scan) => self.server_line(now, line, &scan, out),
            Piece::Part(bytes) => {
                self.from_server = true;
                self.hang.sign(now);
                out.client.extend_from_slice(bytes);
            }
            Piece::Last(bytes, scan) => {
                out.client.extend_from_slice(bytes);
                self.from_server = false;
                for part in parts(&scan) {
                    if let Some(id) = part.as_response() {
                        self.answered(now, id, part, None, out);
                    } else if let Some((id, _)) = part.as_request() {
                        self.asked.add(id, || id.clone());
                    }
                }
                let after = std::mem::take(&mut self.after_server);
                out.client.extend_from_slice(&after);
            }
        }
    }

    fn server_line(&mut self, now: Mono, line: &[u8], scan: &Scan, out: &mut Out) {
        match (scan.kind, parts(scan)) {
            (Kind::One, [one]) => self.server_message(now, line, one, out),
            (Kind::Batch, parts) => {
                for part in parts {
                    if let Some(id) = part.as_response() {
                        self.answered(now, id, part, None, out);
                    } else if let Some((id, _)) = part.as_request() {
                        self.asked.add(id, || id.clone());
                    }
                }
                out.client.extend_from_slice(line);
            }
            _ => out.client.extend_from_slice(line),
        }
    }

    fn server_message(&mut self, now: Mono, line: &[u8], envelope: &Envelope, out: &mut Out) {
        if let Some(id) = envelope.as_response() {
            self.hang.sign(now);
            self.alive(now);
            if let Some(own) = self.own.remove(id) {
                return self.own_answered(now, own, line, envelope, out);
            }
            out.client.extend_from_slice(line);
            self.answered(now, id, envelope, Some(line), out);
        } else if let Some((id, _)) = envelope.as_request() {
            self.hang.sign(now);
            let (tag, next) = (&self.tag, &mut self.next_own);
            let alias = self.asked.add(id, || {
                *next += 1;
                Id::of_text(&format!("{tag}{next}"))
            });
            match alias {
                Some(alias) => out.client.extend_from_slice(&with_id(line, envelope, &alias)),
                None => out.client.extend_from_slice(line),
            }
        } else {
            self.server_notifies(now, line, envelope, out);
        }
    }

    fn server_notifies(&mut self, now: Mono, line: &[u8], envelope: &Envelope, out: &mut Out) {
        match envelope.as_notification() {
            Some("notifications/progress") => {
                self.hang.sign(now);
                let due = self.hang.begin(now);
                for call in self.calls.iter_mut() {
                    if call.token.is_some() && call.token == envelope.progress {
                        call.due = call.due.max(due);
                    }
                }
            }
            Some("notifications/cancelled") => {
                let alias = envelope.request.as_ref().and_then(|id| self.asked.cancelled(id));
                if let Some(alias) = alias {
                    return out.client.extend_from_slice(&cancelled(&alias, "the server took it back"));
                }
            }
            Some("notifications/subscriptions/acknowledged") => {
                let listens = subscription_of(line).and_then(|id| self.calls.get_mut(&id)?.listens.as_mut());
                // Opened anew by us: for the client it has been open all the time.
                if let Some(listens) = listens
                    && std::mem::replace(&mut listens.acknowledged, true)
                {
                    return;
                }
            }
            _ => {}
        }
        out.client.extend_from_slice(line);
    }

    /// A response to the client has passed.
    fn answered(&mut self, now: Mono, id: &Id, envelope: &Envelope, line: Option<&[u8]>, out: &mut Out) {
        let Some(call) = self.calls.remove(id) else { return };
        self.strikes.clear(call.key());
        let ok = envelope.result && !envelope.error;
        if let Some(line) = line.filter(|_| ok) {
            self.learn(&call, line, out);
        }
        if let Some(tool) = call.tool {
            let took = now.saturating_sub(call.since);
            out.actions.push(Action::Tell(Fact::Call { tool: tool.into(), took, ok }));
        }
        self.calls_changed(out);
    }

    fn learn(&mut self, call: &Call, line: &[u8], out: &mut Out) {
        match &*call.method {
            "initialize" => self.known.greeted(line),
            "server/discover" => {
                if let Some(result) = result_of(line) {
                    self.known.remember_discovery(result);
                }
            }
            "tools/list" => {
                if let Some(result) = result_of(line) {
                    self.known.listed(result, call.later_page);
                }
            }
            _ => return,
        }
        self.save(out);
    }

    /// The number of calls in flight has become smaller.
    pub(super) fn calls_changed(&mut self, out: &mut Out) {
        if let (Some(used), Some(limit)) = (self.heavy, self.settings.memory_limit)
            && !self.calls.any_sent()
        {
            self.replace_heavy(used, limit, out);
        }
    }

    fn own_answered(&mut self, now: Mono, own: Own, line: &[u8], envelope: &Envelope, out: &mut Out) {
        match own {
            Own::Probe => self.probe_answered(now),
            Own::Quiet => {}
            Own::Greeting => self.greeting_answered(now, line, envelope, out),
            Own::Tools(seen) => self.tools_answered(seen, line, out),
            Own::Discovery => {
                if let Some(result) = result_of(line) {
                    self.known.remember_discovery(result);
                    self.save(out);
                }
            }
        }
    }

    fn greeting_answered(&mut self, now: Mono, line: &[u8], envelope: &Envelope, out: &mut Out) {
        let Some(result) = result_of(line).filter(|_| !envelope.error) else {
            let answer = String::from_utf8_lossy(line);
            let reason = format!("refused `initialize`: {}", answer.trim_end());
            return self.doom_it(Doom::NoGreeting(reason), false, out);
        };
        let new: Value = serde_json::from_str(result).unwrap_or_default();
        let (old, name) = (self.known.greeting.take().unwrap_or_default(), self.settings.name.clone());
        if old["protocolVersion"] != new["protocolVersion"] {
            let say = format!(
                "`{name}` now speaks protocol {} and not {}, which its client was told",
                new["protocolVersion"], old["protocolVersion"]
            );
            out.actions.push(Action::Say(say));
        }
        self.known.remember_greeting(result);
        // What the client was told of it, from memory, may be old: it has to look again.
        let stale: Vec<&str> = [("prompts", "prompts"), ("resources", "resources")]
            .into_iter()
            .filter(|(member, _)| old["capabilities"].get(member) != new["capabilities"].get(member))
            .map(|(_, list)| list)
            .collect();
        self.known.greeting = Some(new);
        self.save(out);
        if self.known.initialized {
            self.tell_server(&notification("notifications/initialized", None), out);
        }
        self.come_up(now, out);
        for list in stale {
            self.tell_client(&notification(&format!("notifications/{list}/list_changed"), None), out);
        }
    }

    /// Asks which tools there are now, to compare them with those the client knows.
    pub(super) fn verify_tools(&mut self, out: &mut Out) {
        let params = self.known.own_params(json!({}));
        self.ask(Own::Tools(Vec::new()), "tools/list", params.as_deref(), out);
    }

    fn tools_answered(&mut self, mut seen: Vec<Value>, line: &[u8], out: &mut Out) {
        let Some(result) = result_of(line) else { return };
        let Ok(mut page) = serde_json::from_str::<Value>(result) else { return };
        let first = seen.is_empty();
        let Value::Array(tools) = page["tools"].take() else { return };
        seen.extend(tools);
        if let Some(cursor) = page["nextCursor"].as_str()
            && seen.len() < MOST_TOOLS
        {
            let params = self.known.own_params(json!({"cursor": cursor}));
            return self.ask(Own::Tools(seen), "tools/list", params.as_deref(), out);
        }
        if first {
            self.known.remember_tools(result);
        }
        if self.known.tools_differ(seen) {
            self.tell_tools_changed(out);
        }
        self.save(out);
    }

    fn tell_tools_changed(&mut self, out: &mut Out) {
        const METHOD: &str = "notifications/tools/list_changed";
        out.actions.push(Action::Tell(Fact::ToolsChanged));
        if !self.known.stateless {
            return self.tell_client(&notification(METHOD, None), out);
        }
        // Since 2026-07-28 it goes to those who asked for it, in their subscription.
        let listeners: Vec<Id> = self
            .calls
            .iter()
            .filter(|(_, call)| call.listens.is_some_and(|l| l.tools))
            .map(|(id, _)| id.clone())
            .collect();
        for id in listeners {
            let id: Value = serde_json::from_str(id.as_json()).unwrap_or_default();
            let meta = json!({"_meta": {"io.modelcontextprotocol/subscriptionId": id}});
            self.tell_client(&notification(METHOD, Some(meta)), out);
        }
    }
}

/// Tells a peer that nobody waits for its answer any more.
pub(super) fn cancelled(id: &Id, reason: &str) -> Vec<u8> {
    let id: Value = serde_json::from_str(id.as_json()).unwrap_or_default();
    notification("notifications/cancelled", Some(json!({"requestId": id, "reason": reason})))
}
