//! Runs one camera and keeps what it delivers, so that a test can wait for frames and states.
#![allow(dead_code)]

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use lookout::camera::{self, CameraHandle, Sink};
use lookout::config::Camera;
use lookout::event::{CameraState, CameraStatus};
use lookout::frame::{Clock, Frame};
use lookout::run_clock::RunClock;

/// Timeout for a busy machine; nothing takes this long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A camera that is running, and everything that it has delivered.
pub struct Watched {
    handle: CameraHandle,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    frames: Vec<Frame>,
    statuses: Vec<CameraStatus>,
    /// Statuses that have been waited for.
    taken: usize,
}

impl Sink for Seen {
    fn frame(&self, frame: Frame) {
        self.state.lock().unwrap().frames.push(frame);
        self.changed.notify_all();
    }

    fn status(&self, _: &Arc<str>, status: CameraStatus) {
        self.state.lock().unwrap().statuses.push(status);
        self.changed.notify_all();
    }
}

impl Watched {
    pub fn start(config: Camera) -> Watched {
        camera::init().unwrap();
        let seen = Arc::new(Seen::default());
        let handle = camera::start(config, seen.clone(), Arc::new(RunClock::start()));
        Watched { handle, seen }
    }

    pub fn stop(self) {
        self.handle.stop();
    }

    /// Returns all frames once there are `count`.
    pub fn frames(&self, count: usize) -> Vec<Frame> {
        self.frames_when(count, |_| true)
    }

    /// Returns all frames once `count` of them have the camera's time.
    pub fn dated_frames(&self, count: usize) -> Vec<Frame> {
        self.frames_when(count, |frame| frame.clock == Clock::Camera)
    }

    fn frames_when(&self, count: usize, counts: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let enough =
            |frames: &[Frame]| frames.iter().filter(|frame| counts(frame)).count() >= count;
        let state = self.seen.state.lock().unwrap();
        let (state, timeout) = self
            .seen
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !enough(&state.frames))
            .unwrap();
        assert!(
            !timeout.timed_out(),
            "too few frames: {}; {:?}",
            state.frames.len(),
            state.statuses
        );
        state.frames.clone()
    }

    /// Waits for the next status with this state and discards those before it.
    pub fn state(&self, state: CameraState) -> CameraStatus {
        self.when(|status| status.state == state)
    }

    /// Waits for the next status for which `is` holds and discards those before it.
    pub fn when(&self, is: impl Fn(&CameraStatus) -> bool) -> CameraStatus {
        let find = |state: &State| state.statuses[state.taken..].iter().position(&is);
        let state = self.seen.state.lock().unwrap();
        let (mut state, _) = self
            .seen
            .changed
            .wait_timeout_while(state, PATIENCE, |state| find(state).is_none())
            .unwrap();
        let at = find(&state).unwrap_or_else(|| panic!("not in {:?}", state.statuses));
        state.taken += at + 1;
        state.statuses[state.taken - 1].clone()
    }

    pub fn count(&self) -> usize {
        self.seen.state.lock().unwrap().frames.len()
    }

    pub fn states(&self) -> Vec<CameraState> {
        self.seen.state.lock().unwrap().statuses.iter().map(|status| status.state).collect()
    }
}
