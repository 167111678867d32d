//! Describes the daemon's device.

use serde_json::{Value, json};

use super::origin;
use crate::publish::mqtt::topics::{OFFLINE, ONLINE, Topics};

pub fn device(id: &str, client_id: &str, topics: &Topics) -> Value {
    json!({
        "device": {
            "identifiers": [id],
            "name": client_id,
            "manufacturer": "lookout",
            "model": "Daemon",
            "sw_version": env!("CARGO_PKG_VERSION"),
        },
        "origin": origin(),
        "qos": 1,
        "components": {
            "connection": {
                "platform": "binary_sensor",
                "unique_id": format!("{id}/connection"),
                "name": "Connection",
                "device_class": "connectivity",
                "entity_category": "diagnostic",
                "state_topic": topics.available(),
                "payload_on": ONLINE,
                "payload_off": OFFLINE,
            },
        },
    })
}
