//! Reads the certificates of a TLS connection to the broker: the authorities that may sign the
//! broker's certificate, and the client's own certificate and key.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{ClientCertificate, MqttTls};

/// Reads the files that the config names. An error names the file and what is wrong with it.
pub fn client_config(tls: &MqttTls) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(authorities(tls.ca_file.as_deref())?);
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

fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        for certificate in certificates("mqtt.ca_file", file)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("mqtt.ca_file {}: {error}", file.display()))?;
        }
        return Ok(roots);
    }
    // Systems contain unusual certificates; an unreadable one is not a reason to refuse the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("the system has no certificate authorities; set mqtt.ca_file".into());
    }
    Ok(roots)
}

fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: String| format!("{key} {}: {why}", file.display());
    let read = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(unreadable(&error)))?;
    if read.is_empty() {
        return Err(failed("contains no certificate; wanted one in PEM".into()));
    }
    Ok(read)
}

fn unreadable(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        error => format!("is not PEM: {error}"),
    }
}
