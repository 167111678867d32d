//! Accepts an interface's connections and limits their number.
//!
//! Guarantees: a connection beyond the limit is closed at once and counted. When the process has no
//! file descriptors left, accepting pauses instead of spinning.
//!
//! Not here: the time limits of a connection (`connection`), its TLS handshake (`stream`), and the
//! protocol spoken over it.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::PublishError;
use super::connection::{Connection, Permit, Timeouts};
use super::log_interval::LogInterval;
use super::stream::{ListenerTls, Stream};
use crate::interface::Interface;
use crate::metrics;
use crate::tls::{Protocol, ServerTls};

/// Pause before accepting again after the system refused, for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A bound address and its connections. Clones share both.
#[derive(Clone)]
pub struct Listener {
    socket: Arc<TcpListener>,
    permits: Arc<Semaphore>,
    connections: usize,
    interface: Interface,
    timeouts: Timeouts,
    tls: Option<ListenerTls>,
    full: Arc<LogInterval>,
    failed: Arc<LogInterval>,
}

impl Listener {
    /// Binds the address. Call it before any slow initialisation, so that an occupied address is
    /// reported at once.
    pub async fn bind(
        interface: Interface,
        addr: SocketAddr,
        connections: usize,
    ) -> Result<Listener, PublishError> {
        let socket = TcpListener::bind(addr).await.map_err(|why| match why.kind() {
            ErrorKind::AddrInUse => PublishError::AddressInUse(addr),
            _ => PublishError::Bind { addr, why },
        })?;
        Ok(Listener {
            socket: Arc::new(socket),
            permits: Arc::new(Semaphore::new(connections)),
            connections,
            interface,
            timeouts: Timeouts::default(),
            tls: None,
            full: Arc::default(),
            failed: Arc::default(),
        })
    }

    pub fn with_timeouts(self, timeouts: Timeouts) -> Listener {
        Listener { timeouts, ..self }
    }

    /// Encrypts the connections that are accepted from now on.
    pub fn with_tls(self, server: Arc<ServerTls>) -> Listener {
        let interface = self.interface;
        let protocol = if interface == Interface::Grpc { Protocol::Http2 } else { Protocol::Http1 };
        let tls = Some(ListenerTls { server, protocol, interface, failed: Arc::default() });
        Listener { tls, ..self }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for the next connection within the limit. Cancel safe: no connection is lost.
    ///
    /// `greeting` is the number of bytes that a client must send within [`Timeouts::greeting`].
    pub async fn accept(&self, greeting: usize) -> Connection {
        loop {
            let stream = match self.socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if concerns_one_connection(&error) => continue,
                Err(error) => {
                    if self.failed.may_log() {
                        let interface = self.interface;
                        tracing::error!("{interface}: cannot accept connections: {error}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = self.permits.clone().try_acquire_owned() else {
                metrics::connection_refused(self.interface);
                if self.full.may_log() {
                    tracing::warn!(
                        "{}: {} connections are open; more are closed ({}.connections)",
                        self.interface,
                        self.connections,
                        self.interface.name()
                    );
                }
                continue;
            };
            // Otherwise a token waits until the previous packet is acknowledged.
            let _ = stream.set_nodelay(true);
            let permit = Permit::new(permit, self.interface);
            let stream = Stream::new(stream, self.tls.clone());
            return Connection::new(stream, permit, self.timeouts, greeting);
        }
    }
}

/// Returns true if the client left before it was accepted. The error does not concern other
/// connections.
fn concerns_one_connection(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn an_excess_connection_is_closed_until_another_ends() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(Interface::Grpc, any, 2).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut first = TcpStream::connect(addr).await.unwrap();
        let taken = listener.accept(0).await;
        let _second = TcpStream::connect(addr).await.unwrap();
        let _also_taken = listener.accept(0).await;
        let mut third = TcpStream::connect(addr).await.unwrap();
        let next = tokio::spawn(async move { listener.accept(0).await });
        assert_eq!(third.read(&mut [0]).await.unwrap_or(0), 0, "the third was not closed");
        assert!(!next.is_finished());
        drop(taken);
        assert_eq!(first.read(&mut [0]).await.unwrap_or(0), 0);
        let _fourth = TcpStream::connect(addr).await.unwrap();
        next.await.unwrap();
    }
}
