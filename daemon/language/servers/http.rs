//! Sends HTTP requests to the servers of the language model, and explains their errors.
//!
//! Guarantees: redirects are not followed. Connections are kept and used again. A request whose
//! future is dropped closes its connection, so that the server ends its work. Errors contain no
//! part of the key or of the request.

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use rustls::RootCertStore;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{self, Secret};
use crate::http_client::{HttpClient, http_client};
use crate::tls;

/// Maximum size of a response that is read as a whole.
const LARGEST_RESPONSE: usize = 4 << 20;

/// Maximum number of characters of a server's message in an error.
const MESSAGE_MOST: usize = 300;

/// The reason why a server gave no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// The server cannot be reached, or does not work at the moment.
    Unreachable(String),
    /// The server works, but cannot be used as it is: another model, a wrong key, an older version.
    Unusable(String),
    /// The server refuses this request. Another server would do the same.
    Request(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unreachable(why) | Problem::Unusable(why) | Problem::Request(why) => {
                f.write_str(why)
            }
        }
    }
}

/// Sends requests to all servers of a model.
pub struct Http {
    client: HttpClient,
    api_key: Option<Secret>,
}

impl Http {
    pub fn new(servers: &config::Servers) -> Result<Http, String> {
        // Without encryption, nobody's certificate is checked.
        let is_encrypted = servers.endpoints.iter().any(|url| url.starts_with("https://"));
        let roots = if is_encrypted {
            tls::authorities("language.ca_file", servers.ca_file.as_deref())?
        } else {
            RootCertStore::empty()
        };
        let client = http_client(tls::client(roots, None)?, usize::MAX);
        let http = Http { client, api_key: servers.api_key.clone() };
        http.authorization().map_err(|problem| problem.to_string())?;
        Ok(http)
    }

    /// Gets a JSON value.
    pub async fn get<T: DeserializeOwned>(
        &self,
        url: &str,
        patience: Duration,
    ) -> Result<T, Problem> {
        within(patience, async { json(self.send(Method::GET, url, Bytes::new()).await?).await })
            .await
    }

    /// Gets a text, such as metrics.
    pub async fn text(&self, url: &str, patience: Duration) -> Result<String, Problem> {
        let text = async {
            let body = whole(self.send(Method::GET, url, Bytes::new()).await?).await?;
            Ok(String::from_utf8_lossy(&body).into_owned())
        };
        within(patience, text).await
    }

    /// Posts a JSON text, and returns the JSON value of the response.
    pub async fn post<T: DeserializeOwned>(
        &self,
        url: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, Problem> {
        within(patience, async { json(self.send(Method::POST, url, body).await?).await }).await
    }

    /// Posts a JSON text, and returns the response once it begins.
    pub async fn begin(
        &self,
        url: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<Incoming, Problem> {
        let sent = async { Ok(self.send(Method::POST, url, body).await?.into_body()) };
        within(patience, sent).await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Problem> {
        let mut request = Request::builder().method(method).uri(url);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(value) = self.authorization()? {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| Problem::Unusable(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| {
            let why = tls::explained(&error);
            Problem::Unreachable(why.unwrap_or_else(|| tls::innermost(&error).to_string()))
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = Limited::new(response.into_body(), LARGEST_RESPONSE).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(refusal(status, &body))
    }

    /// Returns the header with the key, which is read again for each request.
    fn authorization(&self) -> Result<Option<HeaderValue>, Problem> {
        let Some(secret) = &self.api_key else { return Ok(None) };
        let unusable = |why: &str| Problem::Unusable(format!("language.api_key_file: {why}"));
        let key = secret.read().map_err(|error| unusable(&error.to_string()))?;
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
            return Err(unusable("wanted one line of ASCII letters, digits and signs"));
        }
        let value = HeaderValue::from_str(&format!("Bearer {key}"));
        let mut value = value.map_err(|_| unusable("wanted a key"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Waits at most for `patience`.
pub async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    tokio::time::timeout(patience, work).await.unwrap_or_else(|_| {
        let seconds = patience.as_secs_f64();
        Err(Problem::Unreachable(format!("it sent nothing for {seconds} s")))
    })
}

async fn json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Problem> {
    parse(&whole(response).await?)
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Problem> {
    let body = Limited::new(response.into_body(), LARGEST_RESPONSE).collect().await;
    let body = body.map_err(|error| {
        Problem::Unreachable(format!("its response broke off: {}", tls::innermost(&*error)))
    })?;
    Ok(body.to_bytes())
}

/// Parses the JSON of a server.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(text).map_err(|error| {
        Problem::Unusable(format!("its response is not the JSON of OpenAI's API: {error}"))
    })
}

/// Judges a response that is not a success.
fn refusal(status: StatusCode, body: &[u8]) -> Problem {
    let message = message(body).map(|text| format!(": {text}")).unwrap_or_default();
    let why = format!("it answered {status}{message}");
    if why.contains("not JSON compliant: nan") {
        // vLLM takes it for an error of the request.
        return Problem::Unreachable("its results are not finite (NaN)".into());
    }
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Problem::Unusable(format!(
            "{why}; set language.api_key_file to the file of a key that it accepts"
        )),
        StatusCode::NOT_FOUND => Problem::Unusable(why),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::Request(format!(
            "{why}; raise the limit on requests of the server, or of a proxy before it"
        )),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Problem::Unreachable(why),
        _ if status.is_redirection() => Problem::Unusable(format!(
            "{why}; redirects are not followed: set language.endpoints to the new address"
        )),
        _ if status.is_client_error() => Problem::Request(why),
        _ => Problem::Unreachable(why),
    }
}

/// Returns the message of a server's error, if it has one. Servers write it as
/// `{"error": {"message": "…"}}` or `{"error": "…"}`.
pub fn message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        error: Value,
    }
    let Body { error } = serde_json::from_slice(body).ok()?;
    let text = error.get("message").unwrap_or(&error).as_str()?;
    let text: String = text.chars().filter(|c| !c.is_control()).take(MESSAGE_MOST).collect();
    // Requests at a time share the context of llama-server, unless it is divided, and may fill it.
    let is_full = ["Context size has been exceeded", "failed to process mtmd chunk"];
    let advice = match is_full.iter().any(|start| text.starts_with(start)) {
        true => " (its requests at a time share the context: raise it, or divide it by --parallel)",
        false => "",
    };
    (!text.is_empty()).then_some(text + advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> Problem {
        refusal(StatusCode::from_u16(status).expect("a status"), body.as_bytes())
    }

    #[test]
    fn a_status_tells_whether_another_server_may_answer() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(matches!(refused(status, ""), Problem::Unreachable(_)), "{status}");
        }
        for status in [301, 307, 401, 403, 404] {
            assert!(matches!(refused(status, ""), Problem::Unusable(_)), "{status}");
        }
        for status in [400, 413, 422] {
            assert!(matches!(refused(status, ""), Problem::Request(_)), "{status}");
        }
        let nan =
            r#"{"error":{"message":"Out of range float values are not JSON compliant: nan"}}"#;
        assert!(matches!(refused(400, nan), Problem::Unreachable(_)));
    }

    #[test]
    fn the_message_of_the_server_is_told() {
        let too_long = r#"{"error":{"message":"too long","type":"BadRequestError","code":400}}"#;
        assert_eq!(refused(400, too_long).to_string(), "it answered 400 Bad Request: too long");
        let why = refused(401, r#"{"error":"Unauthorized"}"#).to_string();
        let wanted = "it answered 401 Unauthorized: Unauthorized; set language.api_key_file";
        assert!(why.starts_with(wanted), "{why}");
        let full = r#"{"error":{"code":500,"message":"Context size has been exceeded."}}"#;
        let why = refused(500, full).to_string();
        assert!(why.ends_with("raise it, or divide it by --parallel)"), "{why}");
        for other in ["", "<html>", "{}", "{\"error\":3}", "[1]"] {
            assert_eq!(refused(500, other).to_string(), "it answered 500 Internal Server Error");
        }
        let long = format!(r#"{{"error":"{}"}}"#, "x\\n".repeat(1000));
        assert!(refused(500, &long).to_string().len() < 350);
    }
}
