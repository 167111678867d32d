//! Builds the connection options of the broker: address, credentials, TLS.
//!
//! The files are read again for every attempt, so that a changed password or authority takes effect
//! without a restart.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{NetworkOptions, QoS, TlsConfiguration, Transport, v5};

use super::outbox::WINDOW;
use super::tls::client_config;
use super::topics::{OFFLINE, Topics};
use crate::config::Mqtt;

/// Keep-alive interval. A broker that is silent for twice as long counts as gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Maximum time in seconds for the connection and the ConnAck.
const CONNECT_TIMEOUT: u64 = 5;

/// Maximum size in bytes of a packet from the broker, far more than any question. An MQTT 5 broker
/// is informed of it and does not send larger packets.
pub const LARGEST_PACKET: u32 = 1 << 20;

/// The data from which a client of either version is made.
pub struct Access {
    client_id: String,
    host: String,
    port: u16,
    credentials: Option<(String, String)>,
    tls: Option<TlsConfiguration>,
    /// Topic at which the broker publishes `offline` when the connection ends, if it is to.
    will: Option<String>,
}

impl Access {
    pub async fn read(config: &Mqtt) -> Result<Access, String> {
        // The client joins host and port with a colon, so an IPv6 address needs brackets.
        let host = match config.host.parse::<std::net::Ipv6Addr>() {
            Ok(address) if config.tls.is_none() => format!("[{address}]"),
            _ => config.host.clone(),
        };
        let (username, password, tls) =
            (config.username.clone(), config.password.clone(), config.tls.clone());
        let read = move || {
            let password = password.map(|secret| secret.read()).transpose();
            let password = password.map_err(|e| e.to_string())?.unwrap_or_default();
            let tls = match tls {
                Some(tls) => Some(TlsConfiguration::Rustls(Arc::new(client_config(&tls)?))),
                None => None,
            };
            Ok::<_, String>((username.map(|name| (name, password)), tls))
        };
        let (credentials, tls) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|e| format!("reading password and certificates: {e}"))??;
        let (client_id, port) = (config.client_id.clone(), config.port);
        let will = Some(Topics::new(config).available());
        Ok(Access { client_id, host, port, credentials, tls, will })
    }

    /// Returns the data of a client that does not disturb a running daemon: with another ID, and
    /// without a last will.
    pub fn for_a_check(mut self) -> Access {
        self.client_id.push_str("-check");
        self.will = None;
        self
    }
}

pub fn network() -> NetworkOptions {
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(CONNECT_TIMEOUT);
    network.set_tcp_nodelay(true);
    network
}

pub fn v5(access: Access) -> v5::MqttOptions {
    use v5::mqttbytes::QoS;
    use v5::mqttbytes::v5::LastWill;
    let mut options = v5::MqttOptions::new(access.client_id, access.host, access.port);
    options
        .set_clean_start(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_connection_timeout(CONNECT_TIMEOUT)
        .set_network_options(network())
        .set_outgoing_inflight_upper_limit(WINDOW as u16)
        .set_max_packet_size(Some(LARGEST_PACKET));
    if let Some(topic) = access.will {
        options.set_last_will(LastWill::new(topic, OFFLINE, QoS::AtLeastOnce, true, None));
    }
    if let Some((username, password)) = access.credentials {
        options.set_credentials(username, password);
    }
    if let Some(tls) = access.tls {
        options.set_transport(Transport::tls_with_config(tls));
    }
    options
}

pub fn v3(access: Access) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(access.client_id, access.host, access.port);
    options
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(WINDOW as u16)
        // The outgoing limit is that of MQTT itself, because the broker's limit is decisive.
        .set_max_packet_size(LARGEST_PACKET as usize, 256 << 20);
    if let Some(topic) = access.will {
        options.set_last_will(rumqttc::LastWill::new(topic, OFFLINE, QoS::AtLeastOnce, true));
    }
    if let Some((username, password)) = access.credentials {
        options.set_credentials(username, password);
    }
    if let Some(tls) = access.tls {
        options.set_transport(Transport::tls_with_config(tls));
    }
    options
}
