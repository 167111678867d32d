//! Tests the view with a made board.

use std::time::SystemTime;

use ratatui::crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};

use super::board::Board;
use super::source::{Cameras, Update};
use super::view::View;
use super::*;
use crate::event::{
    Body, CameraState, CameraStatus, Caption, Coverage, Devices, Event, EventId, FinishReason,
    Inference, Placement, Severity, Timing, Usage,
};
use crate::frame::{Clock, Span};
use crate::service::{CameraInfo, RuleInfo, RuleState};

fn camera(name: &str, state: CameraState) -> CameraInfo {
    let reason = if state == CameraState::Live { String::new() } else { "no route".into() };
    let status = CameraStatus { state, reason, ..CameraStatus::connecting(SystemTime::now()) };
    CameraInfo {
        name: name.into(),
        source: "rtsp://camera.example/1".into(),
        status,
        buffer_frames: 3,
        buffer_bytes: 1 << 20,
        disk_bytes: 0,
        oldest_frame_at: None,
    }
}

fn rule(name: &str, state: RuleState) -> RuleInfo {
    RuleInfo {
        name: name.into(),
        camera: "gate".into(),
        question: "Is it there?".into(),
        severity: Severity::Warning,
        state,
        is_blind: false,
        score: Some(0.93),
        scored_at: None,
        alert_id: None,
        alerts_today: 4,
        false_alarms_today: 0,
    }
}

fn caption(camera: &str, text: &str, skipped_windows: u32) -> Update {
    let to = SystemTime::now() - Duration::from_secs(7);
    let window = Span { from: to - Duration::from_secs(8), to };
    let cpu = Placement { device: "cpu".into(), reason: String::new() };
    let inference = Inference {
        prompt: "What happens?".into(),
        text: text.into(),
        window,
        coverage: Coverage {
            frames_expected: 8,
            frames_used: 7,
            covered_span: Some(window),
            gaps: Vec::new(),
            clock_source: Clock::Host,
        },
        frames: Vec::new(),
        model: "tiny".into(),
        devices: Devices { vision: cpu.clone(), language: cpu },
        finish_reason: FinishReason::Stop,
        usage: Usage { new_tokens: 21, ..Usage::default() },
        timing: Timing {
            wait_seconds: 0.5,
            decode_seconds: 2.0,
            total_seconds: 3.4,
            ..Timing::default()
        },
    };
    let body = Body::Caption(Caption { inference, skipped_windows, unchanged: None });
    let id = EventId { run: 1, sequence: 1 };
    Update::Event(Box::new(Event::new(id, SystemTime::now(), camera.into(), body)))
}

fn board() -> Board {
    let cameras = vec![
        camera("yard", CameraState::Lost),
        camera("gate", CameraState::Live),
        camera("attic", CameraState::Live),
    ];
    let updates = vec![
        Update::Cameras(Cameras { cameras, troubles: Vec::new() }),
        Update::Rules(vec![rule("person", RuleState::Active), rule("car", RuleState::Idle)]),
        caption("gate", "A red car\u{1b}[31m stops at the gate.", 1),
        caption("gate", "A person waits.", 2),
    ];
    Board::new("127.0.0.1:50051", updates)
}

fn drawn(view: &mut View, board: &Board) -> String {
    text_of(view, board, (80, 24)).unwrap()
}

fn press(view: &mut View, board: &Board, codes: &[KeyCode]) {
    for code in codes {
        let key = Input::Key(KeyEvent::new(*code, KeyModifiers::NONE));
        assert!(view.handle(&key, board), "{code:?} quits");
    }
}

/// Returns the line that begins with a word.
fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"))
}

#[test]
fn cameras_rules_and_the_model_are_shown_in_80_columns() {
    let (mut view, board) = (View::with_colours(true), board());
    let text = drawn(&mut view, &board);
    assert!(text.starts_with("lookout at 127.0.0.1:50051   2 of 3 cameras live\n"), "{text}");
    assert!(text.contains("tiny on cpu   wait 0.5s, prefill 0.0s, decode 2.0s, 10.0 tokens/s"));
    let gate: Vec<&str> = line(&text, "gate").split_whitespace().collect();
    let age = &gate[3];
    assert_eq!(gate[..3], ["gate", "live", "never"], "{text}");
    assert!(age.ends_with('s') && age[..age.len() - 1].parse::<f64>().unwrap() >= 7.0, "{age}");
    assert_eq!(gate[4..], ["3.4s", "7/8", "3", "A", "person", "waits."], "{text}");
    assert!(line(&text, "yard").ends_with("no route"), "{text}");
    assert!(line(&text, "person").contains("active"), "{text}");
    assert!(line(&text, "q quit").contains("s sort: name"), "{text}");
    assert!(!text.contains('\u{1b}'));
    assert!(text.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn a_lost_connection_is_shown_until_the_daemon_is_back() {
    let (mut view, mut board) = (View::with_colours(false), board());
    board.update(Update::Lost("it was cut".into()));
    let text = drawn(&mut view, &board);
    assert!(text.contains("CONNECTION LOST, retrying: it was cut"), "{text}");
    assert!(text.contains("A person waits."), "{text}");
    let cameras = vec![camera("gate", CameraState::Live)];
    board.update(Update::Cameras(Cameras { cameras, troubles: Vec::new() }));
    let text = drawn(&mut view, &board);
    assert!(!text.contains("CONNECTION"), "{text}");
    assert!(!text.contains("yard"), "{text}");
}

#[test]
fn troubles_are_shown_until_they_are_gone() {
    let (mut view, mut board) = (View::with_colours(false), board());
    let cameras = || vec![camera("gate", CameraState::Live)];
    let trouble = "http: other machines can reach 0.0.0.0:9090 without access control";
    let troubles = vec![trouble.into(), "two\u{1b}[31m".into(), "three".into(), "four".into()];
    board.update(Update::Cameras(Cameras { cameras: cameras(), troubles }));
    for text in [drawn(&mut view, &board), printed(&board).unwrap()] {
        assert!(text.contains(trouble) && text.contains("three"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("four"), "{text}");
        assert!(line(&text, "gate").ends_with("A person waits."), "{text}");
        assert!(text.contains("Is it there?") && text.contains("q quit"), "{text}");
    }
    board.update(Update::Cameras(Cameras { cameras: cameras(), troubles: Vec::new() }));
    assert!(!drawn(&mut view, &board).contains("other machines"));
}

#[test]
fn keys_filter_sort_select_and_quit() {
    let (mut view, board) = (View::with_colours(false), board());
    press(&mut view, &board, &[KeyCode::Char('/'), KeyCode::Char('A'), KeyCode::Char('t')]);
    assert!(drawn(&mut view, &board).contains("filter: At_"));
    press(&mut view, &board, &[KeyCode::Enter]);
    let text = drawn(&mut view, &board);
    assert!(!text.contains("yard") && text.contains("attic"), "{text}");
    press(&mut view, &board, &[KeyCode::Esc]);
    assert!(drawn(&mut view, &board).contains("yard"));
    let order = |text: &str| {
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| ["attic", "gate", "yard"].contains(name)).collect::<Vec<_>>().join(" ")
    };
    assert!(order(&drawn(&mut view, &board)).starts_with("attic gate yard"));
    press(&mut view, &board, &[KeyCode::Char('s'), KeyCode::Char('s')]);
    let text = drawn(&mut view, &board);
    assert!(order(&text).starts_with("gate"), "{text}");
    assert!(text.contains("sort: lateness"), "{text}");
    press(&mut view, &board, &[KeyCode::Enter]);
    let text = drawn(&mut view, &board);
    assert!(text.contains("rtsp://camera.example/1"), "{text}");
    press(&mut view, &board, &[KeyCode::Esc, KeyCode::Char('?')]);
    assert!(drawn(&mut view, &board).contains("this help"));
    press(&mut view, &board, &[KeyCode::Esc, KeyCode::Down, KeyCode::Down, KeyCode::Down]);
    press(&mut view, &board, &[KeyCode::Up]);
    let key = |code, modifiers| Input::Key(KeyEvent::new(code, modifiers));
    assert!(!view.handle(&key(KeyCode::Char('q'), KeyModifiers::NONE), &board));
    assert!(!view.handle(&key(KeyCode::Char('c'), KeyModifiers::CONTROL), &board));
}

#[test]
fn every_size_can_be_drawn() {
    let (mut view, board) = (View::with_colours(true), board());
    for size in [(1, 1), (5, 3), (20, 4), (80, 10), (300, 100)] {
        for panel in ['?', '/'] {
            press(&mut view, &board, &[KeyCode::Char(panel)]);
            text_of(&mut view, &board, size).unwrap();
            press(&mut view, &board, &[KeyCode::Esc]);
        }
        press(&mut view, &board, &[KeyCode::Enter]);
        text_of(&mut view, &board, size).unwrap();
    }
}
