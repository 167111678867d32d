//! The `[language]` table: the engine that runs the language model.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use url::Url;

use super::rules::{at_least, in_range, invalid, required};
use super::{Camera, ConfigError, Secret};

/// Maximum number of servers. Each has a task that watches it.
const ENDPOINTS: usize = 64;

/// Number of frames of a request, unless the config says otherwise, and its maximum.
const MAX_IMAGES: usize = 8;
const MOST_IMAGES: usize = 64;

/// The engine that runs the language model.
#[derive(Clone, Debug, PartialEq)]
pub enum Language {
    /// onnxruntime in this process, with the decoder of the package.
    Onnxruntime,
    Vllm(Servers),
    /// Servers that get frames as JPEGs.
    OpenAi(OpenAi),
}

/// Servers of a vision model, which is asked by OpenAI's API. No model package is needed.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenAi {
    pub servers: Servers,
    /// Maximum number of frames of a request.
    pub max_images: usize,
    pub scores: Scores,
}

/// The source of a rule's score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scores {
    /// The probabilities of yes and no as the first word of the answer.
    #[default]
    Logprobs,
    /// The first word of the answer: 1 for yes, 0 for no.
    Text,
}

/// The servers that run the language model, all of them the same one.
#[derive(Clone, Debug, PartialEq)]
pub struct Servers {
    /// Addresses without `/` at their end, to which the paths of the API are appended.
    pub endpoints: Vec<String>,
    /// The name by which the servers know the model.
    pub model: String,
    /// The key that is sent as `Authorization: Bearer`.
    pub api_key: Option<Secret>,
    /// PEM file of the authority that signed the servers' certificates, or `None` for the system's
    /// authorities.
    pub ca_file: Option<PathBuf>,
    /// Maximum time for a caption, an answer or the scores of a window, on all servers together.
    pub timeout: Duration,
    /// Time without a byte from a server after which another one is tried.
    pub stall_timeout: Duration,
}

impl Language {
    /// Returns true if the model runs in this process, so that the package needs its decoder.
    pub fn is_in_this_process(&self) -> bool {
        matches!(self, Language::Onnxruntime)
    }

    /// Checks that no camera needs the features of frames if nothing computes them.
    pub fn check_cameras(&self, cameras: &[Camera]) -> Result<(), ConfigError> {
        if !matches!(self, Language::OpenAi(_)) {
            return Ok(());
        }
        match cameras.iter().find(|camera| camera.unchanged_threshold > 0.0) {
            None => Ok(()),
            Some(Camera { name, unchanged_threshold, .. }) => Err(ConfigError(format!(
                "camera {name:?}: unchanged_threshold = {unchanged_threshold}: wanted 0, because \
                 language.backend = \"openai\" computes no features by which windows are compared"
            ))),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Backend {
    #[default]
    Onnxruntime,
    Vllm,
    OpenAi,
}

/// The table as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LanguageTable {
    backend: Backend,
    endpoints: Vec<String>,
    model: Option<String>,
    api_key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    #[serde(with = "humantime_serde")]
    timeout: Duration,
    #[serde(with = "humantime_serde")]
    stall_timeout: Duration,
    max_images: Option<usize>,
    scores: Option<Scores>,
}

impl Default for LanguageTable {
    fn default() -> LanguageTable {
        LanguageTable {
            backend: Backend::default(),
            endpoints: Vec::new(),
            model: None,
            api_key_file: None,
            ca_file: None,
            timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(20),
            max_images: None,
            scores: None,
        }
    }
}

impl LanguageTable {
    pub fn check(self, folder: &Path) -> Result<Language, ConfigError> {
        let least = Duration::from_secs(1);
        let timeout = at_least("language.timeout", self.timeout, least)?;
        let stall_timeout = at_least("language.stall_timeout", self.stall_timeout, least)?;
        if self.backend != Backend::OpenAi {
            let of_openai =
                [("max_images", self.max_images.is_some()), ("scores", self.scores.is_some())];
            if let Some((key, _)) = of_openai.into_iter().find(|(_, is_set)| *is_set) {
                return Err(ConfigError(format!(
                    "language.{key} needs language.backend = \"openai\""
                )));
            }
        }
        if self.backend == Backend::Onnxruntime {
            let remote = [
                ("endpoints", !self.endpoints.is_empty()),
                ("model", self.model.is_some()),
                ("api_key_file", self.api_key_file.is_some()),
                ("ca_file", self.ca_file.is_some()),
            ];
            if let Some((key, _)) = remote.into_iter().find(|(_, is_set)| *is_set) {
                return Err(ConfigError(format!(
                    "language.{key} needs language.backend = \"vllm\" or \"openai\""
                )));
            }
            return Ok(Language::Onnxruntime);
        }
        const NAME: &str = "the name by which the servers know it";
        let model = required("language.model", self.model, NAME)?;
        if model.is_empty() {
            return Err(invalid("language.model", "\"\"", NAME));
        }
        let endpoints = self.endpoints.iter().map(|text| endpoint(text));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        if !(1..=ENDPOINTS).contains(&endpoints.len()) {
            let wanted = format!("1 to {ENDPOINTS} addresses such as \"http://gpu-1:8000\"");
            let found = format!("{} addresses", endpoints.len());
            return Err(invalid("language.endpoints", found, wanted));
        }
        for (at, endpoint) in endpoints.iter().enumerate() {
            if endpoints[..at].contains(endpoint) {
                let found = format!("{endpoint:?} twice");
                return Err(invalid("language.endpoints", found, "each address once"));
            }
        }
        if self.ca_file.is_some() && !endpoints.iter().any(|url| url.starts_with("https://")) {
            let why = "language.ca_file needs an address with https:// in language.endpoints";
            return Err(ConfigError(why.into()));
        }
        let servers = Servers {
            endpoints,
            model,
            api_key: self.api_key_file.map(|file| Secret::File(folder.join(file))),
            ca_file: self.ca_file.map(|file| folder.join(file)),
            timeout,
            stall_timeout,
        };
        if self.backend == Backend::Vllm {
            return Ok(Language::Vllm(servers));
        }
        let max_images = self.max_images.unwrap_or(MAX_IMAGES);
        Ok(Language::OpenAi(OpenAi {
            servers,
            max_images: in_range("language.max_images", max_images, 1..=MOST_IMAGES)?,
            scores: self.scores.unwrap_or_default(),
        }))
    }
}

/// Checks an address. The error does not show it, because it may contain a password.
fn endpoint(text: &str) -> Result<String, ConfigError> {
    let bad = |why: &str| {
        let wanted = "http://HOST:PORT or https://HOST:PORT";
        ConfigError(format!("language.endpoints has an invalid address ({why}): wanted {wanted}"))
    };
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("its scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it has a user; set language.api_key_file"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it has a query or a fragment"));
    }
    let address = url.as_str().trim_end_matches('/');
    if address.ends_with("/v1") {
        return Err(bad("leave out /v1 at its end"));
    }
    Ok(address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Language, String> {
        let table: LanguageTable = toml::from_str(text).expect("a table");
        table.check(Path::new("/etc")).map_err(|error| error.to_string())
    }

    fn refusal(text: &str) -> String {
        check(text).expect_err(text)
    }

    const VLLM: &str = "backend = \"vllm\"\nmodel = \"m\"\n";

    #[test]
    fn servers_are_read() {
        assert_eq!(check(""), Ok(Language::Onnxruntime));
        let more = "endpoints = [\"http://a:8000/\", \"https://b/llm\"]\napi_key_file = \"key\"\n";
        let Ok(Language::Vllm(servers)) = check(&format!("{VLLM}{more}")) else {
            panic!("not vLLM");
        };
        assert_eq!(servers.endpoints, ["http://a:8000", "https://b/llm"]);
        assert_eq!(servers.api_key, Some(Secret::File("/etc/key".into())));
        assert_eq!(servers.timeout, Duration::from_secs(60));
    }

    #[test]
    fn servers_that_get_frames_are_read() {
        let openai = "backend = \"openai\"\nmodel = \"m\"\nendpoints = [\"http://a\"]\n";
        let Ok(Language::OpenAi(found)) = check(openai) else { panic!("not OpenAI's API") };
        assert_eq!((found.max_images, found.scores), (8, Scores::Logprobs));
        let more = "max_images = 64\nscores = \"text\"";
        let Ok(Language::OpenAi(found)) = check(&format!("{openai}{more}")) else {
            panic!("not OpenAI's API")
        };
        assert_eq!((found.max_images, found.scores), (64, Scores::Text));
        for wrong in [0, 65] {
            let error = refusal(&format!("{openai}max_images = {wrong}"));
            assert_eq!(error, format!("language.max_images = {wrong}: wanted 1 to 64"));
        }
        let vllm = openai.replace("openai", "vllm");
        for (key, value) in [("max_images", "8"), ("scores", "\"text\"")] {
            let wanted = format!("language.{key} needs language.backend = \"openai\"");
            assert_eq!(refusal(&format!("{vllm}{key} = {value}")), wanted);
            assert_eq!(refusal(&format!("{key} = {value}")), wanted);
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        let with = |endpoint: &str| refusal(&format!("{VLLM}endpoints = [\"{endpoint}\"]"));
        for (error, wanted) in [
            (refusal("model = \"m\""), "language.model needs language.backend = \"vllm\""),
            (refusal("backend = \"vllm\""), "language.model is missing"),
            (refusal(VLLM), "language.endpoints = 0 addresses: wanted 1 to 64"),
            (with("a:8000"), "neither http nor https"),
            (with("http://a:8000/v1"), "leave out /v1"),
            (with("http://u:secret@a"), "it has a user; set language.api_key_file"),
            (with("http://a?key=secret"), "a query or a fragment"),
            (with("http://a\", \"http://a/"), "\"http://a\" twice"),
            (
                refusal(&format!("{VLLM}endpoints = [\"http://a\"]\nca_file = \"ca.pem\"")),
                "language.ca_file needs an address with https://",
            ),
            (
                refusal(&format!("{VLLM}endpoints = [\"http://a\"]\ntimeout = \"1ms\"")),
                "language.timeout = \"1ms\": wanted at least \"1s\"",
            ),
        ] {
            assert!(error.contains(wanted), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
