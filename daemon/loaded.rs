//! Loads a model package and the back end of its language model, checked against each other and
//! against the cameras' prompts.

use std::sync::Arc;

use crate::config::{self, Config, Language, Resize, Wording};
use crate::event;
use crate::language::{
    Budget, CheckPrompts, LanguageBackend, LanguageModel, Limits, OpenAiModel, SchemaCompiler,
    ServerHealth, VllmModel,
};
use crate::model::{Component, Devices, ModelError, Package, Placement, Runtime};
use crate::slowfast::Plan;
use crate::vision::Encoder;
use crate::vision::preprocess::Preprocess;

/// A package that is loaded, and its language model `L`.
pub struct LoadedModel<L = LanguageModel> {
    pub package: Package,
    pub runtime: Runtime,
    pub preprocess: Preprocess,
    pub encoder: Encoder,
    pub language: L,
}

/// The loaded components of a config.
pub struct Loaded {
    /// The model's name in events.
    pub name: String,
    /// The onnxruntime of this process, if something needs it.
    pub runtime: Option<Runtime>,
    /// The vision component, or `None` if servers get frames as JPEGs.
    pub vision: Option<(Preprocess, Encoder)>,
    pub language: LoadedLanguage,
}

/// A language model, whichever back end runs it.
pub struct LoadedLanguage {
    pub backend: Box<dyn LanguageBackend + Send>,
    pub prompts: Arc<dyn CheckPrompts>,
    /// The template that prompts are rendered with.
    pub template: String,
    pub schemas: Arc<SchemaCompiler>,
    /// The device that runs it, as events report it.
    pub placement: event::Placement,
    /// The memory that answers take in addition to the model.
    pub memory: String,
    /// The states of the servers that run the model, or `None` if it runs in this process.
    pub servers: Option<ServerHealth>,
}

impl LoadedModel {
    /// Loads the package. The time grows with the model's size. Every graph has run once when this
    /// returns.
    pub fn load(
        model: &config::Model,
        wording: &Wording,
        budget: Budget,
    ) -> Result<LoadedModel, ModelError> {
        let package = Package::of(model)?;
        LoadedModel::load_with(package, model, |runtime, package| {
            runtime.load_component(Component::Language, |runtime| {
                LanguageModel::load(runtime, package, model, wording, budget)
            })
        })
    }

    /// Returns the devices that the two parts run on.
    pub fn devices(&self) -> Devices {
        let (vision, language) = (self.encoder.placement(), self.language.placement());
        Devices { vision: vision.clone(), language: language.clone() }
    }
}

impl<L> LoadedModel<L> {
    /// Loads the package, and its language model by `load_language`.
    fn load_with(
        package: Package,
        model: &config::Model,
        load_language: impl FnOnce(&Runtime, &Package) -> Result<L, ModelError>,
    ) -> Result<LoadedModel<L>, ModelError> {
        let preprocess = preprocess(&package, model.resize)?;
        let runtime = Runtime::load(model)?;
        let encoder = runtime.load_component(Component::Vision, |runtime| {
            Encoder::load(runtime, &package, model.vision_threads)
        })?;
        let language = load_language(&runtime, &package)?;
        Ok(LoadedModel { package, runtime, preprocess, encoder, language })
    }
}

impl Loaded {
    /// Loads what a config needs.
    pub fn of_config(config: &Config) -> Result<Loaded, ModelError> {
        let (model, wording) = (&config.model, &config.wording);
        let budget = Budget::of(&config.generate);
        let package = match &config.language {
            Language::OpenAi(openai) => return Loaded::on_openai(config, openai, budget),
            Language::Onnxruntime => read_package(config)?,
            Language::Vllm(servers) => {
                let package = read_package(config)?;
                let loaded = LoadedModel::load_with(package, model, |runtime, package| {
                    let vllm = VllmModel::load(runtime, package, model, wording, budget, servers)?;
                    Ok(LoadedLanguage::on_vllm(vllm, servers))
                })?;
                return Ok(loaded.into());
            }
        };
        let loaded = LoadedModel::load_with(package, model, |runtime, package| {
            let video = model.plan.video_tokens(model.plan.frames, package.vision.grid_tokens);
            let language = runtime.load_component(Component::Language, |runtime| {
                LanguageModel::load(runtime, package, model, wording, budget)
            })?;
            Ok(LoadedLanguage::in_this_process(language, video.unwrap_or(0)))
        })?;
        Ok(loaded.into())
    }

    /// Connects to servers that get frames as JPEGs. onnxruntime is loaded for the search only.
    fn on_openai(
        config: &Config,
        settings: &config::OpenAi,
        budget: Budget,
    ) -> Result<Loaded, ModelError> {
        let (buffer, instruction) = (&config.buffer, &config.wording.system_prompt);
        let jpegs = (buffer.jpeg_width, buffer.jpeg_quality);
        let runtime = config.search.is_some().then(|| Runtime::load(&config.model)).transpose()?;
        let model = OpenAiModel::load(settings, instruction, jpegs, budget)?;
        Ok(Loaded {
            name: settings.servers.model.clone(),
            runtime,
            vision: None,
            language: LoadedLanguage::on_openai(model, settings),
        })
    }

    /// Returns the checks of a config's prompts.
    pub fn prompt_check(&self, plan: &Plan) -> Result<PromptCheck, ModelError> {
        let video_tokens = match &self.vision {
            Some((_, encoder)) => plan
                .video_tokens(plan.frames, encoder.grid_tokens())
                .map_err(|e| ModelError(format!("model.plan {plan}: {e}")))?,
            None => 0,
        };
        let LoadedLanguage { prompts, schemas, .. } = &self.language;
        Ok(PromptCheck { prompts: prompts.clone(), schemas: schemas.clone(), video_tokens })
    }

    /// Returns the devices that the two parts run on.
    pub fn devices(&self) -> event::Devices {
        let vision = match &self.vision {
            Some((_, encoder)) => placement(encoder.placement()),
            None => event::Placement {
                device: "none".into(),
                reason: "frames are sent to language servers as JPEGs; this is not SlowFast-LLaVA"
                    .into(),
            },
        };
        event::Devices { vision, language: self.language.placement.clone() }
    }
}

impl From<LoadedModel<LoadedLanguage>> for Loaded {
    fn from(loaded: LoadedModel<LoadedLanguage>) -> Loaded {
        let LoadedModel { package, runtime, preprocess, encoder, language } = loaded;
        let (runtime, vision) = (Some(runtime), Some((preprocess, encoder)));
        Loaded { name: package.name, runtime, vision, language }
    }
}

impl LoadedLanguage {
    /// Returns the model that onnxruntime runs, for windows of `video_tokens` tokens.
    fn in_this_process(model: LanguageModel, video_tokens: usize) -> LoadedLanguage {
        LoadedLanguage {
            template: model.prompts().template().to_string(),
            prompts: model.prompts(),
            schemas: model.schemas(),
            placement: placement(model.placement()),
            memory: memory(&model, video_tokens),
            backend: Box::new(model),
            servers: None,
        }
    }

    /// Returns the model that servers of vLLM run. On which devices, they do not tell.
    fn on_vllm(model: VllmModel, servers: &config::Servers) -> LoadedLanguage {
        let reason = format!("model {:?} on {}", servers.model, servers.endpoints.join(", "));
        LoadedLanguage {
            template: model.prompts().template().to_string(),
            prompts: model.prompts(),
            schemas: model.schemas(),
            placement: event::Placement { device: "vllm".into(), reason },
            memory: "on the language servers".into(),
            servers: Some(model.health()),
            backend: Box::new(model),
        }
    }

    /// Returns the model that is asked by OpenAI's API.
    fn on_openai(model: OpenAiModel, settings: &config::OpenAi) -> LoadedLanguage {
        let config::OpenAi { servers, scores, .. } = settings;
        let scored = match scores {
            config::Scores::Logprobs => "",
            config::Scores::Text => "; scores are the first word of an answer, 1 or 0",
        };
        let endpoints = servers.endpoints.join(", ");
        let reason = format!("model {:?} on {endpoints}{scored}", servers.model);
        LoadedLanguage {
            template: "the language servers' own template".into(),
            prompts: model.prompts(),
            schemas: model.schemas(),
            placement: event::Placement { device: "openai".into(), reason },
            memory: "on the language servers".into(),
            servers: Some(model.health()),
            backend: Box::new(model),
        }
    }
}

/// Reads the package of a config. It needs a decoder only if the language model runs in this
/// process.
pub fn read_package(config: &Config) -> Result<Package, ModelError> {
    if config.language.is_in_this_process() {
        Package::of(&config.model)
    } else {
        Package::of_without_decoder(&config.model)
    }
}

/// Describes the memory that answers take in addition to the model.
fn memory(language: &LanguageModel, video_tokens: usize) -> String {
    let size = |bytes: usize| bytesize::ByteSize(bytes as u64);
    let window = language.prefix_bytes(video_tokens);
    let cache = language.prefix_cache_limit();
    let windows = cache / window.max(1);
    let prefix_cache = match cache {
        0 => "off".into(),
        _ => format!("{} for {windows} windows of {}", size(cache), size(window)),
    };
    let (slots, slot) = (language.slots(), size(language.slot_bytes()));
    format!("KV cache {slots} × {slot}, prefix cache {prefix_cache}")
}

fn placement(placement: &Placement) -> event::Placement {
    let Placement { processor, reason } = placement.clone();
    event::Placement { device: processor.name().into(), reason }
}

/// Checks the prompts of a config against the loaded model. It can be used on any thread while the
/// model runs.
pub struct PromptCheck {
    prompts: Arc<dyn CheckPrompts>,
    schemas: Arc<SchemaCompiler>,
    /// Number of tokens of a whole window, or 0 if servers get frames as JPEGs.
    video_tokens: usize,
}

impl PromptCheck {
    /// Checks the cameras' caption prompts and the rules' questions, so that an unusable one is
    /// reported at once and not at every window.
    pub fn check(&self, config: &Config) -> Result<(), ModelError> {
        let video = self.video_tokens;
        let limits = Limits {
            max_new_tokens: config.generate.max_new_tokens,
            sampling: config.generate.sampling,
        };
        for camera in &config.cameras {
            let Some(prompt) = &camera.caption_prompt else { continue };
            self.prompts.check(prompt, video, limits).map_err(|e| {
                ModelError(format!("camera {:?}: caption_prompt: {e}", camera.name))
            })?;
        }
        for rule in &config.rules {
            self.prompts
                .check_scored(&rule.question, video)
                .map_err(|e| ModelError(format!("rule {:?}: question: {e}", rule.name)))?;
            let Some(prompt) = &rule.describe else { continue };
            self.prompts
                .check(prompt, video, limits)
                .map_err(|e| ModelError(format!("rule {:?}: describe: {e}", rule.name)))?;
            let Some(schema) = &rule.describe_schema else { continue };
            let refused = |why: &dyn std::fmt::Display| {
                ModelError(format!("rule {:?}: describe_schema: {why}", rule.name))
            };
            self.schemas.compile(schema).map_err(|e| refused(&e))?;
            self.prompts.check_schemas().map_err(|e| refused(&e))?;
        }
        Ok(())
    }
}

/// Returns the package's preprocessing. Fails if its image size is not the one in config.json.
pub fn preprocess(package: &Package, resize: Resize) -> Result<Preprocess, ModelError> {
    let preprocess = Preprocess::from_config(&package.preprocessor, resize)
        .map_err(|why| ModelError(format!("model package {}: {why}", package.name)))?;
    if preprocess.size != package.vision.image_size {
        return Err(ModelError(format!(
            "{}: an image size of {} pixels, but config.json's vision_config.image_size is {}",
            package.preprocessor.file.display(),
            preprocess.size,
            package.vision.image_size
        )));
    }
    Ok(preprocess)
}
