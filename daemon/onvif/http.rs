//! Sends one SOAP message over HTTP and reads the reply, limited in time and size. Redirects are
//! not followed.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, WWW_AUTHENTICATE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::plain;

const CONNECT: Duration = Duration::from_secs(3);

/// Maximum time of a request with its reply.
const REPLY: Duration = Duration::from_secs(8);

/// Maximum size of a reply. Real ones with many profiles have some 100 KiB.
const REPLY_BYTES: usize = 1 << 20;

/// The reason why a camera's description cannot be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OnvifError {
    #[error("port {port}: {why}")]
    Unreachable { port: u16, why: String },
    #[error("port {port}: no complete reply within {} s", REPLY.as_secs())]
    Timeout { port: u16 },
    #[error("the camera wants a user and a password: pass --user")]
    CredentialsWanted,
    #[error("wrong user or password (many cameras have users of their own for ONVIF)")]
    WrongCredentials,
    #[error("the camera asks for the password in clear, which is not sent: allow digest in it")]
    NoDigest,
    #[error("port {port}: answered HTTP {status}: wanted an ONVIF service")]
    Status { port: u16, status: u16 },
    #[error("port {port}: the reply cannot be read: {why}")]
    Reply { port: u16, why: String },
    #[error("the camera refuses {call}: {why}")]
    Fault { call: &'static str, why: String },
    #[error("{0}")]
    Missing(&'static str),
}

/// A service of a device. Its address is the one that answered, whatever the device names.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub address: SocketAddr,
    /// Path and query.
    pub path: String,
}

pub struct Reply {
    pub status: StatusCode,
    /// Values of `WWW-Authenticate`.
    pub challenges: Vec<String>,
    pub content: Content,
}

/// The body of a reply.
pub enum Content {
    Xml(String),
    /// The body has another type, which is named.
    Other(String),
}

/// Sends a message. `authorization` is the value of that header.
pub async fn post(
    to: &Endpoint,
    action: &str,
    message: String,
    authorization: Option<String>,
) -> Result<Reply, OnvifError> {
    let port = to.address.port();
    let unreachable = |why: String| OnvifError::Unreachable { port, why };
    let stream = match timeout(CONNECT, TcpStream::connect(to.address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable(reason(&error))),
        Err(_) => return Err(unreachable("no answer".into())),
    };
    let exchange = exchange(stream, to, action, message, authorization);
    timeout(REPLY, exchange).await.unwrap_or(Err(OnvifError::Timeout { port }))
}

fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        _ => error.to_string(),
    }
}

async fn exchange(
    stream: TcpStream,
    to: &Endpoint,
    action: &str,
    message: String,
    authorization: Option<String>,
) -> Result<Reply, OnvifError> {
    let port = to.address.port();
    let broken = |why: String| OnvifError::Reply { port, why };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.to_string()))?;
    // Ends when the sender is dropped.
    tokio::spawn(connection);
    let kind = format!("application/soap+xml; charset=utf-8; action=\"{action}\"");
    let mut request = Request::post(&to.path)
        .header(HOST, to.address.to_string())
        .header(CONTENT_TYPE, kind)
        .header("Connection", "close");
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    let request = request.body(Full::new(Bytes::from(message)));
    let request = request.map_err(|error| broken(format!("the request: {error}")))?;
    let reply = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
    let (head, body) = reply.into_parts();
    let body = Limited::new(body, REPLY_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return broken(format!("it has more than {} KiB", REPLY_BYTES >> 10));
        }
        broken(error.to_string())
    })?;
    let challenges = head.headers.get_all(WWW_AUTHENTICATE).iter();
    let challenges = challenges.filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect();
    let content = content(&head.headers, &body.to_bytes());
    Ok(Reply { status: head.status, challenges, content })
}

fn content(headers: &HeaderMap, body: &[u8]) -> Content {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // Some cameras send no type.
    if kind.is_empty() || kind.to_ascii_lowercase().contains("xml") {
        let text = String::from_utf8_lossy(body);
        return Content::Xml(text.trim_start_matches('\u{feff}').to_owned());
    }
    Content::Other(plain(kind))
}
