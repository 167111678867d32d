//! Takes jobs from the scheduler, and records how they ended.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{Running, measure_tokens};
use crate::config::Rule;
use crate::engine::Engine;
use crate::engine::job::{Job, RulesOfWindow};
use crate::engine::scheduler::{Job as _, Purpose};
use crate::heartbeat::Worker;
use crate::language::{Failure, Room, Scored};
use crate::metrics::{self, FailureKind, SkipReason, Stage};
use crate::rules::ScoredWindow;
use crate::service::AskError;
use crate::timeline::Clip;

/// Maximum time that an idle worker sleeps, so that its heartbeat continues.
const TICK: Duration = Duration::from_secs(1);

impl Engine {
    /// Returns the next job that there is room for. If the worker is idle, waits for one; `None`
    /// then means that the engine stops. In any case, waiting questions get an error when the engine
    /// stops.
    pub(super) fn next_job(&self, room: Room, is_idle: bool) -> Option<Job> {
        loop {
            self.heartbeats.beat(Worker::Language);
            if room == Room::Any {
                let late = self.jobs().scheduler.late(self.started.elapsed());
                late.iter().for_each(|job| self.skip(job, SkipReason::Late));
            }
            let mut jobs = self.jobs();
            let next = match room {
                _ if jobs.stopping => jobs.scheduler.withdraw(),
                Room::Any if is_idle => {
                    jobs.scheduler.take().or_else(|| jobs.scheduler.take_background())
                }
                Room::Any => jobs.scheduler.take(),
                Room::Question => jobs.scheduler.take_question(),
                Room::Nothing => None,
            };
            metrics::waiting_jobs(jobs.scheduler.waiting());
            match next {
                Some(next) if !next.is_wanted() => {}
                Some(next) if jobs.stopping => next.fail(AskError::Stopping),
                Some(next) => return Some(next),
                None if is_idle && !jobs.stopping => {
                    let woken = self.wake.wait_timeout(jobs, TICK);
                    drop(woken.unwrap_or_else(PoisonError::into_inner));
                }
                None => return None,
            }
        }
    }

    /// Abandons a job about a window that was taken.
    pub(super) fn abandon(&self, job: &Job, reason: SkipReason) {
        self.skip(job, reason);
        self.jobs().scheduler.done(job.camera(), job.purpose());
    }

    /// Handles a failure on one job, of the model or of the question's schema. Other jobs continue.
    pub(super) fn fail_job(&self, job: Job, failure: Failure) {
        let (kind, skipped, error) = match &failure {
            Failure::Run(why) => (
                FailureKind::Run,
                SkipReason::Failed,
                AskError::ModelFailedTemporarily(why.clone()),
            ),
            Failure::Server(why) => (
                FailureKind::Server,
                SkipReason::Server,
                AskError::ModelFailedTemporarily(why.clone()),
            ),
            Failure::NotFinite => {
                let error = AskError::ModelFailed(failure.to_string());
                (FailureKind::NotFinite, SkipReason::NotFinite, error)
            }
            Failure::Schema(why) => {
                // Only questions have schemas.
                job.fail(AskError::InvalidField { field: "schema", why: why.to_string() });
                return;
            }
        };
        metrics::model_failed("language", kind);
        tracing::warn!(camera = &**job.camera(), "no {}: {failure}", job.result());
        match job {
            Job::Caption(_) | Job::Rules(_) => self.abandon(&job, skipped),
            Job::Question(_) | Job::Trial(_) => job.fail(error),
        }
    }

    /// Delivers the scores of a window's rules.
    pub(super) fn rules_scored(&self, of_window: RulesOfWindow, clip: Clip, scored: Scored) {
        let RulesOfWindow { window, rules } = of_window;
        let camera = &window.camera;
        let wait = scored.started.saturating_duration_since(window.closed);
        metrics::stage(camera, Stage::RulesWait, wait);
        metrics::stage(camera, Stage::RulesScore, scored.prefill);
        measure_tokens(camera, scored.usage);
        let scored_at = scored.started + scored.prefill;
        let scores: Vec<(Arc<Rule>, f64)> = rules.into_iter().zip(scored.scores).collect();
        let jpegs = self.jpegs_of(camera, &clip);
        let span = window.range.span;
        let (coverage, frames) = (clip.coverage.clone(), clip.references.clone());
        let window = ScoredWindow { window: span, coverage, frames, jpegs };
        let begun = self.rules.window_scored(camera, &window, &scores);
        metrics::stage(camera, Stage::RulesPublish, scored_at.elapsed());
        for (alert_id, rule) in begun {
            self.describe((camera, alert_id), &rule, span, &clip);
        }
        self.jobs().scheduler.done(camera, Purpose::Rules);
    }

    /// Stops the engine because a worker cannot continue. Waiting questions get `why` as the error.
    pub fn broken(&self, why: &str) {
        let mut jobs = self.jobs();
        jobs.stopping = true;
        let asked: Vec<Job> = std::iter::from_fn(|| jobs.scheduler.withdraw()).collect();
        metrics::waiting_jobs(jobs.scheduler.waiting());
        drop(jobs);
        asked.into_iter().for_each(|asked| asked.fail(AskError::ModelFailed(why.into())));
        self.wake.notify_all();
    }

    /// Records how long a job took. `alone` is the part of that time in which no other job was
    /// finished.
    pub(super) fn took(&self, running: &Running, finished: Instant, alone: Duration) {
        let scheduler = &mut self.jobs().scheduler;
        match running.job.purpose() {
            Purpose::Background => return,
            _ => scheduler.job_took(alone),
        }
        match running.job.purpose() {
            Purpose::Question | Purpose::Background => {}
            purpose => scheduler.window_took(purpose, finished - running.admitted),
        }
    }
}
