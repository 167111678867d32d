//! Tests the limits on what clients send and hold, and what a client beyond them gets.

use serde_json::json;

use super::api::until;
use super::*;

/// Maximum number of streams over HTTP, as in the table of edges.
const STREAMS: usize = 48;

/// Serves HTTP with more connections than there may be streams.
async fn http(daemon: &Daemon) -> (SocketAddr, CancellationToken) {
    let any = "127.0.0.1:0".parse().unwrap();
    let timeouts = Timeouts { greeting: SOON, stalled: SOON, idle: 3 * SOON };
    let listener = Listener::bind(Interface::Http, any, 2 * STREAMS).await.unwrap();
    let listener = listener.with_timeouts(timeouts);
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let gate = daemon.gate(&stop);
    tokio::spawn(publish::http::serve(listener, gate, metrics(), stop.clone()));
    (address, stop)
}

async fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may refuse a request before its end.
    let _ = stream.write_all(request.as_bytes()).await;
    stream
}

/// Sends a request. Returns its reply until the connection ends.
async fn reply(address: SocketAddr, request: &str) -> String {
    String::from_utf8_lossy(&to_its_end(send(address, request).await).await).into_owned()
}

const WATCH: &str =
    "GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";

#[tokio::test]
async fn a_stream_over_http_beyond_the_limit_is_refused_until_another_ends() {
    let daemon = Daemon::with_journal(MemoryJournal::shared(RUN, 100));
    let (address, stop) = http(&daemon).await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = send(address, WATCH).await;
        until(&mut stream, &mut String::new(), "\r\n\r\n", 1).await;
        streams.push(stream);
    }
    let refused = reply(address, WATCH).await;
    assert!(refused.starts_with("HTTP/1.0 429 "), "{refused}");
    assert!(
        refused.contains("TOO_MANY_STREAMS") && refused.contains("all 48 streams"),
        "{refused}"
    );
    // Other requests are answered.
    let cameras = "GET /api/v1/cameras HTTP/1.0\r\nHost: localhost\r\n\r\n";
    assert!(reply(address, cameras).await.starts_with("HTTP/1.0 200 "));
    drop(streams.pop());
    let again = async {
        loop {
            let mut stream = send(address, WATCH).await;
            let mut start = [0; 12];
            stream.read_exact(&mut start).await.unwrap();
            if start.ends_with(b"200") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, again).await.expect("no stream became free");
    stop.cancel();
}

#[tokio::test]
async fn a_long_head_and_a_large_body_are_refused() {
    let daemon = Daemon::with_journal(MemoryJournal::shared(RUN, 100));
    let (address, stop) = http(&daemon).await;
    let ask = |bytes: usize| {
        let body = json!({ "cameras": ["gate"], "question": "x" }).to_string();
        let body = body + &" ".repeat(bytes);
        let length = body.len();
        format!(
            "POST /api/v1/ask HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    };
    let refused = reply(address, &ask(1 << 20)).await;
    assert!(refused.starts_with("HTTP/1.0 413 "), "{refused}");
    assert!(refused.contains("a body has at most 1048576 bytes"), "{refused}");
    // The fake daemon has no answer, but reads a body below the limit.
    assert!(reply(address, &ask(1 << 19)).await.starts_with("HTTP/1.0 503 "));
    let long = format!("GET /healthz HTTP/1.0\r\nX-Long: {}\r\n\r\n", "y".repeat(17 * 1024));
    let refused = reply(address, &long).await;
    assert!(refused.is_empty() || refused.contains(" 431 "), "{refused}");
    let short = format!("GET /healthz HTTP/1.0\r\nX-Long: {}\r\n\r\n", "y".repeat(15 * 1024));
    assert!(reply(address, &short).await.starts_with("HTTP/1.0 200 "));
    stop.cancel();
}

#[tokio::test]
async fn a_question_about_too_many_cameras_is_refused() {
    let daemon = Daemon::start(100).await;
    let ask = async |cameras: usize| {
        let names = (0..cameras).map(|number| format!("camera-{number}"));
        *daemon.service.more_cameras.lock().unwrap() = names.clone().collect();
        let question = "Is it open?".into();
        let request =
            proto::AskRequest { cameras: names.collect(), question, ..Default::default() };
        daemon.client().await.ask(request).await.map(drop)
    };
    let refused = ask(257).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("256"), "{refused}");
    ask(256).await.unwrap();
}
