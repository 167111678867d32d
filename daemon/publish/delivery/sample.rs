//! An alert that never happened, to check templates and targets with.

use std::time::{Duration, SystemTime};

use super::picture::Picture;
use crate::event::{
    Alert, AlertPhase, Body, Coverage, Event, EventId, FrameReference, ScorePoint, Severity,
};
use crate::frame::{Clock, FrameId, Span};

/// Returns the first event of an alert of the rule `test`. Its question has characters that JSON
/// escapes.
pub fn event() -> Event {
    let to = SystemTime::now();
    let window = Span { from: to - Duration::from_secs(8), to };
    let alert = Alert {
        alert_id: "00000000-0000-7000-8000-000000000000".into(),
        rule: "test".into(),
        severity: Severity::Info,
        phase: AlertPhase::New,
        question: "Is this a \"test\" of lookout?".into(),
        score: 0.9,
        peak_score: 0.9,
        window,
        coverage: Coverage {
            frames_expected: 8,
            frames_used: 8,
            covered_span: Some(window),
            gaps: Vec::new(),
            clock_source: Clock::Host,
        },
        frames: vec![frame(to)],
        started_at: to,
        ended_at: None,
        end_reason: None,
        scored_windows: 1,
        unknown_windows: 0,
        curve: vec![ScorePoint { at: to, score: Some(0.9) }],
        acknowledgement: None,
        update: None,
        description: None,
        clip: None,
    };
    Event::new(EventId { run: 0, sequence: 0 }, to, "test".into(), Body::Alert(alert))
}

/// Returns a picture whose bytes are not a JPEG.
pub fn picture() -> Picture {
    Picture { frame: frame(SystemTime::now()), jpeg: b"a JPEG"[..].into() }
}

fn frame(captured_at: SystemTime) -> FrameReference {
    FrameReference { id: FrameId { run: 1, number: 1 }, captured_at, slow: true }
}
