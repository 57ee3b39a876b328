//! What waits to be written to one side.
//!
//! Whoever has bytes for a side puts them here under the lock of the conversation, which keeps their order, and
//! writes them outside of it. One thread at a time writes; what others put meanwhile it takes with it.

/// While this much waits, no more is taken from the other side.
pub(super) const FULL: usize = 1 << 20;
/// A buffer that has grown beyond this is given back.
const KEPT: usize = 128 << 10;

/// The queue of one side.
pub(super) struct Pipe<W> {
    waiting: Vec<u8>,
    spare: Vec<u8>,
    writing: bool,
    /// Where it goes; `None`: nowhere any more (bytes are dropped).
    to: Option<W>,
    /// Close it when all is written.
    closing: bool,
    /// How many bytes were written.
    written: u64,
    /// Which one it is, so that a writer that was held up does not touch its successor.
    number: u64,
}

impl<W: Clone> Pipe<W> {
    pub(super) fn new(number: u64, to: Option<W>) -> Self {
        Self {
            waiting: Vec::new(),
            spare: Vec::new(),
            writing: false,
            to,
            closing: false,
            written: 0,
            number,
        }
    }

    /// Puts bytes into the queue.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        if self.to.is_some() {
            self.waiting.extend_from_slice(bytes);
        }
    }

    /// Takes what there is to write; `None` when there is nothing, or somebody else writes.
    pub(super) fn take(&mut self) -> Option<(u64, W, Vec<u8>)> {
        if self.writing || self.waiting.is_empty() {
            return None;
        }
        let to = self.to.clone()?;
        self.writing = true;
        let spare = std::mem::take(&mut self.spare);
        Some((self.number, to, std::mem::replace(&mut self.waiting, spare)))
    }

    /// So much of what was taken is written. When that is not all of it, the rest cannot be, and nothing will.
    pub(super) fn done(&mut self, number: u64, mut buffer: Vec<u8>, written: usize) {
        if number != self.number {
            return;
        }
        self.writing = false;
        self.written += written as u64;
        if written < buffer.len() {
            self.to = None;
            self.waiting = Vec::new();
        }
        if self.closing && self.waiting.is_empty() {
            self.to = None;
        }
        buffer.clear();
        buffer.shrink_to(KEPT);
        self.spare = buffer;
    }

    /// No more bytes will come: closes it as soon as all are written.
    pub(super) fn close(&mut self) {
        self.closing = true;
        if self.waiting.is_empty() && !self.writing {
            self.to = None;
        }
    }

    /// Whether nobody is writing just now.
    pub(super) fn is_quiet(&self) -> bool {
        !self.writing
    }

    /// Whether bytes wait that nobody is writing.
    pub(super) fn is_idle_with_bytes(&self) -> bool {
        !self.writing && !self.waiting.is_empty() && self.to.is_some()
    }

    /// Whether all is written.
    pub(super) fn is_empty(&self) -> bool {
        !self.writing && (self.waiting.is_empty() || self.to.is_none())
    }

    /// Whether its reader is behind.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= FULL
    }

    /// How many bytes were written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether it can be written to.
    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        self.to.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writes_and_the_others_leave_it_their_bytes() {
        let mut pipe = Pipe::new(1, Some(()));
        pipe.put(b"a");
        let (number, (), first) = pipe.take().expect("bytes");
        pipe.put(b"b");
        assert!(pipe.take().is_none(), "somebody writes");
        pipe.done(number, first, 1);
        assert_eq!(pipe.written(), 1);
        assert!(pipe.is_idle_with_bytes());
        assert_eq!(pipe.take().expect("the rest").2, b"b");
    }

    #[test]
    fn a_late_writer_leaves_the_successor_alone() {
        let mut pipe = Pipe::new(1, Some(()));
        pipe.put(b"a");
        let (number, (), bytes) = pipe.take().expect("bytes");
        pipe = Pipe::new(2, Some(()));
        pipe.put(b"b");
        pipe.done(number, bytes, 0);
        assert!(pipe.is_open() && pipe.is_idle_with_bytes());
    }

    #[test]
    fn it_closes_when_all_is_written() {
        let mut pipe = Pipe::new(1, Some(()));
        pipe.put(b"a");
        let (number, (), bytes) = pipe.take().expect("bytes");
        pipe.close();
        assert!(pipe.is_open());
        pipe.done(number, bytes, 1);
        assert!(!pipe.is_open() && pipe.is_empty());
    }
}
