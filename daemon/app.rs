//! Builds the daemon's modules, runs them, and stops them in order. This is the only file that
//! knows every module.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::camera::{self, CameraHandle, Sink};
use crate::config::{self, Config};
use crate::disk::{self, Disk, Trouble};
use crate::engine::{ChangeDetector, Engine, Failures, VisionWorker, Words};
use crate::event::{Body, CameraStatus, Phase};
use crate::files;
use crate::frame::Frame;
use crate::heartbeat::Worker;
use crate::interface::Interface;
use crate::journal::{self, Journal};
use crate::language::{Budget, LanguageModel, Limits};
use crate::loaded::LoadedModel;
use crate::metrics::{self, PrometheusHandle};
use crate::model::{ModelError, Package, Runtime};
use crate::publish::{self, Listener, grpc, http, mqtt};
use crate::question::{self, Question};
use crate::run_clock::RunClock;
use crate::service::{Answer, AskError, CameraInfo, Looking, Readiness, Service};
use crate::vision::{evidence, preprocess};

/// Interval of the check for hung workers where systemd sets no watchdog interval.
const UNWATCHED: Duration = Duration::from_secs(5);

/// Longest time that startup waits for frames of earlier runs. The remaining frames are restored
/// while the daemon runs.
const RESTORE_PATIENCE: Duration = Duration::from_secs(1);

/// The daemon with everything loaded and every address bound, before anything runs.
pub struct App {
    config: Config,
    daemon: Arc<Daemon>,
    clock: Arc<RunClock>,
    pictures: VisionWorker,
    words: Words,
    disk: Option<Disk>,
    grpc: Option<Listener>,
    http: Option<Listener>,
    metrics: PrometheusHandle,
}

/// State shared by the modules: the daemon as gRPC, HTTP and MQTT see it.
struct Daemon {
    engine: Arc<Engine>,
    journal: Arc<Journal>,
    cameras: Vec<config::Camera>,
    limits: question::Limits,
    statuses: Mutex<HashMap<Arc<str>, CameraStatus>>,
    /// Problems of the disk, if it keeps frames.
    trouble: Arc<Trouble>,
    stopping: AtomicBool,
}

/// The way the daemon ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The daemon was asked to stop, and all running work ended in time.
    Stopped,
    /// The daemon was asked twice, or `stop_timeout` elapsed.
    Cut,
}

impl App {
    /// Binds the addresses first, so that an occupied one is reported at once. Then loads the
    /// model.
    pub async fn build(config: Config) -> anyhow::Result<App> {
        let metrics = metrics::install().context("metrics")?;
        let listen = async |interface, listen| match listen {
            Some(config::Listen { addr, connections }) => {
                Listener::bind(interface, addr, connections).await.map(Some)
            }
            None => Ok(None),
        };
        let [grpc, http] = files::share(files::raise_limit(), [config.grpc, config.http]);
        let grpc = listen(Interface::Grpc, grpc).await?;
        let http = listen(Interface::Http, http).await?;
        camera::init()?;
        let model_loaded = CancellationToken::new();
        let _guard = model_loaded.clone().drop_guard();
        let page =
            http.clone().map(|http| tokio::spawn(http::serve_loading(http, model_loaded.clone())));
        let loading = config.clone();
        let trouble = Arc::<Trouble>::default();
        let told = trouble.clone();
        let load = move || load(&loading).map(|loaded| (loaded, open_disk(&loading, told)));
        let loaded = tokio::task::spawn_blocking(load).await.context("loading")??;
        let ((pictures, words, _), disk) = loaded;
        model_loaded.cancel();
        if let Some(page) = page {
            let _ = page.await;
        }
        metrics::model(&words.model, &words.device, &words.device_reason);
        let run = this_run(disk.as_ref());
        let journal = Journal::new(run, journal::CAPACITY);
        let clock = Arc::new(RunClock::start());
        let daemon = Arc::new(Daemon {
            engine: Engine::new(&config, journal.clone(), run, clock.clone()),
            journal,
            trouble,
            statuses: Mutex::new(
                config.cameras.iter().map(|c| (c.name.clone(), not_yet())).collect(),
            ),
            limits: question::Limits {
                text_bytes: config.generate.question_bytes,
                cameras: Some(config.cameras.iter().map(|camera| camera.name.clone()).collect()),
            },
            cameras: config.cameras.clone(),
            stopping: AtomicBool::new(false),
        });
        Ok(App { config, daemon, clock, pictures, words, disk, grpc, http, metrics })
    }

    /// Runs until `signals` asks to stop, or a module that the others need fails.
    ///
    /// The first signal lets running work end within `stop_timeout`; the second ends at once.
    pub async fn run(self, mut signals: mpsc::Receiver<()>) -> anyhow::Result<Ended> {
        let (failed, mut failure) = mpsc::channel(8);
        let daemon = self.daemon;
        let workers = spawn_workers(&daemon.engine, self.pictures, self.words, self.disk, &failed)?;
        let cameras: Vec<CameraHandle> = self
            .config
            .cameras
            .iter()
            .map(|camera| camera::start(camera.clone(), daemon.clone(), self.clock.clone()))
            .collect();
        let stop = CancellationToken::new();
        let service: Arc<dyn Service> = daemon.clone();
        let upkeep = tokio::spawn(metrics::upkeep(self.metrics.clone()));
        let mut interfaces = JoinSet::new();
        if let Some(listener) = self.grpc {
            let (service, end) = (service.clone(), stop.clone());
            let serve = move || grpc::serve(listener.clone(), service.clone(), end.clone());
            interfaces.spawn(publish::keep(Interface::Grpc, stop.clone(), serve));
        }
        if let Some(listener) = self.http {
            let (service, metrics, end) = (service.clone(), self.metrics, stop.clone());
            let serve = move || {
                http::serve(listener.clone(), service.clone(), metrics.clone(), end.clone())
            };
            interfaces.spawn(publish::keep(Interface::Http, stop.clone(), serve));
        }
        if let Some(config) = self.config.mqtt.clone() {
            let publisher = mqtt::Publisher::shared(config, service.clone());
            let end = stop.clone();
            let run = move || mqtt::run(publisher.clone(), end.clone());
            interfaces.spawn(publish::keep(Interface::Mqtt, stop.clone(), run));
        }
        let watchdog = tokio::spawn(keep_systemd_informed(daemon.clone()));

        let broke = tokio::select! {
            _ = signals.recv() => None,
            Some(error) = failure.recv() => Some(error),
        };
        watchdog.abort();
        upkeep.abort();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("stopping: running work has {:?} to end", self.config.stop_timeout);
        daemon.stopping.store(true, Ordering::Relaxed);
        let drain = async {
            // Cameras stop first, so that no new work starts. The interfaces stop last, so that the last
            // results are still delivered.
            let engine = daemon.engine.clone();
            let ended = tokio::task::spawn_blocking(move || {
                cameras.iter().for_each(CameraHandle::ask_to_stop);
                drop(cameras);
                engine.stop();
                workers.into_iter().for_each(|worker| drop(worker.join()));
            });
            let _ = ended.await;
            stop.cancel();
            while interfaces.join_next().await.is_some() {}
        };
        let ended = tokio::select! {
            () = drain => Ended::Stopped,
            () = tokio::time::sleep(self.config.stop_timeout) => {
                tracing::warn!("not everything ended in time");
                Ended::Cut
            }
            _ = signals.recv() => Ended::Cut,
        };
        tracing::info!("stopped");
        match broke {
            Some(error) => Err(error),
            None => Ok(ended),
        }
    }
}

/// Loads the model and its two workers.
fn load(config: &Config) -> Result<(VisionWorker, Words, Runtime), ModelError> {
    let begun = Instant::now();
    let model = &config.model;
    let loaded = LoadedModel::load(model, Budget::of(&config.generate))?;
    let devices = loaded.devices();
    let LoadedModel { package, runtime, preprocess, encoder, language } = loaded;
    let config::Buffer { evidence_width, evidence_quality, .. } = config.buffer;
    let evidence =
        evidence::Evidence::new(evidence_width, preprocess.least_side(), evidence_quality)
            .map_err(|e| ModelError(format!("evidence JPEG: {e}")))?;
    check_prompts(config, &language, encoder.grid_tokens())?;
    let (device, device_reason) = (devices.device(), devices.reason());
    tracing::info!(
        model = package.name,
        device,
        device_reason,
        plan = %model.plan,
        template = language.template().to_string(),
        memory = memory(config, &language, encoder.grid_tokens()),
        onnxruntime = %runtime.file.display(),
        "model loaded in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    let scratch = preprocess::Scratch::default();
    let dim = encoder.dim();
    let failures = Failures::default();
    let pictures =
        VisionWorker { encoder, preprocess, scratch, evidence, plan: model.plan, failures };
    let words = Words {
        language,
        dim,
        model: package.name,
        device,
        device_reason,
        still: ChangeDetector::default(),
    };
    Ok((pictures, words, runtime))
}

fn open_disk(config: &Config, trouble: Arc<Trouble>) -> Option<Disk> {
    let config::Disk { folder, retention, bytes } = config.buffer.disk.clone()?;
    Some(Disk::open(folder, disk::Bounds { retention, bytes: bytes.as_u64() }, trouble))
}

/// Returns the number of this run, which names its frames: milliseconds since 1970 by the host's
/// clock, but always more than every run on disk, whatever that clock shows.
fn this_run(disk: Option<&Disk>) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let newest = disk.and_then(Disk::newest_run).unwrap_or(0);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(newest.saturating_add(1))
}

/// Describes the memory that answers take in addition to the model.
fn memory(config: &Config, language: &LanguageModel, grid_tokens: usize) -> String {
    let plan = &config.model.plan;
    let size = |bytes: usize| bytesize::ByteSize(bytes as u64);
    let window = language.prefix_bytes(plan.video_tokens(plan.frames, grid_tokens).unwrap_or(0));
    let kept = language.prefix_cache_room();
    let windows = kept / window.max(1);
    let mut text =
        format!("KV cache {} × {}, prefix cache ", language.rows(), size(language.row_bytes()));
    match kept {
        0 => text += "off",
        _ => text += &format!("{} for {windows} windows of {}", size(kept), size(window)),
    }
    text
}

/// Checks the cameras' caption prompts, so that an unusable one is reported at startup and not at
/// every window.
fn check_prompts(
    config: &Config,
    language: &LanguageModel,
    grid_tokens: usize,
) -> Result<(), ModelError> {
    let plan = &config.model.plan;
    let video = plan.video_tokens(plan.frames, grid_tokens);
    let video = video.map_err(|e| ModelError(format!("model.plan {plan}: {e}")))?;
    let limits = Limits {
        max_new_tokens: config.generate.max_new_tokens,
        sampling: config.generate.sampling,
    };
    for camera in &config.cameras {
        let Some(prompt) = &camera.prompt else { continue };
        language
            .check(prompt, video, limits)
            .map_err(|e| ModelError(format!("camera {:?}: prompt: {e}", camera.name)))?;
    }
    Ok(())
}

/// Returns the lines of `lookout check` about the package and about what runs it.
pub fn check_model(config: &Config) -> Vec<(&'static str, Result<String, ModelError>)> {
    let package = Package::read(&config.model.package, &config.model.precision).map(|package| {
        let plan = &config.model.plan;
        let tokens = plan.video_tokens(plan.frames, package.vision.grid_tokens).unwrap_or(0);
        let (name, context) = (&package.name, package.text.context);
        format!("{name}: a window takes {tokens} tokens of a context of {context}")
    });
    if package.is_err() {
        return vec![("model", package)];
    }
    match load(config) {
        Err(error) => vec![("model", package), ("onnxruntime", Err(error))],
        Ok((pictures, words, runtime)) => {
            let (vision, language) = (config.model.vision_threads, config.model.language_threads);
            let mut device =
                format!("{}; threads: vision {vision}, language {language}", words.device);
            if !words.device_reason.is_empty() {
                device += &format!("; {}", words.device_reason);
            }
            let file = runtime.file.display().to_string();
            let prompts = format!("by {}", words.language.template());
            let memory = memory(config, &words.language, pictures.encoder.grid_tokens());
            vec![
                ("model", package),
                ("onnxruntime", Ok(file)),
                ("device", Ok(device)),
                ("prompts", Ok(prompts)),
                ("memory", Ok(memory)),
            ]
        }
    }
}

/// Starts the workers. One that fails or panics ends the daemon: nothing works without it, and the
/// service manager restarts the daemon.
fn spawn_workers(
    engine: &Arc<Engine>,
    pictures: VisionWorker,
    words: Words,
    disk: Option<Disk>,
    failed: &mpsc::Sender<anyhow::Error>,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    type Work = Box<dyn FnOnce(&Engine) -> Result<(), ModelError> + Send>;
    let spawn = |worker: Worker, work: Work| {
        let (engine, failed, name) = (engine.clone(), failed.clone(), worker.name());
        engine.heartbeats.beat(worker);
        thread::Builder::new().name(name.into()).spawn(move || {
            let work = std::panic::AssertUnwindSafe(|| work(&engine));
            let worked = std::panic::catch_unwind(work);
            engine.heartbeats.ended(worker);
            let error = match worked {
                Ok(Ok(())) => return,
                Ok(Err(error)) => anyhow!("the {name} worker failed: {error}"),
                Err(_) => anyhow!("the {name} worker panicked; the message stands above"),
            };
            engine.broken(&error.to_string());
            let _ = failed.blocking_send(error);
        })
    };
    let mut workers = vec![
        spawn(Worker::Vision, Box::new(|engine| pictures.run(engine)))?,
        spawn(Worker::Language, Box::new(|engine| words.run(engine)))?,
    ];
    if let Some(mut disk) = disk {
        // Frames are restored before anyone can ask about them, except those of a large folder.
        disk.restore(&**engine, RESTORE_PATIENCE);
        let keep = |engine: &Engine| {
            if let Some(queue) = &engine.disk {
                disk.run(queue, engine);
            }
            Ok(())
        };
        workers.push(spawn(Worker::Disk, Box::new(keep))?);
    }
    Ok(workers)
}

/// Sends READY=1. Then sends the watchdog's keep-alive at half its interval if systemd asks for
/// one, while no worker hangs.
async fn keep_systemd_informed(daemon: Arc<Daemon>) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let watched = sd_notify::watchdog_enabled();
    let mut pulse = tokio::time::interval(watched.map_or(UNWATCHED, |interval| interval / 2));
    let mut hung = false;
    loop {
        pulse.tick().await;
        let found = daemon.engine.heartbeats.hung(Instant::now());
        match &found {
            Some(why) if !hung => tracing::error!("{why}; the watchdog hears nothing more"),
            None if hung => tracing::info!("all workers move again"),
            _ => {}
        }
        hung = found.is_some();
        if watched.is_some() && !hung {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}

fn not_yet() -> CameraStatus {
    CameraStatus {
        phase: Phase::Connecting,
        since: SystemTime::now(),
        reason: String::new(),
        last_frame: None,
        reconnects: 0,
        decoder: String::new(),
    }
}

impl Daemon {
    fn statuses(&self) -> MutexGuard<'_, HashMap<Arc<str>, CameraStatus>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn journal(&self) -> &Arc<Journal> {
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
                status: statuses.get(&camera.name).cloned().unwrap_or_else(not_yet),
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
