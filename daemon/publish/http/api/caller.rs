//! The service for a handler, as the caller's token may see it.
//!
//! A handler takes one of [`Viewer`], [`Asker`] and [`Admin`], each of which refuses a caller with a
//! lower role.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Refusal;
use crate::access::{Caller, Denied, Entry, Role};
use crate::publish::http::STREAMS;
use crate::service::Service;

/// The state of the handlers.
#[derive(Clone)]
pub struct Shared {
    pub streams: Arc<Semaphore>,
}

/// The service for one request.
pub struct Api {
    pub service: Arc<dyn Service>,
    /// Cancelled when the streams must end.
    pub stop: CancellationToken,
    entry: Entry,
    streams: Arc<Semaphore>,
}

impl Api {
    /// Takes a place for an open stream: one of all clients, and one of the token.
    pub fn place(&self) -> Result<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>), Refusal> {
        let place = self.streams.clone().try_acquire_owned();
        let place = place.map_err(|_| Refusal::too_many_streams(STREAMS))?;
        Ok((place, self.entry.stream()?))
    }
}

/// The service for a request of a caller with the role `view`, at least.
pub struct Viewer(pub Api);

/// The service for a request of a caller with the role `ask`, at least.
pub struct Asker(pub Api);

/// The service for a request of a caller with the role `admin`.
pub struct Admin(pub Api);

impl FromRequestParts<Shared> for Viewer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Refusal> {
        enter(parts, shared, Role::View).map(Viewer)
    }
}

impl FromRequestParts<Shared> for Asker {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Refusal> {
        enter(parts, shared, Role::Ask).map(Asker)
    }
}

impl FromRequestParts<Shared> for Admin {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Refusal> {
        enter(parts, shared, Role::Admin).map(Admin)
    }
}

fn enter(parts: &Parts, shared: &Shared, role: Role) -> Result<Api, Refusal> {
    let caller = parts.extensions.get::<Caller>().ok_or(Denied::NoToken)?;
    let entry = caller.enter(role)?;
    Ok(Api {
        service: entry.service.clone(),
        stop: entry.stop.clone(),
        entry,
        streams: shared.streams.clone(),
    })
}
