//! The daemon's certificate and key, with which it serves gRPC and HTTP, exchanged while it runs.
//!
//! Guarantees: a new connection uses the files that were read last; open connections continue. Files
//! that cannot be used leave the old certificate in use, and are reported in the log, the metrics
//! and [`ServerTls::trouble`]. A certificate that is expired or not yet valid does not prevent a
//! start, because cameras and alerts do not depend on it, and the clock may be wrong.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

use super::files::{Named, authorities, identity, not_together, provider};
use super::validity::{Validity, shown};
use crate::config;
use crate::metrics;
use crate::sync::lock;

/// Interval at which the files are compared with those in use. ACME clients renew certificates
/// without notice.
const INTERVAL: Duration = Duration::from_secs(60);

/// A protocol over TLS, by which client and server agree on it (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http2,
    Http1,
}

/// The certificate in use.
pub struct ServerTls {
    current: Mutex<Arc<Loaded>>,
    latest: Mutex<Latest>,
}

/// The files as they were read.
struct Loaded {
    http2: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    validity: Validity,
}

/// The files that were tried last.
struct Latest {
    files: config::Tls,
    contents: Option<[u8; 32]>,
    /// The reason why these files are not in use.
    problem: Option<String>,
}

impl ServerTls {
    /// Reads the files that the config names.
    pub fn load(files: &config::Tls) -> Result<ServerTls, String> {
        let contents = fingerprint(files);
        let loaded = Loaded::read(files)?;
        metrics::tls_certificate(loaded.validity.until, false);
        let files = files.clone();
        let latest = Mutex::new(Latest { files, contents, problem: None });
        Ok(ServerTls { current: Mutex::new(Arc::new(loaded)), latest })
    }

    /// Reads the files again. Connections that begin from now on use them. If they cannot be used,
    /// or are not valid at this time, the old ones stay in use.
    pub fn reload(&self, files: &config::Tls) -> Result<(), String> {
        let contents = fingerprint(files);
        let read = Loaded::read(files).and_then(|loaded| {
            let file = files.cert_file.display();
            let valid = loaded.validity.check(SystemTime::now());
            valid.map(|()| loaded).map_err(|why| format!("tls.cert_file {file}: {why}"))
        });
        let mut latest = lock(&self.latest);
        let until = match read {
            Ok(loaded) => {
                let until = loaded.validity.until;
                tracing::info!("TLS: a new certificate is in use, {}", loaded.describe());
                *lock(&self.current) = Arc::new(loaded);
                *latest = Latest { files: files.clone(), contents, problem: None };
                until
            }
            Err(why) => {
                let until = lock(&self.current).validity.until;
                tracing::error!("TLS: the old certificate stays in use: {why}");
                let files = latest.files.clone();
                *latest = Latest { files, contents, problem: Some(why) };
                until
            }
        };
        metrics::tls_certificate(until, latest.problem.is_some());
        latest.problem.clone().map_or(Ok(()), Err)
    }

    /// Reads the files again whenever they change, indefinitely.
    pub async fn follow(self: Arc<Self>) {
        self.follow_every(INTERVAL).await;
    }

    pub(super) async fn follow_every(self: Arc<Self>, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            let server = self.clone();
            // A folder on a network may take long.
            let _ = tokio::task::spawn_blocking(move || server.reload_if_changed()).await;
        }
    }

    fn reload_if_changed(&self) {
        let (files, contents) = {
            let latest = lock(&self.latest);
            (latest.files.clone(), latest.contents)
        };
        if fingerprint(&files) != contents {
            // The error is logged and reported as a trouble.
            let _ = self.reload(&files);
        }
    }

    /// Returns what is wrong with the certificate, if anything.
    pub fn trouble(&self) -> Option<String> {
        let validity = lock(&self.current).validity.clone();
        let latest = lock(&self.latest);
        if let Some(why) = &latest.problem {
            let until = shown(validity.until);
            return Some(format!("the old TLS certificate, valid until {until}, is in use: {why}"));
        }
        let file = latest.files.cert_file.display();
        let invalid = validity.check(SystemTime::now()).err();
        invalid.map(|why| format!("tls.cert_file {file}: {why}"))
    }

    /// Describes the certificate in use: its names, and until when it is valid.
    pub fn describe(&self) -> String {
        lock(&self.current).describe()
    }

    /// Returns what encrypts the next connection.
    pub fn acceptor(&self, protocol: Protocol) -> TlsAcceptor {
        let current = lock(&self.current).clone();
        TlsAcceptor::from(match protocol {
            Protocol::Http2 => current.http2.clone(),
            Protocol::Http1 => current.http1.clone(),
        })
    }
}

impl Loaded {
    fn read(files: &config::Tls) -> Result<Loaded, String> {
        let config::Tls { cert_file, key_file, client_ca_file } = files;
        let cert_file = Named { key: "tls.cert_file", file: cert_file };
        let key_file = Named { key: "tls.key_file", file: key_file };
        let (chain, key) = identity(cert_file, key_file)?;
        let leaf = chain.first().map_or(&[][..], |leaf| leaf);
        let validity = Validity::of(leaf).map_err(|why| cert_file.failed(why))?;
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match client_ca_file {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let key = "tls.client_ca_file";
                let roots = Arc::new(authorities(key, Some(file))?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                let verifier = verifier.map_err(|error| Named { key, file }.failed(error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(chain, key);
        let config = config.map_err(|error| not_together(&error, cert_file, key_file))?;
        let speaking = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Ok(Loaded { http2: speaking(b"h2"), http1: speaking(b"http/1.1"), validity })
    }

    fn describe(&self) -> String {
        let Validity { until, names, .. } = &self.validity;
        let names = if names.is_empty() { "no name" } else { names };
        format!("for {names}, valid until {}", shown(*until))
    }
}

/// Returns the hash of all files, or `None` if one cannot be read.
fn fingerprint(files: &config::Tls) -> Option<[u8; 32]> {
    let config::Tls { cert_file, key_file, client_ca_file } = files;
    let mut hash = Sha256::new();
    let all = [Some(cert_file), Some(key_file), client_ca_file.as_ref()];
    for file in all.into_iter().flatten() {
        hash.update(read(file)?);
        hash.update([0]);
    }
    Some(hash.finalize().into())
}

fn read(file: &Path) -> Option<Vec<u8>> {
    std::fs::read(file).ok()
}
