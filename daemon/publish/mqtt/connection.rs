//! One connection to the broker, from its ConnAck to its end.
//!
//! Two futures of one task: `drive` turns the client's event loop and is never dropped halfway (a
//! packet half written would be lost without a trace), `converse` decides what is said. Between
//! them is a small channel; `converse` never waits for `drive`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, Outgoing, Packet, Publish, QoS};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::options::options;
use super::outbox::{Message, Outbox, WINDOW};
use super::questions::Refusal;
use super::topics::{OFFLINE, ONLINE};
use super::{Broker, Publisher};
use crate::journal::{Cursor, Read};
use crate::telemetry::{self, Wire};

/// For the address to answer and for the ConnAck, in seconds.
const CONNECT_TIMEOUT: u64 = 5;

/// What the client said and heard and `converse` has not seen yet.
const HEARD: usize = 64;

/// The window, two subscriptions and the farewell.
const REQUESTS: usize = WINDOW + 4;

/// How long the farewell may take; after it the broker publishes the last will, which says the
/// same.
const FAREWELL: Duration = Duration::from_secs(1);

pub enum Ended {
    Stopped,
    Failed(String),
}

impl Publisher {
    /// One attempt: connects with a new client and a clean session, and replays from the oldest
    /// event that the broker has not acknowledged.
    pub async fn run_once(&mut self, stop: &CancellationToken) -> Ended {
        let options = match options(&self.config, &self.topics).await {
            Ok(options) => options,
            Err(why) => return Ended::Failed(why),
        };
        let (client, mut eventloop) = AsyncClient::new(options, REQUESTS);
        let mut network = eventloop.network_options();
        network.set_connection_timeout(CONNECT_TIMEOUT);
        network.set_tcp_nodelay(true);
        eventloop.set_network_options(network);
        tokio::select! {
            // The first poll connects; it is an error if the broker says no.
            connected = eventloop.poll() => if let Err(error) = connected {
                return Ended::Failed(reason(&error));
            },
            () = stop.cancelled() => return Ended::Stopped,
        }
        self.broker_is(Broker::Connected);

        let (to, heard) = mpsc::channel(HEARD);
        let mut outbox = Outbox::new(self.done);
        let ended = tokio::select! {
            error = drive(&mut eventloop, to) => Ended::Failed(reason(&error)),
            ended = self.converse(&client, heard, &mut outbox, stop) => ended,
        };
        self.done = outbox.done();
        ended
    }

    async fn converse(
        &mut self,
        client: &AsyncClient,
        mut heard: mpsc::Receiver<Event>,
        outbox: &mut Outbox,
        stop: &CancellationToken,
    ) -> Ended {
        if let Err(error) = self.subscribe(client) {
            return Ended::Failed(error.to_string());
        }
        self.greet(outbox);
        let mut cursor = self.service.journal().from(None, outbox.done() + 1);
        let mut announce = Announce::Now;
        while !stop.is_cancelled() {
            if announce == Announce::Now && outbox.has_room() {
                if let Some(message) = self.discovery() {
                    outbox.post(message);
                }
                announce = Announce::Done;
            }
            if let Err(why) = hand_over(client, outbox) {
                return Ended::Failed(why);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                event = heard.recv() => match event {
                    Some(Event::Incoming(Packet::Publish(publish))) => {
                        announce = announce.or(self.hear(&publish, outbox));
                    }
                    Some(event) => note_progress(event, outbox),
                    None => return Ended::Failed("the client ended".into()),
                },
                read = cursor.next(), if outbox.has_room() => self.take(read, outbox),
                refusal = self.questions.failed() => self.refuse(&refusal, outbox),
            }
        }
        self.farewell(client, heard, cursor, outbox).await
    }

    /// What the journal holds still, then `offline`, then a proper end, within [`FAREWELL`].
    async fn farewell(
        &mut self,
        client: &AsyncClient,
        mut heard: mpsc::Receiver<Event>,
        mut cursor: Cursor,
        outbox: &mut Outbox,
    ) -> Ended {
        let deadline = Instant::now() + FAREWELL;
        let mut said_offline = false;
        loop {
            while outbox.has_room()
                && let Some(read) = cursor.try_next()
            {
                self.take(read, outbox);
            }
            if outbox.has_room() && !said_offline {
                outbox.post(self.topics.daemon_available(OFFLINE));
                said_offline = true;
            }
            if let Err(why) = hand_over(client, outbox) {
                return Ended::Failed(why);
            }
            if said_offline && outbox.is_idle() {
                break;
            }
            match tokio::time::timeout_at(deadline, heard.recv()).await {
                Ok(Some(event)) => note_progress(event, outbox),
                // Without a DISCONNECT, for the broker to publish the last will.
                Ok(None) | Err(_) => return Ended::Stopped,
            }
        }
        if client.try_disconnect().is_ok() {
            let sent = async {
                while let Some(event) = heard.recv().await
                    && event != Event::Outgoing(Outgoing::Disconnect)
                {}
            };
            let _ = tokio::time::timeout_at(deadline, sent).await;
        }
        Ended::Stopped
    }

    fn subscribe(&self, client: &AsyncClient) -> Result<(), rumqttc::ClientError> {
        client.try_subscribe(self.topics.questions(), QoS::AtLeastOnce)?;
        if let Some(topic) = self.topics.discovery_status() {
            client.try_subscribe(topic, QoS::AtLeastOnce)?;
        }
        Ok(())
    }

    /// Availability as it is now: what the broker retained may be from another life.
    fn greet(&self, outbox: &mut Outbox) {
        outbox.post(self.topics.daemon_available(ONLINE));
        self.cameras_available(outbox);
    }

    fn cameras_available(&self, outbox: &mut Outbox) {
        for camera in self.service.cameras() {
            outbox.post(self.topics.camera_available(&camera.name, camera.status.phase));
        }
    }

    fn discovery(&self) -> Option<Message> {
        let cameras: Vec<Arc<str>> = self.service.cameras().into_iter().map(|c| c.name).collect();
        self.topics.discovery(&cameras)
    }

    fn take(&self, read: Read, outbox: &mut Outbox) {
        match read {
            Read::Event(event) => {
                let messages = self.topics.messages(&event);
                outbox.enter(event, messages);
            }
            Read::Lost(events) => {
                let events = events.unwrap_or(0);
                tracing::warn!(
                    "MQTT: {events} events left the journal before the broker took them"
                );
                telemetry::mqtt_lost(events);
                // A camera's last change may be among them.
                self.cameras_available(outbox);
            }
        }
    }

    fn hear(&mut self, publish: &Publish, outbox: &mut Outbox) -> Announce {
        if Some(&publish.topic) == self.topics.discovery_status().as_ref() {
            let started = publish.payload.trim_ascii() == ONLINE.as_bytes();
            // A retained `online` is old: the announcement of this connection comes after it.
            return if started && !publish.retain { Announce::Now } else { Announce::Done };
        }
        let Some(camera) = self.topics.asked(&publish.topic) else { return Announce::Done };
        if publish.retain {
            tracing::warn!(topic = publish.topic, "a retained question would be asked for ever");
            return Announce::Done;
        }
        if let Err(refusal) = self.questions.ask(&self.service, camera, &publish.payload) {
            self.refuse(&refusal, outbox);
        }
        Announce::Done
    }

    fn refuse(&self, refusal: &Refusal, outbox: &mut Outbox) {
        let Ok(payload) = serde_json::to_vec(refusal) else { return };
        let topic = self.topics.camera(&refusal.camera, "answer");
        if !outbox.note(Message { topic, payload, retain: false }) {
            tracing::warn!(id = refusal.id, "MQTT: too many refused questions; one is not told");
        }
    }
}

/// Whether Home Assistant is to be told what there is.
#[derive(Clone, Copy, PartialEq)]
enum Announce {
    Now,
    Done,
}

impl Announce {
    fn or(self, other: Announce) -> Announce {
        if self == Announce::Now { self } else { other }
    }
}

/// Turns the event loop until the connection ends.
async fn drive(eventloop: &mut EventLoop, to: mpsc::Sender<Event>) -> ConnectionError {
    loop {
        match eventloop.poll().await {
            Ok(event) => {
                if to.send(event).await.is_err() {
                    // `converse` has ended, and this future with it.
                    return std::future::pending().await;
                }
            }
            Err(error) => return error,
        }
    }
}

fn hand_over(client: &AsyncClient, outbox: &mut Outbox) -> Result<(), String> {
    while let Some(Message { topic, payload, retain }) = outbox.hand() {
        client
            .try_publish(topic, QoS::AtLeastOnce, retain, payload)
            .map_err(|e| format!("the client takes no message: {e}"))?;
    }
    Ok(())
}

fn note_progress(event: Event, outbox: &mut Outbox) {
    match event {
        Event::Outgoing(Outgoing::Publish(packet)) => outbox.sent(packet),
        Event::Incoming(Packet::PubAck(ack)) => {
            if let Some(event) = outbox.acknowledged(ack.pkid) {
                let took = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
                telemetry::published(&event.camera, Wire::Mqtt, took);
            }
        }
        Event::Incoming(Packet::SubAck(ack))
            if ack.return_codes.contains(&rumqttc::SubscribeReasonCode::Failure) =>
        {
            tracing::warn!("MQTT: the broker refuses a subscription; questions may not arrive");
        }
        _ => {}
    }
}

/// The innermost cause is what a person can act on.
fn reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Io(error) => error.to_string(),
        ConnectionError::NetworkTimeout => "no answer in time".into(),
        ConnectionError::ConnectionRefused(code) => format!("refused: {code:?}"),
        ConnectionError::MqttState(error) => error.to_string(),
        other => other.to_string(),
    }
}
