//! The cameras' encoded streams: the clips of alerts, which are a stream around an alert as an MP4
//! file, and live video. No picture is decoded or encoded for them.
//!
//! ```text
//!  camera/ ─► Ring (per camera) ─► Cut ─► camera/mux ─► journal
//!                   │               ▲
//!                   │     journal ─ alerts ─► ClipMaker
//!                   └─► live ─► Fragments ─► viewers
//! ```
//!
//! Not here: the reading of the stream and the container format (`camera`), and where clips are
//! stored (`journal`).

mod codec_string;
mod cut;
mod fragments;
mod live;
mod maker;
mod plan;
mod ring;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::{RwLock, watch};

pub use cut::{Cut, Flaw};
pub use maker::ClipMaker;
pub use ring::{Limits, Ring};

use crate::access_unit::AccessUnit;
use crate::camera::Recorder;
use crate::config::Rule;
use crate::frame::Span;
use crate::run_clock::RunClock;
use crate::service::LiveStream;
use crate::sync::lock;

/// The encoded streams of the cameras.
pub struct Streams {
    limits: Limits,
    clock: Arc<RunClock>,
    /// The rules that make clips.
    rules: Mutex<Vec<Rule>>,
    streams: Mutex<HashMap<Arc<str>, Arc<Stream>>>,
    /// Held for reading by each clip from when it is cut until it is published.
    clips_in_work: Arc<RwLock<()>>,
}

/// The encoded stream of one camera.
pub struct Stream {
    state: Mutex<State>,
    /// True if a rule makes clips of the stream.
    has_clips: AtomicBool,
    /// Reports new units, and that there will be none. Its receivers are the viewers.
    changed: watch::Sender<()>,
}

struct State {
    ring: Ring,
    /// Time from which units are held for any age.
    needed_from: Option<SystemTime>,
    /// Time of arrival of the newest unit.
    arrived_at: Option<Duration>,
    /// The reason why the stream of the present connection cannot be recorded.
    unsupported: Option<String>,
}

impl Streams {
    pub fn new(limits: Limits, rules: &[Rule], clock: Arc<RunClock>) -> Streams {
        let rules = Mutex::new(with_clips(rules));
        Streams { limits, clock, rules, streams: Mutex::default(), clips_in_work: Arc::default() }
    }

    /// Takes other rules. A stream of which no rule makes clips any more drops its units, except
    /// those that a viewer or a clip in work needs.
    pub fn set_rules(&self, rules: &[Rule]) {
        *lock(&self.rules) = with_clips(rules);
        for (camera, stream) in &*lock(&self.streams) {
            let has_clips = self.has_clips(camera);
            stream.state().ring.set_age(self.age(has_clips));
            stream.has_clips.store(has_clips, Ordering::Relaxed);
        }
    }

    fn has_clips(&self, camera: &str) -> bool {
        lock(&self.rules).iter().any(|rule| rule.applies_to(camera))
    }

    /// Returns the age up to which units are held. Live video needs those from the newest key frame
    /// on.
    fn age(&self, has_clips: bool) -> Duration {
        if has_clips { self.limits.age } else { Duration::ZERO }
    }

    /// Returns the receiver of a camera's stream.
    pub fn recorder(&self, camera: &Arc<str>) -> Arc<dyn Recorder> {
        let has_clips = self.has_clips(camera);
        let age = self.age(has_clips);
        let new = || Arc::new(Stream::new(Ring::new(Limits { age, ..self.limits }), has_clips));
        lock(&self.streams).entry(camera.clone()).or_insert_with(new).clone()
    }

    /// Forgets a camera that was removed. Its live video ends.
    pub fn remove(&self, camera: &str) {
        if let Some(stream) = lock(&self.streams).remove(camera) {
            stream.unsupported("the camera was removed".into());
        }
    }

    /// Begins the live video of a camera, or returns `None` if no camera has this name.
    pub fn live(&self, camera: &str) -> Option<LiveStream> {
        self.get(camera).map(live::watch)
    }

    /// Deletes what cameras sent in a span. No names: the streams of all cameras. Returns when the
    /// clips that were cut before are published, so that they can be deleted from the journal.
    pub async fn delete(&self, span: Span, cameras: &[String]) {
        for (camera, stream) in &*lock(&self.streams) {
            if cameras.is_empty() || cameras.iter().any(|name| **name == **camera) {
                stream.state().ring.delete(span);
            }
        }
        drop(self.clips_in_work.write().await);
    }

    /// Returns the bytes that the streams take.
    pub fn bytes(&self) -> u64 {
        lock(&self.streams).values().map(|stream| stream.state().ring.bytes()).sum()
    }

    fn get(&self, camera: &str) -> Option<Arc<Stream>> {
        lock(&self.streams).get(camera).cloned()
    }

    /// Returns the time since the camera sent a unit.
    fn silent_for(&self, stream: &Stream) -> Option<Duration> {
        let arrived_at = stream.state().arrived_at?;
        Some(self.clock.now().monotonic.saturating_sub(arrived_at))
    }
}

impl Stream {
    fn new(ring: Ring, has_clips: bool) -> Stream {
        let state = State { ring, needed_from: None, arrived_at: None, unsupported: None };
        Stream {
            state: Mutex::new(state),
            has_clips: AtomicBool::new(has_clips),
            changed: watch::Sender::new(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn need(&self, from: Option<SystemTime>) {
        self.state().needed_from = from;
    }

    fn newest(&self) -> Option<SystemTime> {
        self.state().ring.newest()
    }

    fn units(&self, span: Span) -> Vec<AccessUnit> {
        self.state().ring.of(span)
    }

    /// Drops the units if nobody needs them any more.
    fn viewer_left(&self) {
        if !self.is_wanted() {
            self.state().ring.clear();
        }
    }

    fn unsupported_reason(&self) -> Option<String> {
        self.state().unsupported.clone()
    }
}

/// Returns the rules that make clips.
fn with_clips(rules: &[Rule]) -> Vec<Rule> {
    rules.iter().filter(|rule| rule.clip.is_some()).cloned().collect()
}

impl Recorder for Stream {
    fn is_wanted(&self) -> bool {
        self.has_clips.load(Ordering::Relaxed) || self.changed.receiver_count() > 0
    }

    fn unit(&self, unit: AccessUnit) {
        let mut state = self.state();
        state.arrived_at = Some(unit.arrived_at);
        let needed_from = state.needed_from;
        state.ring.push(unit, needed_from);
        drop(state);
        self.changed.send_replace(());
    }

    fn supported(&self) {
        self.state().unsupported = None;
    }

    fn unsupported(&self, reason: String) {
        self.state().unsupported = Some(reason);
        self.changed.send_replace(());
    }
}
