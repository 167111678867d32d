//! Loads a model package: onnxruntime and the three graphs, checked against each other.

use crate::config::{self, Aspect};
use crate::language::{Budget, LanguageModel};
use crate::model::{Devices, ModelError, Package, Part, Runtime};
use crate::vision::Encoder;
use crate::vision::preprocess::Preprocess;

pub struct LoadedModel {
    pub package: Package,
    pub runtime: Runtime,
    pub preprocess: Preprocess,
    pub encoder: Encoder,
    pub language: LanguageModel,
}

impl LoadedModel {
    /// Loads the package. The time grows with the model's size. Every graph has run once when this
    /// returns.
    pub fn load(model: &config::Model, budget: Budget) -> Result<LoadedModel, ModelError> {
        let package = Package::read(&model.package, &model.precision)?;
        let preprocess = preprocess(&package, model.aspect)?;
        let runtime = Runtime::load(model)?;
        let encoder = runtime.load_part(Part::Vision, |runtime| {
            Encoder::load(runtime, &package, model.vision_threads)
        })?;
        let language = runtime.load_part(Part::Language, |runtime| {
            LanguageModel::load(runtime, &package, model, budget)
        })?;
        Ok(LoadedModel { package, runtime, preprocess, encoder, language })
    }

    /// Returns the devices that the two parts run on.
    pub fn devices(&self) -> Devices {
        let (vision, language) = (self.encoder.placement(), self.language.placement());
        Devices { vision: vision.clone(), language: language.clone() }
    }
}

/// Returns the package's preprocessing. Fails if its image size is not the one in config.json.
pub fn preprocess(package: &Package, aspect: Aspect) -> Result<Preprocess, ModelError> {
    let preprocess = Preprocess::from_config(&package.preprocessor, aspect)
        .map_err(|why| ModelError(format!("model package {}: {why}", package.name)))?;
    if preprocess.size != package.vision.image_size {
        return Err(ModelError(format!(
            "{}: pictures of {} pixels a side, but config.json's vision_config says {}",
            package.folder.join("preprocessor_config.json").display(),
            preprocess.size,
            package.vision.image_size
        )));
    }
    Ok(preprocess)
}
