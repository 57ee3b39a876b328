//! Statuses: what every call returns, and the one mapping from error kinds to them.

use std::ffi::{CStr, c_char};

use hms_core::ErrorKind;

use crate::last_error;

/// What a call returns: HMS_OK, or one of the negative HMS_ERR_... values, which are fixed for ever.
pub type hms_status_t = i32;

/// The call succeeded.
pub const HMS_OK: hms_status_t = 0;
/// An argument is missing, malformed or out of range; nothing was changed.
pub const HMS_ERR_INVALID_ARGUMENT: hms_status_t = -1;
/// A handle is stale, forged, destroyed, or of another kind.
pub const HMS_ERR_INVALID_HANDLE: hms_status_t = -2;
/// A configuration does not fit its schema.
pub const HMS_ERR_INVALID_CONFIG: hms_status_t = -3;
/// The named thing does not exist.
pub const HMS_ERR_NOT_FOUND: hms_status_t = -4;
/// The name or id is taken.
pub const HMS_ERR_ALREADY_EXISTS: hms_status_t = -5;
/// The thing exists, but its state does not allow the operation.
pub const HMS_ERR_INVALID_STATE: hms_status_t = -6;
/// The time was up first.
pub const HMS_ERR_TIMEOUT: hms_status_t = -7;
/// It was cancelled, or what it waited on has ended.
pub const HMS_ERR_CANCELLED: hms_status_t = -8;
/// Waiting here would wait for the caller itself.
pub const HMS_ERR_WOULD_DEADLOCK: hms_status_t = -9;
/// A bounded queue is full and its policy is to refuse.
pub const HMS_ERR_QUEUE_FULL: hms_status_t = -10;
/// No running process offers the agent's type.
pub const HMS_ERR_TYPE_UNAVAILABLE: hms_status_t = -11;
/// The agent that was meant has been destroyed.
pub const HMS_ERR_AGENT_GONE: hms_status_t = -12;
/// No service answers to that id and version.
pub const HMS_ERR_SERVICE_UNAVAILABLE: hms_status_t = -13;
/// Two parts speak different versions.
pub const HMS_ERR_VERSION_MISMATCH: hms_status_t = -14;
/// The operating system refused for lack of rights.
pub const HMS_ERR_PERMISSION_DENIED: hms_status_t = -15;
/// This build or platform cannot do it.
pub const HMS_ERR_NOT_SUPPORTED: hms_status_t = -16;
/// There is no host and none could be started, or it went away.
pub const HMS_ERR_HOST_UNAVAILABLE: hms_status_t = -17;
/// Another process owns the home.
pub const HMS_ERR_HOME_BUSY: hms_status_t = -18;
/// The other side broke the protocol.
pub const HMS_ERR_PROTOCOL: hms_status_t = -19;
/// The database cannot be read.
pub const HMS_ERR_STORE_CORRUPT: hms_status_t = -20;
/// The database was written by a newer version.
pub const HMS_ERR_STORE_NEWER: hms_status_t = -21;
/// The disk is full.
pub const HMS_ERR_DISK_FULL: hms_status_t = -22;
/// Another error of the operating system.
pub const HMS_ERR_IO: hms_status_t = -23;
/// A handler (of an agent, a service or a command) reported a failure.
pub const HMS_ERR_HANDLER_FAILED: hms_status_t = -24;
/// A panic was contained; the process lives.
pub const HMS_ERR_PANIC: hms_status_t = -25;
/// The call comes from the child of a fork, where the library does nothing.
pub const HMS_ERR_FORKED: hms_status_t = -26;
/// A defect in HMS.
pub const HMS_ERR_INTERNAL: hms_status_t = -27;

/// The status of a failure of this kind. Exhaustive: a new kind needs a status of its own.
pub(crate) fn of(kind: ErrorKind) -> hms_status_t {
    use ErrorKind::*;
    match kind {
        InvalidArgument => HMS_ERR_INVALID_ARGUMENT,
        InvalidConfig => HMS_ERR_INVALID_CONFIG,
        NotFound => HMS_ERR_NOT_FOUND,
        AlreadyExists => HMS_ERR_ALREADY_EXISTS,
        InvalidState => HMS_ERR_INVALID_STATE,
        Timeout => HMS_ERR_TIMEOUT,
        Cancelled => HMS_ERR_CANCELLED,
        WouldDeadlock => HMS_ERR_WOULD_DEADLOCK,
        QueueFull => HMS_ERR_QUEUE_FULL,
        TypeUnavailable => HMS_ERR_TYPE_UNAVAILABLE,
        AgentGone => HMS_ERR_AGENT_GONE,
        ServiceUnavailable => HMS_ERR_SERVICE_UNAVAILABLE,
        VersionMismatch => HMS_ERR_VERSION_MISMATCH,
        PermissionDenied => HMS_ERR_PERMISSION_DENIED,
        NotSupported => HMS_ERR_NOT_SUPPORTED,
        HostUnavailable => HMS_ERR_HOST_UNAVAILABLE,
        HomeBusy => HMS_ERR_HOME_BUSY,
        Protocol => HMS_ERR_PROTOCOL,
        StoreCorrupt => HMS_ERR_STORE_CORRUPT,
        StoreNewer => HMS_ERR_STORE_NEWER,
        DiskFull => HMS_ERR_DISK_FULL,
        Io => HMS_ERR_IO,
        HandlerFailed => HMS_ERR_HANDLER_FAILED,
        Panic => HMS_ERR_PANIC,
        Forked => HMS_ERR_FORKED,
        Internal => HMS_ERR_INTERNAL,
    }
}

/// The kind of failure of a status; `None` of success, and of what is no failure of a handler's.
pub(crate) fn kind_of(status: hms_status_t) -> Option<ErrorKind> {
    use ErrorKind::*;
    let kinds = [
        InvalidArgument,
        InvalidConfig,
        NotFound,
        AlreadyExists,
        InvalidState,
        Timeout,
        Cancelled,
        WouldDeadlock,
        QueueFull,
        TypeUnavailable,
        AgentGone,
        ServiceUnavailable,
        VersionMismatch,
        PermissionDenied,
        NotSupported,
        HostUnavailable,
        HomeBusy,
        Protocol,
        StoreCorrupt,
        StoreNewer,
        DiskFull,
        Io,
        HandlerFailed,
        Panic,
        Forked,
        Internal,
    ];
    match status {
        HMS_ERR_INVALID_HANDLE => Some(HandlerFailed),
        status => kinds.into_iter().find(|kind| of(*kind) == status),
    }
}

fn name(status: hms_status_t) -> &'static CStr {
    match status {
        HMS_OK => c"HMS_OK",
        HMS_ERR_INVALID_ARGUMENT => c"HMS_ERR_INVALID_ARGUMENT",
        HMS_ERR_INVALID_HANDLE => c"HMS_ERR_INVALID_HANDLE",
        HMS_ERR_INVALID_CONFIG => c"HMS_ERR_INVALID_CONFIG",
        HMS_ERR_NOT_FOUND => c"HMS_ERR_NOT_FOUND",
        HMS_ERR_ALREADY_EXISTS => c"HMS_ERR_ALREADY_EXISTS",
        HMS_ERR_INVALID_STATE => c"HMS_ERR_INVALID_STATE",
        HMS_ERR_TIMEOUT => c"HMS_ERR_TIMEOUT",
        HMS_ERR_CANCELLED => c"HMS_ERR_CANCELLED",
        HMS_ERR_WOULD_DEADLOCK => c"HMS_ERR_WOULD_DEADLOCK",
        HMS_ERR_QUEUE_FULL => c"HMS_ERR_QUEUE_FULL",
        HMS_ERR_TYPE_UNAVAILABLE => c"HMS_ERR_TYPE_UNAVAILABLE",
        HMS_ERR_AGENT_GONE => c"HMS_ERR_AGENT_GONE",
        HMS_ERR_SERVICE_UNAVAILABLE => c"HMS_ERR_SERVICE_UNAVAILABLE",
        HMS_ERR_VERSION_MISMATCH => c"HMS_ERR_VERSION_MISMATCH",
        HMS_ERR_PERMISSION_DENIED => c"HMS_ERR_PERMISSION_DENIED",
        HMS_ERR_NOT_SUPPORTED => c"HMS_ERR_NOT_SUPPORTED",
        HMS_ERR_HOST_UNAVAILABLE => c"HMS_ERR_HOST_UNAVAILABLE",
        HMS_ERR_HOME_BUSY => c"HMS_ERR_HOME_BUSY",
        HMS_ERR_PROTOCOL => c"HMS_ERR_PROTOCOL",
        HMS_ERR_STORE_CORRUPT => c"HMS_ERR_STORE_CORRUPT",
        HMS_ERR_STORE_NEWER => c"HMS_ERR_STORE_NEWER",
        HMS_ERR_DISK_FULL => c"HMS_ERR_DISK_FULL",
        HMS_ERR_IO => c"HMS_ERR_IO",
        HMS_ERR_HANDLER_FAILED => c"HMS_ERR_HANDLER_FAILED",
        HMS_ERR_PANIC => c"HMS_ERR_PANIC",
        HMS_ERR_FORKED => c"HMS_ERR_FORKED",
        HMS_ERR_INTERNAL => c"HMS_ERR_INTERNAL",
        _ => c"unknown status",
    }
}

/// The name of a status, such as "HMS_ERR_NOT_FOUND"; "unknown status" of any other number.
///
/// Ownership: the text is static; never free it.
///
/// Threads: any, also in the child of a fork.
///
/// Errors: none.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hms_status_name(status: hms_status_t) -> *const c_char {
    name(status).as_ptr()
}

/// What went wrong in this thread's last call, for people: what, where, and what to do about it. Empty
/// when that call succeeded. Every call but hms_last_error_message, hms_status_name, hms_version,
/// hms_abi_version and hms_string_free starts by clearing it.
///
/// Ownership: the text belongs to the library and lasts until this thread's next call; never free it.
///
/// Threads: any; each sees its own message.
///
/// Errors: none. Never NULL.
///
/// Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hms_last_error_message() -> *const c_char {
    last_error::message()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_own_value_and_name() {
        let names: std::collections::BTreeSet<_> = (HMS_ERR_INTERNAL..=HMS_OK).map(name).collect();
        assert_eq!(names.len(), 28);
        assert!(!names.contains(c"unknown status"));
        assert_eq!(name(1), c"unknown status");
        assert_eq!(name(HMS_ERR_INTERNAL - 1), c"unknown status");
    }

    #[test]
    fn every_failure_has_its_kind() {
        for status in HMS_ERR_INTERNAL..HMS_OK {
            let kind = kind_of(status).unwrap();
            assert!(of(kind) == status || status == HMS_ERR_INVALID_HANDLE, "{status}");
        }
        assert_eq!((kind_of(HMS_OK), kind_of(1), kind_of(HMS_ERR_INTERNAL - 1)), (None, None, None));
    }

    #[test]
    fn the_values_are_those_that_were_published() {
        assert_eq!(of(ErrorKind::InvalidArgument), -1);
        assert_eq!(of(ErrorKind::NotFound), -4);
        assert_eq!(of(ErrorKind::Timeout), -7);
        assert_eq!(of(ErrorKind::HostUnavailable), -17);
        assert_eq!(of(ErrorKind::Internal), -27);
    }
}
