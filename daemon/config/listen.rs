//! The tables of the interfaces that listen: `[grpc]` and `[http]`.

use std::net::SocketAddr;

use serde::Deserialize;

use super::ConfigError;
use super::rules::in_range;

/// Maximum number of connections of an interface. The systemd unit allows the daemon 65,536 open
/// files, and cameras and segments need some of them.
const CONNECTIONS: usize = 16_384;

/// The address of an interface and its maximum number of connections.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    pub addr: SocketAddr,
    /// Maximum number of open connections. Further ones are closed.
    pub connections: usize,
}

/// The table as written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenTable {
    enabled: Option<bool>,
    listen: Option<SocketAddr>,
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
    ) -> Result<Option<Listen>, ConfigError> {
        let key = format!("{name}.connections");
        let connections = in_range(&key, self.connections.unwrap_or(connections), 1..=CONNECTIONS)?;
        let addr = self.listen.unwrap_or_else(|| ([127, 0, 0, 1], port).into());
        Ok(self.enabled.unwrap_or(true).then_some(Listen { addr, connections }))
    }
}
