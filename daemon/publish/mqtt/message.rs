//! A message to the broker, and what MQTT 5 says about it.

use std::time::Duration;

use crate::event::EventId;

/// Maximum size in bytes of a PUBLISH packet without topic, payload and properties.
const HEADER: usize = 12;

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub content: Content,
    /// The event that the message is about.
    pub event: Option<EventId>,
    /// Time after which the broker no longer delivers the message.
    pub expiry: Option<Duration>,
    /// Data by which a client recognises the reply to its question.
    pub correlation: Option<Vec<u8>>,
}

/// The kind of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    Json,
    Text,
    Jpeg,
    /// An empty payload, which deletes what is retained.
    Nothing,
}

impl Message {
    pub fn new(topic: String, payload: Vec<u8>, content: Content, retain: bool) -> Message {
        Message { topic, payload, retain, content, event: None, expiry: None, correlation: None }
    }

    /// Deletes what is retained on a topic.
    pub fn removal(topic: String) -> Message {
        Message::new(topic, Vec::new(), Content::Nothing, true)
    }

    /// Returns the MIME type of the payload.
    pub fn content_type(&self) -> Option<&'static str> {
        match self.content {
            Content::Json => Some("application/json"),
            Content::Text => Some("text/plain"),
            Content::Jpeg => Some("image/jpeg"),
            Content::Nothing => None,
        }
    }

    /// Returns true if the payload is UTF-8.
    pub fn is_utf8(&self) -> bool {
        matches!(self.content, Content::Json | Content::Text)
    }

    /// Returns run and sequence of the event, by which receivers recognise duplicates.
    pub fn user_properties(&self) -> Vec<(String, String)> {
        let of_event = |EventId { run, sequence }: EventId| {
            [("run".into(), run.to_string()), ("sequence".into(), sequence.to_string())]
        };
        self.event.into_iter().flat_map(of_event).collect()
    }

    /// Returns the maximum size in bytes of the MQTT 5 packet.
    pub fn packet_size(&self) -> usize {
        let user: usize =
            self.user_properties().iter().map(|(name, value)| 5 + name.len() + value.len()).sum();
        let content_type = self.content_type().map_or(0, |name| 3 + name.len());
        let correlation = self.correlation.as_ref().map_or(0, |data| 3 + data.len());
        let format = if self.is_utf8() { 2 } else { 0 };
        let expiry = if self.expiry.is_some() { 5 } else { 0 };
        let properties = user + content_type + correlation + format + expiry;
        HEADER + self.topic.len() + properties + self.payload.len()
    }
}
