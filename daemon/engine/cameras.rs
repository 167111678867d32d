//! Owns everything that the engine keeps for a camera. Cameras can be added and removed while the
//! engine runs.
//!
//! Guarantees: what is keyed by a camera's name elsewhere (waiting frames, jobs, conversations,
//! re-encoded tokens) is removed with the camera. A frame's number is used once in a run, also if a
//! camera of the same name is added again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::Engine;
use super::caption::change::ChangeDetector;
use super::caption::windows::{Windows, close_offset};
use super::inbox::Inbox;
use crate::config;
use crate::metrics;
use crate::run_clock::{Moment, RunClock};
use crate::service::AskError;
use crate::sync;
use crate::timeline::{Limits, Period, Ring};

/// A camera's settings and everything that is known of it.
pub struct Camera {
    pub name: Arc<str>,
    pub settings: CameraSettings,
    pub progress: Arc<CameraProgress>,
    ring: Arc<Mutex<Ring>>,
    windows: Arc<Mutex<Windows>>,
    change: Arc<Mutex<ChangeDetector>>,
}

pub struct CameraSettings {
    pub period: Period,
    pub window: Duration,
    /// Time between the ends of two windows.
    pub interval: Duration,
    pub max_caption_delay: Duration,
    /// Maximum change of a window that counts as unchanged. 0 disables the comparison.
    pub unchanged_threshold: f32,
    pub caption_prompt: Option<String>,
    /// True if the camera is not connected. Its windows do not close.
    pub is_paused: bool,
    /// Position among the cameras, which determines when the windows close.
    index: usize,
    /// Number of the first frame of the camera's present connections.
    first_number: u64,
}

#[derive(Default)]
pub struct CameraProgress {
    /// The newest encoded frame: its own time, and its time of arrival.
    newest: Mutex<Option<(Moment, Instant)>>,
    /// Frames below this number have arrived, encoded or not.
    next_number: AtomicU64,
    /// Number of windows that have ended and were to get a caption.
    windows: AtomicU64,
    /// Number of the newest window with a caption, or 0. They are numbered from 1.
    captioned: AtomicU64,
}

impl CameraProgress {
    /// Returns the number of windows that have ended and were to get a caption, and the number of the
    /// newest one with a caption.
    #[cfg(test)]
    pub fn windows(&self) -> (u64, u64) {
        (self.windows.load(Ordering::Relaxed), self.captioned.load(Ordering::Relaxed))
    }

    /// Records a window that is to get a caption, after others that nothing has closed. Returns its
    /// number.
    pub fn window_closed(&self, passed_over: u64) -> u64 {
        let ended = passed_over.saturating_add(1);
        self.windows.fetch_add(ended, Ordering::Relaxed).wrapping_add(ended)
    }

    /// Records the caption of a window. Returns the number of windows before it that got none since
    /// the camera's previous caption.
    pub fn window_captioned(&self, number: u64) -> u32 {
        let previous = self.captioned.swap(number, Ordering::Relaxed);
        u32::try_from(number.saturating_sub(previous + 1)).unwrap_or(u32::MAX)
    }
}

impl Camera {
    /// Returns the ring, locked. Keep the lock only briefly.
    pub fn ring(&self) -> MutexGuard<'_, Ring> {
        sync::lock(&self.ring)
    }

    pub fn windows(&self) -> MutexGuard<'_, Windows> {
        sync::lock(&self.windows)
    }

    pub fn change(&self) -> MutexGuard<'_, ChangeDetector> {
        sync::lock(&self.change)
    }

    /// Returns the camera's current time, which is just after its newest frame. Before the first
    /// frame, and if frames stop arriving, this is the host's time.
    pub fn now(&self, clock: &RunClock) -> Moment {
        let Period(period) = self.settings.period;
        let fresh = period.mul_f64(2.5) + Duration::from_secs(1);
        match *sync::lock(&self.progress.newest) {
            Some((newest, arrived)) if arrived.elapsed() < fresh => newest.later(period / 2),
            _ => clock.now(),
        }
    }

    /// Counts a frame that arrived. Returns its number in this run.
    pub(super) fn arrived(&self, number: u64) -> u64 {
        let number = self.settings.first_number + number;
        self.progress.next_number.store(number + 1, Ordering::Relaxed);
        number
    }
}

impl CameraSettings {
    fn new(config: &config::Camera, index: usize, first_number: u64) -> CameraSettings {
        CameraSettings {
            period: Period::of_rate(config.fps),
            window: config.window,
            interval: config.caption_interval,
            max_caption_delay: config.max_caption_delay,
            unchanged_threshold: config.unchanged_threshold,
            caption_prompt: config.caption_prompt.clone(),
            is_paused: config.is_paused,
            index,
            first_number,
        }
    }

    fn windows(&self) -> Windows {
        let offset = close_offset(self.index, self.interval);
        Windows::new(self.period, self.window, self.interval, offset)
    }
}

impl CameraProgress {
    pub fn newest(&self) -> Option<Moment> {
        sync::lock(&self.newest).map(|(newest, _)| newest)
    }

    pub fn set_newest(&self, newest: Moment, arrived: Instant) {
        *sync::lock(&self.newest) = Some((newest, arrived));
    }

    pub fn next_number(&self) -> u64 {
        self.next_number.load(Ordering::Relaxed)
    }
}

/// The cameras of an engine.
pub struct CameraRegistry {
    state: Mutex<State>,
}

struct State {
    cameras: HashMap<Arc<str>, Arc<Camera>>,
    /// First number for the frames of a camera that is added.
    first_number: u64,
    /// Limits of each camera's ring.
    limits: Limits,
}

impl CameraRegistry {
    /// Creates a registry without cameras. `limits` are those of each camera's ring.
    pub fn new(limits: Limits) -> CameraRegistry {
        let state = State { cameras: HashMap::new(), first_number: 0, limits };
        CameraRegistry { state: Mutex::new(state) }
    }

    pub fn get(&self, name: &str) -> Option<Arc<Camera>> {
        sync::lock(&self.state).cameras.get(name).cloned()
    }

    /// Returns all cameras, in the order in which they were added.
    pub fn all(&self) -> Vec<Arc<Camera>> {
        let mut all: Vec<_> = sync::lock(&self.state).cameras.values().cloned().collect();
        all.sort_by_key(|camera| camera.settings.index);
        all
    }

    /// Adds a camera. Returns false if there is one of this name.
    pub fn add(&self, config: &config::Camera) -> bool {
        let mut state = sync::lock(&self.state);
        if state.cameras.contains_key(&config.name) {
            return false;
        }
        let is_free =
            |index: &usize| state.cameras.values().all(|camera| camera.settings.index != *index);
        let index = (0..).find(is_free).unwrap_or_default();
        let settings = CameraSettings::new(config, index, state.first_number);
        let windows = settings.windows();
        let progress = CameraProgress::default();
        progress.next_number.store(state.first_number, Ordering::Relaxed);
        let camera = Camera {
            name: config.name.clone(),
            ring: Arc::new(Mutex::new(Ring::with_usual_step(state.limits, settings.period.gap()))),
            windows: Arc::new(Mutex::new(windows)),
            change: Arc::default(),
            settings,
            progress: Arc::new(progress),
        };
        state.cameras.insert(config.name.clone(), Arc::new(camera));
        true
    }

    /// Gives a camera other settings. Its ring stays. Its windows start again only if their length,
    /// their interval or the rate of frames changed, or at a pause. `is_restarted` is true if its frames are
    /// numbered from 0 again. Returns false if there is no camera of this name.
    pub fn update(&self, config: &config::Camera, is_restarted: bool) -> bool {
        let mut state = sync::lock(&self.state);
        let Some(old) = state.cameras.get(&config.name).cloned() else { return false };
        let first_number =
            if is_restarted { old.progress.next_number() } else { old.settings.first_number };
        let settings = CameraSettings::new(config, old.settings.index, first_number);
        let timing = |of: &CameraSettings| (of.period.0, of.window, of.interval, of.is_paused);
        let windows = if timing(&settings) == timing(&old.settings) {
            old.windows.clone()
        } else {
            Arc::new(Mutex::new(settings.windows()))
        };
        // The next window gets a caption of the new prompt, even if nothing has changed in it.
        let change = if settings.caption_prompt == old.settings.caption_prompt {
            old.change.clone()
        } else {
            Arc::default()
        };
        let camera = Camera {
            name: old.name.clone(),
            settings,
            progress: old.progress.clone(),
            ring: old.ring.clone(),
            windows,
            change,
        };
        state.cameras.insert(config.name.clone(), Arc::new(camera));
        true
    }

    /// Changes the limits of every camera's ring.
    pub fn set_limits(&self, limits: Limits) {
        sync::lock(&self.state).limits = limits;
        self.all().iter().for_each(|camera| camera.ring().set_limits(limits));
    }

    /// Removes a camera. Returns it, or `None` if there is none of this name.
    pub fn remove(&self, name: &str) -> Option<Arc<Camera>> {
        let mut state = sync::lock(&self.state);
        let camera = state.cameras.remove(name)?;
        state.first_number = state.first_number.max(camera.progress.next_number());
        Some(camera)
    }
}

impl Engine {
    /// Adds a camera. Returns false if there is one of this name.
    pub fn add_camera(&self, camera: &config::Camera) -> bool {
        self.rules.add_camera(&camera.name);
        self.rules.set_paused(&camera.name, camera.is_paused);
        self.cameras.add(camera)
    }

    /// Gives a camera other settings, as `CameraRegistry::update` does.
    pub fn update_camera(&self, camera: &config::Camera, is_restarted: bool) -> bool {
        self.rules.set_paused(&camera.name, camera.is_paused);
        self.cameras.update(camera, is_restarted)
    }

    /// Removes a camera and everything that is kept of it in memory. Its waiting questions get an
    /// error. A caption in progress is not published. Frames on disk stay until they are too old,
    /// and the journal keeps its events. Stop the camera before. Returns false if there is none of
    /// this name.
    pub fn remove_camera(&self, name: &str) -> bool {
        let Some(camera) = self.cameras.remove(name) else { return false };
        let name = &camera.name;
        let gone = || AskError::CameraNotFound(name.to_string());
        let fetches = self.inbox.change(|inbox: &mut Inbox<_>| {
            inbox.remove(name);
            inbox.extract(|fetch| fetch.camera == *name)
        });
        fetches.into_iter().for_each(|fetch| fetch.fail(gone()));
        let questions = {
            let mut jobs = self.jobs();
            let questions = jobs.scheduler.remove(name);
            metrics::waiting_jobs(jobs.scheduler.waiting());
            questions
        };
        questions.into_iter().for_each(|job| job.fail(gone()));
        self.rules.remove_camera(name);
        sync::lock(&self.conversations).remove(name);
        self.reencoded().retain(|(camera, _)| camera != name);
        true
    }
}

#[cfg(test)]
mod tests;
