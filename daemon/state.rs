//! The daemon's state as the cameras and the interfaces see it.
//!
//! Not here: building, running and stopping the modules, which `app` does.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::camera::{Recorder, Sink};
use crate::clips::Streams;
use crate::config::written::{self, WrittenCamera};
use crate::config::{self, Config};
use crate::disk::DiskProblem;
use crate::engine::Engine;
use crate::event::{Alert, AlertClip, Body, CameraState, CameraStatus, Event};
use crate::frame::{Frame, Span};
use crate::interface::Interface;
use crate::journal::Journal;
use crate::language::ServerHealth;
use crate::metrics;
use crate::question::{self, Question, Range};
use crate::service::{
    AlertNotFound, AlertQuery, AnswerStream, AskError, CameraInfo, ConfigChange, ConfiguredCamera,
    ConfiguredCameras, FrameDeletion, FrameLookup, FrameSample, ListedAlert, LiveStream, Readiness,
    ReloadError, ReloadRequest, Reloading, RuleInfo, Service, TrialError, TrialRequest,
    TrialStream,
};
use crate::sync::lock;
use crate::tls::ServerTls;

/// The daemon as gRPC, HTTP and MQTT see it, and the receiver of the cameras' frames.
pub struct Daemon {
    pub engine: Arc<Engine>,
    journal: Arc<dyn Journal>,
    /// The encoded streams of the cameras.
    streams: Arc<Streams>,
    cameras: Mutex<Vec<Camera>>,
    /// Maximum length of a question.
    question_bytes: AtomicUsize,
    /// Problems of the disk, if it keeps frames.
    disk_problem: Arc<DiskProblem>,
    /// The certificate of gRPC and HTTP.
    tls: Option<Arc<ServerTls>>,
    /// A sentence for each interface that other machines can reach without protection.
    insecure: Vec<String>,
    /// The servers that run the language model, if it does not run in this process.
    language_servers: Option<ServerHealth>,
    stopping: AtomicBool,
    /// Number of changes of the config.
    config_version: AtomicU64,
    /// The queue of requests to read the config again, once the daemon runs.
    reloads: OnceLock<mpsc::Sender<ReloadRequest>>,
    config_file: OnceLock<PathBuf>,
}

/// A camera as the interfaces list it.
#[derive(Clone)]
struct Camera {
    name: Arc<str>,
    /// The camera's URL without user and password.
    source: String,
    status: CameraStatus,
}

impl Daemon {
    /// Creates the state of a daemon without cameras.
    pub fn new(
        config: &Config,
        engine: Arc<Engine>,
        journal: Arc<dyn Journal>,
        disk_problem: Arc<DiskProblem>,
        streams: Arc<Streams>,
    ) -> Daemon {
        Daemon {
            engine,
            journal,
            disk_problem,
            tls: None,
            insecure: [(Interface::Grpc, config.grpc), (Interface::Http, config.http)]
                .into_iter()
                .filter_map(|(interface, listen)| listen?.insecurity(interface))
                .collect(),
            language_servers: None,
            streams,
            cameras: Mutex::default(),
            question_bytes: AtomicUsize::new(config.generate.question_bytes),
            stopping: AtomicBool::new(false),
            config_version: AtomicU64::new(0),
            config_file: OnceLock::new(),
            reloads: OnceLock::new(),
        }
    }

    /// Reports the troubles of this certificate.
    pub fn with_tls(self, tls: Option<Arc<ServerTls>>) -> Daemon {
        Daemon { tls, ..self }
    }

    /// Reports the troubles of the servers that run the language model.
    pub fn with_language_servers(self, language_servers: Option<ServerHealth>) -> Daemon {
        Daemon { language_servers, ..self }
    }

    /// Refuses new questions and reports that the daemon is not ready.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Lists a camera, in the order of the calls, and gives it to the engine, which knows those of
    /// the config already.
    pub fn add_camera(&self, camera: &config::Camera) {
        self.engine.add_camera(camera);
        let name = camera.name.clone();
        let source = camera.source.to_string();
        let status = CameraStatus::connecting(SystemTime::now());
        self.listed().push(Camera { name, source, status });
    }

    /// Gives a camera other settings. `is_restarted` is true if its thread was restarted for them.
    /// Returns false if there is no camera of this name.
    pub fn update_camera(&self, camera: &config::Camera, is_restarted: bool) -> bool {
        if let Some(listed) = self.listed().iter_mut().find(|c| c.name == camera.name) {
            listed.source = camera.source.to_string();
            if is_restarted {
                listed.status = CameraStatus::connecting(SystemTime::now());
            }
        }
        if is_restarted && !camera.masks.is_empty() {
            // What was recorded may show what the masks hide.
            self.streams.remove(&camera.name);
        }
        self.engine.update_camera(camera, is_restarted)
    }

    /// Takes the settings of another config that can change while the daemon runs, except those of
    /// cameras.
    pub fn set_config(&self, config: &Config) {
        self.question_bytes.store(config.generate.question_bytes, Ordering::Relaxed);
        self.engine.set_config(config);
        self.streams.set_rules(&config.rules);
    }

    /// Publishes that a camera is paused.
    pub fn paused(&self, name: &Arc<str>) {
        let status = CameraStatus {
            state: CameraState::Paused,
            reason: "the config pauses the camera".into(),
            ..CameraStatus::connecting(SystemTime::now())
        };
        Sink::status(self, name, status);
    }

    /// Ends a change of the config: lists the cameras in this order, and lets the interfaces know
    /// that cameras or rules may have changed.
    pub fn config_changed(&self, cameras: &[config::Camera]) {
        let place = |camera: &Camera| cameras.iter().position(|c| c.name == camera.name);
        self.listed().sort_by_key(place);
        self.config_version.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends requests to change the config in this file to `reloads`.
    pub fn accept_reloads(&self, file: PathBuf, reloads: mpsc::Sender<ReloadRequest>) {
        // It is called once, when the daemon starts.
        let _ = self.config_file.set(file);
        let _ = self.reloads.set(reloads);
    }

    fn question_bytes(&self) -> usize {
        self.question_bytes.load(Ordering::Relaxed)
    }

    /// Removes a camera from the list and from the engine, and publishes that it is lost.
    pub fn remove_camera(&self, name: &str) {
        self.engine.remove_camera(name);
        let removed = {
            let mut listed = self.listed();
            let at = listed.iter().position(|camera| *camera.name == *name);
            at.map(|at| listed.remove(at))
        };
        let Some(camera) = removed else { return };
        self.streams.remove(name);
        metrics::camera_removed(name);
        let status = CameraStatus {
            state: CameraState::Lost,
            since: SystemTime::now(),
            reason: "the camera was removed".into(),
            ..camera.status
        };
        self.journal.append(camera.name, Body::CameraStatus(status));
    }

    fn listed(&self) -> MutexGuard<'_, Vec<Camera>> {
        lock(&self.cameras)
    }
}

impl Sink for Daemon {
    fn frame(&self, frame: Frame) {
        if let Some(camera) = self.listed().iter_mut().find(|c| c.name == frame.camera) {
            camera.status.last_frame_at = Some(frame.captured_at);
        }
        self.engine.frame(frame);
    }

    fn recorder(&self, camera: &Arc<str>) -> Option<Arc<dyn Recorder>> {
        Some(self.streams.recorder(camera))
    }

    fn status(&self, camera: &Arc<str>, status: CameraStatus) {
        metrics::camera_live(camera, status.state == CameraState::Live);
        if let Some(listed) = self.listed().iter_mut().find(|c| c.name == *camera) {
            if listed.status.reconnects < status.reconnects {
                metrics::camera_reconnect(camera);
            }
            listed.status = status.clone();
        }
        self.journal.append(camera.clone(), Body::CameraStatus(status));
    }
}

impl Service for Daemon {
    fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    fn cameras(&self) -> Vec<CameraInfo> {
        let info = |camera: &Camera| {
            let known = self.engine.cameras.get(&camera.name);
            let of_ring = known.map(|known| {
                let ring = known.ring();
                (ring.usage(), ring.span())
            });
            let (usage, held) = of_ring.unwrap_or_default();
            CameraInfo {
                name: camera.name.clone(),
                source: camera.source.clone(),
                status: camera.status.clone(),
                buffer_frames: usage.frames as u64,
                buffer_bytes: usage.hot.bytes + usage.warm.bytes,
                disk_bytes: usage.disk.bytes,
                oldest_frame_at: held.map(|held| held.from),
            }
        };
        // The list is copied, so that it is not locked together with a ring.
        let cameras = self.listed().clone();
        cameras.iter().map(info).collect()
    }

    fn frame_jpeg(&self, camera: &str, run: Option<u64>, number: u64) -> FrameLookup {
        self.engine.frame_jpeg(camera, run, number)
    }

    fn delete_frames(&self, span: Span, cameras: &[String]) -> FrameDeletion {
        // Frames that are still to be taken are not meant.
        let span = Span { to: span.to.min(SystemTime::now()), ..span };
        let deleted = self.engine.delete_frames(span, cameras);
        let (streams, cameras) = (self.streams.clone(), cameras.to_vec());
        Box::pin(async move {
            streams.delete(span, &cameras).await;
            deleted.await
        })
    }

    fn sample_frames(
        &self,
        camera: &str,
        range: Range,
        most: usize,
    ) -> Result<FrameSample, AskError> {
        self.engine.sample_frames(camera, range, most)
    }

    fn live_video(&self, camera: &str) -> Option<LiveStream> {
        self.streams.live(camera)
    }

    fn troubles(&self) -> Vec<String> {
        let tls = self.tls.as_ref().and_then(|tls| tls.trouble());
        let servers = self.language_servers.iter().flat_map(ServerHealth::troubles);
        let stored = self.disk_problem.get().into_iter().chain(self.journal.trouble());
        stored.chain(tls).chain(servers).chain(self.insecure.iter().cloned()).collect()
    }

    fn limits(&self) -> question::Limits {
        question::Limits {
            text_bytes: self.question_bytes(),
            cameras: Some(self.listed().iter().map(|camera| camera.name.clone()).collect()),
        }
    }

    fn ask(&self, question: Question) -> Result<AnswerStream, AskError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(AskError::Stopping);
        }
        self.engine.ask(question)
    }

    fn rules(&self) -> Vec<RuleInfo> {
        self.engine.rules.list()
    }

    fn newest_alert(&self, camera: &str, rule: &str) -> Option<Alert> {
        self.engine.rules.newest_alert(camera, rule)
    }

    fn alerts(&self, query: &AlertQuery) -> Vec<ListedAlert> {
        self.engine.rules.alerts(query)
    }

    fn acknowledge(&self, alert_id: &str, false_alarm: bool) -> Result<Arc<Event>, AlertNotFound> {
        self.engine.rules.acknowledge(alert_id, false_alarm)
    }

    fn try_rule(&self, request: TrialRequest) -> Result<TrialStream, TrialError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(AskError::Stopping.into());
        }
        let bytes = request.changes.question.as_ref().map_or(0, String::len);
        let most = self.question_bytes();
        if bytes > most {
            let why = format!("a question has at most {most} bytes; this one has {bytes}");
            return Err(TrialError::InvalidRule(why));
        }
        self.engine.try_rule(request)
    }

    fn alert_clip(&self, alert_id: &str) -> Option<AlertClip> {
        self.engine.rules.clip(alert_id)
    }

    fn config_version(&self) -> u64 {
        self.config_version.load(Ordering::Relaxed)
    }

    fn change_config(&self, change: ConfigChange) -> Reloading {
        let (reply, result) = oneshot::channel();
        let queued = match self.reloads.get() {
            Some(reloads) => reloads.try_send((change, reply)).map_err(|error| match error {
                TrySendError::Full(_) => ReloadError::Busy,
                TrySendError::Closed(_) => ReloadError::Stopping,
            }),
            None => Err(ReloadError::Stopping),
        };
        Box::pin(async move {
            queued?;
            result.await.unwrap_or(Err(ReloadError::Stopping))
        })
    }

    fn configured_cameras(&self) -> ConfiguredCameras {
        let file = self.config_file.get().cloned();
        Box::pin(async move {
            let file = file.ok_or(ReloadError::Stopping)?;
            let reading = tokio::task::spawn_blocking(move || written::cameras(&file));
            let unreadable = |why: String| ReloadError::UnreadableConfig(why);
            let cameras = reading.await.map_err(|error| unreadable(error.to_string()))?;
            let cameras = cameras.map_err(|error| unreadable(error.to_string()))?;
            cameras.into_iter().map(configured).collect()
        })
    }

    fn readiness(&self) -> Readiness {
        if self.stopping.load(Ordering::Relaxed) {
            return Readiness::NotYet("stopping".into());
        }
        if let Some(why) = self.engine.heartbeats.hung(Instant::now()) {
            return Readiness::NotYet(why);
        }
        let cameras = self.listed();
        let is_paused = |camera: &Camera| camera.status.state == CameraState::Paused;
        let is_live = |camera: &Camera| camera.status.state == CameraState::Live;
        let all_are_paused = !cameras.is_empty() && cameras.iter().all(is_paused);
        if all_are_paused || cameras.iter().any(is_live) {
            return Readiness::Ready;
        }
        let mut states: Vec<String> = cameras
            .iter()
            .map(|camera| format!("{}: {}", camera.name, camera.status.state.name()))
            .collect();
        states.sort();
        Readiness::NotYet(format!("no camera is live ({})", states.join(", ")))
    }
}

fn configured(camera: WrittenCamera) -> Result<ConfiguredCamera, ReloadError> {
    let WrittenCamera { name, config_place, keys, hides_credentials } = camera;
    let settings = keys.into_iter().map(|(key, value)| Ok((key, serde_json::to_value(value)?)));
    let settings = settings
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|error| ReloadError::UnreadableConfig(format!("camera {name:?}: {error}")))?;
    Ok(ConfiguredCamera { name, config_place, settings, hides_credentials })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::clips::Limits;
    use crate::journal::MemoryJournal;
    use crate::reload::WAITING;
    use crate::run_clock::RunClock;

    #[test]
    fn a_reload_beyond_the_limit_is_refused() {
        let config = "[model]\npackage = \"none\"\n[[camera]]\nname = \"gate\"\nurl = \"file:a\"";
        let config = Config::parse(config, Path::new("")).expect("a config");
        let clock = Arc::new(RunClock::start());
        let journal = MemoryJournal::shared(1, 10);
        let engine = Engine::new(&config, journal.clone(), 1, clock.clone());
        let limits = Limits { age: Duration::ZERO, bytes: 0 };
        let streams = Arc::new(Streams::new(limits, &[], clock));
        let daemon = Daemon::new(&config, engine, journal, Arc::default(), streams);
        let (requests, _queue) = mpsc::channel(WAITING);
        daemon.accept_reloads("lookout.toml".into(), requests);
        // Nobody takes the requests.
        let begin = || {
            let mut reloading = daemon.change_config(ConfigChange::Reload);
            let polled = reloading.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            (reloading, polled)
        };
        let waiting: Vec<_> = (0..WAITING).map(|_| begin()).collect();
        assert!(waiting.iter().all(|(_, polled)| polled.is_pending()));
        let (_, refused) = begin();
        assert!(matches!(refused, Poll::Ready(Err(ReloadError::Busy))));
    }
}
