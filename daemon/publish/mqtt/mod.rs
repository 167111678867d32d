//! Publishes events over MQTT, accepts questions and acknowledgements, and announces cameras and
//! rules to Home Assistant.
//!
//! [`run`] only retries; it contains nothing specific to MQTT. An attempt (`connection`) is one
//! connection with a new client and does not retry. Three things survive between attempts: the
//! event up to which the broker has every event, the messages that it does not accept, and the
//! questions in progress. A journal on disk stores the first of them for the next run.
//!
//! Guarantees: every event that the journal still holds and that is not older than `mqtt.catch_up`
//! arrives at the broker at least once and in order, also after a restart of the daemon. After a
//! break some events are sent again, with the same run and sequence. Retained messages never go
//! back in time. A message that the broker refuses, or at which it ends the connection several
//! times, is left out and counted; the messages after it arrive. A broker that is unreachable delays
//! nothing; events that leave the journal or become too old in the meantime are counted as missed.

mod acknowledgements;
mod announcement;
mod blame;
mod check;
mod connection;
mod discovery;
mod incoming;
mod link;
mod losses;
mod message;
mod options;
mod outbox;
mod outgoing;
mod pictures;
mod questions;
mod tls;
mod topics;

pub use acknowledgements::ACKNOWLEDGEMENT_FIELDS;
pub use check::check;
#[cfg(fuzzing)]
pub use questions::fuzz_question;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PublishError;
use super::traces::Recorder;
use crate::backoff::Backoff;
use crate::config::Mqtt;
use crate::event::EventId;
use crate::metrics;
use crate::service::Service;
use blame::Blame;
use connection::Ended;
use discovery::Discovery;
use link::{Break, Cause, Version};
use losses::{GOOD, Line, Losses};
use questions::Questions;
use topics::Topics;
pub use topics::{TOPICS, Topic};

/// Maximum number of remembered events whose conversion to messages panicked.
const UNSAYABLE: usize = 64;

const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Publishes until `stop`. Returns when the broker has taken `offline`, or at most a second later.
/// After a panic, the next run continues where this one stopped.
pub async fn run(
    publisher: Arc<Mutex<Publisher>>,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let mut publisher = publisher.lock().await;
    publisher.leave_out_what_panicked();
    metrics::mqtt_connected(false);
    let mut backoff = Backoff::new(LONGEST_PAUSE);
    loop {
        let done = publisher.done;
        let Ended::Broke { broke, lasted } = publisher.run_once(&stop).await else { break };
        publisher.is_away(&broke, lasted);
        if lasted.is_some_and(|lasted| lasted >= GOOD) || publisher.done > done {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.pause(rand::random())) => {}
            () = stop.cancelled() => break,
        }
    }
    metrics::mqtt_connected(false);
    Ok(())
}

/// The names of a camera and of a rule.
type CameraRule = (Arc<str>, Arc<str>);

/// The state that survives a connection, and a run that panicked.
pub struct Publisher {
    config: Mqtt,
    topics: Topics,
    /// Makes the messages for Home Assistant, if the config enables it.
    discovery: Option<Discovery>,
    /// Cameras that were announced, and those of earlier runs.
    announced: BTreeSet<Arc<str>>,
    /// Cameras that were announced and no longer exist.
    removed: BTreeSet<Arc<str>>,
    /// The rules that were announced, each with its camera, and those of earlier runs.
    announced_rules: BTreeSet<CameraRule>,
    /// Rules that were announced and no longer exist.
    removed_rules: BTreeSet<CameraRule>,
    service: Arc<dyn Service>,
    /// Records the traces, if the config enables them.
    recorder: Option<Arc<Recorder>>,
    /// Time at which this run's publisher was made.
    since: Instant,
    /// Protocol version that the broker speaks, as far as is known.
    version: Version,
    /// True once the broker has accepted that version.
    has_connected: bool,
    /// The journal's name of this reader: the broker, and the client at it.
    reader: String,
    /// The event up to which the broker has every event.
    done: EventId,
    /// The event whose messages are being made.
    saying: Option<EventId>,
    /// The newest events whose messages cannot be made.
    unsayable: BTreeSet<EventId>,
    blame: Blame,
    questions: Questions,
    no_requests_until: Option<Instant>,
    losses: Losses,
}

impl Publisher {
    pub fn shared(
        config: Mqtt,
        service: Arc<dyn Service>,
        recorder: Option<Arc<Recorder>>,
    ) -> Arc<Mutex<Publisher>> {
        let reader = format!("mqtt {} at {}:{}", config.client_id, config.host, config.port);
        let journal = service.journal();
        // A broker without a position begins with this run.
        let done =
            journal.acknowledged(&reader).unwrap_or(EventId { run: journal.run(), sequence: 0 });
        journal.acknowledge(&reader, done);
        Arc::new(Mutex::new(Publisher {
            topics: Topics::new(&config),
            discovery: Discovery::new(&config),
            announced: BTreeSet::new(),
            removed: BTreeSet::new(),
            announced_rules: BTreeSet::new(),
            removed_rules: BTreeSet::new(),
            config,
            service,
            recorder,
            since: Instant::now(),
            version: Version::V5,
            has_connected: false,
            reader,
            done,
            saying: None,
            unsayable: BTreeSet::new(),
            blame: Blame::default(),
            questions: Questions::default(),
            no_requests_until: None,
            losses: Losses::default(),
        }))
    }

    fn leave_out_what_panicked(&mut self) {
        if let Some(EventId { run, sequence }) = self.saying.take() {
            tracing::error!(run, sequence, "MQTT: an event cannot be said, and is left out");
            metrics::mqtt_message_refused();
            self.unsayable.insert(EventId { run, sequence });
            if self.unsayable.len() > UNSAYABLE {
                self.unsayable.pop_first();
            }
        }
    }

    /// Records the event up to which the broker has every event.
    fn advance(&mut self, done: EventId) {
        if done != self.done {
            self.done = done;
            self.blame.done(done);
            self.service.journal().acknowledge(&self.reader, done);
        }
    }

    fn is_connected(&mut self) {
        self.has_connected = true;
        metrics::mqtt_connected(true);
        let line = self.losses.connected();
        self.log(line);
    }

    fn is_good(&mut self) {
        let line = self.losses.is_good();
        self.log(line);
    }

    fn is_away(&mut self, broke: &Break, lasted: Option<Duration>) {
        metrics::mqtt_connected(false);
        // Some brokers close the connection without a reason if they do not know the version.
        let unknown = lasted.is_none() && broke.cause == Cause::Closed && !self.has_connected;
        if broke.cause == Cause::Version || unknown {
            self.version = self.version.other();
        }
        let line = self.losses.lost(&broke.why, lasted);
        self.log(line);
    }

    fn log(&self, line: Option<Line>) {
        let Mqtt { host, port, client_id, .. } = &self.config;
        match line {
            None => {}
            Some(Line::Connected) => tracing::info!("MQTT broker {host}:{port}: connected"),
            Some(Line::Away(why)) => {
                tracing::warn!("MQTT broker {host}:{port}: {why}; trying again, events wait");
            }
            Some(Line::AgainAndAgain(why)) => tracing::warn!(
                "MQTT broker {host}:{port}: {why}; for the third time soon after the connection was \
                 made. Has another client the client_id {client_id:?}? Trying again, events wait"
            ),
        }
    }
}
