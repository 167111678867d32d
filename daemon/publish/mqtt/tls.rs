//! Reads the certificates of a TLS connection to the broker: the authorities that may sign the
//! broker's certificate, and the client's own certificate and key.

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, pem};

use super::super::tls::{authorities, builder, certificates, unreadable};
use crate::config::{ClientCertificate, MqttTls};

/// Reads the files that the config names. An error names the file and what is wrong with it.
pub fn client_config(tls: &MqttTls) -> Result<ClientConfig, String> {
    let config = builder(authorities("mqtt.ca_file", tls.ca_file.as_deref())?)?;
    let Some(ClientCertificate { cert_file, key_file }) = &tls.client else {
        return Ok(config.with_no_client_auth());
    };
    let chain = certificates("mqtt.client_cert_file", cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
        let why = match error {
            pem::Error::NoItemsFound => "contains no private key; wanted one in PEM".into(),
            error => unreadable(&error),
        };
        format!("mqtt.client_key_file {}: {why}", key_file.display())
    })?;
    config.with_client_auth_cert(chain, key).map_err(|error| {
        let (cert, key) = (cert_file.display(), key_file.display());
        match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "mqtt.client_key_file {key}: is not the key of the certificate in {cert}; wanted \
                 the key with which that certificate was made"
            ),
            error => format!("mqtt.client_key_file {key}, certificate {cert}: {error}"),
        }
    })
}
