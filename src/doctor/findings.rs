//! The result of `lb check`, as text for people.

use std::fmt::Write;

use console::Style;

use super::Asked;
use crate::backend::Keys;
use crate::text::table::{Alignment, table};

/// Columns of the table that only a server fills which has answered.
const STATUS_COLUMNS: usize = 5;

/// The result of `lb check`.
#[derive(Debug, Default)]
pub struct Findings {
    rows: Vec<Vec<String>>,
    /// What each source of servers has answered.
    pub(super) sources: Vec<String>,
    pub(super) problems: Vec<String>,
    /// Facts that are worth knowing, but no problem.
    pub(super) notes: Vec<String>,
    /// What was compared, and the result; `None` if there were fewer than two servers.
    pub(super) compared: Option<String>,
}

impl Findings {
    /// Whether there is no problem.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// The text for people, which may be coloured.
    pub fn text(&self) -> String {
        let (left, right) = (Alignment::Left, Alignment::Right);
        let head = [
            ("backend", left),
            ("reachable", left),
            ("role", left),
            ("redis", left),
            ("keys", right),
            ("ping", right),
            ("data", left),
        ];
        let mut text = String::new();
        self.sources.iter().for_each(|source| _ = writeln!(text, "{source}"));
        text += &table(&head, &self.rows);
        text.push('\n');
        for problem in &self.problems {
            _ = writeln!(text, "{} {problem}", bad().apply_to("wrong:"));
        }
        for note in &self.notes {
            _ = writeln!(text, "{} {note}", Style::new().yellow().apply_to("note:"));
        }
        let good = good().apply_to("good:");
        _ = match &self.compared {
            Some(compared) if self.is_good() => writeln!(text, "{good} {compared}."),
            Some(compared) => writeln!(text, "compared: {compared}."),
            None if self.is_good() && !self.rows.is_empty() => {
                writeln!(text, "{good} it can be read from. There is no other to compare it with.")
            }
            None => Ok(()),
        };
        text
    }

    /// Adds a backend to the table; `differs` is `None` if it was not compared.
    pub(super) fn add_row(&mut self, asked: &Asked, differs: Option<bool>) {
        let unknown = || "-".to_owned();
        let mut row = vec![asked.backend.name().to_owned()];
        let Ok(server) = &asked.status else {
            row.push(bad().apply_to("no").to_string());
            row.extend((0..STATUS_COLUMNS).map(|_| unknown()));
            self.rows.push(row);
            return;
        };
        let or_unknown = |text: &str| if text.is_empty() { unknown() } else { text.to_owned() };
        row.extend([
            good().apply_to("yes").to_string(),
            server.role(),
            or_unknown(&server.version),
            server.report.keys.as_ref().map_or_else(unknown, Keys::to_string),
            format!("{:.2} ms", server.latency.as_secs_f64() * 1000.0),
            match differs {
                None => unknown(),
                Some(true) => bad().apply_to("differs").to_string(),
                Some(false) => good().apply_to("same").to_string(),
            },
        ]);
        self.rows.push(row);
    }
}

fn good() -> Style {
    Style::new().green()
}

fn bad() -> Style {
    Style::new().red()
}
