//! The running deliveries of alerts: the only owner of their tasks.
//!
//! Guarantees: targets are added, changed and removed while the daemon runs, each without an effect
//! on the others. A changed target continues after the last event that it accepted. A target that
//! is added begins with the next event, unless the journal has a position of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Rule};
use crate::event::EventId;
use crate::metrics;
use crate::publish::delivery::{self, Delivery, Target};
use crate::publish::supervise;
use crate::publish::traces::Recorder;
use crate::service::Service;

/// Starts and stops the deliveries.
pub struct Targets {
    service: Arc<dyn Service>,
    /// Records the traces, if the config enables them.
    recorder: Option<Arc<Recorder>>,
    /// Ends all deliveries.
    stop: CancellationToken,
    running: Mutex<HashMap<Arc<str>, Running>>,
}

struct Running {
    config: config::Target,
    /// Names of the rules whose alerts go to other targets only.
    excluded: HashSet<Arc<str>>,
    delivery: Arc<Mutex<Delivery>>,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Targets {
    /// Starts the deliveries to these targets.
    pub async fn start(
        targets: Vec<Target>,
        rules: &[Rule],
        service: Arc<dyn Service>,
        recorder: Option<Arc<Recorder>>,
        stop: CancellationToken,
    ) -> Targets {
        let begin = EventId { run: service.journal().run(), sequence: 0 };
        let started = Targets { service, recorder, stop, running: Mutex::default() };
        {
            let mut running = started.running.lock().await;
            for target in targets {
                started.run(&mut running, target, rules, begin);
            }
        }
        started
    }

    /// Takes other targets and rules. Deliveries that stay as they are continue.
    pub async fn replace(&self, targets: Vec<Target>, rules: &[Rule]) {
        let mut running = self.running.lock().await;
        let mut before = std::mem::take(&mut *running);
        for target in targets {
            let name = target.config().name.clone();
            let begin = match before.remove(&name) {
                Some(same) if same.is_as(&target, rules) => {
                    running.insert(name, same);
                    continue;
                }
                Some(other) => other.end().await,
                None => self.newest(),
            };
            self.run(&mut running, target, rules, begin);
        }
        for (name, gone) in before {
            gone.end().await;
            metrics::delivery_failing(&name, false);
        }
    }

    /// Waits for all deliveries after the stop.
    pub async fn finish(&self) {
        for (_, running) in self.running.lock().await.drain() {
            let _ = running.task.await;
        }
    }

    fn run(
        &self,
        running: &mut HashMap<Arc<str>, Running>,
        target: Target,
        rules: &[Rule],
        begin: EventId,
    ) {
        let interface = target.interface();
        let config = target.config().clone();
        let name = config.name.clone();
        let excluded = delivery::excluded_rules(&name, rules);
        let (service, recorder) = (self.service.clone(), self.recorder.clone());
        let delivery = Delivery::shared_after(begin, target, rules, service, recorder);
        let end = self.stop.child_token();
        let run = {
            let (delivery, end) = (delivery.clone(), end.clone());
            move || delivery::run(delivery.clone(), end.clone())
        };
        let task = tokio::spawn(supervise(interface, end.clone(), run));
        running.insert(name, Running { config, excluded, delivery, end, task });
    }

    /// Returns the newest event of the journal.
    fn newest(&self) -> EventId {
        let EventId { run, sequence } = self.service.journal().read_new().position();
        EventId { run, sequence: sequence.saturating_sub(1) }
    }
}

impl Running {
    fn is_as(&self, target: &Target, rules: &[Rule]) -> bool {
        let name = &target.config().name;
        self.config == *target.config() && self.excluded == delivery::excluded_rules(name, rules)
    }

    /// Ends the delivery. Returns the event up to which the target needs no event any more.
    async fn end(self) -> EventId {
        self.end.cancel();
        let _ = self.task.await;
        self.delivery.lock().await.done()
    }
}
