//! Builds the connection options of the broker: address, credentials, TLS.
//!
//! The files are read again for every attempt, so that a changed password or authority takes effect
//! without a restart.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{NetworkOptions, QoS, TlsConfiguration, Transport, v5};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::outbox::WINDOW;
use super::topics::{OFFLINE, Topics};
use crate::config::{Mqtt, MqttTls};

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
        Ok(Access { client_id, host, port, credentials, tls })
    }
}

pub fn network() -> NetworkOptions {
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(CONNECT_TIMEOUT);
    network.set_tcp_nodelay(true);
    network
}

pub fn v5(access: Access, topics: &Topics) -> v5::MqttOptions {
    use v5::mqttbytes::QoS;
    use v5::mqttbytes::v5::LastWill;
    let mut options = v5::MqttOptions::new(access.client_id, access.host, access.port);
    let will = LastWill::new(topics.available(), OFFLINE, QoS::AtLeastOnce, true, None);
    options
        .set_clean_start(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_connection_timeout(CONNECT_TIMEOUT)
        .set_network_options(network())
        .set_outgoing_inflight_upper_limit(WINDOW as u16)
        .set_max_packet_size(Some(LARGEST_PACKET))
        .set_last_will(will);
    if let Some((username, password)) = access.credentials {
        options.set_credentials(username, password);
    }
    if let Some(tls) = access.tls {
        options.set_transport(Transport::tls_with_config(tls));
    }
    options
}

pub fn v3(access: Access, topics: &Topics) -> rumqttc::MqttOptions {
    let mut options = rumqttc::MqttOptions::new(access.client_id, access.host, access.port);
    let will = rumqttc::LastWill::new(topics.available(), OFFLINE, QoS::AtLeastOnce, true);
    options
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(WINDOW as u16)
        // The outgoing limit is that of MQTT itself, because the broker's limit is decisive.
        .set_max_packet_size(LARGEST_PACKET as usize, 256 << 20)
        .set_last_will(will);
    if let Some((username, password)) = access.credentials {
        options.set_credentials(username, password);
    }
    if let Some(tls) = access.tls {
        options.set_transport(Transport::tls_with_config(tls));
    }
    options
}

fn client_config(tls: &MqttTls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(file) => {
            let failed = |e: String| format!("CA file {}: {e}", file.display());
            let certificates =
                CertificateDer::pem_file_iter(file).map_err(|e| failed(e.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|e| failed(e.to_string()))?;
                roots.add(certificate).map_err(|e| failed(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(failed("holds no certificate".into()));
            }
        }
        None => {
            // Systems contain unusual certificates; an unreadable one is not a reason to refuse the
            // others.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err("the system has no certificate authorities; name a CA file".into());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
