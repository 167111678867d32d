//! A proxy between `rtspsrc` and a camera. It adds what `rtspsrc` lacks: keep-alive requests while
//! frames flow, digests with SHA-256, exact statuses for error messages, and the removal of garbage
//! between packets.
//!
//! ```text
//!  rtspsrc ──(its `proxy`)──► 127.0.0.1 ─► Relay ──► camera
//! ```
//!
//! Guarantees: only the `rtspsrc` that sends the relay's secret user agent is connected. Messages
//! that the relay does not understand are forwarded unchanged. Not here: TLS, for which `rtspsrc`
//! connects to the camera directly.

mod connection;
mod shared;

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub use shared::{Login, RelayError};

use super::keepalive::KnownMethod;
use super::reach;
use super::reader::Reader;
use connection::Connection;
use shared::{AGENT, Shared, State};

/// Interval at which the relay checks whether a keep-alive request is due.
const TICK: Duration = Duration::from_millis(250);

/// Maximum time for a write. A peer that accepts nothing for this long counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct Relay {
    address: SocketAddr,
    secret: String,
    shared: Arc<Shared>,
}

impl Relay {
    /// Starts a relay. `patience` is the maximum time for the camera to accept a connection.
    pub fn start(
        (host, port): (&str, u16),
        login: Option<Login>,
        known_method: KnownMethod,
        patience: Duration,
    ) -> io::Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let secret = format!("{AGENT} {:032x}", rand::random::<u128>());
        let shared = Arc::new(Shared {
            secret: secret.clone(),
            login,
            patience,
            state: Mutex::new(State {
                target: (host.to_string(), port),
                redirects: 0,
                elsewhere: false,
                closed: false,
                open: Vec::new(),
                known_method,
                error: None,
            }),
        });
        let accepting = shared.clone();
        thread::Builder::new().name("relay".into()).spawn(move || accept(&listener, &accepting))?;
        Ok(Relay { address, secret, shared })
    }

    /// Returns the value for `rtspsrc`'s property `proxy`.
    pub fn proxy(&self) -> String {
        self.address.to_string()
    }

    /// Returns the value for `rtspsrc`'s property `user-agent`. A client that does not send it is
    /// rejected.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    pub fn error(&self) -> Option<RelayError> {
        self.shared.lock().error.clone()
    }

    /// Returns the request that keeps this camera's sessions alive.
    pub fn known_method(&self) -> KnownMethod {
        self.shared.lock().known_method
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        for end in &state.open {
            let _ = end.shutdown(Shutdown::Both);
        }
        drop(state);
        // This connection wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.lock().closed {
            return;
        }
        let Ok(client) = client else { return };
        if let Err(error) = serve(client, shared) {
            tracing::debug!("relay: {error}");
        }
    }
}

/// Forwards the messages of one connection of `rtspsrc` until one end closes.
fn serve(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    prepare(&client)?;
    let mut from_client = Reader::new(client.try_clone()?);
    client.set_read_timeout(Some(WRITE_TIMEOUT))?;
    let (first, body) = from_client.message()?;
    if first.value("User-Agent") != Some(&shared.secret) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    client.set_read_timeout(Some(TICK))?;

    let (host, port) = shared.lock().target.clone();
    let camera = match reach::connect(&host, port, shared.patience) {
        Ok(camera) => camera,
        Err(why) => {
            shared.lock().error = Some(RelayError::Unreachable(why));
            let _ = client.shutdown(Shutdown::Both);
            return Ok(());
        }
    };
    prepare(&camera)?;
    {
        let mut state = shared.lock();
        if state.closed {
            return Ok(());
        }
        state.open = vec![client.try_clone()?, camera.try_clone()?];
    }
    let connection = Arc::new(Connection::new(shared.clone(), &camera)?);
    let from_camera = {
        let connection = connection.clone();
        let client = client.try_clone()?;
        let camera = camera.try_clone()?;
        thread::Builder::new().name("relay".into()).spawn(move || {
            if let Err(error) = connection.forward_from_camera(&camera, &client) {
                tracing::debug!("from a camera: {error}");
            }
            let _ = client.shutdown(Shutdown::Both);
            let _ = camera.shutdown(Shutdown::Both);
        })?
    };
    let forwarded = connection.forward_from_client(from_client, first, body);
    connection.client_leaves();
    let _ = camera.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
    let _ = from_camera.join();
    shared.lock().open.clear();
    forwarded
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))
}

#[cfg(test)]
mod tests;
