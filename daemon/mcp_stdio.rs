//! Implements `lookout mcp`: connects an MCP client that starts a program and talks to it by
//! standard input and output with the `/mcp` of a running daemon.
//!
//! Guarantees: each message is passed on as it is, so that the tools are those of the daemon. A
//! call that the client cancels loses its connection, which ends it. A daemon that is not reachable
//! or refuses a request is an error in the reply, and is tried again with the next request.

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, Response, Uri};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::client::token;
use crate::http_client::{HttpClient, http_client};
use crate::sync::lock;
use crate::tls::{self, Named};

const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// The field of a request's `_meta` with the protocol's version, from version 2026-07-28 on.
const VERSION_OF_REQUEST: &str = "/params/_meta/io.modelcontextprotocol~1protocolVersion";

/// Codes of JSON-RPC: the message is not JSON, and an error of this program.
const PARSE_ERROR: i32 = -32700;
const SERVER_ERROR: i32 = -32000;

/// Number of messages that wait to be written.
const WAITING: usize = 16;

/// Returns the lines of standard input.
pub fn input() -> std::io::Result<impl AsyncBufRead + Unpin> {
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(BufReader::new(File::from_std(input.into())))
}

/// A daemon's HTTP server.
pub struct Daemon {
    /// `HOST:PORT`, `http://HOST:PORT` or, with TLS, `https://HOST:PORT`.
    pub address: String,
    /// PEM file of the authority that signed the daemon's certificate, or `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the certificate with which the client identifies itself, and of its key.
    pub identity: Option<[PathBuf; 2]>,
    /// File with the token, or `None` for that of the variable `LOOKOUT_TOKEN`, if it is set.
    pub token_file: Option<PathBuf>,
}

impl Daemon {
    /// Returns the TLS settings of the connection. Without encryption they are not used.
    fn tls(&self) -> Result<ClientConfig, String> {
        if !self.address.starts_with("https://") {
            return tls::client(RootCertStore::empty(), None);
        }
        let files = self.identity.as_ref().map(|[cert_file, key_file]| {
            [Named { key: "--cert", file: cert_file }, Named { key: "--key", file: key_file }]
        });
        tls::client(tls::authorities("--ca", self.ca_file.as_deref())?, files)
    }
}

/// Passes messages between a client and the daemon, until the
/// client closes its end and every reply is written.
pub async fn serve(
    daemon: Daemon,
    input: impl AsyncBufRead + Unpin,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let (to, mut replies) = mpsc::channel(WAITING);
    let proxy = Arc::new(Proxy::new(daemon, to)?);
    let mut calls = JoinSet::new();
    let mut by_id: HashMap<String, AbortHandle> = HashMap::new();
    let mut lines = input.lines();
    let mut is_open = true;
    while is_open || !calls.is_empty() || !replies.is_empty() {
        tokio::select! {
            line = lines.next_line(), if is_open => {
                let Some(line) = line.context("standard input")? else {
                    is_open = false;
                    continue;
                };
                let message: Value = match serde_json::from_str(&line) {
                    Ok(message) => message,
                    Err(_) if line.trim().is_empty() => continue,
                    Err(why) => {
                        let why = format!("the message is not JSON: {why}");
                        if !write(out, &error(&Value::Null, PARSE_ERROR, &why))? {
                            return Ok(());
                        }
                        continue;
                    }
                };
                if message["method"] == "notifications/cancelled" {
                    if let Some(call) = by_id.remove(&message["params"]["requestId"].to_string()) {
                        call.abort();
                    }
                    continue;
                }
                by_id.retain(|_, call| !call.is_finished());
                let id = message["id"].to_string();
                let call = calls.spawn(proxy.clone().pass(line, message));
                by_id.insert(id, call);
            }
            Some(reply) = replies.recv() => {
                if !write(out, &reply)? {
                    return Ok(());
                }
            }
            Some(_) = calls.join_next() => {}
        }
    }
    Ok(())
}

/// Writes a message as a line. Returns false if the client is gone.
fn write(out: &mut dyn Write, message: &str) -> anyhow::Result<bool> {
    match writeln!(out, "{message}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("standard output"),
    }
}

fn error(id: &Value, code: i32, why: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": why } }).to_string()
}

/// The connection to a daemon.
struct Proxy {
    client: HttpClient,
    address: String,
    url: Uri,
    token: Option<String>,
    to: mpsc::Sender<String>,
    /// The version of the protocol that the client and the daemon agreed on.
    version: Mutex<Option<HeaderValue>>,
}

impl Proxy {
    fn new(daemon: Daemon, to: mpsc::Sender<String>) -> anyhow::Result<Proxy> {
        let tls = daemon.tls().map_err(anyhow::Error::msg)?;
        let token = token::read(daemon.token_file.as_deref()).map_err(anyhow::Error::msg)?;
        let address = daemon.address.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let scheme = if address.contains("://") { "" } else { "http://" };
        let url = format!("{scheme}{address}/mcp").parse();
        let url = url.with_context(|| {
            format!(
                "{address:?} is not the address of a daemon; wanted HOST:PORT or https://HOST:PORT"
            )
        })?;
        Ok(Proxy {
            client: http_client(tls, WAITING),
            address,
            url,
            token,
            to,
            version: Mutex::default(),
        })
    }

    /// Sends a message to the daemon, and its replies to the client.
    async fn pass(self: Arc<Proxy>, line: String, message: Value) {
        let id = message.get("id").filter(|id| !id.is_null());
        let passed = self.try_to_pass(line, &message).await;
        if let (Err(why), Some(id)) = (passed, id) {
            let _ = self.to.send(error(id, SERVER_ERROR, &format!("{why:#}"))).await;
        }
    }

    async fn try_to_pass(&self, line: String, message: &Value) -> anyhow::Result<()> {
        let request = self.request(line, message)?;
        let reply = self.client.request(request).await.map_err(|error| {
            let not = format!("the daemon is not reachable at {}", self.address);
            match tls::explained(&error) {
                Some(why) => anyhow::anyhow!("{not}: {why}"),
                None => anyhow::Error::new(error).context(format!("{not}; is it running?")),
            }
        })?;
        let kind = reply.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let broke = || format!("the connection to the daemon at {} broke", self.address);
        if kind.starts_with("text/event-stream") {
            return self.forward_events(reply, message).await.with_context(broke);
        }
        let status = reply.status();
        let body = reply.into_body().collect().await.with_context(broke)?.to_bytes();
        match serde_json::from_slice::<Value>(&body) {
            Ok(reply) if reply.get("jsonrpc").is_some() => self.forward(reply, message).await,
            // A notification has no reply.
            _ if status.is_success() => {}
            refusal => {
                let why = refusal.ok().and_then(|body| Some(body["message"].as_str()?.to_owned()));
                let why = why.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
                anyhow::bail!("the daemon at {} answered {status}: {why}", self.address);
            }
        }
        Ok(())
    }

    fn request(&self, line: String, message: &Value) -> anyhow::Result<Request<Full<Bytes>>> {
        let header = |value: &Value| HeaderValue::from_str(value.as_str()?).ok();
        let mut request = Request::post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .body(Full::from(line))?;
        let headers = request.headers_mut();
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?);
        }
        if let Some(version) = message.pointer(VERSION_OF_REQUEST).and_then(header) {
            headers.insert(VERSION, version);
            headers.extend(header(&message["method"]).map(|method| (METHOD, method)));
            headers.extend(header(&message["params"]["name"]).map(|name| (NAME, name)));
        } else if message["method"] != "initialize" {
            headers.extend(lock(&self.version).clone().map(|version| (VERSION, version)));
        }
        Ok(request)
    }

    /// Forwards the messages of a stream of server-sent events.
    async fn forward_events(
        &self,
        reply: Response<Incoming>,
        message: &Value,
    ) -> Result<(), hyper::Error> {
        let (mut body, mut received) = (reply.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            let mut searched = received.len();
            received.extend_from_slice(&data);
            let end = |received: &[u8], from| received[from..].iter().position(|b| *b == b'\n');
            while let Some(end) = end(&received, searched) {
                let line: Vec<u8> = received.drain(..=searched + end).collect();
                searched = 0;
                let data = line.strip_prefix(b"data:").map(serde_json::from_slice);
                if let Some(Ok(reply)) = data {
                    self.forward(reply, message).await;
                }
            }
        }
        Ok(())
    }

    /// Sends a message of the daemon to the client. Remembers the version of the protocol.
    async fn forward(&self, reply: Value, to: &Value) {
        if to["method"] == "initialize"
            && let Some(version) = reply["result"]["protocolVersion"].as_str()
        {
            *lock(&self.version) = HeaderValue::from_str(version).ok();
        }
        let _ = self.to.send(reply.to_string()).await;
    }
}
