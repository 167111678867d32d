//! Defines the jobs of the language worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question::pass::PendingQuestion;
use super::scheduler::{self, Purpose};
use crate::config::Rule;
use crate::service::AskError;
use crate::timeline::TimeRange;

/// Work for the language worker.
pub enum Job {
    Question(Box<PendingQuestion>),
    Caption(Window),
    Rules(Box<RulesOfWindow>),
}

/// The rules whose questions are to be scored on a window.
pub struct RulesOfWindow {
    pub window: Window,
    /// The rules, at least one.
    pub rules: Vec<Arc<Rule>>,
}

/// A closed window.
#[derive(Clone)]
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
            Job::Caption(_) | Job::Rules(_) => true,
        }
    }

    /// Returns the window that the job is about. A question has none.
    pub fn window(&self) -> Option<&Window> {
        match self {
            Job::Question(_) => None,
            Job::Caption(window) => Some(window),
            Job::Rules(of_window) => Some(&of_window.window),
        }
    }

    /// Returns the name of the job's result.
    pub fn result(&self) -> &'static str {
        match self {
            Job::Question(_) => "answer",
            Job::Caption(_) => "caption",
            Job::Rules(_) => "scores",
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
            Job::Rules(of_window) => &of_window.window.camera,
        }
    }

    fn purpose(&self) -> Purpose {
        match self {
            Job::Question(_) => Purpose::Question,
            Job::Caption(_) => Purpose::Caption,
            Job::Rules(_) => Purpose::Rules,
        }
    }
}
