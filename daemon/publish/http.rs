//! HTTP for machines that watch the daemon: `/healthz`, `/readyz`, `/metrics`.
//!
//! Nothing here changes anything, and nothing here waits: a scrape renders what is counted already.
//! A client that does not finish its request's head, or does not read the reply, is not waited for.

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

use super::listener::Connection;
use super::{Listener, PublishError};
use crate::service::{Readiness, Service};
use crate::telemetry::PrometheusHandle;

/// How long a connection may outlive the stop.
const DRAIN: Duration = Duration::from_secs(1);

/// The largest head of a request: more than asking for one of three pages takes.
const LARGEST_HEAD: usize = 16 * 1024;

#[derive(Clone)]
struct App {
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
        .with_state(App { service, metrics });
    let mut connections = JoinSet::new();
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => {}
            connection = listener.accept(1) => {
                connections.spawn(converse(connection, routes.clone(), stop.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    Ok(())
}

/// One connection, to its end. What goes wrong on it is the client's affair.
async fn converse(connection: Connection, routes: Router, stop: CancellationToken) {
    // From the connection, or from the reply before it, to the request's whole head.
    let head = connection.patience().greeting;
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(routes));
    let mut conversation = std::pin::pin!(conversation);
    tokio::select! {
        _ = &mut conversation => return,
        () = stop.cancelled() => conversation.as_mut().graceful_shutdown(),
    }
    let _ = conversation.await;
}

async fn ready(State(app): State<App>) -> (StatusCode, String) {
    match app.service.readiness() {
        Readiness::Ready => {
            let troubles = app.service.troubles().into_iter().map(|why| format!("; {why}"));
            (StatusCode::OK, format!("ready{}\n", troubles.collect::<String>()))
        }
        Readiness::NotYet(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn render(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render())
}
