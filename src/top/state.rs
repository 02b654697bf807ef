//! What is shown, and what keys change of it. It takes the time as a value, and knows no terminal.

use std::time::Instant;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::document::{Backend, Document, Text};

/// The order of the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Those that fail first, the others as they are configured.
    FailingFirst,
    /// By the number of requests a second, the most first.
    Requests,
    /// By the number of leases, the most first.
    Leases,
    /// By the 99th percentile of the latency, the slowest first.
    Latency,
    /// By the name.
    Name,
}

impl Order {
    const ALL: [Self; 5] =
        [Self::FailingFirst, Self::Requests, Self::Leases, Self::Latency, Self::Name];

    /// Returns what it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::FailingFirst => "failing first",
            Self::Requests => "requests/s",
            Self::Leases => "leases",
            Self::Latency => "p99",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// To go on.
    GoOn,
    /// To draw all of it again.
    Draw,
    /// To stop the process until a shell continues it.
    Stop,
    /// To end.
    End,
}

/// What is shown.
#[derive(Debug)]
pub(super) struct State {
    /// Where the balancer is.
    pub source: Text,
    /// The last status that it told.
    pub document: Document,
    /// When it told that.
    pub answered: Instant,
    /// Why it does not answer, while it does not.
    pub failure: Option<Text>,
    pub order: Order,
    /// The number of lines of the table above those that are shown; more than there are means the last ones.
    pub scrolled: usize,
    pub shows_help: bool,
    /// The number of lines of the help above those that are shown.
    pub help_scrolled: usize,
    /// Whether colours may be used.
    pub is_coloured: bool,
    /// Lines of the table that were shown last: those of a page.
    pub page_lines: usize,
}

impl State {
    /// With the first status.
    pub fn new(source: &str, document: Document, is_coloured: bool, now: Instant) -> Self {
        Self {
            source: source.into(),
            document,
            answered: now,
            failure: None,
            order: Order::FailingFirst,
            scrolled: 0,
            shows_help: false,
            help_scrolled: 0,
            is_coloured,
            page_lines: 1,
        }
    }

    /// Takes the balancer's answer, or the reason why there is none.
    pub fn take(&mut self, answer: Result<Document, String>, now: Instant) {
        match answer {
            Ok(document) => {
                (self.document, self.answered, self.failure) = (document, now, None);
            }
            Err(reason) => self.failure = Some(reason.as_str().into()),
        }
    }

    /// Does what a key asks for.
    pub fn press(&mut self, key: KeyEvent) -> Wish {
        if key.kind == KeyEventKind::Release {
            return Wish::GoOn;
        }
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if is_control => return Wish::End,
            KeyCode::Char('l') if is_control => return Wish::Draw,
            KeyCode::Char('z') if is_control => return Wish::Stop,
            KeyCode::Down | KeyCode::Char('j') if self.shows_help => self.help_scrolled += 1,
            KeyCode::Up | KeyCode::Char('k') if self.shows_help => {
                self.help_scrolled = self.help_scrolled.saturating_sub(1);
            }
            _ if self.shows_help => self.shows_help = false,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Wish::End,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => {
                (self.shows_help, self.help_scrolled) = (true, 0);
            }
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.scrolled = 0;
            }
            KeyCode::Up | KeyCode::Char('k') => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scrolled = self.scrolled.saturating_add(1),
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(self.page_lines),
            KeyCode::PageDown | KeyCode::Char(' ') => {
                self.scrolled = self.scrolled.saturating_add(self.page_lines);
            }
            KeyCode::Home => self.scrolled = 0,
            KeyCode::End => self.scrolled = usize::MAX,
            _ => {}
        }
        Wish::GoOn
    }

    /// Returns the backends in the order that is chosen. Equals stay as they are configured.
    pub fn backends(&self) -> Vec<&Backend> {
        let mut backends: Vec<&Backend> = self.document.backends.iter().collect();
        match self.order {
            Order::FailingFirst => {
                backends.sort_by_key(|backend| std::cmp::Reverse(backend.severity));
            }
            Order::Requests => {
                backends.sort_by(|a, b| b.requests.per_second.total_cmp(&a.requests.per_second))
            }
            Order::Leases => backends.sort_by_key(|backend| std::cmp::Reverse(backend.leases)),
            Order::Latency => {
                let p99 = |backend: &Backend| backend.latency_ms.p99.unwrap_or(-1.0);
                backends.sort_by(|a, b| p99(b).total_cmp(&p99(a)));
            }
            Order::Name => backends.sort_by(|a, b| a.name.cmp(&b.name)),
        }
        backends
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn state() -> State {
        let document = Document::parse(
            br#"{"backends": [
                {"name": "c", "state": "up", "leases": 1, "requests": {"per_second": 5.0}, "latency_ms": {"p99": 1.0}},
                {"name": "a", "state": "suspect", "severity": 5, "leases": 3},
                {"name": "b", "state": "down", "severity": 7, "leases": 2, "latency_ms": {"p99": 9.0}}]}"#,
        );
        State::new("http://h:1", document.expect("a document"), true, Instant::now())
    }

    fn press(state: &mut State, code: KeyCode) -> Wish {
        state.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn s_changes_the_order_and_those_that_fail_are_first_at_the_start() {
        let mut state = state();
        for expected in ["bac", "cab", "abc", "bca", "abc", "bac"] {
            let names: String = state.backends().iter().map(|backend| &*backend.name).collect();
            assert_eq!(names, expected, "{:?}", state.order);
            assert_eq!(press(&mut state, KeyCode::Char('s')), Wish::GoOn);
        }
    }

    #[test]
    fn q_escape_and_control_c_end_it_and_any_key_closes_the_help() {
        let mut state = state();
        press(&mut state, KeyCode::Char('?'));
        assert!(state.shows_help);
        assert_eq!(press(&mut state, KeyCode::Esc), Wish::GoOn);
        assert!(!state.shows_help);
        for code in [KeyCode::Esc, KeyCode::Char('q')] {
            assert_eq!(press(&mut state, code), Wish::End);
        }
        press(&mut state, KeyCode::Char('?'));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(state.press(control_c), Wish::End);
        assert_eq!(press(&mut state, KeyCode::Char('c')), Wish::GoOn);
    }

    #[test]
    fn a_balancer_that_is_gone_is_gone_since_its_last_answer() {
        let (mut state, start) = (state(), Instant::now());
        let last = start + Duration::from_secs(1);
        state.take(Ok(Document::default()), last);
        state.take(Err("refused".to_owned()), start + Duration::from_secs(4));
        state.take(Err("silent".to_owned()), start + Duration::from_secs(9));
        assert_eq!((state.answered, state.failure.as_deref()), (last, Some("silent")));
        state.take(Ok(Document::default()), start + Duration::from_secs(10));
        assert!(state.failure.is_none());
    }

    #[test]
    fn control_l_draws_all_of_it_again_and_control_z_stops_it_even_in_the_help() {
        let mut state = state();
        press(&mut state, KeyCode::Char('?'));
        for (key, wish) in [('l', Wish::Draw), ('z', Wish::Stop)] {
            let key = KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
            assert_eq!(state.press(key), wish);
        }
        assert!(state.shows_help);
    }
}
