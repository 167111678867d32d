//! Converts events to messages and defines the topics.

use std::time::SystemTime;

use serde::Serialize;

use super::message::{Content, Message};
use crate::config::Mqtt;
use crate::event::{Acknowledgement, Alert, Body, CameraState, Event, EventId, Severity};
use crate::frame::rfc3339;
use crate::question::start_of;
use crate::service::RuleInfo;

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
pub const ALERT: &str = "alert";
pub const RULE: &str = "rule";
pub const RULE_STATUS: &str = "rule_status";

/// The last level of the newest alert's topic, after the rule.
pub const LAST_ALERT: &str = "last_alert";

/// The last levels of the daemon's own topics for acknowledgements.
pub const ACKNOWLEDGE: &str = "acknowledge";
pub const ACKNOWLEDGE_REFUSED: &str = "acknowledge_refused";

/// Payloads of a rule's topic.
pub const ON: &str = "ON";
pub const OFF: &str = "OFF";

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
    Topic {
        name: "CAMERA/alert",
        retained: false,
        content: "each event of an alert, as JSON: `phase` is `new`, `update`, `end` or \
                  `acknowledged`",
    },
    Topic {
        name: "CAMERA/rule/RULE",
        retained: true,
        content: "`ON` while an alert of the rule is active, else `OFF`",
    },
    Topic {
        name: "CAMERA/rule/RULE/last_alert",
        retained: true,
        content: "the rule's `state` (`ON` or `OFF`), its question, and its newest alert in short, as \
                  JSON: ID, times, greatest score and acknowledgement",
    },
    Topic {
        name: "CAMERA/rule_status",
        retained: false,
        content: "each time that a rule becomes blind or sees again, as JSON",
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
        name: "acknowledge",
        retained: false,
        content: "acknowledgements of alerts, which clients publish: an alert's ID or JSON; with \
                  MQTT 5 the reply goes to the response topic, with the correlation data",
    },
    Topic {
        name: "acknowledge_refused",
        retained: false,
        content: "each refused acknowledgement, as JSON; an accepted one is on `CAMERA/alert`",
    },
    Topic {
        name: "CAMERA/ask",
        retained: false,
        content: "questions, which clients publish: text or JSON; with MQTT 5 the reply also goes to \
                  the response topic, with the correlation data",
    },
];

pub const ONLINE: &str = "online";
pub const OFFLINE: &str = "offline";

pub struct Topics {
    prefix: String,
    /// First level of Home Assistant's topics.
    discovery: Option<String>,
}

impl Topics {
    pub fn new(config: &Mqtt) -> Topics {
        Topics { prefix: config.topic_prefix.clone(), discovery: config.discovery.clone() }
    }

    /// Returns the topic of the daemon's availability. The last will publishes `offline` there.
    pub fn available(&self) -> String {
        format!("{}/{AVAILABLE}", self.prefix)
    }

    pub fn camera(&self, camera: &str, what: &str) -> String {
        format!("{}/{camera}/{what}", self.prefix)
    }

    /// Returns the topic of a rule's state.
    pub fn rule(&self, camera: &str, rule: &str) -> String {
        format!("{}/{camera}/{RULE}/{rule}", self.prefix)
    }

    /// Returns the topic of a rule's newest alert.
    pub fn last_alert(&self, camera: &str, rule: &str) -> String {
        format!("{}/{LAST_ALERT}", self.rule(camera, rule))
    }

    /// Returns the filter for the states of all rules, also those of earlier runs.
    pub fn rules(&self) -> String {
        self.rule("+", "+")
    }

    /// Returns the camera and the rule whose state is published on a topic.
    pub fn camera_and_rule<'a>(&self, topic: &'a str) -> Option<(&'a str, &'a str)> {
        let rest = topic.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        let (camera, rest) = rest.split_once('/')?;
        Some((camera, rest.strip_prefix(RULE)?.strip_prefix('/')?))
    }

    /// Returns the filter for questions to any camera. It includes unknown cameras, so that a
    /// question about one gets a refusal.
    pub fn questions(&self) -> String {
        self.camera("+", ASK)
    }

    /// Returns an error if a reply may not be published on a topic that a client names: it has
    /// wildcards, or it is one of this daemon's or the broker's own.
    pub fn check_reply(&self, topic: &str) -> Result<(), String> {
        let below = |prefix: &str| topic.split('/').next() == Some(prefix);
        let is_own = below(&self.prefix) || self.discovery.as_deref().is_some_and(below);
        let is_name = !topic.is_empty() && !topic.contains(['+', '#', '\0']);
        if is_name && !is_own && !topic.starts_with('$') {
            return Ok(());
        }
        let prefix = &self.prefix;
        let found = start_of(topic);
        Err(format!(
            "the response topic is {found:?}; wanted one without + and #, and not below {prefix}/, \
             Home Assistant's topics or $"
        ))
    }

    /// Returns the topic for acknowledgements of alerts.
    pub fn acknowledge(&self) -> String {
        format!("{}/{ACKNOWLEDGE}", self.prefix)
    }

    /// Returns the topic for refused acknowledgements.
    pub fn acknowledge_refused(&self) -> String {
        format!("{}/{ACKNOWLEDGE_REFUSED}", self.prefix)
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
        let message = |what, payload, content, retain| Message {
            event: Some(event.id),
            ..Message::new(self.camera(&event.camera, what), payload, content, retain)
        };
        let each = |what, json| message(what, json, Content::Json, false);
        let last = |what, json| message(what, json, Content::Json, true);
        match &event.body {
            // A window without a change does not replace the caption of the last one with a change.
            Body::Caption(caption) if caption.unchanged.is_some() => {
                vec![each(CAPTION, json)]
            }
            Body::Caption(caption) => {
                let text = short_text(&caption.inference.text).into_bytes();
                vec![
                    each(CAPTION, json.clone()),
                    last(LAST_CAPTION, json),
                    message(LAST_CAPTION_TEXT, text, Content::Text, true),
                ]
            }
            Body::Answer(_) => vec![each(ANSWER, json)],
            Body::CameraStatus(_) => {
                vec![
                    each(STATUS_CHANGE, json.clone()),
                    last(STATUS, json),
                    self.camera_available(&event.camera, state),
                ]
            }
            Body::Alert(_) => vec![each(ALERT, json)],
            Body::RuleStatus(_) => vec![each(RULE_STATUS, json)],
        }
    }

    pub fn camera_available(&self, camera: &str, state: CameraState) -> Message {
        let payload = if state == CameraState::Live { ONLINE } else { OFFLINE };
        Message::new(self.camera(camera, AVAILABLE), payload.into(), Content::Text, true)
    }

    /// Returns the messages of a rule's present state on a camera, of which `alert` is the newest.
    pub fn rule_state(&self, rule: &RuleInfo, alert: Option<&Alert>) -> [Message; 2] {
        let state = if alert.is_some_and(Alert::is_active) { ON } else { OFF };
        let last_alert = LastAlert {
            state,
            rule: &rule.name,
            question: &rule.question,
            severity: rule.severity,
            alert_id: alert.map(|alert| &*alert.alert_id),
            peak_score: alert.map(|alert| alert.peak_score),
            started_at: alert.map(|alert| alert.started_at),
            ended_at: alert.and_then(|alert| alert.ended_at),
            acknowledgement: alert.and_then(|alert| alert.acknowledgement),
        };
        let json = serde_json::to_vec(&last_alert).unwrap_or_default();
        let (camera, rule) = (&*rule.camera, &*rule.name);
        [
            Message::new(self.rule(camera, rule), state.into(), Content::Text, true),
            Message::new(self.last_alert(camera, rule), json, Content::Json, true),
        ]
    }

    /// Returns the messages that delete what is retained for a rule on a camera.
    pub fn rule_removals(&self, camera: &str, rule: &str) -> [Message; 2] {
        [self.rule(camera, rule), self.last_alert(camera, rule)].map(Message::removal)
    }

    /// Returns the message of a frame with the last caption, which is `event`.
    pub fn last_frame(&self, camera: &str, jpeg: &[u8], event: EventId) -> Message {
        let topic = self.camera(camera, LAST_FRAME);
        Message { event: Some(event), ..Message::new(topic, jpeg.into(), Content::Jpeg, true) }
    }

    pub fn daemon_available(&self, payload: &str) -> Message {
        Message::new(self.available(), payload.into(), Content::Text, true)
    }

    /// Returns the messages that delete what is retained for a camera.
    pub fn removals(&self, camera: &str) -> [Message; 5] {
        [AVAILABLE, STATUS, LAST_CAPTION, LAST_CAPTION_TEXT, LAST_FRAME]
            .map(|what| Message::removal(self.camera(camera, what)))
    }
}

/// The JSON of a rule's state and its newest alert in short, with the names of an alert's JSON.
#[derive(Serialize)]
struct LastAlert<'a> {
    state: &'static str,
    rule: &'a str,
    question: &'a str,
    severity: Severity,
    alert_id: Option<&'a str>,
    peak_score: Option<f64>,
    #[serde(with = "rfc3339::option")]
    started_at: Option<SystemTime>,
    #[serde(with = "rfc3339::option")]
    ended_at: Option<SystemTime>,
    acknowledgement: Option<Acknowledgement>,
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
    use crate::event::CameraStatus;

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
        let topics = Topics { prefix: "p".into(), discovery: None };
        let status = CameraStatus::connecting(std::time::SystemTime::UNIX_EPOCH);
        let id = EventId { run: 1, sequence: 1 };
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let event = Event::new(id, epoch, "gate".into(), Body::CameraStatus(status));
        let mut messages = topics.messages(&event, CameraState::Live);
        messages.push(topics.daemon_available(ONLINE));
        messages.push(topics.last_frame("gate", b"jpeg", event.id));
        messages.extend(topics.removals("gate"));
        messages.extend(topics.rule_removals("gate", "RULE"));
        for message in messages {
            let name = message.topic.replacen("p/", "", 1).replacen("gate", "CAMERA", 1);
            let listed = TOPICS.iter().find(|topic| topic.name == name).expect("a listed topic");
            assert_eq!(listed.retained, message.retain, "{name}");
        }
        for name in [CAPTION, LAST_CAPTION, LAST_CAPTION_TEXT, ANSWER, ALERT, RULE_STATUS] {
            assert!(TOPICS.iter().any(|topic| topic.name == format!("CAMERA/{name}")), "{name}");
        }
        assert_eq!(topics.questions(), "p/+/ask");
        for topic in [topics.acknowledge(), topics.acknowledge_refused()] {
            assert!(TOPICS.iter().any(|listed| format!("p/{}", listed.name) == topic), "{topic}");
        }
    }

    #[test]
    fn a_rules_topic_names_its_camera_and_the_rule() {
        let topics = Topics { prefix: "lookout".into(), discovery: None };
        let topic = topics.rule("gate", "person");
        assert_eq!(topic, "lookout/gate/rule/person");
        assert_eq!(topics.camera_and_rule(&topic), Some(("gate", "person")));
        assert_eq!(topics.rules(), "lookout/+/rule/+");
        for other in ["lookout/gate/rules/person", "lookouts/gate/rule/person", "lookout/gate/ask"]
        {
            assert_eq!(topics.camera_and_rule(other), None, "{other}");
        }
    }

    #[test]
    fn a_question_names_its_camera_and_perhaps_a_response_topic() {
        let topics = Topics { prefix: "lookout".into(), discovery: Some("ha".into()) };
        for topic in ["app/replies", "lookouts/x", "replies"] {
            assert_eq!(topics.check_reply(topic), Ok(()));
        }
        for topic in
            ["", "app/+", "#", "a\0b", "$SYS/x", "lookout/gate/ask", "lookout", "ha/device/x"]
        {
            assert!(topics.check_reply(topic).is_err(), "{topic}");
        }
        assert_eq!(topics.asked("lookout/gate/ask"), Some("gate"));
        assert_eq!(topics.asked("lookout/gate/answer"), None);
        assert_eq!(topics.asked("lookouts/gate/ask"), None);
    }
}
