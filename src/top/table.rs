//! The table of backends, in as many columns as fit.

use ratatui::style::Style;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::document::Backend;
use super::fitted::{padded, shortened};
use super::palette::Palette;
use crate::text::figures::{self, NONE, age, grouped, latency, rate};

/// Space between two columns.
const GAP: usize = 2;

/// Widest name of a backend while other columns need the space.
const NAME_WIDTH: usize = 21;

/// Least space in which a reason is shown beside its backend; with less, one that says
/// more than that all is well has a line of its own.
const REASON_WIDTH: usize = 24;

/// A column between the name and the reason.
struct Column {
    title: &'static str,
    /// Columns with the smallest numbers are shown first.
    rank: u8,
    is_right: bool,
    cell: fn(&Backend) -> String,
}

const COLUMNS: [Column; 8] = [
    Column { title: "state", rank: 0, is_right: false, cell: |backend| backend.state.to_string() },
    Column { title: "for", rank: 4, is_right: true, cell: |backend| age(backend.state_seconds) },
    Column { title: "leases", rank: 2, is_right: true, cell: |backend| grouped(backend.leases) },
    Column {
        title: "requests/s",
        rank: 1,
        is_right: true,
        cell: |backend| rate(backend.requests.per_second),
    },
    Column {
        title: "p99 ms",
        rank: 3,
        is_right: true,
        cell: |backend| latency(backend.latency_ms.p99),
    },
    Column { title: "failed", rank: 6, is_right: true, cell: failed },
    Column { title: "lag", rank: 5, is_right: true, cell: lag },
    Column {
        title: "keys",
        rank: 7,
        is_right: true,
        cell: |backend| backend.keys.map_or(NONE.to_owned(), grouped),
    },
];

fn failed(backend: &Backend) -> String {
    backend.last_minute.as_ref().map_or(NONE.to_owned(), |minute| grouped(minute.errors))
}

/// How old its data are at most; else how long before the last check it had heard from its primary.
fn lag(backend: &Backend) -> String {
    let seconds = backend.staleness_seconds.or(backend.lag_seconds);
    seconds.map_or(NONE.to_owned(), figures::lag)
}

/// The reason for its state, without the number of the system's error, which says no more.
fn reason(backend: &Backend) -> &str {
    backend.reason.split(" (os error ").next().unwrap_or_default()
}

/// The table as lines.
pub(super) struct Table {
    /// The names of the columns.
    pub head: Line<'static>,
    /// A line for each backend, and one for each reason that is telling where there is no space beside it.
    pub lines: Vec<Line<'static>>,
}

/// Returns the table of these backends in at most `width` columns.
pub(super) fn table(backends: &[&Backend], width: usize, palette: Palette) -> Table {
    let longest = backends.iter().map(|backend| backend.name.width()).max().unwrap_or(0);
    let longest = longest.max("backend".len());
    let (columns, used) = fitting(backends, width.saturating_sub(longest.min(NAME_WIDTH)));
    let name_width = longest.min(name_room(width, used, longest));
    let reason_width = width.saturating_sub(used + name_width + GAP);
    let has_reasons = reason_width >= REASON_WIDTH;

    let mut head = padded("backend", name_width, false);
    for (column, width) in &columns {
        head += &" ".repeat(GAP);
        head += &padded(column.title, *width, column.is_right);
    }
    if has_reasons {
        head += "  reason";
    }
    let mut lines = Vec::new();
    for backend in backends {
        let mut spans = vec![Span::raw(padded(&backend.name, name_width, false))];
        for (column, width) in &columns {
            let cell = padded(&(column.cell)(backend), *width, column.is_right);
            let is_state = column.title == "state";
            let style = if is_state { palette.state(&backend.state) } else { Style::new() };
            spans.push(Span::raw(" ".repeat(GAP)));
            spans.push(Span::styled(cell, style));
        }
        if has_reasons {
            spans.push(Span::raw(format!("  {}", shortened(reason(backend), reason_width))));
        }
        lines.push(Line::from(spans));
        if !has_reasons && backend.telling {
            let reason = shortened(reason(backend), width.saturating_sub(2));
            lines.push(Line::styled(format!("  {reason}"), palette.state(&backend.state)));
        }
    }
    Table { head: Line::styled(head, palette.head()), lines }
}

/// Returns how wide names may be beside columns that take `used`: a third of the table, and no more than leaves room for
/// reasons, if those fit beside a short name.
fn name_room(width: usize, used: usize, longest: usize) -> usize {
    let left = width.saturating_sub(used);
    match left.checked_sub(GAP + REASON_WIDTH) {
        Some(beside_reasons) if beside_reasons >= longest.min(NAME_WIDTH) => {
            beside_reasons.min((width / 3).max(NAME_WIDTH))
        }
        _ => left,
    }
}

/// Returns the most important columns that fit beside the name, each with its width, and what they take with the gaps.
fn fitting(backends: &[&Backend], room: usize) -> (Vec<(&'static Column, usize)>, usize) {
    let mut used = 0;
    let mut ranked: Vec<usize> = (0..COLUMNS.len()).collect();
    ranked.sort_by_key(|index| COLUMNS[*index].rank);
    let mut shown: Vec<(usize, usize)> = Vec::new();
    for index in ranked {
        let column = &COLUMNS[index];
        let cells = backends.iter().map(|backend| (column.cell)(backend).width());
        let width = cells.max().unwrap_or(0).max(column.title.len());
        if used + GAP + width > room {
            break;
        }
        used += GAP + width;
        shown.push((index, width));
    }
    shown.sort_unstable();
    (shown.into_iter().map(|(index, width)| (&COLUMNS[index], width)).collect(), used)
}
