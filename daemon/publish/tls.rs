//! Reads the certificates for TLS connections that the daemon opens. An error names the config's
//! key, the file and what is wrong with it.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, pem};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

/// Begins the configuration of a connection whose server's certificate `roots` must have signed.
pub fn builder(
    roots: RootCertStore,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(builder.with_root_certificates(roots))
}

/// Returns the authorities in a file, or the system's. `key` is the config's key of the file.
pub fn authorities(key: &str, ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        for certificate in certificates(key, file)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("{key} {}: {error}", file.display()))?;
        }
        return Ok(roots);
    }
    // Systems contain unusual certificates; an unreadable one is not a reason to refuse the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(format!("the system has no certificate authorities; set {key}"));
    }
    Ok(roots)
}

pub fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: String| format!("{key} {}: {why}", file.display());
    let read = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(unreadable(&error)))?;
    if read.is_empty() {
        return Err(failed("contains no certificate; wanted one in PEM".into()));
    }
    Ok(read)
}

pub fn unreadable(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read: {error}"),
        error => format!("is not PEM: {error}"),
    }
}
