//! Why a camera cannot be reached: GStreamer 1.22 says "Generic error" for all causes.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Names are looked up by the system, which may take longer: that is left behind.
const TIMEOUT: Duration = Duration::from_millis(700);

/// In words; `None` when something does listen there.
pub fn why_not(host: &str, port: u16) -> Option<String> {
    let (tell, told) = mpsc::sync_channel(1);
    let target = (host.trim_matches(['[', ']']).to_string(), port);
    let spawned = thread::Builder::new().name("reach".into()).spawn(move || {
        let _ = tell.send(connect(&target));
    });
    match spawned.ok().and_then(|_| told.recv_timeout(TIMEOUT).ok()) {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(format!("{host}:{port}: {why}")),
        None => Some(format!("{host}:{port}: no answer")),
    }
}

fn connect(target: &(String, u16)) -> Result<(), String> {
    let mut addresses =
        target.to_socket_addrs().map_err(|_| "no host has this name".to_string())?;
    let address = addresses.next().ok_or("no host has this name")?;
    match TcpStream::connect_timeout(&address, TIMEOUT) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_string(),
            io::ErrorKind::TimedOut => "no answer".to_string(),
            io::ErrorKind::HostUnreachable => "host unreachable".to_string(),
            io::ErrorKind::NetworkUnreachable => "network unreachable".to_string(),
            _ => error.to_string(),
        }),
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
