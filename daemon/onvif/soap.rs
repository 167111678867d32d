//! Calls a SOAP operation of a device, with the password as a digest: WS-UsernameToken, and HTTP
//! digest for devices that ask for it.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_auth::{PasswordClient, PasswordParams};
use hyper::StatusCode;
use quick_xml::escape::escape;
use sha1::{Digest, Sha1};

use super::http::{Content, Endpoint, OnvifError, Reply, post};
use super::plain;
use super::xml::{self, Element};
use crate::frame::shift;

/// A user of a camera. It is never printed.
#[derive(Clone)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

/// An operation of a service.
pub struct Call {
    /// Name of the operation, which is also that of the request's element.
    pub name: &'static str,
    /// Namespace of the service.
    pub namespace: &'static str,
    /// Content of the request's element, in which `t:` is the namespace of the service and `tt:`
    /// that of ONVIF's types.
    pub content: String,
}

impl Call {
    pub fn new(namespace: &'static str, name: &'static str) -> Call {
        Call { name, namespace, content: String::new() }
    }
}

/// The calls to one device: its clock, and how it wants the password.
pub struct Caller {
    credentials: Option<Credentials>,
    /// Nanoseconds by which the device's clock is ahead of this machine's.
    pub clock_ahead: i128,
    /// The answer to the device's last HTTP challenge.
    digest: Option<PasswordClient>,
}

impl Caller {
    pub fn new(credentials: Option<Credentials>) -> Caller {
        Caller { credentials, clock_ahead: 0, digest: None }
    }

    /// Calls an operation without a password.
    pub async fn call_openly(to: &Endpoint, call: &Call) -> Result<Element, OnvifError> {
        Caller::new(None).call(to, call).await
    }

    /// Calls an operation. Returns the element of the response.
    pub async fn call(&mut self, to: &Endpoint, call: &Call) -> Result<Element, OnvifError> {
        let reply = self.send(to, call).await?;
        if reply.status != StatusCode::UNAUTHORIZED {
            return self.read(to, call, reply);
        }
        if self.credentials.is_none() {
            return Err(OnvifError::CredentialsWanted);
        }
        let Some(challenge) = digest_challenge(&reply.challenges) else {
            // A challenge for another scheme, or a refusal of the token.
            let refused = reply.challenges.is_empty();
            return Err(if refused { OnvifError::WrongCredentials } else { OnvifError::NoDigest });
        };
        // An expired nonce does not mean a wrong password.
        let was_tried = self.digest.is_some() && !is_stale(&challenge);
        self.digest = Some(challenge);
        if was_tried {
            return Err(OnvifError::WrongCredentials);
        }
        let reply = self.send(to, call).await?;
        if reply.status == StatusCode::UNAUTHORIZED {
            return Err(OnvifError::WrongCredentials);
        }
        self.read(to, call, reply)
    }

    async fn send(&mut self, to: &Endpoint, call: &Call) -> Result<Reply, OnvifError> {
        let security = match (&self.credentials, &self.digest) {
            (Some(credentials), None) => {
                let created = shift(SystemTime::now(), self.clock_ahead);
                username_token(credentials, &rand::random::<[u8; 16]>(), created)
            }
            _ => String::new(),
        };
        let Call { name, namespace, content } = call;
        let message = envelope(
            &security,
            &format!(
                "<t:{name} xmlns:t=\"{namespace}\" \
                 xmlns:tt=\"http://www.onvif.org/ver10/schema\">{content}</t:{name}>"
            ),
        );
        let mut authorization = None;
        if let (Some(digest), Some(credentials)) = (&mut self.digest, &self.credentials) {
            let answer = digest.respond(&PasswordParams {
                username: &credentials.username,
                password: &credentials.password,
                uri: &to.path,
                method: "POST",
                body: Some(message.as_bytes()),
            });
            authorization = Some(answer.map_err(|_| OnvifError::NoDigest)?);
        }
        post(to, &format!("{namespace}/{name}"), message, authorization).await
    }

    fn read(&self, to: &Endpoint, call: &Call, reply: Reply) -> Result<Element, OnvifError> {
        let port = to.address.port();
        let unreadable = |why: String| OnvifError::Reply { port, why };
        let status = reply.status.as_u16();
        let text = match reply.content {
            Content::Xml(text) => text,
            Content::Other(_) if !reply.status.is_success() => {
                return Err(OnvifError::Status { port, status });
            }
            Content::Other(kind) => return Err(unreadable(format!("it is {kind}, not XML"))),
        };
        let document = match xml::parse(&text) {
            Ok(document) => document,
            Err(_) if !reply.status.is_success() => {
                return Err(OnvifError::Status { port, status });
            }
            Err(why) => return Err(unreadable(why)),
        };
        let body = document.child("Body").filter(|_| document.name == "Envelope");
        let Some(body) = body else { return Err(unreadable("it is not a SOAP message".into())) };
        if let Some(fault) = body.child("Fault") {
            return Err(self.fault(call, fault));
        }
        let wanted = format!("{}Response", call.name);
        let response = body.child(&wanted).cloned();
        response.ok_or_else(|| unreadable(format!("it has no {wanted}")))
    }

    fn fault(&self, call: &Call, fault: &Element) -> OnvifError {
        let subcode = fault.text_at(&["Code", "Subcode", "Value"]).unwrap_or_default();
        let deeper = fault.text_at(&["Code", "Subcode", "Subcode", "Value"]).unwrap_or_default();
        let refuses =
            |code: &str| code.ends_with("NotAuthorized") || code.ends_with("FailedAuthentication");
        if refuses(subcode) || refuses(deeper) {
            return match self.credentials {
                Some(_) => OnvifError::WrongCredentials,
                None => OnvifError::CredentialsWanted,
            };
        }
        let reason = fault.text_at(&["Reason", "Text"]).or(fault.text_at(&["faultstring"]));
        let why = plain(reason.unwrap_or("it gives no reason"));
        OnvifError::Fault { call: call.name, why }
    }
}

/// Returns the answer to the first digest challenge.
fn digest_challenge(challenges: &[String]) -> Option<PasswordClient> {
    let mut builder = PasswordClient::builder();
    for challenge in challenges {
        builder = builder.challenges(challenge);
    }
    // Basic, which is the password in clear, is chosen only if there is nothing better.
    builder.build().ok().filter(|client| matches!(client, PasswordClient::Digest(_)))
}

fn is_stale(challenge: &PasswordClient) -> bool {
    matches!(challenge, PasswordClient::Digest(digest) if digest.stale())
}

fn envelope(header: &str, body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\">\
         <s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// Returns the header with a user and the digest of the password (WS-Security UsernameToken 1.0).
fn username_token(credentials: &Credentials, nonce: &[u8], created: SystemTime) -> String {
    const OASIS: &str = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss";
    let created = humantime::format_rfc3339_seconds(crate::frame::clamped(created)).to_string();
    let digest = password_digest(nonce, &created, &credentials.password);
    let user = escape(credentials.username.as_str());
    let nonce = BASE64_STANDARD.encode(nonce);
    format!(
        "<w:Security s:mustUnderstand=\"1\" xmlns:w=\"{OASIS}-wssecurity-secext-1.0.xsd\" \
         xmlns:u=\"{OASIS}-wssecurity-utility-1.0.xsd\"><w:UsernameToken>\
         <w:Username>{user}</w:Username>\
         <w:Password Type=\"{OASIS}-username-token-profile-1.0#PasswordDigest\">{digest}\
         </w:Password>\
         <w:Nonce EncodingType=\"{OASIS}-soap-message-security-1.0#Base64Binary\">{nonce}</w:Nonce>\
         <u:Created>{created}</u:Created></w:UsernameToken></w:Security>"
    )
}

fn password_digest(nonce: &[u8], created: &str, password: &str) -> String {
    let hash = Sha1::new().chain_update(nonce).chain_update(created).chain_update(password);
    BASE64_STANDARD.encode(hash.finalize())
}

/// Returns how far a device's clock is ahead, in nanoseconds, from its answer to
/// GetSystemDateAndTime. `sent` and `received` are the times of the call.
pub fn clock_ahead(response: &Element, sent: SystemTime, received: SystemTime) -> Option<i128> {
    let utc = response.at(&["SystemDateAndTime", "UTCDateTime"])?;
    let number = |path: [&str; 2]| utc.text_at(&path)?.parse::<u32>().ok();
    let [year, month, day] = ["Year", "Month", "Day"].map(|name| number(["Date", name]));
    let [hour, minute, second] = ["Hour", "Minute", "Second"].map(|name| number(["Time", name]));
    // Unix has no leap seconds.
    let second = second?.min(59);
    let text =
        format!("{:04}-{:02}-{:02}T{:02}:{:02}:{second:02}Z", year?, month?, day?, hour?, minute?);
    let device = humantime::parse_rfc3339(&text).ok()?;
    let half = received.duration_since(sent).unwrap_or(Duration::ZERO) / 2;
    Some(crate::frame::difference(sent + half, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_onvif_guide() {
        // ONVIF Application Programmer's Guide 1.0, 6.1.1.3.
        let nonce = BASE64_STANDARD.decode("LKqI6G/AikKCQrN0zqZFlg==").expect("base64");
        let digest = password_digest(&nonce, "2010-09-16T07:50:45Z", "userpassword");
        assert_eq!(digest, "tuOSpGlFlIXsozq4HFNeeGeFLEI=");
    }

    #[test]
    fn a_user_is_escaped_and_the_password_is_not_sent() {
        let credentials = Credentials { username: "a<&\"b".into(), password: "Planted".into() };
        let token = username_token(&credentials, b"nonce", SystemTime::UNIX_EPOCH);
        let token = xml::parse(&token.replace("w:", "").replace("u:", "").replace("s:", ""))
            .expect("a token");
        assert_eq!(token.text_at(&["UsernameToken", "Username"]), Some("a<&\"b"));
        assert_eq!(token.text_at(&["UsernameToken", "Created"]), Some("1970-01-01T00:00:00Z"));
        assert!(!format!("{token:?}").contains("Planted"));
    }

    #[test]
    fn a_wrong_clock_is_measured_and_an_impossible_one_is_ignored() {
        let response = |year: &str, month: &str, second: &str| {
            let text = format!(
                "<R><SystemDateAndTime><UTCDateTime><Time><Hour>1</Hour><Minute>2</Minute>\
                 <Second>{second}</Second></Time><Date><Year>{year}</Year><Month>{month}</Month>\
                 <Day>3</Day></Date></UTCDateTime></SystemDateAndTime></R>"
            );
            xml::parse(&text).expect("a response")
        };
        let now = humantime::parse_rfc3339("2026-03-03T01:02:10Z").expect("a time");
        let later = now + Duration::from_secs(2);
        let ahead = |response| clock_ahead(&response, now, later);
        assert_eq!(ahead(response("2026", "3", "31")), Some(20_000_000_000));
        assert_eq!(ahead(response("2026", "3", "1")), Some(-10_000_000_000));
        let long_ago = ahead(response("2000", "1", "0")).expect("a time");
        assert!(long_ago < -800_000_000_000_000_000, "{long_ago}");
        for wrong in
            [response("2026", "13", "0"), response("x", "1", "0"), response("-1", "1", "0")]
        {
            assert_eq!(ahead(wrong), None);
        }
    }
}
