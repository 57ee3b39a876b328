//! Errors as people and programs read them.

use hms_core::Error;
use serde_json::{Value, json};

use super::{Style, cell::Tint, table::alarm, text::escape_but_tabs};

/// `error: …` and, where there is one, `  hint: …`. `{program}` in a hint becomes the program's name.
#[must_use]
pub fn render_error(error: &Error, style: &Style) -> String {
    let label = |name: &str, painted: String| if style.color { painted } else { name.to_owned() };
    let mut out = format!("{}: {}\n", label("error", alarm("error")), body(&error.message, 7));
    if let Some(hint) = &error.hint {
        let hint = style.named(hint);
        out.push_str(&format!("  {}: {}\n", label("hint", Tint::Bold.paint("hint")), body(&hint, 8)));
    }
    out
}

/// The same for programs: `{"error": {"kind", "message", "hint"}}`, the hint null where there is none.
#[must_use]
pub fn error_json(error: &Error, program: &str) -> Value {
    let hint = error.hint.as_ref().map(|hint| hint.replace("{program}", program));
    json!({ "error": { "kind": error.kind, "message": error.message, "hint": hint } })
}

/// Text whose further lines (a place in a file) stand under the first.
fn body(text: &str, indent: usize) -> String {
    let lines: Vec<String> = text.lines().map(escape_but_tabs).collect();
    lines.join(&format!("\n{}", " ".repeat(indent)))
}
