//! The `[mqtt]` table: the broker, and the names of topics.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::rules::{at_least, invalid, plain_name, required};
use super::values::client_id;
use super::{ConfigError, Secret, masked};

const BROKER: &str = "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]";

#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    pub host: String,
    pub port: u16,
    pub tls: Option<MqttTls>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub client_id: String,
    /// First level of every topic, `lookout` by default.
    pub topic_prefix: String,
    /// First level of Home Assistant's discovery topics, or `None` for no discovery.
    pub discovery: Option<String>,
    /// Maximum age of an event that is sent.
    pub catch_up: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MqttTls {
    /// PEM file of the authority that signed the broker's certificate, or `None` for the system's
    /// authorities.
    pub ca_file: Option<PathBuf>,
    /// The certificate with which the daemon identifies itself to the broker.
    pub client: Option<ClientCertificate>,
}

/// PEM files of a certificate (with its chain) and its private key.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientCertificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttTable {
    broker: Option<String>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    client_cert_file: Option<PathBuf>,
    client_key_file: Option<PathBuf>,
    client_id: String,
    topic_prefix: String,
    home_assistant: bool,
    home_assistant_prefix: String,
    #[serde(with = "humantime_serde")]
    catch_up: Duration,
}

impl Default for MqttTable {
    fn default() -> MqttTable {
        MqttTable {
            broker: None,
            username: None,
            password_file: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            client_id: client_id(),
            topic_prefix: "lookout".into(),
            home_assistant: true,
            home_assistant_prefix: "homeassistant".into(),
            catch_up: Duration::from_secs(24 * 3600),
        }
    }
}

impl MqttTable {
    pub fn check(self, folder: &Path) -> Result<Mqtt, ConfigError> {
        let broker = required("mqtt.broker", self.broker, BROKER)?;
        let bad = |why: &str| {
            let found = format!("{:?}", masked(&broker));
            invalid("mqtt.broker", found, format!("{BROKER} ({why})"))
        };
        let url = Url::parse(&broker).map_err(|e| bad(&e.to_string()))?;
        let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| bad("no host"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("set the user in mqtt.username, the password in mqtt.password_file"));
        }
        if self.password_file.is_some() && self.username.is_none() {
            return Err(ConfigError("mqtt.password_file needs mqtt.username".into()));
        }
        let ca_file = self.ca_file.map(|path| folder.join(path));
        let client = client_certificate(self.client_cert_file, self.client_key_file, folder)?;
        let (tls, port) = match url.scheme() {
            "mqtt" if ca_file.is_some() => return Err(bad("mqtt.ca_file needs mqtts://")),
            "mqtt" if client.is_some() => {
                return Err(bad("mqtt.client_cert_file needs mqtts://"));
            }
            "mqtt" => (None, 1883),
            "mqtts" => (Some(MqttTls { ca_file, client }), 8883),
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
            password: self.password_file.map(|path| Secret::File(folder.join(path))),
            client_id: self.client_id,
            topic_prefix: self.topic_prefix,
            catch_up: at_least("mqtt.catch_up", self.catch_up, Duration::from_secs(60))?,
            discovery: self.home_assistant.then_some(self.home_assistant_prefix),
        })
    }
}

fn client_certificate(
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    folder: &Path,
) -> Result<Option<ClientCertificate>, ConfigError> {
    match (cert_file, key_file) {
        (Some(cert_file), Some(key_file)) => Ok(Some(ClientCertificate {
            cert_file: folder.join(cert_file),
            key_file: folder.join(key_file),
        })),
        (None, None) => Ok(None),
        (Some(_), None) => {
            Err(ConfigError("mqtt.client_cert_file needs mqtt.client_key_file".into()))
        }
        (None, Some(_)) => {
            Err(ConfigError("mqtt.client_key_file needs mqtt.client_cert_file".into()))
        }
    }
}
