//! What the demo cameras show, from their sidecars, and whether words about it are true.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::{clip, seconds};

const COLOURS: [&str; 5] = ["red", "green", "blue", "yellow", "white"];
/// Visible for longer must be named, seconds; never visible must not; between is not judged.
const LONG: f64 = 1.0;
/// Clocks, decoding and the edges of frames: this near a scene's border is not inside it.
const MARGIN: f64 = 0.15;

pub struct Sidecar {
    period: f64,
    scenes: Vec<Value>,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Right,
    Wrong(String),
    NotJudged,
}

impl Sidecar {
    pub fn of(camera: &str) -> Sidecar {
        let text = fs::read_to_string(clip(camera).with_extension("json")).expect("sidecar");
        let sidecar: Value = serde_json::from_str(&text).expect("JSON");
        Sidecar {
            period: sidecar["period_seconds"].as_f64().expect("period_seconds"),
            scenes: sidecar["scenes"].as_array().expect("scenes").clone(),
        }
    }

    /// The actors of the one scene that the window lies in, each with the seconds in which it is
    /// visible within the window. `None`: the window lies in more scenes than one.
    fn actors(&self, window: &Value) -> Option<Vec<(String, f64)>> {
        let from = seconds(&window["from"]) % self.period;
        let to = from + seconds(&window["to"]) - seconds(&window["from"]);
        let inside = |scene: &&Value| {
            scene["from"].as_f64().is_some_and(|start| start + MARGIN <= from)
                && scene["to"].as_f64().is_some_and(|end| to <= end - MARGIN)
        };
        let scene = self.scenes.iter().find(inside)?;
        let actor = |actor: &Value| {
            let kind = actor["type"].as_str().expect("type");
            let name = match actor["colour"].as_str() {
                Some(colour) => format!("{colour} {kind}"),
                None => kind.to_string(),
            };
            let edge = |i: usize| actor["visible"][i].as_f64().expect("visible");
            (name, (edge(1).min(to) - edge(0).max(from)).max(0.0))
        };
        Some(scene["actors"].as_array().expect("actors").iter().map(actor).collect())
    }

    /// Objects and colours of a caption against the truth of its window.
    pub fn judge_caption(&self, event: &Value) -> Verdict {
        let Some(actors) = self.actors(&event["window"]) else { return Verdict::NotJudged };
        let text = event["text"].as_str().unwrap_or_default();
        let named = named(text);
        let must: BTreeSet<&String> = actors.iter().filter(|a| a.1 >= LONG).map(|a| &a.0).collect();
        let may: BTreeSet<&String> = actors.iter().filter(|a| a.1 > 0.0).map(|a| &a.0).collect();
        let missing: Vec<_> = must.iter().filter(|name| !named.contains(**name)).collect();
        let invented: Vec<_> = named.iter().filter(|name| !may.contains(name)).collect();
        if missing.is_empty() && invented.is_empty() {
            return Verdict::Right;
        }
        Verdict::Wrong(format!("{text:?}: missing {missing:?}, invented {invented:?}"))
    }

    /// "Is there a person?" and "What colour is the car?", where the answer is beyond doubt.
    pub fn judge_answer(&self, event: &Value) -> Verdict {
        let Some(actors) = self.actors(&event["window"]) else { return Verdict::NotJudged };
        let text = event["text"].as_str().unwrap_or_default().to_lowercase();
        let kind = match event["prompt"].as_str() {
            Some("Is there a person?") => "person",
            Some("What colour is the car?") => "car",
            _ => return Verdict::NotJudged,
        };
        let of_kind: Vec<_> = actors.iter().filter(|a| a.0.ends_with(kind) && a.1 > 0.0).collect();
        let long = of_kind.iter().any(|a| a.1 >= LONG);
        let right = match (kind, &of_kind[..]) {
            ("person", []) => text.starts_with("no"),
            ("person", _) if long => text.starts_with("yes"),
            ("car", []) => text.contains("no car"),
            ("car", [only]) if long => only.0.starts_with(text.trim_end_matches('.')),
            _ => return Verdict::NotJudged,
        };
        if right { Verdict::Right } else { Verdict::Wrong(format!("{text:?}, but {actors:?}")) }
    }
}

/// "a person in a red jacket and a dog" names {"red person", "dog"}.
fn named(text: &str) -> BTreeSet<String> {
    let text = text.to_lowercase();
    let mut named = BTreeSet::new();
    for colour in COLOURS {
        if text.contains(&format!("person in a {colour}")) {
            named.insert(format!("{colour} person"));
        }
        if text.contains(&format!("{colour} car")) {
            named.insert(format!("{colour} car"));
        }
    }
    if text.contains("dog") {
        named.insert("dog".into());
    }
    named
}
