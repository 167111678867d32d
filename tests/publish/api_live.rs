//! Tests live video over HTTP with a client of the WebSocket.

use bytes::Bytes;
use serde_json::json;
use tokio_stream::StreamExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::api::*;
use super::*;

type Socket = WebSocketStream<TcpStream>;

async fn open(server: &Server, camera: &str, origin: &str) -> Result<Socket, u16> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let target = format!("ws://localhost/api/v1/cameras/{camera}/live");
    let mut request = target.into_client_request().unwrap();
    request.headers_mut().insert("Origin", origin.parse().unwrap());
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tokio_tungstenite::tungstenite::Error::Http(reply)) => Err(reply.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn next(socket: &mut Socket) -> Message {
    timeout(SOON, socket.next()).await.expect("a message in time").expect("a message").unwrap()
}

async fn told(socket: &mut Socket) -> Value {
    let Message::Text(text) = next(socket).await else { panic!("not a text") };
    serde_json::from_str(&text).expect("JSON")
}

const ORIGIN: &str = "http://localhost";

#[tokio::test]
async fn live_video_is_a_type_a_head_and_fragments() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    let (to, video) = mpsc::channel(4);
    *daemon.service.live.lock().unwrap() = Some(video);
    let mut socket = open(&server, "gate", ORIGIN).await.unwrap();
    let mime_type = "video/mp4; codecs=\"avc1.64001f\"".to_owned();
    let head = Bytes::from_static(b"head");
    to.send(LiveItem::Started { mime_type: mime_type.clone(), head }).await.unwrap();
    assert_eq!(told(&mut socket).await, json!({ "kind": "started", "mime_type": mime_type }));
    assert_eq!(next(&mut socket).await, Message::Binary(Bytes::from_static(b"head")));
    for n in 0..20_u8 {
        to.send(LiveItem::Fragment(vec![n; 1000].into())).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::Binary(vec![n; 1000].into()));
    }
    to.send(LiveItem::Ended("the camera was connected again".into())).await.unwrap();
    drop(to);
    let ended = json!({ "kind": "ended", "reason": "the camera was connected again" });
    assert_eq!(told(&mut socket).await, ended);
    assert!(next(&mut socket).await.is_close());
    server.stopped().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_video_and_so_does_the_daemon() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    let (to, video) = mpsc::channel(1);
    *daemon.service.live.lock().unwrap() = Some(video);
    let socket = open(&server, "gate", ORIGIN).await.unwrap();
    drop(socket);
    timeout(SOON, to.closed()).await.expect("the video goes on");
    let (_to, video) = mpsc::channel(1);
    *daemon.service.live.lock().unwrap() = Some(video);
    let mut socket = open(&server, "gate", ORIGIN).await.unwrap();
    server.stopped().await;
    let left = timeout(SOON, async { while let Some(Ok(_)) = socket.next().await {} });
    left.await.expect("still open");
}

#[tokio::test]
async fn live_video_that_cannot_be_sent_has_a_reason() {
    let daemon = Daemon::start(10).await;
    let server = Server::start(&daemon).await;
    let mut socket = open(&server, "attic", ORIGIN).await.unwrap();
    let refused = told(&mut socket).await;
    assert_eq!(
        (&refused["kind"], &refused["reason"]),
        (&json!("refused"), &json!("CAMERA_NOT_FOUND"))
    );
    let (to, video) = mpsc::channel(1);
    *daemon.service.live.lock().unwrap() = Some(video);
    let mut socket = open(&server, "gate", ORIGIN).await.unwrap();
    to.send(LiveItem::Unavailable("the camera is a file".into())).await.unwrap();
    let expected = json!({ "kind": "unavailable", "message": "the camera is a file" });
    assert_eq!(told(&mut socket).await, expected);
    assert_eq!(open(&server, "gate", "https://example.com").await.err(), Some(403));
    server.get("/cameras/gate/live").await.refused(400, "INVALID_REQUEST");
    server.stopped().await;
}
