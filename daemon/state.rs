//! The daemon's state as the cameras and the interfaces see it.
//!
//! Not here: building, running and stopping the modules, which `app` does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use crate::camera::Sink;
use crate::config::{self, Config};
use crate::disk::Trouble;
use crate::engine::Engine;
use crate::event::{Body, CameraStatus, Phase};
use crate::frame::Frame;
use crate::journal::Journal;
use crate::metrics;
use crate::question::{self, Question};
use crate::service::{Answer, AskError, CameraInfo, Looking, Readiness, Service};
use crate::sync::lock;

/// The daemon as gRPC, HTTP and MQTT see it, and the receiver of the cameras' frames.
pub struct Daemon {
    pub engine: Arc<Engine>,
    journal: Arc<dyn Journal>,
    cameras: Vec<config::Camera>,
    limits: question::Limits,
    statuses: Mutex<HashMap<Arc<str>, CameraStatus>>,
    /// Problems of the disk, if it keeps frames.
    trouble: Arc<Trouble>,
    stopping: AtomicBool,
}

impl Daemon {
    pub fn new(
        config: &Config,
        engine: Arc<Engine>,
        journal: Arc<dyn Journal>,
        trouble: Arc<Trouble>,
    ) -> Daemon {
        let names = || config.cameras.iter().map(|camera| camera.name.clone());
        let statuses = names().map(|name| (name, CameraStatus::connecting(SystemTime::now())));
        Daemon {
            engine,
            journal,
            trouble,
            statuses: Mutex::new(statuses.collect()),
            limits: question::Limits {
                text_bytes: config.generate.question_bytes,
                cameras: Some(names().collect()),
            },
            cameras: config.cameras.clone(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Refuses new questions and reports that the daemon is not ready.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    fn statuses(&self) -> MutexGuard<'_, HashMap<Arc<str>, CameraStatus>> {
        lock(&self.statuses)
    }
}

impl Sink for Daemon {
    fn frame(&self, frame: Frame) {
        if let Some(status) = self.statuses().get_mut(&frame.camera) {
            status.last_frame = Some(frame.captured_at);
        }
        self.engine.frame(frame);
    }

    fn status(&self, camera: &Arc<str>, status: CameraStatus) {
        metrics::camera_live(camera, status.phase == Phase::Live);
        let before = self.statuses().insert(camera.clone(), status.clone());
        if before.is_some_and(|before| before.reconnects < status.reconnects) {
            metrics::camera_reconnect(camera);
        }
        self.journal.append(camera.clone(), Body::Camera(status));
    }
}

impl Service for Daemon {
    fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    fn cameras(&self) -> Vec<CameraInfo> {
        let statuses = self.statuses().clone();
        let info = |camera: &config::Camera| {
            let ring = self.engine.timeline.ring(&camera.name);
            let (usage, held) = ring.map(|ring| (ring.usage(), ring.held())).unwrap_or_default();
            CameraInfo {
                name: camera.name.clone(),
                source: camera.source.to_string(),
                status: statuses
                    .get(&camera.name)
                    .cloned()
                    .unwrap_or_else(|| CameraStatus::connecting(SystemTime::now())),
                buffer_frames: usage.frames as u64,
                buffer_bytes: usage.hot.bytes + usage.warm.bytes,
                disk_bytes: usage.disk.bytes,
                oldest_frame: held.map(|held| held.from),
            }
        };
        self.cameras.iter().map(info).collect()
    }

    fn evidence(&self, camera: &str, run: Option<u64>, number: u64) -> Looking {
        self.engine.evidence(camera, run, number)
    }

    fn troubles(&self) -> Vec<String> {
        self.trouble.get().into_iter().collect()
    }

    fn limits(&self) -> question::Limits {
        self.limits.clone()
    }

    fn ask(&self, question: Question) -> Result<Answer, AskError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(AskError::Stopping);
        }
        self.engine.ask(question)
    }

    fn readiness(&self) -> Readiness {
        if self.stopping.load(Ordering::Relaxed) {
            return Readiness::NotYet("stopping".into());
        }
        if let Some(why) = self.engine.heartbeats.hung(Instant::now()) {
            return Readiness::NotYet(why);
        }
        let statuses = self.statuses();
        if statuses.values().any(|status| status.phase == Phase::Live) {
            return Readiness::Ready;
        }
        let mut phases: Vec<String> = statuses
            .iter()
            .map(|(name, status)| format!("{name}: {}", status.phase.name()))
            .collect();
        phases.sort();
        Readiness::NotYet(format!("no camera is live ({})", phases.join(", ")))
    }
}
