//! Serves HTTP: pages for monitoring, the API below `/api/v1`, MCP at `/mcp`, and the page for people
//! at `/`.
//!
//! Guarantees: a client that does not finish its request's head, or does not read the reply, is
//! disconnected. The API and MCP answer no web page of another origin and, without access control, only
//! this machine.

mod api;
mod guard;
mod mcp;
mod monitoring;
mod page;
mod refusal;

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use api::openapi;

use super::connection::Connection;
use super::{Listener, PublishError};
use crate::access::Gate;
use crate::metrics::PrometheusHandle;
use guard::Client;

/// Time for which a connection may continue after the stop.
const DRAIN: Duration = Duration::from_secs(1);

/// Maximum size of a request's head in bytes, more than a request to the API needs.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Maximum size of a request's body in bytes, more than the longest question to the maximum number
/// of cameras needs.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Maximum number of open streams of all clients, and of questions and trials by MCP. It is below
/// the default number of connections, so that streams alone do not use up all connections.
const STREAMS: usize = 48;

pub async fn serve(
    listener: Listener,
    gate: Gate,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let streams = Arc::new(Semaphore::new(STREAMS));
    let routes = monitoring::routes(&gate, metrics)
        .merge(api::routes(&gate, streams.clone()))
        .merge(mcp::routes(&gate, streams, stop.clone()))
        .merge(page::routes());
    accept(listener, routes, stop).await;
    Ok(())
}

/// Answers until `stop` while the model is loading.
pub async fn serve_loading(listener: Listener, stop: CancellationToken) {
    accept(listener, monitoring::routes_while_loading().merge(page::routes()), stop).await;
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
    let routes = routes.layer(Extension(Client::new(&connection)));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(routes))
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        _ = &mut serving => return,
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
