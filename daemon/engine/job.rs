//! Defines the jobs of the language worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question::pass::PendingQuestion;
use super::scheduler::{self, Purpose};
use crate::service::AskError;
use crate::timeline::TimeRange;

/// Work for the language worker.
pub enum Job {
    Question(Box<PendingQuestion>),
    Caption(Window),
}

/// A closed window that is to be captioned.
pub struct Window {
    pub camera: Arc<str>,
    pub range: TimeRange,
    pub closed: Instant,
    /// Model time of the window's last frame.
    pub encode: Duration,
}

impl Job {
    /// Returns false for a question that no client waits for any more.
    pub fn is_wanted(&self) -> bool {
        match self {
            Job::Question(question) => !question.to.is_closed(),
            Job::Caption(_) => true,
        }
    }

    /// Returns true for a pass of a question in parts, which holds its queue slot until its end.
    pub fn is_part(&self) -> bool {
        matches!(self, Job::Question(question) if question.is_part())
    }

    /// Reports an error that the asker did not cause, if the job has an asker.
    pub fn fail(self, error: AskError) {
        if let Job::Question(question) = self {
            question.fail(error);
        }
    }
}

impl scheduler::Job for Job {
    type Camera = Arc<str>;

    fn camera(&self) -> &Arc<str> {
        match self {
            Job::Question(question) => &question.camera,
            Job::Caption(window) => &window.camera,
        }
    }

    fn purpose(&self) -> Purpose {
        match self {
            Job::Question(_) => Purpose::Question,
            Job::Caption(_) => Purpose::Caption,
        }
    }
}
