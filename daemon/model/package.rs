//! Reads a model package: a folder in the layout of the transformers.js community.
//!
//! ```text
//! config.json  preprocessor_config.json  tokenizer.json  generation_config.json
//! onnx/vision_encoder[_SUFFIX].onnx
//! onnx/embed_tokens[_SUFFIX].onnx
//! onnx/decoder_model_merged[_SUFFIX].onnx
//! ```
//!
//! Guarantees: takes the graphs of the requested precision. Refuses an unsupported package with an
//! error that names the cause.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::family::{self, Family, Ids, TextModel, VisionModel};
use super::{GraphFacts, ModelError};
use crate::config::{self, Precision};

#[derive(Clone, Debug)]
pub struct Package {
    pub folder: PathBuf,
    /// The model's name in events: the folder's name.
    pub name: String,
    pub family: Family,
    pub vision: VisionModel,
    pub text: TextModel,
    /// The settings of the image preprocessing, which `vision/` parses.
    pub preprocessor: PreprocessorConfig,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
    graphs: Vec<(GraphKind, Graph)>,
}

/// The JSON text of the image preprocessing, and the file that it comes from.
#[derive(Clone, Debug)]
pub struct PreprocessorConfig {
    pub file: PathBuf,
    pub text: String,
}

/// One of the package's ONNX files, with its precision.
#[derive(Clone, Debug)]
pub struct Graph {
    pub file: PathBuf,
    /// The file's suffix: `q4`, `fp16`, …, or `fp32` if it has none.
    pub precision: String,
}

/// Returns the folder of a config's package.
fn package_folder(model: &config::Model) -> Result<&Path, ModelError> {
    model.package.as_deref().ok_or_else(|| {
        ModelError("model.package is missing: wanted the folder of a model package".into())
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphKind {
    Vision,
    Embed,
    Decoder,
}

impl GraphKind {
    pub const ALL: [GraphKind; 3] = [GraphKind::Vision, GraphKind::Embed, GraphKind::Decoder];

    pub fn name(self) -> &'static str {
        match self {
            GraphKind::Vision => "vision_encoder",
            GraphKind::Embed => "embed_tokens",
            GraphKind::Decoder => "decoder_model_merged",
        }
    }

    /// Returns the precision that a config wants, if it wants one.
    pub fn choice(self, precision: &Precision) -> Option<&str> {
        match self {
            GraphKind::Vision => precision.vision.as_deref(),
            GraphKind::Embed => precision.embed.as_deref(),
            GraphKind::Decoder => precision.decoder.as_deref(),
        }
    }

    /// Returns the precision of a graph of this kind by the name of its file, or `None` for the name
    /// of another file.
    pub fn precision_of(self, file_name: &str) -> Option<&str> {
        let suffix = file_name.strip_prefix(self.name())?.strip_suffix(".onnx")?;
        if suffix.is_empty() { Some("fp32") } else { suffix.strip_prefix('_') }
    }
}

impl Package {
    /// Reads a package with all graphs.
    pub fn read(folder: &Path, precision: &Precision) -> Result<Package, ModelError> {
        Package::with_graphs(folder, precision, &GraphKind::ALL)
    }

    /// Reads the package of a config.
    pub fn of(model: &config::Model) -> Result<Package, ModelError> {
        Package::read(package_folder(model)?, &model.precision)
    }

    /// Reads the package of a config whose language model runs elsewhere.
    pub fn of_without_decoder(model: &config::Model) -> Result<Package, ModelError> {
        Package::without_decoder(package_folder(model)?, &model.precision)
    }

    /// Reads a package whose language model runs elsewhere. It needs no decoder.
    pub fn without_decoder(folder: &Path, precision: &Precision) -> Result<Package, ModelError> {
        Package::with_graphs(folder, precision, &[GraphKind::Vision, GraphKind::Embed])
    }

    fn with_graphs(
        folder: &Path,
        precision: &Precision,
        kinds: &[GraphKind],
    ) -> Result<Package, ModelError> {
        if !folder.is_dir() {
            return Err(ModelError(format!("model package {}: no such folder", folder.display())));
        }
        let config_file = folder.join("config.json");
        let model = family::read(&read(&config_file)?)
            .map_err(|why| ModelError(format!("model file {}: {why}", config_file.display())))?;
        let generation = folder.join("generation_config.json");
        let generation: RawGeneration =
            if generation.exists() { parse(&generation)? } else { RawGeneration::default() };
        let end_tokens = generation.eos_token_id.map_or(model.end_tokens, Ids::list);
        if end_tokens.is_empty() {
            return Err(ModelError(format!(
                "model package {}: neither generation_config.json nor config.json's text_config \
                 has an eos_token_id; no answer would end",
                folder.display()
            )));
        }
        let graphs = kinds.iter().map(|kind| {
            let graph = Graph::find(folder, *kind, kind.choice(precision))?;
            Ok((*kind, graph))
        });
        Ok(Package {
            folder: folder.into(),
            name: package_name(folder),
            family: model.family,
            vision: model.vision,
            text: model.text,
            graphs: graphs.collect::<Result<_, ModelError>>()?,
            preprocessor: preprocessor(folder)?,
            end_tokens,
        })
    }

    /// Returns a graph, or an error if the package was read without it.
    pub fn graph(&self, kind: GraphKind) -> Result<&Graph, ModelError> {
        let found = self.graphs.iter().find(|(other, _)| *other == kind);
        found.map(|(_, graph)| graph).ok_or_else(|| {
            let (folder, name) = (self.folder.display(), kind.name());
            ModelError(format!("model package {folder}: {name} was not read"))
        })
    }
}

impl Graph {
    /// Returns every file of this kind in the package, sorted by the precision's name.
    pub fn all(folder: &Path, kind: GraphKind) -> Result<Vec<Graph>, ModelError> {
        let entries = fs::read_dir(folder.join("onnx"))
            .map_err(|e| ModelError(format!("model package {}: onnx/: {e}", folder.display())))?;
        let graph = |entry: fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let precision = kind.precision_of(&name)?.into();
            Some(Graph { file: entry.path(), precision })
        };
        let mut found: Vec<Graph> = entries.filter_map(Result::ok).filter_map(graph).collect();
        found.sort_by(|a, b| a.precision.cmp(&b.precision));
        Ok(found)
    }

    fn find(folder: &Path, kind: GraphKind, choice: Option<&str>) -> Result<Graph, ModelError> {
        let wrong = |why: String| ModelError(format!("model package {}: {why}", folder.display()));
        let mut found = Graph::all(folder, kind)?;
        let all = found.iter().map(|g| g.precision.as_str()).collect::<Vec<_>>().join(", ");
        match choice {
            Some(choice) => found.into_iter().find(|g| g.precision == choice).ok_or_else(|| {
                let there = if all.is_empty() { "none" } else { &all };
                wrong(format!(
                    "model.precision asks for {} in {choice:?}; onnx/ holds {there}",
                    kind.name()
                ))
            }),
            None => match found.len() {
                0 => {
                    let hint = if kind == GraphKind::Decoder {
                        "; a package without it needs language.backend = \"vllm\""
                    } else {
                        ""
                    };
                    Err(wrong(format!("onnx/{}.onnx is missing{hint}", kind.name())))
                }
                1 => Ok(found.remove(0)),
                _ => Err(wrong(format!(
                    "onnx/ holds {} in {all}; choose one by model.precision",
                    kind.name()
                ))),
            },
        }
    }

    /// Reads the file's facts. Refuses a damaged file and one with damaged weights.
    pub fn facts(&self) -> Result<GraphFacts, ModelError> {
        GraphFacts::read(&self.file)
    }
}

/// Reads `preprocessor_config.json`, or the same section of `processor_config.json`, where
/// transformers 5 writes it.
fn preprocessor(folder: &Path) -> Result<PreprocessorConfig, ModelError> {
    let own = folder.join("preprocessor_config.json");
    let whole = folder.join("processor_config.json");
    if !own.exists()
        && whole.exists()
        && let Some(section) = parse::<Value>(&whole)?.get("image_processor")
    {
        return Ok(PreprocessorConfig { file: whole, text: section.to_string() });
    }
    let text = read(&own)?;
    Ok(PreprocessorConfig { file: own, text })
}

/// Returns the folder's name, or its parent's name if the folder is called `package`.
fn package_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    match name(&whole) {
        Some(own) if own == "package" => whole.parent().and_then(name).unwrap_or(own),
        Some(own) => own,
        None => "model".into(),
    }
}

fn read(file: &Path) -> Result<String, ModelError> {
    fs::read_to_string(file).map_err(|e| ModelError(format!("model file {}: {e}", file.display())))
}

fn parse<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<T, ModelError> {
    serde_json::from_str(&read(file)?)
        .map_err(|e| ModelError(format!("model file {}: {e}", file.display())))
}

#[derive(Default, Deserialize)]
struct RawGeneration {
    eos_token_id: Option<Ids>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(graphs: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("written");
        };
        write("config.json", r#"{"model_type": "llava"}"#);
        write("preprocessor_config.json", "{}");
        fs::create_dir(folder.path().join("onnx")).expect("made");
        for graph in graphs {
            write(&format!("onnx/{graph}.onnx"), "");
        }
        folder
    }

    fn chosen(folder: &Path, precision: Precision) -> Result<Vec<String>, String> {
        let package = Package::read(folder, &precision).map_err(|e| e.to_string())?;
        let precision = |kind| package.graph(kind).expect("a graph").precision.clone();
        Ok(GraphKind::ALL.map(precision).to_vec())
    }

    #[test]
    fn preprocessing_comes_with_the_file_that_it_is_in() {
        let folder = package(&["vision_encoder", "embed_tokens", "decoder_model_merged"]);
        let read = || preprocessor(folder.path()).expect("a file");
        let section = r#"{"image_processor": {"size": 3}}"#;
        fs::write(folder.path().join("processor_config.json"), section).expect("written");
        assert_eq!(read().file, folder.path().join("preprocessor_config.json"));
        fs::remove_file(folder.path().join("preprocessor_config.json")).expect("removed");
        assert_eq!(read().file, folder.path().join("processor_config.json"));
        assert_eq!(read().text, r#"{"size":3}"#);
    }

    #[test]
    fn a_single_graph_is_selected() {
        let folder =
            package(&["vision_encoder_int8", "embed_tokens", "decoder_model_merged_q4f16"]);
        let found = chosen(folder.path(), Precision::default());
        assert_eq!(found, Ok(vec!["int8".into(), "fp32".into(), "q4f16".into()]));
    }

    #[test]
    fn two_precisions_require_a_choice() {
        let folder = package(&[
            "vision_encoder",
            "embed_tokens",
            "decoder_model_merged_q4",
            "decoder_model_merged_fp16",
        ]);
        let error = chosen(folder.path(), Precision::default()).expect_err("no choice");
        assert!(error.contains("decoder_model_merged in fp16, q4; choose"), "{error}");
        let q4 = Precision { decoder: Some("q4".into()), ..Precision::default() };
        assert_eq!(chosen(folder.path(), q4).expect("chosen")[2], "q4");
        let int8 = Precision { vision: Some("int8".into()), ..Precision::default() };
        let error = chosen(folder.path(), int8).expect_err("not there");
        assert!(error.contains("vision_encoder in \"int8\"; onnx/ holds fp32"), "{error}");
    }

    #[test]
    fn a_missing_graph_is_named() {
        let folder = package(&["vision_encoder", "decoder_model_merged"]);
        let error = chosen(folder.path(), Precision::default()).expect_err("missing");
        assert!(error.contains("onnx/embed_tokens.onnx is missing"), "{error}");
    }

    #[test]
    fn a_package_without_a_decoder_is_for_servers() {
        let folder = package(&["vision_encoder", "embed_tokens"]);
        let error = chosen(folder.path(), Precision::default()).expect_err("missing");
        let wanted = "onnx/decoder_model_merged.onnx is missing; a package without it needs \
                      language.backend = \"vllm\"";
        assert!(error.ends_with(wanted), "{error}");
        let read = Package::without_decoder(folder.path(), &Precision::default());
        let read = read.expect("a package");
        assert!(read.graph(GraphKind::Embed).is_ok());
        assert!(read.graph(GraphKind::Decoder).is_err());
    }
}
