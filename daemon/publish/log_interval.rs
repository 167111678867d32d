//! Limits how often the same problem is logged.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

/// Minimum time between two log lines about the same problem.
const INTERVAL: Duration = Duration::from_secs(60);

/// The time of the last log line about a problem.
#[derive(Default)]
pub struct LogInterval(Mutex<Option<Instant>>);

impl LogInterval {
    /// Returns true if the last line is old enough, and records a new one.
    pub fn may_log(&self) -> bool {
        let mut last = lock(&self.0);
        let may = last.is_none_or(|at| at.elapsed() >= INTERVAL);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}
