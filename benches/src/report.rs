//! A section of `results.md`.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use crate::machine;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results.md");

const HEAD: &str = "\
# Results

Each section is written by its program: `cargo bench -p orchestrator-benches --bench NAME`.
Ours and its peers are measured in one run, in turns; numbers are medians over the rounds.
Absolute numbers belong to the machine and the moment; ratios travel better.
";

/// A section of `results.md`: what was measured, and what that says about the
/// targets.
#[derive(Debug)]
pub struct Report {
    name: &'static str,
    body: String,
}

/// A number and where it should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// This and nothing else: a count.
    Exactly(f64),
}

/// A row of [`Report::targets`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// What was measured.
    pub what: &'static str,
    /// The number.
    pub value: f64,
    /// Its unit, with the space that goes before it.
    pub unit: &'static str,
    /// Where it should be.
    pub target: Target,
}

impl Goal {
    /// A number without a unit.
    pub fn count(what: &'static str, value: f64, target: Target) -> Self {
        Self::new(what, value, "", target)
    }

    /// A number and its unit.
    pub fn new(what: &'static str, value: f64, unit: &'static str, target: Target) -> Self {
        Self {
            what,
            value,
            unit,
            target,
        }
    }
}

impl Target {
    fn verdict(self, value: f64) -> &'static str {
        match self.met(value) {
            true => "met",
            false => "**missed**",
        }
    }

    fn goal(self, unit: &str) -> String {
        match self {
            Self::AtMost(limit) => format!("at most {limit}{unit}"),
            Self::AtLeast(limit) => format!("at least {limit}{unit}"),
            Self::Exactly(number) => format!("exactly {number}{unit}"),
        }
    }

    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Exactly(number) => value == number,
        }
    }
}

impl Report {
    /// Begins the section of the bench `name`, which asks `question`.
    pub fn new(name: &'static str, question: &str) -> Self {
        let body = format!("## {name}\n\n{question}\n\n{}\n", machine::description());
        Self { name, body }
    }

    /// Adds a paragraph.
    pub fn text(&mut self, text: &str) {
        let _ = writeln!(self.body, "\n{text}");
    }

    /// Adds a table.
    pub fn table<const N: usize>(&mut self, head: [&str; N], rows: &[[String; N]]) {
        let rule = ["---"; N];
        let _ = writeln!(
            self.body,
            "\n| {} |\n|{}|",
            head.join(" | "),
            rule.join("|")
        );
        for row in rows {
            let _ = writeln!(self.body, "| {} |", row.join(" | "));
        }
    }

    /// Adds a line that says whether `value` is where it should be.
    pub fn target(&mut self, what: &str, value: f64, unit: &str, target: Target) {
        let (goal, verdict) = (target.goal(unit), target.verdict(value));
        let _ = writeln!(
            self.body,
            "\n* {what}: {value:.2}{unit}; target {goal}: {verdict}."
        );
    }

    /// Adds a table that says of each number whether it is where it should be.
    pub fn targets(&mut self, rows: &[Goal]) {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                let Goal { value, unit, .. } = *row;
                [
                    row.what.to_owned(),
                    format!("{value:.2}{unit}"),
                    row.target.goal(unit),
                    row.target.verdict(value).to_owned(),
                ]
            })
            .collect();
        self.table(["", "measured", "target", ""], &rows);
    }

    /// Prints the section.
    ///
    /// # Errors
    ///
    /// When stdout cannot be written.
    pub fn print(&self) -> io::Result<()> {
        io::stdout().write_all(self.body.as_bytes())
    }

    /// Prints the section and puts it into `results.md` in place of the
    /// earlier one.
    ///
    /// # Errors
    ///
    /// When the file or stdout cannot be written.
    pub fn publish(self) -> io::Result<()> {
        self.print()?;
        let Self { name, body } = self;
        let file = Path::new(FILE);
        let earlier = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => HEAD.to_owned(),
            earlier => earlier?,
        };
        fs::write(file, with_section(&earlier, name, &body))
    }
}

/// `page` with the section `name` replaced, or added at the end.
fn with_section(page: &str, name: &str, body: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->"), format!("<!-- end {name} -->"));
    let section = format!("{begin}\n{}\n{end}", body.trim_end());
    let place = page.find(&begin).zip(page.find(&end));
    match place {
        Some((from, to)) if from < to => {
            let (before, after) = (&page[..from], &page[to + end.len()..]);
            format!("{before}{section}{after}")
        }
        _ => format!("{}\n\n{section}\n", page.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_replaces_itself_and_nothing_else() {
        let page = with_section(HEAD, "a", "first\n");
        let page = with_section(&page, "b", "other");
        let page = with_section(&page, "a", "second\n");
        assert!(page.starts_with(HEAD.trim_end()));
        assert!(!page.contains("first"));
        let rest = "<!-- a -->\nsecond\n<!-- end a -->\n\n<!-- b -->\nother\n<!-- end b -->\n";
        assert!(page.ends_with(rest), "{page}");
    }

    #[test]
    fn a_missed_target_is_said() {
        let mut report = Report::new("x", "?");
        report.target("speed", 0.5, "×", Target::AtLeast(1.5));
        report.target("cost", 0.5, "×", Target::AtMost(0.6));
        let missed = "* speed: 0.50×; target at least 1.5×: **missed**.";
        assert!(report.body.contains(missed), "{}", report.body);
        assert!(
            report
                .body
                .contains("* cost: 0.50×; target at most 0.6×: met.")
        );
        report.targets(&[Goal::count("probes", 2.0, Target::Exactly(1.0))]);
        let row = "| probes | 2.00 | exactly 1 | **missed** |";
        assert!(report.body.contains(row), "{}", report.body);
    }
}
