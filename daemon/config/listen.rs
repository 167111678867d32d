//! The tables of the interfaces that listen: `[grpc]` and `[http]`.
//!
//! Guarantees: an interface that other machines can reach uses TLS and access control, unless its
//! table says `insecure = true`.

use std::net::SocketAddr;

use serde::Deserialize;

use super::ConfigError;
use super::rules::{in_range, invalid};
use crate::interface::Interface;

/// Maximum number of connections of an interface. The systemd unit allows the daemon 65,536 open
/// files, and cameras and segments need some of them.
const CONNECTIONS: usize = 16_384;

/// The address of an interface and its maximum number of connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listen {
    pub addr: SocketAddr,
    /// Maximum number of open connections. Further ones are closed.
    pub connections: usize,
    /// True if connections use TLS, with the certificate of the config.
    pub tls: bool,
    /// The protection that the interface lacks although other machines can reach it, if the config
    /// allows that.
    pub lacks: Option<&'static str>,
}

impl Listen {
    /// Describes the protection that the interface lacks, if other machines can reach it.
    pub fn insecurity(&self, interface: Interface) -> Option<String> {
        let Listen { addr, lacks, .. } = self;
        let key = interface.name();
        let lacking = (*lacks)?;
        Some(format!(
            "{interface}: other machines can reach {addr} without {lacking} ({key}.insecure = true)"
        ))
    }
}

/// The protections against other machines that the config has for the interfaces.
#[derive(Clone, Copy, Debug)]
pub struct Guards {
    /// True if there is a certificate.
    pub tls: bool,
    /// True if there is access control.
    pub access: bool,
}

/// The table as written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenTable {
    enabled: Option<bool>,
    listen: Option<SocketAddr>,
    tls: Option<bool>,
    insecure: bool,
    connections: Option<usize>,
}

impl ListenTable {
    /// Returns the checked table `name`, or `None` if the interface is disabled. The port and the
    /// connections are its defaults.
    pub fn check(
        self,
        name: &str,
        port: u16,
        connections: usize,
        guards: Guards,
    ) -> Result<Option<Listen>, ConfigError> {
        let key = format!("{name}.connections");
        let connections = in_range(&key, self.connections.unwrap_or(connections), 1..=CONNECTIONS)?;
        let addr = self.listen.unwrap_or_else(|| ([127, 0, 0, 1], port).into());
        if !self.enabled.unwrap_or(true) {
            return Ok(None);
        }
        let tls = self.tls.unwrap_or(guards.tls);
        if tls && !guards.tls {
            return Err(ConfigError(format!("{name}.tls needs tls.cert_file and tls.key_file")));
        }
        let is_local = addr.ip().to_canonical().is_loopback();
        let lacks = if is_local { None } else { Guards { tls, ..guards }.missing() };
        if let (Some(lacking), false) = (lacks, self.insecure) {
            let wanted = format!(
                "{lacking}, because other machines can reach this address; or listen on \
                 127.0.0.1, or allow it by {name}.insecure = true"
            );
            return Err(invalid(&format!("{name}.listen"), format!("\"{addr}\""), wanted));
        }
        Ok(Some(Listen { addr, connections, tls, lacks }))
    }
}

impl Guards {
    /// Returns the protection that is missing.
    fn missing(self) -> Option<&'static str> {
        match self {
            Guards { tls: true, access: true } => None,
            Guards { tls: false, access: true } => Some("TLS ([tls])"),
            Guards { tls: true, access: false } => Some("access control (access.enabled = true)"),
            Guards { tls: false, access: false } => {
                Some("TLS ([tls]) and access control (access.enabled = true)")
            }
        }
    }
}
