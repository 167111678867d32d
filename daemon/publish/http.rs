//! HTTP for machines that watch the daemon: `/healthz`, `/readyz`, `/metrics`.
//!
//! Nothing here changes anything, and nothing here waits: a scrape renders what is counted already.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::PublishError;
use crate::service::{Readiness, Service};
use crate::telemetry::PrometheusHandle;

/// Between two times that the histograms' samples are folded into buckets, scraped or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// How long a connection may outlive the stop.
const DRAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct App {
    service: Arc<dyn Service>,
    metrics: PrometheusHandle,
}

pub async fn serve(
    listener: TcpListener,
    service: Arc<dyn Service>,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> Result<(), PublishError> {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(App { service, metrics: metrics.clone() });
    let server =
        axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = async { server.await } => {
            served.map_err(|e| PublishError::Serve { wire: "HTTP", why: e.to_string() })
        }
        () = drained => Ok(()),
        () = upkeep(metrics) => Ok(()),
    }
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

/// Without it the samples of a daemon that nobody scrapes would pile up.
async fn upkeep(metrics: PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        metrics.run_upkeep();
    }
}
