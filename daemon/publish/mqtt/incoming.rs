//! Handles what clients send: questions and acknowledgements. Also handles what the broker retains
//! of earlier runs.

use tokio::time::Instant;

use super::acknowledgements;
use super::connection::{Connection, WITHOUT_REQUESTS};
use super::link::ReplyTo;
use super::message::{Content, Message};
use super::questions::{Reply, ReplyContent};
use super::topics::{ANSWER, ONLINE, event_json};

impl Connection<'_> {
    pub fn subscribe(&mut self) -> Result<(), String> {
        let publisher = &mut *self.publisher;
        match publisher.no_requests_until.filter(|until| Instant::now() < *until) {
            Some(_) => {
                let topics = &publisher.topics;
                let (questions, acknowledge) = (topics.questions(), topics.acknowledge());
                let minutes = (WITHOUT_REQUESTS / 60).as_secs();
                tracing::warn!(
                    "MQTT: a packet on {questions} or {acknowledge} was too large; no questions and \
                     acknowledgements for {minutes} min. If it is retained, delete it: publish an \
                     empty retained message there"
                );
            }
            None => {
                self.client.subscribe(publisher.topics.questions())?;
                self.client.subscribe(publisher.topics.acknowledge())?;
            }
        }
        if let Some(discovery) = &publisher.discovery {
            self.client.subscribe(discovery.birth())?;
            self.client.subscribe(discovery.devices())?;
        }
        self.client.subscribe(publisher.topics.rules())
    }

    pub fn hear(&mut self, topic: &str, payload: &[u8], retain: bool, reply_to: Option<ReplyTo>) {
        if let Some(discovery) = &self.publisher.discovery {
            if topic == discovery.birth() {
                // A retained `online` is old: this connection announces everything anyway.
                if payload.trim_ascii() == ONLINE.as_bytes() && !retain {
                    self.must_announce = true;
                    // Home Assistant may have been away.
                    self.said_removed.clear();
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
        let topics = &self.publisher.topics;
        let asked = topics.asked(topic);
        if asked.is_none() && topic != topics.acknowledge() {
            return;
        }
        if retain {
            tracing::warn!(topic, "a retained request would be repeated on every connection");
            return;
        }
        let reply_to = match reply_to {
            Some(to) => topics.check_reply(&to.topic).map(|()| Some(to)),
            None => Ok(None),
        };
        match asked {
            Some(camera) => self.ask(camera, payload, reply_to),
            None => self.acknowledge(payload, reply_to),
        }
    }

    fn ask(&mut self, camera: &str, payload: &[u8], reply_to: Result<Option<ReplyTo>, String>) {
        let to = reply_to.clone().ok().flatten();
        let publisher = &mut *self.publisher;
        let asked = publisher.questions.ask(&publisher.service, camera, payload, reply_to);
        if let Err(refusal) = asked {
            self.reply(Reply { to, content: ReplyContent::Refused(refusal) });
        }
    }

    fn acknowledge(&mut self, payload: &[u8], reply_to: Result<Option<ReplyTo>, String>) {
        let (to, checked) = match reply_to {
            Ok(to) => (to, Ok(())),
            Err(why) => (None, Err(why)),
        };
        match acknowledgements::acknowledge(&self.publisher.service, payload, checked) {
            Ok(event) => self.send_reply(&event_json(&event), None, to),
            Err(refusal) => {
                let topic = self.publisher.topics.acknowledge_refused();
                let payload = serde_json::to_vec(&refusal).unwrap_or_default();
                self.send_reply(&payload, Some(topic), to);
            }
        }
    }

    /// Publishes an answer or a refusal of a question.
    pub fn reply(&mut self, Reply { to, content }: Reply) {
        match content {
            ReplyContent::Answered(event) => self.send_reply(&event_json(&event), None, to),
            ReplyContent::Refused(refusal) => {
                let topic = self.publisher.topics.camera(&refusal.camera, ANSWER);
                let payload = serde_json::to_vec(&refusal).unwrap_or_default();
                self.send_reply(&payload, Some(topic), to);
            }
        }
    }

    /// Publishes a reply on a topic of the daemon, and on the response topic that the client named.
    fn send_reply(&mut self, payload: &[u8], topic: Option<String>, to: Option<ReplyTo>) {
        let message = |topic, correlation| Message {
            expiry: Some(self.publisher.config.catch_up),
            correlation,
            ..Message::new(topic, payload.to_vec(), Content::Json, false)
        };
        let mut messages: Vec<Message> =
            topic.into_iter().map(|topic| message(topic, None)).collect();
        messages.extend(to.map(|ReplyTo { topic, correlation }| message(topic, correlation)));
        for message in messages {
            let topic = message.topic.clone();
            if self.will_be_taken(&message, None) && !self.outbox.note(message) {
                tracing::warn!(topic, "MQTT: too many replies are waiting; one is not sent");
            }
        }
    }
}
