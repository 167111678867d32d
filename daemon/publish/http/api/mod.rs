//! The HTTP API: the daemon's values, in the JSON of MQTT.
//!
//! Guarantees: every error is a [`Refusal`] in JSON. A request with an unknown parameter or field
//! is refused. Streams are limited in number, and end when the daemon stops.

mod ask;
mod caller;
mod camera_changes;
mod cameras;
mod events;
mod live;
mod media;
pub mod openapi;
mod request;
mod rules;
mod search;
mod session;
mod stream;
mod timeline;
mod trial;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{Json, Response};
use axum::routing::{get, patch, post};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Semaphore;

pub use events::get as event;

use caller::{Shared, Viewer};

use super::refusal::Refusal;
use super::{MAX_BODY_BYTES, guard};
use crate::access::Gate;
use crate::service::{Code, Readiness};

pub fn routes(gate: &Gate, streams: Arc<Semaphore>) -> Router {
    let sessions = Router::new()
        .route("/session", post(session::begin).delete(session::end))
        .method_not_allowed_fallback(async || Refusal::wrong_method())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(gate.clone(), guard::check_origin))
        .layer(map_response(as_data))
        .with_state(gate.clone());
    let routes = Router::new()
        .route("/openapi.json", get(async || Json(openapi::document())))
        .route("/access", get(session::access))
        .route("/status", get(status))
        .route("/cameras", get(cameras::list).post(camera_changes::add))
        .route("/cameras/{camera}", patch(camera_changes::update).delete(camera_changes::remove))
        .route("/cameras/{camera}/pause", post(camera_changes::pause))
        .route("/cameras/{camera}/resume", post(camera_changes::resume))
        .route("/config/cameras", get(camera_changes::list))
        .route("/cameras/{camera}/frames/{frame}", get(media::frame))
        .route("/cameras/{camera}/live", get(live::live))
        .route("/events", get(events::list_or_stream).delete(events::delete))
        .route("/events/{event}", get(events::one))
        .route("/events/{event}/clip", get(media::clip))
        .route("/events/{event}/keep", post(events::keep))
        .route("/search", get(search::search))
        .route("/timeline", get(timeline::timeline))
        .route("/ask", post(ask::ask))
        .route("/rules", get(rules::list))
        .route("/rules/try", post(trial::try_rule))
        .route("/alerts", get(rules::alerts))
        .route("/alerts/{alert}/acknowledge", post(rules::acknowledge))
        .fallback(async || {
            Refusal::new(Code::NotFound, "NO_SUCH_PATH", "no such path; see /api/v1/openapi.json")
        })
        .method_not_allowed_fallback(async || Refusal::wrong_method())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(gate.clone(), guard::admit))
        .layer(map_response(as_data))
        .with_state(Shared { streams });
    Router::new().nest("/api/v1", sessions.merge(routes))
}

/// Tells browsers to take a reply as the type that it states, and not to store it unless it says
/// so.
pub async fn as_data(mut reply: Response) -> Response {
    let headers = reply.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    reply
}

/// The state of the daemon.
#[derive(Serialize, JsonSchema)]
struct Status {
    version: &'static str,
    /// The number of the daemon's present run.
    run: u64,
    /// True if the daemon answers questions: the model is loaded, every worker makes progress and a
    /// camera is live.
    ready: bool,
    /// The reason why the daemon is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready_reason: Option<String>,
    /// The problems of the running daemon, a sentence each.
    troubles: Vec<String>,
}

async fn status(Viewer(api): Viewer) -> Json<Status> {
    let not_ready_reason = match api.service.readiness() {
        Readiness::Ready => None,
        Readiness::NotYet(why) => Some(why),
    };
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        run: api.service.journal().run(),
        ready: not_ready_reason.is_none(),
        not_ready_reason,
        troubles: api.service.troubles(),
    })
}
