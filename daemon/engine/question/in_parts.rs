//! Answers a question about a long range: asks each part in turn, then combines the answers.
//!
//! Each part passes through the queue like any question, so other questions get their turns in
//! between. The question holds its queue slot until its end. The asker receives each part as soon
//! as it is answered. If the asker leaves, the future is dropped, which frees the slot.
//!
//! A part without frames is a gap of the answer, and so is a part on which the model fails. If no
//! part is answered, the asker gets the error.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::frames::{QueueSlot, Recipient};
use super::parts;
use super::pass::{Accepted, AnswerWithJpegs, Pass, Receiver};
use crate::config;
use crate::engine::Engine;
use crate::event::{
    Answer, AnswerPart, Coverage, FinishReason, FrameReference, Gap, GapCause, Inference,
    SummaryMethod, Timing, Usage,
};
use crate::frame::{Clock, Span};
use crate::journal::EventJpeg;
use crate::service::{AnswerItem, AskError};
use crate::slowfast::Plan;
use crate::timeline::{Selection, Tiers, TimeRange};

/// Settings for a summary, tried in order until the notes of all parts fit into the model's context
/// together with the pass over the whole range. Each has the factor by which the number of frames
/// is divided, and the maximum number of characters of each part's answer.
const SUMMARY_SETTINGS: [(usize, usize); 5] = [(1, 200), (2, 200), (4, 100), (8, 50), (8, 20)];

/// A question about a long range.
pub struct InParts {
    pub engine: Arc<Engine>,
    pub question: Accepted,
    /// The parts of the range, in order.
    pub parts: Vec<TimeRange>,
    /// A selection over the whole range. Its frames are used for the summary, its gaps for the
    /// coverage.
    pub overview: Selection,
}

/// The answers of the parts.
#[derive(Default)]
struct Answered {
    parts: Vec<AnswerPart>,
    passes: Vec<Inference>,
    jpegs: Vec<EventJpeg>,
    /// Parts that were not answered.
    gaps: Vec<Gap>,
}

impl InParts {
    /// Answers and publishes. Ends early if the asker leaves. `_slot` is held until the end.
    pub async fn run(self, _slot: QueueSlot) {
        let asker = self.question.to.clone();
        tokio::select! {
            biased;
            () = asker.closed() => {}
            answer = self.answer() => match answer {
                Ok(answer) => {
                    let Accepted { camera, turns, to, .. } = &self.question;
                    self.engine.publish(camera, turns, None, to, answer);
                }
                Err(error) => self.question.fail(error),
            },
        }
    }

    async fn answer(&self) -> Result<AnswerWithJpegs, AskError> {
        let Answered { parts, passes, mut jpegs, gaps } = self.answer_parts().await?;
        let of_parts = parts.iter().flat_map(|part| part.coverage.gaps.iter().cloned());
        let gaps = parts::gaps(self.overview.gaps(), of_parts.chain(gaps));
        // Only the model gives an answer by a schema.
        let has_schema = self.question.schema.is_some();
        let combined = if has_schema { None } else { parts::combine(&parts) };
        let (text, summary_method, summarised) = match combined {
            Some((text, method)) => (text, method, None),
            None => match self.summarise(&parts).await? {
                Some(AnswerWithJpegs { answer: pass, jpegs: more }) => {
                    jpegs.extend(more);
                    (pass.inference.text.clone(), SummaryMethod::Model, Some(pass))
                }
                None => (parts::list(&parts), SummaryMethod::List, None),
            },
        };
        if summarised.is_none() {
            let _ = self.question.to.try_send(AnswerItem::Token(text.clone()));
        }
        let parts = Combined { text, summary_method, summarised, parts, passes, gaps };
        Ok(AnswerWithJpegs { answer: self.combine(parts)?, jpegs })
    }

    /// Asks each part. Returns an error if none was answered.
    async fn answer_parts(&self) -> Result<Answered, AskError> {
        let Accepted { camera, text, to, .. } = &self.question;
        let mut answered = Answered::default();
        let mut failure = None;
        for range in &self.parts {
            let window = range.span;
            let mut missing = |cause| answered.gaps.push(Gap { span: window, cause });
            let Some(frames) = self.engine.select(camera, *range, Tiers::All) else {
                missing(GapCause::Evicted);
                continue;
            };
            match self.pass(frames, window, text.clone(), self.engine.plan, false).await {
                Ok(AnswerWithJpegs { answer: pass, jpegs }) => {
                    let Inference { text, coverage, .. } = &pass.inference;
                    let part =
                        AnswerPart { window, text: text.clone(), coverage: coverage.clone() };
                    let _ = to.try_send(AnswerItem::Part(Box::new(part.clone())));
                    answered.parts.push(part);
                    answered.passes.push(pass.inference);
                    answered.jpegs.extend(jpegs);
                }
                Err(AskError::NoFrames { .. }) => missing(GapCause::Evicted),
                Err(error @ (AskError::ModelFailedTemporarily(_) | AskError::ModelFailed(_))) => {
                    tracing::warn!(camera = &**camera, "one part has no answer: {error}");
                    missing(GapCause::ModelFailed);
                    failure = Some(error);
                }
                // A broken model stops the engine. The asker needs the reason for that.
                Err(AskError::Stopping) => return Err(failure.unwrap_or(AskError::Stopping)),
                Err(error) => return Err(error),
            }
        }
        if answered.parts.is_empty() {
            return Err(failure.unwrap_or_else(|| self.question.no_frames_left()));
        }
        Ok(answered)
    }

    /// Generates a summary of the parts with the model. Returns `None` if the parts are to be
    /// listed instead, and an error if an answer by a schema is asked for and cannot be made.
    async fn summarise(&self, parts: &[AnswerPart]) -> Result<Option<AnswerWithJpegs>, AskError> {
        if self.engine.answer_settings().summary == config::Summary::List {
            return Ok(None);
        }
        let Accepted { camera, text, window, schema, .. } = &self.question;
        for (fewer_frames, max_characters) in SUMMARY_SETTINGS {
            let prompt = parts::prompt(parts, max_characters, text);
            let plan = self.engine.plan.sparser(fewer_frames);
            let frames = self.overview.clone().sample(plan.frames);
            match self.pass(frames, *window, prompt, plan, true).await {
                Ok(pass) => return Ok(Some(pass)),
                // The prompt does not fit into the model's context.
                Err(AskError::InvalidQuestion(_)) => {}
                Err(why) if schema.is_some() => return Err(why),
                Err(why) => {
                    tracing::info!(camera = &**camera, "the parts are listed: {why}");
                    return Ok(None);
                }
            }
        }
        if schema.is_some() {
            return Err(AskError::InvalidQuestion(
                "the parts' answers do not fit into the model's context; ask about a shorter \
                 range, or with the detail \"overview\""
                    .into(),
            ));
        }
        tracing::info!(
            camera = &**camera,
            "the parts are listed: a summary does not fit into the model's context"
        );
        Ok(None)
    }

    /// Runs the model once, in the order of the queue.
    async fn pass(
        &self,
        frames: Selection,
        window: Span,
        prompt: String,
        plan: Plan,
        streams: bool,
    ) -> Result<AnswerWithJpegs, AskError> {
        let (result, answered) = oneshot::channel();
        let receiver = Receiver::InParts { result, streams };
        let question = self.question.clone();
        let pass = Pass { question, window, prompt, plan, receiver };
        self.engine.fetch_frames(frames, Recipient::Question { pass: Box::new(pass), slot: None });
        // A pass is dropped only while the engine stops.
        answered.await.unwrap_or(Err(AskError::Stopping))
    }

    /// Combines the passes to one answer.
    fn combine(&self, combined: Combined) -> Result<Answer, AskError> {
        let Combined { text, summary_method, summarised, parts, passes, gaps } = combined;
        let question = &self.question;
        let earlier_turns = summarised.as_ref().map_or(0, |pass| pass.earlier_turns);
        let summary = summarised.map(|pass| pass.inference);
        let passes: Vec<Inference> = passes.into_iter().chain(summary).collect();
        let last = passes.last().ok_or_else(|| question.no_frames_left())?;
        let frames = frames_of(&passes);
        let from_camera = passes.iter().all(|pass| pass.coverage.clock_source == Clock::Camera);
        // A reader of JSON needs to know if the text itself was cut, which is that of the last pass.
        let of_text = if question.schema.is_some() { passes.len() - 1 } else { 0 };
        let was_cut =
            passes[of_text..].iter().any(|pass| pass.finish_reason == FinishReason::Length);
        let times = || frames.iter().map(|frame| frame.captured_at);
        let covered_span = times().min().zip(times().max()).map(|(from, to)| Span { from, to });
        let inference = Inference {
            prompt: question.text.clone(),
            text,
            window: question.window,
            coverage: Coverage {
                frames_expected: parts.iter().map(|part| part.coverage.frames_expected).sum(),
                frames_used: frames.len() as u32,
                covered_span,
                gaps,
                clock_source: if from_camera { Clock::Camera } else { Clock::Host },
            },
            frames,
            model: last.model.clone(),
            devices: last.devices.clone(),
            finish_reason: if was_cut { FinishReason::Length } else { FinishReason::Stop },
            usage: usage_of(&passes),
            timing: timing_of(&passes, question.asked_at.elapsed().as_secs_f64()),
        };
        Ok(Answer {
            inference,
            question_id: question.id.clone(),
            conversation: question.conversation.clone(),
            earlier_turns,
            parts,
            summary_method: Some(summary_method),
            yes_score: None,
            schema_sha256: question.schema.as_ref().map(|schema| schema.sha256().into()),
            trace_parent: question.trace_parent,
        })
    }
}

/// The parts of an answer, before they are combined.
struct Combined {
    text: String,
    summary_method: SummaryMethod,
    /// The model's summary, if there is one.
    summarised: Option<Answer>,
    parts: Vec<AnswerPart>,
    passes: Vec<Inference>,
    gaps: Vec<Gap>,
}

/// Returns every frame once, in order. A frame is slow if any pass used it as a slow one.
fn frames_of(passes: &[Inference]) -> Vec<FrameReference> {
    let mut frames = BTreeMap::new();
    for frame in passes.iter().flat_map(|pass| &pass.frames) {
        let known = frames.entry(frame.id).or_insert_with(|| frame.clone());
        known.slow |= frame.slow;
    }
    frames.into_values().collect()
}

fn usage_of(passes: &[Inference]) -> Usage {
    passes.iter().fold(Usage::default(), |sum, pass| Usage {
        video_tokens: sum.video_tokens + pass.usage.video_tokens,
        text_tokens: sum.text_tokens + pass.usage.text_tokens,
        new_tokens: sum.new_tokens + pass.usage.new_tokens,
        cached_tokens: sum.cached_tokens + pass.usage.cached_tokens,
    })
}

/// Returns the timing of all passes together. What is not spent in the model is waiting.
fn timing_of(passes: &[Inference], total_seconds: f64) -> Timing {
    let sum = |seconds: fn(&Timing) -> f64| passes.iter().map(|pass| seconds(&pass.timing)).sum();
    let prefill_seconds: f64 = sum(|timing| timing.prefill_seconds);
    let decode_seconds: f64 = sum(|timing| timing.decode_seconds);
    Timing {
        wait_seconds: (total_seconds - prefill_seconds - decode_seconds).max(0.0),
        encode_seconds: sum(|timing| timing.encode_seconds),
        prefill_seconds,
        decode_seconds,
        total_seconds,
    }
}

#[cfg(test)]
mod tests;
