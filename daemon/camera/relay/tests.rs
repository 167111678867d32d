//! Tests of the relay with cameras that answer by hand.

use std::io::{Read, Write};

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn relay_to(camera: &TcpListener, login: Option<Login>) -> Relay {
    let port = camera.local_addr().unwrap().port();
    Relay::start(("127.0.0.1", port), login, KnownMethod::default(), PATIENCE).unwrap()
}

fn ask(relay: &Relay, word: &str) -> TcpStream {
    let mut client = TcpStream::connect(relay.address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let text = format!("OPTIONS rtsp://cam/x RTSP/1.0\r\nCSeq: 7\r\nUser-Agent: {word}\r\n\r\n");
    client.write_all(text.as_bytes()).unwrap();
    client
}

#[test]
fn a_connection_without_the_secret_is_refused() {
    let camera = TcpListener::bind("127.0.0.1:0").unwrap();
    camera.set_nonblocking(true).unwrap();
    let relay = relay_to(&camera, None);
    for word in ["", "lookout", AGENT] {
        let mut answer = Vec::new();
        // The connection was closed or reset.
        let read = ask(&relay, word).read_to_end(&mut answer);
        assert!(read.is_err() || answer.is_empty());
    }
    assert_eq!(camera.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn replies_keep_their_cseq_and_the_camera_never_sees_the_secret() {
    let camera = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = relay_to(&camera, None);
    let client = ask(&relay, relay.secret());
    let (served, _) = camera.accept().unwrap();
    let (head, _) = Reader::new(served.try_clone().unwrap()).message().unwrap();
    assert_eq!(head.value("User-Agent"), Some(AGENT));
    assert!(!String::from_utf8(head.bytes()).unwrap().contains(relay.secret()));
    let cseq = head.value("CSeq").unwrap();
    let answer = format!("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\nX-Odd\r\n\r\n");
    (&served).write_all(answer.as_bytes()).unwrap();
    let (answer, _) = Reader::new(client).message().unwrap();
    assert_eq!(answer.bytes(), b"RTSP/1.0 200 OK\r\nCSeq: 7\r\nX-Odd\r\n\r\n");
}

#[test]
fn an_unknown_authentication_scheme_is_reported() {
    let camera = TcpListener::bind("127.0.0.1:0").unwrap();
    let login = Login { username: "me".into(), password: "Planted".into() };
    let relay = relay_to(&camera, Some(login));
    let client = ask(&relay, relay.secret());
    let (served, _) = camera.accept().unwrap();
    Reader::new(served.try_clone().unwrap()).message().unwrap();
    let answer = "RTSP/1.0 401 No\r\nCSeq: 1\r\nWWW-Authenticate: Negotiate\r\n\r\n";
    (&served).write_all(answer.as_bytes()).unwrap();
    Reader::new(client).message().unwrap();
    let error = crate::camera::CameraError::from(relay.error().unwrap()).to_string();
    assert!(error.contains("digest (MD5 or SHA-256) or basic"), "{error}");
}

/// The time-out for answers grows only if the camera counts as silent, not as gone.
#[test]
fn a_client_that_gives_up_waiting_does_not_count_as_a_closed_camera() {
    let camera = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = relay_to(&camera, None);
    let client = ask(&relay, relay.secret());
    let (mut served, _) = camera.accept().unwrap();
    Reader::new(served.try_clone().unwrap()).message().unwrap();
    drop(client);
    served.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(served.read(&mut [0; 1]).unwrap(), 0, "the relay closes the connection");
    // The relay has finished with the connection once it accepts the next one.
    let next = ask(&relay, relay.secret());
    let (served, _) = camera.accept().unwrap();
    assert_eq!(relay.error(), None);
    // A camera that closes does.
    Reader::new(served.try_clone().unwrap()).message().unwrap();
    drop(served);
    counts_as_closed(&relay, &next);
}

/// A camera that closes a connection before it has read everything resets it.
#[test]
fn a_camera_that_resets_the_connection_counts_as_closed() {
    let camera = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = relay_to(&camera, None);
    let client = ask(&relay, relay.secret());
    let (served, _) = camera.accept().unwrap();
    assert_eq!(served.peek(&mut [0; 1]).unwrap(), 1);
    drop(served);
    counts_as_closed(&relay, &client);
}

fn counts_as_closed(relay: &Relay, mut client: &TcpStream) {
    let _ = client.read(&mut [0; 1]);
    let deadline = std::time::Instant::now() + 4 * PATIENCE;
    while relay.error() != Some(RelayError::Closed) {
        assert!(std::time::Instant::now() < deadline, "{:?}", relay.error());
        thread::sleep(Duration::from_millis(5));
    }
}
