//! Columns for people to read.

use unicode_width::UnicodeWidthStr as _;

use crate::output::harmless;

/// A table without lines: a heading and rows, two spaces between columns.
#[derive(Debug)]
pub(crate) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(heading: [&'static str; N]) -> Self {
        Self {
            heading: heading.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.heading.len());
        self.rows
            .push(cells.iter().map(|cell| harmless(cell)).collect());
    }

    /// The table's text; `paint` may colour a finished cell, given its column.
    pub(crate) fn render(&self, paint: impl Fn(usize, &str) -> Option<String>) -> String {
        let mut widths: Vec<usize> = self.heading.iter().map(|cell| cell.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = (usize, &str)>, painted: bool| {
            let mut line = String::new();
            for (column, cell) in cells {
                let gap = widths[column] - cell.width() + 2;
                let shown = painted.then(|| paint(column, cell)).flatten();
                line.push_str(shown.as_deref().unwrap_or(cell));
                line.push_str(&" ".repeat(gap));
            }
            format!("{}\n", line.trim_end())
        };
        let mut text = line(&mut self.heading.iter().copied().enumerate(), false);
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str).enumerate(), true);
        }
        text
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(|_, _| None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_also_for_wide_characters() {
        let mut table = Table::new(["NAME", "STATE"]);
        table.row(["日本".to_owned(), "running".to_owned()]);
        table.row(["git-history".to_owned(), "\u{1b}[31m".to_owned()]);
        assert_eq!(
            table.to_string(),
            "NAME         STATE\n\
             日本         running\n\
             git-history  \\u{1b}[31m\n"
        );
    }
}
