//! Decides which requests the API answers: those of no other origin, with a valid token or, without
//! access control, those of this machine.
//!
//! A web page of another site can make a browser send requests to this machine. The browser then
//! names the page's origin in `Origin` or `Sec-Fetch-Site` (Fetch standard). A page can also give
//! its own name this machine's address (DNS rebinding); the request's `Host` is then that name.

use std::net::IpAddr;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;

use cookie::Cookie;

use super::refusal::Refusal;
use crate::access::{self, Caller, Denied, Gate};
use crate::interface::Interface;
use crate::publish::connection::{Call, Calls, Connection};
use crate::service::Code;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// The client of a connection.
#[derive(Clone)]
pub struct Client {
    /// `None` if the connection is broken.
    address: Option<IpAddr>,
    is_encrypted: bool,
    calls: Calls,
}

impl Client {
    pub fn new(connection: &Connection) -> Client {
        Client {
            address: connection.peer_address(),
            is_encrypted: connection.is_encrypted(),
            calls: connection.calls().clone(),
        }
    }

    /// Returns true if the client's connection uses TLS.
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    pub fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Counts a long reply as an open call, so that the connection is not closed as idle.
    pub fn begin_call(&self) -> Call {
        self.calls.begin()
    }
}

/// Name of the cookie in which the page sends its token.
pub const SESSION: &str = "lookout_session";

/// Refuses a request of another origin, or without a valid token. A later handler finds the
/// [`Caller`] in the request's extensions.
pub async fn admit(
    State(gate): State<Gate>,
    Extension(client): Extension<Client>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    check(&gate, &client, &request)?;
    let caller = identify(&gate, &client, request.headers())?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Refuses a request of another origin.
pub async fn check_origin(
    State(gate): State<Gate>,
    Extension(client): Extension<Client>,
    request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    check(&gate, &client, &request)?;
    Ok(next.run(request).await)
}

/// Finds out who a request is from.
pub fn identify(gate: &Gate, client: &Client, headers: &HeaderMap) -> Result<Caller, Denied> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let of_header = text(header::AUTHORIZATION).and_then(access::bearer).map(str::to_owned);
    let of_cookie = || {
        let mut cookies = Cookie::split_parse(text(header::COOKIE)?.to_owned()).flatten();
        cookies.find(|cookie| cookie.name() == SESSION).map(|cookie| cookie.value().to_owned())
    };
    let token = of_header.or_else(of_cookie);
    gate.identify(token.as_deref(), client.address, Interface::Http)
}

fn check(gate: &Gate, client: &Client, request: &Request) -> Result<(), Refusal> {
    let (method, headers) = (request.method(), request.headers());
    if !gate.is_guarded() {
        check_machine(client.address, headers)?;
    }
    check_page(method, headers)
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Refuses a request of another machine, and one whose host another site may have named.
fn check_machine(address: Option<IpAddr>, headers: &HeaderMap) -> Result<(), Refusal> {
    if !address.is_some_and(|address| address.to_canonical().is_loopback()) {
        let why = "the API answers only this machine, because access control is disabled";
        return Err(Refusal::new(Code::PermissionDenied, "OTHER_MACHINE", why));
    }
    let host = text(headers, header::HOST).unwrap_or_default();
    if !host.parse::<Authority>().is_ok_and(|host| is_local(host.host())) {
        let why = format!("the host is {host:?}; wanted localhost or an IP address");
        return Err(Refusal::new(Code::PermissionDenied, "OTHER_HOST", why));
    }
    Ok(())
}

/// Refuses a request that a web page of another origin made.
fn check_page(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let host = text(headers, header::HOST).unwrap_or_default().parse::<Authority>().ok();
    let other_origin = |found: &str| {
        let why = format!("a page of another origin may not use the API: {found}");
        Err(Refusal::new(Code::PermissionDenied, "OTHER_ORIGIN", why))
    };
    if let Some(origin) = text(headers, header::ORIGIN) {
        let of_origin = origin.split_once("://").map(|(_, authority)| authority);
        let same = of_origin.and_then(|origin| origin.parse::<Authority>().ok());
        if same.is_none() || same != host {
            return other_origin(origin);
        }
    }
    // A link to an address of the API is opened as a page of its own.
    let is_visit = *method == Method::GET && text(headers, SEC_FETCH_MODE) == Some("navigate");
    match text(headers, SEC_FETCH_SITE) {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if is_visit => Ok(()),
        Some(site) => other_origin(site),
    }
}

/// Returns true for a name that no other site can give to this machine.
fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(address: &str, method: Method, headers: &[(HeaderName, &str)]) -> &'static str {
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        let headers = headers.collect();
        let admitted = check_machine(address.parse().ok(), &headers)
            .and_then(|()| check_page(&method, &headers));
        admitted.map_or_else(|refusal| refusal.reason, |()| "")
    }

    #[test]
    fn only_this_machine_is_admitted() {
        let host = [(header::HOST, "127.0.0.1:9090")];
        for address in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(reason(address, Method::GET, &host), "", "{address}");
        }
        for address in ["192.168.1.7", "0.0.0.0", "fe80::1", ""] {
            assert_eq!(reason(address, Method::GET, &host), "OTHER_MACHINE", "{address}");
        }
    }

    #[test]
    fn a_name_that_may_be_rebound_is_refused() {
        for host in ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "[::1]:9090", "192.168.1.7"] {
            assert_eq!(reason("::1", Method::GET, &[(header::HOST, host)]), "", "{host}");
        }
        for host in ["example.com", "localhost.example.com", "127.0.0.1.nip.io", "", "a b"] {
            let found = reason("::1", Method::GET, &[(header::HOST, host)]);
            assert_eq!(found, "OTHER_HOST", "{host}");
        }
        assert_eq!(reason("::1", Method::GET, &[]), "OTHER_HOST");
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let host = (header::HOST, "127.0.0.1:9090");
        let with = |method, name: HeaderName, value| {
            reason("127.0.0.1", method, &[host.clone(), (name, value)])
        };
        assert_eq!(with(Method::POST, header::ORIGIN, "http://127.0.0.1:9090"), "");
        for origin in ["https://example.com", "http://127.0.0.1:8080", "null", "", "http://"] {
            assert_eq!(with(Method::POST, header::ORIGIN, origin), "OTHER_ORIGIN", "{origin}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(with(Method::GET, SEC_FETCH_SITE, site), "", "{site}");
        }
        for site in ["cross-site", "same-site"] {
            assert_eq!(with(Method::GET, SEC_FETCH_SITE, site), "OTHER_ORIGIN", "{site}");
        }
        let visit = |method| {
            let fetch = [(SEC_FETCH_SITE, "cross-site"), (SEC_FETCH_MODE, "navigate")];
            let [site, mode] = fetch;
            reason("127.0.0.1", method, &[host.clone(), site, mode])
        };
        assert_eq!(visit(Method::GET), "");
        assert_eq!(visit(Method::POST), "OTHER_ORIGIN");
    }
}
