//! MQTT: events out, questions in, Home Assistant told what there is.
//!
//! [`run`] retries and knows nothing of MQTT; an attempt (`connection`) is one connection with a
//! new client and knows nothing of retrying. Between attempts live on: the sequence up to which the
//! broker has everything, what it will not take, and the questions under way.
//!
//! Promises: every event that the journal still holds arrives at the broker at least once and in
//! order; after a break some come again, with the run and sequence they had. What the broker refuses,
//! or ends the connection at several times, is left out and counted, and what comes after it arrives.
//! A broker that is away delays nothing; events that leave the journal meanwhile are counted as lost.

mod blame;
mod connection;
mod link;
mod losses;
mod options;
mod outbox;
mod questions;
mod topics;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PublishError;
use crate::backoff::Backoff;
use crate::config::Mqtt;
use crate::service::Service;
use crate::telemetry;
use blame::Blame;
use connection::Ended;
use link::{Break, Cause, Version};
use losses::{GOOD, Line, Losses};
use questions::Questions;
use topics::Topics;

/// The most events whose messages panicked that are remembered.
const UNSAYABLE: usize = 64;

const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Publishes until `stop`; returns when the broker took `offline`, or a second later. A run that
/// panicked is followed by one that goes on where it was.
pub async fn run(
    publisher: Arc<Mutex<Publisher>>,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let mut publisher = publisher.lock().await;
    publisher.leave_out_what_panicked();
    telemetry::mqtt_connected(false);
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
    telemetry::mqtt_connected(false);
    Ok(())
}

/// The state that outlives a connection, and a run that panicked.
pub struct Publisher {
    config: Mqtt,
    topics: Topics,
    service: Arc<dyn Service>,
    /// The version that the broker speaks, as far as is known.
    version: Version,
    /// The broker has spoken it.
    has_connected: bool,
    /// The broker has every event up to this sequence.
    done: u64,
    /// The event whose messages are being made.
    saying: Option<u64>,
    /// The newest events whose messages cannot be made.
    unsayable: BTreeSet<u64>,
    blame: Blame,
    questions: Questions,
    no_questions_until: Option<Instant>,
    losses: Losses,
}

impl Publisher {
    pub fn shared(config: Mqtt, service: Arc<dyn Service>) -> Arc<Mutex<Publisher>> {
        Arc::new(Mutex::new(Publisher {
            topics: Topics::new(&config),
            config,
            service,
            version: Version::V5,
            has_connected: false,
            done: 0,
            saying: None,
            unsayable: BTreeSet::new(),
            blame: Blame::default(),
            questions: Questions::default(),
            no_questions_until: None,
            losses: Losses::default(),
        }))
    }

    fn leave_out_what_panicked(&mut self) {
        if let Some(sequence) = self.saying.take() {
            tracing::error!(sequence, "MQTT: an event cannot be said, and is left out");
            telemetry::mqtt_refused(1);
            self.unsayable.insert(sequence);
            if self.unsayable.len() > UNSAYABLE {
                self.unsayable.pop_first();
            }
        }
    }

    fn is_connected(&mut self) {
        self.has_connected = true;
        telemetry::mqtt_connected(true);
        let line = self.losses.connected();
        self.log(line);
    }

    fn is_good(&mut self) {
        let line = self.losses.is_good();
        self.log(line);
    }

    fn is_away(&mut self, broke: &Break, lasted: Option<Duration>) {
        telemetry::mqtt_connected(false);
        // Some brokers close the connection at a version that they do not know, and say nothing.
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
