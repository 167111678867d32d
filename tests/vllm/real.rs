//! Compares a real vLLM with the language model of this process, on windows of the demo's cameras.
//! Stops and kills it in the middle of an answer, and puts another model in its place.
//!
//! `make test-vllm` runs it: LOOKOUT_VLLM is the Python of an environment with vLLM. Without it the
//! tests do nothing.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use lookout::config::Resize;
use lookout::demo::score::judge;
use lookout::language::{Failure, Output};
use lookout::slowfast::{FrameTokens, Grid, assemble, pool_frame};
use lookout::vision::Encoder;
use lookout::vision::preprocess::{Preprocess, Scratch};

use super::*;

const FPS: usize = 2;
const FRAMES: usize = 16;
/// Frames between two windows.
const STEP: usize = 40;
const SIDES: (u32, u32) = (192, 144);

/// Maximum time until a vLLM is ready.
const START: Duration = Duration::from_secs(1800);

/// The usual `language.stall_timeout`.
const STALL: Duration = Duration::from_secs(20);

/// A vLLM, which ends with the value. It is the leader of a group with its own processes.
struct Vllm {
    process: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Vllm {
    /// Starts a vLLM with the demo's language model, which it serves as `name`. `options` are those
    /// of checkpoint.py.
    fn start(python: &str, address: SocketAddr, name: &str, options: &[&str]) -> Vllm {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        let status = Command::new(repository.join("target/export-env/bin/python"))
            .arg(repository.join("tests/vllm/checkpoint.py"))
            .args([&package(), &model])
            .args(options)
            .status();
        assert!(status.expect("python of `make export-env`").success());
        let process = Command::new(python)
            .args(["-m", "vllm.entrypoints.openai.api_server", "--dtype", "float32"])
            .args(["--served-model-name", name, "--host", "127.0.0.1"])
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
            .process_group(0)
            .spawn()
            .expect("vLLM");
        Vllm { process, address: format!("http://{address}"), _folder: folder }
    }

    /// Waits until the back end has accepted this server.
    fn wait_until_ready(&mut self, model: &VllmModel) {
        let begun = Instant::now();
        while !model.health().troubles().is_empty() {
            self.assert_running(begun, &model.health().troubles());
            std::thread::sleep(Duration::from_secs(1));
        }
        println!("vLLM was ready after {:.0} s", begun.elapsed().as_secs_f64());
    }

    fn assert_running(&mut self, begun: Instant, troubles: &[String]) {
        let ended = self.process.try_wait().expect("its state");
        assert!(ended.is_none(), "vLLM ended: {ended:?}");
        assert!(begun.elapsed() < START, "{troubles:?}");
    }

    /// Kills vLLM and its own processes, unless it has ended.
    fn kill(&mut self) {
        if self.process.try_wait().expect("its state").is_none() {
            self.signal("KILL");
            self.process.wait().expect("its end");
        }
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.process.id());
        let status = Command::new("kill").args(["-s", signal, "--", &group]).status();
        assert!(status.expect("kill").success());
    }
}

impl Drop for Vllm {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            self.signal("TERM");
            // It may be stopped.
            self.signal("CONT");
            drop(self.process.wait());
        }
    }
}

fn free_address() -> SocketAddr {
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    port.local_addr().expect("an address")
}

fn settings_of(address: SocketAddr, model: &str) -> Servers {
    Servers {
        endpoints: vec![format!("http://{address}")],
        model: model.into(),
        api_key: None,
        ca_file: None,
        timeout: Duration::from_secs(300),
        stall_timeout: Duration::from_secs(120),
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
    let package = Package::of(model).expect("the package");
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
    let address = free_address();
    let mut vllm = Vllm::start(&python, address, "yard", &[]);
    let mut remote = try_load(&settings_of(address, "yard")).expect("unreachable is no error");
    vllm.wait_until_ready(&remote);
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

/// Asks, and disturbs the server at the first words of the answer. Returns the words, and the
/// reason if the answer ended with an error.
fn disturbed(
    model: &mut VllmModel,
    request: Request<'_>,
    mut disturb: impl FnMut(),
) -> (String, Option<String>) {
    let id = model.submit(request).expect("submitted").id;
    let (mut streamed, mut end) = (String::new(), None);
    let begun = Instant::now();
    while end.is_none() {
        assert!(begun.elapsed() < START, "no end");
        let polled = model.poll(&mut |from, output| {
            assert_eq!(from, id);
            match output {
                Output::Text(text) => {
                    if streamed.is_empty() {
                        disturb();
                    }
                    streamed += text;
                }
                Output::Finished(_) => end = Some(None),
                Output::Failed(Failure::Server(why)) => end = Some(Some(why)),
                other => panic!("{other:?}"),
            }
        });
        polled.expect("a poll");
    }
    (streamed, end.expect("an end"))
}

#[test]
fn a_real_vllm_may_be_stopped_in_mid_answer() {
    let Ok(python) = std::env::var("LOOKOUT_VLLM") else { return };
    let address = free_address();
    let mut vllm = Vllm::start(&python, address, "yard", &[]);
    let settings = Servers { stall_timeout: STALL, ..settings_of(address, "yard") };
    let mut alone = try_load(&settings).expect("unreachable is no error");
    vllm.wait_until_ready(&alone);
    let wanted = |number| ask(&mut local(), question(&window(number), QUESTIONS[0])).text;

    // Without another server the answer ends with an error.
    ask(&mut alone, question(&window(0), QUESTIONS[0]));
    let begun = Instant::now();
    let (streamed, why) =
        disturbed(&mut alone, question(&window(0), QUESTIONS[0]), || vllm.signal("STOP"));
    let why = why.expect("an error");
    println!("after {:.1} s and {streamed:?}: {why}", begun.elapsed().as_secs_f64());
    assert!(wanted(0).starts_with(streamed.trim_end()), "{streamed:?}");
    assert!(why.contains(&format!("{}: it sent nothing for 20 s", vllm.address)), "{why}");
    assert!(begun.elapsed() < STALL + Duration::from_secs(10));
    let (_, why) = failure(&mut alone, question(&window(0), QUESTIONS[0]));
    assert!(why.starts_with("no language server is ready: "), "{why}");
    vllm.signal("CONT");
    vllm.wait_until_ready(&alone);
    assert_eq!(ask(&mut alone, question(&window(0), QUESTIONS[0])).text, wanted(0));

    // The other server continues the answer.
    let stub = Stub::start(&engine(), Fault::None);
    let endpoints = vec![vllm.address.clone(), stub.address.clone()];
    let mut both = try_load(&Servers { endpoints, ..settings }).expect("servers");
    let is_asked_first = |number: &u64| {
        let before = stub.requests();
        ask(&mut both, question(&window(*number), QUESTIONS[0]));
        stub.requests() == before
    };
    let number = (1..64).find(is_asked_first).expect("a window of vLLM");
    let (window, wanted, before) = (window(number), wanted(number), stub.requests());
    let begun = Instant::now();
    let (streamed, why) =
        disturbed(&mut both, question(&window, QUESTIONS[0]), || vllm.signal("STOP"));
    println!("the other server's answer after {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!((streamed.trim_end(), why), (wanted.as_str(), None));
    assert_eq!(stub.requests(), before + 1);
    assert!(begun.elapsed() < STALL + Duration::from_secs(10));
    // Requests go past it, until it works again.
    let begun = Instant::now();
    assert_eq!(ask(&mut both, question(&window, QUESTIONS[0])).text, wanted);
    assert!(begun.elapsed() < STALL, "it waited for the server that is stopped");
    assert_eq!(stub.requests(), before + 2);
    vllm.signal("CONT");
    vllm.wait_until_ready(&both);
    assert_eq!(ask(&mut both, question(&window, QUESTIONS[0])).text, wanted);
    assert_eq!(stub.requests(), before + 2);
}

#[test]
fn a_real_vllm_may_be_killed_and_return_but_not_as_another_model() {
    let Ok(python) = std::env::var("LOOKOUT_VLLM") else { return };
    let address = free_address();
    let mut vllm = Vllm::start(&python, address, "yard", &[]);
    let mut remote = try_load(&settings_of(address, "yard")).expect("unreachable is no error");
    vllm.wait_until_ready(&remote);
    let window = window(0);
    let wanted = ask(&mut local(), question(&window, QUESTIONS[0]));
    assert_eq!(ask(&mut remote, question(&window, QUESTIONS[0])).text, wanted.text);

    let (streamed, why) = disturbed(&mut remote, question(&window, QUESTIONS[0]), || vllm.kill());
    let why = why.expect("an error");
    println!("after {streamed:?} of {:?}: {why}", wanted.text);
    let (words, whole) = (streamed.trim_end(), wanted.text.trim_end());
    assert!(whole.starts_with(words) && words.len() < whole.len(), "{streamed:?} of {whole:?}");
    assert!(why.starts_with("no language server answered: "), "{why}");
    assert!(why.contains(&vllm.address), "{why}");
    let (_, why) = failure(&mut remote, question(&window, QUESTIONS[0]));
    assert!(why.starts_with("no language server is ready: "), "{why}");

    vllm = Vllm::start(&python, address, "yard", &[]);
    vllm.wait_until_ready(&remote);
    assert_eq!(ask(&mut remote, question(&window, QUESTIONS[0])).text, wanted.text);
    vllm.kill();

    vllm = Vllm::start(&python, address, "other", &["--other-table"]);
    let other = "it serves \"other\", but language.model is \"yard\"";
    let begun = Instant::now();
    while !remote.health().troubles().iter().any(|trouble| trouble.contains(other)) {
        vllm.assert_running(begun, &remote.health().troubles());
        std::thread::sleep(Duration::from_secs(1));
    }
    let (_, why) = failure(&mut remote, question(&window, QUESTIONS[0]));
    assert!(why.contains(other), "{why}");
    let refused = refusal(&settings_of(address, "yard"));
    assert!(refused.contains(other), "{refused}");
    // Under the right name it is found out by its table of words.
    let refused = refusal(&settings_of(address, "other"));
    println!("{refused}");
    assert!(refused.contains("it runs another model than the package"), "{refused}");
}
