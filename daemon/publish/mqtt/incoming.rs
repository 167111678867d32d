//! Handles what clients send: questions, and what the broker retains of earlier runs.

use tokio::time::Instant;

use super::connection::{Connection, WITHOUT_QUESTIONS};
use super::link::ReplyTo;
use super::message::{Content, Message};
use super::questions::{Reply, ReplyContent};
use super::topics::{ANSWER, ONLINE, event_json};

impl Connection<'_> {
    pub fn subscribe(&mut self) -> Result<(), String> {
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

    pub fn hear(&mut self, topic: &str, payload: &[u8], retain: bool, reply_to: Option<ReplyTo>) {
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
    pub fn reply(&mut self, Reply { to, content }: Reply) {
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
}
