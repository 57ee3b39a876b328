//! The seam between a pool and a supervised server: lines go in, lines come out, and at the end it is said why.
//!
//! What is behind it restarts the server, sends again what may be sent again and answers for what is lost. The
//! pool sees one conversation that goes on, until it is told that it is over.

use hms_core::Result;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// A line for the server, and the place it takes among those that wait to be written.
pub(super) struct Line {
    /// The message, without a line break.
    pub(super) text: String,
    /// Given back once it is written.
    pub(super) _place: Option<OwnedSemaphorePermit>,
}

/// What comes from a server.
#[derive(Debug)]
pub(super) enum Said {
    /// A message, without its line break.
    Line(String),
    /// The conversation is over, and why.
    Over(String),
}

/// The way to a server. Dropping it ends the conversation: the server gets what was said, then its whole tree goes.
pub(super) struct Way {
    /// Lines for it. Bounded by the places that its users acquire first.
    pub(super) lines: mpsc::UnboundedSender<Line>,
    /// Tells that the way is dropped also when nobody takes lines any more, because the server does not.
    pub(super) _held: oneshot::Sender<()>,
}

/// A conversation with a server.
pub(super) struct Link {
    /// Towards the server.
    pub(super) to: Way,
    /// From the server. Closed once the server is gone.
    pub(super) from: mpsc::Receiver<Said>,
}

/// Begins conversations with one configured server.
pub(super) trait Launch: Send + Sync {
    /// Starts the server. Returns at once; a program that cannot be started is reported by the link or by the
    /// error, whichever is known first.
    ///
    /// # Errors
    /// When it is known at once that it cannot be started.
    fn launch(&self) -> Result<Link>;
}
