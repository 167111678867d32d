//! Reads the parameters and the body of a request. What cannot be read is refused with its name.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use super::Refusal;
use crate::event::EventId;
use crate::journal::EventFilter;
use crate::moment;
use crate::publish::http::MAX_BODY_BYTES;

/// The parameters of a request's query string. A parameter may be repeated if `T` has a list.
pub struct Parameters<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let query = parts.uri.query().unwrap_or_default();
        serde_html_form::from_str(query)
            .map(Parameters)
            .map_err(|error| Refusal::invalid("query", format!("the query string: {error}")))
    }
}

/// The body of a request as UTF-8 text, sent as JSON. A web page of another site cannot send this
/// type without asking the daemon first (Fetch standard, CORS-safelisted request headers).
pub struct JsonText(pub String);

impl<S: Send + Sync> FromRequest<S> for JsonText {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            return Err(Refusal::wrong_type());
        }
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|_| Refusal::too_large(MAX_BODY_BYTES))?;
        let text = String::from_utf8(body.into());
        text.map(JsonText).map_err(|_| Refusal::invalid("body", "the body is not UTF-8"))
    }
}

impl JsonText {
    /// Reads the fields of the body.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_str(&self.0)
            .map_err(|error| Refusal::invalid("body", format!("the body: {error}")))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// Reads the ID of an event, `RUN.SEQUENCE`.
pub fn event_id(field: &str, text: &str) -> Result<EventId, Refusal> {
    text.parse().map_err(|why| Refusal::invalid(field, format!("{field} is {why}")))
}

/// Completes a filter with its times.
pub fn between(
    filter: EventFilter,
    since: Option<&str>,
    until: Option<&str>,
) -> Result<EventFilter, Refusal> {
    let time = |field: &'static str, text: Option<&str>| {
        let parse = |text| {
            let wrong = |why| Refusal::invalid(field, format!("{field} is {text:?}; {why}"));
            moment::parse(text).map_err(wrong)
        };
        text.map(parse).transpose()
    };
    Ok(EventFilter { since: time("since", since)?, until: time("until", until)?, ..filter })
}
