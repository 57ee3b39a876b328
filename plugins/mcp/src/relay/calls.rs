//! Requests of the client that wait for their answer.

use std::collections::HashMap;

use hms_core::clock::Mono;

use crate::jsonrpc::{Envelope, Id};

/// A request that is longer is not kept, and so never sent again.
const LONGEST_KEPT: usize = 1 << 20;
/// Nor is one while the kept ones together hold this much.
const MOST_KEPT: usize = 16 << 20;

/// One request in flight.
#[derive(Debug)]
pub(crate) struct Call {
    /// The order in which requests came.
    pub(crate) seq: u64,
    /// `tools/call` and others.
    pub(crate) method: Box<str>,
    /// Of a call, the tool.
    pub(crate) tool: Option<Box<str>>,
    /// When the client sent it.
    pub(crate) since: Mono,
    /// When the server is asked whether it still lives.
    pub(crate) due: Mono,
    /// With the server, rather than held back.
    pub(crate) sent: bool,
    /// Where its JSON ends among the bytes that the server was given.
    pub(crate) end_at: u64,
    /// Was with a server that died, and is on its second try.
    pub(crate) again: bool,
    /// Its line, while it may have to be sent again.
    pub(crate) kept: Option<Box<[u8]>>,
    /// Notifications of progress carry this.
    pub(crate) token: Option<Id>,
    /// The batch it came in.
    pub(crate) batch: Option<u64>,
    /// A subscription: stays open, is not watched, and opened again at every restart.
    pub(crate) listens: Option<Listens>,
    /// Of `tools/list`: not the first page.
    pub(crate) later_page: bool,
}

/// What a `subscriptions/listen` asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Listens {
    /// `toolsListChanged`.
    pub(crate) tools: bool,
    /// The server has acknowledged it once, and the client knows.
    pub(crate) acknowledged: bool,
}

impl Call {
    /// What it is blamed and reported as: the tool, or the method of other requests.
    pub(crate) fn key(&self) -> &str {
        self.tool.as_deref().unwrap_or(&self.method)
    }

    /// It makes the conversation rather than being a part of it: every server gets it anew.
    pub(crate) fn is_of_the_session(&self) -> bool {
        self.listens.is_some() || &*self.method == "initialize"
    }
}

/// All of them, by id.
#[derive(Default)]
pub(crate) struct Calls {
    by_id: HashMap<Id, Call>,
    next: u64,
    kept: usize,
}

impl Calls {
    /// Takes a request up; false when one with its id is in flight already (then nobody keeps watch over it).
    pub(crate) fn add(&mut self, now: Mono, envelope: &Envelope, batch: Option<u64>) -> bool {
        let Some((id, method)) = envelope.as_request() else { return false };
        if self.by_id.contains_key(id) {
            return false;
        }
        self.next += 1;
        let call = Call {
            seq: self.next,
            tool: envelope.name.clone().filter(|_| method == "tools/call"),
            method: method.into(),
            since: now,
            due: now,
            sent: false,
            end_at: 0,
            again: false,
            kept: None,
            token: envelope.token.clone(),
            batch,
            listens: None,
            later_page: false,
        };
        self.by_id.insert(id.clone(), call);
        true
    }

    /// A new number for a batch.
    pub(crate) fn batch(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Keeps the line of a call that may have to be sent again, if there is room.
    pub(crate) fn keep(&mut self, id: &Id, line: &[u8]) {
        if line.len() > LONGEST_KEPT || self.kept + line.len() > MOST_KEPT {
            return;
        }
        if let Some(call) = self.by_id.get_mut(id)
            && call.kept.is_none()
        {
            call.kept = Some(line.into());
            self.kept += line.len();
        }
    }

    /// Takes the kept line away.
    pub(crate) fn take_kept(&mut self, id: &Id) -> Option<Box<[u8]>> {
        let line = self.by_id.get_mut(id)?.kept.take()?;
        self.kept -= line.len();
        Some(line)
    }

    pub(crate) fn get(&self, id: &Id) -> Option<&Call> {
        self.by_id.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &Id) -> Option<&mut Call> {
        self.by_id.get_mut(id)
    }

    /// Takes a call out: it was answered, or nobody waits for it any more.
    pub(crate) fn remove(&mut self, id: &Id) -> Option<Call> {
        let call = self.by_id.remove(id)?;
        self.kept -= call.kept.as_ref().map_or(0, |line| line.len());
        Some(call)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Id, &Call)> {
        self.by_id.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Call> {
        self.by_id.values_mut()
    }

    /// The ids of those that are with the server (or all), oldest first.
    pub(crate) fn ids(&self, only_sent: bool) -> Vec<Id> {
        let mut ids: Vec<(u64, &Id)> =
            self.by_id.iter().filter(|(_, c)| c.sent || !only_sent).map(|(id, c)| (c.seq, id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id.clone()).collect()
    }

    /// Whether a call that is watched is with the server.
    pub(crate) fn any_sent(&self) -> bool {
        self.by_id.values().any(|c| c.sent && c.listens.is_none())
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}
