//! Requests of the server that the client works on: sampling, elicitation, roots.
//!
//! A client may still work on a request when its server is gone, and the next server may ask with the same id
//! (SDKs count from 0). Such a request gets an alias for as long as the old answer may still come; the old
//! answer is dropped.

use std::collections::{HashMap, VecDeque};

use crate::jsonrpc::Id;

/// More late answers are not waited for: the oldest is forgotten.
const MOST_LATE: usize = 1024;

/// What to do with an answer of the client.
#[derive(Debug, PartialEq)]
pub(crate) enum Whose {
    /// Nobody asked, as far as we know: it passes.
    Unknown,
    /// The server that runs, by this id if the client knows the request by another.
    Current(Option<Id>),
    /// A server that is gone.
    Gone,
}

/// Requests of the server in flight.
#[derive(Default)]
pub(crate) struct Asked {
    /// By the id that the client knows; the value is the server's own, when that is another.
    current: HashMap<Id, Option<Id>>,
    late: HashMap<Id, ()>,
    order: VecDeque<Id>,
}

impl Asked {
    /// The server asks. The alias to ask under, when the client still works on another request of this id.
    pub(crate) fn add(&mut self, id: &Id, alias: impl FnOnce() -> Id) -> Option<Id> {
        if self.late.contains_key(id) {
            let alias = alias();
            self.current.insert(alias.clone(), Some(id.clone()));
            return Some(alias);
        }
        self.current.insert(id.clone(), None);
        None
    }

    /// The client answers.
    pub(crate) fn answered(&mut self, id: &Id) -> Whose {
        if let Some(own) = self.current.remove(id) {
            return Whose::Current(own);
        }
        match self.late.remove(id) {
            Some(()) => {
                self.order.retain(|late| late != id);
                Whose::Gone
            }
            None => Whose::Unknown,
        }
    }

    /// The server takes a request back. What the client knows it by, when that is another id.
    pub(crate) fn cancelled(&mut self, id: &Id) -> Option<Id> {
        let alias =
            self.current.iter().find(|(_, own)| own.as_ref() == Some(id)).map(|(alias, _)| alias.clone());
        self.current.remove(alias.as_ref().unwrap_or(id));
        alias
    }

    /// The server is gone. The ids of what the client still works on for it.
    pub(crate) fn server_gone(&mut self) -> Vec<Id> {
        let ids: Vec<Id> = self.current.drain().map(|(id, _)| id).collect();
        for id in &ids {
            self.late.insert(id.clone(), ());
            self.order.push_back(id.clone());
        }
        while self.order.len() > MOST_LATE {
            if let Some(oldest) = self.order.pop_front() {
                self.late.remove(&oldest);
            }
        }
        ids
    }

    /// Whether the server waits for the client.
    pub(crate) fn any(&self) -> bool {
        !self.current.is_empty()
    }
}
