//! Waiting, on a thread of the application's, for what the runtime does.

use std::{future::Future, time::Duration};

use hms_core::{Error, ErrorKind, Result};
use hms_runtime::runtime::Runtime;

/// Blocks until `future` is done. An error on a thread of the runtime, which would wait for itself.
pub(crate) fn block_on<F: Future>(runtime: &Runtime, future: F) -> Result<F::Output> {
    if tokio::runtime::Handle::try_current().is_ok() {
        return Err(Error::new(ErrorKind::WouldDeadlock, "a blocking call on a thread of the system itself")
            .hint("call it from a thread of your own"));
    }
    Ok(runtime.block_on(future))
}

/// Blocks until `future` is done, at most `timeout_ms`: none waits at all when it is 0, and for ever
/// when it is negative. `timeout` when the time is up; `what` names what did not come.
pub(crate) fn block_on_for<F: Future>(
    runtime: &Runtime,
    timeout_ms: i64,
    what: &str,
    future: F,
) -> Result<F::Output> {
    let Ok(ms) = u64::try_from(timeout_ms) else { return block_on(runtime, future) };
    // The timer belongs to the runtime, so the timeout has to be made within it.
    let limited = async { tokio::time::timeout(Duration::from_millis(ms), future).await };
    block_on(runtime, limited)?.map_err(|_| Error::new(ErrorKind::Timeout, format!("{what} within {ms} ms")))
}
