//! Rows in aligned columns without borders. comfy-table decides the widths and cuts what does not fit a
//! terminal; colours are laid on afterwards, cell by cell, so that they never count as width.

use anstyle::AnsiColor;
use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, ContentLineStyle, Row, Table, TableStyle, Width,
};
use hms_core::command::Format;

use super::{
    Style,
    cell::{Cell, Tint, is_right_aligned},
    text::escape,
};

/// Stands between the cells of a drawn line. Cells cannot contain it: control characters are escaped.
const BETWEEN: char = '\u{1f}';

/// Cells in columns.
pub(super) struct Grid {
    formats: Vec<Format>,
    header: Option<Vec<Cell>>,
    rows: Vec<Vec<Cell>>,
}

impl Grid {
    pub(super) fn new(formats: Vec<Format>) -> Self {
        Self { formats, header: None, rows: Vec::new() }
    }

    pub(super) fn header<'a>(&mut self, titles: impl Iterator<Item = &'a str>) {
        self.header =
            Some(titles.map(|t| Cell { text: escape(t).to_uppercase(), tint: Tint::Bold }).collect());
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The lines, each ending with a newline.
    pub(super) fn draw(&self, style: &Style) -> String {
        let rows: Vec<&Vec<Cell>> = self.header.iter().chain(&self.rows).collect();
        if self.formats.is_empty() {
            return String::new();
        }
        let table = self.arrange(&rows, style);
        let mut out = String::new();
        for (cells, line) in rows.iter().zip(table.lines()) {
            out.push_str(self.paint(cells, &line, style).trim_end());
            out.push('\n');
        }
        out
    }

    fn arrange(&self, rows: &[&Vec<Cell>], style: &Style) -> Table {
        let mut table = Table::new();
        let line = ContentLineStyle::none().junction(BETWEEN);
        table.load_style(TableStyle::new().header_lines(line).content_lines(line));
        table.set_truncation_indicator("…");
        for cells in rows {
            let mut row = Row::from(cells.iter().map(|cell| cell.text.as_str()).collect::<Vec<_>>());
            row.max_height(1);
            table.add_row(row);
        }
        // Between two cells stand the separator and one column of padding, which become two spaces.
        let last = self.formats.len() - 1;
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, u16::from(at != last)));
            if is_right_aligned(self.formats[at]) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.fit(&mut table, rows, style);
        table
    }

    /// Cuts text columns to what the terminal has left beside the others, which stay whole.
    fn fit(&self, table: &mut Table, rows: &[&Vec<Cell>], style: &Style) {
        let widest = |at: usize| rows.iter().map(|cells| cells[at].width()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.formats.len()).map(widest).collect();
        let needed = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
        // A terminal too narrow for anything readable wraps whole lines better than we cut them.
        let usable = style.width >= 8 * widths.len();
        if !style.terminal || style.width == 0 || needed <= style.width || !usable {
            table.set_content_arrangement(ContentArrangement::Disabled);
            return;
        }
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(style.width).unwrap_or(u16::MAX));
        let whole = |at: usize| self.formats[at] != Format::Text;
        // Unless the text columns would have nothing left to show.
        let least = |(at, width): (usize, &usize)| if whole(at) { *width } else { 8.min(*width) };
        let needed = widths.iter().enumerate().map(least).sum::<usize>() + 2 * (widths.len() - 1);
        if needed > style.width {
            return;
        }
        for (at, column) in table.column_iter_mut().enumerate() {
            if whole(at) {
                let width = widths[at] + usize::from(at != widths.len() - 1);
                column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width as u16)));
            }
        }
    }

    /// Puts colours on a drawn line, around the words and not the padding.
    fn paint(&self, cells: &[Cell], line: &str, style: &Style) -> String {
        let mut out = String::new();
        for (cell, drawn) in cells.iter().zip(line.split(BETWEEN)) {
            if !out.is_empty() {
                out.push(' ');
            }
            let words = drawn.trim();
            let start = drawn.len() - drawn.trim_start().len();
            out.push_str(&drawn[..start]);
            out.push_str(&style.paint(cell.tint, words));
            out.push_str(&drawn[start + words.len()..]);
        }
        out
    }
}

/// The red of errors, bold.
pub(super) fn alarm(text: &str) -> String {
    let style = AnsiColor::Red.on_default().bold();
    format!("{style}{text}{style:#}")
}
