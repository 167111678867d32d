//! Connects to cameras and reports why a connection fails. GStreamer 1.22 reports "Generic error"
//! for every cause.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Maximum time for a connection. The system's name lookup can take longer; its thread is then left
/// to finish alone.
const TIMEOUT: Duration = Duration::from_millis(700);

/// Returns the reason why a connection fails, as text, or `None` if the port accepts connections.
pub fn why_not(host: &str, port: u16) -> Option<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let target = (host.trim_matches(['[', ']']).to_string(), port);
    let spawned = thread::Builder::new().name("reach".into()).spawn(move || {
        let _ = sender.send(connection(&target, TIMEOUT).map(|_| ()));
    });
    match spawned.ok().and_then(|_| receiver.recv_timeout(TIMEOUT).ok()) {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(format!("{host}:{port}: {why}")),
        None => Some(format!("{host}:{port}: no answer")),
    }
}

/// Connects to the host, trying each of its addresses. Returns the reason as text if all fail.
pub fn connect(host: &str, port: u16, patience: Duration) -> Result<TcpStream, String> {
    let target = (host.trim_matches(['[', ']']).to_string(), port);
    connection(&target, patience).map_err(|why| format!("{host}:{port}: {why}"))
}

fn connection(target: &(String, u16), patience: Duration) -> Result<TcpStream, String> {
    let addresses = target.to_socket_addrs().map_err(|_| "no host has this name".to_string())?;
    let mut why = "no host has this name".to_string();
    for address in addresses {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => why = reason(&error),
        }
    }
    Err(why)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
        io::ErrorKind::TimedOut => "no answer".to_string(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_string(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_closed_port_refuses_and_an_open_one_does_not() {
        let open = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = open.local_addr().unwrap().port();
        assert_eq!(why_not("127.0.0.1", port), None);
        drop(open);
        assert_eq!(
            why_not("127.0.0.1", port),
            Some(format!("127.0.0.1:{port}: connection refused"))
        );
    }
}
