//! Reads the certificates of a TLS connection to the broker: the authorities that may sign the
//! broker's certificate, and the client's own certificate and key.

use rustls::ClientConfig;

use crate::config::{ClientCertificate, MqttTls};
use crate::tls::{self, Named};

/// Reads the files that the config names. An error names the file and what is wrong with it.
pub fn client_config(tls: &MqttTls) -> Result<ClientConfig, String> {
    let authorities = tls::authorities("mqtt.ca_file", tls.ca_file.as_deref())?;
    let client = tls.client.as_ref().map(|ClientCertificate { cert_file, key_file }| {
        [
            Named { key: "mqtt.client_cert_file", file: cert_file },
            Named { key: "mqtt.client_key_file", file: key_file },
        ]
    });
    tls::client(authorities, client)
}
