//! Detects hung workers by their heartbeats.
//!
//! Each worker records a heartbeat at every turn, also while it waits for work. A worker without a
//! heartbeat for a long time counts as hung: in a GPU driver, for example, or on a network disk.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// A thread that the daemon cannot work without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    Vision,
    Language,
    Disk,
}

impl Worker {
    const ALL: [Worker; 3] = [Worker::Vision, Worker::Language, Worker::Disk];

    pub fn name(self) -> &'static str {
        match self {
            Worker::Vision => "vision",
            Worker::Language => "language",
            Worker::Disk => "disk",
        }
    }
}

/// The time of each worker's last heartbeat.
pub struct Heartbeats {
    /// A worker without a heartbeat for longer than this counts as hung.
    timeout: Duration,
    /// Last heartbeat by worker, or `None` if the worker does not run (yet).
    last: [Mutex<Option<Instant>>; 3],
}

impl Heartbeats {
    pub fn new(timeout: Duration) -> Heartbeats {
        Heartbeats { timeout, last: Default::default() }
    }

    /// Records a worker's heartbeat.
    pub fn beat(&self, worker: Worker) {
        self.set(worker, Some(Instant::now()));
    }

    /// Records that a worker has ended, normally or not. It no longer counts as hung.
    pub fn ended(&self, worker: Worker) {
        self.set(worker, None);
    }

    /// Describes the hung workers in a text, or returns `None` if there are none.
    pub fn hung(&self, now: Instant) -> Option<String> {
        let silent = Worker::ALL.into_iter().filter_map(|worker| {
            let last = (*lock(&self.last[worker as usize]))?;
            let silent = now.saturating_duration_since(last);
            let seconds = silent.as_secs();
            (silent > self.timeout).then(|| {
                format!("the {} worker has made no progress for {seconds} s", worker.name())
            })
        });
        let silent: Vec<String> = silent.collect();
        (!silent.is_empty()).then(|| silent.join(", "))
    }

    fn set(&self, worker: Worker, last: Option<Instant>) {
        *lock(&self.last[worker as usize]) = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_without_a_heartbeat_hangs() {
        let beats = Heartbeats::new(Duration::from_secs(60));
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(beats.hung(later(1000)), None, "no worker runs");
        beats.beat(Worker::Language);
        assert_eq!(beats.hung(later(59)), None);
        let hung = |seconds| beats.hung(later(seconds)).expect("it hangs");
        assert_eq!(hung(75), "the language worker has made no progress for 75 s");
        beats.beat(Worker::Disk);
        let both = "the language worker has made no progress for 90 s, the disk worker has made no progress for 90 s";
        assert_eq!(hung(90), both);
        beats.ended(Worker::Language);
        assert_eq!(hung(90), "the disk worker has made no progress for 90 s");
        beats.ended(Worker::Disk);
        assert_eq!(beats.hung(later(90)), None);
    }
}
