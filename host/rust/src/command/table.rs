//! Aligned tables that fit the terminal.

use super::text;
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use metalab_store::types::Status;
use std::io::IsTerminal;

/// The space between two columns.
const GAP: u16 = 2;

/// Returns how wide a table may be: `COLUMNS` if it is set, or else as wide as the terminal.
///
/// In a pipe a table is as wide as its content, so that a run stays on one line and what stands on it does not
/// depend on where the command was started.
fn width() -> Option<u16> {
    std::env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok())
        .or_else(|| Table::new().width())
        .filter(|columns| *columns > 0)
}

/// Says whether the output may have colours.
fn coloured() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal()
        && !set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

/// Makes a cell of text.
pub(super) fn text(content: &str) -> Cell {
    Cell::new(text::cell(content))
}

/// Makes a cell of a number, or the heading of a column of numbers.
pub(super) fn number(content: &str) -> Cell {
    text(content).set_alignment(CellAlignment::Right)
}

/// Makes a cell of a status.
pub(super) fn status(status: Status) -> Cell {
    let colour = match status {
        Status::Success => Color::Green,
        Status::Failed => Color::Red,
        Status::Cancelled => Color::DarkGrey,
        Status::Running => Color::Yellow,
    };
    text(text::status(status)).fg(colour)
}

/// Makes a table of cells: a heading, which may be empty, then rows.
pub(super) fn table(heading: Vec<Cell>, rows: Vec<Vec<Cell>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !heading.is_empty() {
        table.set_header(heading);
    }
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
    }
    if !coloured() {
        table.force_no_tty();
    }
    table
}

/// Says whether a table behind so many spaces fits without breaking the content of a cell into lines.
pub(super) fn fits(table: &Table, indent: u16) -> bool {
    let needed: u16 = table
        .column_max_content_widths()
        .iter()
        .fold(0, |sum, width| {
            sum.saturating_add(width.saturating_add(GAP))
        });
    width().is_none_or(|width| needed.saturating_sub(GAP).saturating_add(indent) <= width)
}

/// Returns the lines of a table, each behind so many spaces.
pub(super) fn lines(mut table: Table, indent: u16) -> String {
    let width = width().filter(|_| !fits(&table, indent));
    // Cells are broken only if there is no other way: an id in two pieces is hard to use.
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width.saturating_add(GAP).saturating_sub(indent));
    } else {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
        .lines()
        .map(|line| format!("{:1$}{2}\n", "", usize::from(indent), line.trim_end()))
        .collect()
}
