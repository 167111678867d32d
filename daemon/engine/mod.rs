//! Schedules vision and language inference: encodes frames, generates captions and answers
//! questions.
//!
//! ```text
//!  camera ─► Inbox ─► vision worker ─► Timeline ─► Scheduler ─► language worker ─► Journal
//!              ▲        Windows ─ a window closes ──┘  ▲                    └────► asker
//!              │                              ask() ───┤ all its frames are hot
//!              └──────── disk ◄─ ask() some are not: Recall ─► encoded again ─► Scheduler
//! ```
//!
//! Guarantees: only two threads compute, and a third one owns the disk. None of them waits for a
//! camera, a broker or a client.

pub mod caption;
mod failures;
mod inbox;
mod language_worker;
mod question;
pub mod scheduler;
mod snapshot;
mod vision_worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::byte_lru::ByteLru;
use crate::config::{self, Sampling};
use crate::disk;
use crate::frame::{Frame, FrameId};
use crate::heartbeat::Heartbeats;
use crate::journal::Journal;
use crate::language::Turn;
use crate::metrics::{self, DropReason, SkipReason};
use crate::run_clock::{Moment, RunClock};
use crate::service::AskError;
use crate::slowfast::{FrameTokens, Plan};
use crate::sync::Waiting;
use crate::timeline::{
    Clip, Limits, Period, RunPosition, Selection, Tiers, TimeRange, Timeline, select,
};

use caption::windows::close_offset;
use inbox::Inbox;
use question::conversations::Conversations;
use question::frames::FrameFetch;
use question::pass::Asked;
use scheduler::Scheduler;

pub use caption::change::ChangeDetector;
pub use failures::Failures;
pub use language_worker::LanguageWorker;
pub use vision_worker::VisionWorker;

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
    inbox: Waiting<Inbox<FrameFetch>>,
    /// The disk's queue, or `None` if nothing is stored on disk.
    pub disk: Option<disk::Queue>,
    /// True while frames of earlier runs are still being read from the disk.
    restoring: AtomicBool,
    /// Number of reserved places in the queue.
    queue_slots: Arc<AtomicUsize>,
    /// Questions that are answered in parts.
    in_parts: Mutex<JoinSet<()>>,
    recalled: Mutex<ByteLru<Named, Arc<FrameTokens>>>,
    jobs: Mutex<Jobs>,
    wake: Condvar,
    /// The moment from which the scheduler's times are counted.
    started: Instant,
    pub heartbeats: Heartbeats,
    pub timeline: Timeline,
    pub journal: Arc<dyn Journal>,
    cameras: HashMap<Arc<str>, Lens>,
    plan: Plan,
    max_new_tokens: usize,
    sampling: Sampling,
    summary: config::Summary,
    conversations: Mutex<Conversations<Turn>>,
}

/// The key of a frame of any camera.
type Named = (Arc<str>, FrameId);

/// The engine's settings and state for a camera.
struct Lens {
    period: Period,
    window: Duration,
    every: Duration,
    /// Offset within `every` at which the camera's windows close.
    close_offset: Duration,
    freshness: Duration,
    /// Maximum change of a window that counts as unchanged. 0 disables the comparison.
    unchanged: f32,
    prompt: Option<String>,
    /// The newest encoded frame: its own time, and its time of arrival.
    newest: Mutex<Option<(Moment, Instant)>>,
    /// Frames below this number have arrived, encoded or not.
    came: AtomicU64,
    /// Number of windows without a caption since the last caption.
    skipped: AtomicU32,
}

struct Jobs {
    scheduler: Scheduler<Arc<str>, Asked, Window>,
    stopping: bool,
}

/// A closed window that is to be captioned.
struct Window {
    extent: TimeRange,
    closed: Instant,
    /// Model time of the window's last frame.
    encode: Duration,
}

impl Engine {
    /// Creates an engine. `run` identifies this run's frames, and `clock` is their clock.
    pub fn new(
        config: &config::Config,
        journal: Arc<dyn Journal>,
        run: u64,
        clock: Arc<RunClock>,
    ) -> Arc<Engine> {
        let lens = |(index, camera): (usize, &config::Camera)| {
            let lens = Lens {
                period: Period::of_rate(camera.fps),
                window: camera.window,
                every: camera.caption_interval,
                close_offset: close_offset(index, camera.caption_interval),
                freshness: camera.max_caption_delay,
                unchanged: camera.unchanged_threshold,
                prompt: camera.caption_prompt.clone(),
                newest: Mutex::new(None),
                came: AtomicU64::new(0),
                skipped: AtomicU32::new(0),
            };
            (camera.name.clone(), lens)
        };
        let buffer = &config.buffer;
        let limits = Limits {
            hot_age: buffer.token_age,
            hot_bytes: buffer.token_bytes.as_u64() as usize,
            warm_age: buffer.jpeg_age,
            warm_bytes: buffer.jpeg_bytes.as_u64() as usize,
        };
        Arc::new(Engine {
            run,
            clock,
            disk: buffer.disk.as_ref().map(|_| disk::Queue::new(disk::QUEUE_FRAMES, disk::LOOKUPS)),
            restoring: AtomicBool::new(false),
            queue_slots: Arc::default(),
            in_parts: Mutex::default(),
            recalled: Mutex::new(ByteLru::new(buffer.reencode_cache_bytes.as_u64() as usize)),
            inbox: Waiting::new(Inbox::new(INBOX_FRAMES, buffer.inbox_bytes.as_u64() as usize)),
            jobs: Mutex::new(Jobs {
                scheduler: Scheduler::new(config.generate.max_waiting_questions),
                stopping: false,
            }),
            started: Instant::now(),
            heartbeats: Heartbeats::new(config.hang_timeout),
            wake: Condvar::new(),
            timeline: Timeline::new(config.cameras.iter().map(|c| c.name.clone()), limits),
            journal,
            cameras: config.cameras.iter().enumerate().map(lens).collect(),
            plan: config.model.plan,
            max_new_tokens: config.generate.max_new_tokens,
            sampling: config.generate.sampling,
            summary: config.generate.summary,
            conversations: Mutex::new(Conversations::new(CONVERSATIONS, CONVERSATION_AGE)),
        })
    }

    /// Accepts a camera's frame. Never waits; if too many frames wait, the inbox drops some.
    pub fn frame(&self, frame: Frame) {
        metrics::frame(&frame.camera);
        if let Some(lens) = self.cameras.get(&frame.camera) {
            lens.came.store(frame.number + 1, Ordering::Relaxed);
        }
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

    /// Counts a window that gets no caption.
    fn skip(&self, camera: &Arc<str>, reason: SkipReason) {
        if let Some(lens) = self.cameras.get(camera) {
            lens.skipped.fetch_add(1, Ordering::Relaxed);
        }
        metrics::caption_skipped(camera, reason);
    }

    /// Samples an extent of a camera's footage among the frames whose tokens are in memory. Returns
    /// `None` if there are none.
    fn clip(&self, camera: &str, extent: TimeRange) -> Option<Clip> {
        let chosen = self.choose(camera, extent, Tiers::Hot)?;
        let tokens = chosen.tokens();
        chosen.clip(tokens, &self.plan)
    }

    fn choose(
        &self,
        camera: &str,
        extent: impl Into<TimeRange>,
        tiers: Tiers,
    ) -> Option<Selection> {
        let lens = self.cameras.get(camera)?;
        let next = FrameId { run: self.run, number: lens.came.load(Ordering::Relaxed) };
        let position = RunPosition { next, now: self.clock.now() };
        let ring = self.timeline.ring(camera)?;
        select(&ring, extent.into(), lens.period, position, &self.plan, tiers)
    }

    fn recalled(&self) -> MutexGuard<'_, ByteLru<Named, Arc<FrameTokens>>> {
        // The map is consistent after each of its methods, so a poisoned lock is still usable.
        self.recalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // The jobs are consistent after each of their methods, so a poisoned lock is still usable.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
