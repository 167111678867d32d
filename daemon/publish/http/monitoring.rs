//! The pages for monitoring: `/healthz`, `/readyz` and `/metrics`.
//!
//! Guarantees: no request changes anything or waits, because a scrape only renders metrics that are
//! already collected.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};

use super::guard::{self, Client};
use super::refusal::Refusal;
use crate::access::{Denied, Entry, Gate, Role};
use crate::event::CameraState;
use crate::metrics::{self, PrometheusHandle, Series};
use crate::service::Readiness;

/// The data that the pages show.
#[derive(Clone)]
struct Pages {
    gate: Gate,
    metrics: PrometheusHandle,
}

pub fn routes(gate: &Gate, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(Pages { gate: gate.clone(), metrics })
}

/// Returns the routes while the model is loading: the process is healthy, but not ready, and has no
/// metrics.
pub fn routes_while_loading() -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || (StatusCode::SERVICE_UNAVAILABLE, "the model is loading\n"))
}

/// Says if the daemon is ready. Details, which may name cameras, are for callers who see all of them.
async fn ready(
    State(pages): State<Pages>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> (StatusCode, String) {
    let readiness = pages.gate.readiness();
    let Ok(entry) = enter(&pages.gate, &client, &headers) else {
        return match readiness {
            Readiness::Ready => (StatusCode::OK, "ready\n".into()),
            Readiness::NotYet(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".into()),
        };
    };
    match readiness {
        Readiness::Ready => {
            let troubles = entry.service.troubles().into_iter().map(|why| format!("; {why}"));
            (StatusCode::OK, format!("ready{}\n", troubles.collect::<String>()))
        }
        Readiness::NotYet(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// Returns what a caller may reach who may see all cameras.
fn enter(gate: &Gate, client: &Client, headers: &HeaderMap) -> Result<Entry, Denied> {
    let caller = guard::identify(gate, client, headers)?;
    caller.require_all_cameras()?;
    caller.enter(Role::View)
}

async fn render(
    State(pages): State<Pages>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Refusal> {
    let service = enter(&pages.gate, &client, &headers)?.service;
    let cameras = service.cameras();
    let rules = service.rules();
    let is_present = |series: Series<'_>| {
        let Some(camera) = cameras.iter().find(|camera| *camera.name == *series.camera) else {
            return false;
        };
        // A paused camera is not down.
        let is_paused = camera.status.state == CameraState::Paused;
        let watches =
            |rule: &str| rules.iter().any(|r| *r.camera == *series.camera && *r.name == *rule);
        !(is_paused && series.metric == metrics::table::CAMERA_LIVE.name)
            && series.rule.is_none_or(watches)
    };
    let text = metrics::of_cameras(&pages.metrics.render(), is_present);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}
