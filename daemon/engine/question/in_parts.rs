//! Answers a question about a long range: asks each part in turn, then combines the answers.
//!
//! Each part passes through the queue like any question, so other questions get their turns in
//! between. The question holds its place in the queue until its end. The asker receives each part
//! as soon as it is answered. If the asker leaves, the place is freed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::{Asked, Engine, Then};
use super::frames::QueueSlot;
use super::parts;
use crate::config;
use crate::event::{
    Coverage, Description, Finish, FrameRef, Gap, GapCause, Part, Summary, Timing, Usage,
};
use crate::frame::{Clock, Span};
use crate::service::{AnswerItem, AskError};
use crate::slowfast::Plan;
use crate::timeline::{Chosen, Clip, Extent, Tiers};

pub struct Long {
    pub engine: Arc<Engine>,
    /// The question about the whole range.
    pub asked: Question,
    /// A selection over the whole range. Its frames are used for the summary, its gaps for the
    /// coverage.
    pub overview: Chosen,
    pub left: VecDeque<Extent>,
    pub answered: Vec<(Part, Description)>,
    /// Parts whose frames were not available.
    pub unseen: Vec<Span>,
    pub seat: QueueSlot,
}

/// The data that all parts of a question share.
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

/// A question before its frames are collected.
pub struct Look {
    pub asked: Question,
    window: Span,
    prompt: String,
    /// The plan by which the frames are sampled.
    pub plan: Plan,
    /// True if the tokens are streamed to the asker and the prompt contains the earlier turns.
    speaks: bool,
    /// Receives the answer or the error. If `None`, the answer is published.
    then: Option<Then>,
}

impl Question {
    /// Creates a single pass over the whole window. Its answer is the final one.
    pub fn one_look(self, plan: Plan) -> Look {
        let (window, prompt) = (self.window, self.text.clone());
        Look { asked: self, window, prompt, plan, speaks: true, then: None }
    }

    pub fn fails(&self, error: AskError) {
        let _ = self.to.try_send(AnswerItem::Failed(error));
    }
}

impl Look {
    /// Adds the frames to the question.
    pub fn at(self, clip: Clip, encode: Duration) -> Asked {
        let Look { asked, window, prompt, plan, speaks, then } = self;
        Asked {
            camera: asked.camera,
            id: asked.id,
            text: asked.text,
            prompt,
            turns: if speaks { asked.turns } else { Arc::default() },
            conversation: asked.conversation,
            max_new_tokens: asked.max_new_tokens,
            window,
            clip,
            plan,
            encode,
            came: asked.came,
            to: asked.to,
            speaks,
            then,
        }
    }

    /// Fails the question because none of its frames were available.
    pub fn sees_nothing(self) {
        let why = "its frames left the buffer while they were read".into();
        let error = AskError::NoFootage { camera: self.asked.camera.to_string(), why };
        match self.then {
            Some(then) => then(Err(error)),
            None => self.asked.fails(error),
        }
    }
}

impl Long {
    /// Continues with the next part, or combines the answers after the last one.
    pub fn go_on(mut self) {
        if self.asked.to.is_closed() {
            return;
        }
        let (engine, asked) = (self.engine.clone(), self.asked.clone());
        while let Some(extent) = self.left.pop_front() {
            let window = extent.span;
            // A part without footage becomes a gap of the whole range.
            let Some(chosen) = engine.choose(&asked.camera, extent, Tiers::All) else {
                self.unseen.push(window);
                continue;
            };
            let then: Then = Box::new(move |said| match said {
                Ok(description) => {
                    let Description { text, coverage, .. } = &description;
                    let part = Part { window, text: text.clone(), coverage: coverage.clone() };
                    let _ = self.asked.to.try_send(AnswerItem::Part(Box::new(part.clone())));
                    self.answered.push((part, description));
                    self.go_on();
                }
                Err(AskError::NoFootage { .. }) => {
                    self.unseen.push(window);
                    self.go_on();
                }
                Err(error) => self.asked.fails(error),
            });
            let (prompt, plan) = (asked.text.clone(), engine.plan);
            let look = Look { asked, window, prompt, plan, speaks: false, then: Some(then) };
            return engine.gather(chosen, look, None);
        }
        self.conclude();
    }

    fn conclude(self) {
        let Long { engine, asked, overview, answered, unseen, seat, .. } = self;
        let (parts, answered): (Vec<Part>, Vec<Description>) = answered.into_iter().unzip();
        let unseen = unseen.into_iter().map(|span| Gap { span, cause: GapCause::Evicted });
        let of_parts = parts.iter().flat_map(|part| part.coverage.gaps.iter().cloned());
        let gaps = parts::gaps(overview.gaps(), of_parts.chain(unseen));
        let summary = engine.summary;
        let whole = Whole { engine, asked, answered, gaps, seat };
        match parts::combine(&parts) {
            Some((text, how)) => whole.finish(text, how, parts, None),
            None if summary == config::Summary::List || parts.is_empty() => whole.list(parts),
            None => whole.sum_up(parts, overview, &SPARSER),
        }
    }
}

/// Settings for a summary, tried in order until the notes of all parts fit into the model's context
/// together with the pass over the whole range. Each has the factor by which the number of frames
/// is divided, and the maximum number of characters of each part's answer.
const SPARSER: [(usize, usize); 4] = [(1, 200), (2, 200), (4, 100), (8, 50)];

/// A question whose parts are all answered.
struct Whole {
    engine: Arc<Engine>,
    asked: Question,
    answered: Vec<Description>,
    gaps: Vec<Gap>,
    /// The place in the queue, released when the answer is complete.
    seat: QueueSlot,
}

impl Whole {
    /// Generates a summary of the parts with the model.
    fn sum_up(self, parts: Vec<Part>, overview: Chosen, tries: &'static [(usize, usize)]) {
        let [(times, letters), sparser @ ..] = tries else {
            tracing::info!(camera = &*self.asked.camera, "no room to sum up: the parts are listed");
            return self.list(parts);
        };
        let (engine, asked) = (self.engine.clone(), self.asked.clone());
        let prompt = parts::prompt(&parts, *letters, &asked.text);
        let (window, plan) = (asked.window, engine.plan.sparser(*times));
        let chosen = overview.clone().sample(plan.frames);
        let then: Then = Box::new(move |said| match said {
            Ok(said) => self.finish(said.text.clone(), Summary::Model, parts, Some(said)),
            Err(AskError::BadQuestion(_)) => self.sum_up(parts, overview, sparser),
            Err(why) => {
                tracing::info!(camera = &*self.asked.camera, "the parts are listed: {why}");
                self.list(parts);
            }
        });
        let look = Look { asked, window, prompt, plan, speaks: true, then: Some(then) };
        engine.gather(chosen, look, None);
    }

    fn list(self, parts: Vec<Part>) {
        self.finish(parts::list(&parts), Summary::List, parts, None);
    }

    /// Publishes the answer. `said` is the model's summary, if there is one.
    fn finish(self, text: String, summary: Summary, parts: Vec<Part>, said: Option<Description>) {
        let Whole { engine, asked, answered, gaps, seat } = self;
        let spoken = said.is_some();
        let earlier_turns = said.as_ref().map_or(0, |said| said.earlier_turns);
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
            earlier_turns,
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

/// Returns every frame once, in order. A frame is slow if any pass used it as a slow one.
fn frames_of(looks: &[Description]) -> Vec<FrameRef> {
    let mut frames = BTreeMap::new();
    for frame in looks.iter().flat_map(|look| &look.frames) {
        let seen = frames.entry((frame.run, frame.number)).or_insert_with(|| frame.clone());
        seen.slow |= frame.slow;
    }
    frames.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::SystemTime;

    use half::f16;

    use super::*;
    use crate::config::Config;
    use crate::disk::Told;
    use crate::engine::scheduler::Next;
    use crate::frame::FrameId;
    use crate::journal::MemoryJournal;
    use crate::question::{Draft, Limits, Question as Checked, RawTime};
    use crate::run_clock::{Moment, RunClock};
    use crate::service::Answer;
    use crate::slowfast::FrameTokens;
    use crate::timeline::{Entry, Held, Place, Stored};

    const RUN: u64 = 2000;
    /// Number of frames, two per second.
    const FRAMES: u64 = 80;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    /// Creates an engine with 40 s of footage. The frames before `lost` are on a disk that does not
    /// exist.
    fn engine(lost: u64) -> Arc<Engine> {
        let config = r#"
            [model]
            package = "package"
            plan = "4:slowfast-slow_2frms_concat-fast_1x1"
            [[camera]]
            name = "gate"
            url = "rtsp://127.0.0.1/1"
            fps = 2.0
            window = "4s"
            caption_interval = "4s"
        "#;
        let config = Config::parse(config, Path::new("")).expect("a config");
        let engine =
            Engine::new(&config, MemoryJournal::shared(RUN, 100), RUN, Arc::new(RunClock::start()));
        let entry = |number: u64| Entry {
            id: FrameId { run: if number < lost { RUN - 1 } else { RUN }, number },
            monotonic: Duration::from_millis(number * 500),
            captured_at: at(number * 500),
            clock: Clock::Camera,
            held: Held::Cool,
            stored: Stored::At(Place { segment: 1, offset: 0, length: 100 }),
            evicted_before: false,
        };
        engine.restored("gate", (0..lost).map(entry).collect());
        for number in lost..FRAMES {
            let [slow, fast] = [8, 2].map(|count| vec![f16::ZERO; count].into());
            let tokens = Arc::new(FrameTokens { slow, fast });
            let held = Held::Hot { tokens, jpeg: Arc::new([0]) };
            let entry = Entry { held, stored: Stored::No, ..entry(number) };
            engine.change("gate", |ring| ring.push(entry));
        }
        engine
    }

    fn ask(engine: &Arc<Engine>, draft: Draft) -> Answer {
        let time = |milliseconds| Some(RawTime::Parts { seconds: milliseconds / 1000, nanos: 0 });
        let (from, to) = match draft.conversation {
            Some(_) => (None, None),
            None => (time(0), time(FRAMES as i64 * 500)),
        };
        let (camera, text) = ("gate".into(), "What came?".into());
        let draft = Draft { camera, text, from, to, ..draft };
        let question = Checked::new(draft, &Limits::unknown()).expect("a question");
        engine.ask(question).expect("it is taken")
    }

    fn in_parts(engine: &Arc<Engine>) -> Answer {
        ask(engine, Draft { detail: Some("parts".into()), ..Draft::default() })
    }

    fn next(engine: &Engine) -> Option<Asked> {
        match engine.jobs().scheduler.take() {
            Some(Next::Question(asked)) => Some(asked),
            Some(Next::Caption(..)) => panic!("nobody wants a caption"),
            None => None,
        }
    }

    /// Answers a question, as the language worker does.
    fn say(engine: &Engine, asked: Asked, text: &str) {
        let description = Description {
            id: asked.id.clone(),
            prompt: asked.text.clone(),
            text: text.into(),
            window: asked.window,
            coverage: asked.clip.coverage.clone(),
            frames: asked.clip.references.clone(),
            model: "model".into(),
            device: "cpu".into(),
            device_reason: String::new(),
            finish: Finish::Stop,
            usage: Usage::default(),
            timing: Timing::default(),
            skipped: 0,
            unchanged: None,
            conversation: String::new(),
            earlier_turns: asked.turns.len() as u32,
            parts: Vec::new(),
            summary: None,
        };
        asked.answered(engine, description);
    }

    fn said(mut answer: Answer) -> Result<Description, AskError> {
        loop {
            match answer.try_recv().expect("an end") {
                AnswerItem::Finished(description) => return Ok(*description),
                AnswerItem::Failed(error) => return Err(error),
                AnswerItem::Part(_) | AnswerItem::Token(_) => {}
            }
        }
    }

    #[test]
    fn a_part_that_cannot_be_read_is_a_gap_and_the_rest_is_answered() {
        let engine = engine(FRAMES / 2);
        let answer = in_parts(&engine);
        let mut asked = 0;
        while let Some(part) = next(&engine) {
            assert!(part.window.from >= at(20_000 - 250), "{:?}", part.window);
            say(&engine, part, "No.");
            asked += 1;
        }
        let whole = said(answer).expect("an answer");
        assert_eq!((asked, whole.parts.len()), (8, 8));
        assert_eq!(whole.text, "No, in none of 8 parts.");
        let [gap] = &whole.coverage.gaps[..] else { panic!("{:?}", whole.coverage) };
        assert_eq!((gap.cause, gap.span.from), (GapCause::Evicted, at(0)));
        assert_eq!(gap.span.to, whole.parts[0].window.from);
    }

    #[test]
    fn where_no_part_can_be_read_the_asker_is_told() {
        let engine = engine(FRAMES);
        let answer = in_parts(&engine);
        assert!(next(&engine).is_none());
        let error = said(answer).expect_err("nothing is seen");
        assert!(matches!(error, AskError::NoFootage { .. }), "{error}");
    }

    #[test]
    fn where_the_whole_cannot_be_looked_at_the_parts_are_listed() {
        let engine = engine(FRAMES - 8);
        let answer = in_parts(&engine);
        for text in ["A dog came.", "A car came."] {
            let part = next(&engine).expect("a part");
            assert_eq!(part.prompt, "What came?");
            say(&engine, part, text);
        }
        assert!(next(&engine).is_none());
        let whole = said(answer).expect("an answer");
        assert_eq!(whole.summary, Some(Summary::List));
        assert!(whole.text.ends_with(" UTC: A car came."), "{}", whole.text);
    }

    /// Asks a question whose sixteen parts get long answers.
    fn with_sixteen_parts(engine: &Arc<Engine>) -> Answer {
        let answer = in_parts(engine);
        for number in 0..parts::MOST {
            let part = next(engine).expect("a part");
            say(engine, part, &format!("Car {number}: {}", "it drives by. ".repeat(30)));
        }
        answer
    }

    #[test]
    fn a_summary_without_room_is_tried_with_fewer_frames_and_words() {
        let engine = engine(0);
        let answer = with_sixteen_parts(&engine);
        let mut tried = Vec::new();
        for _ in 1..SPARSER.len() {
            let look = next(&engine).expect("a look at the whole");
            tried.push((look.clip.frames.len(), look.plan.slow_frames, look.prompt.len() / 100));
            look.unanswerable("no room".into());
        }
        assert_eq!(tried, [(4, 2, 36), (2, 1, 36), (1, 1, 20)]);
        let look = next(&engine).expect("the last look");
        assert!(look.prompt.ends_with(": What came?") && look.prompt.contains("Car 15"));
        say(&engine, look, "Sixteen cars came.");
        let whole = said(answer).expect("an answer");
        assert_eq!((whole.summary, &*whole.text), (Some(Summary::Model), "Sixteen cars came."));
        assert_eq!(whole.parts.len(), 16);
    }

    #[test]
    fn a_summary_that_never_fits_is_a_list() {
        let engine = engine(0);
        let answer = with_sixteen_parts(&engine);
        for _ in 0..SPARSER.len() {
            next(&engine).expect("a look at the whole").unanswerable("no room".into());
        }
        assert!(next(&engine).is_none());
        let whole = said(answer).expect("an answer");
        assert_eq!((whole.summary, whole.parts.len()), (Some(Summary::List), 16));
    }

    #[test]
    fn two_questions_of_a_conversation_at_once_both_become_turns() {
        let engine = engine(0);
        let newest = Moment { monotonic: Duration::from_millis(39_500), utc: at(39_500) };
        *engine.cameras["gate"].newest.lock().expect("a lock") = Some((newest, Instant::now()));
        let talk = || ask(&engine, Draft { conversation: Some("a".into()), ..Draft::default() });
        let first = talk();
        say(&engine, next(&engine).expect("the first"), "A dog.");
        let window = said(first).expect("an answer").window;
        let both = [talk(), talk()];
        for text in ["It is brown.", "It runs."] {
            say(&engine, next(&engine).expect("a further one"), text);
        }
        for answer in both {
            let further = said(answer).expect("an answer");
            assert_eq!((further.earlier_turns, further.window), (1, window));
        }
        let _third = talk();
        let turns = next(&engine).expect("the third").turns;
        let told: Vec<&str> = turns.iter().map(|turn| &*turn.answer).collect();
        assert_eq!(told, ["A dog.", "It is brown.", "It runs."]);
    }
}
