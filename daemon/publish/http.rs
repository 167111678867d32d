//! HTTP endpoints for monitoring: `/healthz`, `/readyz`, `/metrics`.
//!
//! Guarantees: no request changes anything or waits, because a scrape only renders metrics that are
//! already collected. A client that does not finish its request's head, or does not read the reply,
//! is disconnected.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::{Listener, PublishError};
use crate::metrics::{self, PrometheusHandle};
use crate::service::{Readiness, Service};

/// Time for which a connection may continue after the stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Maximum size of a request's head in bytes, more than a request for one of the three pages needs.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The data that the pages show.
#[derive(Clone)]
struct Pages {
    service: Arc<dyn Service>,
    metrics: PrometheusHandle,
}

pub async fn serve(
    listener: Listener,
    service: Arc<dyn Service>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(Pages { service, metrics });
    accept(listener, routes, stop).await;
    Ok(())
}

/// Answers until `stop` while the model is loading: the process is healthy, but not ready, and has
/// no metrics.
pub async fn serve_loading(listener: Listener, stop: CancellationToken) {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || (StatusCode::SERVICE_UNAVAILABLE, "the model is loading\n"));
    accept(listener, routes, stop).await;
}

async fn accept(listener: Listener, routes: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            connection = listener.accept(1) => {
                connections.spawn(serve_connection(connection, routes.clone(), stop.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
}

/// Serves one connection until it ends. Its errors concern only the client.
async fn serve_connection(connection: Connection, routes: Router, stop: CancellationToken) {
    // The time limit runs from the connection, or from the previous reply, to the request's
    // complete head.
    let head_timeout = connection.timeouts().greeting;
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(routes));
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = &mut serving => return,
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
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
