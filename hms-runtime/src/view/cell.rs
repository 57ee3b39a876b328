//! One value as a few words: formats, units, and the colours of states.

use anstyle::AnsiColor;
use hms_core::command::{Column, Format};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Style,
    text::{escape, width},
};

/// What a text looks like where there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tint {
    /// As it is.
    Plain,
    /// As it should be.
    Good,
    /// On its way, or not quite well.
    Fair,
    /// Wrong.
    Bad,
    /// Not in play, or beside the point.
    Dim,
    /// A heading.
    Bold,
}

impl Tint {
    pub(super) fn paint(self, text: &str) -> String {
        let style = match self {
            Self::Plain => return text.to_owned(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Fair => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Dim => anstyle::Style::new().dimmed(),
            Self::Bold => anstyle::Style::new().bold(),
        };
        if text.is_empty() { String::new() } else { format!("{style}{text}{style:#}") }
    }

    /// The meaning of a state's first word.
    pub(super) fn of_state(text: &str) -> Self {
        let word =
            text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).next().unwrap_or_default();
        match word.to_lowercase().as_str() {
            "healthy" | "running" | "verified" | "resolved" | "ok" | "ready" | "passed" | "succeeded"
            | "active" | "up" | "done" | "applied" | "created" => Self::Good,
            "degraded" | "pending" | "waiting" | "starting" | "restarting" | "stopping" | "verifying"
            | "healing" | "open" | "warning" | "retrying" | "throttled" | "changed" | "cancelled"
            | "stderr" => Self::Fair,
            "critical" | "failed" | "firing" | "quarantined" | "escalated" | "error" | "unhealthy"
            | "crashed" | "exhausted" | "down" | "lost" => Self::Bad,
            "stopped" | "unknown" | "disabled" | "inactive" | "skipped" | "none" | "removed"
            | "unchanged" | "suppressed" | "-" | "" => Self::Dim,
            _ => Self::Plain,
        }
    }
}

/// A value as it is shown: safe text on one line, and its tint.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tint: Tint,
}

impl Cell {
    /// The cell of `column` in `row`.
    pub(super) fn at(row: &Value, column: &Column, style: &Style) -> Self {
        let Some(value) = row.pointer(&column.pointer).filter(|v| !v.is_null()) else {
            return Self::missing();
        };
        let number = value.as_f64();
        let text = match (column.format, number) {
            (Format::Time, Some(ms)) => time(ms, style),
            (Format::Age, Some(ms)) => age(ms, style.now_ms),
            (Format::Millis, Some(ms)) => millis(ms),
            (Format::Bytes, Some(n)) => bytes(n),
            (Format::Percent, Some(n)) => format!("{}%", trimmed(n * 100.0, 1)),
            (Format::Number, Some(n)) if value.is_f64() => trimmed(n, 3),
            _ => plain(value),
        };
        if text.is_empty() {
            return Self::missing();
        }
        let tint = if column.format == Format::State { Tint::of_state(&text) } else { Tint::Plain };
        Self { text, tint }
    }

    /// Text that is safe already.
    pub(super) fn of(text: String) -> Self {
        Self { text, tint: Tint::Plain }
    }

    fn missing() -> Self {
        Self { text: "-".into(), tint: Tint::Dim }
    }

    pub(super) fn width(&self) -> usize {
        width(&self.text)
    }

    pub(super) fn painted(&self, style: &Style) -> String {
        style.paint(self.tint, &self.text)
    }
}

/// A value on one line: lists by commas, objects as `key=value`, what is deeper as JSON.
fn plain(value: &Value) -> String {
    let scalar = |v: &Value| match v {
        Value::String(s) => escape(s),
        other => escape(&other.to_string()),
    };
    match value {
        Value::Array(all) => all.iter().map(scalar).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            map.iter().map(|(k, v)| format!("{}={}", escape(k), scalar(v))).collect::<Vec<_>>().join(", ")
        }
        other => scalar(other),
    }
}

/// Whether numbers of this format line up at their right edge.
pub(super) fn is_right_aligned(format: Format) -> bool {
    matches!(format, Format::Number | Format::Bytes | Format::Percent | Format::Millis)
}

fn time(ms: f64, style: &Style) -> String {
    match Timestamp::from_millisecond(ms as i64) {
        Ok(at) => at.to_zoned(style.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => trimmed(ms, 0),
    }
}

/// How long ago, in the largest unit that fits.
fn age(ms: f64, now_ms: u64) -> String {
    let seconds = (now_ms as f64 - ms) / 1000.0;
    let size = seconds.abs();
    if size < 1.0 {
        return "now".into();
    }
    let (per, unit) = match size {
        s if s < 60.0 => (1.0, "s"),
        s if s < 3_600.0 => (60.0, "m"),
        s if s < 86_400.0 => (3_600.0, "h"),
        _ => (86_400.0, "d"),
    };
    let count = (size / per).floor();
    if seconds > 0.0 { format!("{count}{unit} ago") } else { format!("in {count}{unit}") }
}

/// A duration in its two largest units.
fn millis(ms: f64) -> String {
    if ms < 0.0 {
        return format!("-{}", millis(-ms));
    }
    if ms < 1_000.0 {
        // What rounds up to a second is one.
        let shown = trimmed(ms, if ms < 10.0 { 2 } else { 0 });
        return if shown == "1000" { "1s".into() } else { format!("{shown}ms") };
    }
    if ms < 59_950.0 {
        return format!("{}s", trimmed(ms / 1_000.0, 1));
    }
    let seconds = (ms / 1_000.0).round() as u64;
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let (mut rest, mut parts) = (seconds, Vec::new());
    for (size, unit) in units {
        if rest >= size && parts.len() < 2 {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.join(" ")
}

fn bytes(n: f64) -> String {
    let (mut size, mut unit) = (n, 0);
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // The rounded figure decides, so that no size reads 1024.0 of a unit.
    while size.abs() >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{} B", trimmed(size, 0)) } else { format!("{size:.1} {}", UNITS[unit]) }
}

/// At most `digits` after the point, without zeros at the end.
pub(super) fn trimmed(n: f64, digits: usize) -> String {
    let text = format!("{n:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".into() } else { text.to_owned() }
}
