//! One window of the past on which a rule is tried: from the collection of its frames to its score.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::frame::FrameId;
use crate::service::AskError;
use crate::timeline::{Clip, FrameData};

pub struct TrialWindow {
    pub camera: Arc<str>,
    pub question: Arc<str>,
    /// Data of frames that an earlier window collected already.
    pub known: Arc<HashMap<FrameId, FrameData>>,
    pub result: oneshot::Sender<Result<ScoredClip, AskError>>,
}

/// A window's frames, and the model's score of the question about them.
pub struct ScoredClip {
    pub clip: Clip,
    pub score: f64,
}

impl TrialWindow {
    /// Returns true while somebody waits for the result.
    pub fn is_wanted(&self) -> bool {
        !self.result.is_closed()
    }

    /// Ends the window with an error. A receiver that has gone needs none.
    pub fn fail(self, error: AskError) {
        drop(self.result.send(Err(error)));
    }

    /// Delivers the score.
    pub fn finish(self, clip: Clip, score: f64) {
        drop(self.result.send(Ok(ScoredClip { clip, score })));
    }

    /// Ends the window because none of its frames is left.
    pub fn fail_without_frames(self) {
        let why = "its frames left the buffer while they were read".into();
        let camera = self.camera.to_string();
        self.fail(AskError::NoFrames { camera, why });
    }
}
