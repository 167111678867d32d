//! Converts events to messages and defines the topics.

use std::sync::Arc;

use serde_json::{Value, json};

use super::outbox::Message;
use crate::config::Mqtt;
use crate::event::{Body, CameraState, Event};

/// Maximum number of characters of a state in Home Assistant.
const STATE_CHARACTERS: usize = 255;

const CAPTION: &str = "caption";
const LAST_CAPTION: &str = "last_caption";
const LAST_CAPTION_TEXT: &str = "last_caption_text";
const ANSWER: &str = "answer";
const STATUS: &str = "status";

/// A topic, for the documentation.
pub struct Topic {
    /// The levels after the prefix. `CAMERA` stands for a camera's name.
    pub name: &'static str,
    pub retained: bool,
    pub content: &'static str,
}

/// All topics below the prefix.
pub const TOPICS: &[Topic] = &[
    Topic {
        name: "available",
        retained: true,
        content: "`online` while the daemon is connected, else `offline` (last will)",
    },
    Topic { name: "CAMERA/caption", retained: false, content: "each caption, as JSON" },
    Topic { name: "CAMERA/last_caption", retained: true, content: "the last caption, as JSON" },
    Topic {
        name: "CAMERA/last_caption_text",
        retained: true,
        content: "the text of the last caption, at most 255 characters",
    },
    Topic {
        name: "CAMERA/answer",
        retained: false,
        content: "each answer, and each refused question, as JSON",
    },
    Topic { name: "CAMERA/status", retained: true, content: "the camera's state, as JSON" },
    Topic {
        name: "CAMERA/available",
        retained: true,
        content: "`online` while the camera is live, else `offline`",
    },
    Topic {
        name: "CAMERA/ask",
        retained: false,
        content: "questions, which clients publish: text or JSON",
    },
];

pub const ONLINE: &str = "online";
pub const OFFLINE: &str = "offline";

pub struct Topics {
    prefix: String,
    discovery: Option<String>,
    client_id: String,
}

impl Topics {
    pub fn new(config: &Mqtt) -> Topics {
        Topics {
            prefix: config.topic_prefix.clone(),
            discovery: config.discovery.clone(),
            client_id: config.client_id.clone(),
        }
    }

    /// Returns the topic of the daemon's availability. The last will publishes `offline` there.
    pub fn available(&self) -> String {
        format!("{}/available", self.prefix)
    }

    pub fn camera(&self, camera: &str, what: &str) -> String {
        format!("{}/{camera}/{what}", self.prefix)
    }

    /// Returns the filter for questions to any camera. It includes unknown cameras, so that a
    /// question about one gets a refusal.
    pub fn questions(&self) -> String {
        format!("{}/+/ask", self.prefix)
    }

    /// Returns the camera that a question's topic names.
    pub fn asked<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(&self.prefix)?.strip_prefix('/')?.strip_suffix("/ask")
    }

    /// Returns the topic on which Home Assistant announces that it has started.
    pub fn discovery_status(&self) -> Option<String> {
        Some(format!("{}/status", self.discovery.as_ref()?))
    }

    /// Returns the messages of an event in the order of sending. `state` is the current state of
    /// the event's camera. An event that is sent late describes the past, not the camera's current
    /// availability.
    pub fn messages(&self, event: &Event, state: CameraState) -> Vec<Message> {
        let json = event_json(event);
        let message = |what, payload, retain| Message {
            topic: self.camera(&event.camera, what),
            payload,
            retain,
        };
        match &event.body {
            // The attributes are sent before the state, so that they are current for anything
            // triggered by the state.
            Body::Caption(caption) => vec![
                message(CAPTION, json.clone(), false),
                message(LAST_CAPTION, json, true),
                message(LAST_CAPTION_TEXT, short_text(&caption.inference.text).into_bytes(), true),
            ],
            Body::Answer(_) => vec![message(ANSWER, json, false)],
            Body::CameraStatus(_) => {
                vec![message(STATUS, json, true), self.camera_available(&event.camera, state)]
            }
        }
    }

    pub fn camera_available(&self, camera: &str, state: CameraState) -> Message {
        let payload = if state == CameraState::Live { ONLINE } else { OFFLINE };
        Message { topic: self.camera(camera, "available"), payload: payload.into(), retain: true }
    }

    pub fn daemon_available(&self, payload: &str) -> Message {
        Message { topic: self.available(), payload: payload.into(), retain: true }
    }

    /// Returns the message that announces one device with two entities per camera to Home
    /// Assistant.
    pub fn discovery(&self, cameras: &[Arc<str>]) -> Option<Message> {
        let discovery = self.discovery.as_ref()?;
        let id = identifier(&self.client_id);
        let components: serde_json::Map<String, Value> = cameras
            .iter()
            .flat_map(|camera| {
                let caption = json!({
                    "p": "sensor",
                    "unique_id": format!("{id}_{camera}_caption"),
                    "name": format!("{camera} caption"),
                    "icon": "mdi:message-video",
                    "state_topic": self.camera(camera, LAST_CAPTION_TEXT),
                    "json_attributes_topic": self.camera(camera, LAST_CAPTION),
                });
                let connection = json!({
                    "p": "binary_sensor",
                    "unique_id": format!("{id}_{camera}_connection"),
                    "name": format!("{camera} connection"),
                    "device_class": "connectivity",
                    "entity_category": "diagnostic",
                    "state_topic": self.camera(camera, "available"),
                    "payload_on": ONLINE,
                    "payload_off": OFFLINE,
                });
                [
                    (format!("{camera}_caption"), caption),
                    (format!("{camera}_connection"), connection),
                ]
            })
            .collect();
        let version = env!("CARGO_PKG_VERSION");
        let config = json!({
            "dev": { "ids": [id], "name": self.client_id, "mf": "lookout", "sw": version },
            "o": { "name": "lookout", "sw": version },
            "availability": [{ "topic": self.available() }],
            "qos": 1,
            "cmps": components,
        });
        Some(Message {
            topic: format!("{discovery}/device/{id}/config"),
            payload: config.to_string().into_bytes(),
            retain: true,
        })
    }
}

pub fn event_json(event: &Event) -> Vec<u8> {
    // Events contain only strings, numbers and times after 1970, all of which JSON can represent.
    serde_json::to_vec(event).unwrap_or_else(|e| {
        tracing::error!(sequence = event.id.sequence, "an event has no JSON: {e}");
        format!(r#"{{"sequence":{}}}"#, event.id.sequence).into_bytes()
    })
}

/// Returns the text, shortened to the maximum length of a state.
fn short_text(text: &str) -> String {
    if text.chars().count() <= STATE_CHARACTERS {
        return text.to_owned();
    }
    text.chars().take(STATE_CHARACTERS - 1).chain(['…']).collect()
}

/// Returns the text with every character that Home Assistant does not allow in topics replaced by
/// `_`. Allowed are letters, digits, `_` and `-`.
fn identifier(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CameraStatus, EventId};

    #[test]
    fn a_long_state_is_cut_between_characters() {
        assert_eq!(short_text("short"), "short");
        let fits = "ü".repeat(255);
        assert_eq!(short_text(&fits), fits);
        let cut = short_text(&"ü".repeat(256));
        assert_eq!(cut.chars().count(), 255);
        assert!(cut.ends_with("ü…"));
    }

    #[test]
    fn every_message_has_a_listed_topic() {
        let topics = Topics { prefix: "p".into(), discovery: None, client_id: "c".into() };
        let status = CameraStatus::connecting(std::time::SystemTime::UNIX_EPOCH);
        let event = Event {
            id: EventId { run: 1, sequence: 1 },
            published_at: std::time::SystemTime::UNIX_EPOCH,
            camera: "gate".into(),
            body: Body::CameraStatus(status),
        };
        let mut messages = topics.messages(&event, CameraState::Live);
        messages.push(topics.daemon_available(ONLINE));
        for message in messages {
            let name = message.topic.replacen("p/", "", 1).replacen("gate", "CAMERA", 1);
            let listed = TOPICS.iter().find(|topic| topic.name == name).expect("a listed topic");
            assert_eq!(listed.retained, message.retain, "{name}");
        }
        for name in [CAPTION, LAST_CAPTION, LAST_CAPTION_TEXT, ANSWER] {
            assert!(TOPICS.iter().any(|topic| topic.name == format!("CAMERA/{name}")), "{name}");
        }
        assert_eq!(topics.questions(), "p/+/ask");
    }

    #[test]
    fn a_question_names_its_camera() {
        let topics =
            Topics { prefix: "lookout".into(), discovery: None, client_id: "my box".into() };
        assert_eq!(topics.asked("lookout/gate/ask"), Some("gate"));
        assert_eq!(topics.asked("lookout/gate/answer"), None);
        assert_eq!(topics.asked("lookouts/gate/ask"), None);
        assert_eq!(identifier(&topics.client_id), "my_box");
    }
}
