//! The model that `make setup` fetches, compared with vectors recorded from its package's own Python
//! code (onnxruntime 1.31.1, tokenizers 0.23.3), the layers after it, and folders that are refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::folder::{ModelFolder, Pooling};
use super::*;
use crate::model::on_the_cpu;

/// A text, and its vector's numbers 0, 48, 96, … 336.
const RECORDED: [(&str, [f32; 8]); 3] = [
    (
        "A red car drives from left to right.",
        [-0.01305, 0.11822, 0.00349, -0.04226, -0.03273, 0.16932, -0.03276, -0.05695],
    ),
    (
        "Nobody is there, the yard is empty.",
        [0.12570, 0.08130, -0.00617, 0.05249, 0.03907, -0.02660, 0.02702, -0.01481],
    ),
    (
        "Ist da ein Hund? 犬がいますか",
        [-0.02520, -0.00800, -0.00308, 0.04035, -0.04099, -0.03390, 0.01397, -0.01833],
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/embedding/all-MiniLM-L6-v2")
}

fn load(folder: &Path) -> Result<SentenceModel, String> {
    SentenceModel::load(&on_the_cpu().0, folder).map_err(|error| error.to_string())
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    std::iter::zip(a, b).map(|(a, b)| a * b).sum()
}

/// Returns a folder with the model, but without the layers after it.
fn without_layers() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["model.onnx", "tokenizer.json", "sentence_bert_config.json", "1_Pooling"] {
        symlink(folder().join(name), dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn vectors_are_those_of_the_python_code() {
    let dir = without_layers();
    let mut model = load(dir.path()).expect("run `make setup`");
    assert_eq!(model.dimensions(), 384);
    for (text, expected) in RECORDED {
        let vector = model.embed(text).unwrap();
        let found = vector.iter().step_by(48);
        for (found, expected) in found.zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{text}: {found} instead of {expected}");
        }
        assert!((cosine(&vector, &vector) - 1.0).abs() < 1e-4);
    }
}

/// Writes a layer that adds half of a vector's first number to its second one.
fn write_layer(folder: &Path, inputs: usize, outputs: usize) {
    fs::create_dir_all(folder).unwrap();
    let config = format!(
        r#"{{"in_features": {inputs}, "out_features": {outputs}, "bias": false,
           "activation_function": "torch.nn.modules.linear.Identity"}}"#
    );
    fs::write(folder.join("config.json"), config).unwrap();
    let mut weight = vec![0.0_f32; inputs * outputs];
    (0..outputs).for_each(|at| weight[at * inputs + at] = 1.0);
    weight[inputs] = 0.5;
    let values: Vec<u8> = weight.iter().flat_map(|value| value.to_le_bytes()).collect();
    let header = format!(
        r#"{{"linear.weight": {{"dtype": "F32", "shape": [{outputs}, {inputs}],
           "data_offsets": [0, {}]}}}}"#,
        values.len()
    );
    let length = (header.len() as u64).to_le_bytes();
    let file = [&length[..], header.as_bytes(), &values].concat();
    fs::write(folder.join("model.safetensors"), file).unwrap();
}

#[test]
fn layers_follow_the_pooling_in_their_order() {
    let dir = without_layers();
    let plain = load(dir.path()).unwrap().embed("A dog stands still.").unwrap();
    let id = ModelFolder::read(dir.path()).unwrap().id;
    write_layer(&dir.path().join("2_Dense"), 384, 3);
    write_layer(&dir.path().join("3_Dense"), 3, 2);
    assert_ne!(ModelFolder::read(dir.path()).unwrap().id, id, "other vectors need another ID");
    let mut model = load(dir.path()).unwrap();
    assert_eq!(model.dimensions(), 2);
    let (first, second) = (plain[0], plain[1] + plain[0]);
    let length = first.hypot(second);
    let vector = model.embed("A dog stands still.").unwrap();
    assert!(cosine(&vector, &[first / length, second / length]) > 0.9999, "{vector:?}");

    write_layer(&dir.path().join("3_Dense"), 4, 2);
    let error = load(dir.path()).err().unwrap();
    assert!(error.contains("a Dense layer takes 4 numbers; it got 3"), "{error}");
}

#[test]
fn a_rare_colour_is_embedded_with_its_usual_name() {
    let dir = without_layers();
    let mut model = load(dir.path()).unwrap();
    let mut vector = |text: &str| model.embed(text).unwrap();
    assert_eq!(vector("an azure van"), vector("an azure blue van"));
}

#[test]
fn similar_texts_have_similar_vectors() {
    let mut model = load(&folder()).expect("run `make setup`");
    let mut vector = |text: &str| model.embed(text).unwrap();
    let asked = vector("an automobile painted crimson");
    let similar = cosine(&asked, &vector("A red car drives from left to right."));
    let other = cosine(&asked, &vector("A dog stands still."));
    assert!(similar > other + 0.2, "{similar} {other}");
    // A long text is cut off.
    let long = "A red car drives from left to right. ".repeat(400);
    assert!(cosine(&vector(&long), &vector(&long[..400])) > 0.8);
    assert!(vector("").iter().all(|value| value.is_finite()));
}

#[test]
fn a_folder_is_read_like_an_export_of_sentence_transformers() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let read = || ModelFolder::read(dir.path()).map_err(|error| error.to_string());
    let refused = |why: &str| {
        let error = read().unwrap_err();
        assert!(error.starts_with("search.model /") && error.contains(why), "{error}");
    };
    refused("wanted the graph as model.onnx or onnx/model.onnx");
    write("onnx/model.onnx", "graph");
    refused("tokenizer.json is missing");
    write("tokenizer.json", "{}");
    let plain = read().unwrap();
    assert_eq!((plain.pooling, plain.tokens), (Pooling::Mean, 256));
    assert!(plain.graph.ends_with("onnx/model.onnx"));

    write(
        "1_Pooling/config.json",
        r#"{"word_embedding_dimension": 4, "pooling_mode_cls_token": true}"#,
    );
    write("sentence_bert_config.json", r#"{"max_seq_length": 512}"#);
    write("config.json", r#"{"max_position_embeddings": 384}"#);
    let configured = read().unwrap();
    assert_eq!((configured.pooling, configured.tokens), (Pooling::First, 384));
    assert_ne!(configured.id, plain.id, "other vectors need another ID");
    write("model.onnx", "another graph");
    let other = read().unwrap();
    assert_eq!(other.graph, dir.path().join("model.onnx"));
    assert_ne!(other.id, configured.id);

    write("1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true}"#);
    refused("wanted pooling_mode_mean_tokens or pooling_mode_cls_token");
    write("1_Pooling/config.json", r#"{"pooling_mode_mean_tokens": true}"#);
    write("sentence_bert_config.json", r#"{"max_seq_length": 2}"#);
    refused("max_seq_length = 2: wanted at least 3");
    write("sentence_bert_config.json", "no JSON");
    refused("sentence_bert_config.json: ");
}

#[test]
fn broken_models_are_refused_by_name() {
    let error = load(Path::new("/nowhere")).err().unwrap();
    assert!(error.contains("search.model /nowhere: no such folder"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(folder().join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    fs::write(dir.path().join("model.onnx"), "no graph").unwrap();
    let error = load(dir.path()).err().unwrap();
    assert!(error.contains("model.onnx"), "{error}");
    // The graph of another kind of model.
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/package/onnx");
    fs::copy(package.join("embed_tokens.onnx"), dir.path().join("model.onnx")).unwrap();
    let error = load(dir.path()).err().unwrap();
    assert!(error.contains("no input \"attention_mask\""), "{error}");
    fs::copy(folder().join("model.onnx"), dir.path().join("model.onnx")).unwrap();
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    let error = load(dir.path()).err().unwrap();
    assert!(error.contains("tokenizer.json"), "{error}");
}
