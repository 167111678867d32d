//! Makes the requests of ntfy (<https://docs.ntfy.sh/publish/>): a notification by headers, with a
//! frame as the attachment in the body.
//!
//! All events of an alert have its ID as their `X-Sequence-ID`. From version 2.16 on, ntfy shows
//! only the newest of them; older versions ignore the header.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::USER_AGENT;
use hyper::{Method, Request};
use url::Url;

use super::http::HttpRequest;
use super::picture::Picture;
use super::{AGENT, Secrets};
use crate::config;
use crate::event::{Alert, AlertPhase, AlertUpdate, Description, Event, Severity};

/// Maximum number of bytes of an encoded word's text (RFC 2047).
const WORD_BYTES: usize = 45;

pub struct Ntfy {
    config: config::Ntfy,
}

impl Ntfy {
    pub fn new(config: config::Ntfy) -> Ntfy {
        Ntfy { config }
    }

    pub fn wants_picture(&self) -> bool {
        self.config.picture
    }

    /// Makes the request. `server` is the server's address.
    pub fn request(
        &self,
        server: &Url,
        (event, alert): (&Event, &Alert),
        picture: Option<&Picture>,
        secrets: &Secrets,
    ) -> Result<HttpRequest, String> {
        let mut url = server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(&self.config.topic);
        }
        let message = message(alert);
        let mut request = Request::builder()
            .uri(url.as_str())
            .header(USER_AGENT, AGENT)
            .header("Title", header_text(&format!("{}: {}", alert.rule, event.camera)))
            .header("Priority", priority(alert))
            .header("Tags", tag(alert))
            .header("X-Sequence-ID", &*alert.alert_id);
        if let Some(click) = &self.config.click {
            request = request.header("Click", click.as_str());
        }
        for (name, value) in &secrets.headers {
            request = request.header(name, value);
        }
        let request = match picture {
            Some(picture) => request
                .method(Method::PUT)
                .header("Filename", format!("{}.jpg", event.camera))
                .header("Message", header_text(&message))
                .body(picture.jpeg.to_vec().into()),
            None => request.method(Method::POST).body(message.into()),
        };
        request.map_err(|error| error.to_string())
    }
}

fn message(alert: &Alert) -> String {
    let Alert { question, score, .. } = alert;
    let at = humantime::format_rfc3339_seconds(alert.window.to);
    if let (Some(AlertUpdate::Description), Some(Description { text, .. })) =
        (alert.update, &alert.description)
    {
        return text.clone();
    }
    match alert.phase {
        AlertPhase::New => format!("{question} Score {score:.2} at {at}"),
        AlertPhase::Update => format!("{question} Still, score {score:.2} at {at}"),
        AlertPhase::End => format!("{question} No longer, at {at}"),
        AlertPhase::Acknowledged if alert.is_false_alarm() => {
            format!("{question} Acknowledged as a false alarm")
        }
        AlertPhase::Acknowledged => format!("{question} Acknowledged"),
    }
}

/// Returns the priority, from 1 (lowest) to 5. Only the beginning of an alert is urgent.
fn priority(alert: &Alert) -> &'static str {
    match (alert.phase, alert.severity) {
        (AlertPhase::New, Severity::Info) => "3",
        (AlertPhase::New, Severity::Warning) => "4",
        (AlertPhase::New, Severity::Critical) => "5",
        (AlertPhase::Update | AlertPhase::End | AlertPhase::Acknowledged, _) => "2",
    }
}

/// Returns a tag that ntfy shows as an emoji.
fn tag(alert: &Alert) -> &'static str {
    match (alert.phase, alert.severity) {
        (AlertPhase::End | AlertPhase::Acknowledged, _) => "white_check_mark",
        (_, Severity::Info) => "information_source",
        (_, Severity::Warning) => "warning",
        (_, Severity::Critical) => "rotating_light",
    }
}

/// Returns a text as the value of a header. A text that is not printable ASCII becomes encoded words
/// of RFC 2047, which ntfy decodes.
fn header_text(text: &str) -> String {
    let is_plain = text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
    if is_plain && !text.contains("=?") {
        return text.to_owned();
    }
    let mut words = vec![String::new()];
    for c in text.chars() {
        match words.last_mut() {
            Some(word) if word.len() + c.len_utf8() <= WORD_BYTES => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    let words: Vec<String> =
        words.iter().map(|word| format!("=?UTF-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_not_ascii_are_encoded_words() {
        assert_eq!(header_text("person: gate"), "person: gate");
        assert_eq!(header_text("Tür"), "=?UTF-8?B?VMO8cg==?=");
        assert_eq!(header_text("two\nlines"), "=?UTF-8?B?dHdvCmxpbmVz?=");
        assert_eq!(header_text("=?UTF-8?B?eA==?="), "=?UTF-8?B?PT9VVEYtOD9CP2VBPT0/PQ==?=");
        let long = header_text(&"ü".repeat(100));
        assert!(long.split(' ').all(|word| word.len() <= 75), "{long}");
        let decoded = long.split(' ').map(|word| {
            let text = word.strip_prefix("=?UTF-8?B?").unwrap().strip_suffix("?=").unwrap();
            String::from_utf8(STANDARD.decode(text).unwrap()).unwrap()
        });
        assert_eq!(decoded.collect::<String>(), "ü".repeat(100));
    }
}
