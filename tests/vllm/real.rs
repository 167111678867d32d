//! Compares a real vLLM with the language model of this process, on windows of the demo's cameras.
//!
//! `make test-vllm` runs it: LOOKOUT_VLLM is the Python of an environment with vLLM. Without it the
//! test does nothing.

use std::process::{Child, Command, Stdio};

use lookout::config::Resize;
use lookout::demo::score::judge;
use lookout::slowfast::{FrameTokens, Grid, assemble, pool_frame};
use lookout::vision::Encoder;
use lookout::vision::preprocess::{Preprocess, Scratch};

use super::*;

const FPS: usize = 2;
const FRAMES: usize = 16;
/// Frames between two windows.
const STEP: usize = 40;
const SIDES: (u32, u32) = (192, 144);

/// A vLLM with the demo's language model, which ends with the value.
struct Vllm {
    process: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Vllm {
    fn start(python: &str) -> Vllm {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        let status = Command::new(repository.join("target/export-env/bin/python"))
            .arg(repository.join("tests/vllm/checkpoint.py"))
            .args([&package(), &model])
            .status();
        assert!(status.expect("python of `make export-env`").success());
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = port.local_addr().expect("an address");
        drop(port);
        let process = Command::new(python)
            .args(["-m", "vllm.entrypoints.openai.api_server", "--dtype", "float32"])
            .args(["--served-model-name", "yard", "--host", "127.0.0.1"])
            .args(["--port", &address.port().to_string(), "--model"])
            .arg(&model)
            .args(["--enforce-eager", "--enable-prompt-embeds", "--enable-prompt-tokens-details"])
            .args(["--scheduling-policy", "priority"])
            .arg("--structured-outputs-config")
            .arg(r#"{"backend": "xgrammar", "disable_any_whitespace": true}"#)
            .envs([("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1"), ("DO_NOT_TRACK", "1")])
            .envs([("VLLM_CPU_KVCACHE_SPACE", "1"), ("VLLM_CPU_OMP_THREADS_BIND", "nobind")])
            .env("OMP_NUM_THREADS", "2")
            .stdin(Stdio::null())
            .spawn()
            .expect("vLLM");
        Vllm { process, address: format!("http://{address}"), _folder: folder }
    }
}

impl Drop for Vllm {
    fn drop(&mut self) {
        // SIGTERM, so that its own processes end too.
        let ended = Command::new("kill").arg(self.process.id().to_string()).status();
        drop(ended);
        drop(self.process.wait());
    }
}

/// Returns the frames of a demo camera as the model sees them.
fn frames(camera: &str, model: &Model) -> (Vec<FrameTokens>, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let raw = folder.path().join("pictures");
    let clip =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/demo/cameras/{camera}.mp4"));
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "filesrc", &format!("location={}", clip.display())]);
    command.args("! decodebin ! videorate ! videoconvert !".split(' '));
    command.arg(format!("video/x-raw,format=BGRx,framerate={FPS}/1"));
    command.args(["!", "filesink", &format!("location={}", raw.display())]);
    assert!(command.status().expect("gst-launch-1.0").success());
    let package = Package::read(&model.package, &model.precision).expect("the package");
    let mut encoder = Encoder::load(runtime(), &package, 1).expect("the encoder");
    let preprocess = Preprocess::from_config(&package.preprocessor, Resize::Stretch);
    let preprocess = preprocess.expect("preprocessing");
    let (tokens, dim) = (encoder.grid_tokens(), encoder.dim());
    let (mut scratch, mut pixels) = (Scratch::default(), vec![0.0; encoder.frame_len()]);
    let (width, height) = SIDES;
    let raw = std::fs::read(raw).expect("pictures");
    let encode = |picture: &[u8]| {
        preprocess.pixels(&mut scratch, picture, width, height, &mut pixels).expect("a picture");
        let rows = encoder.encode(&pixels).expect("features").features;
        pool_frame(Grid { rows: &rows, tokens, dim }, &model.plan).expect("a grid")
    };
    (raw.chunks_exact((width * height * 4) as usize).map(encode).collect(), dim)
}

#[test]
fn a_real_vllm_says_the_same_words() {
    let Ok(python) = std::env::var("LOOKOUT_VLLM") else { return };
    let mut vllm = Vllm::start(&python);
    let settings = Servers {
        endpoints: vec![vllm.address.clone()],
        model: "yard".into(),
        api_key: None,
        ca_file: None,
        timeout: Duration::from_secs(300),
        stall_timeout: Duration::from_secs(120),
    };
    let mut remote = try_load(&settings).expect("unreachable is no error");
    let begun = Instant::now();
    while !remote.health().troubles().is_empty() {
        let ended = vllm.process.try_wait().expect("its state");
        assert!(ended.is_none(), "vLLM ended: {ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(600), "{:?}", remote.health().troubles());
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("vLLM was ready after {:.0} s", begun.elapsed().as_secs_f64());
    let mut local = local();
    let model = super::settings();
    let questions: Vec<String> = judge::questions().into_iter().map(|asked| asked.text).collect();
    let rules: Vec<Arc<str>> =
        ["Is there a person?", "Is there a dog?", "Is there a red car?"].map(Arc::from).into();
    let (mut asked, mut scored, mut largest, mut took) = (0, 0, 0.0f64, [Duration::ZERO; 2]);
    for camera in ["gate", "yard", "drive"] {
        let (frames, dim) = frames(camera, &model);
        let starts: Vec<usize> =
            (0..).step_by(STEP).take_while(|s| s + FRAMES <= frames.len()).collect();
        for (at, start) in starts.iter().enumerate() {
            let looks: Vec<&FrameTokens> = frames[*start..start + FRAMES].iter().collect();
            let (camera, number) = (camera.into(), *start as u64);
            let frame = PrefixFrame { camera, run: 1, number, slow: true, reencoded: false };
            let video = assemble(&looks, &model.plan, dim);
            let window = Window { video, frames: [frame].into() };
            // The windows share the questions among them.
            for text in questions.iter().skip(at).step_by(starts.len()) {
                let begun = Instant::now();
                let wanted = ask(&mut local, question(&window, text));
                took[0] += begun.elapsed();
                let begun = Instant::now();
                let found = ask(&mut remote, question(&window, text));
                took[1] += begun.elapsed();
                assert_eq!((&found.text, &found.ids), (&wanted.text, &wanted.ids), "{text}");
                asked += 1;
            }
            let wanted = scores(&mut local, &window, &rules).scores;
            let found = scores(&mut remote, &window, &rules).scores;
            for (found, wanted) in found.iter().zip(&wanted) {
                largest = largest.max((found - wanted).abs());
                assert!((found - wanted).abs() < 1e-3, "{found} {wanted}");
                scored += 1;
            }
        }
    }
    assert!(asked >= questions.len(), "{asked} of {} questions", questions.len());
    let each = took.map(|time| time.as_secs_f64() * 1e3 / f64::from(asked as u32));
    println!(
        "{asked} answers are the same; {scored} scores differ by {largest:.1e} at most; an answer \
         took {:.0} ms here and {:.0} ms on vLLM",
        each[0], each[1]
    );
    let schema = remote.schemas().compile(
        r#"{"type": "object", "properties": {"dog": {"type": "boolean"}}, "required": ["dog"],
            "additionalProperties": false}"#,
    );
    let schema = schema.expect("a schema");
    let limits = Limits { max_new_tokens: NEW_TOKENS, sampling: Sampling::Greedy };
    let task = Task::Text { turns: &[], prompt: QUESTIONS[2], limits, schema: Some(&schema) };
    let reply = ask(&mut remote, request(&window(0), task));
    let value: serde_json::Value = serde_json::from_str(&reply.text).expect("JSON");
    assert!(value["dog"].is_boolean(), "{value}");
}
