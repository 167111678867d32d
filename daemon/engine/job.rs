//! Defines the jobs of the language worker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question::pass::PendingQuestion;
use super::scheduler::{self, Purpose};
use super::trial_window::TrialWindow;
use crate::config::Rule;
use crate::service::AskError;
use crate::timeline::{Clip, TimeRange};

/// Work for the language worker.
pub enum Job {
    Question(Box<PendingQuestion>),
    Caption(Window),
    Rules(Box<RulesOfWindow>),
    /// A window of the past on which a rule is tried, with its frames.
    Trial(Box<(TrialWindow, Clip)>),
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
    /// Number of the window among those of its camera that are to get a caption; 0 if it is not.
    pub number: u64,
    pub closed: Instant,
    /// Model time of the window's last frame.
    pub encode: Duration,
}

impl Job {
    /// Returns false for a question or a trial that no client waits for any more.
    pub fn is_wanted(&self) -> bool {
        match self {
            Job::Question(question) => !question.to.is_closed(),
            Job::Trial(trial) => trial.0.is_wanted(),
            Job::Caption(_) | Job::Rules(_) => true,
        }
    }

    /// Returns the window that has just closed and that the job is about. Other jobs have none.
    pub fn window(&self) -> Option<&Window> {
        match self {
            Job::Question(_) | Job::Trial(_) => None,
            Job::Caption(window) => Some(window),
            Job::Rules(of_window) => Some(&of_window.window),
        }
    }

    /// Returns the name of the job's result.
    pub fn result(&self) -> &'static str {
        match self {
            Job::Question(_) => "answer",
            Job::Caption(_) => "caption",
            Job::Rules(_) | Job::Trial(_) => "scores",
        }
    }

    /// Returns true for a pass of a question in parts, which holds its queue slot until its end.
    pub fn is_part(&self) -> bool {
        matches!(self, Job::Question(question) if question.is_part())
    }

    /// Reports an error that the asker did not cause, if the job has an asker.
    pub fn fail(self, error: AskError) {
        match self {
            Job::Question(question) => question.fail(error),
            Job::Trial(trial) => trial.0.fail(error),
            Job::Caption(_) | Job::Rules(_) => {}
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
            Job::Trial(trial) => &trial.0.camera,
        }
    }

    fn purpose(&self) -> Purpose {
        match self {
            Job::Question(_) => Purpose::Question,
            Job::Caption(_) => Purpose::Caption,
            Job::Rules(_) => Purpose::Rules,
            Job::Trial(_) => Purpose::Background,
        }
    }
}
