//! The bounded queue of subscriptions and mailboxes, with its refusals in the kernel's words.
//!
//! The queue itself is the crate `hms-queue`, where loom can prove its wake-ups without tokio.

use hms_queue::{Closed, PushError};
pub use hms_queue::{Overflow, Queue, RecvError};

use crate::{Error, ErrorKind};

impl<T> From<PushError<T>> for Error {
    fn from(refusal: PushError<T>) -> Self {
        match refusal {
            PushError::Full(_) => Error::new(ErrorKind::QueueFull, "the queue is full")
                .hint("try again when its consumer has caught up, or give it a larger capacity"),
            PushError::Closed(_) => Closed.into(),
        }
    }
}

impl From<Closed> for Error {
    fn from(_: Closed) -> Self {
        Error::new(ErrorKind::InvalidState, "the queue is closed")
    }
}

impl From<RecvError> for Error {
    fn from(reason: RecvError) -> Self {
        match reason {
            RecvError::Timeout => Error::new(ErrorKind::Timeout, "nothing arrived in time"),
            RecvError::Closed => Closed.into(),
        }
    }
}
