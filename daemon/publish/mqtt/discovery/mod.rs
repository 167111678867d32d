//! Describes the daemon and its cameras to Home Assistant, by its MQTT discovery.
//!
//! Each camera is a device of its own, connected through the daemon's device. A rule is an entity of
//! its cameras' devices. All payloads are pure
//! functions of the names. The topics of the cameras' devices contain the daemon's identifier, so
//! that a later run finds those of cameras that are no longer configured.

mod camera;
mod daemon;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::{Value, json};

use super::message::{Content, Message};
use super::topics::Topics;
use crate::config::Mqtt;

/// The rules of a camera's device.
#[derive(Default)]
pub struct AnnouncedRules {
    pub present: Vec<Arc<str>>,
    /// Rules whose entities are deleted.
    pub removed: Vec<Arc<str>>,
}

/// Makes the discovery messages of one daemon.
pub struct Discovery {
    prefix: String,
    /// The daemon's identifier: the client ID in the characters that Home Assistant allows.
    id: String,
    client_id: String,
}

impl Discovery {
    /// Returns `None` if the config disables Home Assistant.
    pub fn new(config: &Mqtt) -> Option<Discovery> {
        Some(Discovery {
            prefix: config.discovery.clone()?,
            id: identifier(&config.client_id),
            client_id: config.client_id.clone(),
        })
    }

    /// Returns the topic on which Home Assistant announces that it has started.
    pub fn birth(&self) -> String {
        format!("{}/status", self.prefix)
    }

    /// Returns the filter for the devices of this daemon's cameras, also those of earlier runs.
    pub fn devices(&self) -> String {
        self.device_topic("+")
    }

    /// Returns the camera whose device the topic describes.
    pub fn camera<'a>(&self, topic: &'a str) -> Option<&'a str> {
        let rest = topic.strip_prefix(&self.prefix)?.strip_prefix("/device/")?;
        let camera = rest.strip_prefix(&self.id)?.strip_prefix('/')?.strip_suffix("/config")?;
        (!camera.is_empty() && !camera.contains('/')).then_some(camera)
    }

    /// Describes the daemon. It is sent before the cameras, which refer to it.
    pub fn daemon_device(&self, topics: &Topics) -> Message {
        let topic = format!("{}/device/{}/config", self.prefix, self.id);
        message(topic, &daemon::device(&self.id, &self.client_id, topics))
    }

    pub fn camera_device(&self, topics: &Topics, camera: &str, rules: &AnnouncedRules) -> Message {
        message(self.device_topic(camera), &camera::device(&self.id, topics, camera, rules))
    }

    /// Removes a camera's device with its entities.
    pub fn removal(&self, camera: &str) -> Message {
        Message::removal(self.device_topic(camera))
    }

    fn device_topic(&self, camera: &str) -> String {
        format!("{}/device/{}/{camera}/config", self.prefix, self.id)
    }
}

fn message(topic: String, config: &Value) -> Message {
    Message::new(topic, config.to_string().into_bytes(), Content::Json, true)
}

/// Returns the `origin` of a device: the program that describes it.
fn origin() -> Value {
    json!({ "name": "lookout", "sw_version": env!("CARGO_PKG_VERSION") })
}

/// Returns the text with every character replaced by `_` that Home Assistant does not allow in
/// topics. Allowed are letters, digits, `_` and `-`.
fn identifier(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}
