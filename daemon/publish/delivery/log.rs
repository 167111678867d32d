//! Decides what the log reports about a target: changes only, so that a target that is away for a
//! night does not fill it.

use crate::config;
use crate::interface::Interface;

pub struct Log {
    /// The kind, name and address of the target.
    target: String,
    /// The reason of the newest failure, until a delivery succeeds.
    failed: Option<String>,
    /// The reason of the newest refusal, until a delivery succeeds.
    refused: Option<String>,
    /// Number of alerts in a row that were too old.
    too_old: u64,
}

impl Log {
    pub fn new(interface: Interface, config: &config::Target) -> Log {
        let target = format!("{interface} {:?} at {}", &*config.name, config.endpoint);
        Log { target, failed: None, refused: None, too_old: 0 }
    }

    pub fn delivered(&mut self) {
        self.after_too_old();
        self.refused = None;
        if self.failed.take().is_some() {
            tracing::info!("{}: alerts are delivered again", self.target);
        }
    }

    /// Reports a failure whose reason is not that of the one before.
    pub fn failed(&mut self, why: &str) {
        self.after_too_old();
        if self.failed.as_deref() != Some(why) {
            tracing::warn!("{}: {why}; trying again, alerts wait", self.target);
            self.failed = Some(why.into());
        }
    }

    /// Reports an alert that is dropped, if the reason is not that of the one before.
    pub fn refused(&mut self, why: &str) {
        self.after_too_old();
        if self.refused.as_deref() != Some(why) {
            tracing::warn!("{}: {why}; the alert is not sent again", self.target);
            self.refused = Some(why.into());
        }
    }

    pub fn missed(&self, events: Option<u64>) {
        let events = events.map_or("some".into(), |events| events.to_string());
        tracing::warn!(
            "{}: {events} events left the journal before their alerts were sent",
            self.target
        );
    }

    /// Counts an alert that is too old. The number is reported with the next alert.
    pub fn too_old(&mut self) {
        self.too_old += 1;
    }

    fn after_too_old(&mut self) {
        let alerts = std::mem::take(&mut self.too_old);
        if alerts > 0 {
            tracing::warn!("{}: {alerts} alerts are older than catch_up: not sent", self.target);
        }
    }
}
