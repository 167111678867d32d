//! The session of the page: a cookie with the token, which scripts cannot read.
//!
//! The cookie is sent only by the daemon's own pages (`SameSite=Strict`), and ends with the token. A
//! cookie that was set over TLS is sent over TLS only (`Secure`).

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use cookie::{Cookie, SameSite};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Refusal;
use super::request::JsonText;
use crate::access::{Access, Caller, Gate};
use crate::interface::Interface;
use crate::publish::http::guard::{Client, SESSION};

/// The rights of the caller.
#[derive(Serialize, JsonSchema)]
pub struct AccessInfo {
    /// Name of the token. `null` if the daemon has no access control.
    token: Option<String>,
    /// `view`, `ask` or `admin`.
    role: &'static str,
    /// Names of the visible cameras. `null` if all are visible.
    cameras: Option<Vec<String>>,
}

impl AccessInfo {
    fn of(caller: &Caller) -> AccessInfo {
        match caller.access() {
            Some(Access { name, role, cameras }) => AccessInfo {
                token: Some(name.to_string()),
                role: role.name(),
                cameras: cameras.as_ref().map(|cameras| cameras.iter().cloned().collect()),
            },
            None => AccessInfo { token: None, role: "admin", cameras: None },
        }
    }
}

pub async fn access(Extension(caller): Extension<Caller>) -> Json<AccessInfo> {
    Json(AccessInfo::of(&caller))
}

/// The token with which a session begins.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The token, as `lookout token add` printed it.
    token: String,
}

/// Begins a session: checks the token and sets the cookie.
pub async fn begin(
    State(gate): State<Gate>,
    Extension(client): Extension<Client>,
    body: JsonText,
) -> Result<Response, Refusal> {
    let Login { token } = body.read()?;
    let caller = gate.identify(Some(token.trim()), client.address(), Interface::Http)?;
    let info = Json(AccessInfo::of(&caller));
    let cookie = session(token.trim().to_owned(), &client).permanent();
    Ok(with_cookie(cookie, info.into_response()))
}

/// Ends the session: removes the cookie. The token stays valid.
pub async fn end(Extension(client): Extension<Client>) -> Response {
    let cookie = session(String::new(), &client).removal();
    with_cookie(cookie, StatusCode::NO_CONTENT.into_response())
}

fn session(token: String, client: &Client) -> cookie::CookieBuilder<'static> {
    let cookie = Cookie::build((SESSION, token)).http_only(true).same_site(SameSite::Strict);
    cookie.secure(client.is_encrypted()).path("/")
}

fn with_cookie(cookie: cookie::CookieBuilder<'static>, mut reply: Response) -> Response {
    if let Ok(value) = HeaderValue::from_str(&cookie.build().to_string()) {
        reply.headers_mut().insert(header::SET_COOKIE, value);
    }
    reply
}
