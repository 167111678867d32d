//! Reads the config again while the daemon runs, or changes the drop-in of a camera, and applies what
//! differs.
//!
//! Guarantees: one reload is done at a time. A config that is not valid changes nothing. What did
//! not change in the config is not disturbed: the other cameras, their windows, their rules. A key
//! that needs a restart keeps its value and is named; the others are applied.

mod edit;
mod plan;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::cameras::Cameras;
use crate::config::Config;
use crate::loaded::PromptCheck;
use crate::publish::delivery::Target;
use crate::service::{ConfigChange, ReloadError, ReloadRequest, Reloaded};
use crate::state::Daemon;
use crate::sync::lock;
use crate::systemd;
use crate::targets::Targets;
use crate::tls::ServerTls;
pub use plan::{CameraChange, Plan, plan};

/// Maximum number of reloads that wait.
pub const WAITING: usize = 8;

/// Applies other configs to the running daemon.
pub struct Reloader {
    /// The config file.
    pub file: PathBuf,
    /// The config that runs.
    pub config: Arc<Mutex<Config>>,
    pub prompt_check: Arc<PromptCheck>,
    pub daemon: Arc<Daemon>,
    pub cameras: Arc<Cameras>,
    pub targets: Arc<Targets>,
    /// The certificate of gRPC and HTTP.
    pub tls: Option<Arc<ServerTls>>,
}

/// Does the reloads that are requested, one after the other.
pub async fn run(reloader: Reloader, mut requests: mpsc::Receiver<ReloadRequest>) {
    let reloader = Arc::new(reloader);
    while let Some((change, reply)) = requests.recv().await {
        systemd::reloading();
        let result = reloader.change(change).await;
        match &result {
            Ok(reloaded) => systemd::reloaded(&reloaded.to_string()),
            Err(error) => {
                tracing::error!("reload: {error}");
                systemd::reloaded(&format!("the last reload failed: {error}"));
            }
        }
        // A client that has left needs no reply.
        let _ = reply.send(result);
    }
}

impl Reloader {
    async fn change(self: &Arc<Reloader>, change: ConfigChange) -> Result<Reloaded, ReloadError> {
        let this = self.clone();
        let prepare = move || match change {
            ConfigChange::Reload => this.read().and_then(|config| this.prepare_all(config)),
            ConfigChange::Camera { name, edit } => this.edit(&name, &edit),
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let (plan, targets) =
            prepared.map_err(|error| ReloadError::InvalidConfig(error.to_string()))??;
        let reloaded = describe(&plan);
        let (this, config) = (self.clone(), plan.config.clone());
        // Each removed or restarted camera takes as long as its thread needs to end.
        let applied = tokio::task::spawn_blocking(move || this.apply(plan)).await;
        if let Err(error) = applied {
            tracing::error!("reload: a step panicked: {error}");
        }
        self.targets.replace(targets, &config.rules).await;
        *lock(&self.config) = config;
        for change in &reloaded.changes {
            tracing::info!("reload: {change}");
        }
        for key in &reloaded.needs_restart {
            tracing::warn!("reload: {key} needs a restart; the running daemon keeps the old value");
        }
        if reloaded.changes.is_empty() && reloaded.needs_restart.is_empty() {
            tracing::info!("reload: no change");
        }
        Ok(reloaded)
    }

    fn read(&self) -> Result<Config, ReloadError> {
        Config::read(&self.file).map_err(invalid)
    }

    /// Checks a config, then loads the certificate. Nothing has changed if this fails.
    fn prepare_all(&self, new: Config) -> Result<(Plan, Vec<Target>), ReloadError> {
        let prepared = self.prepare(new)?;
        if let (Some(server), Some(files)) = (&self.tls, &prepared.0.config.tls) {
            server.reload(files).map_err(ReloadError::InvalidConfig)?;
        }
        Ok(prepared)
    }

    /// Checks a config. Nothing has changed if this fails.
    fn prepare(&self, new: Config) -> Result<(Plan, Vec<Target>), ReloadError> {
        let old = lock(&self.config).clone();
        let plan = plan(&old, &new).map_err(invalid)?;
        self.prompt_check.check(&plan.config).map_err(invalid)?;
        let targets = plan.config.targets.iter().cloned().map(Target::new);
        let targets = targets.collect::<Result<Vec<_>, _>>().map_err(ReloadError::InvalidConfig)?;
        Ok((plan, targets))
    }

    fn apply(&self, plan: Plan) {
        for name in &plan.removed {
            self.cameras.remove(name);
        }
        for change in plan.changed {
            self.cameras.update(change.camera, change.reconnects);
        }
        // The rules know a camera when it begins, so that its first window is scored.
        self.daemon.set_config(&plan.config);
        for camera in plan.added {
            if let Err(error) = self.cameras.add(camera) {
                tracing::warn!("reload: {error}");
            }
        }
        self.daemon.config_changed(&plan.config.cameras);
    }
}

fn invalid(error: impl ToString) -> ReloadError {
    ReloadError::InvalidConfig(error.to_string())
}

fn describe(plan: &Plan) -> Reloaded {
    let removed = plan.removed.iter().map(|name| format!("camera {name:?} removed"));
    let added = plan.added.iter().map(|camera| format!("camera {:?} added", camera.name));
    let changed = plan.changed.iter().map(|change| {
        let keys = change.keys.join(", ");
        format!("camera {:?} changed: {keys}", change.camera.name)
    });
    Reloaded {
        changes: removed.chain(added).chain(changed).chain(plan.settings.clone()).collect(),
        needs_restart: plan.needs_restart.clone(),
    }
}
