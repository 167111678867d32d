//! Describes the errors of TLS connections in a sentence with a fix.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// Alerts of a server about the client's certificate. They arrive after the client's handshake.
const ALERTS: [AlertDescription; 6] = [
    AlertDescription::CertificateRequired,
    AlertDescription::UnknownCA,
    AlertDescription::BadCertificate,
    AlertDescription::DecryptError,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateUnknown,
];

/// Describes the TLS error in a chain of errors, if there is one. The subject of the sentence is the
/// other side, as in "MQTT broker cam.example:8883: …".
pub fn explained(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = tls_error(error) {
            return Some(sentence(found));
        }
        cause = error.source();
    }
    in_words(&innermost(error).to_string())
}

/// Finds a TLS error in the text of an error. The HTTP/2 library keeps only the text.
fn in_words(text: &str) -> Option<String> {
    let mut errors = ALERTS.into_iter().map(rustls::Error::AlertReceived);
    errors.find(|error| text.contains(&error.to_string())).map(|error| sentence(&error))
}

/// Returns the error at the end of a chain.
pub fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}

/// Returns the TLS error that an error is, or that an input/output error contains.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inner = inner.map(|inner| inner as &(dyn Error + 'static));
    inner.and_then(tls_error).or_else(|| error.downcast_ref())
}

fn sentence(error: &rustls::Error) -> String {
    use CertificateError as Wrong;
    match error {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            // A bad signature is one by another authority of the same name.
            Wrong::UnknownIssuer | Wrong::BadSignature => {
                "its certificate is not signed by a known authority; name the \
                                     authority's PEM file (--ca, ca_file)"
                    .into()
            }
            Wrong::Expired | Wrong::ExpiredContext { .. } => {
                format!("its certificate has expired: {wrong}; renew it there")
            }
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => {
                format!("its certificate is not valid yet: {wrong}; are both clocks right?")
            }
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                format!("its certificate has another name: {wrong}; use a name of the certificate")
            }
            // The certificate checker's own error, whose type is not public here.
            wrong if format!("{wrong:?}").contains("CaUsedAsEndEntity") => {
                "its certificate is that of an authority; let the authority sign one for the \
                 server (docs/security.md)"
                    .into()
            }
            wrong => format!("its certificate is not valid: {wrong}"),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not use TLS on this port; use http:// instead of https://".into()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it requires a client certificate (--cert and --key, client_cert_file)".into()
        }
        rustls::Error::AlertReceived(alert) if ALERTS.contains(alert) => {
            format!("it does not accept the client certificate: {alert:?}")
        }
        error => format!("TLS: {error}"),
    }
}
