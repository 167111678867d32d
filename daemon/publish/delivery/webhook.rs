//! Makes the requests of a webhook: a POST of the alert's JSON or of a rendered template, with
//! headers that identify the event and prove the sender.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use hyper::Request;
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use serde::Serialize;
use sha2::Sha256;
use url::Url;

use super::http::HttpRequest;
use super::picture::Picture;
use super::sample;
use super::template::Template;
use super::{AGENT, Secrets};
use crate::config;
use crate::event::{Alert, Event, FrameReference};

pub struct Webhook {
    config: config::Webhook,
    template: Option<Template>,
}

/// The body: the event, and with `picture = "inline"` the picture.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(flatten)]
    event: &'a Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<InlinePicture<'a>>,
}

#[derive(Serialize)]
struct InlinePicture<'a> {
    content_type: &'static str,
    frame: &'a FrameReference,
    base64: String,
}

impl Webhook {
    /// Compiles the template, and renders a sample alert with and without a picture.
    pub fn new(config: config::Webhook) -> Result<Webhook, String> {
        let template = config.template.as_deref().map(Template::new).transpose();
        let webhook =
            Webhook { template: template.map_err(|why| format!("template: {why}"))?, config };
        webhook.body(&sample::event(), Some(&sample::picture()))?;
        let without = webhook.body(&sample::event(), None);
        without.map_err(|why| format!("{why} (for an alert without a picture)"))?;
        Ok(webhook)
    }

    pub fn wants_picture(&self) -> bool {
        self.config.picture == config::Picture::Inline
    }

    /// Makes the request. An error is that of the template.
    pub fn request(
        &self,
        url: &Url,
        (event, alert): (&Event, &Alert),
        picture: Option<&Picture>,
        secrets: &Secrets,
    ) -> Result<HttpRequest, String> {
        let body = self.body(event, picture)?;
        let mut request = Request::post(url.as_str())
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, &self.config.content_type)
            .header("Idempotency-Key", event.uuid.to_string())
            .header("X-Lookout-Event", format!("{}-{}", event.id.run, event.id.sequence))
            .header("X-Lookout-Alert", &*alert.alert_id)
            .header("X-Lookout-Phase", alert.phase.name());
        for (name, value) in &secrets.headers {
            request = request.header(name, value);
        }
        if let Some(key) = &secrets.signature_key {
            request = request.header("X-Lookout-Signature", signature(key, now(), &body));
        }
        request.body(body.into()).map_err(|error| error.to_string())
    }

    fn body(&self, event: &Event, picture: Option<&Picture>) -> Result<Vec<u8>, String> {
        let picture = picture.filter(|_| self.wants_picture()).map(|picture| InlinePicture {
            content_type: "image/jpeg",
            frame: &picture.frame,
            base64: STANDARD.encode(&picture.jpeg),
        });
        let payload = Payload { event, picture };
        let Some(template) = &self.template else {
            return serde_json::to_vec(&payload).map_err(|error| error.to_string());
        };
        let body = template.render(&payload).map_err(|why| format!("template: {why}"))?;
        if self.config.content_type.starts_with("application/json") {
            serde_json::from_str::<serde::de::IgnoredAny>(&body).map_err(|error| {
                format!(
                    "template: its result is not JSON ({error}); write {{{{ name | tojson }}}} \
                     without quotes around it, or change content_type"
                )
            })?;
        }
        Ok(body.into_bytes())
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Returns `t=SECONDS,v1=HEX`, where HEX is the HMAC-SHA256 of `SECONDS.BODY`.
fn signature(key: &[u8], time: Duration, body: &[u8]) -> String {
    let seconds = time.as_secs().to_string();
    // HMAC accepts keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(seconds.as_bytes());
    mac.update(b".");
    mac.update(body);
    let hex: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(template: Option<&str>, content_type: &str) -> Result<Webhook, String> {
        Webhook::new(config::Webhook {
            template: template.map(str::to_owned),
            content_type: content_type.into(),
            headers: Vec::new(),
            signature_key: None,
            picture: config::Picture::None,
        })
    }

    #[test]
    fn a_signature_is_that_of_the_documented_example() {
        // printf '1760000000.{}' | openssl dgst -sha256 -hmac sesame
        assert_eq!(
            signature(b"sesame", Duration::from_secs(1_760_000_000), b"{}"),
            "t=1760000000,v1=1e55cee87d23fa7f1c6fdeb0a1cda3cd3bcccbac90eebfaa6673af0f1d95cf36"
        );
    }

    #[test]
    fn a_template_that_does_not_make_json_is_refused_at_start() {
        assert!(webhook(Some(r#"{"text": {{ question | tojson }}}"#), "application/json").is_ok());
        // The sample's question has quotes, so that a missing `tojson` is noticed.
        let unquoted = Some(r#"{"text": "{{ question }}"}"#);
        let error = webhook(unquoted, "application/json").err().unwrap();
        assert!(error.contains("{{ name | tojson }}"), "{error}");
        assert!(webhook(unquoted, "text/plain").is_ok());
        let error = webhook(Some("{{ rule.name.first }}"), "text/plain").err().unwrap();
        assert!(error.starts_with("template: line 1: "), "{error}");
    }

    #[test]
    fn a_template_that_needs_the_picture_is_refused_at_start() {
        let inline = |template: &str| {
            Webhook::new(config::Webhook {
                template: Some(template.into()),
                content_type: "text/plain".into(),
                headers: Vec::new(),
                signature_key: None,
                picture: config::Picture::Inline,
            })
        };
        assert!(inline("{% if picture %}{{ picture.base64 }}{% endif %}").is_ok());
        let error = inline("{{ picture.base64 }}").err().unwrap();
        assert!(error.ends_with("(for an alert without a picture)"), "{error}");
    }

    #[test]
    fn the_body_without_a_template_is_the_json_of_mqtt() {
        let event = sample::event();
        let body = webhook(None, "application/json").unwrap().body(&event, None).unwrap();
        assert_eq!(body, serde_json::to_vec(&event).unwrap());
    }
}
