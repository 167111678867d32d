//! The live video of a camera, over a WebSocket (RFC 6455).
//!
//! A WebSocket and not a long reply: browsers allow six requests at a time to a host, and any number
//! of WebSockets.

use axum::Extension;
use axum::extract::Path;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;

use super::Refusal;
use super::caller::Viewer;
use crate::publish::http::guard::Client;
use crate::service::{AskError, LiveItem, LiveStream};

/// Maximum size of a client's message in bytes. Clients have nothing to send.
const MESSAGE_BYTES: usize = 1024;

/// A message of the WebSocket that is text. `started` is followed by the head of an MP4 file and
/// then its fragments, one for each picture, as binary messages.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LiveMessage {
    /// The video begins.
    Started {
        /// The type of the video, as `MediaSource.isTypeSupported` reads it.
        mime_type: String,
    },
    /// The video ends. It can be requested again.
    Ended { reason: String },
    /// The camera has no live video.
    Unavailable { message: String },
    /// The request is refused.
    Refused {
        #[serde(flatten)]
        refusal: Refusal,
    },
}

/// Sends the live video of a camera. A refusal is a message, because a page cannot read the reply to
/// a WebSocket that is not opened.
pub async fn live(
    Viewer(api): Viewer,
    Extension(client): Extension<Client>,
    Path(camera): Path<String>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = upgrade.map_err(|why| {
        Refusal::invalid("Upgrade", format!("the path is a WebSocket; see RFC 6455: {why}"))
    })?;
    Ok(upgrade.max_message_size(MESSAGE_BYTES).on_upgrade(async move |mut socket| {
        let _call = client.begin_call();
        let _place = match api.place() {
            Ok(place) => place,
            Err(refusal) => return refuse(socket, refusal).await,
        };
        let Some(video) = api.service.live_video(&camera) else {
            return refuse(socket, AskError::CameraNotFound(camera).into()).await;
        };
        tokio::select! {
            () = send(&mut socket, video) => {}
            () = api.stop.cancelled() => {}
        }
        // The browser closes its side.
        let _ = socket.send(Message::Close(None)).await;
    }))
}

async fn refuse(mut socket: WebSocket, refusal: Refusal) {
    if socket.send(text(&LiveMessage::Refused { refusal })).await.is_ok() {
        let _ = socket.send(Message::Close(None)).await;
    }
}

/// Sends a video until it ends or the client closes the socket.
async fn send(socket: &mut WebSocket, mut video: LiveStream) {
    loop {
        tokio::select! {
            item = video.recv() => {
                let Some(item) = item else { return };
                for message in messages(item) {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
            }
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

fn messages(item: LiveItem) -> Vec<Message> {
    match item {
        LiveItem::Started { mime_type, head } => {
            vec![text(&LiveMessage::Started { mime_type }), Message::Binary(head)]
        }
        LiveItem::Fragment(fragment) => vec![Message::Binary(fragment)],
        LiveItem::Unavailable(message) => vec![text(&LiveMessage::Unavailable { message })],
        LiveItem::Ended(reason) => vec![text(&LiveMessage::Ended { reason })],
    }
}

fn text(message: &LiveMessage) -> Message {
    Message::Text(serde_json::to_string(message).unwrap_or_default().into())
}
