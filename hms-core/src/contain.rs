//! Panics of guests are contained: a panic in a handler is that handler's failure, never the system's.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use crate::{Error, ErrorKind, Result};

/// Runs `future`; a panic in it becomes an error of kind `panic`.
///
/// What the future shares with others may be left half changed by a panic; callers drop or restart what
/// belonged to it.
pub async fn contained<F: Future>(future: F) -> Result<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(payload) => Poll::Ready(Err(panicked(&*payload))),
    })
    .await
}

/// Runs `f`; a panic in it becomes an error of kind `panic`.
pub fn contained_sync<T>(f: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| panicked(&*payload))
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".into());
    Error::new(ErrorKind::Panic, format!("panicked: {text}"))
}
