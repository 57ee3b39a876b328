//! What a user decides about one supervised server.

use std::{collections::BTreeSet, time::Duration};

use hms_core::supervision::{Backoff, Intensity};

/// Which calls of tools may be sent a second time when their server died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Resend {
    /// Those of tools that are annotated as read-only or idempotent.
    #[default]
    Annotated,
    /// All.
    All,
    /// None, and no other request either.
    Nothing,
}

/// How one server is supervised.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What the server is called in messages.
    pub(crate) name: String,
    /// It holds a session that is lost with it.
    pub(crate) stateful: bool,
    /// Which calls are sent again.
    pub(crate) resend: Resend,
    /// Tools whose calls are, whatever their annotations.
    pub(crate) resend_tools: BTreeSet<String>,
    /// How long a call may take before the server is probed; `None`: for ever.
    pub(crate) hang_timeout: Option<Duration>,
    /// How much memory the tree may hold, in bytes.
    pub(crate) memory_limit: Option<u64>,
    /// How many restarts are too many.
    pub(crate) intensity: Intensity,
    /// How long to wait between them.
    pub(crate) backoff: Backoff,
    /// How long a restarted server may take to answer its handshake.
    pub(crate) start_timeout: Duration,
    /// Answer `initialize` and `tools/list` from memory while the server comes up.
    pub(crate) warm: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "server".into(),
            stateful: false,
            resend: Resend::Annotated,
            resend_tools: BTreeSet::new(),
            hang_timeout: Some(Duration::from_secs(45)),
            memory_limit: None,
            intensity: Intensity { max: 5, window: Duration::from_secs(60) },
            backoff: Backoff { max: Duration::from_secs(5), ..Backoff::default() },
            start_timeout: Duration::from_secs(120),
            warm: false,
        }
    }
}
