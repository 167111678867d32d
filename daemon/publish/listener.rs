//! Accepts an interface's connections and limits their number and their inactivity.
//!
//! Guarantees: a connection beyond the limit is closed at once and counted. A client is
//! disconnected if it connects and does not send its greeting, does not read its reply, or has no
//! open call for a long time. When the process has no file descriptors left, accepting pauses
//! instead of spinning.
//!
//! Not here: the protocol spoken over a connection.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::PublishError;
use crate::interface::Interface;
use crate::metrics;

/// Pause before accepting again after the system refused, for lack of descriptors or memory.
const REST: Duration = Duration::from_millis(200);

/// Minimum time between two log lines about the same problem.
const QUIET: Duration = Duration::from_secs(60);

/// The times after which an inactive connection is closed.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Maximum time from the connection to the first bytes of its protocol.
    pub greeting: Duration,
    /// Maximum time during which bytes wait to be sent and the client takes none.
    pub stalled: Duration,
    /// Maximum time without an open call.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            greeting: Duration::from_secs(5),
            stalled: Duration::from_secs(30),
            idle: Duration::from_secs(300),
        }
    }
}

/// A bound address and its connections. Clones share both.
#[derive(Clone)]
pub struct Listener {
    socket: Arc<TcpListener>,
    seats: Arc<Semaphore>,
    connections: usize,
    interface: Interface,
    patience: Patience,
    said: Arc<Said>,
}

/// Times of the last log line about each problem.
#[derive(Default)]
struct Said {
    full: Mutex<Option<Instant>>,
    failed: Mutex<Option<Instant>>,
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
            seats: Arc::new(Semaphore::new(connections)),
            connections,
            interface,
            patience: Patience::default(),
            said: Arc::default(),
        })
    }

    pub fn with_patience(self, patience: Patience) -> Listener {
        Listener { patience, ..self }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for the next connection within the limit. Cancel safe: no connection is lost.
    ///
    /// `greeting` is the number of bytes that a client must send within [`Patience::greeting`].
    pub async fn accept(&self, greeting: usize) -> Connection {
        loop {
            let stream = match self.socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    if may_say(&self.said.failed) {
                        let interface = self.interface;
                        tracing::error!("{interface}: cannot accept connections: {error}");
                    }
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let Ok(seat) = self.seats.clone().try_acquire_owned() else {
                metrics::connection_refused(self.interface);
                if may_say(&self.said.full) {
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
            return Connection::new(
                stream,
                Seat::take(seat, self.interface),
                self.patience,
                greeting,
            );
        }
    }
}

/// Returns true if the client left before it was accepted. The error does not concern other
/// connections.
fn is_of_one_connection(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn may_say(said: &Mutex<Option<Instant>>) -> bool {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let may = said.is_none_or(|at| at.elapsed() >= QUIET);
    if may {
        *said = Some(Instant::now());
    }
    may
}

/// One of the permitted connections; it is counted while this value lives.
struct Seat {
    interface: Interface,
    _permit: OwnedSemaphorePermit,
}

impl Seat {
    fn take(permit: OwnedSemaphorePermit, interface: Interface) -> Seat {
        metrics::connections(interface, 1.0);
        Seat { interface, _permit: permit }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        metrics::connections(self.interface, -1.0);
    }
}

/// The open calls of a connection, counted by an interface that can distinguish calls.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Mutex<Counted>>);

#[derive(Debug)]
struct Counted {
    open: usize,
    /// End of the last call, or start of the connection.
    since: Instant,
}

impl Default for Counted {
    fn default() -> Counted {
        Counted { open: 0, since: Instant::now() }
    }
}

/// An open call. It ends when this value is dropped.
pub struct Call(Calls);

impl Calls {
    pub fn begin(&self) -> Call {
        self.counted(|counted| counted.open += 1);
        Call(self.clone())
    }

    /// Returns the time since the last call ended, or zero while a call is open.
    fn idle(&self) -> Duration {
        self.counted(|counted| match counted.open {
            0 => counted.since.elapsed(),
            _ => Duration::ZERO,
        })
    }

    fn counted<T>(&self, with: impl FnOnce(&mut Counted) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.counted(|counted| {
            counted.open -= 1;
            counted.since = Instant::now();
        });
    }
}

/// A client's connection. It ends with an error when one of its time limits has passed.
pub struct Connection {
    stream: TcpStream,
    patience: Patience,
    /// Number of bytes of the greeting that are still to come.
    greeting: usize,
    /// Timer for the greeting, and afterwards for the next check for open calls.
    watch: Pin<Box<Sleep>>,
    stalled: Option<Pin<Box<Sleep>>>,
    calls: Calls,
    seat: Seat,
}

impl Connection {
    fn new(stream: TcpStream, seat: Seat, patience: Patience, greeting: usize) -> Connection {
        let first = if greeting > 0 { patience.greeting } else { patience.idle };
        let watch = Box::pin(tokio::time::sleep(first));
        Connection {
            stream,
            patience,
            greeting,
            watch,
            stalled: None,
            calls: Calls::default(),
            seat,
        }
    }

    pub fn patience(&self) -> Patience {
        self.patience
    }

    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Returns true if the limit for the greeting or for idleness has passed. Otherwise the task is
    /// woken at the next check.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        while self.watch.as_mut().poll(cx).is_ready() {
            let idle = self.calls.idle();
            if self.greeting > 0 || idle >= self.patience.idle {
                return true;
            }
            self.watch.as_mut().reset(Instant::now() + (self.patience.idle - idle));
        }
        false
    }

    fn greeted(&mut self, bytes: usize) {
        if self.greeting > 0 {
            self.greeting = self.greeting.saturating_sub(bytes);
            if self.greeting == 0 {
                self.watch.as_mut().reset(Instant::now() + self.patience.idle);
            }
        }
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if done.is_ready() {
            self.stalled = None;
            return done;
        }
        let patience = self.patience.stalled;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(self.timed_out("the client does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn timed_out(&self, why: &'static str) -> io::Error {
        metrics::connection_timed_out(self.seat.interface);
        io::Error::new(ErrorKind::TimedOut, why)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buf.filled().len();
        let read = Pin::new(&mut me.stream).poll_read(cx, buf);
        if read.is_ready() {
            me.greeted(buf.filled().len() - before);
            return read;
        }
        match me.is_over(cx) {
            true => Poll::Ready(Err(me.timed_out("the client says nothing"))),
            false => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let done = Pin::new(&mut me.stream).poll_write(cx, bytes);
        me.written(cx, done)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let done = Pin::new(&mut me.stream).poll_write_vectored(cx, slices);
        me.written(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Patience = Patience {
        greeting: Duration::from_millis(200),
        stalled: Duration::from_millis(300),
        idle: Duration::from_millis(400),
    };

    async fn listener(connections: usize) -> (Listener, SocketAddr) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(Interface::Grpc, any, connections).await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener.with_patience(SHORT), addr)
    }

    async fn pair(greeting: usize) -> (Connection, TcpStream) {
        let (listener, addr) = listener(1).await;
        let (near, far) = tokio::join!(listener.accept(greeting), TcpStream::connect(addr));
        (near, far.unwrap())
    }

    fn timed_out<T: std::fmt::Debug>(done: io::Result<T>) -> bool {
        done.is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_until_another_leaves() {
        let (listener, addr) = listener(2).await;
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

    #[tokio::test]
    async fn a_client_that_does_not_begin_is_closed() {
        let (mut near, mut far) = pair(4).await;
        let begun = Instant::now();
        far.write_all(b"PRI").await.unwrap();
        let mut heard = [0; 4];
        assert!(timed_out(near.read_exact(&mut heard).await));
        assert!(begun.elapsed() >= SHORT.greeting / 2);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_closed() {
        let (mut near, _far) = pair(0).await;
        let much = vec![0; 64 << 20];
        assert!(timed_out(near.write_all(&much).await));
    }

    #[tokio::test]
    async fn a_connection_without_calls_is_closed_and_one_with_a_call_stays() {
        let (mut near, _far) = pair(0).await;
        let call = near.calls().begin();
        let waited = tokio::time::timeout(SHORT.idle * 3, near.read(&mut [0])).await;
        assert!(waited.is_err(), "closed with an open call: {waited:?}");
        drop(call);
        let ended = Instant::now();
        assert!(timed_out(near.read(&mut [0]).await));
        assert!(ended.elapsed() >= SHORT.idle / 2);
    }

    #[tokio::test]
    async fn a_client_that_has_begun_may_be_silent_for_longer() {
        let (mut near, mut far) = pair(4).await;
        far.write_all(b"PRI *").await.unwrap();
        near.read_exact(&mut [0; 5]).await.unwrap();
        let silent = Instant::now();
        assert!(timed_out(near.read(&mut [0]).await));
        assert!(silent.elapsed() > SHORT.greeting);
    }
}
