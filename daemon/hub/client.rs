//! Requests to a hub, with redirects, and its refusals in words.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, LOCATION, RANGE, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::RootCertStore;
use tokio::time::{sleep, timeout};
use url::{Host, Url};

use super::FetchError;
use super::listing::Listing;
use super::repository::Repository;
use crate::backoff::Backoff;
use crate::http_client::{HttpClient, explained, http_client, retry_after};
use crate::tls;

/// Maximum time until the head of a response has arrived.
const RESPONSE: Duration = Duration::from_secs(60);

/// Maximum size of a repository's description.
const LISTING_BYTES: usize = 32 << 20;

const REDIRECTS: usize = 8;

/// Number of attempts to read a repository's description.
const ATTEMPTS: usize = 3;

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Longest pause that the hub may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A hub, and the token that it gets.
pub struct Hub {
    client: HttpClient,
    endpoint: Url,
    token: Option<HeaderValue>,
}

/// The reason why a request has no response that can be used.
#[derive(Debug, PartialEq)]
pub enum Failure {
    /// A later attempt may succeed, after the time that the hub named, if it named one.
    Temporary {
        why: String,
        retry_after: Option<Duration>,
    },
    /// The owner of the repository wants conditions to be accepted.
    Gated,
    WrongToken,
    NoRepository,
    NoRevision,
    NoFile,
    /// The file ends before the first byte that was requested.
    NoRange,
    Other(String),
}

impl Hub {
    /// Makes a client. `ca_file` has the authority that signed the hub's certificate, or is `None`
    /// for the system's.
    pub fn new(endpoint: &str, token: Option<&str>, ca_file: Option<&Path>) -> Result<Hub, String> {
        let wanted = "the hub's address (--endpoint, HF_ENDPOINT): wanted a URL such as \
                      https://huggingface.co, without user and password";
        let endpoint = Url::parse(endpoint.trim_end_matches('/')).map_err(|_| wanted)?;
        let is_plain = endpoint.username().is_empty() && endpoint.password().is_none();
        if !["http", "https"].contains(&endpoint.scheme()) || !is_plain || !endpoint.has_host() {
            return Err(wanted.into());
        }
        let is_encrypted = endpoint.scheme() == "https";
        if token.is_some() && !is_encrypted && !is_this_machine(&endpoint) {
            return Err(format!(
                "HF_TOKEN would be sent to {endpoint} without encryption: use https://, or unset it"
            ));
        }
        let token = token.map(|token| HeaderValue::try_from(format!("Bearer {token}")));
        let mut token = token.transpose().map_err(|_| "HF_TOKEN: wanted a token without spaces")?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let roots = if is_encrypted || ca_file.is_some() {
            tls::authorities("--ca", ca_file)?
        } else {
            RootCertStore::empty()
        };
        Ok(Hub { client: http_client(tls::client(roots, None)?, 1), endpoint, token })
    }

    /// Reads the description of a repository.
    pub async fn listing(&self, repository: &Repository) -> Result<Listing, FetchError> {
        let revision = utf8_percent_encode(&repository.revision, NON_ALPHANUMERIC);
        let url = format!("/api/models/{}/revision/{revision}?blobs=true", repository.name);
        let url = self.url(&url)?;
        let mut pauses = Pauses::new(ATTEMPTS);
        loop {
            match self.read_listing(&url).await {
                Ok(listing) => return Ok(listing),
                Err(failure) => match pauses.next(failure) {
                    Ok((_, pause)) => sleep(pause).await,
                    Err(failure) => return Err(self.explain(failure, repository)),
                },
            }
        }
    }

    async fn read_listing(&self, url: &Url) -> Result<Listing, Failure> {
        let body = self.get(url, 0).await?.into_body();
        let collected = timeout(RESPONSE, Limited::new(body, LISTING_BYTES).collect()).await;
        let body = collected.map_err(|_| temporary("the list of files did not arrive"))?;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Failure::Other("the list of files is too long".into());
            }
            temporary(&explained(error.as_ref()))
        })?;
        Listing::parse(&body.to_bytes()).map_err(|why| {
            Failure::Other(format!("the answer is not a repository's list of files: {why}"))
        })
    }

    /// Returns the URL of a file at a commit.
    pub fn file_url(
        &self,
        repository: &Repository,
        commit: &str,
        file: &str,
    ) -> Result<Url, FetchError> {
        self.url(&format!("/{}/resolve/{commit}/{file}", repository.name))
    }

    fn url(&self, path: &str) -> Result<Url, FetchError> {
        let url = format!("{}{path}", self.endpoint.as_str().trim_end_matches('/'));
        Url::parse(&url).map_err(|error| FetchError::Refused(format!("{url}: {error}")))
    }

    /// Requests a file from a byte on, and follows redirects. The token goes to the hub only.
    pub async fn get(&self, url: &Url, first: u64) -> Result<Response<Incoming>, Failure> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let agent = concat!("lookout/", env!("CARGO_PKG_VERSION"));
            let mut request = Request::get(url.as_str()).header(USER_AGENT, agent);
            if let Some(token) = &self.token
                && url.origin() == self.endpoint.origin()
            {
                request = request.header(AUTHORIZATION, token);
            }
            if first > 0 {
                request = request.header(RANGE, format!("bytes={first}-"));
            }
            let request = request.body(Full::default());
            let request = request.map_err(|error| Failure::Other(error.to_string()))?;
            let response = match timeout(RESPONSE, self.client.request(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(temporary(&explained(&error))),
                Err(_) => {
                    let seconds = RESPONSE.as_secs();
                    return Err(temporary(&format!("no response within {seconds} s")));
                }
            };
            if !response.status().is_redirection() {
                return judge(response);
            }
            url = redirected(&url, response.headers().get(LOCATION))?;
        }
        Err(Failure::Other(format!("more than {REDIRECTS} redirects")))
    }

    /// Describes a failure in a sentence with its fix.
    pub fn explain(&self, failure: Failure, repository: &Repository) -> FetchError {
        let (name, endpoint) = (&repository.name, self.endpoint.as_str().trim_end_matches('/'));
        FetchError::Refused(match failure {
            Failure::Temporary { why, .. } => {
                return FetchError::Unreachable(format!("{name}: {endpoint}: {why}"));
            }
            Failure::Gated if self.token.is_some() => format!(
                "{name} is gated, and HF_TOKEN belongs to an account that may not read it: open \
                 {endpoint}/{name}, accept the conditions with that account, and allow the token to \
                 read gated repositories"
            ),
            Failure::Gated => format!(
                "{name} is gated: open {endpoint}/{name}, accept the conditions, make a token \
                 (Settings, Access Tokens), and run this again with the variable HF_TOKEN set to it"
            ),
            Failure::WrongToken => {
                format!("{endpoint} does not accept HF_TOKEN: make a new token, or unset it")
            }
            Failure::NoRepository => format!(
                "{name}: {endpoint} has no such public repository; a private one needs HF_TOKEN"
            ),
            Failure::NoRevision => {
                let revision = &repository.revision;
                format!("{name} has no revision {revision:?} on {endpoint}")
            }
            Failure::NoFile => format!(
                "{name}: {endpoint} lists a file that it does not have; only the repository's owner \
                 can fix that"
            ),
            Failure::NoRange => format!("{name}: {endpoint} does not continue a file"),
            Failure::Other(why) => format!("{name}: {endpoint}: {why}"),
        })
    }
}

/// Returns the token of the variable `HF_TOKEN`, or that of `hf auth login`.
pub fn token() -> Option<String> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let text = match variable("HF_TOKEN") {
        Some(token) => token.into_string().ok(),
        None => {
            let file = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| {
                let home = variable("HF_HOME")
                    .map(PathBuf::from)
                    .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache/huggingface")));
                Some(home?.join("token"))
            });
            std::fs::read_to_string(file?).ok()
        }
    };
    text.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// The attempts of one operation, and the pauses between them.
pub struct Pauses {
    backoff: Backoff,
    attempts: usize,
    left: usize,
}

impl Pauses {
    pub fn new(attempts: usize) -> Pauses {
        Pauses { backoff: Backoff::new(LONGEST_PAUSE), attempts, left: attempts }
    }

    /// Starts again, because the operation has made progress.
    pub fn reset(&mut self) {
        *self = Pauses::new(self.attempts);
    }

    /// Returns why an attempt failed and the pause after it, or the failure if it was the last one.
    pub fn next(&mut self, failure: Failure) -> Result<(String, Duration), Failure> {
        self.left = self.left.saturating_sub(1);
        match failure {
            Failure::Temporary { why, retry_after } if self.left > 0 => {
                let wanted = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
                Ok((why, self.backoff.pause(rand::random()).max(wanted)))
            }
            failure => Err(failure),
        }
    }
}

pub fn temporary(why: &str) -> Failure {
    Failure::Temporary { why: why.into(), retry_after: None }
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Returns the address that a redirect names.
fn redirected(from: &Url, to: Option<&HeaderValue>) -> Result<Url, Failure> {
    let to = to.and_then(|to| from.join(to.to_str().ok()?).ok());
    let Some(to) = to.filter(|to| ["http", "https"].contains(&to.scheme()) && to.has_host()) else {
        return Err(Failure::Other("a redirect without an address".into()));
    };
    if from.scheme() == "https" && to.scheme() != "https" {
        return Err(Failure::Other("a redirect to an address without encryption".into()));
    }
    Ok(to)
}

/// Decides whether a response has what was requested.
fn judge(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    let status = response.status();
    if [StatusCode::OK, StatusCode::PARTIAL_CONTENT].contains(&status) {
        return Ok(response);
    }
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let (code, message) = (header("x-error-code"), header("x-error-message").unwrap_or_default());
    Err(failure(status, code, message).unwrap_or_else(|| Failure::Temporary {
        why: format!("it answered {status}"),
        retry_after: retry_after(response.headers(), SystemTime::now()),
    }))
}

/// Returns the failure that a status means, or `None` if a later attempt may succeed.
fn failure(status: StatusCode, code: Option<&str>, message: &str) -> Option<Failure> {
    Some(match (status, code) {
        (_, Some("GatedRepo")) => Failure::Gated,
        (_, Some("RepoNotFound")) => Failure::NoRepository,
        (_, Some("RevisionNotFound")) => Failure::NoRevision,
        (_, Some("EntryNotFound")) => Failure::NoFile,
        // The hub answers 401 for a repository that does not exist, too.
        (StatusCode::UNAUTHORIZED, _) if message.contains("Invalid credentials") => {
            Failure::WrongToken
        }
        (StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND, _) => Failure::NoRepository,
        (StatusCode::RANGE_NOT_SATISFIABLE, _) => Failure::NoRange,
        (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => return None,
        _ if status.is_server_error() => return None,
        _ => Failure::Other(format!("it answered {status}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let judged =
            |status, code, message| failure(StatusCode::from_u16(status).unwrap(), code, message);
        assert_eq!(judged(401, Some("GatedRepo"), ""), Some(Failure::Gated));
        assert_eq!(judged(403, Some("GatedRepo"), ""), Some(Failure::Gated));
        assert_eq!(judged(401, None, ""), Some(Failure::NoRepository));
        let invalid = "Invalid credentials in Authorization header";
        assert_eq!(judged(401, None, invalid), Some(Failure::WrongToken));
        assert_eq!(judged(404, Some("RevisionNotFound"), ""), Some(Failure::NoRevision));
        assert_eq!(judged(404, Some("EntryNotFound"), ""), Some(Failure::NoFile));
        assert_eq!(judged(416, None, ""), Some(Failure::NoRange));
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(judged(status, None, ""), None, "{status}");
        }
        assert!(matches!(judged(403, None, ""), Some(Failure::Other(_))));
    }

    #[test]
    fn a_redirect_leads_to_http_and_never_out_of_encryption() {
        let to = |from: &str, to: &str| {
            let to = HeaderValue::from_str(to).unwrap();
            redirected(&Url::parse(from).unwrap(), Some(&to)).map(|url| url.to_string()).ok()
        };
        assert_eq!(to("https://hub/a", "/b"), Some("https://hub/b".into()));
        assert_eq!(to("https://hub/a", "https://cdn/b?s=1"), Some("https://cdn/b?s=1".into()));
        assert_eq!(to("https://hub/a", "http://cdn/b"), None);
        assert_eq!(to("http://hub/a", "file:///etc/passwd"), None);
        assert_eq!(redirected(&Url::parse("http://hub/").unwrap(), None).ok(), None);
    }

    #[test]
    fn a_token_needs_encryption_or_this_machine() {
        let hub = |endpoint| Hub::new(endpoint, Some("hf_secret"), None).map(|_| ());
        for endpoint in ["http://localhost:8080", "http://127.0.0.1/", "http://[::1]:1"] {
            assert_eq!(hub(endpoint), Ok(()), "{endpoint}");
        }
        let error = hub("http://mirror.lan").expect_err("refused");
        assert!(error.contains("without encryption") && !error.contains("hf_secret"), "{error}");
        assert_eq!(Hub::new("http://mirror.lan", None, None).map(|_| ()), Ok(()));
        for wrong in ["", "mirror.lan", "ftp://hub", "http://user:s3cret@hub"] {
            let error = Hub::new(wrong, None, None).map(|_| ()).expect_err(wrong);
            assert!(error.contains("wanted a URL") && !error.contains("s3cret"), "{error}");
        }
    }
}
