//! The clips of alerts: the camera's encoded stream around an alert, as an MP4 file. No picture is
//! decoded or encoded for it.
//!
//! ```text
//!  camera/ ─► Ring (per camera) ─► Cut ─► camera/mux ─► journal
//!                                   ▲
//!           journal ─ alerts ─► ClipMaker
//! ```
//!
//! Not here: the reading of the stream and the container format (`camera`), and where clips are
//! stored (`journal`).

mod cut;
mod maker;
mod plan;
mod ring;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::RwLock;

pub use cut::{Cut, Flaw};
pub use maker::ClipMaker;
pub use ring::{Limits, Ring};

use crate::access_unit::AccessUnit;
use crate::camera::Recorder;
use crate::config::Rule;
use crate::frame::Span;
use crate::run_clock::RunClock;
use crate::sync::lock;

/// The encoded streams of the cameras that have rules with clips.
pub struct Streams {
    limits: Limits,
    clock: Arc<RunClock>,
    rules: Vec<Rule>,
    streams: Mutex<HashMap<Arc<str>, Arc<Stream>>>,
    /// Held for reading by each clip from when it is cut until it is published.
    clips_in_work: Arc<RwLock<()>>,
}

/// The encoded stream of one camera.
pub struct Stream {
    state: Mutex<State>,
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
        let rules = rules.iter().filter(|rule| rule.clip.is_some()).cloned().collect();
        Streams { limits, clock, rules, streams: Mutex::default(), clips_in_work: Arc::default() }
    }

    /// Returns the receiver of a camera's stream, if a rule makes clips of it.
    pub fn recorder(&self, camera: &Arc<str>) -> Option<Arc<dyn Recorder>> {
        if !self.rules.iter().any(|rule| rule.applies_to(camera)) {
            return None;
        }
        let mut streams = lock(&self.streams);
        let stream = streams.entry(camera.clone());
        Some(stream.or_insert_with(|| Arc::new(Stream::new(self.limits))).clone())
    }

    /// Forgets a camera that was removed.
    pub fn remove(&self, camera: &str) {
        lock(&self.streams).remove(camera);
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
    fn new(limits: Limits) -> Stream {
        let state = State {
            ring: Ring::new(limits),
            needed_from: None,
            arrived_at: None,
            unsupported: None,
        };
        Stream { state: Mutex::new(state) }
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

    fn unsupported_reason(&self) -> Option<String> {
        self.state().unsupported.clone()
    }
}

impl Recorder for Stream {
    fn unit(&self, unit: AccessUnit) {
        let mut state = self.state();
        state.unsupported = None;
        state.arrived_at = Some(unit.arrived_at);
        let needed_from = state.needed_from;
        state.ring.push(unit, needed_from);
    }

    fn unsupported(&self, reason: String) {
        self.state().unsupported = Some(reason);
    }
}
