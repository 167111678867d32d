//! The running cameras: the only owner of their threads.
//!
//! Guarantees: cameras are added, changed and removed while the daemon runs, each without an effect
//! on the others. When [`Cameras::remove`] returns, the camera's thread has ended, and no more frames of it
//! arrive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::camera::{self, CameraHandle};
use crate::config;
use crate::run_clock::RunClock;
use crate::state::Daemon;
use crate::sync::lock;

/// Starts and stops the daemon's cameras.
pub struct Cameras {
    daemon: Arc<Daemon>,
    clock: Arc<RunClock>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    /// The cameras, each with its thread. A paused one has none.
    handles: HashMap<Arc<str>, Option<CameraHandle>>,
    /// True after all cameras were stopped. No other is started.
    is_stopped: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    #[error("a camera named {0:?} is running already")]
    CameraExists(Arc<str>),
    #[error("the daemon is stopping")]
    Stopping,
}

impl Cameras {
    /// Creates the owner without cameras. `clock` orders the frames of all cameras.
    pub fn new(daemon: Arc<Daemon>, clock: Arc<RunClock>) -> Cameras {
        Cameras { daemon, clock, running: Mutex::default() }
    }

    /// Starts a camera. From now on its frames are taken, and it can be asked about.
    pub fn add(&self, camera: config::Camera) -> Result<(), AddError> {
        let mut running = lock(&self.running);
        if running.is_stopped {
            return Err(AddError::Stopping);
        }
        if running.handles.contains_key(&camera.name) {
            return Err(AddError::CameraExists(camera.name));
        }
        self.daemon.add_camera(&camera);
        self.start(&mut running, camera);
        Ok(())
    }

    /// Gives a camera other settings. Its buffer stays. `reconnects` is true if its thread must be
    /// restarted for them. Returns false if no camera has this name. Waits for the old thread.
    pub fn update(&self, camera: config::Camera, reconnects: bool) -> bool {
        if !reconnects {
            return self.daemon.update_camera(&camera, false);
        }
        let Some(handle) = lock(&self.running).handles.remove(&camera.name) else { return false };
        if let Some(handle) = handle {
            handle.stop();
        }
        let is_known = self.daemon.update_camera(&camera, true);
        let mut running = lock(&self.running);
        if is_known && !running.is_stopped {
            self.start(&mut running, camera);
        }
        is_known
    }

    fn start(&self, running: &mut Running, camera: config::Camera) {
        let name = camera.name.clone();
        let handle = if camera.is_paused {
            self.daemon.paused(&name);
            None
        } else {
            Some(camera::start(camera, self.daemon.clone(), self.clock.clone()))
        };
        running.handles.insert(name, handle);
    }

    /// Stops a camera and forgets it. Returns false if no camera has this name. Waits for the
    /// camera's thread.
    pub fn remove(&self, name: &str) -> bool {
        let Some(handle) = lock(&self.running).handles.remove(name) else { return false };
        if let Some(handle) = handle {
            handle.stop();
        }
        self.daemon.remove_camera(name);
        true
    }

    /// Stops all cameras and waits for their threads. They can still be listed afterwards.
    pub fn stop(&self) {
        let handles = {
            let mut running = lock(&self.running);
            running.is_stopped = true;
            std::mem::take(&mut running.handles)
        };
        handles.values().flatten().for_each(CameraHandle::ask_to_stop);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::clips::{Limits, Streams};
    use crate::config::Config;
    use crate::disk::DiskProblem;
    use crate::engine::Engine;
    use crate::event::Body;
    use crate::journal::MemoryJournal;
    use crate::service::Service;

    /// A config with two cameras that nobody can reach.
    const CONFIG: &str = r#"
        [model]
        package = "model"
        [http]
        listen = "127.0.0.1:0"
        [[camera]]
        name = "gate"
        url = "rtsp://127.0.0.1:1/gate"
        [[camera]]
        name = "yard"
        url = "rtsp://127.0.0.1:1/yard"
    "#;

    #[test]
    fn cameras_are_added_and_removed_while_the_daemon_runs() {
        camera::init().unwrap();
        let config = Config::parse(CONFIG, Path::new("")).unwrap();
        let journal = MemoryJournal::shared(1, 100);
        let clock = Arc::new(RunClock::start());
        let engine = Engine::new(&config, journal.clone(), 1, clock.clone());
        let limits = Limits { age: config.buffer.encoded_age, bytes: 0 };
        let streams = Arc::new(Streams::new(limits, &[], clock.clone()));
        let problem = Arc::<DiskProblem>::default();
        let daemon = Arc::new(Daemon::new(&config, engine, journal, problem, streams));
        let cameras = Cameras::new(daemon.clone(), clock);
        let listed = || {
            let cameras = daemon.cameras().into_iter().map(|camera| camera.name.to_string());
            cameras.collect::<Vec<_>>()
        };
        let [gate, yard] = [config.cameras[0].clone(), config.cameras[1].clone()];
        cameras.add(gate.clone()).unwrap();
        cameras.add(yard).unwrap();
        assert_eq!(cameras.add(gate.clone()), Err(AddError::CameraExists("gate".into())));
        assert_eq!(listed(), ["gate", "yard"]);
        assert!(cameras.remove("gate") && !cameras.remove("gate"));
        assert_eq!(listed(), ["yard"]);
        let newest = daemon.journal().newest();
        let removed =
            |body: &Body| matches!(body, Body::CameraStatus(s) if s.reason.contains("removed"));
        assert!(newest.iter().any(|event| &*event.camera == "gate" && removed(&event.body)));
        assert_eq!(daemon.limits().cameras, Some(vec!["yard".into()]));
        cameras.add(gate).unwrap();
        assert_eq!(listed(), ["yard", "gate"]);
        cameras.stop();
        let yard = config.cameras[1].clone();
        assert_eq!(cameras.add(yard), Err(AddError::Stopping));
    }
}
