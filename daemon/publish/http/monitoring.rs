//! The pages for monitoring: `/healthz`, `/readyz` and `/metrics`.
//!
//! Guarantees: no request changes anything or waits, because a scrape only renders metrics that are
//! already collected.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::{self, PrometheusHandle};
use crate::service::{Readiness, Service};

/// The data that the pages show.
#[derive(Clone)]
struct Pages {
    service: Arc<dyn Service>,
    metrics: PrometheusHandle,
}

pub fn routes(service: Arc<dyn Service>, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(Pages { service, metrics })
}

/// Returns the routes while the model is loading: the process is healthy, but not ready, and has no
/// metrics.
pub fn routes_while_loading() -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || (StatusCode::SERVICE_UNAVAILABLE, "the model is loading\n"))
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, String) {
    match pages.service.readiness() {
        Readiness::Ready => {
            let troubles = pages.service.troubles().into_iter().map(|why| format!("; {why}"));
            (StatusCode::OK, format!("ready{}\n", troubles.collect::<String>()))
        }
        Readiness::NotYet(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn render(State(pages): State<Pages>) -> impl IntoResponse {
    let cameras = pages.service.cameras();
    let is_present = |name: &str| cameras.iter().any(|camera| *camera.name == *name);
    let text = metrics::of_cameras(&pages.metrics.render(), is_present);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
