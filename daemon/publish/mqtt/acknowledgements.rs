//! Accepts acknowledgements of alerts over MQTT.
//!
//! An accepted one is an event of the alert, which the journal delivers. A refusal has no event and
//! is published directly.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::event::Event;
use crate::excerpt::one_line;
use crate::publish::json_fields;
use crate::question::start_of;
use crate::service::{AlertNotFound, Code, Service};

const WANTED: &str = r#"wanted an alert's ID, or {"alert_id"} or {"camera", "rule"}, and "false_alarm": true or false"#;

/// The fields of an acknowledgement in JSON with their meaning, for the documentation.
pub const ACKNOWLEDGEMENT_FIELDS: &[(&str, &str)] = &[
    ("alert_id", "ID of the alert. Required without `camera` and `rule`."),
    ("camera", "With `rule`: the newest alert of that rule on this camera, active or ended."),
    ("rule", "Name of the rule."),
    ("false_alarm", "`true` marks the alert as a false alarm. Default: `false`."),
];

/// The values that a client sent.
#[derive(Debug, Default, PartialEq)]
struct Draft {
    alert_id: String,
    camera: String,
    rule: String,
    false_alarm: bool,
}

/// The JSON that `acknowledge_refused` carries.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename = "refused")]
pub struct Refusal {
    pub alert_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub camera: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rule: String,
    pub message: Box<str>,
    /// Name of the gRPC status code.
    pub code: &'static str,
    /// The reason that programs can compare.
    pub reason: &'static str,
}

/// Acknowledges the alert that a payload names. Returns the event of the acknowledgement. An error
/// in `reply_to` is the client's, too.
pub fn acknowledge(
    service: &Arc<dyn Service>,
    payload: &[u8],
    reply_to: Result<(), String>,
) -> Result<Arc<Event>, Refusal> {
    let (mut draft, read) = draft(payload);
    if let Err(why) = read.and(reply_to).and_then(|()| draft.check()) {
        return Err(draft.refusal(why, Code::InvalidArgument, "INVALID_ACKNOWLEDGEMENT"));
    }
    if draft.alert_id.is_empty() {
        match service.newest_alert(&draft.camera, &draft.rule) {
            Some(alert) => draft.alert_id = alert.alert_id.to_string(),
            None => {
                let Draft { camera, rule, .. } = &draft;
                let (camera, rule) = (start_of(camera), start_of(rule));
                let why = format!(
                    "camera {camera:?} has no alert of the rule {rule:?} among the newest 1,000"
                );
                return Err(draft.refusal(why, AlertNotFound::CODE, AlertNotFound::REASON));
            }
        }
    }
    service.acknowledge(&draft.alert_id, draft.false_alarm).map_err(|error| {
        draft.refusal(error.to_string(), AlertNotFound::CODE, AlertNotFound::REASON)
    })
}

/// Reads an acknowledgement: text that begins with `{` is JSON, other text is an alert's ID. The
/// draft has the fields before an error.
fn draft(payload: &[u8]) -> (Draft, Result<(), String>) {
    let mut draft = Draft::default();
    let Ok(text) = std::str::from_utf8(payload) else {
        return (draft, Err("the acknowledgement is not UTF-8".into()));
    };
    let text = text.trim();
    if !text.starts_with('{') {
        draft.alert_id = text.to_owned();
        return (draft, Ok(()));
    }
    let mut fields = Map::new();
    let mut result = json_fields::read(text, &mut fields).map_err(|e| format!("{WANTED}: {e}"));
    for (field, value) in fields {
        // The other fields are still read, so that a refusal has them.
        result = result.and(draft.fill(&field, value));
    }
    (draft, result)
}

impl Draft {
    /// Stores one field of the JSON. A `null` counts as absent.
    fn fill(&mut self, field: &str, value: Value) -> Result<(), String> {
        let text = match field {
            "alert_id" => &mut self.alert_id,
            "camera" => &mut self.camera,
            "rule" => &mut self.rule,
            "false_alarm" => {
                self.false_alarm = match value {
                    Value::Null => false,
                    Value::Bool(value) => value,
                    value => return Err(wanted(field, "true or false", &value)),
                };
                return Ok(());
            }
            unknown => return Err(format!("unknown field {:?}; {WANTED}", start_of(unknown))),
        };
        match value {
            Value::Null => {}
            Value::String(value) => *text = value,
            value => return Err(wanted(field, "text", &value)),
        }
        Ok(())
    }

    /// Returns an error unless the draft names one alert.
    fn check(&self) -> Result<(), String> {
        let has_id = !self.alert_id.is_empty();
        let has_rule = !self.camera.is_empty() && !self.rule.is_empty();
        let has_part = !self.camera.is_empty() || !self.rule.is_empty();
        let is_named = if has_id { !has_part } else { has_rule };
        if is_named { Ok(()) } else { Err(WANTED.into()) }
    }

    fn refusal(self, message: String, code: Code, reason: &'static str) -> Refusal {
        let Draft { alert_id, camera, rule, .. } = self;
        let message = one_line(&message).into();
        Refusal { alert_id, camera, rule, message, code: code.name(), reason }
    }
}

fn wanted(field: &str, what: &str, value: &Value) -> String {
    format!("{field} is {}; wanted {what}", start_of(&value.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(payload: &[u8]) -> Result<Draft, Refusal> {
        let (draft, read) = draft(payload);
        match read.and_then(|()| draft.check()) {
            Ok(()) => Ok(draft),
            Err(why) => Err(draft.refusal(why, Code::InvalidArgument, "INVALID_ACKNOWLEDGEMENT")),
        }
    }

    #[test]
    fn an_alert_is_named_by_its_id_or_by_its_camera_and_rule() {
        let named = Draft { alert_id: "a1".into(), ..Draft::default() };
        assert_eq!(parse(b" a1\n").unwrap(), named);
        assert_eq!(parse(br#"{"alert_id":"a1","camera":null}"#).unwrap(), named);
        let newest = Draft { camera: "gate".into(), rule: "person".into(), ..Draft::default() };
        assert_eq!(parse(br#"{"camera":"gate","rule":"person"}"#).unwrap(), newest);
        let wrong = br#"{"alert_id":"a1","false_alarm":true}"#;
        assert_eq!(parse(wrong).unwrap(), Draft { false_alarm: true, ..named });
    }

    #[test]
    fn the_listed_fields_are_those_that_are_read() {
        for (field, _) in ACKNOWLEDGEMENT_FIELDS {
            let refusal = parse(format!(r#"{{"{field}":7}}"#).as_bytes()).unwrap_err();
            assert!(refusal.message.starts_with(&format!("{field} is 7")), "{}", refusal.message);
            assert!(WANTED.contains(&format!("\"{field}\"")), "{field}");
        }
    }

    #[test]
    fn a_refusal_has_the_id_also_of_a_malformed_acknowledgement() {
        for fields in [
            r#""camera":"gate","rule":"person""#,
            r#""camera":"gate""#,
            r#""false_alarm":"yes""#,
            r#""false_alram":true"#,
            r#""rule":[]"#,
            r#""false_alarm":tr"#,
        ] {
            let payload = format!(r#"{{"alert_id":"a1",{fields}}}"#);
            let refusal = parse(payload.as_bytes()).unwrap_err();
            assert_eq!((&*refusal.alert_id, refusal.code), ("a1", "INVALID_ARGUMENT"), "{fields}");
        }
        for payload in ["", "{", "{}", r#"{"rule":"person"}"#, r#"{"camera":"gate","rule":""}"#] {
            assert!(parse(payload.as_bytes()).unwrap_err().message.contains("alert's ID"));
        }
        assert!(parse(b"\xff").unwrap_err().message.contains("UTF-8"));
    }

    proptest! {
        #[test]
        fn no_payload_causes_a_panic(text in "\\PC*", bytes: Vec<u8>) {
            let _ = parse(text.as_bytes());
            let _ = parse(&bytes);
            let _ = parse(format!(r#"{{"alert_id":"a",{text}}}"#).as_bytes());
        }
    }
}
