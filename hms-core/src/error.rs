//! The one error type of the kernel.
//!
//! An error says what went wrong (`message`), of which kind it is (`kind`, which maps to exactly one
//! status code of the C ABI, one JSON-RPC code and one exit code), and, where we know it, what to do
//! next (`hint`).

use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// The result of every fallible kernel operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is. Fixed: kinds are added, never renamed or reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// An argument is missing, of the wrong type, or out of range.
    InvalidArgument,
    /// A configuration (file, agent, plugin) does not fit its schema.
    InvalidConfig,
    /// The named thing does not exist.
    NotFound,
    /// The name or id is taken.
    AlreadyExists,
    /// The thing exists, but its state does not allow the operation.
    InvalidState,
    /// The deadline passed first.
    Timeout,
    /// The caller cancelled the operation.
    Cancelled,
    /// Waiting would close a cycle of asks.
    WouldDeadlock,
    /// A bounded queue is full and its policy is to refuse.
    QueueFull,
    /// No running process offers the agent's type.
    TypeUnavailable,
    /// The agent that a handle refers to was destroyed.
    AgentGone,
    /// No service answers to that id and version.
    ServiceUnavailable,
    /// Two parts speak different versions.
    VersionMismatch,
    /// The operating system refused for lack of rights.
    PermissionDenied,
    /// This build or platform cannot do it.
    NotSupported,
    /// There is no host and none could be started, or it went away.
    HostUnavailable,
    /// Another process owns the home.
    HomeBusy,
    /// The other side broke the protocol.
    Protocol,
    /// The database cannot be read.
    StoreCorrupt,
    /// The database was written by a newer version.
    StoreNewer,
    /// The disk is full.
    DiskFull,
    /// Another operating system error.
    Io,
    /// A handler (agent, service, command) reported a failure.
    HandlerFailed,
    /// A handler panicked; it was contained.
    Panic,
    /// The call comes from the child of a fork.
    Forked,
    /// A defect in HMS; also what a newer peer's kind is read as that is not known here.
    #[serde(other)]
    Internal,
}

impl ErrorKind {
    /// The stable name, as JSON shows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        use ErrorKind::*;
        match self {
            InvalidArgument => "invalid-argument",
            InvalidConfig => "invalid-config",
            NotFound => "not-found",
            AlreadyExists => "already-exists",
            InvalidState => "invalid-state",
            Timeout => "timeout",
            Cancelled => "cancelled",
            WouldDeadlock => "would-deadlock",
            QueueFull => "queue-full",
            TypeUnavailable => "type-unavailable",
            AgentGone => "agent-gone",
            ServiceUnavailable => "service-unavailable",
            VersionMismatch => "version-mismatch",
            PermissionDenied => "permission-denied",
            NotSupported => "not-supported",
            HostUnavailable => "host-unavailable",
            HomeBusy => "home-busy",
            Protocol => "protocol",
            StoreCorrupt => "store-corrupt",
            StoreNewer => "store-newer",
            DiskFull => "disk-full",
            Io => "io",
            HandlerFailed => "handler-failed",
            Panic => "panic",
            Forked => "forked",
            Internal => "internal",
        }
    }
}

/// A failure: its kind, what happened, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Error {
    /// The kind, for programs.
    pub kind: ErrorKind,
    /// What happened and where, for people. One sentence without a full stop.
    pub message: String,
    /// What to do next, where we know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `what` before the message: where it happened.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// `invalid-argument` about the argument `name`.
    pub fn argument(name: &str, problem: impl fmt::Display) -> Self {
        Self::new(ErrorKind::InvalidArgument, format!("argument `{name}`: {problem}"))
    }

    /// `not-found`: there is no `what` called `name`.
    pub fn not_found(what: &str, name: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("no {what} `{name}`"))
    }

    /// A defect: something that cannot happen did.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// An operating system error met while doing `what`.
    pub fn io(what: impl fmt::Display, e: &io::Error) -> Self {
        let kind = match e.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
            io::ErrorKind::Unsupported => ErrorKind::NotSupported,
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        let error = Self::new(kind, format!("{what}: {e}"));
        if kind == ErrorKind::DiskFull { error.hint("free space on that file system") } else { error }
    }
}
