//! The tables of the interfaces as serde reads them, `[grpc]`, `[http]` and `[mqtt]`, and their
//! checks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use super::raw::{plain_name, within, yes};
use super::values::client_id;
use super::{ConfigError, Listen, Mqtt, MqttTls, masked};

/// Maximum number of connections of an interface. The systemd unit allows the daemon 65,536 open
/// files, and cameras and segments need some of them.
const CONNECTIONS: usize = 16_384;

/// The table of an interface that listens: `[grpc]` or `[http]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawListen {
    enabled: Option<bool>,
    listen: Option<SocketAddr>,
    connections: Option<usize>,
}

impl RawListen {
    /// Returns the checked table `name`, or `None` if the interface is disabled. The port and the
    /// connections are its defaults.
    pub fn check(
        self,
        name: &str,
        port: u16,
        connections: usize,
    ) -> Result<Option<Listen>, ConfigError> {
        let key = format!("{name}.connections");
        let connections = within(&key, self.connections.unwrap_or(connections), 1, CONNECTIONS)?;
        let addr = self.listen.unwrap_or_else(|| ([127, 0, 0, 1], port).into());
        Ok(self.enabled.unwrap_or(true).then_some(Listen { addr, connections }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMqtt {
    broker: String,
    username: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    #[serde(default = "client_id")]
    client_id: String,
    #[serde(default = "lookout")]
    topic_prefix: String,
    #[serde(default = "yes")]
    home_assistant: bool,
    #[serde(default = "homeassistant")]
    home_assistant_prefix: String,
}

impl RawMqtt {
    pub fn check(self, folder: &Path) -> Result<Mqtt, ConfigError> {
        let bad = |why: &str| {
            ConfigError(format!(
                "mqtt.broker = {:?}: {why}; wanted mqtt://HOST[:PORT] or mqtts://HOST[:PORT]",
                masked(&self.broker)
            ))
        };
        let url = Url::parse(&self.broker).map_err(|e| bad(&e.to_string()))?;
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| bad("no host"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("user and password belong into mqtt.username and mqtt.password_file"));
        }
        let ca_file = self.ca_file.map(|path| folder.join(path));
        let (tls, port) = match url.scheme() {
            "mqtt" if ca_file.is_some() => return Err(bad("mqtt.ca_file needs mqtts://")),
            "mqtt" => (None, 1883),
            "mqtts" => (Some(MqttTls { ca_file }), 8883),
            _ => return Err(bad("unknown scheme")),
        };
        plain_name("mqtt.client_id", &self.client_id)?;
        plain_name("mqtt.topic_prefix", &self.topic_prefix)?;
        plain_name("mqtt.home_assistant_prefix", &self.home_assistant_prefix)?;
        Ok(Mqtt {
            host: host.to_string(),
            port: url.port().unwrap_or(port),
            tls,
            username: self.username,
            password_file: self.password_file.map(|path| folder.join(path)),
            client_id: self.client_id,
            topic_prefix: self.topic_prefix,
            discovery: self.home_assistant.then_some(self.home_assistant_prefix),
        })
    }
}

fn lookout() -> String {
    "lookout".into()
}

fn homeassistant() -> String {
    "homeassistant".into()
}
