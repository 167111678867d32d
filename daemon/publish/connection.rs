//! A client's connection, closed when a time limit has passed.
//!
//! Guarantees: a client is disconnected if it connects and does not send its greeting, does not read
//! its reply, or has no open call for a long time.
//!
//! Not here: the protocol spoken over the connection.

use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::stream::Stream;
use crate::interface::Interface;
use crate::metrics;
use crate::sync::lock;

/// The times after which an inactive connection is closed.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Maximum time from the connection to the first bytes of its protocol.
    pub greeting: Duration,
    /// Maximum time during which bytes wait to be sent and the client takes none.
    pub stalled: Duration,
    /// Maximum time without an open call.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            greeting: Duration::from_secs(5),
            stalled: Duration::from_secs(30),
            idle: Duration::from_secs(300),
        }
    }
}

/// Reason for closing a connection whose client does not begin.
const SILENT: &str = "the client sends nothing";

/// One of the permitted connections; it is counted while this value lives.
pub struct Permit {
    interface: Interface,
    _permit: OwnedSemaphorePermit,
}

impl Permit {
    pub fn new(permit: OwnedSemaphorePermit, interface: Interface) -> Permit {
        metrics::connections(interface, 1.0);
        Permit { interface, _permit: permit }
    }
}

impl Drop for Permit {
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
        self.counted(
            |counted| {
                if counted.open == 0 { counted.since.elapsed() } else { Duration::ZERO }
            },
        )
    }

    fn counted<T>(&self, with: impl FnOnce(&mut Counted) -> T) -> T {
        with(&mut lock(&self.0))
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
    stream: Stream,
    timeouts: Timeouts,
    /// Number of bytes of the greeting that are still to come.
    greeting: usize,
    /// Timer for the greeting, and afterwards for the next check for open calls.
    watch: Pin<Box<Sleep>>,
    stalled: Option<Pin<Box<Sleep>>>,
    calls: Calls,
    permit: Permit,
}

impl Connection {
    pub fn new(stream: Stream, permit: Permit, timeouts: Timeouts, greeting: usize) -> Connection {
        let first = if greeting > 0 { timeouts.greeting } else { timeouts.idle };
        let watch = Box::pin(tokio::time::sleep(first));
        Connection {
            stream,
            timeouts,
            greeting,
            watch,
            stalled: None,
            calls: Calls::default(),
            permit,
        }
    }

    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Returns true if the connection uses TLS.
    pub fn is_encrypted(&self) -> bool {
        self.stream.is_encrypted()
    }

    /// Returns the client's address, or `None` if the connection is broken.
    pub fn peer_address(&self) -> Option<IpAddr> {
        self.stream.peer()
    }

    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Returns true if the limit for the greeting or for idleness has passed. Otherwise the task is
    /// woken at the next check.
    fn has_timed_out(&mut self, cx: &mut Context<'_>) -> bool {
        while self.watch.as_mut().poll(cx).is_ready() {
            let idle = self.calls.idle();
            if self.greeting > 0 || idle >= self.timeouts.idle {
                return true;
            }
            self.watch.as_mut().reset(Instant::now() + (self.timeouts.idle - idle));
        }
        false
    }

    fn greeted(&mut self, bytes: usize) {
        if self.greeting > 0 {
            self.greeting = self.greeting.saturating_sub(bytes);
            if self.greeting == 0 {
                self.watch.as_mut().reset(Instant::now() + self.timeouts.idle);
            }
        }
    }

    /// Applies the limits to a write or a flush.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stalled = None;
            return done;
        }
        if self.stream.is_in_handshake() {
            let is_late = self.has_timed_out(cx);
            return if is_late { Poll::Ready(Err(self.timed_out(SILENT))) } else { Poll::Pending };
        }
        let limit = self.timeouts.stalled;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(self.timed_out("the client does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn timed_out(&self, why: &'static str) -> io::Error {
        metrics::connection_timed_out(self.permit.interface);
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
        if me.has_timed_out(cx) { Poll::Ready(Err(me.timed_out(SILENT))) } else { Poll::Pending }
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
        // With TLS, a write may only have filled a buffer.
        let me = self.get_mut();
        let done = Pin::new(&mut me.stream).poll_flush(cx);
        me.written(cx, done)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::Listener;
    use super::*;

    const SHORT: Timeouts = Timeouts {
        greeting: Duration::from_millis(200),
        stalled: Duration::from_millis(300),
        idle: Duration::from_millis(400),
    };

    async fn pair(greeting: usize) -> (Connection, TcpStream) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(Interface::Grpc, any, 1).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let listener = listener.with_timeouts(SHORT);
        let (near, far) = tokio::join!(listener.accept(greeting), TcpStream::connect(addr));
        (near, far.unwrap())
    }

    fn timed_out<T: std::fmt::Debug>(done: io::Result<T>) -> bool {
        done.is_err_and(|error| error.kind() == ErrorKind::TimedOut)
    }

    #[tokio::test]
    async fn a_client_without_a_greeting_is_disconnected() {
        let (mut near, mut far) = pair(4).await;
        let started = Instant::now();
        far.write_all(b"PRI").await.unwrap();
        assert!(timed_out(near.read_exact(&mut [0; 4]).await));
        assert!(started.elapsed() >= SHORT.greeting / 2);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_disconnected() {
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
    async fn after_the_greeting_only_the_idle_limit_applies() {
        let (mut near, mut far) = pair(4).await;
        far.write_all(b"PRI *").await.unwrap();
        near.read_exact(&mut [0; 5]).await.unwrap();
        let silent = Instant::now();
        assert!(timed_out(near.read(&mut [0]).await));
        assert!(silent.elapsed() > SHORT.greeting);
    }
}
