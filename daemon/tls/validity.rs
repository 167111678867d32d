//! Reads from a certificate when it is valid and for which names.

use std::time::{Duration, SystemTime};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// The times between which a certificate is valid, and its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Validity {
    pub from: SystemTime,
    pub until: SystemTime,
    /// The DNS names and addresses, as in `cam.example, 192.168.1.7`.
    pub names: String,
}

impl Validity {
    /// Reads a certificate in DER.
    pub fn of(certificate: &[u8]) -> Result<Validity, String> {
        let parsed = X509Certificate::from_der(certificate);
        let (_, certificate) =
            parsed.map_err(|error| format!("is not an X.509 certificate: {error}"))?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|found| found.value.general_names.iter().filter_map(name).collect());
        let validity = certificate.validity();
        Ok(Validity {
            from: time(validity.not_before),
            until: time(validity.not_after),
            names: names.map_or_else(String::new, |names: Vec<String>| names.join(", ")),
        })
    }

    /// Checks that the certificate is valid at a time.
    pub fn check(&self, now: SystemTime) -> Result<(), String> {
        if now < self.from {
            let from = shown(self.from);
            return Err(format!("is not valid before {from}; is this machine's clock right?"));
        }
        if now > self.until {
            return Err(format!("expired at {}; renew it", shown(self.until)));
        }
        Ok(())
    }
}

/// Shows a time in UTC, as in `2026-03-01T14:05:00Z`.
pub fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let length = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(length)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(length)
    };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|a| std::net::Ipv4Addr::from(a).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|a| std::net::Ipv6Addr::from(a).to_string()),
        },
        _ => None,
    }
}
