//! Waiting, on a thread of the application's, for what the runtime does.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use hms_core::{Error, ErrorKind, Result};
use hms_runtime::runtime::Runtime;

use crate::gate::{Role, role};

/// Blocks until `future` is done. An error where that would wait for the caller itself, or hold up others: on a
/// thread of the runtime, and in callbacks that are told of something.
pub(crate) fn block_on<F: Future>(runtime: &Runtime, future: F) -> Result<F::Output> {
    let refused = |what: &str| {
        Err(Error::new(ErrorKind::WouldDeadlock, format!("a blocking call {what}"))
            .hint("call it from a thread of your own"))
    };
    match role() {
        Some(Role::Told) => refused("in a callback that must not wait for the system"),
        Some(Role::Answers) => Ok(park_on(runtime, future)),
        None if tokio::runtime::Handle::try_current().is_ok() => refused("on a thread of the system itself"),
        None => Ok(runtime.block_on(future)),
    }
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

/// The same on a thread that the runtime gave to a handler, where its own `block_on` refuses.
fn park_on<F: Future>(runtime: &Runtime, future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let _context = runtime.handle().enter();
    // Unconstrained: the budget of the task that called the handler is not renewed while it runs.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
