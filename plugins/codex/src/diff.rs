//! What a change would do to a file, as `diff -u` says it.

use similar::TextDiff;

/// Lines around a change.
const CONTEXT: usize = 3;

/// The unified diff of a file; empty when nothing changes.
pub(crate) fn unified(name: &str, old: &str, new: &str) -> String {
    if old == new {
        return String::new();
    }
    let diff = TextDiff::from_lines(old, new);
    diff.unified_diff().context_radius(CONTEXT).header(name, name).to_string()
}
