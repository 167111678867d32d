//! JPEGs of frames and clips of alerts, with ETag (RFC 9110, section 8.8.3) and ranges (section 14).

use std::ops::Range;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::caller::Viewer;
use super::request::event_id;
use super::{Refusal, events};
use crate::event::EventId;
use crate::frame::FrameId;
use crate::journal::{CLIP_CHUNK, QueryError};
use crate::publish::clip::Clip;
use crate::publish::frames::{self, JpegError};
use crate::publish::http::guard::Client;
use crate::service::FrameError;

/// A frame or a clip never changes, so that a browser need not ask again within a day.
const CACHE: HeaderValue = HeaderValue::from_static("private, max-age=86400, immutable");

/// Number of chunks of a clip that wait for a client.
const CHUNKS: usize = 2;

/// Returns the JPEG of a frame, from the journal or the buffer.
pub async fn frame(
    Viewer(api): Viewer,
    Path((camera, frame)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    // The ID of a frame has the form of an event's.
    let EventId { run, sequence: number } = event_id("frame", &frame)?;
    let jpeg = match frames::jpeg(&*api.service, &camera, FrameId { run, number }).await {
        Ok(Some(jpeg)) => jpeg,
        Ok(None) => return Err(FrameError::FrameNotFound { camera, number }.into()),
        Err(JpegError::Journal(error)) => return Err(error.into()),
        Err(JpegError::Buffer(error)) => return Err(error.into()),
    };
    let (tag, jpeg) = (format!("\"{run}.{number}\""), Bytes::from(jpeg));
    let part = |range: Range<u64>| jpeg.slice(range.start as usize..range.end as usize).into();
    Ok(content(&headers, "image/jpeg", &tag, jpeg.len() as u64, part))
}

/// Returns the clip of the alert that an event is of.
pub async fn clip(
    Viewer(api): Viewer,
    Extension(client): Extension<Client>,
    Path(event): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let event = events::get(api.service.journal(), event_id("event", &event)?).await?;
    let clip = Clip::open(api.service.clone(), &event).await??;
    let length = clip.description.bytes;
    let tag = format!("\"{}\"", clip.alert_id);
    Ok(content(&headers, "video/mp4", &tag, length, |range| {
        let (to, from) = mpsc::channel(CHUNKS);
        let call = client.begin_call();
        tokio::spawn(async move {
            let _counted = call;
            tokio::select! {
                () = send(clip, range, &to) => {}
                () = to.closed() => {}
                () = api.stop.cancelled() => {}
            }
        });
        Body::from_stream(ReceiverStream::new(from))
    }))
}

/// Sends a range of a clip's file. An error breaks the connection, because the length of the reply
/// has been sent.
async fn send(mut clip: Clip, mut range: Range<u64>, to: &mpsc::Sender<Result<Bytes, ReadError>>) {
    let chunk_bytes = CLIP_CHUNK as u64;
    while !range.is_empty() {
        let number = u32::try_from(range.start / chunk_bytes).unwrap_or(u32::MAX);
        let part = clip.chunk(number).await.map_err(ReadError::Journal).and_then(|chunk| {
            let chunk = chunk.ok_or(ReadError::Ended)?;
            let from = (range.start % chunk_bytes) as usize;
            let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            let to = chunk.len().min(from.saturating_add(wanted));
            if from < to { Ok(chunk.slice(from..to)) } else { Err(ReadError::Ended) }
        });
        range.start += part.as_ref().map_or(0, |part| part.len() as u64);
        let is_last = part.is_err();
        if to.send(part).await.is_err() || is_last {
            return;
        }
    }
}

/// The error that breaks off a clip.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Journal(QueryError),
    #[error("the clip was deleted while it was read")]
    Ended,
}

/// Replies with a content that never changes under its tag, or a range of it. `body` returns the
/// bytes of a range.
fn content(
    asked: &HeaderMap,
    kind: &'static str,
    tag: &str,
    length: u64,
    body: impl FnOnce(Range<u64>) -> Body,
) -> Response {
    let text = |name: HeaderName| asked.get(name).and_then(|value| value.to_str().ok());
    let mut headers = HeaderMap::new();
    headers.insert(header::CACHE_CONTROL, CACHE);
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    let is_known = text(header::IF_NONE_MATCH).is_some_and(|tags| {
        let mut tags = tags.split(',').map(|known| known.trim().trim_start_matches("W/"));
        tags.any(|known| known == tag || known == "*")
    });
    if is_known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // A range of another version is not wanted.
    let is_current = text(header::IF_RANGE).is_none_or(|known| known == tag);
    let range = text(header::RANGE).filter(|_| is_current);
    let ranges = range.and_then(|range| http_range_header::parse_range_header(range).ok());
    let (status, range) = match ranges.map(|ranges| ranges.validate(length)) {
        // Ranges that cannot be read are ignored, and several may be answered by the whole.
        None => (StatusCode::OK, 0..length),
        Some(Ok(ranges)) => match ranges.as_slice() {
            [range] => (StatusCode::PARTIAL_CONTENT, *range.start()..*range.end() + 1),
            _ => (StatusCode::OK, 0..length),
        },
        Some(Err(_)) => {
            let shown = format!("bytes */{length}");
            let range = [(header::CONTENT_RANGE, shown)];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    if status == StatusCode::PARTIAL_CONTENT {
        let shown = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        if let Ok(shown) = HeaderValue::from_str(&shown) {
            headers.insert(header::CONTENT_RANGE, shown);
        }
    }
    (status, headers, body(range)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(asked: &[(HeaderName, &str)]) -> (u16, Option<String>) {
        let asked = asked.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let reply = content(&asked.collect(), "image/jpeg", "\"1.2\"", 10, |_| Body::empty());
        let range = reply.headers().get(header::CONTENT_RANGE);
        (reply.status().as_u16(), range.map(|range| range.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_known_content_is_not_sent_again() {
        for known in ["\"1.2\"", "W/\"1.2\"", "\"0.1\", \"1.2\"", "*"] {
            assert_eq!(reply(&[(header::IF_NONE_MATCH, known)]).0, 304, "{known}");
        }
        assert_eq!(reply(&[(header::IF_NONE_MATCH, "\"1.3\"")]).0, 200);
    }

    #[test]
    fn a_range_is_sent_if_it_can_be() {
        let range = |range| reply(&[(header::RANGE, range)]);
        assert_eq!(range("bytes=2-4"), (206, Some("bytes 2-4/10".into())));
        assert_eq!(range("bytes=7-"), (206, Some("bytes 7-9/10".into())));
        assert_eq!(range("bytes=-3"), (206, Some("bytes 7-9/10".into())));
        assert_eq!(range("bytes=10-"), (416, Some("bytes */10".into())));
        for ignored in ["lines=1-2", "bytes=", "bytes=0-1,4-5"] {
            assert_eq!(range(ignored), (200, None), "{ignored}");
        }
        let of_other = [(header::RANGE, "bytes=2-4"), (header::IF_RANGE, "\"1.3\"")];
        assert_eq!(reply(&of_other), (200, None));
    }
}
