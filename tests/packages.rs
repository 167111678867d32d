//! Tests `lookout inspect` with complete packages and with broken ones: each is refused in one
//! sentence that names the file. `fetch` tests `lookout fetch`.

#[path = "packages/fetch.rs"]
mod fetch;
#[path = "packages/hub.rs"]
mod hub;
#[path = "support/small_disk.rs"]
#[allow(dead_code)]
mod small_disk;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const PLAN: &str = "16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn demo() -> PathBuf {
    repository().join("models/demo/package")
}

/// Runs `lookout inspect`. Returns the exit code and the output.
fn model(package: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lookout"));
    let plan = if more.contains(&"--plan") { &[][..] } else { &["--plan", PLAN] };
    command.args(["--log", "warn", "inspect", "--device", "cpu"]).args(plan);
    let output = command.args(more).arg(package).output().expect("lookout");
    let text: [String; 2] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into());
    (output.status.code(), text.concat())
}

/// A copy of the demo's package or of another one, to be broken.
struct Copy(TempDir);

impl Copy {
    fn of(package: &Path) -> Copy {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("onnx")).expect("made");
        for part in ["", "onnx"] {
            for entry in fs::read_dir(package.join(part)).expect("a package") {
                let from = entry.expect("an entry").path();
                let name = from.file_name().expect("a name");
                if from.is_file() {
                    fs::copy(&from, folder.path().join(part).join(name)).expect("copied");
                }
            }
        }
        Copy(folder)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn change(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.file(name)).expect("text");
        assert!(text.contains(from), "{name} has no {from}");
        fs::write(self.file(name), text.replace(from, to)).expect("written");
    }

    fn cut(&self, name: &str) {
        let bytes = fs::read(self.file(name)).expect("bytes");
        fs::write(self.file(name), &bytes[..bytes.len() * 2 / 3]).expect("written");
    }

    /// Checks that the package is refused in one sentence that contains all of `wanted`.
    fn is_refused(&self, more: &[&str], wanted: &[&str]) {
        let (code, text) = model(self.0.path(), more);
        assert_eq!(code, Some(2), "{text}");
        let mut refusals = text.lines().filter(|line| line.starts_with("cannot run"));
        let refusal = refusals.next().unwrap_or_else(|| panic!("not refused: {text}"));
        assert_eq!(refusals.next(), None, "{text}");
        for part in wanted {
            assert!(refusal.contains(part), "{refusal:?} does not name {part:?}");
        }
    }
}

#[test]
fn the_demo_package_is_described() {
    let (code, text) = model(&demo(), &["--json"]);
    assert_eq!(code, Some(0), "{text}");
    let found: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(found["model"]["family"], "llava");
    assert_eq!(found["plan"]["video_tokens"], 256);
    // Keys and values of 4 layers, 5 heads of 32, in 32 bits.
    let running = &found["running"];
    let (bytes, tokens) = (&running["kv_cache_bytes"], &running["sequence_tokens"]);
    assert_eq!(bytes.as_u64(), tokens.as_u64().map(|tokens| tokens * 2 * 4 * 5 * 32 * 4));
    assert_eq!(found["graphs"].as_array().map(Vec::len), Some(3));
    assert_eq!(found["refusals"], serde_json::json!([]));

    let (code, text) = model(&demo(), &[]);
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "demo (llava)",
        "256 video tokens",
        "runs        yes",
        "RoPE plain",
        "usual template of LLaVA-1.5",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_corrupted_graph_is_named() {
    for graph in ["onnx/vision_encoder.onnx", "onnx/decoder_model_merged.onnx"] {
        let copy = Copy::of(&demo());
        copy.cut(graph);
        copy.is_refused(&[], &[graph, "not a whole ONNX file"]);
    }
    let copy = Copy::of(&demo());
    fs::write(copy.file("onnx/embed_tokens.onnx"), "<html>404</html>").expect("written");
    copy.is_refused(&[], &["onnx/embed_tokens.onnx"]);
}

#[test]
fn a_package_without_a_decoder_is_described_and_names_the_back_end_that_it_needs() {
    let copy = Copy::of(&demo());
    fs::remove_file(copy.file("onnx/decoder_model_merged.onnx")).expect("removed");
    let wanted = [
        "onnx/decoder_model_merged.onnx is missing",
        "a package without it needs language.backend = \"vllm\"",
    ];
    copy.is_refused(&[], &wanted);
    let (_, text) = model(copy.0.path(), &[]);
    for part in
        ["(llava)", "256 video tokens", "vision_encoder.onnx: fp32", "embed_tokens.onnx: fp32"]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("not chosen"), "{text}");

    let config = format!(
        "[model]\npackage = {:?}\nplan = {PLAN:?}\ndevice = \"cpu\"\n\
         [[camera]]\nname = \"gate\"\nurl = \"rtsp://127.0.0.1:1/gate\"\n",
        copy.0.path()
    );
    fs::write(copy.file("lookout.toml"), config).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lookout"));
    command.arg("check").arg("--config").arg(copy.file("lookout.toml"));
    let output = command.output().expect("lookout");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(!output.status.success(), "{text:?}");
    for part in wanted {
        assert!(text.concat().contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn truncated_or_missing_weight_files_are_named() {
    let copy = Copy::of(&repository().join("target/families/llava-vicuna/external"));
    let (code, text) = model(copy.0.path(), &[]);
    assert_eq!(code, Some(0), "{text}");
    let data = "onnx/decoder_model_merged.onnx_data";
    copy.cut(data);
    copy.is_refused(&[], &[data, "cut off"]);
    fs::remove_file(copy.file(data)).expect("removed");
    copy.is_refused(&[], &[data, "No such file"]);
}

#[test]
fn a_tokenizer_of_another_model_is_named() {
    let copy = Copy::of(&demo());
    let other = repository().join("tests/golden/tokenizers/llama_bos/tokenizer.json");
    fs::copy(other, copy.file("tokenizer.json")).expect("copied");
    copy.is_refused(&[], &["tokenizer.json", "vocab_size is 512", "of another model?"]);
}

#[test]
fn a_grid_that_differs_from_the_graph_is_named() {
    let copy = Copy::of(&demo());
    copy.change("config.json", "\"patch_size\": 14", "\"patch_size\": 16");
    copy.is_refused(&[], &["vision_encoder.onnx", "[1, 64, 160]", "[1, 49, 160]"]);
}

#[test]
fn two_precisions_without_a_choice_are_refused() {
    let copy = Copy::of(&demo());
    let (from, to) = ("onnx/decoder_model_merged.onnx", "onnx/decoder_model_merged_q4.onnx");
    fs::copy(copy.file(from), copy.file(to)).expect("copied");
    copy.is_refused(&[], &["decoder_model_merged in fp32, q4", "model.precision"]);
    copy.is_refused(&["--precision", "q4"], &["vision_encoder in \"q4\"", "holds fp32"]);
    let (code, text) = model(copy.0.path(), &["--precision", "decoder=q4"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("decoder_model_merged_q4.onnx: q4"), "{text}");
    assert!(text.contains("(not chosen)"), "{text}");
}

#[test]
fn an_unknown_rope_scaling_is_named() {
    let copy = Copy::of(&demo());
    let rope = "\"rope_type\": \"longrope\", \"factor\": 4.0";
    copy.change("config.json", "\"rope_type\": \"default\"", rope);
    copy.is_refused(&[], &["config.json", "longrope"]);
}

#[test]
fn a_plan_longer_than_the_context_is_refused() {
    let copy = Copy::of(&demo());
    copy.is_refused(&["--plan", "paper"], &["1120 video tokens", "context of 1024 tokens"]);
}
