//! Reads the files of a sentence-embedding model: where the graph is, how many tokens it takes, how
//! its output becomes one vector, and which layers follow.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::colours;
use super::dense::{self, Dense};
use crate::model::ModelError;

/// Places of the graph in a folder, the first one that exists is used.
const GRAPHS: &[&str] = &["model.onnx", "onnx/model.onnx"];

/// Number of tokens of a text that a model takes if its folder has no `sentence_bert_config.json`.
const USUAL_TOKENS: usize = 256;

/// The method that makes one vector of the vectors of a text's tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens.
    Mean,
    /// The first token, `[CLS]`.
    First,
}

/// The files of a model, read and checked.
#[derive(Debug)]
pub struct ModelFolder {
    pub graph: PathBuf,
    pub tokenizer: PathBuf,
    pub pooling: Pooling,
    /// Maximum number of tokens of a text. Further ones are cut off.
    pub tokens: usize,
    /// The layers after the pooling.
    pub layers: Vec<Dense>,
    /// Hash of everything that a vector depends on.
    pub id: String,
}

impl ModelFolder {
    pub fn read(folder: &Path) -> Result<ModelFolder, ModelError> {
        let wrong = |why: String| ModelError(format!("search.model {}: {why}", folder.display()));
        if !folder.is_dir() {
            return Err(wrong("no such folder; docs/search.md says how to get a model".into()));
        }
        let graph = GRAPHS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        let graph = graph.ok_or_else(|| {
            wrong(format!("wanted the graph as {}; found none", GRAPHS.join(" or ")))
        })?;
        let tokenizer = folder.join("tokenizer.json");
        if !tokenizer.is_file() {
            return Err(wrong("tokenizer.json is missing".into()));
        }
        let tokens = tokens(folder).map_err(wrong)?;
        let pooling = pooling(folder).map_err(wrong)?;
        let folders = dense::folders(folder);
        let layers = folders.iter().map(|folder| Dense::read(folder)).collect::<Result<_, _>>();
        let layers = layers.map_err(wrong)?;
        let mut hash = Sha256::new();
        let mut files = vec![graph.clone(), graph.with_extension("onnx_data"), tokenizer.clone()];
        let of_layer =
            |folder: &PathBuf| ["config.json", "model.safetensors"].map(|name| folder.join(name));
        files.extend(folders.iter().flat_map(of_layer));
        for file in &files {
            hash_file(&mut hash, file).map_err(|e| wrong(format!("{}: {e}", file.display())))?;
        }
        hash.update(format!("{tokens} {pooling:?} {}", colours::identity()));
        let id = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(ModelFolder { graph, tokenizer, pooling, tokens, layers, id })
    }
}

/// Adds a file to a hash, if it exists.
fn hash_file(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(mut file) => io::copy(&mut file, hash).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns the number of tokens of a text that the model takes.
fn tokens(folder: &Path) -> Result<usize, String> {
    #[derive(Deserialize)]
    struct Sentence {
        max_seq_length: Option<usize>,
    }
    #[derive(Deserialize)]
    struct Config {
        max_position_embeddings: Option<usize>,
    }
    let sentence: Option<Sentence> = json(folder, "sentence_bert_config.json")?;
    let config: Option<Config> = json(folder, "config.json")?;
    let wanted = sentence.and_then(|found| found.max_seq_length).unwrap_or(USUAL_TOKENS);
    let limit = config.and_then(|found| found.max_position_embeddings).unwrap_or(wanted);
    // A text has two tokens of its own, [CLS] and [SEP].
    match wanted.min(limit) {
        tokens @ 3.. => Ok(tokens),
        tokens => Err(format!("max_seq_length = {tokens}: wanted at least 3")),
    }
}

/// Returns the pooling of `1_Pooling/config.json`, or the mean if the folder has no such file.
fn pooling(folder: &Path) -> Result<Pooling, String> {
    const NAME: &str = "1_Pooling/config.json";
    let Some(modes): Option<serde_json::Map<String, serde_json::Value>> = json(folder, NAME)?
    else {
        return Ok(Pooling::Mean);
    };
    let is_on = |value: &serde_json::Value| value.as_bool() == Some(true);
    let chosen = modes.iter().filter(|(key, on)| key.starts_with("pooling_mode_") && is_on(on));
    let chosen: Vec<&str> = chosen.map(|(key, _)| key.as_str()).collect();
    match chosen[..] {
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::First),
        _ => Err(format!(
            "{NAME} has {chosen:?}: wanted pooling_mode_mean_tokens or pooling_mode_cls_token"
        )),
    }
}

/// Reads a JSON file of the folder, if it exists.
fn json<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>, String> {
    match fs::read_to_string(folder.join(name)) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| format!("{name}: {e}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
