//! Converts events to messages and defines the topics.

use super::outbox::Message;
use crate::config::Mqtt;
use crate::event::{Body, CameraState, Event};

/// Maximum number of characters of the short text, which is that of a state in Home Assistant.
const STATE_CHARACTERS: usize = 255;

/// The last levels of a camera's topics.
pub const CAPTION: &str = "caption";
pub const LAST_CAPTION: &str = "last_caption";
pub const LAST_CAPTION_TEXT: &str = "last_caption_text";
pub const LAST_FRAME: &str = "last_frame";
pub const STATUS: &str = "status";
pub const STATUS_CHANGE: &str = "status_change";
pub const AVAILABLE: &str = "available";
pub const ASK: &str = "ask";
pub const ANSWER: &str = "answer";

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
    Topic {
        name: "CAMERA/last_caption",
        retained: true,
        content: "the last caption that is not `unchanged`, as JSON",
    },
    Topic {
        name: "CAMERA/last_caption_text",
        retained: true,
        content: "the text of that caption, at most 255 characters",
    },
    Topic {
        name: "CAMERA/last_frame",
        retained: true,
        content: "with `home_assistant = true`: the JPEG of that caption's last slow frame",
    },
    Topic {
        name: "CAMERA/answer",
        retained: false,
        content: "each answer, and each refused question, as JSON",
    },
    Topic { name: "CAMERA/status", retained: true, content: "the camera's present state, as JSON" },
    Topic {
        name: "CAMERA/status_change",
        retained: false,
        content: "each change of the camera's state, as JSON",
    },
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
}

impl Topics {
    pub fn new(config: &Mqtt) -> Topics {
        Topics { prefix: config.topic_prefix.clone() }
    }

    /// Returns the topic of the daemon's availability. The last will publishes `offline` there.
    pub fn available(&self) -> String {
        format!("{}/{AVAILABLE}", self.prefix)
    }

    pub fn camera(&self, camera: &str, what: &str) -> String {
        format!("{}/{camera}/{what}", self.prefix)
    }

    /// Returns the filter for questions to any camera. It includes unknown cameras, so that a
    /// question about one gets a refusal.
    pub fn questions(&self) -> String {
        self.camera("+", ASK)
    }

    /// Returns the camera that a question's topic names.
    pub fn asked<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(&self.prefix)?.strip_prefix('/')?.strip_suffix(ASK)?.strip_suffix('/')
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
            // A window without a change does not replace the caption of the last one with a change.
            Body::Caption(caption) if caption.unchanged.is_some() => {
                vec![message(CAPTION, json, false)]
            }
            Body::Caption(caption) => vec![
                message(CAPTION, json.clone(), false),
                message(LAST_CAPTION, json, true),
                message(LAST_CAPTION_TEXT, short_text(&caption.inference.text).into_bytes(), true),
            ],
            Body::Answer(_) => vec![message(ANSWER, json, false)],
            Body::CameraStatus(_) => {
                vec![
                    message(STATUS_CHANGE, json.clone(), false),
                    message(STATUS, json, true),
                    self.camera_available(&event.camera, state),
                ]
            }
        }
    }

    pub fn camera_available(&self, camera: &str, state: CameraState) -> Message {
        let payload = if state == CameraState::Live { ONLINE } else { OFFLINE };
        Message { topic: self.camera(camera, AVAILABLE), payload: payload.into(), retain: true }
    }

    pub fn last_frame(&self, camera: &str, jpeg: &[u8]) -> Message {
        Message { topic: self.camera(camera, LAST_FRAME), payload: jpeg.into(), retain: true }
    }

    pub fn daemon_available(&self, payload: &str) -> Message {
        Message { topic: self.available(), payload: payload.into(), retain: true }
    }

    /// Returns the messages that delete what is retained for a camera.
    pub fn removals(&self, camera: &str) -> [Message; 5] {
        [AVAILABLE, STATUS, LAST_CAPTION, LAST_CAPTION_TEXT, LAST_FRAME]
            .map(|what| Message::removal(self.camera(camera, what)))
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
        let topics = Topics { prefix: "p".into() };
        let status = CameraStatus::connecting(std::time::SystemTime::UNIX_EPOCH);
        let id = EventId { run: 1, sequence: 1 };
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let event = Event::new(id, epoch, "gate".into(), Body::CameraStatus(status));
        let mut messages = topics.messages(&event, CameraState::Live);
        messages.push(topics.daemon_available(ONLINE));
        messages.push(topics.last_frame("gate", b"jpeg"));
        messages.extend(topics.removals("gate"));
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
        let topics = Topics { prefix: "lookout".into() };
        assert_eq!(topics.asked("lookout/gate/ask"), Some("gate"));
        assert_eq!(topics.asked("lookout/gate/answer"), None);
        assert_eq!(topics.asked("lookouts/gate/ask"), None);
    }
}
