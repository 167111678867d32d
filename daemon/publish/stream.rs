//! The bytes of a client's connection, with or without TLS.
//!
//! Guarantees: the TLS handshake is a part of the first read or write, so that a client that does
//! not finish it delays nobody else. A client that does not use TLS at a port with TLS gets a
//! reply in its own protocol that says so.
//!
//! Not here: the time limits, which `connection` has.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::Accept;
use tokio_rustls::server::TlsStream;

use super::log_interval::LogInterval;
use crate::interface::Interface;
use crate::metrics;
use crate::tls::{Protocol, ServerTls};

/// First byte of a TLS connection: the content type of a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 0x16;

/// First bytes of an HTTP/2 connection.
const HTTP2: &[u8] = b"PRI ";

/// Reply to HTTP/1.1 without TLS.
const HTTP1_REFUSAL: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 39\r\n\
    Connection: close\r\n\r\n\
    this port uses TLS: begin with https://";

/// Reply to HTTP/2 without TLS: empty SETTINGS, then GOAWAY with INADEQUATE_SECURITY and a text.
const HTTP2_REFUSAL: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x2f\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0c\
    this port uses TLS: begin with https://";

/// The TLS of a listener.
#[derive(Clone)]
pub struct ListenerTls {
    pub server: Arc<ServerTls>,
    pub protocol: Protocol,
    pub interface: Interface,
    /// Limits the log lines about failed handshakes.
    pub failed: Arc<LogInterval>,
}

/// A connection's bytes.
pub struct Stream {
    state: State,
    tls: Option<ListenerTls>,
    peer: Option<IpAddr>,
}

enum State {
    Plain(TcpStream),
    /// The client has sent nothing yet.
    Silent(TcpStream),
    Handshake(Box<Accept<TcpStream>>),
    /// The client does not use TLS and got a reply that says so. It is read until it leaves, because
    /// bytes that nobody reads would reset the connection before the client reads the reply.
    Refused(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
    Failed,
}

impl Stream {
    pub fn new(tcp: TcpStream, tls: Option<ListenerTls>) -> Stream {
        let peer = tcp.peer_addr().ok().map(|address| address.ip());
        let state = if tls.is_some() { State::Silent(tcp) } else { State::Plain(tcp) };
        Stream { state, tls, peer }
    }

    /// Returns true if the connection uses TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Returns the client's address, or `None` if the connection was broken from the start.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }

    /// Returns true until the handshake is complete.
    pub fn is_in_handshake(&self) -> bool {
        matches!(self.state, State::Silent(_) | State::Handshake(_) | State::Refused(_))
    }

    /// Continues the handshake until bytes can be read and written.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Failed) {
                State::Silent(tcp) => {
                    let mut first = [0; 4];
                    let mut first = ReadBuf::new(&mut first);
                    match tcp.poll_peek(cx, &mut first) {
                        Poll::Pending => {
                            self.state = State::Silent(tcp);
                            return Poll::Pending;
                        }
                        Poll::Ready(peeked) => peeked?,
                    };
                    self.begin(tcp, first.filled())?
                }
                State::Refused(mut tcp) => {
                    let _ = Pin::new(&mut tcp).poll_shutdown(cx);
                    let mut rest = [0; 4096];
                    let mut rest = ReadBuf::new(&mut rest);
                    match Pin::new(&mut tcp).poll_read(cx, &mut rest) {
                        Poll::Pending => {
                            self.state = State::Refused(tcp);
                            return Poll::Pending;
                        }
                        Poll::Ready(read) => read?,
                    };
                    if rest.filled().is_empty() {
                        return Poll::Ready(Err(ErrorKind::InvalidData.into()));
                    }
                    State::Refused(tcp)
                }
                State::Handshake(mut accept) => match Pin::new(&mut accept).poll(cx) {
                    Poll::Pending => {
                        self.state = State::Handshake(accept);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(stream)) => State::Encrypted(Box::new(stream)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                },
                State::Failed => return Poll::Ready(Err(ErrorKind::NotConnected.into())),
                ready @ (State::Plain(_) | State::Encrypted(_)) => {
                    self.state = ready;
                    return Poll::Ready(Ok(()));
                }
            };
        }
    }

    /// Begins the handshake after the client's first bytes.
    fn begin(&self, tcp: TcpStream, first: &[u8]) -> io::Result<State> {
        let Some(tls) = &self.tls else { return Ok(State::Plain(tcp)) };
        match first.first() {
            // A check that the port is open.
            None => Err(ErrorKind::UnexpectedEof.into()),
            Some(&HANDSHAKE) => {
                let accept = tls.server.acceptor(tls.protocol).accept(tcp);
                Ok(State::Handshake(Box::new(accept)))
            }
            Some(_) => {
                let why = "the client does not use TLS";
                let error = self.failed(io::Error::new(ErrorKind::InvalidData, why));
                let Some(reply) = refusal(tls.protocol, first) else { return Err(error) };
                // Nothing has been sent, so that the reply fits into the socket's buffer.
                let _ = tcp.try_write(reply);
                Ok(State::Refused(tcp))
            }
        }
    }

    /// Counts and logs a failed handshake.
    fn failed(&self, error: io::Error) -> io::Error {
        if let Some(tls) = &self.tls {
            metrics::tls_handshake_failed(tls.interface);
            if tls.failed.may_log() {
                let peer = self.peer.map_or_else(|| "a client".into(), |peer| peer.to_string());
                tracing::warn!("{}: no TLS with {peer}: {error}", tls.interface);
            }
        }
        error
    }
}

/// Returns the reply to a client that does not use TLS, if it speaks the listener's protocol.
fn refusal(protocol: Protocol, first: &[u8]) -> Option<&'static [u8]> {
    match protocol {
        Protocol::Http1 => Some(HTTP1_REFUSAL),
        Protocol::Http2 => first.starts_with(HTTP2).then_some(HTTP2_REFUSAL),
    }
}

/// Calls a method of the stream that can be read and written, or returns `otherwise` if there is
/// none.
macro_rules! delegate {
    ($me:expr, $stream:ident => $call:expr, $otherwise:expr) => {
        match &mut $me.state {
            State::Plain($stream) => $call,
            State::Encrypted($stream) => $call,
            State::Silent(_) | State::Handshake(_) | State::Refused(_) | State::Failed => {
                Poll::Ready($otherwise)
            }
        }
    };
}

fn not_connected<T>() -> io::Result<T> {
    Err(ErrorKind::NotConnected.into())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.poll_ready(cx))?;
        delegate!(me, stream => Pin::new(stream).poll_read(cx, buf), not_connected())
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        ready!(me.poll_ready(cx))?;
        delegate!(me, stream => Pin::new(stream).poll_write(cx, bytes), not_connected())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        ready!(me.poll_ready(cx))?;
        delegate!(
            me,
            stream => Pin::new(stream).poll_write_vectored(cx, slices),
            not_connected()
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Before the handshake is complete, nothing is buffered.
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx), Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx), Ok(()))
    }
}
