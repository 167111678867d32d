//! A window to ask the language model about, and the model set up for that as in the daemon. The
//! one difference: an answer does not end early, so that it always has the same number of tokens.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;

use crate::config::{self, Sampling};
use crate::language::{
    Budget, LanguageBackend, LanguageModel, Limits, Output, PrefixFrame, Reply, Request, Schema,
    Scored, Task, Urgency,
};
use crate::model::{Package, Runtime};
use crate::slowfast::VideoTokens;

pub const QUESTIONS: [&str; 8] = [
    "What is happening?",
    "How many people are there?",
    "What do they carry?",
    "Is the gate open or closed?",
    "Which way do the cars go?",
    "Has anything changed since the beginning?",
    "Is anybody running?",
    "What is the weather like?",
];
/// Tokens of template and question, at most.
const TEXT_ROOM: usize = 256;

pub struct Window {
    pub video: VideoTokens,
    seen: PrefixFrame,
}

impl Window {
    /// Creates a window. Equal numbers stand for the same frames.
    pub fn new(video: VideoTokens, number: u64) -> Window {
        let seen =
            PrefixFrame { camera: "bench".into(), run: 0, number, slow: true, reencoded: false };
        Window { video, seen }
    }

    pub fn request(&self, question: usize, tokens: usize) -> Request<'_> {
        self.request_by(question, tokens, None)
    }

    /// Returns the request for an answer that follows a schema.
    pub fn request_by<'a>(
        &'a self,
        question: usize,
        tokens: usize,
        schema: Option<&'a Schema>,
    ) -> Request<'a> {
        Request {
            video: &self.video,
            prefix_frames: Some([self.seen.clone()].into()),
            jpegs: None,
            task: Task::Text {
                turns: &[],
                prompt: QUESTIONS[question],
                limits: Limits { max_new_tokens: tokens, sampling: Sampling::Greedy },
                schema,
            },
            urgency: Urgency::Now,
        }
    }

    /// Returns the request to score questions about the window.
    pub fn scores<'a>(&'a self, questions: &'a [Arc<str>]) -> Request<'a> {
        Request { task: Task::Scores { questions }, ..self.request(0, 0) }
    }
}

/// Loads the language model for one answer at a time, of at most `tokens` tokens; the prefix of one
/// window is kept.
pub fn language(
    runtime: &Runtime,
    package: &mut Package,
    model: &config::Model,
    tokens: usize,
) -> anyhow::Result<LanguageModel> {
    package.end_tokens.clear();
    let text = &package.text;
    let token_bytes = 2 * text.layers * text.kv_heads * text.head_dim * size_of::<f32>();
    let video = model.plan.video_tokens(model.plan.frames, package.vision.grid_tokens)?;
    // One window, and the template's text before it.
    let prefix_bytes = token_bytes * (video + TEXT_ROOM);
    let budget = Budget { max_new_tokens: tokens, slots: 1, prefix_bytes };
    Ok(LanguageModel::load(runtime, package, model, &config::Wording::default(), budget)?)
}

/// An answer, and the time of reading its prompt and of generating it.
pub struct Answered {
    pub read: Duration,
    pub written: Duration,
    pub reply: Reply,
}

/// Asks one question. `clock` measures the times and may be the model's own clock.
pub fn ask(
    language: &mut LanguageModel,
    request: Request<'_>,
    clock: impl Fn(&LanguageModel) -> Duration,
) -> anyhow::Result<Answered> {
    let mut reply = None;
    let mut on_output = |_, output: Output<'_>| {
        if let Output::Finished(finished) = output {
            reply = Some(finished);
        }
    };
    let begun = clock(language);
    language.submit(request)?;
    while language.unread() > 0 {
        language.poll(&mut on_output)?;
    }
    let read = clock(language);
    while language.sequences() > 0 {
        language.poll(&mut on_output)?;
    }
    let reply = reply.ok_or_else(|| anyhow!("no answer"))?;
    Ok(Answered { read: read - begun, written: clock(language) - read, reply })
}

/// Scores questions.
pub fn score(language: &mut LanguageModel, request: Request<'_>) -> anyhow::Result<Scored> {
    let mut scores = None;
    language.submit(request)?;
    while language.sequences() > 0 {
        language.poll(&mut |_, output| {
            if let Output::Scored(scored) = output {
                scores = Some(scored);
            }
        })?;
    }
    scores.ok_or_else(|| anyhow!("no scores"))
}
