//! Judges an answer about a demo camera by the camera's sidecar.

use lookout::demo::score::Score;
use serde_json::Value;

use super::repository;

pub struct Sidecar {
    camera: String,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Right,
    Wrong(String),
    NotJudged,
}

impl Sidecar {
    pub fn of(camera: &str) -> Sidecar {
        Sidecar { camera: camera.into() }
    }

    /// Judges an answer by its window, prompt and text.
    pub fn judge_answer(&self, event: &Value) -> Verdict {
        let clips = repository().join("models/demo/cameras");
        let mut score =
            Score::of_clips(&clips, std::slice::from_ref(&self.camera)).expect("sidecars");
        let mut answer = event.clone();
        answer["camera"] = self.camera.as_str().into();
        answer["kind"] = "answer".into();
        score.add(&answer);
        match score.mistakes.first() {
            Some(mistake) => Verdict::Wrong(mistake.to_string()),
            None if score.all().right > 0 => Verdict::Right,
            None => Verdict::NotJudged,
        }
    }
}
