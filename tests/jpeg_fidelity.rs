//! Measures how far a frame's features are from those of its JPEG, which questions about the past
//! use: on real footage, at the resolution of a large camera.
//!
//! `cargo test --test jpeg_fidelity -- --nocapture` prints the table of `docs/performance.md`.

mod support;

use std::fs;
use std::process::Command;

use lookout::config;
use lookout::language::Budget;
use lookout::loaded::LoadedModel;
use lookout::vision::jpeg::JpegCodec;
use lookout::vision::preprocess::Scratch;
use support::*;

const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1080;

/// Returns a frame every four seconds of the footage, BGRx.
fn pictures() -> Vec<Vec<u8>> {
    let folder = folder();
    let avi = repository().join("target/footage/vtest.avi");
    assert!(avi.exists(), "{} is missing: run `make setup-test`", avi.display());
    let raw = folder.path().join("raw");
    let pipeline = format!(
        "filesrc location={} ! decodebin ! videorate drop-only=true ! videoscale ! videoconvert ! \
         video/x-raw,format=BGRx,width={WIDTH},height={HEIGHT},framerate=1/4 ! \
         filesink location={}",
        avi.display(),
        raw.display()
    );
    let mut gst = Command::new("gst-launch-1.0");
    let output = gst.arg("-q").args(pipeline.split_whitespace()).output().expect("gst-launch-1.0");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let raw = fs::read(raw).expect("pictures");
    raw.chunks_exact((WIDTH * HEIGHT * 4) as usize).map(<[u8]>::to_vec).collect()
}

/// Returns the cosine of each token with its counterpart.
fn cosines(a: &[f32], b: &[f32], dim: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let pairs = a.chunks_exact(dim).zip(b.chunks_exact(dim));
    pairs.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).collect()
}

#[test]
fn a_jpegs_features_are_those_of_its_frame() {
    let mut keys = toml::Table::new();
    let package = repository().join("models/demo/package");
    keys.insert("package".into(), package.display().to_string().into());
    keys.insert("device".into(), "cpu".into());
    keys.insert("plan".into(), "8:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4".into());
    let model = config::Model::of(keys).expect("a model table");
    let budget = Budget { max_new_tokens: 8, slots: 1, prefix_bytes: 0 };
    let LoadedModel { preprocess, mut encoder, .. } =
        LoadedModel::load(&model, &config::Wording::default(), budget).expect("the demo's model");
    let mut scratch = Scratch::default();
    let mut features = |bgrx: &[u8], width, height| {
        let mut pixels = vec![0.0; encoder.frame_len()];
        preprocess.pixels(&mut scratch, bgrx, width, height, &mut pixels).expect("pixels");
        (encoder.encode(&pixels).expect("features").features, encoder.dim())
    };
    let pictures = pictures();
    assert!(pictures.len() >= 18, "{} pictures", pictures.len());
    let direct: Vec<_> = pictures.iter().map(|bgrx| features(bgrx, WIDTH, HEIGHT)).collect();
    let report = |what: &str, mut cosines: Vec<f64>, bytes: usize| {
        cosines.sort_by(f64::total_cmp);
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        let percentile = cosines[cosines.len() / 100];
        println!("{what:44} {mean:.4} {percentile:.4} {:.1} KB", bytes as f64 / 1000.0);
        mean
    };
    println!("{:44} mean   1 % below, bytes", "cosine to the features of the frame itself");
    let later = direct.windows(2);
    let moved: Vec<f64> =
        later.flat_map(|pair| cosines(&pair[0].0, &pair[1].0, pair[0].1)).collect();
    let moved = report("the frame four seconds later", moved, 0);
    let side = preprocess.size as u32;
    for (what, width, least, quality) in [
        ("640 wide, quality 80", 640, side, 80),
        ("sides of the model's, quality 80", 32, side, 80),
        ("sides of the model's, quality 95", 32, side, 95),
        ("half as large again, quality 80", 32, preprocess.least_side(), 80),
        ("twice as large, quality 80", 32, side * 2, 80),
        ("twice as large, quality 95", 32, side * 2, 95),
    ] {
        let mut codec = JpegCodec::new(width, least, quality).expect("turbojpeg");
        let (mut all, mut bytes) = (Vec::new(), 0);
        for (bgrx, (wanted, dim)) in pictures.iter().zip(&direct) {
            let jpeg = codec.encode(bgrx, WIDTH, HEIGHT).expect("a JPEG");
            bytes += jpeg.len();
            let picture = codec.decode(&jpeg).expect("a picture");
            let (found, _) = features(&picture.bgrx, picture.width, picture.height);
            all.extend(cosines(&found, wanted, *dim));
        }
        let mean = report(what, all, bytes / pictures.len());
        // The JPEG's features are much closer than those of a street four seconds later.
        assert!(1.0 - mean < (1.0 - moved) / 2.0, "{what}: {mean:.4}, moved {moved:.4}");
    }
}
