//! Between pictures and words: who is looked at, who is answered, and when.
//!
//! ```text
//!  camera ─► Inbox ─► vision worker ─► Timeline ─► Queue ─► language worker ─► Journal
//!                       Windows ─ a window closes ──┘  ▲                └────► asker
//!                                             ask() ───┘
//! ```
//!
//! Two threads compute; nothing else does. Neither waits for a camera, a broker or a client.

mod inbox;
mod pictures;
pub mod scheduler;
mod windows;
mod words;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use crate::config::{self, Sampling};
use crate::frame::{Frame, Span};
use crate::journal::Journal;
use crate::service::{Answer, AnswerItem, AskError, Question};
use crate::slowfast::Plan;
use crate::telemetry::{self, DropReason, SkipReason};
use crate::timeline::{Limits, Period, Timeline};

use inbox::Inbox;
use scheduler::Scheduler;

pub use pictures::Pictures;
pub use words::Words;

/// Frames of one camera that may wait to be encoded.
const INBOX_FRAMES: usize = 8;

pub struct Engine {
    inbox: Inbox,
    jobs: Mutex<Jobs>,
    wake: Condvar,
    /// From here the scheduler's times are counted.
    started: Instant,
    pub timeline: Timeline,
    pub journal: Arc<Journal>,
    cameras: HashMap<Arc<str>, Lens>,
    plan: Plan,
    max_new_tokens: usize,
    sampling: Sampling,
}

/// What the engine must know of a camera.
struct Lens {
    period: Period,
    window: Duration,
    every: Duration,
    freshness: Duration,
    prompt: Option<String>,
    /// When the newest encoded frame came, and its own time.
    newest: Mutex<Option<(SystemTime, Instant)>>,
    /// Frames below this number have come, encoded or not.
    came: AtomicU64,
    /// Windows since the last caption that got none.
    skipped: AtomicU32,
}

struct Jobs {
    scheduler: Scheduler<Arc<str>, Asked, Window>,
    stopping: bool,
}

/// A closed window that wants a caption.
struct Window {
    span: Span,
    closed: Instant,
    /// Model time of the window's last frame.
    encode: Duration,
}

struct Asked {
    camera: Arc<str>,
    id: String,
    text: String,
    max_new_tokens: usize,
    span: Span,
    came: Instant,
    to: mpsc::Sender<AnswerItem>,
}

impl Engine {
    pub fn new(config: &config::Config, journal: Arc<Journal>) -> Arc<Engine> {
        let lens = |camera: &config::Camera| {
            let lens = Lens {
                period: Period::of_rate(camera.fps),
                window: camera.window,
                every: camera.every,
                freshness: camera.freshness,
                prompt: camera.prompt.clone(),
                newest: Mutex::new(None),
                came: AtomicU64::new(0),
                skipped: AtomicU32::new(0),
            };
            (camera.name.clone(), lens)
        };
        let limits =
            Limits { age: config.buffer.age, bytes: config.buffer.bytes.as_u64() as usize };
        Arc::new(Engine {
            inbox: Inbox::new(INBOX_FRAMES),
            jobs: Mutex::new(Jobs {
                scheduler: Scheduler::new(config.generate.queue),
                stopping: false,
            }),
            started: Instant::now(),
            wake: Condvar::new(),
            timeline: Timeline::new(config.cameras.iter().map(|c| c.name.clone()), limits),
            journal,
            cameras: config.cameras.iter().map(lens).collect(),
            plan: config.model.plan,
            max_new_tokens: config.generate.max_new_tokens,
            sampling: config.generate.sampling,
        })
    }

    /// Takes a camera's frame. Never waits; when too many wait, the oldest of the camera leaves.
    pub fn frame(&self, frame: Frame) {
        telemetry::frame(&frame.camera);
        let camera = frame.camera.clone();
        if let Some(lens) = self.cameras.get(&camera) {
            lens.came.store(frame.number + 1, Ordering::Relaxed);
        }
        if self.inbox.push(frame) {
            telemetry::frames_dropped(&camera, DropReason::Inbox, 1);
        }
    }

    /// Takes a question, or says why not.
    pub fn ask(&self, question: Question) -> Result<Answer, AskError> {
        self.enqueue(question).inspect_err(telemetry::question_refused)
    }

    fn enqueue(&self, question: Question) -> Result<Answer, AskError> {
        let Some((camera, lens)) = self.cameras.get_key_value(question.camera.as_str()) else {
            return Err(AskError::NoSuchCamera(question.camera));
        };
        if question.text.trim().is_empty() {
            return Err(AskError::BadQuestion("the question is empty".into()));
        }
        let span = self.recent(camera, lens)?;
        let most = question.max_new_tokens.unwrap_or(usize::MAX).min(self.max_new_tokens);
        // Room for the whole answer: an asker who reads slowly holds up nobody.
        let (to, answer) = mpsc::channel(most + 2);
        let asked = Asked {
            camera: camera.clone(),
            id: question.id,
            text: question.text,
            max_new_tokens: most,
            span,
            came: Instant::now(),
            to,
        };
        let mut jobs = self.jobs();
        if jobs.stopping {
            return Err(AskError::Stopping);
        }
        jobs.scheduler.retain(|asked| !asked.to.is_closed());
        let (waiting, retry_after) = (jobs.scheduler.questions(), jobs.scheduler.retry_after());
        if jobs.scheduler.ask(asked).is_err() {
            return Err(AskError::QueueFull { waiting, retry_after });
        }
        telemetry::queue_length(jobs.scheduler.waiting());
        drop(jobs);
        self.wake.notify_one();
        Ok(answer)
    }

    /// The camera's most recent window, up to its newest frame; when frames have ceased to come,
    /// up to now in the camera's own time.
    fn recent(&self, camera: &Arc<str>, lens: &Lens) -> Result<Span, AskError> {
        let none = |why: String| AskError::NoFootage {
            camera: camera.to_string(),
            window: lens.window,
            why,
        };
        let newest = *lens.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let (captured_at, came) = newest.ok_or_else(|| none("no frame has come yet".into()))?;
        let silent = came.elapsed();
        let fresh = silent < lens.period.0.mul_f64(2.5) + Duration::from_secs(1);
        let to = captured_at + lens.period.0 / 2 + if fresh { Duration::ZERO } else { silent };
        let span = Span { from: to - lens.window, to };
        if captured_at < span.from {
            return Err(none(format!("the last frame came {} s ago", silent.as_secs())));
        }
        Ok(span)
    }

    /// Lets running work end and takes no more; waiting questions are told so.
    pub fn stop(&self) {
        self.inbox.close();
        self.jobs().stopping = true;
        self.wake.notify_all();
    }

    /// A window will get no caption.
    fn skip(&self, camera: &Arc<str>, reason: SkipReason) {
        if let Some(lens) = self.cameras.get(camera) {
            lens.skipped.fetch_add(1, Ordering::Relaxed);
        }
        telemetry::caption_skipped(camera, reason);
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Whole after each of its methods, so a poisoned lock is still good.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
