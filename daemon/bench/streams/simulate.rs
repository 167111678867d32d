//! Simulates the daemon's scheduler with given device costs, a given number of cameras, and a clock
//! that jumps. The rules are the daemon's own: [`Scheduler`] and [`Slots`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Deserializer};

use super::Row;
use crate::engine::caption::windows::close_offset;
use crate::engine::scheduler::{self, Purpose, Scheduler};
use crate::language::Urgency;
use crate::language::slots::{Prompt, Room, Slots, Step};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    /// True if vision and language share the device: time spent on vision is not available to
    /// language.
    shared: bool,
    cameras: Cameras,
    vision: Vision,
    language: Language,
    questions: Option<Questions>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cameras {
    fps: f64,
    #[serde(deserialize_with = "seconds")]
    caption_interval: f64,
    #[serde(deserialize_with = "seconds")]
    max_caption_delay: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vision {
    #[serde(deserialize_with = "seconds")]
    frame: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Language {
    video_tokens: u32,
    text_tokens: u32,
    new_tokens: u32,
    prefill_chunk: u32,
    prefill_per_second: f64,
    max_concurrent_sequences: usize,
    #[serde(deserialize_with = "seconds")]
    step: f64,
    #[serde(deserialize_with = "seconds")]
    row: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Questions {
    a_minute: f64,
    new_tokens: u32,
}

/// Parses a time as people write it, fractions included: "12ms", "0.3ms", "10s".
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let text = String::deserialize(from)?;
    let parsed = [("ms", 1e-3), ("s", 1.0), ("m", 60.0)].into_iter().find_map(|(unit, factor)| {
        text.trim().strip_suffix(unit)?.trim().parse().ok().map(|number: f64| number * factor)
    });
    match parsed {
        Some(time) if time.is_finite() && time > 0.0 => Ok(time),
        _ => Err(serde::de::Error::custom(format!("{text:?}; wanted a time like \"12ms\""))),
    }
}

impl Profile {
    pub fn read(file: &Path) -> anyhow::Result<Profile> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let profile: Profile = toml::from_str(&text).with_context(|| file.display().to_string())?;
        let Language {
            prefill_chunk,
            prefill_per_second,
            max_concurrent_sequences,
            new_tokens,
            ..
        } = profile.language;
        let counts = [
            prefill_chunk as f64,
            prefill_per_second,
            max_concurrent_sequences as f64,
            new_tokens as f64,
        ];
        if counts.iter().chain([&profile.cameras.fps]).any(|count| *count <= 0.0 || count.is_nan())
        {
            bail!(
                "{}: fps, prefill_chunk, prefill_per_second, \
                 max_concurrent_sequences and new_tokens must be above 0",
                file.display()
            );
        }
        Ok(profile)
    }

    /// Returns the share of the device that vision takes.
    fn vision_load(&self, cameras: usize) -> f64 {
        cameras as f64 * self.cameras.fps * self.vision.frame
    }
}

/// A caption (`since`: its window closed) or an answer (`since`: it was asked) in progress.
struct Sequence {
    camera: Option<usize>,
    since: f64,
    begun: f64,
    /// Tokens of the prompt that are read, and those that are not.
    read: u32,
    unread: u32,
    unwritten: u32,
}

impl Prompt for Sequence {
    fn urgency(&self) -> Urgency {
        if self.camera.is_some() { Urgency::Later } else { Urgency::Now }
    }

    fn is_started(&self) -> bool {
        self.read > 0
    }

    /// Every sequence is about a window of its own.
    fn shares_prefix_read_by(&self, _: &Sequence) -> bool {
        false
    }
}

/// The next external event: a camera's window closes, or a question is asked.
#[derive(Clone, Copy, PartialEq)]
struct Event {
    at: f64,
    camera: Option<usize>,
}

impl Eq for Event {}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at).then(self.camera.cmp(&other.camera))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A job of the simulated scheduler: a caption of a camera's window, or a question.
struct Job {
    camera: Option<usize>,
    /// The time at which the window closed or the question was asked.
    since: f64,
}

impl scheduler::Job for Job {
    type Camera = Option<usize>;

    fn camera(&self) -> &Option<usize> {
        &self.camera
    }

    fn purpose(&self) -> Purpose {
        if self.camera.is_some() { Purpose::Caption } else { Purpose::Question }
    }
}

/// Number of questions that may wait.
const QUEUE: usize = 16;

struct Run<'a> {
    profile: &'a Profile,
    /// Factor by which vision slows down the language model.
    slower: f64,
    now: f64,
    scheduler: Scheduler<Job>,
    slots: Slots<Sequence>,
    events: BinaryHeap<Reverse<Event>>,
    random: StdRng,
    row: Row,
    /// Number of captions of each camera.
    published: Vec<usize>,
    captions: Vec<f64>,
    answers: Vec<f64>,
    busy: f64,
}

/// Simulates `length` seconds of `cameras` cameras, whose windows close at different moments as in
/// the daemon. `seed` determines when questions are asked.
pub fn simulate(profile: &Profile, cameras: usize, length: f64, seed: u64) -> Row {
    let vision = profile.vision_load(cameras);
    let slower = if profile.shared { 1.0 / (1.0 - vision).max(1e-9) } else { 1.0 };
    let random = StdRng::seed_from_u64(seed);
    let every = duration(profile.cameras.caption_interval);
    let mut events: BinaryHeap<_> = (0..cameras)
        .map(|camera| Event { at: close_offset(camera, every).as_secs_f64(), camera: Some(camera) })
        .map(Reverse)
        .collect();
    if profile.questions.is_some() {
        events.push(Reverse(Event { at: 0.0, camera: None }));
    }
    let mut run = Run {
        profile,
        slower,
        now: 0.0,
        scheduler: Scheduler::new(QUEUE),
        slots: Slots::new(profile.language.max_concurrent_sequences),
        events,
        random,
        row: Row { cameras, vision_load: Some(vision), ..Row::default() },
        published: vec![0; cameras],
        captions: Vec::new(),
        answers: Vec::new(),
        busy: 0.0,
    };
    while run.now < length && vision < 1.0 {
        run.happen();
        run.admit();
        match run.slots.next() {
            Some(step) => run.step(step),
            None => run.now = run.events.peek().map_or(length, |next| next.0.at),
        }
    }
    run.row.language_load = Some(run.busy / run.now.max(1e-9));
    run.row.count(&run.published, run.captions, run.answers)
}

impl Run<'_> {
    /// Processes windows that have closed and questions that have been asked until now.
    fn happen(&mut self) {
        let Profile { cameras, vision, questions, .. } = self.profile;
        while let Some(Reverse(event)) = self.events.peek().copied()
            && event.at <= self.now
        {
            self.events.pop();
            let pause = match (event.camera, questions) {
                (Some(camera), _) => {
                    // The window's last frame is encoded first.
                    let closed = event.at - vision.frame;
                    let (at, freshness) = (duration(closed), duration(cameras.max_caption_delay));
                    let job = Job { camera: Some(camera), since: closed };
                    let older = self.scheduler.window(job, at, freshness);
                    self.row.windows += 1;
                    self.row.skipped += usize::from(older.is_some());
                    cameras.caption_interval
                }
                (None, Some(questions)) => {
                    let job = Job { camera: None, since: event.at };
                    self.row.refused += usize::from(self.scheduler.ask(job).is_err());
                    until_next(&mut self.random, questions.a_minute)
                }
                (None, None) => return,
            };
            self.events.push(Reverse(Event { at: event.at + pause, ..event }));
        }
    }

    /// Fills the batch.
    fn admit(&mut self) {
        let language = &self.profile.language;
        loop {
            let room = self.slots.room();
            let Some(slot) = self.slots.free_slot() else { return };
            let next = match room {
                Room::Any => {
                    self.row.skipped += self.scheduler.late(duration(self.now)).len();
                    self.scheduler.take()
                }
                Room::Question => self.scheduler.take_question(),
                Room::Nothing => None,
            };
            let unread = language.video_tokens + language.text_tokens;
            let Some(Job { camera, since }) = next else { return };
            let unwritten = match &self.profile.questions {
                Some(questions) if camera.is_none() => questions.new_tokens.max(1),
                _ => language.new_tokens,
            };
            slot.admit(Sequence { camera, since, begun: self.now, read: 0, unread, unwritten });
        }
    }

    /// Runs the decoder once.
    fn step(&mut self, step: Step) {
        let language = &self.profile.language;
        let took = match step {
            Step::Prefill(slot) => {
                let sequence = &mut self.slots[slot];
                let chunk = sequence.unread.min(language.prefill_chunk);
                sequence.read += chunk;
                sequence.unread -= chunk;
                if sequence.unread == 0 {
                    // The logits of the last chunk yield the first token.
                    sequence.unwritten -= 1;
                    self.slots.prefilled(slot);
                }
                f64::from(chunk) / language.prefill_per_second
            }
            Step::Generate => {
                let generating = self.slots.generating();
                for sequence in self.slots.iter_mut().take(generating) {
                    sequence.unwritten -= 1;
                }
                language.step + language.row * (generating - 1) as f64
            }
        };
        self.pass(took * self.slower);
        self.finish();
        self.slots.ran(step, duration(took * self.slower));
    }

    fn pass(&mut self, time: f64) {
        self.now += time;
        self.busy += time;
    }

    fn finish(&mut self) {
        let now = self.now;
        for slot in (0..self.slots.generating()).rev() {
            if self.slots[slot].unwritten > 0 {
                continue;
            }
            let (Sequence { camera, since, begun, .. }, _) = self.slots.remove(slot);
            match camera {
                Some(index) => {
                    self.scheduler.done(&camera, Purpose::Caption);
                    self.scheduler.window_took(Purpose::Caption, duration(now - begun));
                    self.published[index] += 1;
                    self.row.late +=
                        usize::from(now - since > self.profile.cameras.max_caption_delay);
                    self.captions.push(now - since);
                }
                None => self.answers.push(now - since),
            }
        }
    }
}

/// Returns the seconds between two questions at `a_minute` questions per minute, at random moments
/// (Poisson process).
pub fn until_next(random: &mut StdRng, a_minute: f64) -> f64 {
    let chance: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
    -chance.ln() * 60.0 / a_minute
}

fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/profiles/h100.toml");
        Profile::read(&file).expect("the profile in the repository")
    }

    #[test]
    fn questions_come_at_the_configured_rate() {
        let mut random = StdRng::seed_from_u64(1);
        let pauses: Vec<f64> = (0..10_000).map(|_| until_next(&mut random, 12.0)).collect();
        let mean = pauses.iter().sum::<f64>() / pauses.len() as f64;
        assert!((mean - 5.0).abs() < 0.2, "{mean}");
        // The questions are not periodic: a share of 1 − 1/e comes before the mean.
        let early = pauses.iter().filter(|pause| **pause < 5.0).count();
        assert!((6_150..6_500).contains(&early), "{early}");
    }

    #[test]
    fn without_overload_every_caption_is_in_time() {
        let row = simulate(&profile(), 33, 600.0, 1);
        assert_eq!((row.skipped, row.late), (0, 0), "{row:?}");
        assert!(row.windows > 33 * 55 && row.published >= row.windows - 33, "{row:?}");
    }

    #[test]
    fn overload_skips_captions_evenly_and_the_rest_are_in_time() {
        for cameras in [64, 100, 128] {
            let row = simulate(&profile(), cameras, 1200.0, 1);
            assert!(row.skipped > row.windows / 4, "{row:?}");
            assert!(row.late * 200 <= row.published, "{row:?}");
            assert!(row.captions.as_ref().is_some_and(|times| times.p99 <= 10.0), "{row:?}");
            assert!(row.worst_camera_share.is_some_and(|worst| worst >= 0.8), "{row:?}");
            // No collapse under overload: the device continues to generate captions.
            assert!(row.language_load.is_some_and(|load| load > 0.99), "{row:?}");
        }
    }

    #[test]
    fn answers_do_not_wait_for_captions() {
        let (idle, full) = (simulate(&profile(), 1, 600.0, 1), simulate(&profile(), 128, 600.0, 1));
        let median = |row: &Row| row.answers.as_ref().map(|times| times.p50).expect("answers");
        assert!(median(&full) < 5.0 * median(&idle), "{} {}", median(&full), median(&idle));
    }

    #[test]
    fn encoding_that_takes_the_whole_device_leaves_no_captions() {
        let row = simulate(&profile(), 1200, 60.0, 1);
        assert_eq!(row.published, 0);
        assert!(row.vision_load.is_some_and(|load| load > 1.0));
    }
}
