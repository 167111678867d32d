//! The daemon that a client asks: its address, and the TLS of the connection.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Identity};

use super::ClientError;
use crate::tls::{self, Named};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a stream that may be sent before they are read. A larger window could hold more small
/// messages that nobody reads yet than the HTTP/2 library accepts before it ends the connection.
const STREAM_WINDOW: u32 = 128 * 1024;

/// A daemon's gRPC server.
#[derive(Clone, Debug, Default)]
pub struct Server {
    /// `HOST:PORT`, `http://HOST:PORT` or, with TLS, `https://HOST:PORT`.
    pub address: String,
    /// PEM file of the authority that signed the daemon's certificate, or `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the certificate with which the client identifies itself, and of its key.
    pub identity: Option<[PathBuf; 2]>,
    /// File with the token, or `None` for that of the variable `LOOKOUT_TOKEN`, if it is set.
    pub token_file: Option<PathBuf>,
}

impl From<&str> for Server {
    fn from(address: &str) -> Server {
        Server { address: address.to_owned(), ..Server::default() }
    }
}

impl From<&String> for Server {
    fn from(address: &String) -> Server {
        Server::from(address.as_str())
    }
}

impl Server {
    /// Returns the address as errors show it.
    pub fn shown(&self) -> String {
        self.address.trim_start_matches("http://").to_owned()
    }

    /// Connects to the daemon.
    pub async fn connect(&self) -> Result<Channel, ClientError> {
        let uri = if self.address.contains("://") {
            self.address.clone()
        } else {
            format!("http://{}", self.address)
        };
        let is_encrypted = uri.starts_with("https://");
        let invalid = || ClientError::Endpoint(self.address.clone());
        let mut endpoint = Endpoint::from_shared(uri)
            .map_err(|_| invalid())?
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
        if is_encrypted {
            endpoint = endpoint.tls_config(self.tls()?).map_err(|error| self.failed(&error))?;
        }
        endpoint.connect().await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &tonic::transport::Error) -> ClientError {
        ClientError::Unreachable { address: self.shown(), why: cause(error) }
    }

    fn tls(&self) -> Result<ClientTlsConfig, ClientError> {
        let roots = tls::authorities("--ca", self.ca_file.as_deref()).map_err(ClientError::Tls)?;
        let tls = ClientTlsConfig::new()
            .timeout(CONNECT_TIMEOUT)
            .trust_anchors(roots.roots.iter().cloned());
        let Some([cert_file, key_file]) = &self.identity else { return Ok(tls) };
        let files =
            [Named { key: "--cert", file: cert_file }, Named { key: "--key", file: key_file }];
        let (cert, key) = tls::checked_pem(roots, files).map_err(ClientError::Tls)?;
        Ok(tls.identity(Identity::from_pem(cert, key)))
    }
}

/// Describes the cause of a broken connection.
pub fn cause(error: &(dyn Error + 'static)) -> String {
    tls::explained(error).unwrap_or_else(|| tls::innermost(error).to_string())
}
