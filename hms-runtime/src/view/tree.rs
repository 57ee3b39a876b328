//! A forest as indented lines with guides; what is said of a node stands in columns.

use hms_core::command::Column;
use serde_json::Value;

use super::{
    Style, array_at,
    cell::{Cell, Tint},
    line,
    table::Grid,
};

/// Deeper nodes are not shown: data that deep is a cycle or a mistake.
const MAX_DEPTH: usize = 64;

pub(super) fn render(
    roots: &str,
    children: &str,
    columns: &[Column],
    value: &Value,
    style: &Style,
) -> String {
    let roots = array_at(value, roots);
    if roots.is_empty() || columns.is_empty() {
        return line(&style.paint(Tint::Dim, "-"));
    }
    let mut grid = Grid::new(columns.iter().map(|c| c.format).collect());
    let walk = Walk { children, columns, style };
    for root in roots {
        walk.add(&mut grid, root, "", "", 0);
    }
    grid.draw(style)
}

struct Walk<'a> {
    children: &'a str,
    columns: &'a [Column],
    style: &'a Style,
}

impl Walk<'_> {
    /// Adds a node whose line begins with `guide`, and what is below it, whose lines begin with `below`.
    fn add(&self, grid: &mut Grid, node: &Value, guide: &str, below: &str, depth: usize) {
        let mut cells: Vec<Cell> = self.columns.iter().map(|c| Cell::at(node, c, self.style)).collect();
        if !guide.is_empty()
            && let Some(first) = cells.first_mut()
        {
            *first = Cell::of(format!("{guide}{}", first.text));
        }
        grid.row(cells);
        let children = match node.pointer(self.children) {
            Some(Value::Array(all)) if depth < MAX_DEPTH => all.as_slice(),
            _ => return,
        };
        for (at, child) in children.iter().enumerate() {
            let (branch, under) =
                if at + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.add(grid, child, &format!("{below}{branch}"), &format!("{below}{under}"), depth + 1);
        }
    }
}
