//! Takes jobs from the scheduler, and records how they ended.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Running;
use crate::engine::Engine;
use crate::engine::job::{Job, Window};
use crate::engine::scheduler::{Job as _, Purpose};
use crate::heartbeat::Worker;
use crate::language::{Failure, Room};
use crate::metrics::{self, FailureKind, SkipReason};
use crate::service::AskError;

/// Maximum time that an idle worker sleeps, so that its heartbeat continues.
const TICK: Duration = Duration::from_secs(1);

impl Engine {
    /// Returns the next job that there is room for. If the worker is idle, waits for one; `None`
    /// then means that the engine stops. In any case, waiting questions get an error when the engine
    /// stops.
    pub(super) fn next_job(&self, room: Room, is_idle: bool) -> Option<Job> {
        let mut jobs = self.jobs();
        loop {
            self.heartbeats.beat(Worker::Language);
            if room == Room::Any {
                for late in jobs.scheduler.late(self.started.elapsed()) {
                    self.skip(late.camera(), SkipReason::Late);
                }
            }
            let next = match room {
                _ if jobs.stopping => jobs.scheduler.take(),
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
                    jobs = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => return None,
            }
        }
    }

    /// Abandons a window's caption that was taken.
    pub(super) fn no_caption(&self, window: &Window, reason: SkipReason) {
        self.skip(&window.camera, reason);
        self.jobs().scheduler.done(&window.camera, Purpose::Caption);
    }

    /// Handles a failure of the model on one job. Other jobs continue.
    pub(super) fn fail_job(&self, job: Job, failure: Failure) {
        let (kind, skipped, error) = match &failure {
            Failure::Run(why) => (
                FailureKind::Run,
                SkipReason::Failed,
                AskError::ModelFailedTemporarily(why.clone()),
            ),
            Failure::NotFinite => {
                let error = AskError::ModelFailed(failure.to_string());
                (FailureKind::NotFinite, SkipReason::NotFinite, error)
            }
        };
        metrics::model_failed("language", kind);
        match job {
            Job::Caption(window) => {
                tracing::warn!(camera = &*window.camera, "no caption: {failure}");
                self.no_caption(&window, skipped);
            }
            Job::Question(asked) => {
                tracing::warn!(camera = &*asked.camera, "no answer: {failure}");
                asked.fail(error);
            }
        }
    }

    /// Stops the engine because a worker cannot continue. Waiting questions get `why` as the error.
    pub fn broken(&self, why: &str) {
        let mut jobs = self.jobs();
        jobs.stopping = true;
        let asked: Vec<Job> = std::iter::from_fn(|| jobs.scheduler.take_question()).collect();
        metrics::waiting_jobs(jobs.scheduler.waiting());
        drop(jobs);
        asked.into_iter().for_each(|asked| asked.fail(AskError::ModelFailed(why.into())));
        self.wake.notify_all();
    }

    /// Records how long a job took. `alone` is the part of that time in which no other job was
    /// finished.
    pub(super) fn took(&self, running: &Running, finished: Instant, alone: Duration) {
        let scheduler = &mut self.jobs().scheduler;
        scheduler.job_took(alone);
        match running.job.purpose() {
            Purpose::Question => {}
            purpose => scheduler.window_took(purpose, finished - running.admitted),
        }
    }
}
