//! Measures the time of onnxruntime's own calls, for `lookout bench language`.

use std::time::Duration;

#[derive(Default)]
pub struct Stopwatch {
    clock: Option<fn() -> Duration>,
    /// Time spent in calls since the start.
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
