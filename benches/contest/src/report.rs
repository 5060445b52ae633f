//! The report: chapters of findings and times, printed as tables and written as Markdown.
//!
//! The report contains every finding, also those that miss their targets.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::support::{Outcome, Target, time};

/// One ratio, and its target.
pub(crate) struct Finding {
    row: String,
    measure: String,
    result: f64,
    target: Target,
    /// The result of a prototype.
    trial: &'static str,
    /// The attempts to reach the target, if it is missed.
    tried: &'static str,
}

impl Finding {
    pub(crate) fn new(row: impl Into<String>, measure: impl Into<String>, result: f64, target: Target) -> Finding {
        Finding { row: row.into(), measure: measure.into(), result, target, trial: "", tried: "" }
    }

    pub(crate) fn trial(mut self, trial: &'static str) -> Finding {
        self.trial = trial;
        self
    }

    /// Sets what was tried to reach the target. The summary says so if the target is missed.
    pub(crate) fn tried(mut self, tried: &'static str) -> Finding {
        self.tried = tried;
        self
    }

    fn cells(&self) -> Vec<String> {
        let verdict = match self.target.is_met(self.result) {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let target = self.target.to_string();
        let result = format!("{:.2}", self.result);
        vec![self.row.clone(), self.measure.clone(), target, result, verdict.to_owned(), self.trial.to_owned()]
    }
}

/// A table of times, with a line for each variant or row.
pub(crate) struct Times {
    caption: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Times {
    pub(crate) fn new(caption: impl Into<String>, columns: impl IntoIterator<Item = String>) -> Times {
        let columns = [String::new()].into_iter().chain(columns).collect();
        Times { caption: caption.into(), columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, cells: Vec<String>) {
        assert_eq!(cells.len() + 1, self.columns.len(), "the row needs one cell for each column");
        self.rows.push([name.into()].into_iter().chain(cells).collect());
    }

    /// Returns a table with a column for each race: the median ratios of processor time to that of `base`.
    pub(crate) fn of_work(caption: impl Into<String>, races: &[(String, &Outcome)], base: &str) -> Times {
        let cell = |outcome: &Outcome, name: &str| short(outcome.work_ratio(name, base, |_| true));
        Times::of_each(caption, races, cell)
    }

    /// Returns a table with a column for each race: median times and, in brackets, median ratios to the time of `base`.
    pub(crate) fn of_races(caption: impl Into<String>, races: &[(String, &Outcome)], base: &str) -> Times {
        let cell = |outcome: &Outcome, name: &str| {
            format!("{} ({})", time(outcome.nanos(name)), short(outcome.ratio(name, base).by_round))
        };
        Times::of_each(caption, races, cell)
    }

    fn of_each(
        caption: impl Into<String>,
        races: &[(String, &Outcome)],
        cell: impl Fn(&Outcome, &str) -> String,
    ) -> Times {
        let mut times = Times::new(caption, races.iter().map(|(title, _)| title.clone()));
        let most = races.iter().max_by_key(|(_, outcome)| outcome.names().count());
        let Some((_, most)) = most else { return times };
        for name in most.names() {
            let cells = races.iter().map(|(_, outcome)| match outcome.names().any(|other| other == name) {
                true => cell(outcome, name),
                false => "–".to_owned(),
            });
            times.row(name, cells.collect());
        }
        times
    }
}

/// One part of the report.
pub(crate) struct Chapter {
    title: &'static str,
    notes: Vec<String>,
    findings: Vec<Finding>,
    times: Vec<Times>,
    plots: Vec<Plot>,
}

struct Plot {
    file: &'static str,
    caption: &'static str,
    svg: String,
}

impl Chapter {
    pub(crate) fn new(title: &'static str) -> Chapter {
        Chapter { title, notes: Vec::new(), findings: Vec::new(), times: Vec::new(), plots: Vec::new() }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn finding(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    pub(crate) fn times(&mut self, times: Times) {
        self.times.push(times);
    }

    pub(crate) fn plot(&mut self, file: &'static str, caption: &'static str, svg: String) {
        self.plots.push(Plot { file, caption, svg });
    }

    /// Returns the chapter as Markdown, which is readable in a terminal too.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("## {}\n", self.title);
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        if !self.findings.is_empty() {
            let head = ["row", "what", "target", "result", "", "trial"].map(str::to_owned);
            let _ = write!(text, "\n{}", table(&head, &self.findings.iter().map(Finding::cells).collect::<Vec<_>>()));
        }
        for times in &self.times {
            let _ = write!(text, "\n{}:\n\n{}", times.caption, table(&times.columns, &times.rows));
        }
        text
    }

    fn with_plots(&self) -> String {
        let mut text = self.text();
        for plot in &self.plots {
            let _ = write!(text, "\n![{}]({})\n", plot.caption, plot.file);
        }
        text
    }
}

/// Formats a ratio with three digits.
fn short(ratio: f64) -> String {
    match ratio {
        ..9.995 => format!("{ratio:.2}"),
        ..99.95 => format!("{ratio:.1}"),
        _ => format!("{ratio:.0}"),
    }
}

fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| &row[column]).chain([&head[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:<width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule: String = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect();
    format!("{}|{rule}\n{}", line(head), rows.iter().map(|row| line(row)).collect::<String>())
}

/// Returns the number of targets met, and the findings that missed theirs.
pub(crate) fn summary(chapters: &[Chapter]) -> String {
    let findings = || chapters.iter().flat_map(|chapter| &chapter.findings);
    let held = findings().filter(|finding| finding.target.is_met(finding.result).is_some()).count();
    let missed: Vec<&Finding> =
        findings().filter(|finding| finding.target.is_met(finding.result) == Some(false)).collect();
    let mut text = format!("{} of {held} targets met.", held - missed.len());
    if !missed.is_empty() {
        text.push_str(" Missed:\n\n");
        for Finding { row, measure, target, result, tried, .. } in missed {
            let tried = if tried.is_empty() { String::new() } else { format!(". Tried: {tried}") };
            let _ = writeln!(text, "- {row}: {measure} is {result:.2}, and should be {target}{tried}");
        }
    }
    text
}

/// Writes the report and its plots into `directory`.
pub(crate) fn write(directory: &Path, head: &str, chapters: &[Chapter]) -> io::Result<()> {
    let mut text = format!("{head}\n{}\n", summary(chapters).trim_end());
    for chapter in chapters {
        let _ = write!(text, "\n{}", chapter.with_plots());
        for plot in &chapter.plots {
            std::fs::write(directory.join(plot.file), &plot.svg)?;
        }
    }
    std::fs::write(directory.join("REPORT.md"), text)
}
