//! Points over time as sparklines, with the figures that a picture of one line cannot show.

use hms_core::command::{Column, Format};
use serde_json::Value;

use super::{
    Style, array_at,
    cell::{Cell, Tint, trimmed},
    line,
    table::Grid,
};

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Columns that the name and figures take beside a sparkline, about.
const BESIDE: usize = 50;

/// The longest sparkline, and the one where the width is not known.
const LONGEST: usize = 60;

pub(super) fn render(rows: &str, name: &str, points: &str, value: &Value, style: &Style) -> String {
    let rows = array_at(value, rows);
    if rows.is_empty() {
        return line(&style.paint(Tint::Dim, "-"));
    }
    let room = match style.width {
        0 => LONGEST,
        width => width.saturating_sub(BESIDE).clamp(10, LONGEST),
    };
    // The sparkline's column is not text to be cut: it was made to fit.
    let mut grid = Grid::new([Format::Text, Format::State].into_iter().chain([Format::Number; 4]).collect());
    grid.header(["name", "", "min", "avg", "max", "last"].into_iter());
    let title = Column { title: String::new(), pointer: name.into(), format: Format::Text };
    for row in rows {
        let values = values_of(row.pointer(points));
        let mut cells = vec![Cell::at(row, &title, style), Cell::of(sparkline(&values, room))];
        cells.extend(figures(&values).map(Cell::of));
        grid.row(cells);
    }
    grid.draw(style)
}

/// The values of `[time, value]` points; gaps (null) are left out.
fn values_of(points: Option<&Value>) -> Vec<f64> {
    let points = points.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    points.iter().filter_map(|point| point.get(1)?.as_f64()).collect()
}

fn figures(values: &[f64]) -> [String; 4] {
    let Some(last) = values.last() else { return std::array::from_fn(|_| "-".to_owned()) };
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Divided first: a sum of large values may not be a number any more.
    let avg: f64 = values.iter().map(|v| v / values.len() as f64).sum();
    [min, avg, max, *last].map(short)
}

/// A figure with the digits that matter.
fn short(n: f64) -> String {
    match n.abs() {
        size if size >= 1e12 => format!("{n:.3e}"),
        size if size >= 100.0 => trimmed(n, 0),
        size if size >= 1.0 => trimmed(n, 2),
        size if size >= 0.001 || size == 0.0 => trimmed(n, 4),
        _ => format!("{n:.2e}"),
    }
}

/// One bar a value, or the mean of several where there are more than fit.
fn sparkline(values: &[f64], room: usize) -> String {
    let bars = values.len().min(room);
    let mean = |at: usize| {
        let (from, to) = (at * values.len() / bars, (at + 1) * values.len() / bars);
        values[from..to].iter().map(|v| v / (to - from) as f64).sum::<f64>()
    };
    let means: Vec<f64> = (0..bars).map(mean).collect();
    let min = means.iter().copied().fold(f64::INFINITY, f64::min);
    let max = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let top = (BARS.len() - 1) as f64;
    // Halved, so that the span of any two numbers is a number.
    let span = max / 2.0 - min / 2.0;
    let bar = |v: &f64| if span > 0.0 { ((v / 2.0 - min / 2.0) / span * top).round() as usize } else { 3 };
    means.iter().map(|v| BARS[bar(v).min(BARS.len() - 1)]).collect()
}
