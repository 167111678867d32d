//! Measures where the time of the language model goes, for `lookout bench language`.

use std::time::Duration;

/// A kind of work. The kinds do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lap {
    /// A run of a graph: onnxruntime's own time.
    Call,
    /// Copies the video's tokens into a prompt.
    Prompt,
    /// Prepares the inputs of a run and sends them to the device.
    Inputs,
    /// Converts the logits of a run.
    Logits,
    /// Picks a token by the logits, and converts it to text.
    Sampling,
    /// Copies keys and values between the slots of the KV cache and the prefixes.
    KeysAndValues,
}

/// The time of each [`Lap`], in their order.
pub type Laps = [Duration; 6];

#[derive(Default)]
pub struct Stopwatch {
    clock: Option<fn() -> Duration>,
    /// Time spent since the start.
    pub spent: Laps,
}

impl Stopwatch {
    pub fn start(&mut self, clock: fn() -> Duration) {
        *self = Stopwatch { clock: Some(clock), spent: Laps::default() };
    }

    pub fn now(&self) -> Duration {
        self.clock.map_or(Duration::ZERO, |clock| clock())
    }

    pub fn add(&mut self, lap: Lap, begun: Duration) {
        self.spent[lap as usize] += self.now() - begun;
    }
}
