//! Runs one connection to the broker, from its ConnAck to its end.
//!
//! Two futures share one task. `drive` runs the client's event loop and is never cancelled in the
//! middle of a packet, because a half-written packet would be lost without a trace. `converse`
//! decides what is published. A small channel connects them; `converse` never waits for `drive`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Publisher;
use super::blame::Origin;
use super::link::{self, Break, Cause, Client, Heard, Loop, ReplyTo};
use super::losses::GOOD;
use super::message::{Content, Message};
use super::options::Access;
use super::outbox::{Outbox, WINDOW};
use super::pictures::Pictures;
use super::questions::{Reply, ReplyContent};
use super::topics::{ANSWER, OFFLINE, ONLINE, event_json};
use crate::event::{Body, CameraState, Event, EventId, EventKind};
use crate::interface::Interface;
use crate::journal::{Cursor, Read};
use crate::metrics;

/// Capacity of the channel of client events that `converse` has not processed yet.
const HEARD: usize = 64;

/// Maximum duration of the shutdown. Afterwards the broker publishes the last will, which has the
/// same content.
const FAREWELL: Duration = Duration::from_secs(1);

/// Minimum time for which the broker may deliver a message.
const SOON: Duration = Duration::from_secs(1);

/// Time without a subscription to questions after one that was larger than a packet may be. A
/// retained one would end every connection.
const WITHOUT_QUESTIONS: Duration = Duration::from_secs(600);

pub enum Ended {
    Stopped,
    /// The connection ended. `lasted` is the time since the ConnAck, or `None` if there was none.
    Broke {
        broke: Break,
        lasted: Option<Duration>,
    },
}

/// The end of a conversation.
enum Over {
    Stopped,
    Broke(Break),
}

fn broke(why: String) -> Over {
    Over::Broke(Break { why, cause: Cause::Other })
}

impl Publisher {
    /// Makes one attempt: connects with a new client and a clean session, and replays from the
    /// oldest event that the broker has not acknowledged.
    pub async fn run_once(&mut self, stop: &CancellationToken) -> Ended {
        let access = match Access::read(&self.config).await {
            Ok(access) => access,
            Err(why) => {
                return Ended::Broke { broke: Break { why, cause: Cause::Other }, lasted: None };
            }
        };
        let (client, mut turns) = link::open(self.version, access);
        let largest = tokio::select! {
            // The first turn connects. It returns an error if the broker refuses.
            connected = turns.turn() => match connected {
                Ok(Heard::Connected { largest }) => largest,
                Ok(_) => None,
                Err(broke) => return Ended::Broke { broke, lasted: None },
            },
            () = stop.cancelled() => return Ended::Stopped,
        };
        let since = Instant::now();
        self.is_connected();
        let window = if self.blame.is_careful() { 1 } else { WINDOW };
        let mut connection = Connection {
            client,
            outbox: Outbox::new(self.done, window),
            pictures: Pictures::default(),
            shown: HashMap::new(),
            too_old: 0,
            must_announce: true,
            largest,
            publisher: self,
        };
        let (to, mut heard) = mpsc::channel(HEARD);
        let over = tokio::select! {
            broke = drive(&mut turns, to) => Over::Broke(broke),
            over = connection.converse(&mut heard, stop) => over,
        };
        // Acknowledgements from before the end still count, although `converse` has not processed
        // them.
        while let Ok(event) = heard.try_recv() {
            connection.note_progress(event);
        }
        turns.rest().into_iter().for_each(|event| connection.note_progress(event));
        let unanswered = connection.outbox.unanswered().cloned();
        match over {
            Over::Stopped => Ended::Stopped,
            Over::Broke(broke) => {
                if let (Cause::Closed, Some(origin)) = (broke.cause, unanswered)
                    && self.blame.ended_at(&origin)
                {
                    self.left_out(&origin, "the broker ends every connection at it");
                }
                if broke.cause == Cause::TooLarge {
                    self.no_questions_until = Some(Instant::now() + WITHOUT_QUESTIONS);
                }
                Ended::Broke { broke, lasted: Some(since.elapsed()) }
            }
        }
    }

    /// Counts a message that does not reach the broker, and logs the first one of each topic.
    fn left_out(&mut self, origin: &Origin, why: &str) {
        metrics::mqtt_message_refused();
        let Origin { event, topic, .. } = origin;
        if self.blame.may_say(topic) {
            let sequence = event.map(|event| event.sequence);
            tracing::warn!(sequence, "MQTT: a message on {topic} is left out: {why}");
        }
    }
}

/// A connected publisher.
pub struct Connection<'a> {
    client: Client,
    pub outbox: Outbox,
    pub pictures: Pictures,
    /// The newest events whose retained messages were sent, by camera and kind. Older events, which
    /// are sent again, do not replace them.
    pub shown: HashMap<(Arc<str>, EventKind), EventId>,
    /// Number of events in a row that were left out because of their age.
    too_old: u64,
    /// True while the cameras must be announced.
    pub must_announce: bool,
    /// Largest packet in bytes that the broker takes, if it reported one.
    largest: Option<usize>,
    pub publisher: &'a mut Publisher,
}

impl Connection<'_> {
    async fn converse(
        &mut self,
        heard: &mut mpsc::Receiver<Heard>,
        stop: &CancellationToken,
    ) -> Over {
        if let Err(why) = self.subscribe() {
            return broke(why);
        }
        self.greet();
        let journal = self.publisher.service.journal().clone();
        let EventId { run, sequence } = self.outbox.done();
        let mut cursor = journal.read_from(Some(run), sequence + 1);
        let good = tokio::time::sleep(GOOD);
        let mut good = std::pin::pin!(good);
        let mut is_good = false;
        while !stop.is_cancelled() {
            if self.must_announce && self.outbox.has_room() {
                self.announce();
                self.must_announce = false;
            }
            if self.publisher.blame.is_careful() && self.outbox.is_idle() && cursor.is_at_end() {
                self.publisher.blame.relax();
                self.outbox.widen();
            }
            if let Err(why) = self.hand_over() {
                return broke(why);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = &mut good, if !is_good => {
                    is_good = true;
                    self.publisher.is_good();
                }
                event = heard.recv() => match event {
                    Some(Heard::Publish { topic, payload, retain, reply_to }) => {
                        self.hear(&topic, &payload, retain, reply_to);
                    }
                    Some(event) => self.note_progress(event),
                    None => return broke("the client ended".into()),
                },
                read = cursor.next(), if self.outbox.has_room() => self.take(read, &*cursor),
                reply = self.publisher.questions.reply() => self.reply(reply),
                picture = self.pictures.next() => self.publish_picture(&picture),
            }
        }
        self.farewell(heard, cursor).await
    }

    /// Publishes the journal's remaining events and `offline`, then disconnects, within
    /// [`FAREWELL`].
    async fn farewell(
        &mut self,
        heard: &mut mpsc::Receiver<Heard>,
        mut cursor: Box<dyn Cursor>,
    ) -> Over {
        let deadline = Instant::now() + FAREWELL;
        let mut said_offline = false;
        loop {
            while self.outbox.has_room()
                && let Some(read) = cursor.try_next()
            {
                self.take(read, &*cursor);
            }
            if self.outbox.has_room() && !said_offline {
                for camera in self.publisher.service.cameras() {
                    // The cameras are no longer watched.
                    self.post(
                        self.publisher.topics.camera_available(&camera.name, CameraState::Lost),
                    );
                }
                self.post(self.publisher.topics.daemon_available(OFFLINE));
                said_offline = true;
            }
            if let Err(why) = self.hand_over() {
                return broke(why);
            }
            if said_offline && self.outbox.is_idle() {
                break;
            }
            match tokio::time::timeout_at(deadline, heard.recv()).await {
                Ok(Some(event)) => self.note_progress(event),
                // The connection ends without a DISCONNECT, so that the broker publishes the last
                // will.
                Ok(None) | Err(_) => return Over::Stopped,
            }
        }
        if self.client.disconnect() {
            let sent = async {
                while let Some(event) = heard.recv().await
                    && event != Heard::Disconnecting
                {}
            };
            let _ = tokio::time::timeout_at(deadline, sent).await;
        }
        Over::Stopped
    }

    fn subscribe(&mut self) -> Result<(), String> {
        let publisher = &mut *self.publisher;
        match publisher.no_questions_until.filter(|until| Instant::now() < *until) {
            Some(_) => {
                let (topic, minutes) = (publisher.topics.questions(), WITHOUT_QUESTIONS / 60);
                tracing::warn!(
                    "MQTT: a packet on {topic} was too large; no questions for {} min. If it is \
                     retained, delete it: publish an empty retained message there",
                    minutes.as_secs()
                );
            }
            None => self.client.subscribe(publisher.topics.questions())?,
        }
        if let Some(discovery) = &publisher.discovery {
            self.client.subscribe(discovery.birth())?;
            self.client.subscribe(discovery.devices())?;
        }
        self.client.subscribe(publisher.topics.rules())
    }

    /// Returns the messages of an event, or none if making them panicked before. Nothing is retained
    /// for a camera that was removed, nor for an event that is not the newest.
    pub fn messages(&mut self, event: &Event) -> Vec<Message> {
        let publisher = &mut *self.publisher;
        if publisher.unsayable.contains(&event.id) {
            return Vec::new();
        }
        // If this panics, the next run leaves the event out.
        publisher.saying = Some(event.id);
        let mut cameras = publisher.service.cameras().into_iter();
        let state = cameras.find(|c| c.name == event.camera).map(|c| c.status.state);
        let mut messages = publisher.topics.messages(event, state.unwrap_or(CameraState::Lost));
        messages.extend(self.rule_state(event));
        if state.is_none() || self.is_past(event) {
            messages.retain(|message| !message.retain);
        }
        let age = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
        let left = self.publisher.config.catch_up.saturating_sub(age).max(SOON);
        for message in messages.iter_mut().filter(|message| !message.retain) {
            message.expiry = Some(left);
        }
        self.publisher.saying = None;
        messages
    }

    /// Returns true for an event that does not show how its camera is now: a newer one was shown,
    /// or it is a state of an earlier run.
    fn is_past(&self, event: &Event) -> bool {
        let kind = event.body.kind();
        let newest = self.shown.get(&(event.camera.clone(), kind));
        let run = self.publisher.service.journal().run();
        newest.is_some_and(|newest| event.id <= *newest)
            || (kind == EventKind::CameraStatus && event.id.run != run)
    }

    fn take(&mut self, read: Read, cursor: &dyn Cursor) {
        match read {
            Read::Event(event) if self.is_too_old(&event) => {
                self.too_old += 1;
                metrics::mqtt_events_missed(1);
                self.outbox.enter(event.id, None, Vec::new());
                self.publisher.advance(self.outbox.done());
            }
            Read::Event(event) => {
                let too_old = std::mem::take(&mut self.too_old);
                if too_old > 0 {
                    tracing::warn!("MQTT: {too_old} events are older than mqtt.catch_up: not sent");
                }
                self.enter(event);
            }
            Read::Missed(events) => {
                match events {
                    Some(events) => tracing::warn!(
                        "MQTT: {events} events left the journal before the broker took them"
                    ),
                    None => tracing::warn!(
                        "MQTT: the journal no longer holds the run that the broker was sent last; \
                         events may be missing"
                    ),
                }
                metrics::mqtt_events_missed(events.unwrap_or(0));
                // The events are counted once, even if the connection breaks again.
                let EventId { run, sequence } = cursor.position();
                let before = EventId { run, sequence: sequence.saturating_sub(1) };
                self.outbox.enter(before.max(self.outbox.done()), None, Vec::new());
                self.publisher.advance(self.outbox.done());
                // A camera's last change, its addition or its removal may be among them.
                self.cameras_available();
                self.must_announce = true;
            }
        }
    }

    /// Returns true for an event that is older than `catch_up`. The host's clock may have been set
    /// since, so an event of this run is not older than the publisher.
    fn is_too_old(&self, event: &Event) -> bool {
        let publisher = &self.publisher;
        let age = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
        let is_of_this_run = event.id.run == publisher.service.journal().run();
        let limit = publisher.config.catch_up;
        age > limit && !(is_of_this_run && publisher.since.elapsed() <= limit)
    }

    fn enter(&mut self, event: Arc<Event>) {
        let id = event.id;
        let mut messages = self.messages(&event);
        let is_shown = messages.iter().any(|message| message.retain);
        if is_shown && self.publisher.discovery.is_some() {
            self.pictures.look_up(&self.publisher.service, &event);
        }
        let shows_camera = matches!(event.body, Body::CameraStatus(_));
        messages.retain(|message| self.will_be_taken(message, Some(id)));
        self.outbox.enter(id, Some(event), messages);
        self.publisher.advance(self.outbox.done());
        self.must_announce |= shows_camera && self.cameras_changed();
    }

    pub fn post(&mut self, message: Message) {
        if self.will_be_taken(&message, None) {
            self.outbox.post(message);
        }
    }

    /// Returns false for a message that the broker is known not to take.
    pub fn will_be_taken(&mut self, message: &Message, event: Option<EventId>) -> bool {
        let (topic, size) = (message.topic.clone(), message.payload.len());
        let origin = Origin { event, topic, size };
        if self.publisher.blame.leaves_out(&origin) {
            return false;
        }
        let size = message.packet_size();
        match self.largest.filter(|largest| size > *largest) {
            Some(largest) => {
                let why = format!("it has {size} bytes, and the broker takes {largest}");
                self.publisher.left_out(&origin, &why);
                false
            }
            None => true,
        }
    }

    fn hear(&mut self, topic: &str, payload: &[u8], retain: bool, reply_to: Option<ReplyTo>) {
        if let Some(discovery) = &self.publisher.discovery {
            if topic == discovery.birth() {
                // A retained `online` is old: this connection announces everything anyway.
                if payload.trim_ascii() == ONLINE.as_bytes() && !retain {
                    self.must_announce = true;
                    self.publish_last_events();
                }
                return;
            }
            if let Some(camera) = discovery.camera(topic) {
                // What is not retained are the messages of this connection.
                if retain && !payload.is_empty() && self.found_device(camera) {
                    self.must_announce = true;
                }
                return;
            }
        }
        if self.found_rule(topic, payload, retain) {
            return;
        }
        let Some(camera) = self.publisher.topics.asked(topic) else { return };
        if retain {
            tracing::warn!(topic, "a retained question would be asked again on every connection");
            return;
        }
        let publisher = &mut *self.publisher;
        let reply_to = match reply_to {
            Some(to) => publisher.topics.check_reply(&to.topic).map(|()| Some(to)),
            None => Ok(None),
        };
        let to = reply_to.clone().ok().flatten();
        let asked = publisher.questions.ask(&publisher.service, camera, payload, reply_to);
        if let Err(refusal) = asked {
            self.reply(Reply { to, content: ReplyContent::Refused(refusal) });
        }
    }

    /// Publishes a refusal, and a reply to the response topic that the client named.
    fn reply(&mut self, Reply { to, content }: Reply) {
        let payload = match &content {
            ReplyContent::Answered(event) => event_json(event),
            ReplyContent::Refused(refusal) => serde_json::to_vec(refusal).unwrap_or_default(),
        };
        let message = |topic, correlation| Message {
            expiry: Some(self.publisher.config.catch_up),
            correlation,
            ..Message::new(topic, payload.clone(), Content::Json, false)
        };
        let mut messages = Vec::new();
        if let ReplyContent::Refused(refusal) = &content {
            let topic = self.publisher.topics.camera(&refusal.camera, ANSWER);
            messages.push(message(topic, None));
        }
        messages.extend(to.map(|ReplyTo { topic, correlation }| message(topic, correlation)));
        for message in messages {
            let topic = message.topic.clone();
            if self.will_be_taken(&message, None) && !self.outbox.note(message) {
                tracing::warn!(topic, "MQTT: too many replies are waiting; one is not sent");
            }
        }
    }

    fn hand_over(&mut self) -> Result<(), String> {
        while let Some(message) = self.outbox.hand() {
            let handed = self.client.publish(message);
            handed.map_err(|e| format!("the client takes no message: {e}"))?;
        }
        Ok(())
    }

    fn note_progress(&mut self, event: Heard) {
        let (packet, refused) = match event {
            Heard::Sent(packet) => return self.outbox.sent(packet),
            Heard::Taken(packet) => (packet, None),
            Heard::Refused(packet, why) => (packet, Some(why)),
            Heard::SubscriptionRefused => {
                tracing::warn!("MQTT: the broker refuses a subscription; questions may not arrive");
                return;
            }
            _ => return,
        };
        let Some(answered) = self.outbox.answered(packet) else { return };
        self.publisher.blame.answered(&answered.origin);
        self.publisher.advance(self.outbox.done());
        match (refused, answered.event) {
            (Some(why), _) => self.publisher.left_out(&answered.origin, &why),
            (None, Some(event)) => {
                let took = SystemTime::now().duration_since(event.published_at).unwrap_or_default();
                metrics::published(&event.camera, Interface::Mqtt, took);
            }
            (None, None) => {}
        }
    }
}

/// Runs the event loop until the connection ends.
async fn drive(turns: &mut Loop, to: mpsc::Sender<Heard>) -> Break {
    loop {
        match turns.turn().await {
            Ok(heard) => {
                if to.send(heard).await.is_err() {
                    // `converse` has ended, and this future is dropped with it.
                    return std::future::pending().await;
                }
            }
            Err(broke) => return broke,
        }
    }
}
