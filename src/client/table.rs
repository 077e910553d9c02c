//! Tables: columns as wide as what is in them, and cut where a terminal ends.

use serde_json::Value;
use state::text;

use super::screen::{Colour, Screen};

/// Columns of a terminal that a column keeps as long as another one is wider.
const NARROW: usize = 8;
/// The same on a terminal that is narrower than that.
const NARROWEST: usize = 3;
/// Blanks between two columns.
const BETWEEN: usize = 3;
/// Characters of a cell, above which it is cut also where there is no terminal.
const CELL_CHARS_MAX: usize = 1000;

/// Cell, with what it means.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    pub(super) fn new(text: impl AsRef<str>) -> Self {
        Self::coloured(Colour::Plain, text)
    }

    pub(super) fn coloured(colour: Colour, text: impl AsRef<str>) -> Self {
        Self {
            text: text::shown(text.as_ref(), CELL_CHARS_MAX).into_owned(),
            colour,
        }
    }

    /// Names of a list.
    pub(super) fn names(list: &Value) -> Self {
        let names = list.as_array().into_iter().flatten();
        let names: Vec<_> = names.filter_map(Value::as_str).collect();
        Self::new(names.join(", "))
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

/// TextTable of which every row has a cell for each column.
#[derive(Debug)]
pub(super) struct TextTable {
    heads: &'static [&'static str],
    /// Heads of columns that are cut last.
    kept: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl TextTable {
    pub(super) const fn new(heads: &'static [&'static str]) -> Self {
        Self {
            heads,
            kept: &[],
            rows: Vec::new(),
        }
    }

    /// The table, of which these columns are cut last: they tell one row from another.
    pub(super) const fn keeping(mut self, kept: &'static [&'static str]) -> Self {
        self.kept = kept;
        self
    }

    pub(super) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// The table as text. `columns`: those of the terminal; the widest cells are cut to fit them.
    pub(super) fn text(&self, screen: Screen, columns: Option<usize>) -> String {
        let widths = self.widths(columns);
        let heads = self.heads.iter().map(Cell::new).collect();
        let mut out = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            let mut blanks = 0;
            for (cell, width) in row.iter().zip(&widths) {
                let cut = text::shown(&cell.text, *width);
                line.push_str(&" ".repeat(blanks));
                line.push_str(&screen.coloured(cell.colour, &cut));
                blanks = width - cut.chars().count() + BETWEEN;
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    fn widths(&self, columns: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.heads.iter().map(|head| head.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        let between = BETWEEN * widths.len().saturating_sub(1);
        let mut spare = columns.map_or(0, |columns| {
            (widths.iter().sum::<usize>() + between).saturating_sub(columns)
        });
        for (with_kept, least) in [(false, NARROW), (true, NARROW), (true, NARROWEST)] {
            while spare > 0 {
                let columns = widths.iter_mut().zip(self.heads);
                let columns = columns.filter(|(_, head)| with_kept || !self.kept.contains(head));
                let widest = columns.map(|(width, _)| width).max();
                let Some(widest) = widest.filter(|width| **width > least) else {
                    break;
                };
                *widest -= 1;
                spare -= 1;
            }
        }
        widths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_and_the_widest_is_cut_to_fit() {
        let screen = Screen::new(false, true);
        let mut table = TextTable::new(&["NAME", "STATUS"]);
        table.push(vec![Cell::new("web"), Cell::new("Up 3 hours")]);
        let long = "Restarting: the image has no such program\n".to_owned();
        table.push(vec![Cell::new("database"), Cell::new(&long)]);
        assert_eq!(
            table.text(screen, None),
            "NAME       STATUS\nweb        Up 3 hours\ndatabase   Restarting: the image has no such program\\n\n"
        );
        assert_eq!(
            table.text(screen, Some(25)),
            "NAME       STATUS\nweb        Up 3 hours\ndatabase   Restarting: t…\n"
        );
        // No terminal is too narrow to tell something.
        assert!(table.text(screen, Some(1)).contains("da…   Re…"));
    }

    #[test]
    fn what_tells_rows_apart_is_cut_last() {
        let screen = Screen::new(false, true);
        let mut table = TextTable::new(&["IMAGE", "STATUS", "NAME"]).keeping(&["NAME"]);
        let cells = [
            "registry.example/team/web",
            "Up 3 hours",
            "team-payments-web",
        ];
        table.push(cells.map(Cell::new).into());
        let shown = |columns| {
            table
                .text(screen, Some(columns))
                .lines()
                .nth(1)
                .map(str::to_owned)
        };
        for columns in [39, 45, 52] {
            let line = shown(columns).unwrap();
            assert!(line.ends_with("team-payments-web"), "{columns}: {line}");
            assert!(line.chars().count() <= columns, "{columns}: {line}");
        }
        let line = shown(20).unwrap();
        assert!(line.chars().count() <= 20, "{line}");
    }
}
