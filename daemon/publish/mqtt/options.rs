//! How to reach the broker: address, credentials, TLS. Read anew for every attempt, so that a
//! changed password or authority is taken up without a restart.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{LastWill, MqttOptions, QoS, TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::outbox::WINDOW;
use super::topics::{OFFLINE, Topics};
use crate::config::{Mqtt, MqttTls};

/// A broker that is silent for twice as long is away.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What MQTT allows. The client ends the connection at a larger packet, so that with a smaller
/// limit one large retained question could end every connection; the broker's limit is the one
/// that counts.
const LARGEST_PACKET: usize = 256 * 1024 * 1024;

pub async fn options(config: &Mqtt, topics: &Topics) -> Result<MqttOptions, String> {
    // The client makes "host:port" of it, which an IPv6 address needs brackets for.
    let host = match config.host.parse::<std::net::Ipv6Addr>() {
        Ok(address) if config.tls.is_none() => format!("[{address}]"),
        _ => config.host.clone(),
    };
    let mut options = MqttOptions::new(&config.client_id, host, config.port);
    options
        .set_clean_session(true)
        .set_keep_alive(KEEP_ALIVE)
        .set_inflight(WINDOW as u16)
        .set_max_packet_size(LARGEST_PACKET, LARGEST_PACKET)
        .set_last_will(LastWill::new(topics.available(), OFFLINE, QoS::AtLeastOnce, true));
    if let Some(username) = &config.username {
        let password = match &config.password_file {
            Some(file) => tokio::fs::read_to_string(file)
                .await
                .map_err(|e| format!("password file {}: {e}", file.display()))?,
            None => String::new(),
        };
        options.set_credentials(username, password.trim_end_matches(['\r', '\n']));
    }
    if let Some(tls) = config.tls.clone() {
        let config = tokio::task::spawn_blocking(move || client_config(&tls))
            .await
            .map_err(|e| format!("reading certificates: {e}"))??;
        let config = TlsConfiguration::Rustls(Arc::new(config));
        options.set_transport(Transport::tls_with_config(config));
    }
    Ok(options)
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
            // Systems carry odd certificates; one that cannot be read is no reason to refuse all.
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
