//! Tests a checkpoint of every family, exported by the project's own exporter in several precisions
//! and kinds of graph, against the answers of transformers.
//!
//! `make families` creates them in `target/families`; see `models/export/families.py`.

#[path = "support/recorded.rs"]
mod recorded;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use lookout::config::Sampling;
use lookout::config::{Model, Resize, Wording};
use lookout::language::{Budget, Decoder, LanguageModel, Limits};
use lookout::model::{Package, Runtime};
use lookout::slowfast::{Aggregation, VideoTokens, aggregate};
use lookout::vision::Encoder;
use lookout::vision::preprocess::{Preprocess, Scratch};
use serde::Deserialize;

/// Every family and every RoPE scaling that the daemon runs.
const FAMILIES: [&str; 12] = [
    "llava-vicuna",
    "llava-tinyllama",
    "llava-interleave-qwen",
    "llava-next-vicuna",
    "llava-next-mistral",
    "llava-next-yi",
    "llava-onevision-qwen",
    "llava-linear2",
    "llava-llama3",
    "onevision-yarn",
    "llava-dynamic2-within",
    "llava-dynamic2-beyond",
];

const TOLERANCE_VIDEO: f32 = 5e-4;
const TOLERANCE_LOGITS: f32 = 5e-3;
/// Small and odd, so that prompts are prefilled in many chunks.
const PREFILL_CHUNK: usize = 61;

#[derive(Deserialize)]
struct Reference {
    family: String,
    frames: Vec<String>,
    image_size: usize,
    grid_tokens: usize,
    aggregation: String,
    plan_frames: usize,
    question: String,
    input_ids_with_marker: Vec<i64>,
    planned_length: usize,
    ids: Vec<u32>,
    first_logits: String,
    video_tokens: String,
    int8_cosine: f32,
    int4_cosine: f32,
}

struct Family {
    folder: PathBuf,
    reference: Reference,
}

/// The output of a package.
struct Said {
    video: VideoTokens,
    first_logits: Vec<f32>,
    ids: Vec<u32>,
    prompt: Vec<i64>,
}

impl Family {
    fn open(name: &str) -> Family {
        let folder = repository().join("target/families").join(name);
        let file = folder.join("reference.json");
        let text = fs::read_to_string(&file)
            .unwrap_or_else(|e| panic!("{}: {e}: run `make families`", file.display()));
        let reference = serde_json::from_str(&text).expect("reference.json");
        Family { folder, reference }
    }

    fn npy(&self, file: &str) -> Vec<f32> {
        recorded::npy(&self.folder.join(file)).expect("an array").values
    }

    /// Runs frames through one of the family's packages, up to the answer.
    fn run(&self, kind: &str) -> Said {
        let Reference { planned_length, plan_frames, aggregation, .. } = &self.reference;
        let keys = toml::toml! { package = "" plan = "" device = "cpu" };
        let mut keys = keys;
        keys["package"] = self.folder.join(kind).display().to_string().into();
        keys["plan"] = format!("{plan_frames}:{aggregation}").into();
        keys.insert("prefill_chunk".into(), (PREFILL_CHUNK as i64).into());
        let model = Model::of(keys).expect("a model's settings");
        let package = Package::of(&model).expect("a package");
        assert_eq!(package.family.name(), self.reference.family);
        assert_eq!(package.vision.grid_tokens, self.reference.grid_tokens);

        let runtime = runtime(&model);
        let video = self.video(runtime, &package);
        let budget = Budget::one_by_one(self.reference.ids.len());
        let mut language = LanguageModel::with_capacity(
            runtime,
            &package,
            &model,
            &Wording::default(),
            budget,
            *planned_length,
        )
        .expect("a language model");
        let prompt = language.prompt(&[], &self.reference.question).expect("a prompt");
        let embeddings = language.embeddings(&prompt, &video).expect("embeddings");
        let mut decoder = Decoder::load(runtime, &package, 1, *planned_length).expect("a decoder");
        let mut cache = decoder.cache(1).expect("a cache");
        let first_logits = decoder.read(&mut cache, 0, &embeddings).expect("logits");

        let max_new_tokens = self.reference.ids.len();
        let limits = Limits { max_new_tokens, sampling: Sampling::Greedy };
        let reply = language.complete(&prompt, &video, limits, |_| {});
        let reply = reply.expect("an answer");
        let prompt = prompt.with_markers();
        Said { video, first_logits, ids: reply.ids, prompt }
    }

    fn video(&self, runtime: &Runtime, package: &Package) -> VideoTokens {
        let preprocess =
            Preprocess::from_config(&package.preprocessor, Resize::Stretch).expect("settings");
        assert_eq!(preprocess.size, self.reference.image_size);
        let mut encoder = Encoder::load(runtime, package, 1).expect("an encoder");
        let (mut scratch, mut features) = (Scratch::default(), Vec::new());
        let mut pixels = vec![0.0; encoder.frame_len()];
        for frame in &self.reference.frames {
            let picture = recorded::png(&repository().join(frame)).expect("a picture");
            let (bgrx, width, height) = (picture.bgrx(), picture.width, picture.height);
            preprocess.pixels(&mut scratch, &bgrx, width, height, &mut pixels).expect("pixels");
            features.extend(encoder.encode(&pixels).expect("features").features);
        }
        let (tokens, dim) = (encoder.grid_tokens(), encoder.dim());
        let aggregation: Aggregation = self.reference.aggregation.parse().expect("a notation");
        let rows = aggregate(&features, tokens, dim, aggregation).expect("rows");
        VideoTokens { rows, dim }
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the shared runtime, because onnxruntime allows one environment per process.
fn runtime(model: &Model) -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::load(model).expect("onnxruntime"))
}

/// Compares 64 greedy ids, the text and the first logits with those of transformers.
#[test]
fn every_family_answers_as_transformers() {
    for name in FAMILIES {
        let family = Family::open(name);
        let said = family.run("fp32");
        let reference = &family.reference;
        assert_eq!(said.prompt, reference.input_ids_with_marker, "{name}: prompt");
        let off = furthest(&said.video.rows, &family.npy(&reference.video_tokens));
        assert!(off <= TOLERANCE_VIDEO, "{name}: video tokens off by {off}");
        let logits = furthest(&said.first_logits, &family.npy(&reference.first_logits));
        assert!(logits <= TOLERANCE_LOGITS, "{name}: first logits off by {logits}");
        assert_eq!(said.ids, reference.ids, "{name}");
        println!("{name}: video off by {off:.1e}, first logits by {logits:.1e}, 64 of 64 ids");
    }
}

/// Runs graphs as in ready-made exports: standard operators, positions as an input, keys and values
/// that grow; and 16-bit floats from end to end, in both kinds of graph.
#[test]
fn ready_made_kinds_of_graph_run() {
    for name in ["llava-vicuna", "llava-onevision-qwen"] {
        let family = Family::open(name);
        for kind in ["plain", "plain-fp16", "ready-made", "fp16"] {
            let said = family.run(kind);
            assert_eq!(said.ids, family.reference.ids, "{name}/{kind}");
        }
    }
}

/// Checks that quantised packages are as far from fp32 as in Python's onnxruntime, so that the
/// daemon adds no error to that of quantisation.
#[test]
fn quantised_packages_lose_no_more_than_quantising_costs() {
    for name in FAMILIES {
        let family = Family::open(name);
        let wanted = family.npy(&family.reference.first_logits);
        let recorded = &family.reference;
        for (kind, python) in [("int8", recorded.int8_cosine), ("int4", recorded.int4_cosine)] {
            let found = cosine(&family.run(kind).first_logits, &wanted);
            println!("{name}/{kind}: cosine {found:.4}, in Python {python:.4}");
            assert!(
                (found - python).abs() <= 1e-3,
                "{name}/{kind}: cosine {found}, Python {python}"
            );
        }
    }
}

fn furthest(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Runs a package as in a hub's cache, which stores each file under its hash, with a folder of
/// links named like the files.
#[test]
fn a_package_of_links_into_a_cache_runs() {
    let package = repository().join("target/families/llava-vicuna/external");
    let cache = tempfile::tempdir().expect("a folder");
    let snapshot = cache.path().join("snapshots/1");
    fs::create_dir_all(snapshot.join("onnx")).expect("made");
    fs::create_dir(cache.path().join("blobs")).expect("made");
    for part in ["", "onnx"] {
        for entry in fs::read_dir(package.join(part)).expect("a package") {
            let from = entry.expect("an entry").path();
            let name = from.file_name().expect("a name");
            if from.is_file() {
                let blob = cache.path().join("blobs").join(format!("{part}{}", name.display()));
                fs::copy(&from, &blob).expect("copied");
                std::os::unix::fs::symlink(&blob, snapshot.join(part).join(name)).expect("linked");
            }
        }
    }
    let plan = "4:slowfast-slow_2frms_concat-fast_1x1";
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lookout"));
    command.args(["inspect", "--device", "cpu", "--plan", plan]).arg(&snapshot);
    let output = command.output().expect("lookout");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
}
