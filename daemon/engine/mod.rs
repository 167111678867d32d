//! Schedules vision and language inference: encodes frames, generates captions and answers
//! questions.
//!
//! ```text
//!  camera ─► Inbox ─► vision worker ─► Ring ─► Scheduler ─► language worker ─► Journal
//!              ▲        Windows ─ a window closes ──┘ ▲                    └────► asker
//!              │                             ask() ───┤ all its frames are hot
//!              └──────── disk ◄─ ask() some are not: FrameFetch ─► encoded again ─► Scheduler
//! ```
//!
//! A rule that is tried on the past (`trial`) gets its frames as a question does, and waits in the
//! scheduler behind everything else.
//!
//! Guarantees: only two threads compute, and a third one owns the disk. None of them waits for a
//! camera, a broker or a client. Schemas of answers are compiled on other threads.

mod cameras;
pub mod caption;
mod deletion;
mod failures;
mod inbox;
mod job;
mod language_worker;
mod question;
pub mod scheduler;
mod snapshot;
mod trial;
mod trial_window;
mod vision_worker;

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::byte_lru::ByteLru;
use crate::config::{self, Sampling};
use crate::disk;
use crate::event::FrameReference;
use crate::frame::{Frame, FrameId};
use crate::heartbeat::Heartbeats;
use crate::journal::{EventJpeg, Journal};
use crate::language::{SchemaCompiler, TimedJpeg, Turn};
use crate::metrics::{self, DropReason, SkipReason};
use crate::rules::Rules;
use crate::run_clock::RunClock;
use crate::service::{AskError, TRIALS};
use crate::slowfast::Plan;
use crate::sync::{self, Waiting};
use crate::timeline::{
    Clip, ClipFrame, FrameData, Limits, RunPosition, Selection, Tiers, TimeRange, select,
};

use cameras::{Camera, CameraRegistry};
use inbox::Inbox;
use job::{Job, RulesOfWindow, Window};
use question::conversations::Conversations;
use question::frames::FrameFetch;
use question::pass::PendingQuestion;
use scheduler::Scheduler;
use trial_window::TrialWindow;

pub use failures::Failures;
pub use language_worker::LanguageWorker;
pub use vision_worker::{VisionModel, VisionWorker};

/// Maximum number of a camera's frames that wait to be encoded.
const INBOX_FRAMES: usize = 8;

/// Maximum number of conversations that are kept, and the time for which they are kept after the
/// last answer.
const CONVERSATIONS: usize = 64;
const CONVERSATION_AGE: Duration = Duration::from_secs(30 * 60);

pub struct Engine {
    /// The run of this daemon, which its frames carry.
    run: u64,
    clock: Arc<RunClock>,
    inbox: Waiting<Inbox<Box<FrameFetch>>>,
    /// The disk's queue, or `None` if nothing is stored on disk.
    pub disk: Option<disk::Queue>,
    /// True while frames of earlier runs are still being read from the disk.
    restoring: AtomicBool,
    /// Number of reserved places in the queue.
    queue_slots: Arc<AtomicUsize>,
    /// Tasks that answer questions in parts and try rules.
    tasks: Mutex<JoinSet<()>>,
    /// Places for rules that are tried at the same time.
    trials: Arc<Semaphore>,
    /// Tokens of frames that were encoded again, with the frames' JPEGs.
    reencoded: Mutex<ByteLru<CameraFrame, FrameData>>,
    jobs: Mutex<Jobs>,
    wake: Condvar,
    /// The moment from which the scheduler's times are counted.
    started: Instant,
    pub heartbeats: Heartbeats,
    pub journal: Arc<dyn Journal>,
    pub cameras: CameraRegistry,
    pub rules: Arc<Rules>,
    plan: Plan,
    max_new_tokens: usize,
    answer_settings: Mutex<AnswerSettings>,
    /// The frames whose JPEGs are stored with an event.
    journal_jpegs: config::Jpegs,
    conversations: Mutex<Conversations<Turn>>,
    /// The compiler for schemas of answers, when the model has been loaded.
    schemas: OnceLock<Arc<SchemaCompiler>>,
}

/// Settings of texts that can change while the engine runs.
#[derive(Clone, Copy)]
struct AnswerSettings {
    sampling: Sampling,
    summary: config::Summary,
}

impl AnswerSettings {
    fn of(generate: &config::Generate) -> AnswerSettings {
        AnswerSettings { sampling: generate.sampling, summary: generate.summary }
    }
}

fn ring_limits(buffer: &config::Buffer) -> Limits {
    Limits {
        hot_age: buffer.token_age,
        hot_bytes: buffer.token_bytes.as_u64() as usize,
        warm_age: buffer.jpeg_age,
        warm_bytes: buffer.jpeg_bytes.as_u64() as usize,
    }
}

/// The key of a frame of any camera.
type CameraFrame = (Arc<str>, FrameId);

struct Jobs {
    scheduler: Scheduler<Job>,
    stopping: bool,
}

impl Jobs {
    /// Queues a question. Returns it if the queue is full.
    fn ask(&mut self, question: PendingQuestion) -> Result<(), Job> {
        self.scheduler.ask(Job::Question(Box::new(question)))
    }

    /// Queues a window of the past on which a rule is tried.
    fn add_trial(&mut self, window: TrialWindow, clip: Clip) {
        self.scheduler.add_background(Job::Trial(Box::new((window, clip))));
    }

    /// Returns the number of waiting questions, without the parts of long ones. Removes those that
    /// no client waits for any more.
    fn waiting_questions(&mut self) -> usize {
        self.scheduler.retain(Job::is_wanted);
        self.scheduler.questions().filter(|job| !job.is_part()).count()
    }
}

impl Engine {
    /// Creates an engine. `run` identifies this run's frames, and `clock` is their clock.
    pub fn new(
        config: &config::Config,
        journal: Arc<dyn Journal>,
        run: u64,
        clock: Arc<RunClock>,
    ) -> Arc<Engine> {
        let buffer = &config.buffer;
        let cameras = CameraRegistry::new(ring_limits(buffer));
        for camera in &config.cameras {
            cameras.add(camera);
        }
        Arc::new(Engine {
            run,
            clock,
            disk: buffer.disk.as_ref().map(|_| disk::Queue::new(disk::QUEUE_FRAMES, disk::LOOKUPS)),
            restoring: AtomicBool::new(false),
            queue_slots: Arc::default(),
            tasks: Mutex::default(),
            trials: Arc::new(Semaphore::new(TRIALS)),
            reencoded: Mutex::new(ByteLru::new(buffer.reencode_cache_bytes.as_u64() as usize)),
            inbox: Waiting::new(Inbox::new(INBOX_FRAMES, buffer.inbox_bytes.as_u64() as usize)),
            jobs: Mutex::new(Jobs {
                scheduler: Scheduler::new(config.generate.max_waiting_questions),
                stopping: false,
            }),
            started: Instant::now(),
            heartbeats: Heartbeats::new(config.hang_timeout),
            wake: Condvar::new(),
            rules: Rules::new(&config.rules, &config.cameras, journal.clone()),
            journal,
            cameras,
            plan: config.model.plan,
            max_new_tokens: config.generate.max_new_tokens,
            answer_settings: Mutex::new(AnswerSettings::of(&config.generate)),
            journal_jpegs: config.journal.as_ref().map_or(config::Jpegs::None, |j| j.jpegs),
            conversations: Mutex::new(Conversations::new(CONVERSATIONS, CONVERSATION_AGE)),
            schemas: OnceLock::new(),
        })
    }

    /// Takes the settings of another config that can change while the engine runs, except those of
    /// cameras.
    pub fn set_config(&self, config: &config::Config) {
        *sync::lock(&self.answer_settings) = AnswerSettings::of(&config.generate);
        self.jobs().scheduler.set_capacity(config.generate.max_waiting_questions);
        self.cameras.set_limits(ring_limits(&config.buffer));
        self.rules.replace(&config.rules);
    }

    fn answer_settings(&self) -> AnswerSettings {
        *sync::lock(&self.answer_settings)
    }

    /// Accepts a camera's frame. Never waits; if too many frames wait, the inbox drops some. A frame
    /// of a camera that was removed is dropped.
    pub fn frame(&self, mut frame: Frame) {
        let Some(camera) = self.cameras.get(&frame.camera) else { return };
        metrics::frame(&frame.camera);
        frame.number = camera.arrived(frame.number);
        let dropped = self.inbox.change(|inbox| inbox.push(frame, Instant::now()));
        for camera in dropped {
            metrics::frames_dropped(&camera, DropReason::Inbox, 1);
        }
    }

    /// Stops the engine: running work ends and no more is accepted. Waiting questions get an error.
    pub fn stop(&self) {
        for fetch in self.inbox.change_for_all(Inbox::close) {
            fetch.fail(AskError::Stopping);
        }
        if let Some(disk) = &self.disk {
            disk.close();
        }
        self.jobs().stopping = true;
        self.wake.notify_all();
    }

    /// Records that a job about a window will not be done. Call it without the lock on the jobs.
    fn skip(&self, job: &Job, reason: SkipReason) {
        match job {
            Job::Question(_) | Job::Trial(_) => {}
            Job::Caption(Window { camera, .. }) => metrics::captions_skipped(camera, reason, 1),
            Job::Rules(of_window) => {
                let RulesOfWindow { window, rules } = &**of_window;
                self.rules.window_unknown(&window.camera, window.range.span, rules);
            }
        }
    }

    /// Samples a range of a camera among the frames whose tokens are in memory. Returns
    /// `None` if there are none.
    fn clip(&self, camera: &str, range: TimeRange) -> Option<Clip> {
        let selection = self.select(camera, range, Tiers::Hot)?;
        let data = selection.data();
        selection.clip(data, &self.plan)
    }

    /// Returns the JPEGs of a clip that are stored with its event. Frames that were deleted in the
    /// meantime have none.
    fn jpegs_of(&self, camera: &str, clip: &Clip) -> Vec<EventJpeg> {
        let frames = clip.references.iter().zip(&clip.frames);
        let stored = frames.filter(|(reference, _)| match self.journal_jpegs {
            config::Jpegs::All => true,
            config::Jpegs::Slow => reference.slow,
            config::Jpegs::None => false,
        });
        let jpeg = |(reference, frame): (&FrameReference, &ClipFrame)| {
            let jpeg = frame.jpeg.clone()?;
            let is_there = !self.was_deleted(camera, reference.captured_at);
            is_there.then_some(EventJpeg { frame: reference.id, jpeg })
        };
        stored.filter_map(jpeg).collect()
    }

    /// Returns the JPEGs of a clip's frames. `None` if one is missing or was deleted in the meantime.
    fn jpegs_for_servers(&self, camera: &str, clip: &Clip) -> Option<Vec<TimedJpeg>> {
        let jpeg = |(reference, frame): (&FrameReference, &ClipFrame)| {
            let captured_at = reference.captured_at;
            let jpeg = frame.jpeg.clone().filter(|_| !self.was_deleted(camera, captured_at))?;
            Some(TimedJpeg { captured_at, jpeg })
        };
        clip.references.iter().zip(&clip.frames).map(jpeg).collect()
    }

    fn select(&self, camera: &str, range: impl Into<TimeRange>, tiers: Tiers) -> Option<Selection> {
        self.select_by(&self.plan, &*self.cameras.get(camera)?, range.into(), tiers)
    }

    fn select_by(
        &self,
        plan: &Plan,
        camera: &Camera,
        range: TimeRange,
        tiers: Tiers,
    ) -> Option<Selection> {
        let next = FrameId { run: self.run, number: camera.progress.next_number() };
        let position = RunPosition { next, now: self.clock.now() };
        select(&camera.ring(), range, camera.settings.period, position, plan, tiers)
    }

    fn reencoded(&self) -> MutexGuard<'_, ByteLru<CameraFrame, FrameData>> {
        sync::lock(&self.reencoded)
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        sync::lock(&self.jobs)
    }
}
