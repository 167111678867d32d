//! The `[tls]` table: the certificate of the gRPC and HTTP interfaces.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;

/// The certificate with which the daemon identifies itself to the clients of gRPC and HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// PEM file of the certificate and its chain.
    pub cert_file: PathBuf,
    /// PEM file of its private key.
    pub key_file: PathBuf,
    /// PEM file of the authority that must have signed each client's certificate, or `None` if
    /// clients need none.
    pub client_ca_file: Option<PathBuf>,
}

/// The table as written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsTable {
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
}

impl TlsTable {
    /// Returns the checked table, or `None` without a certificate.
    pub fn check(self, folder: &Path) -> Result<Option<Tls>, ConfigError> {
        let needs =
            |key: &str, other: &str| Err(ConfigError(format!("tls.{key} needs tls.{other}")));
        match (self.cert_file, self.key_file) {
            (Some(cert_file), Some(key_file)) => Ok(Some(Tls {
                cert_file: folder.join(cert_file),
                key_file: folder.join(key_file),
                client_ca_file: self.client_ca_file.map(|file| folder.join(file)),
            })),
            (Some(_), None) => needs("cert_file", "key_file"),
            (None, Some(_)) => needs("key_file", "cert_file"),
            (None, None) if self.client_ca_file.is_some() => needs("client_ca_file", "cert_file"),
            (None, None) => Ok(None),
        }
    }
}
