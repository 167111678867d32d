//! Describes a camera's device and its entities.
//!
//! An entity with attributes has one topic for them and its state. With two topics, Home Assistant
//! would write a state for each message, the first of them with the old half.

use serde_json::{Value, json};

use super::{AnnouncedRules, origin};
use crate::publish::mqtt::topics::{
    ANSWER, ASK, AVAILABLE, CAPTION, LAST_CAPTION, LAST_FRAME, OFF, OFFLINE, ON, ONLINE, STATUS,
    Topics,
};

/// The text of a caption. A state has at most 255 characters.
const CAPTION_TEXT: &str = "{{ value_json.text if value_json.text | length <= 255 \
     else value_json.text[:254] ~ '…' }}";

/// The attributes of a caption. They omit its text, because Home Assistant stores them for every
/// state.
const CAPTION_ATTRIBUTES: &str = "{{ {'from': value_json.window.from, \
     'to': value_json.window.to, 'run': value_json.run, 'sequence': value_json.sequence, \
     'frames_used': value_json.coverage.frames_used, \
     'frames_expected': value_json.coverage.frames_expected, \
     'model': value_json.model} | to_json }}";

/// An event per caption. A window without a change is none: an empty payload is ignored.
const CAPTION_EVENT: &str = "{% if value_json.unchanged is not defined %}\
     {{ {'event_type': 'caption', 'text': value_json.text, 'from': value_json.window.from, \
     'to': value_json.window.to, 'run': value_json.run, 'sequence': value_json.sequence} \
     | to_json }}{% endif %}";

/// The text of an answer, or the reason for a refusal.
const ANSWER_TEXT: &str = "{% set text = value_json.text if value_json.kind == 'answer' \
     else 'error: ' ~ value_json.message %}\
     {{ text if text | length <= 255 else text[:254] ~ '…' }}";

const ANSWER_ATTRIBUTES: &str = "{{ {'question_id': value_json.question_id, \
     'question': value_json.prompt | default('') | truncate(255, true), \
     'text': value_json.text | default(value_json.message) | default('')} | to_json }}";

/// Home Assistant drops an attribute named `state`.
const STATUS_ATTRIBUTES: &str = "{{ {'camera_state': value_json.state, 'reason': value_json.reason, \
     'since': value_json.since, 'last_frame_at': value_json.last_frame_at, \
     'reconnects': value_json.reconnects} | to_json }}";

/// The attributes of a rule's newest alert. They are short, because Home Assistant stores them for
/// every state.
const RULE_ATTRIBUTES: &str = "{% set question = value_json.question | truncate(60, true, '…') %}\
     {% if value_json.alert_id is none %}\
     {{ {'question': question, 'severity': value_json.severity} | to_json }}\
     {% else %}\
     {{ {'question': question, 'severity': value_json.severity, 'alert_id': value_json.alert_id, \
     'since': value_json.started_at, 'score': value_json.peak_score | round(2), \
     'acknowledged': value_json.acknowledgement is not none} | to_json }}\
     {% endif %}";

pub fn device(id: &str, topics: &Topics, camera: &str, rules: &AnnouncedRules) -> Value {
    let topic = |what| topics.camera(camera, what);
    let unique = |entity: &str| format!("{id}/{camera}/{entity}");
    let daemon = json!({ "topic": topics.available() });
    // What shows the present is not available while the camera is not live.
    let live = json!([daemon, { "topic": topic(AVAILABLE) }]);
    let mut device = json!({
        "device": {
            "identifiers": [format!("{id}/{camera}")],
            "name": title(camera),
            "manufacturer": "lookout",
            "model": "Camera",
            "sw_version": env!("CARGO_PKG_VERSION"),
            "via_device": id,
        },
        "origin": origin(),
        "availability": [daemon],
        "availability_mode": "all",
        "qos": 1,
        "components": {
            "caption": {
                "platform": "sensor",
                "unique_id": unique("caption"),
                "name": "Caption",
                "icon": "mdi:message-video",
                "state_topic": topic(LAST_CAPTION),
                "value_template": CAPTION_TEXT,
                "json_attributes_topic": topic(LAST_CAPTION),
                "json_attributes_template": CAPTION_ATTRIBUTES,
                "availability": live,
                "availability_mode": "all",
            },
            "captioned": {
                "platform": "event",
                "unique_id": unique("captioned"),
                "name": "Captioned",
                "icon": "mdi:message-text-clock",
                "event_types": ["caption"],
                "state_topic": topic(CAPTION),
                "value_template": CAPTION_EVENT,
            },
            "frame": {
                "platform": "image",
                "unique_id": unique("frame"),
                "name": "Frame",
                "image_topic": topic(LAST_FRAME),
                "content_type": "image/jpeg",
                "availability": live,
                "availability_mode": "all",
            },
            "connection": {
                "platform": "binary_sensor",
                "unique_id": unique("connection"),
                "name": "Connection",
                "device_class": "connectivity",
                "entity_category": "diagnostic",
                "state_topic": topic(AVAILABLE),
                "payload_on": ONLINE,
                "payload_off": OFFLINE,
                "json_attributes_topic": topic(STATUS),
                "json_attributes_template": STATUS_ATTRIBUTES,
            },
            "question": {
                "platform": "text",
                "unique_id": unique("question"),
                "name": "Question",
                "icon": "mdi:comment-question-outline",
                "command_topic": topic(ASK),
                "min": 1,
                "max": 255,
            },
            "ask": {
                "platform": "notify",
                "unique_id": unique("ask"),
                "name": "Ask",
                "command_topic": topic(ASK),
            },
            "answer": {
                "platform": "sensor",
                "unique_id": unique("answer"),
                "name": "Answer",
                "icon": "mdi:comment-check",
                "state_topic": topic(ANSWER),
                "value_template": ANSWER_TEXT,
                "json_attributes_topic": topic(ANSWER),
                "json_attributes_template": ANSWER_ATTRIBUTES,
            },
        },
    });
    let key = |rule: &str| format!("rule_{rule}");
    let acknowledge = |rule: &str| format!("acknowledge_{rule}");
    for rule in &rules.present {
        device["components"][key(rule)] = json!({
            "platform": RULE_PLATFORM,
            "unique_id": unique(&format!("rule/{rule}")),
            "name": title(rule),
            "icon": "mdi:bell-alert",
            "state_topic": topics.last_alert(camera, rule),
            "value_template": "{{ value_json.state }}",
            "payload_on": ON,
            "payload_off": OFF,
            "json_attributes_topic": topics.last_alert(camera, rule),
            "json_attributes_template": RULE_ATTRIBUTES,
            "availability": live,
            "availability_mode": "all",
        });
        device["components"][acknowledge(rule)] = json!({
            "platform": ACKNOWLEDGE_PLATFORM,
            "unique_id": unique(&format!("rule/{rule}/acknowledge")),
            "name": format!("Acknowledge {}", title(rule)),
            "icon": "mdi:bell-check",
            "command_topic": topics.acknowledge(),
            "payload_press": json!({ "camera": camera, "rule": &**rule }).to_string(),
        });
    }
    // An entity with a platform alone is deleted.
    for rule in &rules.removed {
        device["components"][key(rule)] = json!({ "platform": RULE_PLATFORM });
        device["components"][acknowledge(rule)] = json!({ "platform": ACKNOWLEDGE_PLATFORM });
    }
    device
}

/// The platform of a rule's entity.
const RULE_PLATFORM: &str = "binary_sensor";

/// The platform of the entity that acknowledges a rule's newest alert.
const ACKNOWLEDGE_PLATFORM: &str = "button";

/// Returns a camera's name as a title: `front-door` becomes `Front Door`.
pub fn title(camera: &str) -> String {
    let words = camera.split(['-', '_', ' ']).filter(|word| !word.is_empty());
    let capitalised = words.map(|word| {
        let mut letters = word.chars();
        letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect::<String>()
    });
    capitalised.collect::<Vec<_>>().join(" ")
}
