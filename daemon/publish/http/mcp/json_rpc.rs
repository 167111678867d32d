//! Receives the JSON-RPC messages of clients before the MCP library does.
//!
//! Guarantees: a body that is not a message gets an error of JSON-RPC. A client that names its session
//! can cancel a call by a notification. The session has no other meaning, and nothing is kept for
//! it beyond its calls in progress.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::body::{self, Body};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, ErrorCode, JsonRpcMessage, RequestId,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::publish::http::MAX_BODY_BYTES;
use crate::publish::http::refusal::Refusal;
use crate::sync::lock;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The calls in progress of clients that named their session.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<HashMap<Key, CancellationToken>>>);

/// A session and the ID of one of its requests.
type Key = (String, RequestId);

/// A call in progress.
pub struct Ongoing {
    /// Cancelled when the client cancels the call.
    pub token: CancellationToken,
    registered: Option<(Calls, Key)>,
}

impl Calls {
    /// Registers a call until the result is dropped.
    pub fn begin(&self, of_request: Option<&Parts>, id: &RequestId) -> Ongoing {
        let token = CancellationToken::new();
        let session = of_request.and_then(|parts| session(&parts.headers));
        let registered = session.map(|session| {
            let key = (session, id.clone());
            lock(&self.0).insert(key.clone(), token.clone());
            (self.clone(), key)
        });
        Ongoing { token, registered }
    }

    fn cancel(&self, session: String, id: RequestId) {
        if let Some(token) = lock(&self.0).remove(&(session, id)) {
            token.cancel();
        }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        if let Some((calls, key)) = &self.registered {
            lock(&calls.0).remove(key);
        }
    }
}

fn session(headers: &HeaderMap) -> Option<String> {
    headers.get(SESSION).and_then(|session| session.to_str().ok()).map(str::to_owned)
}

/// Checks the body of a request, cancels a call if the message asks for it, and names a session to
/// a client that initialises.
pub async fn receive(State(calls): State<Calls>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = body::to_bytes(body, MAX_BODY_BYTES).await else {
        return Refusal::too_large(MAX_BODY_BYTES).into_response();
    };
    let message = match message(&body) {
        Ok(message) => message,
        Err(error) => return (StatusCode::BAD_REQUEST, Json(error)).into_response(),
    };
    let initialises = matches!(
        &message,
        JsonRpcMessage::Request(request)
            if matches!(request.request, ClientRequest::InitializeRequest(_))
    );
    if let JsonRpcMessage::Notification(notification) = message
        && let ClientNotification::CancelledNotification(cancelled) = notification.notification
        && let Some(id) = cancelled.params.request_id
        && let Some(session) = session(&parts.headers)
    {
        calls.cancel(session, id);
    }
    let mut reply = next.run(Request::from_parts(parts, Body::from(body))).await;
    if initialises && reply.status().is_success() {
        let session = format!("{:032x}", rand::random::<u128>());
        if let Ok(session) = HeaderValue::from_str(&session) {
            reply.headers_mut().insert(SESSION, session);
        }
    }
    reply
}

/// Reads a message, or returns the error of JSON-RPC.
fn message(body: &[u8]) -> Result<ClientJsonRpcMessage, Value> {
    let error = |id: Option<&Value>, code: ErrorCode, why: String| json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": why } });
    let value: Value = serde_json::from_slice(body).map_err(|why| {
        error(None, ErrorCode::PARSE_ERROR, format!("the body is not JSON: {why}"))
    })?;
    let id = value.get("id").filter(|id| id.is_string() || id.is_i64()).cloned();
    serde_json::from_value(value).map_err(|why| {
        let why = format!("the body is not a message of JSON-RPC 2.0: {why}");
        error(id.as_ref(), ErrorCode::INVALID_REQUEST, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_can_be_cancelled_by_its_session_until_it_ends() {
        let parts = |session: &str| {
            let request = Request::builder().header(SESSION, session).body(()).expect("a request");
            request.into_parts().0
        };
        let (calls, id) = (Calls::default(), RequestId::Number(1));
        let [first, second] = ["a", "b"].map(|session| calls.begin(Some(&parts(session)), &id));
        calls.cancel("a".into(), RequestId::Number(2));
        calls.cancel("c".into(), id.clone());
        assert!(!first.token.is_cancelled() && !second.token.is_cancelled());
        calls.cancel("a".into(), id.clone());
        assert!(first.token.is_cancelled() && !second.token.is_cancelled());
        let without_session = calls.begin(None, &id);
        drop((first, second, without_session));
        assert!(lock(&calls.0).is_empty());
    }

    #[test]
    fn what_is_no_message_gets_an_error_with_its_id() {
        let error = |body: &str| message(body.as_bytes()).expect_err("an error");
        let code = |body| error(body)["error"]["code"].clone();
        for body in ["", "{", "no", "\u{feff}{}"] {
            assert_eq!(code(body), -32700, "{body}");
        }
        for body in ["7", "[]", "{}", r#"{"id":1,"method":"ping"}"#, r#"{"jsonrpc":"1.0","id":1}"#]
        {
            assert_eq!(code(body), -32600, "{body}");
        }
        assert_eq!(error(r#"{"id":1,"method":7}"#)["id"], 1);
        assert_eq!(error("{}")["id"], Value::Null);
        assert!(message(br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).is_ok());
    }
}
