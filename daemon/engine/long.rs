//! A question about a range that is looked at in parts: one part after the other through the queue
//! like any question, so that others have their turns between; then what they say together.
//!
//! It holds its place of the queue until its end. Its asker hears each part as it is answered, and
//! frees the place by leaving.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::parts;
use super::recall::Seat;
use super::{Asked, Engine, Then};
use crate::config;
use crate::event::{Coverage, Description, Finish, FrameRef, Part, Summary, Timing, Usage};
use crate::frame::{Clock, Span};
use crate::service::{AnswerItem, AskError};
use crate::timeline::{Chosen, Extent, Tiers};

pub struct Long {
    pub engine: Arc<Engine>,
    /// The question, about the whole.
    pub asked: Question,
    /// One look at the whole range: its frames for the summary, its gaps for the coverage.
    pub overview: Chosen,
    pub left: VecDeque<Extent>,
    pub answered: Vec<(Part, Description)>,
    pub seat: Seat,
}

/// What all its parts share.
#[derive(Clone)]
pub struct Question {
    pub camera: Arc<str>,
    pub id: String,
    pub text: String,
    pub conversation: String,
    pub turns: Arc<[crate::language::Turn]>,
    pub max_new_tokens: usize,
    pub window: Span,
    pub came: Instant,
    pub to: tokio::sync::mpsc::Sender<AnswerItem>,
}

impl Question {
    /// One look at the whole window, and that is the answer.
    pub fn one_look(self) -> super::recall::Pending {
        let (window, prompt) = (self.window, self.text.clone());
        self.look(window, prompt, true, None)
    }

    /// A look at `window`, with what is then to be done.
    fn look(
        self,
        window: Span,
        prompt: String,
        speaks: bool,
        then: Option<Then>,
    ) -> super::recall::Pending {
        Box::new(move |clip, encode| Asked {
            camera: self.camera,
            id: self.id,
            text: self.text,
            prompt,
            turns: if speaks { self.turns } else { Arc::default() },
            conversation: self.conversation,
            max_new_tokens: self.max_new_tokens,
            window,
            clip,
            encode,
            came: self.came,
            to: self.to,
            speaks,
            then,
        })
    }

    fn fails(&self, error: AskError) {
        let _ = self.to.try_send(AnswerItem::Failed(error));
    }
}

impl Long {
    /// Goes on with the next part, or with the end.
    pub fn go_on(mut self) {
        if self.asked.to.is_closed() {
            return;
        }
        let (engine, asked) = (self.engine.clone(), self.asked.clone());
        let (camera, to) = (asked.camera.clone(), asked.to.clone());
        while let Some(extent) = self.left.pop_front() {
            let window = extent.span;
            // A part without footage is a gap of the whole.
            let Some(chosen) = engine.choose(&camera, extent, Tiers::All) else { continue };
            let question = asked.text.clone();
            let failing = asked.clone();
            let then: Then = Box::new(move |said| match said {
                Ok(description) => {
                    let Description { text, coverage, .. } = &description;
                    let part = Part { window, text: text.clone(), coverage: coverage.clone() };
                    let _ = self.asked.to.try_send(AnswerItem::Part(Box::new(part.clone())));
                    self.answered.push((part, description));
                    self.go_on();
                }
                Err(why) => failing.fails(AskError::BadQuestion(why)),
            });
            let pending = asked.look(window, question, false, Some(then));
            return engine.gather(&camera, to, chosen, pending, None);
        }
        self.conclude();
    }

    fn conclude(self) {
        let Long { engine, asked, overview, answered, seat, .. } = self;
        let (parts, answered): (Vec<Part>, Vec<Description>) = answered.into_iter().unzip();
        let gaps = overview.gaps().to_vec();
        let whole = Whole { engine: engine.clone(), asked: asked.clone(), answered, gaps, seat };
        if let Some((text, summary)) = parts::combine(&parts) {
            return whole.finish(text, summary, parts, None);
        }
        if engine.summary == config::Summary::List {
            return whole.finish(parts::list(&parts), Summary::List, parts, None);
        }
        let (camera, to, window) = (asked.camera.clone(), asked.to.clone(), asked.window);
        let prompt = parts::prompt(&parts, &asked.text);
        let then: Then = Box::new(move |said| match said {
            Ok(said) => whole.finish(said.text.clone(), Summary::Model, parts, Some(said)),
            Err(why) => {
                tracing::info!(camera = &*whole.asked.camera, "the parts are listed: {why}");
                whole.finish(parts::list(&parts), Summary::List, parts, None);
            }
        });
        let pending = asked.look(window, prompt, true, Some(then));
        engine.gather(&camera, to, overview, pending, None);
    }
}

/// All parts are answered.
struct Whole {
    engine: Arc<Engine>,
    asked: Question,
    answered: Vec<Description>,
    gaps: Vec<crate::event::Gap>,
    /// Given up when the answer is out.
    seat: Seat,
}

impl Whole {
    /// `said`: the model's summary.
    fn finish(self, text: String, summary: Summary, parts: Vec<Part>, said: Option<Description>) {
        let Whole { engine, asked, answered, gaps, seat } = self;
        let spoken = said.is_some();
        let looks: Vec<Description> = answered.into_iter().chain(said).collect();
        let Some(last) = looks.last() else {
            let why = "its frames left the buffer while they were read".into();
            let camera = asked.camera.to_string();
            return asked.fails(AskError::NoFootage { camera, why });
        };
        let frames = frames_of(&looks);
        let sum = |of: fn(&Description) -> f64| looks.iter().map(of).sum::<f64>();
        let (encode, prefill, decode) = (
            sum(|look| look.timing.encode_seconds),
            sum(|look| look.timing.prefill_seconds),
            sum(|look| look.timing.decode_seconds),
        );
        let total = asked.came.elapsed().as_secs_f64();
        let from_camera = looks.iter().all(|look| look.coverage.clock == Clock::Camera);
        let times = || frames.iter().map(|frame| frame.captured_at);
        let covered = times().min().zip(times().max()).map(|(from, to)| Span { from, to });
        let description = Description {
            id: asked.id.clone(),
            prompt: asked.text.clone(),
            text,
            window: asked.window,
            coverage: Coverage {
                frames_wanted: parts.iter().map(|part| part.coverage.frames_wanted).sum(),
                frames_used: frames.len() as u32,
                covered,
                gaps,
                clock: if from_camera { Clock::Camera } else { Clock::Host },
            },
            frames,
            model: last.model.clone(),
            device: last.device.clone(),
            device_reason: last.device_reason.clone(),
            finish: match looks.iter().any(|look| look.finish == Finish::Length) {
                true => Finish::Length,
                false => Finish::Stop,
            },
            usage: looks.iter().fold(Usage::default(), |sum, look| Usage {
                video_tokens: sum.video_tokens + look.usage.video_tokens,
                text_tokens: sum.text_tokens + look.usage.text_tokens,
                new_tokens: sum.new_tokens + look.usage.new_tokens,
                cached_tokens: sum.cached_tokens + look.usage.cached_tokens,
            }),
            timing: Timing {
                wait_seconds: (total - prefill - decode).max(0.0),
                encode_seconds: encode,
                prefill_seconds: prefill,
                decode_seconds: decode,
                total_seconds: total,
            },
            conversation: asked.conversation.clone(),
            earlier_turns: asked.turns.len() as u32,
            parts,
            summary: Some(summary),
            skipped: 0,
            unchanged: None,
        };
        if !spoken {
            let _ = asked.to.try_send(AnswerItem::Token(description.text.clone()));
        }
        drop(seat);
        engine.publish(&asked.camera, &asked.turns, None, &asked.to, description);
    }
}

/// Every frame once, in order; slow where any look had it slow.
fn frames_of(looks: &[Description]) -> Vec<FrameRef> {
    let mut frames = BTreeMap::new();
    for frame in looks.iter().flat_map(|look| &look.frames) {
        let seen = frames.entry((frame.run, frame.number)).or_insert_with(|| frame.clone());
        seen.slow |= frame.slow;
    }
    frames.into_values().collect()
}
