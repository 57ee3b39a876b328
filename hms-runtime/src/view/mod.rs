//! Structured results as text for people, drawn once for every front end.
//!
//! A [`View`] says how a command's result reads; [`render`] draws it for a place described by a
//! [`Style`]. On a terminal tables fit its width and states have colours; anywhere else columns are
//! aligned, complete and plain. Nothing is printed here, and no value can smuggle control sequences into
//! a terminal: they are escaped.

mod cell;
mod error;
mod redraw;
mod series;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod tree;

use hms_core::command::{Column, Format, View};
use jiff::tz::TimeZone;
use serde_json::Value;

pub use error::{error_json, render_error};
pub use redraw::Redraw;

use self::{
    cell::{Cell, Tint},
    table::Grid,
};

/// Where a view is drawn.
#[derive(Debug, Clone)]
pub struct Style {
    /// The name of the program, for what it tells the user to type (`{program}` in texts).
    pub program: String,
    /// Whether the place is a terminal: tables are cut to its width.
    pub terminal: bool,
    /// Whether to use colours.
    pub color: bool,
    /// Columns of the terminal; 0 for no limit.
    pub width: usize,
    /// Now, in milliseconds since the Unix epoch, for ages.
    pub now_ms: u64,
    /// The time zone of points in time.
    pub zone: TimeZone,
}

impl Style {
    /// For a file or a pipe: no colours, nothing cut. Times are in the system's zone.
    #[must_use]
    pub fn plain(program: &str, now_ms: u64) -> Self {
        Self {
            program: program.into(),
            terminal: false,
            color: false,
            width: 0,
            now_ms,
            zone: TimeZone::system(),
        }
    }

    /// For a terminal of this many columns (0: not known).
    #[must_use]
    pub fn terminal(program: &str, now_ms: u64, width: usize, color: bool) -> Self {
        Self { terminal: true, color, width, ..Self::plain(program, now_ms) }
    }

    fn paint(&self, tint: Tint, text: &str) -> String {
        if self.color { tint.paint(text) } else { text.to_owned() }
    }

    /// A text of a command's author, made safe and with the program's name in it.
    fn named(&self, text: &str) -> String {
        let safe: Vec<String> = text.lines().map(text::escape_but_tabs).collect();
        safe.join("\n").replace("{program}", &self.program)
    }
}

/// Draws `value` as `view` says, in lines that each end with a newline. Never fails: what does not fit
/// the view is shown as `-`.
#[must_use]
pub fn render(view: &View, value: &Value, style: &Style) -> String {
    match view {
        View::Table { rows, columns, empty } => table(rows, columns, empty, value, style),
        View::Record { fields, tables } => record(fields, tables, value, style),
        View::Tree { roots, children, columns } => tree::render(roots, children, columns, value, style),
        View::Series { rows, name, points } => series::render(rows, name, points, value, style),
        View::Text { pointer, state } => {
            let tint = value.pointer(state).and_then(Value::as_str).map_or(Tint::Plain, Tint::of_state);
            text_at(pointer, value, tint, style)
        }
        View::Message { template } => message(template, value, style),
    }
}

fn table(rows: &str, columns: &[Column], empty: &str, value: &Value, style: &Style) -> String {
    let rows = array_at(value, rows);
    if rows.is_empty() {
        return line(&style.paint(Tint::Dim, &style.named(empty)));
    }
    let mut grid = Grid::new(columns.iter().map(|c| c.format).collect());
    grid.header(columns.iter().map(|c| c.title.as_str()));
    for row in rows {
        grid.row(columns.iter().map(|c| Cell::at(row, c, style)).collect());
    }
    grid.draw(style)
}

fn record(fields: &[Column], tables: &[(String, View)], value: &Value, style: &Style) -> String {
    let widest = fields.iter().map(|f| text::width(&text::escape(&f.title))).max().unwrap_or(0);
    let mut out = String::new();
    for field in fields {
        let title = text::escape(&field.title);
        let gap = " ".repeat(widest - text::width(&title) + 2);
        let cell = Cell::at(value, field, style);
        out.push_str(&line(&format!("{}{gap}{}", style.paint(Tint::Dim, &title), cell.painted(style))));
    }
    for (title, view) in tables {
        let inner = render(view, value, style);
        if inner.trim().is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&line(&style.paint(Tint::Bold, &text::escape(title))));
        out.push_str(&inner);
    }
    out
}

fn text_at(pointer: &str, value: &Value, tint: Tint, style: &Style) -> String {
    let lines = |text: &str| lines(text, tint, style);
    match value.pointer(pointer) {
        None => "-\n".into(),
        Some(Value::Null) => String::new(),
        Some(Value::String(text)) => lines(text),
        Some(Value::Array(all)) if !all.is_empty() && all.iter().all(Value::is_string) => {
            all.iter().filter_map(Value::as_str).map(lines).collect()
        }
        Some(other) => lines(&serde_json::to_string_pretty(other).unwrap_or_else(|_| other.to_string())),
    }
}

/// Fills the places of a template: `{/pointer}`, or `{/pointer|age}` with a format's name.
fn message(template: &str, value: &Value, style: &Style) -> String {
    let template = style.named(template);
    let (mut out, mut rest) = (String::new(), template.as_str());
    while let Some((before, after)) = rest.split_once("{/") {
        out.push_str(before);
        let Some((place, tail)) = after.split_once('}') else {
            out.push_str("{/");
            rest = after;
            continue;
        };
        let (pointer, format) = match place.rsplit_once('|') {
            Some((pointer, name)) => (pointer, format_named(name)),
            None => (place, Format::Text),
        };
        let column = Column { title: String::new(), pointer: format!("/{pointer}"), format };
        out.push_str(&Cell::at(value, &column, style).painted(style));
        rest = tail;
    }
    out.push_str(rest);
    line(&out)
}

fn format_named(name: &str) -> Format {
    serde_json::from_value(Value::from(name)).unwrap_or_default()
}

/// The elements at `pointer`; one object there is one element.
fn array_at<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    match value.pointer(pointer) {
        Some(Value::Array(all)) => all,
        Some(one @ Value::Object(_)) => std::slice::from_ref(one),
        _ => &[],
    }
}

/// A finished line; nothing stays nothing.
fn line(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{text}\n") }
}

/// Text of several lines, each made safe.
fn lines(text: &str, tint: Tint, style: &Style) -> String {
    text.lines().map(|line| format!("{}\n", style.paint(tint, &text::escape_but_tabs(line)))).collect()
}
