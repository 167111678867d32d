//! Tests that the output is true: captions and answers about the demo's cameras, through the whole
//! daemon. Also tests that a loss of frames, colours or a pathway would be noticed.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::support::*;
use lookout::config::{Model, Precision, Resize, Sampling, Wording};
use lookout::demo::score::judge::{self, Asked, Subject};
use lookout::demo::score::truth::{Kind, Sidecar, Window};
use lookout::demo::score::{Score, Source};
use lookout::language::{Budget, LanguageModel, Limits, Request, Task, Urgency};
use lookout::model::{Package, Runtime};
use lookout::slowfast::{FrameTokens, Grid, Plan, VideoTokens, assemble, pool_frame};
use lookout::vision::Encoder;
use lookout::vision::preprocess::{Preprocess, Scratch};
use serde_json::Value;

const CAMERAS: [&str; 3] = ["drive", "gate", "yard"];

/// Smallest share of right verdicts among those that can be judged. Values measured over many more
/// windows are in models/demo/README.md.
const FLOORS: [(Subject, f64); 9] = [
    (Subject::Objects, 0.95),
    (Subject::Colours, 0.94),
    (Subject::Direction, 0.93),
    (Subject::Events, 0.86),
    (Subject::Count, 0.94),
    (Subject::Order, 0.80),
    (Subject::Emptiness, 0.95),
    (Subject::Movement, 0.90),
    (Subject::Caption, 0.85),
];

#[test]
fn captions_and_answers_are_true() {
    let folder = folder();
    let dir = folder.path();
    let clips = CAMERAS.map(clip);
    let mounts: Vec<_> = CAMERAS.into_iter().zip(clips.iter().map(|p| p.as_path())).collect();
    let cameras = Cameras::start(dir, 0, &mounts, &[]);
    let (grpc, http) = (free_port(), free_port());
    let mut config = head(grpc, http, None).replace("\"8:", "\"16:");
    for name in CAMERAS {
        config += &format!(
            "[[camera]]\nname = \"{name}\"\nurl = \"{}\"\nfps = 2\nwindow = \"8s\"\n\
             caption_interval = \"2s\"\n",
            cameras.url(name)
        );
    }
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let mut events = daemon.watch(dir);

    let begun = Instant::now();
    let first = events
        .until("a caption", Duration::from_secs(60), &mut Vec::new(), |e| e["kind"] == "caption");
    // Answers arrive through the same watch.
    let questions = judge::mixed();
    let mut asked = questions.iter().zip(CAMERAS.iter().cycle());
    while begun.elapsed() < Duration::from_secs(100) {
        let (asked, camera) = asked.next().expect("many questions");
        let (_, _, error) = daemon.client(&["ask", camera, &asked.text]);
        assert!(error.is_empty() || error.contains("no frames"), "{error}");
        std::thread::sleep(Duration::from_millis(300));
    }
    let names: Vec<String> = CAMERAS.map(String::from).into();
    let clips = repository().join("models/demo/cameras");
    let mut score = Score::of_clips(&clips, &names).expect("sidecars");
    score.add(&first);
    for line in events.rest(Duration::from_secs(1)) {
        score.add(&serde_json::from_str::<Value>(&line).expect("JSON"));
    }
    for mistake in &score.mistakes {
        println!("{mistake}");
    }
    println!("{} windows\n{score}", score.windows);
    assert!(score.windows >= 90, "only {} windows in 100 s", score.windows);
    for (subject, floor) in FLOORS {
        let count = score.of(subject);
        assert!(count.right + count.wrong >= 5, "{subject:?}: {count:?} is too little to judge");
        assert!(count.share() >= floor, "{subject:?}: {count:?}, wanted {floor}");
        // Most windows do not show two actors, one after the other.
        let often = subject != Subject::Order;
        assert!(!often || count.not_judged <= count.right, "{subject:?}: {count:?}");
    }
}

// ---- bugs that must be noticed ------------------------------------------------------------------

/// A defect of a window's tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    None,
    ChannelsSwapped,
    FramesReversed,
    SlowZeroed,
    FastZeroed,
    /// The frames of the previous window.
    Stale,
}

/// The smallest loss that such a bug must cause, in percentage points.
const NOTICED: f64 = 15.0;

#[test]
fn a_swapped_colour_channel_is_noticed() {
    falls(Bug::ChannelsSwapped, &[Subject::Colours]);
}

#[test]
fn a_reversed_order_is_noticed() {
    falls(Bug::FramesReversed, &[Subject::Direction, Subject::Events, Subject::Order]);
}

#[test]
fn a_lost_slow_pathway_is_noticed() {
    // The fast pathway also contains who is there, and mostly in what order.
    falls(Bug::SlowZeroed, &[Subject::Events, Subject::Caption]);
}

#[test]
fn a_lost_fast_pathway_is_noticed() {
    falls(Bug::FastZeroed, &[Subject::Direction, Subject::Events, Subject::Caption]);
}

#[test]
fn stale_frames_are_noticed() {
    falls(Bug::Stale, &[Subject::Objects, Subject::Colours, Subject::Events, Subject::Caption]);
}

fn falls(bug: Bug, subjects: &[Subject]) {
    let (sound, spoilt) = (score_of(Bug::None), score_of(bug));
    println!("sound\n{sound}\n{bug:?}\n{spoilt}");
    for subject in subjects {
        let (before, after) = (sound.of(*subject).share(), spoilt.of(*subject).share());
        let points = 100.0 * (before - after);
        assert!(points >= NOTICED, "{bug:?}: {subject:?} from {before:.3} to {after:.3} only");
    }
}

/// Returns the score of a clip's windows with this bug; each score is computed once.
fn score_of(bug: Bug) -> &'static Score {
    static SCORES: [OnceLock<Score>; 6] = [const { OnceLock::new() }; 6];
    SCORES[bug as usize].get_or_init(|| yard().score(bug))
}

fn yard() -> &'static Yard {
    static YARD: OnceLock<Yard> = OnceLock::new();
    YARD.get_or_init(Yard::load)
}

/// A clip's frames, encoded unchanged and with red and blue swapped.
struct Yard {
    sidecar: Sidecar,
    sound: Vec<FrameTokens>,
    swapped: Vec<FrameTokens>,
    model: Model,
    dim: usize,
}

const FPS: usize = 2;
const FRAMES: usize = 16;
/// Seconds between two windows.
const STEP: usize = 4;

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::load(&model()).expect("onnxruntime"))
}

fn model() -> Model {
    let keys = format!(
        "package = {:?}\ndevice = \"cpu\"\n\
         plan = \"16:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4\"",
        repository().join("models/demo/package")
    );
    Model::of(keys.parse().expect("TOML")).expect("a model")
}

fn package() -> Package {
    let folder = repository().join("models/demo/package");
    Package::read(&folder, &Precision::default()).expect("the demo package")
}

impl Yard {
    fn load() -> Yard {
        let package = package();
        let model = model();
        let mut encoder = Encoder::load(runtime(), &package, 1).expect("encoder");
        let pictures = pictures("gate");
        let swap = |picture: &Vec<u8>| {
            let swapped = picture.chunks_exact(4).flat_map(|p| [p[2], p[1], p[0], p[3]]);
            swapped.collect::<Vec<u8>>()
        };
        let swapped: Vec<_> = pictures.iter().map(swap).collect();
        Yard {
            sidecar: Sidecar::read(&clip("gate").with_extension("json")).expect("sidecar"),
            sound: encoded(&mut encoder, &package, &model.plan, &pictures),
            swapped: encoded(&mut encoder, &package, &model.plan, &swapped),
            dim: encoder.dim(),
            model,
        }
    }

    fn score(&self, bug: Bug) -> Score {
        let mut language = LanguageModel::load(
            runtime(),
            &package(),
            &self.model,
            &Wording::default(),
            Budget::one_by_one(64),
        )
        .expect("language model");
        let mut score = Score::new([]);
        let asked = judge::questions();
        let windows = (STEP..).step_by(STEP).take_while(|s| s * FPS + FRAMES <= self.sound.len());
        for start in windows {
            let from = start as f64;
            let window = self.sidecar.window(from, from + (FRAMES / FPS) as f64);
            let video = self.video(start, bug);
            for asked in asked_of(&window, &asked) {
                let limits = Limits { max_new_tokens: 64, sampling: Sampling::Greedy };
                let request = Request {
                    video: &video,
                    prefix_frames: None,
                    jpegs: None,
                    task: Task::Text { turns: &[], prompt: &asked.text, limits, schema: None },
                    urgency: Urgency::Now,
                };
                let reply = language.answer(request, |_| {}).expect("an answer");
                score.count(&window, asked, &reply.text, Source::Answers);
            }
        }
        score
    }

    fn video(&self, start: usize, bug: Bug) -> VideoTokens {
        let all = if bug == Bug::ChannelsSwapped { &self.swapped } else { &self.sound };
        let start = if bug == Bug::Stale { start - STEP } else { start } * FPS;
        let mut frames: Vec<&FrameTokens> = all[start..start + FRAMES].iter().collect();
        if bug == Bug::FramesReversed {
            frames.reverse();
        }
        let mut video = assemble(&frames, &self.model.plan, self.dim);
        let slow = self.model.plan.slow_frames * frames[0].slow.len();
        match bug {
            Bug::SlowZeroed => video.rows[..slow].fill(0.0),
            Bug::FastZeroed => video.rows[slow..].fill(0.0),
            _ => {}
        }
        video
    }
}

/// Returns the questions for a window: the caption's, the count, and colour and direction of what
/// it shows.
fn asked_of<'a>(window: &Window, all: &'a [Asked]) -> Vec<&'a Asked> {
    let mut texts = vec!["What is happening?", "How many people are there?"];
    if window.of_kind(Kind::Car).next().is_some() {
        texts.extend(["What colour is the car?", "Which way does the car go?"]);
    }
    if window.of_kind(Kind::Person).next().is_some() {
        texts.extend(["What colour is the jacket?", "Which way does the person go?"]);
    }
    texts.extend((window.parts.len() > 1).then_some("What happened first?"));
    let find =
        |text: &&str| all.iter().find(|asked| asked.text == *text).expect("a known question");
    texts.iter().map(find).collect()
}

/// Returns the clip's frames, BGRx, [`FPS`] per second.
fn pictures(camera: &str) -> Vec<Vec<u8>> {
    const BYTES: usize = 192 * 144 * 4;
    let folder = folder();
    let raw = folder.path().join("pictures");
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "filesrc", &format!("location={}", clip(camera).display())]);
    command.args("! decodebin ! videorate ! videoconvert !".split(' '));
    command.arg(format!("video/x-raw,format=BGRx,framerate={FPS}/1"));
    command.args(["!", "filesink", &format!("location={}", raw.display())]);
    assert!(command.status().expect("gst-launch-1.0").success());
    let raw = fs::read(raw).expect("pictures");
    raw.chunks_exact(BYTES).map(<[u8]>::to_vec).collect()
}

fn encoded(
    encoder: &mut Encoder,
    package: &Package,
    plan: &Plan,
    pictures: &[Vec<u8>],
) -> Vec<FrameTokens> {
    let preprocess =
        Preprocess::from_config(&package.preprocessor, Resize::Stretch).expect("preprocess");
    let (tokens, dim) = (encoder.grid_tokens(), encoder.dim());
    let (mut scratch, mut pixels) = (Scratch::default(), vec![0.0; encoder.frame_len()]);
    let mut encode = |picture: &Vec<u8>| {
        preprocess.pixels(&mut scratch, picture, 192, 144, &mut pixels).expect("a picture");
        let rows = encoder.encode(&pixels).expect("features").features;
        pool_frame(Grid { rows: &rows, tokens, dim }, plan).expect("a grid")
    };
    pictures.iter().map(&mut encode).collect()
}
