//! The running cameras: the only owner of their threads.
//!
//! Guarantees: cameras are added and removed while the daemon runs, each without an effect on the
//! others. When [`Cameras::remove`] returns, the camera's thread has ended, and no more frames of it
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
    running: Mutex<HashMap<Arc<str>, CameraHandle>>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a camera named {0:?} is running already")]
pub struct CameraExists(Arc<str>);

impl Cameras {
    /// Creates the owner without cameras. `clock` orders the frames of all cameras.
    pub fn new(daemon: Arc<Daemon>, clock: Arc<RunClock>) -> Cameras {
        Cameras { daemon, clock, running: Mutex::default() }
    }

    /// Starts a camera. From now on its frames are taken, and it can be asked about.
    pub fn add(&self, camera: config::Camera) -> Result<(), CameraExists> {
        let name = camera.name.clone();
        let mut running = lock(&self.running);
        if running.contains_key(&name) {
            return Err(CameraExists(name));
        }
        self.daemon.add_camera(&camera);
        running.insert(name, camera::start(camera, self.daemon.clone(), self.clock.clone()));
        Ok(())
    }

    /// Stops a camera and forgets it. Returns false if no camera has this name. Waits for the
    /// camera's thread.
    pub fn remove(&self, name: &str) -> bool {
        let Some(handle) = lock(&self.running).remove(name) else { return false };
        handle.stop();
        self.daemon.remove_camera(name);
        true
    }

    /// Stops all cameras and waits for their threads. They can still be listed afterwards.
    pub fn stop(self) {
        let running = std::mem::take(&mut *lock(&self.running));
        running.values().for_each(CameraHandle::ask_to_stop);
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
        assert_eq!(cameras.add(gate.clone()), Err(CameraExists("gate".into())));
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
    }
}
