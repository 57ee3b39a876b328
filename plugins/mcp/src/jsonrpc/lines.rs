//! A stream cut into messages; a long one comes in pieces.

use memchr::memchr;

use super::{Scan, scan::Scanner};

/// A line that is longer is passed on while it is still being read.
const LONG: usize = 1 << 20;

/// What comes of a stream.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// A whole line with its end.
    Line(&'a [u8], Scan),
    /// A part of a line that is long. The first one begins it.
    Part(&'a [u8]),
    /// The last part of such a line, with its end, and what it was.
    Last(&'a [u8], Scan),
}

/// Cuts one stream.
pub(crate) struct Lines {
    /// A line that has begun.
    pub(super) held: Vec<u8>,
    /// How much of it has been searched for its end.
    parts: bool,
    scanner: Scanner,
    long: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { held: Vec::new(), parts: false, scanner: Scanner::default(), long: LONG }
    }
}

impl Lines {
    /// From now on lines up to this length come in one piece; 0 for the usual.
    pub(crate) fn whole_up_to(&mut self, length: usize) {
        self.long = length.max(LONG);
    }

    /// Takes bytes and shows what they complete.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut show: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            let end = memchr(b'\n', bytes).map(|at| at + 1);
            let (now, later) = bytes.split_at(end.unwrap_or(bytes.len()));
            bytes = later;
            match (end.is_some(), self.parts) {
                (true, false) if self.held.is_empty() => {
                    self.scanner.feed(now);
                    show(Piece::Line(now, self.scanner.finish()));
                }
                (true, false) => {
                    self.held.extend_from_slice(now);
                    self.scanner.feed(&self.held);
                    show(Piece::Line(&self.held, self.scanner.finish()));
                    self.forget();
                }
                (true, true) => {
                    self.scanner.feed(now);
                    self.parts = false;
                    show(Piece::Last(now, self.scanner.finish()));
                }
                (false, true) => {
                    self.scanner.feed(now);
                    show(Piece::Part(now));
                }
                (false, false) => {
                    self.held.extend_from_slice(now);
                    if self.held.len() > self.long {
                        self.scanner.feed(&self.held);
                        self.parts = true;
                        show(Piece::Part(&self.held));
                        self.forget();
                    }
                }
            }
        }
    }

    /// Whether the stream is in the middle of a line.
    #[cfg(test)]
    pub(crate) fn is_within(&self) -> bool {
        self.parts || !self.held.is_empty()
    }

    fn forget(&mut self) {
        self.held.clear();
        // One long line must not cost its memory for good.
        self.held.shrink_to(64 << 10);
    }
}
