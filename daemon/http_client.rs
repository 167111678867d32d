//! The HTTP client of the connections to other servers, and its errors in words.
//!
//! Guarantees: TLS is as the caller's settings say. Redirects are not followed, so that a token
//! reaches only the server that it is meant for. A connection is accepted within 10 s; all
//! other times are limited by the caller.

use std::error::Error;
use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;

use crate::tls;

/// Maximum time for all addresses of a server to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which an idle connection is closed. Servers close theirs after 5 s or later.
const IDLE: Duration = Duration::from_secs(4);

pub type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Returns a client for `http://` and `https://`. It keeps at most `idle_connections` open to each
/// server for further requests.
pub fn http_client(tls: ClientConfig, idle_connections: usize) -> HttpClient {
    let mut tcp = HttpConnector::new();
    // The connector around it encrypts https://.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(idle_connections)
        .pool_idle_timeout(IDLE)
        .build(connector)
}

/// Describes an error of a connection: a TLS error in a sentence, another one with its causes.
pub fn explained(error: &(dyn Error + 'static)) -> String {
    tls::explained(error).unwrap_or_else(|| chain(error))
}

/// Returns the time to wait that a response names by `Retry-After`: seconds or a date.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

/// Returns an error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
