//! Reads certificates and keys from PEM files. An error names the config's key, the file and what is
//! wrong with it.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A certificate with its chain, the leaf first, and its private key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A file, and the config's key or the flag that names it.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    pub key: &'a str,
    pub file: &'a Path,
}

impl Named<'_> {
    /// Returns an error about the file.
    pub fn failed(self, why: impl std::fmt::Display) -> String {
        format!("{} {}: {why}", self.key, self.file.display())
    }

    fn read(self) -> Result<Vec<u8>, String> {
        fs::read(self.file).map_err(|error| self.failed(unreadable(self.file, &error)))
    }
}

/// Returns the cryptography of every TLS connection.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Returns the settings of connections to servers whose certificate `roots` must have signed.
/// `client` names the files of the certificate and the key with which the client identifies itself.
pub fn client(roots: RootCertStore, client: Option<[Named; 2]>) -> Result<ClientConfig, String> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let Some([cert, key]) = client else { return Ok(config.with_no_client_auth()) };
    let (chain, private_key) = identity(cert, key)?;
    let config = config.with_client_auth_cert(chain, private_key);
    config.map_err(|error| not_together(&error, cert, key))
}

/// Returns the contents of a client's certificate file and key file, after [`client`] has accepted
/// them.
pub fn checked_pem(
    roots: RootCertStore,
    [cert, key]: [Named; 2],
) -> Result<(Vec<u8>, Vec<u8>), String> {
    client(roots, Some([cert, key]))?;
    Ok((cert.read()?, key.read()?))
}

/// Returns the authorities in a file, or the system's. `key` is the config's key of the file.
pub fn authorities(key: &str, ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        let named = Named { key, file };
        for certificate in certificates(named)? {
            roots.add(certificate).map_err(|error| named.failed(error))?;
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

/// Reads a certificate and its key. The caller checks that they belong together, and reports it by
/// [`not_together`] if they do not.
pub fn identity(cert: Named, key: Named) -> Result<Identity, String> {
    Ok((certificates(cert)?, private_key(key)?))
}

/// Describes why rustls does not accept a certificate with a key.
pub fn not_together(error: &rustls::Error, cert: Named, key: Named) -> String {
    let cert = cert.file.display();
    match error {
        rustls::Error::InconsistentKeys(_) => key.failed(format!(
            "is not the key of the certificate in {cert}; wanted the key with which that \
             certificate was made"
        )),
        error => key.failed(format!("with the certificate in {cert}: {error}")),
    }
}

fn certificates(named: Named) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = named.read()?;
    let read = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| named.failed(format!("is not PEM: {error}")))?;
    if read.is_empty() {
        return Err(named.failed("contains no certificate; wanted one in PEM"));
    }
    Ok(read)
}

fn private_key(named: Named) -> Result<PrivateKeyDer<'static>, String> {
    let text = named.read()?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let is_encrypted = text.windows(9).any(|part| part == b"ENCRYPTED");
        named.failed(match error {
            pem::Error::NoItemsFound if is_encrypted => {
                "contains an encrypted key; decrypt it by `openssl pkey`".into()
            }
            pem::Error::NoItemsFound => "contains no private key; wanted one in PEM".to_owned(),
            // The error may quote the file.
            _ => "is not PEM; wanted a private key".into(),
        })
    })
}

/// Describes why a file cannot be read. A missing permission is named with the file's owner and the
/// program's user.
fn unreadable(file: &Path, error: &io::Error) -> String {
    let why = format!("cannot be read: {error}");
    if error.kind() != ErrorKind::PermissionDenied {
        return why;
    }
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    match fs::metadata(file) {
        Ok(found) => {
            let (mode, owner, group) = (found.mode() & 0o7777, found.uid(), found.gid());
            format!(
                "{why}: its mode is {mode:03o}, its owner {owner} and its group {group}; user \
                 {user} needs permission to read it"
            )
        }
        Err(_) => format!("{why}: user {user} needs permission to enter its folder"),
    }
}
