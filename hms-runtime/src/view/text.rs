//! Text that is safe on a terminal, and how wide it is there.

use unicode_width::UnicodeWidthStr;

/// Columns that `text` takes, which is not its number of bytes or characters.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// Makes control characters visible, so that a value cannot move the cursor, recolour or retitle a
/// terminal, or reverse the reading direction of what follows.
pub(super) fn escape(text: &str) -> String {
    escape_with(text, false)
}

/// The same, leaving tabs: for text that is shown as it is.
pub(super) fn escape_but_tabs(text: &str) -> String {
    escape_with(text, true)
}

fn escape_with(text: &str, tabs: bool) -> String {
    if !text.contains(is_unsafe) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\t' if tabs => out.push(c),
            c if is_unsafe(c) => match c {
                '\n' | '\r' | '\t' => out.extend(c.escape_default()),
                c if (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
                c => out.extend(c.escape_unicode()),
            },
            c => out.push(c),
        }
    }
    out
}

/// Control characters, line separators, and the marks that reorder text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `text` without the escape sequences that this module's users write (`ESC [ … letter`).
pub(super) fn without_ansi(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("\x1b[") {
        out.push_str(before);
        rest = after.find(|c: char| c.is_ascii_alphabetic()).map_or("", |end| &after[end + 1..]);
    }
    out.push_str(rest);
    out
}
