//! The state machine of one rule for one camera. Pure: it knows scores and times of windows only.
//!
//! ```text
//!             score ≥ on          N of M                       N of M < off
//!   idle ────────────────► pending ──────► active ──────────────────► (ended) ─► cooldown ─► idle
//! ```
//!
//! Guarantees:
//! - An alert begins with a window that reaches `on`, as the Nth of the last M windows.
//! - An alert ends with a window below `off`, as the Nth of the last M windows since it began.
//!   Scores from `off` to below `on` change nothing.
//! - A window that could not be scored takes a place among the M and counts for neither side.
//! - Windows within the cooldown do not count.
//!
//! Times are those of the windows. A clock that is set back delays nothing by more than the
//! configured durations.

use std::collections::VecDeque;
use std::time::SystemTime;

use crate::config::Thresholds;
use crate::event::{ScorePoint, Sight};
use crate::service::RuleState;

pub struct Machine {
    thresholds: Thresholds,
    phase: Phase,
    /// The newest windows, at most `among`: since the last change of the phase.
    newest: VecDeque<ScorePoint>,
    /// End of the last window that was scored, or of the first window.
    seen_at: Option<SystemTime>,
    is_blind: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Watching,
    Active,
    Cooldown { until: SystemTime },
}

/// The result of a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    pub change: Option<Change>,
    /// A change of sight, and the time since when.
    pub sight: Option<(Sight, SystemTime)>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An alert begins. The points begin with the first window that reached `on`.
    Begin(Vec<ScorePoint>),
    End,
}

impl Machine {
    pub fn new(thresholds: Thresholds) -> Machine {
        Machine {
            thresholds,
            phase: Phase::Watching,
            newest: VecDeque::new(),
            seen_at: None,
            is_blind: false,
        }
    }

    /// Continues an alert that an earlier run began.
    pub fn resume(&mut self) {
        self.phase = Phase::Active;
        self.newest.clear();
    }

    /// Takes the next window: its end, and its score, or `None` if it could not be scored.
    pub fn step(&mut self, at: SystemTime, score: Option<f64>) -> Step {
        Step { sight: self.see(at, score.is_some()), change: self.count(at, score) }
    }

    /// Stops the rule, because its schedule ended. Returns true if this ends an alert.
    pub fn suspend(&mut self) -> bool {
        let was_active = self.phase == Phase::Active;
        *self = Machine::new(self.thresholds);
        was_active
    }

    pub fn state(&self) -> RuleState {
        match self.phase {
            Phase::Active => RuleState::Active,
            Phase::Cooldown { .. } => RuleState::Cooldown,
            Phase::Watching if self.newest.iter().any(|point| self.is_on(point)) => {
                RuleState::Pending
            }
            Phase::Watching => RuleState::Idle,
        }
    }

    pub fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Returns true if a window has closed, or the rule is known to be blind.
    pub fn has_begun(&self) -> bool {
        self.seen_at.is_some()
    }

    /// Reports that the rule is blind, because no window has closed for longer than `hold`.
    pub fn lose_sight(&mut self, since: SystemTime) {
        self.seen_at = Some(since);
        self.is_blind = true;
    }

    fn see(&mut self, at: SystemTime, is_scored: bool) -> Option<(Sight, SystemTime)> {
        if is_scored {
            self.seen_at = Some(at);
            return std::mem::take(&mut self.is_blind).then_some((Sight::Seeing, at));
        }
        let since = self.seen_at.map_or(at, |seen| seen.min(at));
        self.seen_at = Some(since);
        let unseen = at.duration_since(since).unwrap_or_default();
        if self.is_blind || unseen <= self.thresholds.hold {
            return None;
        }
        self.is_blind = true;
        Some((Sight::Blind, since))
    }

    fn count(&mut self, at: SystemTime, score: Option<f64>) -> Option<Change> {
        let Thresholds { off, needed, among, cooldown, .. } = self.thresholds;
        if let Phase::Cooldown { until } = &mut self.phase {
            *until = (*until).min(at + cooldown);
            if at < *until {
                return None;
            }
            self.phase = Phase::Watching;
        }
        self.newest.push_back(ScorePoint { at, score });
        if self.newest.len() > among {
            self.newest.pop_front();
        }
        let is_active = self.phase == Phase::Active;
        let counts = |point: &ScorePoint| match is_active {
            true => point.score.is_some_and(|score| score < off),
            false => self.is_on(point),
        };
        let counted = self.newest.iter().filter(|point| counts(point)).count();
        if counted < needed {
            return None;
        }
        let first = self.newest.iter().position(counts).unwrap_or(0);
        let points = self.newest.drain(..).skip(first).collect();
        if is_active {
            self.phase = Phase::Cooldown { until: at + cooldown };
            return Some(Change::End);
        }
        self.phase = Phase::Active;
        Some(Change::Begin(points))
    }

    fn is_on(&self, point: &ScorePoint) -> bool {
        point.score.is_some_and(|score| score >= self.thresholds.on)
    }
}

#[cfg(test)]
mod tests;
