//! The source of a camera's frames: its URL and the keys that belong to it, checked.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

use super::mask::splits_userinfo;
use super::{ConfigError, Secret, masked};

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    Rtsp(Rtsp),
    /// A file, played at its own speed and repeated at its end.
    File(PathBuf),
}

impl fmt::Display for Source {
    /// Writes the source without users, passwords and tokens, in any part of a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Rtsp(rtsp) => f.write_str(&masked(rtsp.url.as_str())),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

#[derive(Clone, PartialEq)]
pub struct Rtsp {
    /// URL without user and password. Its path and query may contain some, so it is shown only
    /// [`masked`].
    pub url: Url,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub transport: Transport,
    /// Index of the camera's video stream, from 0, or `None` for the first that can be decoded.
    pub stream: Option<usize>,
    pub tls: RtspTls,
}

impl fmt::Debug for Rtsp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(self.url.as_str()))
    }
}

/// The transport protocol of the camera's stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP, or UDP if the camera does not send over TCP.
    #[default]
    Auto,
    Tcp,
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RtspTls {
    /// The certificate is checked against the system's authorities.
    System,
    /// The certificate is checked against the authority in this PEM file.
    Authority(PathBuf),
    /// The connection is encrypted, but the certificate is not checked: anyone may be at the other
    /// end.
    Unchecked,
}

/// The source keys of a `[[camera]]`, as written.
pub struct Keys {
    pub url: String,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub transport: Option<Transport>,
    pub stream: Option<u16>,
    pub ca_file: Option<PathBuf>,
    pub tls_verify: bool,
}

/// Known schemes that lookout does not support. Any other scheme may be part of a password.
const OTHER_SCHEMES: [&str; 9] =
    ["http", "https", "rtmp", "rtmps", "rtspu", "rtspt", "onvif", "srt", "udp"];

impl Keys {
    /// Checks the keys. Errors contain no part of the URL but a known scheme, because a password
    /// may be anywhere in it.
    pub fn check(self, folder: &Path) -> Result<Source, ConfigError> {
        let wanted = "wanted rtsp, rtsps or file";
        if let Some((_, rest)) = self.url.split_once("://").filter(|_| !self.is_file())
            && splits_userinfo(rest)
        {
            return invalid(
                "url: an @ follows the host: in a user or a password write / as %2F, ? as %3F \
                 and # as %23 (or use username and password_file); in a path write @ as %40",
            );
        }
        let url = match Url::parse(&self.url) {
            Ok(url) => url,
            Err(error) => return invalid(&format!("url: {error}; {wanted}")),
        };
        match url.scheme() {
            "file" => self.file(folder),
            "rtsp" | "rtsps" => self.rtsp(url, folder),
            other if OTHER_SCHEMES.contains(&other) => {
                invalid(&format!("url: scheme {other:?}; {wanted}"))
            }
            _ => invalid(&format!("url: unknown scheme; {wanted}")),
        }
    }

    fn is_file(&self) -> bool {
        self.url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
    }

    fn file(self, folder: &Path) -> Result<Source, ConfigError> {
        let given = [
            ("username", self.username.is_some()),
            ("password_file", self.password_file.is_some()),
            ("transport", self.transport.is_some()),
            ("stream", self.stream.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("tls_verify", !self.tls_verify),
        ];
        if let Some((key, _)) = given.iter().find(|(_, given)| *given) {
            return invalid(&format!("{key} has no effect on a file: remove it"));
        }
        // "file:clip.mp4" is relative to the config; Url would make it absolute.
        let path = self.url.get(5..).unwrap_or_default();
        Ok(Source::File(folder.join(path.strip_prefix("//").unwrap_or(path))))
    }

    fn rtsp(self, mut url: Url, folder: &Path) -> Result<Source, ConfigError> {
        if url.host_str().is_none_or(str::is_empty) {
            return invalid("url: no host; wanted rtsp://HOST[:PORT]/PATH");
        }
        if url.scheme() != "rtsps" {
            for (key, given) in
                [("ca_file", self.ca_file.is_some()), ("tls_verify", !self.tls_verify)]
            {
                if given {
                    return invalid(&format!("{key} needs rtsps://"));
                }
            }
        }
        let password = match (self.password_file, url.password()) {
            (Some(_), Some(_)) => {
                return invalid("a password in url and a password_file: set only one of them");
            }
            (Some(file), None) => Some(Secret::File(folder.join(file))),
            (None, Some(inline)) => Some(Secret::Inline(percent_decoded(inline)?)),
            (None, None) => None,
        };
        let username = match url.username() {
            "" => self.username,
            name => Some(percent_decoded(name)?),
        };
        if password.is_some() && username.is_none() {
            return invalid("a password without a username: set username");
        }
        // Neither call can fail, because the URL has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Ok(Source::Rtsp(Rtsp {
            url,
            username,
            password,
            transport: self.transport.unwrap_or_default(),
            stream: self.stream.map(usize::from),
            tls: match (self.tls_verify, self.ca_file) {
                (false, Some(_)) => {
                    return invalid("ca_file and tls_verify = false: set only one of them");
                }
                (false, None) => RtspTls::Unchecked,
                (true, Some(file)) => RtspTls::Authority(folder.join(file)),
                (true, None) => RtspTls::System,
            },
        }))
    }
}

fn invalid<T>(sentence: &str) -> Result<T, ConfigError> {
    Err(ConfigError(sentence.to_string()))
}

fn percent_decoded(text: &str) -> Result<String, ConfigError> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| {
        ConfigError("url: the user or the password is not UTF-8; write % as %25".to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(url: &str) -> Result<Source, ConfigError> {
        let keys = Keys {
            url: url.to_string(),
            username: None,
            password_file: None,
            transport: None,
            stream: None,
            ca_file: None,
            tls_verify: true,
        };
        keys.check(Path::new("/etc/lookout"))
    }

    fn password(url: &str) -> (String, String) {
        let Source::Rtsp(rtsp) = check(url).unwrap() else { panic!("{url} is a file") };
        (rtsp.url.to_string(), rtsp.password.unwrap().read().unwrap())
    }

    #[test]
    fn passwords_are_read_with_and_without_escapes() {
        for (url, word) in [
            ("rtsp://admin:pa@ss@127.0.0.1:8654/live", "pa@ss"),
            ("rtsp://admin:a%40b@127.0.0.1:8654/live", "a@b"),
            ("rtsp://admin:100%@127.0.0.1:8654/live", "100%"),
            ("rtsp://admin:12%2F34@127.0.0.1:8654/live", "12/34"),
            ("rtsp://admin:a^b!c:d@127.0.0.1:8654/live", "a^b!c:d"),
        ] {
            assert_eq!(password(url), ("rtsp://127.0.0.1:8654/live".into(), word.into()));
        }
    }

    #[test]
    fn a_password_that_ends_the_host_is_refused_with_the_way_to_write_it() {
        for url in [
            "rtsp://admin:12/34@cam/live",
            "rtsp://admin:ab#34@cam/live",
            "rtsp://admin:ab?34@cam/live",
            "rtsp://admin:a@b/34@cam/live",
            "rtsps://[::1]:12/34@cam/live",
        ] {
            let error = check(url).unwrap_err().to_string();
            assert!(error.contains("write / as %2F"), "{error}");
            assert!(!error.contains("34"), "{error}");
        }
        assert!(check("rtsp://cam/live@night").is_ok());
        assert!(check("rtsp://cam:554/live%40night").is_ok());
    }

    #[test]
    fn a_refusal_shows_nothing_of_the_url() {
        for url in ["admin:Planted@cam/live", "Planted://cam/x", "rtsp://a:Planted@/x", "Planted"] {
            let error = check(url).unwrap_err().to_string();
            assert!(!error.to_lowercase().contains("planted"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_secret_in_a_url_never_appears_in_text(
            secret in "[A-Z]{8}[^\\s\"<>=&]{0,4}[A-Z]{8}",
            frame in 0usize..4,
        ) {
            let escaped = percent_encoding::utf8_percent_encode(
                &secret, percent_encoding::NON_ALPHANUMERIC).to_string();
            let url = match frame {
                0 => format!("rtsp://admin:{secret}@cam/live"),
                1 => format!("rtsp://admin:{escaped}@cam/live"),
                2 => format!("rtsp://cam/live?channel=1&password={escaped}"),
                _ => format!("rtsp://cam/user=admin_password={escaped}_channel=1"),
            };
            let shown = match check(&url) {
                Ok(source) => format!("{source} {source:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            for piece in [&secret[..8], &secret[secret.len() - 8..]] {
                prop_assert!(!shown.to_uppercase().contains(piece), "{url} is shown as {shown}");
            }
        }
    }
}
