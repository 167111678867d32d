//! How long onnxruntime's own calls took, where somebody wants to know (`lookout bench words`).

use std::time::Duration;

#[derive(Default)]
pub struct Stopwatch {
    clock: Option<fn() -> Duration>,
    /// Since it was started.
    pub spent: Duration,
}

impl Stopwatch {
    pub fn start(&mut self, clock: fn() -> Duration) {
        *self = Stopwatch { clock: Some(clock), spent: Duration::ZERO };
    }

    pub fn now(&self) -> Duration {
        self.clock.map_or(Duration::ZERO, |clock| clock())
    }

    pub fn add(&mut self, begun: Duration) {
        self.spent += self.now() - begun;
    }
}
