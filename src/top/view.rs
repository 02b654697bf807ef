//! Draws the state into a frame: what fails first, then totals, the table, and the busiest commands if there is room.

use std::ops::Range;
use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear};
use unicode_width::UnicodeWidthStr;

use super::document::{Backend, Document};
use super::fitted::{flowed, padded, shortened};
use super::palette::Palette;
use super::state::State;
use super::table::table;
use crate::text::figures::{age, count, grouped, latency, rate};

/// Most commands that are shown.
const MAX_COMMANDS: usize = 5;

/// Least height with empty lines between the parts.
const AIRY_HEIGHT: usize = 16;

/// Backends that always have space, whatever else there is to show.
const MIN_TABLE_LINES: usize = 3;

/// Longest name in the line that says who fails, in columns.
const LONGEST_NAME: usize = 44;

/// Times, in seconds, that are called a minute.
const MINUTE: Range<f64> = 58.5..61.0;

const HELP: [&str; 19] = [
    "q, Esc, Ctrl-C  end",
    "s               another order",
    "arrows, j, k    scroll by a line",
    "PgUp, PgDn      scroll by a page",
    "Home, End       the first, the last",
    "Ctrl-L          draw all again",
    "Ctrl-Z          stop; fg goes on",
    "",
    "state    up, slow: it is read from",
    "         suspect, ejected: reads fail",
    "         down: it does not answer",
    "         syncing: data may be missing",
    "         draining, maint: set so",
    "leases   clients that it has now",
    "requests/s  over the last 5 s",
    "p99 ms   slowest hundredth, 1 min",
    "failed   tries on it, 1 min",
    "lag      age of its data at most",
    "clients  this is one, over HTTP",
];

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame, state: &mut State, now: Instant) {
    let area = frame.area();
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let palette = Palette { is_coloured: state.is_coloured };
    let is_airy = height >= AIRY_HEIGHT;

    let mut top = head(state, width, palette, now);
    if is_airy {
        top.push(Line::default());
    }
    let backends = state.backends();
    let table = table(&backends, width, palette);
    let (count, order) = (backends.len(), state.order.name());
    // The head of the table, some of its lines, and the keys.
    top.truncate(height.saturating_sub(2 + MIN_TABLE_LINES).max(2));
    top.push(table.head);

    let room = height.saturating_sub(top.len() + 1);
    let mut below = commands(&state.document, width, palette);
    if is_airy && !below.is_empty() {
        below.insert(0, Line::default());
    }
    if table.lines.len() + below.len() > room {
        below.clear();
    }
    let table_room = room - below.len();
    let last = table.lines.len().saturating_sub(table_room);
    state.scrolled = state.scrolled.min(last);
    state.page_lines = table_room.max(1);
    let hidden_below = last - state.scrolled;
    let footer = footer(width, order, count, state.scrolled, hidden_below);
    let shown = table.lines.into_iter().skip(state.scrolled).take(table_room);

    let lines: Vec<Line> = top.into_iter().chain(shown).chain(below).collect();
    put(frame, area, &lines);
    if height > 0 {
        let bottom = Rect { y: area.bottom() - 1, height: 1, ..area };
        put(frame, bottom, &[Line::styled(footer, palette.quiet())]);
    }
    if state.shows_help {
        draw_help(frame, area, &mut state.help_scrolled);
    }
}

/// Writes lines from the top of an area, as far as they fit.
fn put(frame: &mut Frame, area: Rect, lines: &[Line]) {
    for (y, line) in (area.top()..area.bottom()).zip(lines) {
        frame.buffer_mut().set_line(area.x, y, line, area.width);
    }
}

/// What stands above the table.
fn head(state: &State, width: usize, palette: Palette, now: Instant) -> Vec<Line<'static>> {
    let document = &state.document;
    let mut lines = vec![Line::styled(title(state, width), palette.quiet())];
    if let Some(reason) = &state.failure {
        let silent_for = now.saturating_duration_since(state.answered).as_secs_f64();
        let silent = format!("no status for {}", age(silent_for));
        let since = clock(&document.at).map(|at| format!("last seen at {at}"));
        let items: Vec<String> =
            [Some(silent), since, Some(reason.to_string())].into_iter().flatten().collect();
        let lost = flowed(&items, width, 3);
        lines.extend(lost.into_iter().map(|line| Line::styled(line, palette.verdict("failing"))));
    }
    let style = palette.verdict(&document.verdict.level);
    let verdict = flowed(&verdict(document), width, 2);
    lines.extend(verdict.into_iter().map(|line| Line::styled(line, style)));
    for source in document.sources.iter().filter(|source| !source.error.is_empty()) {
        let text = format!("{} gives no list: {}", &*source.name, &*source.error);
        lines.push(Line::styled(shortened(&text, width), palette.warning()));
    }
    lines.extend(flowed(&now_items(document), width, 1).into_iter().map(Line::from));
    lines.extend(flowed(&minute_items(document), width, 3).into_iter().map(Line::from));
    lines
}

/// Which balancer it is, and its time.
fn title(state: &State, width: usize) -> String {
    let document = &state.document;
    let name = format!("lb {} at {}", &*document.version, &*state.source);
    let up_for = format!("running for {}", age(document.uptime_seconds));
    let left = flowed(&[name, up_for], width, 1).concat();
    match clock(&document.at) {
        Some(at) if left.width() + at.width() + 2 <= width => {
            padded(&left, width - at.width(), false) + &at
        }
        _ => left,
    }
}

/// Returns the time of day of a time in RFC 3339.
fn clock(at: &str) -> Option<String> {
    at.get(11..19).map(|time| format!("{time} UTC"))
}

/// How it stands as a whole, and which backends are not simply up, the worst first.
fn verdict(document: &Document) -> Vec<String> {
    let mut worst: Vec<&Backend> =
        document.backends.iter().filter(|backend| backend.severity > 0).collect();
    worst.sort_by_key(|backend| std::cmp::Reverse(backend.severity));
    let named = worst.into_iter().map(|backend| {
        let name = shortened(&backend.name, LONGEST_NAME);
        format!("{name} {} for {}", &*backend.state, age(backend.state_seconds))
    });
    std::iter::once(document.verdict.text.to_string()).chain(named).collect()
}

/// What the whole balancer does now.
fn now_items(document: &Document) -> Vec<String> {
    let clients = &document.clients;
    let parts = [clients.http, clients.resp, clients.new];
    let all = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
    let [http, redis, new] = parts.map(grouped);
    vec![
        format!("now: {} requests/s", rate(document.requests.per_second)),
        format!("{} ({http} http, {redis} redis, {new} new)", count(all, "client")),
    ]
}

/// What it has done in the last minute, the most important first.
fn minute_items(document: &Document) -> Vec<String> {
    let Some(minute) = &document.last_minute else { return Vec::new() };
    let window = match minute.seconds {
        seconds if MINUTE.contains(&seconds) => "in the last minute".to_owned(),
        seconds => format!("in the last {}", age(seconds.max(1.0))),
    };
    let of = minute.latency_ms;
    let [p50, p99, p99_9] = [of.p50, of.p99, of.p99_9].map(latency);
    vec![
        format!("{window}: {} unanswered", grouped(minute.refused.unanswered)),
        format!("{} broke off", grouped(minute.cut_answers)),
        format!("{} failed tries", grouped(minute.errors)),
        format!("p50 {p50} · p99 {p99} · p99.9 {p99_9} ms"),
    ]
}

/// The commands that were sent most often in the last minute, or, where that is not told, since the start.
fn commands(document: &Document, width: usize, palette: Palette) -> Vec<Line<'static>> {
    let seconds = document.last_minute.as_ref().map(|minute| minute.seconds.max(1.0));
    let mut commands: Vec<(f64, &str, String)> = Vec::new();
    for command in &document.commands {
        match (&command.last_minute, seconds) {
            (Some(minute), Some(seconds)) => {
                let per_second = minute.count as f64 / seconds;
                commands.push((per_second, &command.name, rate(per_second)));
            }
            _ => commands.push((command.count as f64, &command.name, grouped(command.count))),
        }
    }
    commands.retain(|(figure, ..)| *figure > 0.0);
    commands.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    commands.truncate(MAX_COMMANDS);
    if commands.is_empty() {
        return Vec::new();
    }
    let title = if seconds.is_some() { "requests/s, 1 min" } else { "since start" };
    let figure_width = commands.iter().map(|(.., figure)| figure.len()).max().unwrap_or(0);
    let figure_width = figure_width.max(title.len());
    let name_width = width.saturating_sub(figure_width + 2).min(24);
    let line = |name: &str, figure: &str| {
        format!("{}  {}", padded(name, name_width, false), padded(figure, figure_width, true))
    };
    let head = Line::styled(padded(&line("command", title), width, false), palette.head());
    let rows = commands.iter().map(|(_, name, figure)| Line::from(line(name, figure)));
    std::iter::once(head).chain(rows).collect()
}

/// The keys, and what is out of sight.
fn footer(width: usize, order: &str, backends: usize, above: usize, below: usize) -> String {
    let mut items = vec!["q end".to_owned(), "? help".to_owned()];
    if above + below > 0 {
        items.push(format!("↑ {above} ↓ {below} more lines"));
    }
    items.push(format!("s order: {order}"));
    items.push(count(backends as u64, "backend"));
    flowed(&items, width, 1).concat()
}

fn draw_help(frame: &mut Frame, area: Rect, scrolled: &mut usize) {
    let widest = HELP.iter().map(|line| line.width()).max().unwrap_or(0) as u16;
    let (width, height) = ((widest + 2).min(area.width), (HELP.len() as u16 + 2).min(area.height));
    let (x, y) = (area.x + (area.width - width) / 2, area.y + (area.height - height) / 2);
    let window = Rect { x, y, width, height };
    frame.render_widget(Clear, window);
    let block = Block::bordered().title(" help; any other key closes it ");
    let inner = block.inner(window);
    frame.render_widget(block, window);
    *scrolled = (*scrolled).min(HELP.len().saturating_sub(inner.height.into()));
    let lines: Vec<Line> = HELP[*scrolled..].iter().map(|line| Line::from(*line)).collect();
    put(frame, inner, &lines);
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
