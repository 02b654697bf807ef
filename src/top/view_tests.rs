use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Cell;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::*;

/// Three backends, of which the last is down.
const STATUS: &str = r#"{
    "version": "0.1.0", "at": "2026-11-27T12:03:44.123Z", "verdict": {"level": "degraded", "text": "2 of 3 up"}, "uptime_seconds": 7385.0,
    "clients": {"http": 2, "resp": 10, "new": 0}, "requests": {"per_second": 1234.4},
    "backends": [
        {"name": "10.0.0.1:6379", "state": "up", "state_seconds": 7380.0, "reason": "a primary with 1319 keys",
         "leases": 6, "requests": {"per_second": 800.0}, "keys": 1319, "staleness_seconds": 0.0,
         "latency_ms": {"p50": 0.1, "p99": 0.412, "p99_9": 1.2}, "last_minute": {"errors": 0}},
        {"name": "10.0.0.3:6379", "state": "slow", "severity": 3, "telling": true, "state_seconds": 30.0, "reason": "its reads take 12 times as long",
         "leases": 6, "requests": {"per_second": 434.4}, "keys": 1319, "staleness_seconds": 0.5,
         "latency_ms": {"p50": 0.1, "p99": 12.5, "p99_9": 30.0}, "last_minute": {"errors": 0}},
        {"name": "10.0.0.2:6379", "state": "down", "severity": 7, "telling": true, "state_seconds": 18.4, "reason": "Connection refused (os error 111)",
         "leases": 0, "requests": {"per_second": 0.0}, "keys": null, "last_minute": {"errors": 7}}],
    "commands": [{"name": "get", "count": 9, "last_minute": {"count": 600}},
                 {"name": "hgetall", "count": 99, "last_minute": {"count": 6000}}],
    "last_minute": {"seconds": 60.0, "errors": 7, "cut_answers": 1, "refused": {"unanswered": 2},
                    "latency_ms": {"p50": 0.1, "p99": 0.4, "p99_9": 1.2}}}"#;

fn state(json: &str) -> State {
    let document = Document::parse(json.as_bytes()).expect("a document");
    State::new("http://127.0.0.1:1310", document, true, Instant::now())
}

fn drawn(state: &mut State, width: u16, height: u16, now: Instant) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, state, now)).expect("it is drawn");
    terminal
}

/// The lines that are shown, without spaces at their ends.
fn shown(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let terminal = drawn(state, width, height, Instant::now());
    let buffer = terminal.backend().buffer();
    let rows = buffer.content.chunks(width.into());
    let line = |row: &[Cell]| row.iter().map(Cell::symbol).collect::<String>();
    rows.map(|row| line(row).trim_end().to_owned()).collect()
}

#[test]
fn a_wide_window_shows_who_is_down_the_totals_the_table_and_the_commands() {
    let lines = shown(&mut state(STATUS), 120, 20);
    let expected = [
        "lb 0.1.0 at http://127.0.0.1:1310 · running for 2 h 3 min                                                   12:03:44 UTC",
        "2 of 3 up · 10.0.0.2:6379 down for 18 s · 10.0.0.3:6379 slow for 30 s",
        "now: 1,234 requests/s · 12 clients (2 http, 10 redis, 0 new)",
        "in the last minute: 2 unanswered · 1 broke off · 7 failed tries · p50 0.100 · p99 0.400 · p99.9 1.20 ms",
        "",
        "backend        state        for  leases  requests/s  p99 ms  failed    lag   keys  reason",
        "10.0.0.2:6379  down        18 s       0           0       -       7      -      -  Connection refused",
        "10.0.0.3:6379  slow        30 s       6         434    12.5       0  0.5 s  1,319  its reads take 12 times as long",
        "10.0.0.1:6379  up     2 h 3 min       6         800   0.412       0  0.0 s  1,319  a primary with 1319 keys",
        "",
        "command                   requests/s, 1 min",
        "hgetall                                 100",
        "get                                      10",
    ];
    assert_eq!(lines[..expected.len()], expected);
    assert_eq!(lines[19], "q end · ? help · s order: failing first · 3 backends");
}

#[test]
fn a_small_window_keeps_what_matters_and_the_reason_of_what_fails() {
    let lines = shown(&mut state(STATUS), 40, 10);
    let expected = [
        "lb 0.1.0 at http://127.0.0.1:1310",
        "2 of 3 up · 10.0.0.2:6379 down for 18 s",
        "10.0.0.3:6379 slow for 30 s",
        "now: 1,234 requests/s",
        "in the last minute: 2 unanswered",
        "backend        state  leases  requests/s",
        "10.0.0.2:6379  down        0           0",
        "  Connection refused",
        "10.0.0.3:6379  slow        6         434",
        "q end · ? help · ↑ 0 ↓ 2 more lines",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn any_size_and_any_status_can_be_drawn() {
    for json in [STATUS, "{}", r#"{"backends": [{}], "commands": [{"name": "get", "count": 1}]}"#] {
        for width in [0, 1, 2, 5, 10, 20, 39, 80, 300] {
            for height in [0, 1, 2, 3, 4, 5, 8, 24] {
                let mut state = state(json);
                shown(&mut state, width.max(1), height.max(1));
                state.take(Err("refused".to_owned()), Instant::now());
                state.shows_help = true;
                shown(&mut state, width.max(1), height.max(1));
            }
        }
    }
}

#[test]
fn many_backends_are_scrolled_and_never_out_of_sight() {
    let backends: Vec<String> = (0..20)
        .map(|n| format!(r#"{{"name": "redis-{n}.a-very-long-name.example:6379", "state": "up"}}"#))
        .collect();
    let mut state = state(&format!(r#"{{"backends": [{}]}}"#, backends.join(",")));
    let first = |state: &mut State| {
        let lines = shown(state, 60, 12);
        lines[4].clone()
    };
    assert!(first(&mut state).starts_with("redis-0.a-"), "{}", first(&mut state));
    assert!(first(&mut state).contains("….example:6379") || first(&mut state).contains(":6379"));
    for (code, expected) in [
        (KeyCode::Down, "redis-1."),
        (KeyCode::PageDown, "redis-8."),
        (KeyCode::End, "redis-13."),
        (KeyCode::Down, "redis-13."),
        (KeyCode::Up, "redis-12."),
        (KeyCode::Home, "redis-0."),
    ] {
        state.press(KeyEvent::new(code, KeyModifiers::NONE));
        let line = first(&mut state);
        assert!(line.starts_with(expected), "{code:?}: {line}");
    }
}

#[test]
fn a_balancer_that_is_gone_is_said_above_what_it_last_told() {
    let (mut state, now) = (state(STATUS), Instant::now());
    state.answered = now;
    state.take(Err("Connection refused".to_owned()), now + Duration::from_secs(3));
    let terminal = drawn(&mut state, 80, 20, now + Duration::from_secs(75));
    let text: String =
        terminal.backend().buffer().content.iter().map(|cell| cell.symbol()).collect();
    let expected = "no status for 1 min 15 s · last seen at 12:03:44 UTC · Connection refused";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("2 of 3 up"), "{text}");
}

#[test]
fn without_colours_there_are_none_and_the_words_are_the_same() {
    let colours = |state: &mut State| {
        let terminal = drawn(state, 120, 20, Instant::now());
        let cells = &terminal.backend().buffer().content;
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    let (mut coloured, mut plain) = (state(STATUS), state(STATUS));
    plain.is_coloured = false;
    assert!(colours(&mut coloured) > 0);
    assert_eq!(colours(&mut plain), 0);
    assert_eq!(shown(&mut coloured, 120, 20), shown(&mut plain, 120, 20));
}

#[test]
fn the_help_explains_keys_and_states_in_a_small_window() {
    let mut state = state(STATUS);
    state.shows_help = true;
    let text = shown(&mut state, 80, 24).join("\n");
    for expected in ["another order", "syncing", "age of its data at most"] {
        assert!(text.contains(expected), "{text}");
    }
    let text = shown(&mut state, 40, 10).join("\n");
    assert!(text.contains("q, Esc, Ctrl-C  end") && !text.contains("age of its data"), "{text}");
    (0..20).for_each(|_| _ = state.press(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE)));
    assert!(shown(&mut state, 40, 10).join("\n").contains("age of its data at most"));
}

#[test]
fn a_long_name_leaves_room_for_the_reason() {
    let long = format!("/run/{}/redis.sock", "very-long-".repeat(20));
    let status = STATUS.replace("10.0.0.2:6379", &long);
    for width in [120, 200] {
        let lines = shown(&mut state(&status), width, 24);
        let row = lines.iter().find(|line| line.contains("Connection refused")).expect("a row");
        assert!(row.starts_with("/run/very") && row.contains(".sock  down "), "{width}: {row}");
        assert!(lines[1].contains(".sock down for 18 s"), "{lines:?}");
    }
}
