//! Captions for the benchmark: the demo's sentences, and rare words between them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::event::{
    Body, Caption, Coverage, Devices, FinishReason, FrameReference, Inference, Placement, Timing,
    Usage,
};
use crate::frame::{Clock, FrameId, Span};

/// Number of frames of a window.
const FRAMES: u64 = 8;

/// Number of frames by which a window is later than the one before.
const STRIDE: u64 = 4;

const CAMERAS: usize = 8;

/// One caption in this many has a rare word.
const RARE: u32 = 50;

const COLOURS: [&str; 5] = ["red", "green", "blue", "yellow", "white"];

/// Words of which each is in about one caption of 1,600.
const RARE_WORDS: [&str; 32] = [
    "umbrella",
    "bicycle",
    "ladder",
    "wheelbarrow",
    "suitcase",
    "helmet",
    "trolley",
    "parcel",
    "tractor",
    "scooter",
    "backpack",
    "pushchair",
    "lawnmower",
    "cat",
    "squirrel",
    "courier",
    "postman",
    "plumber",
    "cyclist",
    "child",
    "stranger",
    "ambulance",
    "lorry",
    "motorbike",
    "trailer",
    "shovel",
    "hose",
    "barrel",
    "crate",
    "torch",
    "whistle",
    "kite",
];

/// Generates the captions of several cameras, the same ones in every run.
pub struct Captions {
    random: StdRng,
    /// Number of captions made.
    made: u64,
    begun: SystemTime,
}

impl Captions {
    pub fn new() -> Captions {
        Captions { random: StdRng::seed_from_u64(7), made: 0, begun: SystemTime::now() }
    }

    /// Returns the next caption and its camera.
    pub fn next(&mut self) -> (Arc<str>, Body) {
        let camera = format!("camera-{}", self.made % CAMERAS as u64);
        let window = self.made / CAMERAS as u64;
        self.made += 1;
        let text = self.text();
        (camera.into(), Body::Caption(self.caption(text, window * STRIDE)))
    }

    fn caption(&self, text: String, first: u64) -> Caption {
        let time = |number: u64| self.begun + Duration::from_millis(500 * number);
        let frame = |number: u64| FrameReference {
            id: FrameId { run: 1_760_000_000_000, number },
            captured_at: time(number),
            slow: number.is_multiple_of(2),
        };
        let window = Span { from: time(first), to: time(first + FRAMES) };
        let placement = Placement { device: "cpu".into(), reason: String::new() };
        let inference = Inference {
            prompt: "Describe what happens in this video in one sentence.".into(),
            text,
            window,
            coverage: Coverage {
                frames_expected: FRAMES as u32,
                frames_used: FRAMES as u32,
                covered_span: Some(Span { from: window.from, to: time(first + FRAMES - 1) }),
                gaps: Vec::new(),
                clock_source: Clock::Camera,
            },
            frames: (first..first + FRAMES).map(frame).collect(),
            model: "lookout-demo".into(),
            devices: Devices { vision: placement.clone(), language: placement },
            finish_reason: FinishReason::Stop,
            usage: Usage { video_tokens: 256, text_tokens: 30, new_tokens: 16, cached_tokens: 0 },
            timing: Timing {
                wait_seconds: 0.012,
                encode_seconds: 0.004,
                prefill_seconds: 0.03,
                decode_seconds: 0.05,
                total_seconds: 0.096,
            },
        };
        Caption { inference, skipped_windows: 0, unchanged: None }
    }

    fn text(&mut self) -> String {
        let mut text = match self.random.random_range(0..20) {
            0 => "The yard is empty".to_owned(),
            1..=9 => self.clause(),
            10..=14 => format!("{} and {}", self.clause(), self.clause()),
            15..=17 => format!("first {}, then {}", self.clause(), self.clause()),
            _ => format!("{}, while {}", self.clause(), self.clause()),
        };
        if self.random.random_ratio(1, RARE) {
            let word = RARE_WORDS.choose(&mut self.random).copied().unwrap_or_default();
            text += &format!("; a {word} is near the fence");
        }
        let first = text.remove(0).to_ascii_uppercase();
        format!("{first}{text}.")
    }

    /// Returns a clause as the demo's model says it.
    fn clause(&mut self) -> String {
        let colour = COLOURS.choose(&mut self.random).copied().unwrap_or_default();
        let ((from, to), random) = match self.random.random() {
            true => (("left", "right"), &mut self.random),
            false => (("right", "left"), &mut self.random),
        };
        let (actor, go, rest) = match random.random_range(0..3) {
            0 => (format!("a person in a {colour} jacket"), "walks", "stands still"),
            1 => (format!("a {colour} car"), "drives", "is parked"),
            _ => ("a dog".to_owned(), "runs", "stands still"),
        };
        match random.random_range(0..4) {
            0 => format!("{actor} {go} from {from} to {to}"),
            1 => format!("{actor} {go} in from the {from} and stops"),
            2 => format!("{actor} sets off to the {to}"),
            _ => format!("{actor} {rest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_the_demos_with_rare_words() {
        let mut captions = Captions::new();
        let texts: Vec<String> = (0..10_000)
            .map(|_| match captions.next() {
                (_, Body::Caption(caption)) => caption.inference.text,
                (_, other) => panic!("{other:?}"),
            })
            .collect();
        let with = |word: &str| texts.iter().filter(|text| text.contains(word)).count();
        assert!((4_000..7_000).contains(&with(" car ")), "{}", with(" car "));
        assert!((1..100).contains(&with("umbrella")), "{}", with("umbrella"));
        assert!(
            texts.iter().all(|text| text.ends_with('.') && text.starts_with(char::is_uppercase))
        );
        let (camera, _) = Captions::new().next();
        assert_eq!(&*camera, "camera-0");
    }
}
