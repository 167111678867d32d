//! Sends one HTTP request to a target, and judges the response.
//!
//! Guarantees: an attempt ends within the target's `timeout`. Each attempt has a connection of its
//! own, so that it fails for a reason of its own. Redirects are not followed: a target that changes
//! its address is a matter for the config. Errors contain no path of the target's URL and nothing
//! that the target sent, because both may be secrets.

use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, LOCATION};
use hyper::{Request, StatusCode};
use rustls::{ClientConfig, RootCertStore};
use url::Url;

use crate::config::{Endpoint, Target};
use crate::http_client::{explained, http_client, retry_after};
use crate::tls;

pub type HttpRequest = Request<Full<Bytes>>;

/// The reason why an attempt did not deliver an alert.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The target will never accept this request. `may_be_too_large` is true if it might accept a
    /// smaller one.
    Refused { why: String, may_be_too_large: bool },
    /// A later attempt may succeed, after the time that the target named, if it named one.
    /// `is_server_error` is true if the target answered with a status 5xx.
    Temporary { why: String, retry_after: Option<Duration>, is_server_error: bool },
}

impl Failure {
    pub fn refused(why: impl Into<String>) -> Failure {
        Failure::Refused { why: why.into(), may_be_too_large: false }
    }

    pub fn temporary(why: impl Into<String>) -> Failure {
        Failure::Temporary { why: why.into(), retry_after: None, is_server_error: false }
    }
}

/// Returns the TLS settings of the connections to a target.
pub fn tls(target: &Target) -> Result<ClientConfig, String> {
    // Without encryption, nobody's certificate is checked.
    let roots = if target.endpoint.is_encrypted() {
        tls::authorities("ca_file", target.ca_file.as_deref())?
    } else {
        RootCertStore::empty()
    };
    tls::client(roots, None)
}

/// Makes one attempt.
pub async fn send(request: HttpRequest, tls: ClientConfig, target: &Target) -> Result<(), Failure> {
    // Each attempt has a connection of its own.
    let client = http_client(tls, 0);
    let sent = tokio::time::timeout(target.timeout, client.request(request)).await;
    let response = match sent {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(Failure::temporary(explained(&error))),
        Err(_) => {
            let timeout = target.timeout.as_secs_f64();
            return Err(Failure::temporary(format!("no response within {timeout} s")));
        }
    };
    judge(response.status(), response.headers(), &target.endpoint, SystemTime::now())
}

/// Decides whether a response means that the target has accepted the alert.
fn judge(
    status: StatusCode,
    headers: &HeaderMap,
    endpoint: &Endpoint,
    now: SystemTime,
) -> Result<(), Failure> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if status.is_success() {
        return Ok(());
    }
    let why = format!("the target answered {status}");
    if status.is_redirection() {
        let to = match header(LOCATION).and_then(|to| endpoint.url().join(to).ok()) {
            Some(to) if to.origin() != endpoint.url().origin() => format!(" to {}", origin(&to)),
            Some(_) => " to another path".into(),
            None => String::new(),
        };
        let fix = "redirects are not followed: set url to the new address";
        return Err(Failure::temporary(format!("{why}{to}; {fix}")));
    }
    let may_succeed_later = status.is_server_error()
        || status == StatusCode::REQUEST_TIMEOUT
        || status == StatusCode::TOO_EARLY
        || status == StatusCode::TOO_MANY_REQUESTS;
    if !may_succeed_later {
        // ntfy answers 400 to an attachment if its operator allows none.
        let may_be_too_large =
            matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::BAD_REQUEST);
        return Err(Failure::Refused { why, may_be_too_large });
    }
    let retry_after = retry_after(headers, now);
    let is_server_error = status.is_server_error();
    Err(Failure::Temporary { why, retry_after, is_server_error })
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hyper::header::{HeaderName, RETRY_AFTER};

    use super::*;
    use crate::config::Config;

    fn endpoint() -> Endpoint {
        let config = "[model]\npackage = \"p\"\n[[camera]]\nname = \"gate\"\nurl = \"rtsp://c/1\"\n\
                      [[webhook]]\nname = \"w\"\nurl = \"https://alerts.example/hook/s3cret\"\n";
        Config::parse(config, Path::new("/")).unwrap().targets.remove(0).endpoint
    }

    fn judged(status: u16, header: Option<(HeaderName, &str)>) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().unwrap());
        }
        judge(StatusCode::from_u16(status).unwrap(), &headers, &endpoint(), SystemTime::now())
    }

    #[test]
    fn only_a_status_that_may_change_is_tried_again() {
        for status in [200, 201, 202, 204] {
            assert_eq!(judged(status, None), Ok(()), "{status}");
        }
        for status in [400, 401, 403, 404, 410, 413, 422] {
            assert!(matches!(judged(status, None), Err(Failure::Refused { .. })), "{status}");
        }
        for status in [301, 304, 307, 408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(judged(status, None), Err(Failure::Temporary { .. })), "{status}");
        }
    }

    #[test]
    fn a_redirect_names_the_new_host_but_no_path() {
        let why = |to| match judged(301, Some((LOCATION, to))) {
            Err(Failure::Temporary { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        let moved = why("https://new.example/hook/s3cret");
        assert!(moved.contains("301 Moved Permanently to https://new.example;"), "{moved}");
        let moved = why("/hook/s3cret/");
        assert!(moved.contains("to another path; redirects are not followed"), "{moved}");
        assert!(!moved.contains("s3cret"), "{moved}");
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let after = |text| match judged(429, Some((RETRY_AFTER, text))) {
            Err(Failure::Temporary { retry_after, .. }) => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("soon"), None);
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), None);
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let later = after(&later).unwrap().as_secs();
        assert!((98..=100).contains(&later), "{later}");
    }
}
