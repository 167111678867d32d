//! One rule on one camera: takes the scores of its windows, and makes the events.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::calibration::with_temperature;
use super::curve;
use super::machine::{Change, Machine, Step};
use crate::config::Rule;
use crate::event::{
    Acknowledgement, Alert, AlertClip, AlertPhase, AlertUpdate, Body, Coverage, Description,
    EndReason, FrameReference, RuleStatus, ScorePoint, Sight,
};
use crate::frame::{Span, shift};
use crate::journal::EventJpeg;
use crate::service::RuleState;

/// Maximum number of windows between two updates of an alert. Before, an update is published
/// whenever the number of windows has doubled.
const WINDOWS_BETWEEN_UPDATES: u32 = 256;

/// A window whose questions were scored.
#[derive(Clone, Debug)]
pub struct ScoredWindow {
    pub window: Span,
    pub coverage: Coverage,
    /// The frames that the model saw, oldest first.
    pub frames: Vec<FrameReference>,
    /// JPEGs of those frames, which the journal stores with an alert.
    pub jpegs: Vec<EventJpeg>,
}

impl ScoredWindow {
    /// Returns false if the model saw less than half of the window's frames. A score then says
    /// nothing about the window.
    fn is_seen(&self) -> bool {
        let Coverage { frames_used, frames_expected, .. } = self.coverage;
        u64::from(frames_used) * 2 >= u64::from(frames_expected)
    }
}

pub struct Watcher {
    pub rule: Arc<Rule>,
    pub camera: Arc<str>,
    machine: Machine,
    /// The active alert.
    alert: Option<Alert>,
    /// Number of the alert's windows at which the next update is published.
    next_update: u32,
    /// End of the newest window that was scored, and its score.
    score: Option<(SystemTime, f64)>,
    is_off_schedule: bool,
    watching_since: Instant,
}

impl Watcher {
    pub fn new(rule: Arc<Rule>, camera: Arc<str>) -> Watcher {
        Watcher {
            machine: Machine::new(rule.thresholds),
            rule,
            camera,
            alert: None,
            next_update: 0,
            score: None,
            is_off_schedule: false,
            watching_since: Instant::now(),
        }
    }

    /// Continues an alert of an earlier run.
    pub fn resume(&mut self, alert: Alert) {
        self.machine.resume();
        self.next_update = next_update(windows(&alert));
        self.alert = Some(alert);
    }

    /// Takes another version of the rule. The state is kept if the rule judges as before; otherwise
    /// it starts again, and an active alert continues.
    pub fn set_rule(&mut self, rule: Arc<Rule>) {
        let judges_as_before = self.rule.question == rule.question
            && self.rule.temperature == rule.temperature
            && self.rule.thresholds == rule.thresholds;
        self.rule = rule;
        if judges_as_before {
            return;
        }
        self.machine = Machine::new(self.rule.thresholds);
        if self.alert.is_some() {
            self.machine.resume();
        }
        self.score = None;
        self.watching_since = Instant::now();
    }

    /// Restarts the time after which the rule is blind.
    pub fn look_again(&mut self) {
        self.watching_since = Instant::now();
    }

    /// Takes a window that closed at a time. Returns true if the rule's schedule includes it. If
    /// not, an active alert ends, and its event is in the second place.
    pub fn is_due(&mut self, at: SystemTime) -> (bool, Option<Body>) {
        self.is_off_schedule = !self.rule.schedule.contains(at);
        if !self.is_off_schedule {
            return (true, None);
        }
        self.machine.suspend();
        (false, self.end(at, EndReason::OffSchedule))
    }

    /// Takes the score of a window, as the model gave it. `new_id` makes the ID of an alert that begins.
    pub fn scored(
        &mut self,
        window: &ScoredWindow,
        score: f64,
        new_id: impl FnOnce() -> Arc<str>,
    ) -> Vec<Body> {
        if self.is_off_schedule {
            return Vec::new();
        }
        let at = window.window.to;
        let score = with_temperature(score, self.rule.temperature);
        if !window.is_seen() || !score.is_finite() {
            return self.unknown(at);
        }
        self.score = Some((at, score));
        let step = self.machine.step(at, Some(score));
        let mut bodies = self.sight(&step);
        if let Some(alert) = &mut self.alert {
            alert.score = score;
            alert.peak_score = alert.peak_score.max(score);
            alert.window = window.window;
            alert.coverage = window.coverage.clone();
            alert.frames = window.frames.clone();
            alert.scored_windows = alert.scored_windows.saturating_add(1);
            curve::add(&mut alert.curve, ScorePoint { at, score: Some(score) });
        }
        match step.change {
            Some(Change::Begin(points)) => {
                let alert = self.begin(window, score, points, new_id());
                self.next_update = next_update(windows(&alert));
                self.alert = Some(alert.clone());
                bodies.push(Body::Alert(alert));
            }
            Some(Change::End) => bodies.extend(self.end(at, EndReason::Cleared)),
            None => bodies.extend(self.update()),
        }
        bodies
    }

    /// Takes a window that could not be scored.
    pub fn unknown(&mut self, at: SystemTime) -> Vec<Body> {
        if self.is_off_schedule {
            return Vec::new();
        }
        let step = self.machine.step(at, None);
        if let Some(alert) = &mut self.alert {
            alert.unknown_windows = alert.unknown_windows.saturating_add(1);
            curve::add(&mut alert.curve, ScorePoint { at, score: None });
        }
        self.sight(&step)
    }

    /// Returns an event if no window has closed since the start for longer than `hold`.
    pub fn tick(&mut self, now: Instant, time: SystemTime) -> Option<Body> {
        let unseen = now.saturating_duration_since(self.watching_since);
        let is_blind = !self.machine.has_begun() && unseen > self.rule.thresholds.hold;
        if !is_blind || !self.rule.schedule.contains(time) {
            return None;
        }
        let since = shift(time, -(unseen.min(Duration::from_secs(1 << 31)).as_nanos() as i128));
        self.machine.lose_sight(since);
        Some(self.rule_status(Sight::Blind, since))
    }

    /// Ends the active alert because the rule or the camera was removed.
    pub fn remove(&mut self) -> Option<Body> {
        let at = self.alert.as_ref()?.window.to;
        self.end(at, EndReason::Removed)
    }

    /// Acknowledges the alert if it is the active one.
    pub fn acknowledge(&mut self, id: &str, acknowledgement: Acknowledgement) -> Option<Alert> {
        let alert = self.alert.as_mut().filter(|alert| *alert.alert_id == *id)?;
        alert.acknowledgement = Some(acknowledgement);
        Some(Alert { phase: AlertPhase::Acknowledged, update: None, ..alert.clone() })
    }

    /// Adds the description to the alert if it is the active one.
    pub fn describe(&mut self, id: &str, description: &Description) -> Option<Alert> {
        let alert = self.alert.as_mut().filter(|alert| *alert.alert_id == *id)?;
        alert.description = Some(description.clone());
        Some(updated(alert.clone(), AlertUpdate::Description))
    }

    /// Takes the clip of the alert if it is the active one.
    pub fn set_clip(&mut self, id: &str, clip: &AlertClip) -> Option<Alert> {
        let alert = self.alert.as_mut().filter(|alert| *alert.alert_id == *id)?;
        alert.clip = Some(clip.clone());
        Some(updated(alert.clone(), AlertUpdate::Clip))
    }

    pub fn state(&self, now: SystemTime) -> RuleState {
        if self.rule.schedule.contains(now) { self.machine.state() } else { RuleState::OffSchedule }
    }

    pub fn is_blind(&self) -> bool {
        self.machine.is_blind()
    }

    pub fn score(&self) -> Option<(SystemTime, f64)> {
        self.score
    }

    pub fn alert(&self) -> Option<&Alert> {
        self.alert.as_ref()
    }

    fn sight(&self, step: &Step) -> Vec<Body> {
        step.sight.map(|(sight, since)| self.rule_status(sight, since)).into_iter().collect()
    }

    fn rule_status(&self, sight: Sight, since: SystemTime) -> Body {
        Body::RuleStatus(RuleStatus { rule: self.rule.name.clone(), sight, since })
    }

    fn begin(
        &self,
        window: &ScoredWindow,
        score: f64,
        points: Vec<ScorePoint>,
        alert_id: Arc<str>,
    ) -> Alert {
        let scores = || points.iter().filter_map(|point| point.score);
        let scored_windows = scores().count() as u32;
        Alert {
            alert_id,
            rule: self.rule.name.clone(),
            severity: self.rule.severity,
            phase: AlertPhase::New,
            question: self.rule.question.clone(),
            score,
            peak_score: scores().fold(score, f64::max),
            window: window.window,
            coverage: window.coverage.clone(),
            frames: window.frames.clone(),
            started_at: points.first().map_or(window.window.to, |point| point.at),
            ended_at: None,
            end_reason: None,
            scored_windows,
            unknown_windows: points.len() as u32 - scored_windows,
            curve: points,
            acknowledgement: None,
            update: None,
            description: None,
            clip: self.rule.clip.map(|_| AlertClip::pending()),
        }
    }

    fn update(&mut self) -> Option<Body> {
        let alert = self.alert.as_ref()?;
        if windows(alert) < self.next_update {
            return None;
        }
        self.next_update = next_update(windows(alert));
        Some(Body::Alert(updated(alert.clone(), AlertUpdate::Scores)))
    }

    fn end(&mut self, at: SystemTime, reason: EndReason) -> Option<Body> {
        let alert = self.alert.take()?;
        Some(Body::Alert(ended(alert, at, reason)))
    }
}

/// Returns an event of an alert that has something new.
pub fn updated(alert: Alert, update: AlertUpdate) -> Alert {
    Alert { phase: AlertPhase::Update, update: Some(update), ..alert }
}

/// Returns the last event of an alert.
pub fn ended(alert: Alert, at: SystemTime, reason: EndReason) -> Alert {
    Alert {
        phase: AlertPhase::End,
        ended_at: Some(at),
        end_reason: Some(reason),
        update: None,
        ..alert
    }
}

fn windows(alert: &Alert) -> u32 {
    alert.scored_windows.saturating_add(alert.unknown_windows)
}

fn next_update(windows: u32) -> u32 {
    windows.saturating_add(windows.clamp(1, WINDOWS_BETWEEN_UPDATES))
}
