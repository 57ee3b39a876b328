//! Who registered a thing. Every registry entry has an owner, and goes with it: a plugin that shuts
//! down and a peer that disconnects leave nothing behind.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The owner of a registration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "id")]
pub enum Owner {
    /// A plugin in this process, by its id.
    Plugin(String),
    /// A connected peer, by its number; its registrations are a lease.
    Peer(u64),
}

impl Owner {
    /// The plugin called `id`.
    pub fn plugin(id: impl Into<String>) -> Self {
        Self::Plugin(id.into())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plugin(id) => write!(f, "plugin `{id}`"),
            Self::Peer(n) => write!(f, "peer {n}"),
        }
    }
}
