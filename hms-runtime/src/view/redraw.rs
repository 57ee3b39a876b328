//! Showing a changing text in one place.

use super::text::{width, without_ansi};

const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";

/// Redraws successive frames in place: what to write for each, so that a terminal shows it over the last
/// one without a flicker. Elsewhere frames pass through as they are, one after another.
#[derive(Debug, Clone)]
pub struct Redraw {
    terminal: bool,
    /// Lines of the terminal that the last frame took.
    shown: usize,
}

impl Redraw {
    /// For a terminal, or for anything else.
    #[must_use]
    pub fn new(terminal: bool) -> Self {
        Self { terminal, shown: 0 }
    }

    /// What to write to show `frame` on a terminal of `columns` × `rows` (0: not known). A frame that is
    /// too tall loses its last lines, since what has scrolled away cannot be drawn over.
    pub fn frame(&mut self, frame: &str, columns: usize, rows: usize) -> String {
        if !self.terminal {
            return frame.to_owned();
        }
        // Synchronised update: a terminal that knows it shows the frame at once, others ignore it.
        let mut out = String::from(BEGIN);
        if self.shown > 0 {
            out.push_str(&format!("\r\x1b[{}A", self.shown));
        }
        let mut taken = 0;
        for line in frame.lines() {
            let height = height(line, columns);
            // The cursor rests below the frame, which takes a line too.
            if rows > 0 && taken + height + 1 > rows {
                break;
            }
            taken += height;
            // Each line clears what it leaves, after the text: clearing first would flicker.
            out.push_str(line);
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        out.push_str(END);
        self.shown = taken;
        out
    }

    /// Leaves the last frame where it is: the next one goes below it.
    pub fn keep(&mut self) {
        self.shown = 0;
    }
}

/// Lines of the terminal that a line takes.
fn height(line: &str, columns: usize) -> usize {
    if columns == 0 { 1 } else { width(&without_ansi(line)).div_ceil(columns).max(1) }
}
