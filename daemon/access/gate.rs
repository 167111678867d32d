//! Decides who a request is from, and what it may reach.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::failures::Failures;
use super::filtered::Filtered;
use super::known::{Known, Tokens};
use super::{Access, Audit, Denied, Role};
use crate::interface::Interface;
use crate::metrics;
use crate::service::{Readiness, Service};

/// The way of an interface to the service.
#[derive(Clone)]
pub struct Gate {
    service: Arc<dyn Service>,
    stop: CancellationToken,
    /// `None` if there is no access control: every request may do everything.
    guard: Option<Arc<Guard>>,
}

struct Guard {
    tokens: Arc<Tokens>,
    audit: Audit,
    failures: Failures,
}

impl Gate {
    /// Returns a gate without access control. `stop` ends the streams.
    pub fn open(service: Arc<dyn Service>, stop: CancellationToken) -> Gate {
        Gate { service, stop, guard: None }
    }

    /// Returns a gate that only tokens pass.
    pub fn guarded(
        service: Arc<dyn Service>,
        stop: CancellationToken,
        tokens: Arc<Tokens>,
        audit: Audit,
    ) -> Gate {
        let guard = Guard { tokens, audit, failures: Failures::default() };
        Gate { service, stop, guard: Some(Arc::new(guard)) }
    }

    pub fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// Returns the readiness of the daemon, which names no camera to a stranger: only health checks
    /// use it.
    pub fn readiness(&self) -> Readiness {
        self.service.readiness()
    }

    /// Finds out who a request is from, by its token and the client's address.
    pub fn identify(
        &self,
        token: Option<&str>,
        address: Option<IpAddr>,
        interface: Interface,
    ) -> Result<Caller, Denied> {
        let caller = |known| Caller { gate: self.clone(), known, interface };
        let Some(guard) = &self.guard else { return Ok(caller(None)) };
        let known = guard.find(token, address);
        known.map(|known| caller(Some(known))).inspect_err(|denied| count(interface, denied))
    }
}

impl Guard {
    fn find(&self, token: Option<&str>, address: Option<IpAddr>) -> Result<Arc<Known>, Denied> {
        let (token, now) = (token.ok_or(Denied::NoToken)?, Instant::now());
        if let Some(wait) = self.failures.wait(address, now) {
            return Err(Denied::TooManyFailures(wait));
        }
        self.tokens.find(token).ok_or_else(|| {
            if self.failures.count(address, now) {
                let client = address.map_or("an unknown address".into(), |ip| ip.to_string());
                tracing::warn!("access: {client} sent a wrong token");
            }
            Denied::WrongToken
        })
    }
}

fn count(interface: Interface, denied: &Denied) {
    metrics::access_denied(interface, denied.reason());
}

/// The sender of a request.
#[derive(Clone)]
pub struct Caller {
    gate: Gate,
    /// `None` if there is no access control.
    known: Option<Arc<Known>>,
    interface: Interface,
}

impl Caller {
    /// Returns what the caller may reach, if the caller has at least the role.
    pub fn enter(&self, needed: Role) -> Result<Entry, Denied> {
        let Some((known, guard)) = self.known.as_ref().zip(self.gate.guard.as_ref()) else {
            let Gate { service, stop, .. } = self.gate.clone();
            return Ok(Entry { service, daemon_stop: stop.clone(), stop, known: None });
        };
        let Access { name, role, .. } = &*known.access;
        if *role < needed {
            let denied = Denied::RoleTooLow { name: name.to_string(), role: *role, needed };
            count(self.interface, &denied);
            return Err(denied);
        }
        let audit = guard.audit.of(known.access.clone(), self.interface);
        let per_minute = guard.tokens.limits.questions_per_minute;
        let service = Filtered::shared(self.gate.service.clone(), known.clone(), per_minute, audit);
        Ok(Entry {
            service,
            stop: known.ended.clone(),
            daemon_stop: self.gate.stop.clone(),
            known: Some(known.clone()),
        })
    }

    /// Refuses a caller who may not see all cameras.
    pub fn require_all_cameras(&self) -> Result<(), Denied> {
        match self.access() {
            Some(Access { name, cameras: Some(_), .. }) => {
                Err(Denied::NotAllCameras(name.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the rights of the caller. `None` without access control.
    pub fn access(&self) -> Option<&Access> {
        self.known.as_ref().map(|known| &*known.access)
    }
}

/// The service as a caller may use it.
#[derive(Clone)]
pub struct Entry {
    pub service: Arc<dyn Service>,
    /// Cancelled when streams must end: the daemon stops, or the token is no longer valid.
    pub stop: CancellationToken,
    daemon_stop: CancellationToken,
    known: Option<Arc<Known>>,
}

impl Entry {
    /// Returns the reason for the end of the streams, if it is that the token is no longer valid.
    pub fn denied(&self) -> Option<Denied> {
        let ended = self.known.as_ref().is_some_and(|known| known.ended.is_cancelled());
        (ended && !self.daemon_stop.is_cancelled()).then_some(Denied::WrongToken)
    }

    /// Takes a place among the open streams of the token. Returns `None` without access control.
    pub fn stream(&self) -> Result<Option<OwnedSemaphorePermit>, Denied> {
        let Some(known) = &self.known else { return Ok(None) };
        let place = known.streams.clone().try_acquire_owned();
        place.map(Some).map_err(|_| Denied::TooManyStreams(known.access.name.to_string()))
    }
}
