//! The `[[webhook]]` and `[[ntfy]]` tables: the targets to which alerts are delivered.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::rules::{at_least, invalid, plain_name, required};
use super::{ConfigError, Secret};
use crate::event::{Alert, AlertPhase, AlertUpdate};

/// Maximum number of targets, each of which has a task and a position in the journal.
const TARGETS: usize = 16;

const PHASES: [Phase; 4] = [Phase::New, Phase::Update, Phase::End, Phase::Acknowledged];

/// Headers that the daemon sets itself. Not `authorization`: it sets that one for a token only.
const OWN_HEADERS: [&str; 7] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
    "user-agent",
];

/// A target to which alerts are delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Name in metrics and logs, different from those of all other targets.
    pub name: Arc<str>,
    pub endpoint: Endpoint,
    /// PEM file of the authority that signed the target's certificate, or `None` for the system's
    /// authorities.
    pub ca_file: Option<PathBuf>,
    /// The token that is sent as `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// The events of an alert that are sent.
    pub phases: Vec<Phase>,
    /// Maximum duration of one attempt.
    pub timeout: Duration,
    /// Maximum pause between two attempts.
    pub max_retry_delay: Duration,
    /// Maximum age of an alert that is sent.
    pub catch_up: Duration,
    pub format: Format,
}

/// A group of an alert's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    New,
    /// Every update.
    Update,
    /// The update with the description.
    Description,
    /// The update with the clip, or the reason why there is none.
    Clip,
    End,
    Acknowledged,
}

impl Phase {
    /// Returns true if an event belongs to the group.
    pub fn includes(self, alert: &Alert) -> bool {
        match self {
            Phase::New => alert.phase == AlertPhase::New,
            Phase::Update => alert.phase == AlertPhase::Update,
            Phase::Description => alert.update == Some(AlertUpdate::Description),
            Phase::Clip => alert.update == Some(AlertUpdate::Clip),
            Phase::End => alert.phase == AlertPhase::End,
            Phase::Acknowledged => alert.phase == AlertPhase::Acknowledged,
        }
    }
}

/// The requests that a target expects.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    Webhook(Webhook),
    Ntfy(Ntfy),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// Jinja template of the body, or `None` for the alert's JSON.
    pub template: Option<String>,
    pub content_type: String,
    /// Further headers. Their values may be secrets.
    pub headers: Vec<(String, Secret)>,
    /// The key of the signature.
    pub signature_key: Option<Secret>,
    pub picture: Picture,
}

/// The way in which a webhook gets a frame of the alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Picture {
    None,
    /// Puts it into the JSON, as base64.
    Inline,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Ntfy {
    pub topic: String,
    /// True if the notification has a frame of the alert as its attachment.
    pub picture: bool,
    /// The URL that a tap on the notification opens.
    pub click: Option<Url>,
}

/// A URL that alerts are sent to. Only its scheme, host and port are printed, because the path of
/// a webhook is often a secret.
#[derive(Clone, PartialEq)]
pub struct Endpoint(Url);

impl Endpoint {
    pub fn url(&self) -> &Url {
        &self.0
    }

    pub fn is_encrypted(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The `[[webhook]]` table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookTable {
    name: Option<String>,
    url: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    signature_key_file: Option<PathBuf>,
    headers: BTreeMap<String, String>,
    template: Option<String>,
    content_type: String,
    picture: Picture,
    phases: Vec<Phase>,
    #[serde(with = "humantime_serde")]
    timeout: Duration,
    #[serde(with = "humantime_serde")]
    max_retry_delay: Duration,
    #[serde(with = "humantime_serde")]
    catch_up: Duration,
}

/// The `[[ntfy]]` table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NtfyTable {
    name: Option<String>,
    url: Option<String>,
    topic: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    picture: bool,
    click: Option<String>,
    phases: Vec<Phase>,
    #[serde(with = "humantime_serde")]
    timeout: Duration,
    #[serde(with = "humantime_serde")]
    max_retry_delay: Duration,
    #[serde(with = "humantime_serde")]
    catch_up: Duration,
}

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);
const CATCH_UP: Duration = Duration::from_secs(24 * 3600);

impl Default for WebhookTable {
    fn default() -> WebhookTable {
        WebhookTable {
            name: None,
            url: None,
            ca_file: None,
            token_file: None,
            signature_key_file: None,
            headers: BTreeMap::new(),
            template: None,
            content_type: "application/json".into(),
            picture: Picture::None,
            phases: PHASES.to_vec(),
            timeout: TIMEOUT,
            max_retry_delay: MAX_RETRY_DELAY,
            catch_up: CATCH_UP,
        }
    }
}

impl Default for NtfyTable {
    fn default() -> NtfyTable {
        NtfyTable {
            name: None,
            url: None,
            topic: None,
            ca_file: None,
            token_file: None,
            picture: true,
            click: None,
            phases: vec![Phase::New, Phase::Description],
            timeout: TIMEOUT,
            max_retry_delay: MAX_RETRY_DELAY,
            catch_up: CATCH_UP,
        }
    }
}

/// Checks all `[[webhook]]` and `[[ntfy]]` tables.
pub fn targets(
    webhooks: Vec<WebhookTable>,
    ntfys: Vec<NtfyTable>,
    folder: &Path,
) -> Result<Vec<Target>, ConfigError> {
    let webhooks = webhooks.into_iter().map(|table| table.check(folder));
    let ntfys = ntfys.into_iter().map(|table| table.check(folder));
    let targets: Vec<Target> = webhooks.chain(ntfys).collect::<Result<_, _>>()?;
    if targets.len() > TARGETS {
        let found = targets.len();
        let wanted = format!("wanted at most {TARGETS}");
        return Err(ConfigError(format!("{found} [[webhook]] and [[ntfy]] tables: {wanted}")));
    }
    let mut names = HashSet::new();
    match targets.iter().find(|target| !names.insert(target.name.clone())) {
        Some(Target { name, .. }) => Err(ConfigError(format!(
            "two [[webhook]] or [[ntfy]] tables are named {name:?}: rename one of them"
        ))),
        None => Ok(targets),
    }
}

impl WebhookTable {
    fn check(mut self, folder: &Path) -> Result<Target, ConfigError> {
        let name = name("webhook", self.name.take())?;
        self.check_rest(&name, folder).map_err(|e| of_table("webhook", &name, &e))
    }

    fn check_rest(self, name: &str, folder: &Path) -> Result<Target, ConfigError> {
        let endpoint = endpoint(self.url, "https://HOST/PATH or http://HOST/PATH")?;
        if !is_header_value(&self.content_type) {
            let found = format!("{:?}", self.content_type);
            return Err(invalid("content_type", found, "a media type such as \"text/plain\""));
        }
        let secret = |file: PathBuf| Secret::File(folder.join(file));
        let authorizes = |name: &String| name.eq_ignore_ascii_case("authorization");
        if self.token_file.is_some() && self.headers.keys().any(authorizes) {
            let why = "token_file and headers.Authorization are both set: remove one of them";
            return Err(ConfigError(why.into()));
        }
        Ok(Target {
            name: name.into(),
            ca_file: ca_file(self.ca_file, &endpoint, folder)?,
            endpoint,
            token: self.token_file.map(secret),
            phases: phases(self.phases)?,
            timeout: timeout(self.timeout)?,
            max_retry_delay: max_retry_delay(self.max_retry_delay)?,
            catch_up: at_least("catch_up", self.catch_up, Duration::from_secs(60))?,
            format: Format::Webhook(Webhook {
                template: self.template,
                content_type: self.content_type,
                headers: headers(self.headers)?,
                signature_key: self.signature_key_file.map(secret),
                picture: self.picture,
            }),
        })
    }
}

impl NtfyTable {
    fn check(mut self, folder: &Path) -> Result<Target, ConfigError> {
        let name = name("ntfy", self.name.take())?;
        self.check_rest(&name, folder).map_err(|e| of_table("ntfy", &name, &e))
    }

    fn check_rest(self, name: &str, folder: &Path) -> Result<Target, ConfigError> {
        let endpoint = endpoint(self.url, "the address of the server, https://HOST")?;
        let topic = required("topic", self.topic, "a topic of the server")?;
        plain_name("topic", &topic)?;
        let click = self.click.map(|click| match Url::parse(&click) {
            Ok(url) if is_header_value(&click) => Ok(url),
            _ => Err(invalid("click", format!("{click:?}"), "a URL")),
        });
        Ok(Target {
            name: name.into(),
            ca_file: ca_file(self.ca_file, &endpoint, folder)?,
            endpoint,
            token: self.token_file.map(|file| Secret::File(folder.join(file))),
            phases: phases(self.phases)?,
            timeout: timeout(self.timeout)?,
            max_retry_delay: max_retry_delay(self.max_retry_delay)?,
            catch_up: at_least("catch_up", self.catch_up, Duration::from_secs(60))?,
            format: Format::Ntfy(Ntfy { topic, picture: self.picture, click: click.transpose()? }),
        })
    }
}

fn name(table: &str, name: Option<String>) -> Result<String, ConfigError> {
    let key = format!("{table}.name");
    let name = required(&key, name, "a name of its own for each target")?;
    plain_name(&key, &name)?;
    Ok(name)
}

fn of_table(table: &str, name: &str, error: &ConfigError) -> ConfigError {
    ConfigError(format!("{table} {name:?}: {}", error.0))
}

fn endpoint(url: Option<String>, wanted: &str) -> Result<Endpoint, ConfigError> {
    let text = required("url", url, wanted)?;
    // The URL may be a secret, so the error does not show it.
    let bad = |why: &str| ConfigError(format!("url is not valid ({why}): wanted {wanted}"));
    let url = Url::parse(&text).map_err(|e| bad(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("the scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it has a user; set token_file, or headers.Authorization of a webhook"));
    }
    Ok(Endpoint(url))
}

fn ca_file(
    file: Option<PathBuf>,
    endpoint: &Endpoint,
    folder: &Path,
) -> Result<Option<PathBuf>, ConfigError> {
    if file.is_some() && !endpoint.is_encrypted() {
        return Err(ConfigError("ca_file needs https:// in url".into()));
    }
    Ok(file.map(|file| folder.join(file)))
}

fn phases(phases: Vec<Phase>) -> Result<Vec<Phase>, ConfigError> {
    if phases.is_empty() {
        let wanted =
            "one or more of \"new\", \"update\", \"description\", \"end\" and \"acknowledged\"";
        return Err(invalid("phases", "[]", wanted));
    }
    Ok(phases)
}

fn timeout(timeout: Duration) -> Result<Duration, ConfigError> {
    at_least("timeout", timeout, Duration::from_millis(100))
}

fn max_retry_delay(delay: Duration) -> Result<Duration, ConfigError> {
    at_least("max_retry_delay", delay, Duration::from_millis(10))
}

fn headers(headers: BTreeMap<String, String>) -> Result<Vec<(String, Secret)>, ConfigError> {
    let header = |(name, value): (String, String)| {
        let lower = name.to_ascii_lowercase();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(invalid("headers", format!("{name:?}"), "names of letters, digits and -"));
        }
        if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("x-lookout-") {
            let wanted = "names of headers that lookout does not set itself";
            return Err(invalid("headers", format!("{name:?}"), wanted));
        }
        if !is_header_value(&value) {
            let why = "has a value with a character that is not printable ASCII";
            return Err(ConfigError(format!("headers.{name} {why}")));
        }
        Ok((name, Secret::Inline(value)))
    };
    headers.into_iter().map(header).collect()
}

fn is_header_value(value: &str) -> bool {
    value.chars().all(|c| c == ' ' || c.is_ascii_graphic())
}
