//! The span of an alert's clip, as far as it is known. Pure.

use std::time::{Duration, SystemTime};

use crate::config::RuleClip;
use crate::event::Alert;
use crate::frame::Span;

/// The plan of a clip that will be made.
#[derive(Clone, Debug)]
pub struct Plan {
    settings: RuleClip,
    from: SystemTime,
    /// End of the first window that reached the rule's `on`.
    started_at: SystemTime,
    ended_at: Option<SystemTime>,
}

impl Plan {
    /// Plans the clip of an alert that begins. The window that it began with is part of it, because
    /// what the alert is about can be anywhere in it.
    pub fn new(alert: &Alert, settings: RuleClip) -> Plan {
        let Alert { started_at, ended_at, window, .. } = alert;
        let before = settings.before + window.length();
        let from = started_at.checked_sub(before).unwrap_or(*started_at);
        Plan { settings, from, started_at: *started_at, ended_at: *ended_at }
    }

    /// Takes a further event of the alert.
    pub fn follow(&mut self, alert: &Alert) {
        self.ended_at = alert.ended_at;
    }

    pub fn from(&self) -> SystemTime {
        self.from
    }

    /// Returns the time at which the alert began.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// Returns the time at which the alert ended.
    pub fn ended_at(&self) -> Option<SystemTime> {
        self.ended_at
    }

    /// Returns the span, and whether it is cut because the alert is longer than a clip may be. The
    /// span of an active alert ends at its maximum.
    pub fn span(&self) -> (Span, bool) {
        let longest = self.from + self.settings.max;
        let wanted = self.ended_at.map(|ended_at| ended_at + self.settings.after);
        let is_cut = wanted.is_none_or(|wanted| wanted > longest);
        let to = wanted.map_or(longest, |wanted| wanted.min(longest));
        (Span { from: self.from, to }, is_cut)
    }

    /// Returns true if the clip's last picture has arrived, or will not arrive any more. `newest` is
    /// the newest picture's time, `silent_for` the time since the camera sent one.
    pub fn is_due(
        &self,
        now: SystemTime,
        newest: Option<SystemTime>,
        silent_for: Option<Duration>,
    ) -> bool {
        let end = self.span().0.to;
        let has_arrived = newest.is_some_and(|newest| newest >= end + REORDERED);
        let is_silent = silent_for.is_none_or(|silent| silent >= SILENT);
        has_arrived || now >= end + SILENT && is_silent || now >= end + LATEST
    }
}

/// Longest time by which a picture is sent after one that is shown later.
const REORDERED: Duration = Duration::from_millis(200);

/// Time without a picture after which a clip does not wait for the camera.
const SILENT: Duration = Duration::from_secs(1);

/// Longest wait for the camera, whose clock may be behind the host's.
const LATEST: Duration = Duration::from_secs(10);

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::event::{AlertClip, AlertPhase, Coverage, Severity};
    use crate::frame::Clock;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn alert(ended_at: Option<u64>) -> Alert {
        let coverage = Coverage {
            frames_expected: 1,
            frames_used: 1,
            covered_span: None,
            gaps: Vec::new(),
            clock_source: Clock::Host,
        };
        Alert {
            alert_id: "1".into(),
            rule: "car".into(),
            severity: Severity::Warning,
            phase: AlertPhase::New,
            question: "Is there a car?".into(),
            score: 0.9,
            peak_score: 0.9,
            window: Span { from: at(1_005), to: at(1_015) },
            coverage,
            frames: Vec::new(),
            started_at: at(1_010),
            ended_at: ended_at.map(at),
            end_reason: None,
            scored_windows: 1,
            unknown_windows: 0,
            curve: Vec::new(),
            acknowledgement: None,
            update: None,
            description: None,
            clip: Some(AlertClip::pending()),
        }
    }

    /// Returns the plan of a clip of at most `max` seconds, of an alert long ago.
    pub fn plan(max: u64) -> Plan {
        let seconds = Duration::from_secs;
        let settings = RuleClip { before: seconds(5), after: seconds(3), max: seconds(max) };
        Plan::new(&alert(None), settings)
    }

    #[test]
    fn a_clip_has_the_first_window_and_a_time_after_the_end() {
        let mut plan = plan(120);
        assert_eq!(plan.span(), (Span { from: at(995), to: at(1_115) }, true));
        plan.follow(&alert(Some(1_050)));
        assert_eq!(plan.span(), (Span { from: at(995), to: at(1_053) }, false));
        plan.follow(&alert(Some(1_114)));
        assert_eq!(plan.span(), (Span { from: at(995), to: at(1_115) }, true));
    }

    #[test]
    fn a_clip_is_due_with_its_last_picture_or_when_the_camera_is_silent() {
        let mut plan = plan(120);
        plan.follow(&alert(Some(1_050)));
        let ms = Duration::from_millis;
        let end = at(1_053);
        let due = |now, newest, silent| plan.is_due(now, Some(newest), Some(ms(silent)));
        assert!(!due(end, end, 40) && due(end, end + ms(200), 40));
        assert!(!due(end + ms(900), end, 900) && due(end + ms(1_000), end, 1_000));
        // The camera's clock is behind the host's.
        assert!(!due(end + ms(4_000), end - ms(500), 40));
        assert!(due(end + ms(10_000), end - ms(500), 40));
        assert!(plan.is_due(end + ms(1_000), None, None) && !plan.is_due(end, None, None));
    }
}
