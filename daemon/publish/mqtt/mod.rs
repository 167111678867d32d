//! MQTT: events out, questions in, Home Assistant told what there is.
//!
//! [`run`] retries and knows nothing of MQTT; an attempt (`connection`) is one connection with a
//! new client and knows nothing of retrying. Between attempts only two things live on: the
//! sequence up to which the broker has everything, and the questions under way.
//!
//! Promises: every event that the journal still holds arrives at the broker at least once and in
//! order; after a break some come again, with the sequence they had. A broker that is away delays
//! nothing; events that leave the journal meanwhile are counted as lost.

mod connection;
mod options;
mod outbox;
mod questions;
mod topics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::PublishError;
use crate::config::Mqtt;
use crate::service::Service;
use crate::telemetry;
use connection::Ended;
use questions::Questions;
use topics::Topics;

const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// A connection that held so long was good: the next attempt comes after the shortest pause.
const GOOD: Duration = Duration::from_secs(10);

/// Publishes until `stop`; returns when the broker took `offline`, or a second later. A run that
/// panicked is followed by one that goes on where it was.
pub async fn run(
    publisher: Arc<Mutex<Publisher>>,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let mut publisher = publisher.lock().await;
    telemetry::mqtt_connected(false);
    let mut pause = SHORTEST_PAUSE;
    loop {
        let began = Instant::now();
        match publisher.run_once(&stop).await {
            Ended::Stopped => break,
            Ended::Failed(why) => publisher.broker_is(Broker::Away(why)),
        }
        if began.elapsed() >= GOOD {
            pause = SHORTEST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(jitter(pause)) => {}
            () = stop.cancelled() => break,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    telemetry::mqtt_connected(false);
    Ok(())
}

/// What outlives a connection, and a run that panicked.
pub struct Publisher {
    config: Mqtt,
    topics: Topics,
    service: Arc<dyn Service>,
    /// The broker has every event up to this sequence.
    done: u64,
    questions: Questions,
    broker: Broker,
}

#[derive(PartialEq)]
enum Broker {
    Unknown,
    Connected,
    Away(String),
}

impl Publisher {
    pub fn shared(config: Mqtt, service: Arc<dyn Service>) -> Arc<Mutex<Publisher>> {
        Arc::new(Mutex::new(Publisher {
            topics: Topics::new(&config),
            config,
            service,
            done: 0,
            questions: Questions::default(),
            broker: Broker::Unknown,
        }))
    }

    /// Logs a change, and only a change: a broker that is away for a night fills no log.
    fn broker_is(&mut self, broker: Broker) {
        telemetry::mqtt_connected(broker == Broker::Connected);
        if self.broker == broker {
            return;
        }
        let Mqtt { host, port, .. } = &self.config;
        match &broker {
            Broker::Unknown => {}
            Broker::Connected => tracing::info!("MQTT broker {host}:{port}: connected"),
            Broker::Away(why) => {
                tracing::warn!("MQTT broker {host}:{port}: {why}; trying again, events wait")
            }
        }
        self.broker = broker;
    }
}

/// Between a half and all of the pause, so that daemons do not come back all at once; never less
/// than the shortest.
fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0)).max(SHORTEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_in_bounds() {
        for _ in 0..1000 {
            let pause = jitter(LONGEST_PAUSE);
            assert!((SHORTEST_PAUSE..=LONGEST_PAUSE).contains(&pause));
            assert_eq!(jitter(SHORTEST_PAUSE), SHORTEST_PAUSE);
        }
    }
}
