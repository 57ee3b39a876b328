//! The frame of every export: the last message is cleared, a forked child is turned away, a panic is
//! contained, an error becomes a status and a message.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use hms_core::Error;

use crate::{last_error, status, system};
use status::{HMS_ERR_FORKED, HMS_ERR_INVALID_HANDLE, HMS_ERR_PANIC, HMS_OK, hms_status_t};

/// Why a call fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The kernel's reason.
    Error(Error),
    /// The handle is not one, and why.
    Handle(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Runs the body of the export `call` and says how it went.
pub(crate) fn guard(call: &'static str, body: impl FnOnce() -> Result<(), Failure>) -> hms_status_t {
    last_error::clear();
    if is_forked() {
        last_error::set(
            "this process is the child of a fork, and the system belongs to its parent (open one here only after an exec)",
        );
        return HMS_ERR_FORKED;
    }
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => HMS_OK,
        Ok(Err(Failure::Error(error))) => {
            last_error::set(&error.to_string());
            status::of(error.kind)
        }
        Ok(Err(Failure::Handle(problem))) => {
            last_error::set(&format!("{call}: {problem}"));
            HMS_ERR_INVALID_HANDLE
        }
        Err(payload) => {
            let message = format!("{call} panicked: {}", text_of(&*payload));
            last_error::set(&message);
            // What announces it must not be the next panic.
            let _ = catch_unwind(AssertUnwindSafe(|| system::announce_panic(call, &message)));
            // A payload's own drop may panic too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            HMS_ERR_PANIC
        }
    }
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Set in the child of a fork, where the runtime's threads do not exist.
static FORKED: AtomicBool = AtomicBool::new(false);

/// Whether this is the child of a fork, where nothing of the library runs.
pub(crate) fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// From here on a fork's child is marked. Called before the first handle exists: until then a child is
/// as good as its parent.
///
/// Errors: the operating system's, when there is no memory for it.
pub(crate) fn watch_forks() -> Result<(), Error> {
    static WATCHING: OnceLock<i32> = OnceLock::new();
    match *WATCHING.get_or_init(register) {
        0 => Ok(()),
        code => Err(Error::io("watching for forks", &std::io::Error::from_raw_os_error(code))),
    }
}

#[cfg(unix)]
fn register() -> i32 {
    extern "C" fn in_child() {
        FORKED.store(true, Ordering::Relaxed);
        // The locks are the parent's: a child that lives on must not hold its homes after it.
        for fd in hms_core::os::fork::descriptors() {
            // SAFETY: a descriptor of ours in the child, where nothing runs that could use it; its owner's
            // drop never runs here, as every call is turned away.
            unsafe { libc::close(fd) };
        }
    }
    // SAFETY: the handler only reads and stores atomics and calls close, which is safe in the child of a
    // threaded process, and it stays mapped: the library is linked with nodelete.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) }
}

#[cfg(not(unix))]
fn register() -> i32 {
    0
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use hms_core::ErrorKind;

    use super::*;

    fn message() -> String {
        // SAFETY: NUL-terminated, and this thread makes no call meanwhile.
        unsafe { CStr::from_ptr(last_error::message()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn an_error_is_a_status_and_a_message_until_the_next_call() {
        let failed = guard("hms_test", || Err(Error::not_found("agent", "web").hint("look").into()));
        assert_eq!((failed, message().as_str()), (status::HMS_ERR_NOT_FOUND, "no agent `web` (look)"));
        assert_eq!(guard("hms_test", || Ok(())), HMS_OK);
        assert_eq!(message(), "");
    }

    #[test]
    fn a_panic_is_contained() {
        let status = guard("hms_test", || panic!("out of {}", "luck"));
        assert_eq!((status, message().as_str()), (HMS_ERR_PANIC, "hms_test panicked: out of luck"));
    }

    #[test]
    fn a_payload_that_panics_when_it_is_dropped_is_contained_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        assert_eq!(guard("hms_test", || std::panic::panic_any(Bomb)), HMS_ERR_PANIC);
    }

    #[test]
    fn a_message_belongs_to_its_thread() {
        let full = || Error::new(ErrorKind::QueueFull, "a\0b");
        assert_eq!(guard("hms_test", || Err(full().into())), status::HMS_ERR_QUEUE_FULL);
        assert_eq!(std::thread::spawn(message).join().unwrap(), "");
        assert_eq!(message(), "a\u{fffd}b");
    }
}
