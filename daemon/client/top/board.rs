//! The daemon as the view shows it: the newest state, and what the events since the start add up
//! to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::source::{Cameras, Update};
use crate::event::{Body, Caption, Event, Inference, Timing};
use crate::service::{CameraInfo, RuleInfo};

/// The share of a new value in an average of the newest ones.
const WEIGHT: f64 = 0.2;

/// The daemon's state.
pub struct Board {
    /// The daemon's address.
    pub address: String,
    pub cameras: Vec<CameraInfo>,
    /// The problems of the daemon, a sentence each.
    pub troubles: Vec<String>,
    pub rules: Vec<RuleInfo>,
    /// The newest caption of each camera, and the windows that were skipped.
    pub captions: HashMap<Arc<str>, Captions>,
    /// The reason why the daemon is not reachable.
    pub lost: Option<String>,
    pub model: Option<Model>,
}

/// The captions of a camera.
pub struct Captions {
    pub newest: Caption,
    /// Time from the close of the newest caption's window until the caption was published.
    pub late_seconds: f64,
    /// Windows without a caption, as far as their captions were read.
    pub skipped: u64,
}

/// The model, with averages over its newest texts.
pub struct Model {
    pub name: String,
    pub device: String,
    pub wait_seconds: f64,
    pub prefill_seconds: f64,
    pub decode_seconds: f64,
    /// Tokens that a sequence generates per second.
    pub tokens_per_second: f64,
}

impl Board {
    pub fn new(address: &str, updates: Vec<Update>) -> Board {
        let mut board = Board {
            address: address.to_owned(),
            cameras: Vec::new(),
            troubles: Vec::new(),
            rules: Vec::new(),
            captions: HashMap::new(),
            lost: None,
            model: None,
        };
        updates.into_iter().for_each(|update| board.update(update));
        board
    }

    pub fn update(&mut self, update: Update) {
        match update {
            Update::Lost(why) => self.lost = Some(why),
            Update::Cameras(Cameras { cameras, troubles }) => {
                self.lost = None;
                self.troubles = troubles;
                self.captions.retain(|name, _| cameras.iter().any(|c| c.name == *name));
                self.cameras = cameras;
            }
            Update::Rules(rules) => self.rules = rules,
            Update::Event(event) => self.event(*event),
        }
    }

    fn event(&mut self, event: Event) {
        let is_unchanged =
            matches!(&event.body, Body::Caption(caption) if caption.unchanged.is_some());
        if let Some(inference) = event.body.inference().filter(|_| !is_unchanged) {
            self.model = Some(Model::after(self.model.take(), inference));
        }
        let Body::Caption(newest) = event.body else { return };
        let before = self.captions.get(&event.camera).map_or(0, |captions| captions.skipped);
        let late_seconds = newest.inference.timing.total_seconds;
        let skipped = before + u64::from(newest.skipped_windows);
        self.captions.insert(event.camera, Captions { newest, late_seconds, skipped });
    }

    /// Returns the bytes of all buffers in memory and on disk.
    pub fn bytes(&self) -> (u64, u64) {
        let memory = self.cameras.iter().map(|camera| camera.buffer_bytes).sum();
        (memory, self.cameras.iter().map(|camera| camera.disk_bytes).sum())
    }
}

impl Captions {
    /// Returns the seconds since the end of the newest caption's window.
    pub fn age_seconds(&self, now: SystemTime) -> f64 {
        let end = self.newest.inference.window.to;
        now.duration_since(end).unwrap_or_default().as_secs_f64()
    }
}

impl Model {
    /// Adds a text to the averages.
    fn after(before: Option<Model>, inference: &Inference) -> Model {
        let Timing { wait_seconds, prefill_seconds, decode_seconds, .. } = inference.timing;
        // The first token comes with the prefill.
        let tokens = f64::from(inference.usage.new_tokens.saturating_sub(1));
        let rate = (decode_seconds > 0.0).then(|| tokens / decode_seconds);
        let name = inference.model.clone();
        let device = inference.devices.device();
        let Some(before) = before.filter(|before| before.name == name) else {
            let tokens_per_second = rate.unwrap_or_default();
            return Model {
                name,
                device,
                wait_seconds,
                prefill_seconds,
                decode_seconds,
                tokens_per_second,
            };
        };
        let average = |old: f64, new: f64| old + WEIGHT * (new - old);
        let old_rate = before.tokens_per_second;
        Model {
            name,
            device,
            wait_seconds: average(before.wait_seconds, wait_seconds),
            prefill_seconds: average(before.prefill_seconds, prefill_seconds),
            decode_seconds: average(before.decode_seconds, decode_seconds),
            tokens_per_second: average(old_rate, rate.unwrap_or(old_rate)),
        }
    }
}
