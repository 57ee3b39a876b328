//! Exit codes: one table, and one exhaustive match from error kinds to it, so that a new kind cannot
//! be added without deciding what a shell script sees.

use hms_core::ErrorKind;

/// A process exit code and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode {
    /// What the process returns.
    pub code: i32,
    /// A word for it.
    pub name: &'static str,
    /// When it is returned.
    pub meaning: &'static str,
}

/// Every exit code a command line returns, in order.
pub const EXIT_CODES: [ExitCode; 10] = [
    ExitCode { code: OK, name: "ok", meaning: "the command did what was asked" },
    ExitCode { code: FAILED, name: "failed", meaning: "the operation was tried and failed" },
    ExitCode {
        code: USAGE,
        name: "usage",
        meaning: "the command line, an argument or a configuration is not valid; nothing was changed",
    },
    ExitCode {
        code: NOT_FOUND,
        name: "not found",
        meaning: "the named thing does not exist, or no longer does",
    },
    ExitCode {
        code: CONFLICT,
        name: "conflict",
        meaning: "the name is taken, or the thing's state does not allow the operation",
    },
    ExitCode { code: TIMEOUT, name: "timeout", meaning: "the deadline passed first" },
    ExitCode {
        code: UNAVAILABLE,
        name: "unavailable",
        meaning: "no host could be reached or started, another process owns the home, the versions do not \
                  match, or nothing running offers the type or service",
    },
    ExitCode {
        code: PERMISSION,
        name: "permission",
        meaning: "the operating system refused for lack of rights",
    },
    ExitCode {
        code: STORE,
        name: "store",
        meaning: "the database is corrupt or was written by a newer version, or the disk is full",
    },
    ExitCode { code: CANCELLED, name: "cancelled", meaning: "interrupted by a signal, or cancelled" },
];

/// Success.
pub const OK: i32 = 0;
/// The operation failed.
pub const FAILED: i32 = 1;
/// The command line, an argument or a configuration is not valid.
pub const USAGE: i32 = 2;
/// The named thing does not exist.
pub const NOT_FOUND: i32 = 3;
/// Taken, or in a state that does not allow it.
pub const CONFLICT: i32 = 4;
/// The deadline passed.
pub const TIMEOUT: i32 = 5;
/// No host, another owner, another version.
pub const UNAVAILABLE: i32 = 6;
/// Lack of rights.
pub const PERMISSION: i32 = 7;
/// The database or the disk.
pub const STORE: i32 = 8;
/// Ended by a signal.
pub const CANCELLED: i32 = 130;

/// The exit code of a failure of this kind.
#[must_use]
pub fn exit_code(kind: ErrorKind) -> i32 {
    use ErrorKind::*;
    match kind {
        InvalidArgument | InvalidConfig => USAGE,
        NotFound | AgentGone => NOT_FOUND,
        AlreadyExists | InvalidState => CONFLICT,
        Timeout => TIMEOUT,
        HostUnavailable | HomeBusy | VersionMismatch | TypeUnavailable | ServiceUnavailable => UNAVAILABLE,
        PermissionDenied => PERMISSION,
        StoreCorrupt | StoreNewer | DiskFull => STORE,
        Cancelled => CANCELLED,
        WouldDeadlock | QueueFull | NotSupported | Protocol | Io | HandlerFailed | Panic | Forked
        | Internal => FAILED,
    }
}
