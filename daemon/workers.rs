//! Loads the model into the two workers that run it, and runs the workers in their threads.
//!
//! Guarantees: a worker that fails or panics ends the daemon, because nothing works without it. The
//! service manager restarts the daemon.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::disk::Disk;
use crate::engine::{Engine, Failures, LanguageWorker, VisionModel, VisionWorker};
use crate::event;
use crate::heartbeat::Worker;
use crate::language::{SchemaCompiler, ServerHealth};
use crate::loaded::{Loaded, LoadedLanguage, PromptCheck};
use crate::model::{ModelError, Runtime};
use crate::vision::{jpeg, preprocess};

/// Longest time that startup waits for frames of earlier runs. The remaining frames are restored
/// while the daemon runs.
const RESTORE_PATIENCE: Duration = Duration::from_secs(1);

type Work = Box<dyn FnOnce(&Engine) -> Result<(), ModelError> + Send>;

/// The loaded model, divided between the workers that run it.
pub struct Workers {
    vision: VisionWorker,
    language: LanguageWorker,
    /// The states of the servers that run the language model, if servers run it.
    pub servers: Option<ServerHealth>,
    /// The memory that answers take in addition to the model.
    pub memory: String,
    /// The template that prompts are rendered with.
    pub template: String,
    schemas: Arc<SchemaCompiler>,
    /// The check of other prompts while the model runs.
    pub prompt_check: Arc<PromptCheck>,
    /// The onnxruntime of this process, if something needs it.
    pub runtime: Option<Runtime>,
}

impl Workers {
    /// Loads the model. The time grows with the model's size.
    pub fn load(config: &Config) -> Result<Workers, ModelError> {
        let started = Instant::now();
        let plan = config.model.plan;
        let loaded = Loaded::of_config(config)?;
        let prompt_check = loaded.prompt_check(&plan)?;
        prompt_check.check(config)?;
        let devices = loaded.devices();
        let file = |runtime: &Runtime| runtime.file.display().to_string();
        let onnxruntime = loaded.runtime.as_ref().map(file);
        tracing::info!(
            model = loaded.name,
            device = devices.device(),
            device_reason = devices.reason(),
            plan = loaded.vision.is_some().then(|| plan.to_string()),
            template = loaded.language.template,
            memory = loaded.language.memory,
            onnxruntime,
            "model loaded in {:.1} s",
            started.elapsed().as_secs_f64()
        );
        let Loaded { name, runtime, vision, language } = loaded;
        let least_side = vision.as_ref().map_or(0, |(preprocess, _)| preprocess.least_side());
        let dim = vision.as_ref().map_or(1, |(_, encoder)| encoder.dim());
        let buffer = &config.buffer;
        let jpeg_codec = jpeg::JpegCodec::new(buffer.jpeg_width, least_side, buffer.jpeg_quality)
            .map_err(|e| ModelError(format!("JPEG encoder: {e}")))?;
        let model = vision.map(|(preprocess, backend)| VisionModel {
            backend,
            preprocess,
            scratch: preprocess::Scratch::default(),
            plan,
        });
        let vision = VisionWorker { model, jpeg_codec, failures: Failures::default() };
        let LoadedLanguage { backend, template, schemas, memory, servers, .. } = language;
        let language = LanguageWorker { backend, dim, model: name, devices };
        let prompt_check = Arc::new(prompt_check);
        Ok(Workers { vision, language, servers, memory, template, schemas, prompt_check, runtime })
    }

    pub fn model(&self) -> &str {
        &self.language.model
    }

    pub fn devices(&self) -> &event::Devices {
        &self.language.devices
    }

    /// Starts the workers' threads. A worker that fails or panics reports its error to `failed`.
    pub fn spawn(
        self,
        engine: &Arc<Engine>,
        disk: Option<Disk>,
        failed: &mpsc::Sender<anyhow::Error>,
    ) -> anyhow::Result<Vec<JoinHandle<()>>> {
        let Workers { vision, language, schemas, .. } = self;
        engine.accept_schemas(schemas);
        let mut threads = vec![
            spawn(Worker::Vision, engine, failed, Box::new(|engine| vision.run(engine)))?,
            spawn(Worker::Language, engine, failed, Box::new(|engine| language.run(engine)))?,
        ];
        if let Some(mut disk) = disk {
            // Frames are restored before anyone can ask about them, except those of a large folder.
            disk.restore(&**engine, RESTORE_PATIENCE);
            let keep: Work = Box::new(|engine| {
                if let Some(queue) = &engine.disk {
                    disk.run(queue, engine);
                }
                Ok(())
            });
            threads.push(spawn(Worker::Disk, engine, failed, keep)?);
        }
        Ok(threads)
    }
}

fn spawn(
    worker: Worker,
    engine: &Arc<Engine>,
    failed: &mpsc::Sender<anyhow::Error>,
    work: Work,
) -> std::io::Result<JoinHandle<()>> {
    let (engine, failed, name) = (engine.clone(), failed.clone(), worker.name());
    engine.heartbeats.beat(worker);
    thread::Builder::new().name(name.into()).spawn(move || {
        let work = std::panic::AssertUnwindSafe(|| work(&engine));
        let result = std::panic::catch_unwind(work);
        engine.heartbeats.ended(worker);
        let error = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => anyhow!("the {name} worker failed: {error}"),
            Err(_) => anyhow!("the {name} worker panicked; see the panic message above"),
        };
        engine.broken(&error.to_string());
        let _ = failed.blocking_send(error);
    })
}
