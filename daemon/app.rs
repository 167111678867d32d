//! Builds the daemon's modules, runs them, and stops them in order. This is the only file that
//! knows every module.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::access::{Audit, Gate, TokenStore, Tokens};
use crate::allocator;
use crate::camera;
use crate::cameras::Cameras;
use crate::clips::{self, ClipMaker, Streams};
use crate::config::{self, Config};
use crate::disk::{self, Disk, DiskProblem};
use crate::embedding::SentenceModel;
use crate::engine::Engine;
use crate::event_store::{self, EventStore, MeaningSearch};
use crate::file_limit;
use crate::interface::Interface;
use crate::journal::{self, Journal, MemoryJournal};
use crate::metrics::{self, PrometheusHandle};
use crate::model::Runtime;
use crate::publish::{self, Listener, delivery, grpc, http, mqtt, traces};
use crate::reload::{self, Reloader};
use crate::run_clock::RunClock;
use crate::service::{ConfigChange, Service};
use crate::state::Daemon;
use crate::sync::lock;
use crate::systemd;
use crate::targets::Targets;
use crate::tls::ServerTls;
use crate::workers::Workers;

/// The daemon with everything loaded and every address bound, before anything runs.
pub struct App {
    /// The config file, which a reload reads again.
    file: PathBuf,
    config: Config,
    daemon: Arc<Daemon>,
    journal: Arc<dyn Journal>,
    clock: Arc<RunClock>,
    clip_maker: ClipMaker,
    workers: Workers,
    disk: Option<Disk>,
    tls: Option<Arc<ServerTls>>,
    grpc: Option<Listener>,
    http: Option<Listener>,
    /// The tokens and the audit log, if there is access control.
    access: Option<(Arc<Tokens>, Audit)>,
    /// Ends the interfaces.
    stop: CancellationToken,
    /// The targets to which alerts are delivered.
    targets: Vec<delivery::Target>,
    metrics: PrometheusHandle,
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
    /// model. `file` is where `config` was read.
    pub async fn build(config: Config, file: PathBuf) -> anyhow::Result<App> {
        let metrics = metrics::install().context("metrics")?;
        let targets = config.targets.iter().cloned().map(delivery::Target::new);
        let targets = targets.collect::<Result<_, _>>().map_err(anyhow::Error::msg)?;
        let tls = config.tls.as_ref().map(ServerTls::load).transpose();
        let tls = tls.map_err(anyhow::Error::msg)?.map(Arc::new);
        if let Some(tls) = &tls {
            tracing::info!("TLS: the certificate is {}", tls.describe());
        }
        let [grpc, http] =
            file_limit::limit_connections(file_limit::raise(), [config.grpc, config.http]);
        let stop = CancellationToken::new();
        let access = config.access.as_ref().map(|access| open_access(access, &stop)).transpose()?;
        let grpc = bind(Interface::Grpc, grpc, tls.as_ref()).await?;
        let http = bind(Interface::Http, http, tls.as_ref()).await?;
        camera::init()?;
        let disk_problem = Arc::<DiskProblem>::default();
        let (workers, disk, store) = load(&config, http.clone(), disk_problem.clone()).await?;
        metrics::model(workers.model(), workers.devices());
        let newest_runs = [
            disk.as_ref().and_then(Disk::newest_run),
            store.as_ref().and_then(EventStore::newest_run),
        ];
        let run = this_run(newest_runs.into_iter().flatten().max());
        let journal = match store {
            Some(store) => store.journal(run).context("journal")?,
            None => MemoryJournal::shared(run, journal::CAPACITY),
        };
        let clock = Arc::new(RunClock::start());
        let engine = Engine::new(&config, journal.clone(), run, clock.clone());
        engine.rules.restore().await;
        let limits = clips::Limits {
            age: config.buffer.encoded_age,
            bytes: config.buffer.encoded_bytes.as_u64(),
        };
        let streams = Arc::new(Streams::new(limits, &config.rules, clock.clone()));
        let clip_maker = ClipMaker::new(streams.clone(), engine.rules.clone(), journal.clone());
        let daemon = Daemon::new(&config, engine, journal.clone(), disk_problem, streams);
        let daemon = daemon.with_tls(tls.clone()).with_language_servers(workers.servers.clone());
        let daemon = Arc::new(daemon);
        Ok(App {
            clip_maker,
            file,
            config,
            daemon,
            journal,
            clock,
            workers,
            disk,
            tls,
            grpc,
            http,
            access,
            stop,
            targets,
            metrics,
        })
    }

    /// Runs until `signals` asks to stop, or a module that the others need fails.
    ///
    /// The first signal lets running work end within `stop_timeout`; the second ends at once. Each of
    /// `reloads` reads the config again.
    pub async fn run(
        self,
        mut signals: mpsc::Receiver<()>,
        mut reloads: mpsc::Receiver<()>,
    ) -> anyhow::Result<Ended> {
        let (failed, mut failure) = mpsc::channel(8);
        let engine = self.daemon.engine.clone();
        let prompt_check = self.workers.prompt_check.clone();
        let workers = self.workers.spawn(&engine, self.disk, &failed)?;
        let cameras = Arc::new(Cameras::new(self.daemon.clone(), self.clock));
        for camera in &self.config.cameras {
            cameras.add(camera.clone())?;
        }
        let stop = self.stop;
        let clips = tokio::spawn(self.clip_maker.run());
        let certificate = self.tls.clone().map(|tls| tokio::spawn(tls.follow()));
        let metrics = metrics::upkeep(self.metrics.clone());
        let upkeep = tokio::spawn(async move {
            tokio::join!(metrics, allocator::return_freed_memory_regularly())
        });
        let mut interfaces = JoinSet::new();
        let service: Arc<dyn Service> = self.daemon.clone();
        let gate = match self.access {
            Some((tokens, audit)) => {
                let following = tokens.clone();
                tokio::spawn(async move { following.follow().await });
                Gate::guarded(service.clone(), stop.clone(), tokens, audit)
            }
            None => Gate::open(service.clone(), stop.clone()),
        };
        if let Some(listener) = self.grpc {
            let (gate, end) = (gate.clone(), stop.clone());
            let serve = move || grpc::serve(listener.clone(), gate.clone(), end.clone());
            interfaces.spawn(publish::supervise(Interface::Grpc, stop.clone(), serve));
        }
        if let Some(listener) = self.http {
            let (gate, metrics, end) = (gate.clone(), self.metrics, stop.clone());
            let serve =
                move || http::serve(listener.clone(), gate.clone(), metrics.clone(), end.clone());
            interfaces.spawn(publish::supervise(Interface::Http, stop.clone(), serve));
        }
        let recorder = self.config.traces.clone().map(traces::Recorder::shared);
        if let Some(config) = self.config.mqtt.clone() {
            let publisher = mqtt::Publisher::shared(config, service.clone(), recorder.clone());
            let end = stop.clone();
            let run = move || mqtt::run(publisher.clone(), end.clone());
            interfaces.spawn(publish::supervise(Interface::Mqtt, stop.clone(), run));
        }
        if let Some(recorder) = recorder.clone() {
            let (journal, end) = (self.journal.clone(), stop.clone());
            let run = move || traces::run(recorder.clone(), journal.clone(), end.clone());
            interfaces.spawn(publish::supervise(Interface::Otlp, stop.clone(), run));
        }
        let rules = &self.config.rules;
        let targets =
            Targets::start(self.targets, rules, service.clone(), recorder, stop.clone()).await;
        let targets = Arc::new(targets);
        let config = Arc::new(Mutex::new(self.config));
        let (requests, queue) = mpsc::channel(reload::WAITING);
        self.daemon.accept_reloads(self.file.clone(), requests);
        let reloader = Reloader {
            file: self.file,
            config: config.clone(),
            prompt_check,
            daemon: self.daemon.clone(),
            cameras: cameras.clone(),
            targets: targets.clone(),
            tls: self.tls.clone(),
        };
        let reloader = tokio::spawn(reload::run(reloader, queue));
        let reload = {
            let daemon = self.daemon.clone();
            // The log has the result.
            async move {
                while reloads.recv().await.is_some() {
                    drop(daemon.change_config(ConfigChange::Reload).await)
                }
            }
        };
        let reload = tokio::spawn(reload);
        let watchdog = tokio::spawn(systemd::watch(engine.clone()));

        let broken = tokio::select! {
            _ = signals.recv() => None,
            Some(error) = failure.recv() => Some(error),
        };
        watchdog.abort();
        reload.abort();
        reloader.abort();
        upkeep.abort();
        clips.abort();
        certificate.inspect(tokio::task::JoinHandle::abort);
        systemd::stopping();
        let stop_timeout = lock(&config).stop_timeout;
        tracing::info!("stopping: running work has {stop_timeout:?} to end");
        self.daemon.stop();
        let questions = engine.clone();
        let drain = async {
            // Cameras stop first, so that no new work starts. The interfaces stop last, so that the
            // last results are still delivered.
            let drained = tokio::task::spawn_blocking(move || {
                cameras.stop();
                engine.stop();
                workers.into_iter().for_each(|worker| drop(worker.join()));
            });
            let _ = drained.await;
            questions.finish_tasks().await;
            // Readers see the last events once they are stored.
            let _ = tokio::task::spawn_blocking(move || self.journal.flush()).await;
            stop.cancel();
            while interfaces.join_next().await.is_some() {}
            targets.finish().await;
        };
        let ended = tokio::select! {
            () = drain => Ended::Stopped,
            () = tokio::time::sleep(stop_timeout) => {
                tracing::warn!("not everything ended in time");
                Ended::Cut
            }
            _ = signals.recv() => Ended::Cut,
        };
        tracing::info!("stopped");
        broken.map_or(Ok(ended), Err)
    }
}

/// Binds an interface's address, if the config has one.
async fn bind(
    interface: Interface,
    listen: Option<config::Listen>,
    tls: Option<&Arc<ServerTls>>,
) -> anyhow::Result<Option<Listener>> {
    let Some(listen) = listen else { return Ok(None) };
    let insecurity = listen.insecurity(interface);
    metrics::interface_insecure(interface, insecurity.is_some());
    if let Some(insecurity) = insecurity {
        tracing::warn!("{insecurity}");
    }
    let config::Listen { addr, connections, tls: is_encrypted, .. } = listen;
    let listener = Listener::bind(interface, addr, connections).await?;
    Ok(Some(match tls.filter(|_| is_encrypted) {
        Some(tls) => listener.with_tls(tls.clone()),
        None => listener,
    }))
}

/// Loads the model, and opens the disk tier and the journal. In the meantime HTTP reports that the model is loading.
async fn load(
    config: &Config,
    http: Option<Listener>,
    disk_problem: Arc<DiskProblem>,
) -> anyhow::Result<(Workers, Option<Disk>, Option<EventStore>)> {
    let model_loaded = CancellationToken::new();
    let _guard = model_loaded.clone().drop_guard();
    let page = http.map(|http| tokio::spawn(http::serve_loading(http, model_loaded.clone())));
    let config = config.clone();
    let load = move || {
        let workers = Workers::load(&config)?;
        let store = open_store(&config, workers.runtime.as_ref())?;
        anyhow::Ok((workers, open_disk(&config, disk_problem), store))
    };
    let loaded = tokio::task::spawn_blocking(load).await.context("loading")??;
    model_loaded.cancel();
    if let Some(page) = page {
        let _ = page.await;
    }
    Ok(loaded)
}

/// Reads the tokens and opens the audit log.
fn open_access(
    config: &config::AccessControl,
    stop: &CancellationToken,
) -> anyhow::Result<(Arc<Tokens>, Audit)> {
    let folder = &config.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("access: {}", folder.display()))?;
    let tokens = Tokens::read(TokenStore::new(folder), config.limits, stop.clone());
    let tokens = tokens.context("access")?;
    let audit = Audit::open(folder)
        .with_context(|| format!("access: the audit log in {}", folder.display()))?;
    Ok((Arc::new(tokens), audit))
}

fn open_disk(config: &Config, disk_problem: Arc<DiskProblem>) -> Option<Disk> {
    let config::Disk { folder, retention, bytes } = config.buffer.disk.clone()?;
    Some(Disk::open(folder, disk::Bounds { retention, bytes: bytes.as_u64() }, disk_problem))
}

fn open_store(config: &Config, runtime: Option<&Runtime>) -> anyhow::Result<Option<EventStore>> {
    let Some(config::Journal { folder, retention, bytes, .. }) = config.journal.clone() else {
        return Ok(None);
    };
    let settings = event_store::Settings { folder, retention, bytes: bytes.as_u64() };
    // onnxruntime is loaded if there is a search.
    let (Some(config::Search { model, vector_bytes }), Some(runtime)) = (&config.search, runtime)
    else {
        return Ok(Some(EventStore::open(settings)?));
    };
    let embedder = Box::new(SentenceModel::load(runtime, model)?);
    tracing::info!(model = %model.display(), "search by meaning: model loaded");
    let meaning = MeaningSearch { embedder, bytes: vector_bytes.as_u64() };
    Ok(Some(EventStore::open(settings)?.with_meaning(meaning)))
}

/// Returns the number of this run, which names its frames: milliseconds since 1970 by the host's
/// clock, but always more than `newest`, the newest run on disk, whatever that clock shows.
fn this_run(newest: Option<u64>) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(newest.unwrap_or(0).saturating_add(1))
}
