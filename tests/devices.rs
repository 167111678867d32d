//! Where the model runs, and that it is said: with onnxruntime for CPUs, and with the one for CUDA
//! where CUDA's libraries, the driver or the GPU is missing. A GPU itself is not tested here.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use support::*;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

/// Where a driver's stub would be found, and a real one is not.
const DRIVER: &str = "libcuda.so.1";

fn usual_library() -> PathBuf {
    present(repository().join("target/onnxruntime/libonnxruntime.so"), "make setup")
}

fn present(path: PathBuf, mend: &str) -> PathBuf {
    assert!(path.exists(), "{} is missing: run `{mend}`", path.display());
    path
}

/// Links every shared library of `from` whose name `wanted` takes into `to`.
fn link(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("readable")) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("lib") && name.contains(".so") && wanted(&name) {
            symlink(entry.path(), to.join(&name)).expect("a link");
        }
    }
}

/// A folder with onnxruntime for CUDA and those of CUDA's libraries that `wanted` takes; the path
/// of libonnxruntime.
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

/// A config without cameras that answer; `model` stands in place of the device.
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
    // Only for the driver: CUDA's own libraries must be found without it.
    match driver {
        Some(folder) => lookout.env("LD_LIBRARY_PATH", folder),
        None => lookout.env_remove("LD_LIBRARY_PATH"),
    };
    lookout.output().expect("lookout")
}

/// `lookout run` must end with code 2 and one sentence that holds every one of `named`.
fn refused(dir: &Path, config: &str, driver: Option<&Path>, named: &[&str]) {
    let output = lookout("run", dir, config, driver);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in named {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(said.trim_end().lines().count(), 1, "{said}");
}

/// A daemon with `device = "auto"` must run on the CPU, and say so and why wherever it speaks.
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
        assert_eq!(event["device"], "cpu", "{event}");
        assert_eq!(event["device_reason"], reason, "{event}");
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
fn what_was_chosen_by_name_has_no_reason() {
    let dir = folder();
    let model = "device = \"auto\"\nvision_device = \"cpu\"";
    let reason = "language auto: this libonnxruntime has no CUDA provider";
    let output = lookout("check", dir.path(), &config(model, &usual_library()), None);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("; {reason}\n")), "{said}");
    let output = lookout("check", dir.path(), &config("device = \"cpu\"", &usual_library()), None);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("  cpu; threads: ") && !said.contains("auto"), "{said}");
}

/// Where onnxruntime for CUDA exists, and this machine has no GPU.
#[cfg(target_arch = "x86_64")]
mod cuda {
    use super::*;

    fn everything(_: &str) -> bool {
        true
    }

    /// A driver that is no driver: what the provider is linked against, and no GPU behind it.
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

    /// Everything loads, from beside libonnxruntime alone, and only the GPU is missing.
    #[test]
    fn a_driver_without_a_gpu_is_refused_in_its_own_words() {
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
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().find(|line| line.contains("  device ")).expect("a line");
        assert!(line.contains("cpu; threads") && line.contains("CUDA failure"), "{line}");
    }
}
