//! Aligned tables that fit the terminal.

use super::text;
use comfy_table::{ContentArrangement, Table, presets};
use std::io::IsTerminal;

/// Returns how wide a table may be: as wide as the terminal, or as it likes where there is none.
fn width() -> usize {
    let columns = std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok());
    if std::io::stdout().is_terminal() {
        Table::new()
            .width()
            .map(usize::from)
            .or(columns)
            .unwrap_or(usize::MAX)
    } else {
        usize::MAX
    }
}

/// Says whether every line of a table fits the terminal.
pub(super) fn fits(table: &str) -> bool {
    let width = width();
    table.lines().all(|line| line.chars().count() <= width)
}

/// Makes a table of cells: a heading, then rows. Cells are not wrapped: an id in two pieces is none.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heading.iter().map(|name| text::cell(name)));
    for row in rows {
        table.add_row(row.iter().map(|content| text::cell(content)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}
