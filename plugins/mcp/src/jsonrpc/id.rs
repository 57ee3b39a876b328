//! Request ids and progress tokens, comparable.

use std::fmt;

/// An id: a string, a number or null, as JSON text in one canonical form, so that `"\u0061"` equals `"a"`
/// and `1.0` equals `1`, as they do for the peer that has parsed and rewritten them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(Box<str>);

impl Id {
    /// The id that this JSON text is; `None` when it is no string, number or null.
    pub(crate) fn from_json(raw: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(raw).ok()?.trim();
        let canonical = match text.as_bytes().first()? {
            b'"' if !text.contains('\\') && text.len() > 1 && text.ends_with('"') => text.into(),
            b'"' => serde_json::to_string(&serde_json::from_str::<String>(text).ok()?).ok()?.into(),
            b'n' if text == "null" => text.into(),
            b'-' | b'0'..=b'9' => number(text)?,
            _ => return None,
        };
        Some(Self(canonical))
    }

    /// The id that is this string.
    pub(crate) fn of_text(text: &str) -> Self {
        Self(serde_json::Value::from(text).to_string().into())
    }

    /// As JSON text.
    pub(crate) fn as_json(&self) -> &str {
        &self.0
    }
}

fn number(text: &str) -> Option<Box<str>> {
    let plain = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty();
    if text == "0" || (plain(text.strip_prefix('-').unwrap_or(text)) && !text.starts_with(['0', '-'])) {
        return Some(text.into());
    }
    let value: f64 = serde_json::from_str(text).ok()?;
    // Whole numbers that a double holds exactly are written without a point.
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Some((value as i64).to_string().into());
    }
    Some(serde_json::Number::from_f64(value)?.to_string().into())
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
