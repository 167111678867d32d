//! JPEGs of frames, with ETag (RFC 9110, section 8.8.3) and ranges (section 14).

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::request::event_id;
use super::{Api, Refusal};
use crate::event::EventId;
use crate::frame::FrameId;
use crate::publish::frames::{self, JpegError};
use crate::service::FrameError;

/// A frame never changes, so that a browser need not ask again within a day.
const CACHE: HeaderValue = HeaderValue::from_static("private, max-age=86400, immutable");

/// Returns the JPEG of a frame, from the journal or the buffer.
pub async fn frame(
    State(api): State<Api>,
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
    Ok(content(&headers, "image/jpeg", &format!("\"{run}.{number}\""), jpeg.into()))
}

/// Replies with a content that never changes under its tag, or a range of it.
fn content(asked: &HeaderMap, kind: &'static str, tag: &str, content: Bytes) -> Response {
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
    let length = content.len();
    // A range of another version is not wanted.
    let is_current = text(header::IF_RANGE).is_none_or(|known| known == tag);
    let range = text(header::RANGE).filter(|_| is_current);
    // Ranges that cannot be read are ignored.
    let Some(ranges) = range.and_then(|range| http_range_header::parse_range_header(range).ok())
    else {
        return (headers, content).into_response();
    };
    match ranges.validate(length as u64).as_deref() {
        Ok([range]) => {
            let (from, to) = (*range.start() as usize, *range.end() as usize);
            let shown = format!("bytes {from}-{to}/{length}");
            if let Ok(shown) = HeaderValue::from_str(&shown) {
                headers.insert(header::CONTENT_RANGE, shown);
            }
            (StatusCode::PARTIAL_CONTENT, headers, content.slice(from..=to)).into_response()
        }
        // Several ranges may be answered by the whole.
        Ok(_) => (headers, content).into_response(),
        Err(_) => {
            let shown = format!("bytes */{length}");
            let range = [(header::CONTENT_RANGE, shown)];
            (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(asked: &[(HeaderName, &str)]) -> (u16, Option<String>) {
        let asked = asked.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let reply = content(&asked.collect(), "image/jpeg", "\"1.2\"", b"0123456789"[..].into());
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
