//! Tries a rule on the past: scores its question on every window of a range of the buffer, and runs
//! the watcher of live rules on the scores.
//!
//! Guarantees: nothing is published. A window waits behind every other job of the model, and at most
//! one window of a trial is in work. If the client goes, the trial ends within a step of the model.
//! A window that has no score has a cause.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Engine;
use super::cameras::Camera;
use super::question::frames::Recipient;
use super::question::no_frames;
use super::trial_window::{ScoredClip, TrialWindow};
use crate::config::Rule;
use crate::event::{Body, FrameReference, Gap, GapCause};
use crate::frame::{FrameId, Span};
use crate::rules::{ScoredWindow, Watcher, new_id};
use crate::service::{
    AskError, Trial, TrialError, TrialItem, TrialRequest, TrialStream, TriedResult, TriedWindow,
};
use crate::timeline::{Clip, ClipFrame, FrameData, Tiers, TimeRange};

/// Number of items that wait for a client that reads slowly. The trial then waits.
const ITEMS: usize = 16;

/// Maximum number of windows of a trial, more than three days of a window every 4 s.
const WINDOWS: usize = 100_000;

/// A trial in progress.
struct Trying {
    engine: Arc<Engine>,
    camera: Arc<Camera>,
    rule: Arc<Rule>,
    range: TimeRange,
    windows: Vec<Span>,
    /// The gaps of the whole range.
    gaps: Vec<Gap>,
    /// Data of the frames of the last window, which the next one may share.
    known: Arc<HashMap<FrameId, FrameData>>,
    /// The place among the trials, which is free when this is dropped.
    _place: OwnedSemaphorePermit,
}

impl Engine {
    /// Begins to try a rule, or returns the reason for a refusal.
    pub fn try_rule(self: &Arc<Engine>, request: TrialRequest) -> Result<TrialStream, TrialError> {
        let TrialRequest { camera, rule, changes, range } = request;
        let camera =
            self.cameras.get(&camera).ok_or_else(|| AskError::CameraNotFound(camera.clone()))?;
        let base = match rule {
            Some(name) => Some(self.rules.get(&name).ok_or(TrialError::RuleNotFound(name))?),
            None => None,
        };
        let rule = Rule::changed(base.as_deref(), changes);
        let rule = Arc::new(rule.map_err(|error| TrialError::InvalidRule(error.to_string()))?);
        let range = self.time_range(&camera, range)?;
        self.is_restored(&camera, range.span)?;
        let whole = self.select(&camera.name, range, Tiers::All);
        let whole = whole.ok_or_else(|| no_frames(&camera, range.span))?;
        let half = camera.settings.period.0 / 2;
        let there = Span {
            from: (whole.available_span.from - half).max(range.span.from),
            to: (whole.available_span.to + half).min(range.span.to),
        };
        let (length, interval) = (camera.settings.window, camera.settings.interval);
        // Frames do not come at exact times: the last one may be a little early.
        let fitting = Span { to: there.to + half / 2, ..there };
        let windows: Vec<Span> = windows(fitting, length, interval).take(WINDOWS + 1).collect();
        if windows.is_empty() || windows.len() > WINDOWS {
            return Err(AskError::InvalidQuestion(format!(
                "the frames in the range cover {}: wanted at least one window, {}, and at most \
                 {WINDOWS} windows",
                humantime::format_duration(there.length()),
                humantime::format_duration(length),
            ))
            .into());
        }
        let place = self.trials.clone().try_acquire_owned();
        let trying = Trying {
            engine: self.clone(),
            camera,
            rule,
            range,
            windows,
            gaps: whole.gaps().to_vec(),
            known: Arc::default(),
            _place: place.map_err(|_| TrialError::TooManyTrials)?,
        };
        let (to, items) = mpsc::channel(ITEMS);
        self.spawn(trying.run(there, to));
        Ok(items)
    }
}

impl Trying {
    async fn run(mut self, there: Span, to: mpsc::Sender<TrialItem>) {
        let ended = tokio::select! {
            biased;
            () = to.closed() => Ok(()),
            ended = self.score_windows(there, &to) => ended,
        };
        if let Err(error) = ended {
            // A client that has gone needs no error.
            let _ = to.send(TrialItem::Failed(error)).await;
        }
    }

    async fn score_windows(
        &mut self,
        there: Span,
        to: &mpsc::Sender<TrialItem>,
    ) -> Result<(), AskError> {
        let windows = std::mem::take(&mut self.windows);
        let started = Trial {
            camera: self.camera.name.clone(),
            rule: self.rule.name.clone(),
            question: self.rule.question.clone(),
            thresholds: self.rule.thresholds,
            temperature: self.rule.temperature,
            span: there,
            windows: windows.len() as u32,
        };
        // `run` notices that the client has gone.
        let _ = to.send(TrialItem::Started(Box::new(started))).await;
        let mut watcher = Watcher::new(self.rule.clone(), self.camera.name.clone());
        for window in windows {
            let (is_due, ended) = watcher.is_due(window.to);
            let mut bodies: Vec<Body> = ended.into_iter().collect();
            let result = if is_due {
                let (result, more) = self.watch(&mut watcher, window).await?;
                bodies.extend(more);
                result
            } else {
                TriedResult::OffSchedule
            };
            let _ = to.send(TrialItem::Window(TriedWindow { window, result })).await;
            for body in bodies {
                if let Body::Alert(alert) = body {
                    let _ = to.send(TrialItem::Alert(Box::new(alert))).await;
                }
            }
        }
        Ok(())
    }

    /// Scores a window, and gives the result to the watcher.
    async fn watch(
        &mut self,
        watcher: &mut Watcher,
        window: Span,
    ) -> Result<(TriedResult, Vec<Body>), AskError> {
        let unknown = |watcher: &mut Watcher, cause| {
            (TriedResult::Unknown(cause), watcher.unknown(window.to))
        };
        let ScoredClip { clip, score } = match self.score(window).await {
            Ok(scored) => scored,
            Err(AskError::NoFrames { .. }) => {
                return Ok(unknown(watcher, cause(&self.gaps, window, GapCause::Evicted)));
            }
            Err(AskError::ModelFailedTemporarily(_) | AskError::ModelFailed(_)) => {
                return Ok(unknown(watcher, GapCause::ModelFailed));
            }
            Err(error) => return Err(error),
        };
        let data = |(reference, frame): (&FrameReference, &ClipFrame)| {
            let tokens = Some(frame.tokens.clone());
            (reference.id, FrameData { tokens, jpeg: frame.jpeg.clone() })
        };
        self.known = Arc::new(clip.references.iter().zip(&clip.frames).map(data).collect());
        let Clip { references: frames, coverage, .. } = clip;
        let unseen = cause(&coverage.gaps, window, GapCause::Evicted);
        let scored = ScoredWindow { window, coverage, frames, jpegs: Vec::new() };
        let bodies = watcher.scored(&scored, score, new_id);
        let result = match watcher.score() {
            Some((at, score)) if at == window.to => TriedResult::Score(score),
            _ => TriedResult::Unknown(unseen),
        };
        Ok((result, bodies))
    }

    async fn score(&self, window: Span) -> Result<ScoredClip, AskError> {
        let camera = &self.camera.name;
        if self.engine.cameras.get(camera).is_none() {
            return Err(AskError::CameraNotFound(camera.to_string()));
        }
        let frames = self.engine.select(camera, self.range.part(window), Tiers::All);
        let frames = frames.ok_or_else(|| no_frames(&self.camera, window))?;
        let (result, scored) = oneshot::channel();
        let trial = TrialWindow {
            camera: camera.clone(),
            question: self.rule.question.clone(),
            known: self.known.clone(),
            result,
        };
        self.engine.fetch_frames(frames, Recipient::Trial(trial));
        // A window is dropped only while the engine stops.
        scored.await.unwrap_or(Err(AskError::Stopping))
    }
}

/// Returns the windows within a span: the first begins with it, and each further one an interval
/// later.
fn windows(there: Span, length: Duration, interval: Duration) -> impl Iterator<Item = Span> {
    let next = move |to: &SystemTime| to.checked_add(interval);
    std::iter::successors(there.from.checked_add(length), next)
        .take_while(move |to| *to <= there.to)
        .map(move |to| Span { from: to - length, to })
}

/// Returns the cause of the gap that takes the most of a window.
fn cause(gaps: &[Gap], window: Span, otherwise: GapCause) -> GapCause {
    let within = |gap: &&Gap| {
        let (from, to) = (gap.span.from.max(window.from), gap.span.to.min(window.to));
        to.duration_since(from).unwrap_or_default()
    };
    let largest = gaps.iter().filter(|gap| !within(gap).is_zero()).max_by_key(within);
    largest.map_or(otherwise, |gap| gap.cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    fn span(from: u64, to: u64) -> Span {
        Span { from: at(from), to: at(to) }
    }

    #[test]
    fn windows_follow_each_other_at_the_interval() {
        let of = |to| {
            let (length, interval) = (Duration::from_secs(8), Duration::from_secs(4));
            windows(span(500, to), length, interval).collect::<Vec<_>>()
        };
        assert_eq!(of(8_499), []);
        assert_eq!(of(8_500), [span(500, 8_500)]);
        assert_eq!(of(17_000), [span(500, 8_500), span(4_500, 12_500), span(8_500, 16_500)]);
    }

    #[test]
    fn the_largest_gap_in_a_window_is_the_cause() {
        let gap = |from, to, cause| Gap { span: span(from, to), cause };
        let gaps = [
            gap(0, 5_000, GapCause::BeforeStart),
            gap(6_000, 7_000, GapCause::Overload),
            gap(7_000, 9_000, GapCause::CameraDown),
        ];
        let cause = |from, to| cause(&gaps, span(from, to), GapCause::Evicted);
        assert_eq!(cause(4_500, 8_500), GapCause::CameraDown);
        assert_eq!(cause(4_500, 7_500), GapCause::Overload);
        assert_eq!(cause(0, 9_000), GapCause::BeforeStart);
        assert_eq!(cause(9_000, 12_000), GapCause::Evicted);
    }
}
