//! Tests the choice of device and how it is reported: with onnxruntime for CPUs, and with
//! onnxruntime for CUDA where CUDA's libraries, the driver or the GPU is missing. Not here: a real
//! GPU.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use support::*;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// File name of the NVIDIA driver's library, which a stub replaces.
const DRIVER: &str = "libcuda.so.1";

fn usual_library() -> PathBuf {
    present(repository().join("target/onnxruntime/libonnxruntime.so"), "make setup")
}

fn present(path: PathBuf, mend: &str) -> PathBuf {
    assert!(path.exists(), "{} is missing: run `{mend}`", path.display());
    path
}

/// Links every shared library of `from` that `wanted` accepts by name into `to`.
fn link(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("readable")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("lib") && name.contains(".so") && wanted(&name) {
            symlink(entry.path(), to.join(&name)).expect("a link");
        }
    }
}

/// Creates a folder with onnxruntime for CUDA and the CUDA libraries that `wanted` accepts. Returns
/// the path of libonnxruntime.
fn cuda_folder(dir: &Path, wanted: impl Fn(&str) -> bool) -> PathBuf {
    let folder = dir.join("cuda");
    fs::create_dir(&folder).expect("a folder");
    let fetched = present(repository().join("target/onnxruntime-gpu-test"), "make setup-test");
    link(&fetched, &folder, |name| name.contains("onnxruntime") || wanted(name));
    let python = repository().join("target/export-env/lib");
    let nvidia = fs::read_dir(present(python, "make export-env"))
        .expect("readable")
        .map(|entry| entry.expect("readable").path().join("site-packages/nvidia"))
        .find(|nvidia| nvidia.is_dir())
        .expect("nvidia's wheels in target/export-env: run `make export-env`");
    let of_cuda = ["libcudart.", "libcublas", "libnvrtc"];
    link(&nvidia.join("cu13/lib"), &folder, |name| {
        wanted(name) && of_cuda.iter().any(|start| name.starts_with(start))
    });
    link(&nvidia.join("cudnn/lib"), &folder, wanted);
    folder.join("libonnxruntime.so")
}

/// Returns a config whose camera does not respond; `model` replaces the device.
fn config(model: &str, library: &Path) -> String {
    let head = head(free_port(), free_port(), None);
    let asked = format!("{model}\nonnxruntime = {library:?}");
    head.replace("device = \"cpu\"", &asked) + &camera("gate", "rtsp://127.0.0.1:9/x", "")
}

fn lookout(command: &str, dir: &Path, config: &str, driver: Option<&Path>) -> Output {
    let file = dir.join("lookout.toml");
    fs::write(&file, config).expect("config");
    let mut lookout = Command::new(LOOKOUT);
    lookout.args([command, "--log", "error", "--config"]).arg(&file);
    // The variable is set only for the driver: CUDA's own libraries must be found without it.
    match driver {
        Some(folder) => lookout.env("LD_LIBRARY_PATH", folder),
        None => lookout.env_remove("LD_LIBRARY_PATH"),
    };
    lookout.output().expect("lookout")
}

/// Runs `lookout run`, which must end with code 2 and one sentence that contains every one of
/// `named`.
fn refused(dir: &Path, config: &str, driver: Option<&Path>, named: &[&str]) {
    let output = lookout("run", dir, config, driver);
    let output_text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{output_text}");
    for part in named {
        assert!(output_text.contains(part), "{part:?} is not in: {output_text}");
    }
    assert_eq!(output_text.trim_end().lines().count(), 1, "{output_text}");
}

/// Starts a daemon with `device = "auto"`, which must run on the CPU and report the device and the
/// reason in every output.
fn runs_on_the_cpu_and_says_why(dir: &Path, model: &str, library: &Path, reason: &str) {
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let broker = Broker::start(dir, free_port());
    let mut mqtt = subscribe(broker.port, dir);
    let (grpc, http) = (free_port(), free_port());
    let asked = format!("{model}\nonnxruntime = {library:?}");
    let config = head(grpc, http, Some(broker.port)).replace("device = \"cpu\"", &asked)
        + &camera("gate", &cameras.url("gate"), "");
    let daemon = Daemon::with_config(dir, &config, grpc, http);

    let says = |event: &Value| {
        assert_eq!(event["devices"]["vision"]["device"], "cpu", "{event}");
        assert_eq!(event["devices"]["vision"]["reason"], reason, "{event}");
    };
    let mut seen = Vec::new();
    let mut events = daemon.watch(dir);
    says(&events.until("a caption", SECONDS(30), &mut seen, |e| is_caption(e, "gate")));
    let published = mqtt.rest(SECONDS(2));
    let caption = published.iter().find_map(|line| line.strip_prefix("lookout/gate/caption "));
    says(&serde_json::from_str(caption.expect("a caption by MQTT")).expect("JSON"));
    let (code, answer, error) = daemon.client(&["ask", "gate", "Is there a person?", "--json"]);
    assert_eq!(code, Some(0), "{error}");
    says(&serde_json::from_str(answer.lines().last().expect("a line")).expect("JSON"));
    let (_, answer, _) = daemon.client(&["ask", "gate", "Is there a person?"]);
    assert!(answer.contains(&format!("cpu ({reason})")), "{answer}");
    let (_, metrics) = get(http, "/metrics").expect("metrics");
    let info = metrics.lines().find(|line| line.starts_with("lookout_model_info{"));
    let info = info.expect("lookout_model_info");
    assert!(info.contains("device=\"cpu\""), "{info}");
    assert!(info.contains(&format!("device_reason=\"{reason}\"")), "{info}");
    let log = daemon.process.log();
    assert!(log.contains(reason), "{log}");
    drop(daemon);

    let checked = lookout("check", dir, &config, None);
    let lines = String::from_utf8_lossy(&checked.stdout);
    let line = lines.lines().find(|line| line.contains("  device ")).expect("a line");
    assert!(line.starts_with("ok") && line.contains("cpu; threads: vision "), "{line}");
    assert!(line.contains(reason), "{line}");
}

#[test]
fn without_a_cuda_provider_cuda_is_refused() {
    let folder = folder();
    let (dir, library) = (folder.path(), usual_library());
    let named = ["no CUDA provider", "`make setup-cuda`", "libonnxruntime.so", "for vision"];
    refused(dir, &config("device = \"cuda\"", &library), None, &named);
    let language = "vision_device = \"cpu\"\nlanguage_device = \"cuda\"";
    let named = ["for language", "model.language_device = \"cpu\""];
    refused(dir, &config(language, &library), None, &named);
}

#[test]
fn without_a_cuda_provider_auto_is_the_cpu() {
    let reason = "auto: this libonnxruntime has no CUDA provider";
    let dir = folder();
    runs_on_the_cpu_and_says_why(dir.path(), "device = \"auto\"", &usual_library(), reason);
}

#[test]
fn a_device_chosen_by_name_has_no_reason() {
    let dir = folder();
    let model = "device = \"auto\"\nvision_device = \"cpu\"";
    let reason = "language auto: this libonnxruntime has no CUDA provider";
    let output = lookout("check", dir.path(), &config(model, &usual_library()), None);
    let output_text = String::from_utf8_lossy(&output.stdout);
    assert!(output_text.contains(&format!("; {reason}\n")), "{output_text}");
    let output = lookout("check", dir.path(), &config("device = \"cpu\"", &usual_library()), None);
    let output_text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output_text.contains("  cpu; threads: ") && !output_text.contains("auto"),
        "{output_text}"
    );
}

fn bench(library: &Path, driver: Option<&Path>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut lookout = Command::new(LOOKOUT);
    lookout.args(["bench", "model", "--rounds", "1", "--max-new-tokens", "8"]).args(arguments);
    lookout.env("ORT_DYLIB_PATH", library).current_dir(repository());
    if let Some(folder) = driver {
        lookout.env("LD_LIBRARY_PATH", folder);
    }
    let output = lookout.output().expect("lookout");
    let bytes = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&bytes).into_owned())
}

#[test]
fn the_bench_reports_that_it_compares_the_cpu_with_itself() {
    let (code, output_text) = bench(&usual_library(), None, &[]);
    assert_eq!(code, Some(0), "{output_text}");
    for words in [
        "on cpu",
        "s a frame",
        "writes",
        "features off by at most 0",
        "greedy tokens: 8 of 8 the same",
        "(auto: this libonnxruntime has no CUDA provider)",
        "only the CPU ran: this says nothing about a GPU",
        "PASS",
    ] {
        assert!(output_text.contains(words), "{words:?} is not in: {output_text}");
    }
    let mut measured = Command::new(LOOKOUT);
    let package = repository().join("models/demo/package");
    measured.args(["bench", "model", "--device", "cpu", "--rounds", "1", "--max-new-tokens", "4"]);
    measured.args(["--plan", "4:slowfast-slow_2frms_concat-fast_1x1", "--json", "--package"]);
    let output = measured.arg(package).env("ORT_DYLIB_PATH", usual_library()).output();
    let output = output.expect("lookout");
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["frames"], &report["pass"]), (&4.into(), &true.into()), "{report}");
    assert_eq!(report["parts"][1]["device"]["device"], "cpu", "{report}");
    assert!(report["peak_memory_bytes"].as_u64() > Some(10 << 20), "{report}");
}

#[test]
fn the_bench_refuses_a_missing_device() {
    let (code, output_text) = bench(&usual_library(), None, &["--device", "cuda"]);
    assert_eq!(code, Some(2), "{output_text}");
    assert!(
        output_text.contains("no CUDA provider") && output_text.trim().lines().count() == 1,
        "{output_text}"
    );
}

/// Tests that need onnxruntime for CUDA on a machine without a GPU.
#[cfg(target_arch = "x86_64")]
mod cuda {
    use super::*;

    fn everything(_: &str) -> bool {
        true
    }

    /// Builds a stub driver that the provider can be linked against, without a GPU.
    fn stub_driver(dir: &Path) -> PathBuf {
        let folder = dir.join("driver");
        fs::create_dir(&folder).expect("a folder");
        let source = dir.join("driver.c");
        fs::write(&source, "int cuTensorMapEncodeTiled(void) { return 100; }\n").expect("write");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"]);
        let built = compiler.arg(folder.join(DRIVER)).arg(&source).status().expect("cc");
        assert!(built.success());
        folder
    }

    #[test]
    fn without_its_libraries_cuda_is_refused_by_their_name() {
        let dir = folder();
        let library = cuda_folder(dir.path(), |_| false);
        let named = ["libcublasLt.so.13 is missing", "`make setup-cuda` fetches it"];
        refused(dir.path(), &config("device = \"cuda\"", &library), None, &named);
    }

    #[test]
    fn without_its_libraries_auto_is_the_cpu() {
        let dir = folder();
        let library = cuda_folder(dir.path(), |_| false);
        let reason = "auto: libcublasLt.so.13 is missing";
        runs_on_the_cpu_and_says_why(dir.path(), "device = \"auto\"", &library, reason);
    }

    #[test]
    fn without_a_driver_cuda_is_refused_by_its_name() {
        let dir = folder();
        let library = cuda_folder(dir.path(), everything);
        let named = ["libcuda.so.1 is missing", "NVIDIA's driver"];
        refused(dir.path(), &config("device = \"cuda\"", &library), None, &named);
    }

    #[test]
    fn without_a_driver_auto_is_the_cpu() {
        let dir = folder();
        let library = cuda_folder(dir.path(), everything);
        let reason = "auto: libcuda.so.1 is missing";
        runs_on_the_cpu_and_says_why(dir.path(), "device = \"auto\"", &library, reason);
    }

    #[test]
    fn without_cudnn_cuda_is_refused_by_its_name() {
        let dir = folder();
        let library = cuda_folder(dir.path(), |name| !name.starts_with("libcudnn"));
        let driver = stub_driver(dir.path());
        let named = ["libcudnn.so.9 is missing", "`make setup-cuda` fetches it"];
        refused(dir.path(), &config("device = \"cuda\"", &library), Some(&driver), &named);
    }

    /// All libraries load from the folder of libonnxruntime, and only the GPU is missing.
    #[test]
    fn a_driver_without_a_gpu_is_refused_with_its_message() {
        let dir = folder();
        let library = cuda_folder(dir.path(), everything);
        let driver = stub_driver(dir.path());
        let named = ["for vision", "CUDA failure"];
        refused(dir.path(), &config("device = \"cuda\"", &library), Some(&driver), &named);
    }

    #[test]
    fn a_driver_without_a_gpu_leaves_auto_on_the_cpu() {
        let dir = folder();
        let library = cuda_folder(dir.path(), everything);
        let driver = stub_driver(dir.path());
        let config = config("device = \"auto\"", &library);
        let output = lookout("check", dir.path(), &config, Some(&driver));
        let output_text = String::from_utf8_lossy(&output.stdout);
        let line = output_text.lines().find(|line| line.contains("  device ")).expect("a line");
        assert!(line.contains("cpu; threads") && line.contains("CUDA failure"), "{line}");
    }

    #[test]
    fn the_bench_fails_for_parts_that_cannot_run_on_the_device() {
        let dir = folder();
        let library = cuda_folder(dir.path(), everything);
        let driver = stub_driver(dir.path());
        let (code, output_text) = bench(&library, Some(&driver), &["--device", "cuda"]);
        assert_eq!(code, Some(1), "{output_text}");
        let refused = |line: &&str| line.contains("FAIL ") && line.contains("CUDA failure");
        assert_eq!(output_text.lines().filter(refused).count(), 2, "{output_text}");
        assert!(
            output_text.contains("\nFAIL\n") && !output_text.contains("only the CPU ran"),
            "{output_text}"
        );
    }
}
